//! Ids, shards and branches.

use std::{fmt, str::FromStr, sync::Arc};

use uuid::Uuid;

/// Greatest length of an id, in bytes.
pub const ID_LEN_MAX: usize = 128;

/// Why a text is not an id. A retry does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// Longer than [`ID_LEN_MAX`].
    #[error("must be at most {ID_LEN_MAX} bytes")]
    TooLong,
    /// Contains a character that this kind of id does not allow, such as a control character or
    /// '/'.
    #[error("must not contain control characters or '/'")]
    BadCharacter,
    /// Not 16 bytes, or not the text of a UUID.
    #[error("must be a UUID")]
    NotAUuid,
}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > ID_LEN_MAX {
        return Err(IdError::TooLong);
    }
    if text.chars().any(|character| character.is_control() || character == '/') {
        return Err(IdError::BadCharacter);
    }
    Ok(())
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Makes an id of 1 to 128 bytes without control characters or '/'.
            ///
            /// # Errors
            /// [`IdError`]; a retry does not help.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
                let text = text.as_ref();
                check(text)?;
                Ok(Self(Arc::from(text)))
            }

            /// The id of record `number` of a batch_init.
            #[must_use]
            pub fn numbered(number: u64) -> Self {
                Self(Arc::from(number.to_string()))
            }

            /// The id of the record that this request creates. The same request always yields the
            /// same id.
            #[must_use]
            pub fn derived(request: &RequestId) -> Self {
                let name = format!("{}:{}", stringify!($name), request.as_str());
                Self::from(Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()))
            }
        }

        impl From<Uuid> for $name {
            fn from(uuid: Uuid) -> Self {
                Self(Arc::from(uuid.to_string()))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

text_id! {
    /// Names an item.
    ItemId
}
text_id! {
    /// Names a user.
    UserId
}
text_id! {
    /// Names an order.
    OrderId
}

/// The id that makes a call take effect once: the client's Idempotency-Key, or an id minted by the
/// bridge. 1 to 128 bytes without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// Prefix of ids that were minted for one call. Only attempts of that call carry such an id, so
    /// a refusal under it is final, and is remembered only until the call is over.
    pub const MINTED_PREFIX: &str = "~";

    /// Makes an id of 1 to 128 bytes without control characters.
    ///
    /// # Errors
    /// [`IdError`]; a retry does not help.
    pub fn new(text: impl AsRef<str>) -> Result<Self, IdError> {
        let text = text.as_ref();
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > ID_LEN_MAX {
            return Err(IdError::TooLong);
        }
        if text.chars().any(char::is_control) {
            return Err(IdError::BadCharacter);
        }
        Ok(Self(Arc::from(text)))
    }

    /// Makes an id that no client chose.
    #[must_use]
    pub fn minted(uuid: Uuid) -> Self {
        Self(Arc::from(format!("{}{}", Self::MINTED_PREFIX, uuid.simple())))
    }

    /// The UUID that [`RequestId::minted`] made this id from; none for any other id.
    pub fn uuid(&self) -> Option<Uuid> {
        let hex = self.0.strip_prefix(Self::MINTED_PREFIX).filter(|hex| hex.len() == 32)?;
        let uuid = Uuid::try_parse(hex).ok()?;
        (Self::minted(uuid) == *self).then_some(uuid)
    }

    /// True for an id from [`RequestId::minted`].
    pub fn is_minted(&self) -> bool {
        self.0.starts_with(Self::MINTED_PREFIX)
    }

    /// The id of a part of this call. Each part takes effect once. A part of a minted id is minted,
    /// too.
    #[must_use]
    pub fn part(&self, part: &str) -> Self {
        let name = format!("{}#{part}", self.0);
        let uuid = Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes());
        if self.is_minted() {
            Self::minted(uuid)
        } else {
            Self(Arc::from(uuid.simple().to_string()))
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one attempt of a transaction; never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub [u8; 16]);

impl TxId {
    /// Makes an id of exactly 16 bytes.
    ///
    /// # Errors
    /// [`IdError::NotAUuid`]; a retry does not help.
    pub fn from_slice(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError::NotAUuid)
    }
}

impl From<Uuid> for TxId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid.into_bytes())
    }
}

impl FromStr for TxId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Uuid::parse_str(text).map(Self::from).map_err(|_| IdError::NotAUuid)
    }
}

impl fmt::Display for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).fmt(f)
    }
}

impl fmt::Debug for TxId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Maximum number of shards of a service.
pub const SHARDS_MAX: u16 = 4_096;

/// Number of a shard within its service. An existing shard's number is below [`SHARDS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardId(pub u16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Longest name of a service, in bytes.
const SERVICE_BYTES_MAX: usize = 32;

/// Name of a participating service, 1 to 32 bytes of [a-z0-9-]. Stored inline, because every
/// message of a transaction names all of its branches, and none should cost an allocation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Service {
    /// The name, padded with zeros. No name contains a zero, so these bytes sort as the names do.
    bytes: [u8; SERVICE_BYTES_MAX],
    len: u8,
}

