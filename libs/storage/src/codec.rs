//! What a value looks like: one format byte, then a prost message of `till.storage.v1`.
//!
//! The byte says which releases may read the value. A release that does not know the byte refuses the value
//! as corrupt instead of guessing, and that is how a shard keeps older releases out: see [`FORMAT_2`].

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use prost::Message;

use crate::kv::{KvError, Value};

/// Format 1: any release may read it.
pub const FORMAT_1: u8 = 1;

/// Format 2: releases up to 0.1 may not. Heads have it, as those releases tell changes of one record apart by
/// start timestamps alone, and must not write a shard whose records have [stamps](types::Stamp).
pub const FORMAT_2: u8 = 2;

/// Encodes a stored message in format 1.
pub fn encode(message: &impl Message) -> Value {
    encode_as(FORMAT_1, message)
}

/// Encodes a stored message in this format.
pub fn encode_as(format: u8, message: &impl Message) -> Value {
    let mut value = Value::with_capacity(1 + message.encoded_len());
    value.push(format);
    message.encode(&mut value).expect("a Vec has room for any message");
    value
}

/// Decodes a stored message of format 1.
///
/// # Errors
/// [`KvError::Corrupt`] for an unknown format or damaged bytes; a retry does not help.
pub fn decode<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<M, KvError> {
    decode_any(key, value, FORMAT_1).map(|(_, message)| message)
}

/// Decodes a stored message of a format up to `newest`. Returns its format, too.
///
/// # Errors
/// As [`decode`].
pub fn decode_any<M: Message + Default>(
    key: &[u8],
    value: &[u8],
    newest: u8,
) -> Result<(u8, M), KvError> {
    let corrupt = |problem: String| KvError::Corrupt { key: hex(key), problem };
    match value.split_first() {
        Some((format, body)) if (FORMAT_1..=newest).contains(format) => match M::decode(body) {
            Ok(message) => Ok((*format, message)),
            Err(error) => Err(corrupt(error.to_string())),
        },
        Some((format, _)) => Err(corrupt(format!("unknown format {format}"))),
        None => Err(corrupt("empty value".to_owned())),
    }
}

/// Lower-case hex, for messages about keys.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}
