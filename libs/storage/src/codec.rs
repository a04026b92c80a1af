//! What a value looks like: one format byte, then a prost message.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;

use prost::Message;

use crate::kv::{KvError, Value};

/// Format 1: a `till.storage.v1` message follows.
pub const FORMAT_1: u8 = 1;

/// Encodes a stored message.
pub fn encode(message: &impl Message) -> Value {
    let mut value = Value::with_capacity(1 + message.encoded_len());
    value.push(FORMAT_1);
    message.encode(&mut value).expect("a Vec has room for any message");
    value
}

/// Decodes a stored message.
///
/// # Errors
/// [`KvError::Corrupt`] for an unknown format or damaged bytes; a retry does not help.
pub fn decode<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<M, KvError> {
    let corrupt = |problem: String| KvError::Corrupt { key: hex(key), problem };
    match value.split_first() {
        Some((&FORMAT_1, body)) => M::decode(body).map_err(|error| corrupt(error.to_string())),
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