impl Service {
    /// Makes a name of 1 to 32 bytes of [a-z0-9-].
    ///
    /// # Errors
    /// [`IdError`]; a retry does not help.
    pub fn new(name: &str) -> Result<Self, IdError> {
        if name.is_empty() {
            return Err(IdError::Empty);
        }
        let mut bytes = [0; SERVICE_BYTES_MAX];
        let (Some(place), Ok(len)) = (bytes.get_mut(..name.len()), u8::try_from(name.len())) else {
            return Err(IdError::TooLong);
        };
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if !name.bytes().all(fits) {
            return Err(IdError::BadCharacter);
        }
        place.copy_from_slice(name.as_bytes());
        Ok(Self { bytes, len })
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let name = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        // Never falls back to the empty default: `new` accepts only ASCII.
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One participant of a transaction.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Branch {
    /// The service.
    pub service: Service,
    /// The slice of the service's keys.
    pub shard: ShardId,
}

impl fmt::Display for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.shard)
    }
}

impl fmt::Debug for Branch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Decides which transaction goes first: the smaller priority is older. Retries keep it; otherwise
/// no two are equal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Priority {
    /// When the first attempt began: a timestamp of the KV store.
    pub begin_ts: u64,
    /// Breaks ties between equal timestamps.
    pub nonce: u64,
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo). Must never change, because hashes are stored.
pub fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The shard of a key: [`fnv1a`] with a final mix (from MurmurHash3), modulo the number of shards.
/// Must never change, because it decides where stored data lies.
///
/// `shards` of 0 counts as 1.
pub fn shard_of(id: &str, shards: u16) -> ShardId {
    let mut hash = fnv1a(id.as_bytes());
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    let slot = hash.checked_rem(u64::from(shards)).unwrap_or(0);
    ShardId(u16::try_from(slot).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_reject_what_a_path_cannot_carry() {
        assert_eq!(ItemId::new(""), Err(IdError::Empty));
        assert_eq!(ItemId::new("a/b"), Err(IdError::BadCharacter));
        assert_eq!(ItemId::new("a\u{7}"), Err(IdError::BadCharacter));
        assert_eq!(ItemId::new("x".repeat(129)), Err(IdError::TooLong));
        assert!(ItemId::new("x".repeat(128)).is_ok());
    }

    #[test]
    fn a_request_id_has_1_to_128_bytes_without_control_characters() {
        assert_eq!(RequestId::new(""), Err(IdError::Empty));
        assert_eq!(RequestId::new("x".repeat(129)), Err(IdError::TooLong));
        assert_eq!(RequestId::new("a\u{7}"), Err(IdError::BadCharacter));
        for text in ["x".repeat(128), "a/b".to_owned(), "\u{e9}".to_owned()] {
            assert_eq!(RequestId::new(&text).unwrap().as_str(), text);
        }
    }

    #[test]
    fn only_an_id_that_was_minted_has_a_uuid() {
        let uuid = Uuid::from_u128(0xabc);
        let minted = RequestId::minted(uuid);
        assert_eq!(minted.uuid(), Some(uuid));
        // Each of these would be another id if it were made from its UUID again.
        for other in [
            minted.as_str().to_uppercase(),
            format!("~{uuid}"),
            format!("~{{{uuid}}}"),
            minted.as_str().replace('~', ""),
            "~".to_owned(),
        ] {
            assert_eq!(RequestId::new(&other).unwrap().uuid(), None, "{other}");
        }
    }

    #[test]
    fn a_service_has_a_short_plain_name() {
        let longest = "s".repeat(32);
        for name in ["order", "a-1", longest.as_str()] {
            assert_eq!(Service::new(name).unwrap().as_str(), name);
        }
        assert_eq!(Service::new(""), Err(IdError::Empty));
        assert_eq!(Service::new(&"s".repeat(33)), Err(IdError::TooLong));
        for name in ["Order", "a_b", "a/b", "a b", "a\0", "\u{e9}"] {
            assert_eq!(Service::new(name), Err(IdError::BadCharacter), "{name:?}");
        }
    }

    #[test]
    fn the_same_request_makes_the_same_id_of_each_kind() {
        let request = RequestId::new("key").unwrap();
        assert_eq!(ItemId::derived(&request), ItemId::derived(&request));
        assert_ne!(ItemId::derived(&request).as_str(), UserId::derived(&request).as_str());
    }

    #[test]
    fn each_part_of_a_call_has_an_id_of_its_own() {
        let ids = [RequestId::new("key"), RequestId::new("other")].map(Result::unwrap);
        let ids = ids.into_iter().chain([RequestId::minted(Uuid::from_u128(1))]);
        let mut seen = std::collections::BTreeSet::new();
        for id in ids {
            for part in ["0/0", "0/64", "1/0", "1/64"] {
                let part_id = id.part(part);
                assert_eq!(part_id, id.part(part), "the same for every attempt");
                assert_eq!(part_id.is_minted(), id.is_minted());
                assert!(seen.insert(part_id.as_str().to_owned()), "{part} of {id}");
            }
            assert!(seen.insert(id.as_str().to_owned()));
        }
    }

    #[test]
    fn shards_of_stored_keys_never_move() {
        let shards: Vec<u16> = ["0", "1", "2", "abc", ""].map(|id| shard_of(id, 16).0).to_vec();
        assert_eq!(shards, GOLDEN_SHARDS, "data lies by this function");
    }

    #[test]
    fn numbered_ids_spread_evenly() {
        let mut counts = [0_u32; 16];
        for number in 0..100_000_u64 {
            counts[usize::from(shard_of(ItemId::numbered(number).as_str(), 16).0)] += 1;
        }
        assert!(counts.iter().all(|count| (5_900..6_600).contains(count)), "{counts:?}");
    }

    const GOLDEN_SHARDS: [u16; 5] = [12, 8, 1, 11, 2];
}
