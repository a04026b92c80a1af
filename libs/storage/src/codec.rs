//! The form of a stored value: one format byte, then a prost message of `till.storage.v1`,
//! compressed in format 4.
//!
//! The byte says which releases may read the value. A release that does not know the byte refuses
//! the value as corrupt instead of guessing. A shard keeps older releases out this way: see
//! [`FORMAT_3`].

#[cfg(test)]
mod tests;

use std::fmt::{Display, Write as _};

use prost::Message;

use crate::kv::{KvError, Value};

/// Format 1: any release may read it.
pub const FORMAT_1: u8 = 1;

/// Format 2: releases up to 0.1 may not read it. Heads used it before format 3. Releases up to 0.1
/// distinguish changes of a record only by start timestamps, so they must not write a shard whose
/// records have [stamps](types::Stamp).
pub const FORMAT_2: u8 = 2;

/// Format 3: only releases that treat the journal as the state may read it. Heads use it. Earlier
/// releases treat the records as the state, so they must neither read nor write a shard whose
/// records lag behind.
pub const FORMAT_3: u8 = 3;

/// Format 4: format 1, compressed as an LZ4 block after its length. Journal entries use it if it is
/// shorter.
pub const FORMAT_4: u8 = 4;

/// Values of fewer bytes are not compressed.
const PACK_MIN: usize = 512;
/// A value that unpacks to more bytes is damaged, because no stored value is that long.
const UNPACKED_MAX: usize = 64 << 20;

/// Encodes a stored message in format 4, or in format 1 if that is not longer.
pub fn encode_packed(message: &impl Message) -> Value {
    let plain = encode(message);
    if plain.len() < PACK_MIN {
        return plain;
    }
    let mut packed = vec![FORMAT_4];
    packed.extend(lz4_flex::compress_prepend_size(plain.get(1..).unwrap_or_default()));
    if packed.len() < plain.len() { packed } else { plain }
}

/// Decodes a stored message of format 1 or 4.
///
/// # Errors
/// [`KvError::Corrupt`] for an unknown format or damaged bytes; a retry does not help.
pub fn decode_packed<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<M, KvError> {
    let Some((&FORMAT_4, packed)) = value.split_first() else { return decode(key, value) };
    let (length, block) =
        lz4_flex::block::uncompressed_size(packed).map_err(|error| corrupt(key, &error))?;
    if length > UNPACKED_MAX {
        return Err(corrupt(key, &format!("{length} bytes once unpacked")));
    }
    let plain = lz4_flex::decompress(block, length).map_err(|error| corrupt(key, &error))?;
    M::decode(bytes::Bytes::from(plain)).map_err(|error| corrupt(key, &error))
}

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

/// Decodes a stored message of a format up to `newest`. Returns the format as well.
///
/// # Errors
/// As [`decode`].
pub fn decode_any<M: Message + Default>(
    key: &[u8],
    value: &[u8],
    newest: u8,
) -> Result<(u8, M), KvError> {
    match value.split_first() {
        Some((format, body)) if (FORMAT_1..=newest).contains(format) => match M::decode(body) {
            Ok(message) => Ok((*format, message)),
            Err(error) => Err(corrupt(key, &error)),
        },
        Some((format, _)) => Err(corrupt(key, &format!("unknown format {format}"))),
        None => Err(corrupt(key, &"empty value")),
    }
}

/// The error for a stored value that does not decode.
pub fn corrupt(key: &[u8], problem: &dyn Display) -> KvError {
    KvError::Corrupt { key: hex(key), problem: problem.to_string() }
}

/// Lower-case hex, for messages about keys.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}
