//! Names of keyspaces and their ids. An id is a prefix of keys on disk, so a name keeps its id.

use crate::store::codec::{put_bytes, take_bytes};
use bytes::{Buf as _, Bytes};

/// The keyspace that always exists, with PD's id for it.
const DEFAULT: (&str, u32) = ("DEFAULT", 0);

/// Ids have three bytes on the wire. PD reserves the largest.
const ID_MAX: u32 = (1 << 24) - 2;

/// Keys at which PD cuts regions for a keyspace: around its raw and its transactional keys, so that
/// it shares no region with another keyspace.
pub(crate) fn boundaries(id: u32) -> Vec<Bytes> {
    let prefixed = |mode: u8, id: u32| {
        let [_, high, middle, low] = id.to_be_bytes();
        Bytes::copy_from_slice(&[mode, high, middle, low])
    };
    [b'r', b'x'].into_iter().flat_map(|mode| [prefixed(mode, id), prefixed(mode, id + 1)]).collect()
}

/// All keyspaces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Keyspaces {
    /// In the order of creation; ids count from one.
    names: Vec<String>,
}

impl Keyspaces {
    /// The keyspace's id; none if there is no such name.
    pub(crate) fn id(&self, name: &str) -> Option<u32> {
        if name == DEFAULT.0 {
            return Some(DEFAULT.1);
        }
        let place = self.names.iter().position(|known| known == name)?;
        u32::try_from(place + 1).ok()
    }

    /// Creates a keyspace; false if it exists already, or no id is left.
    pub(crate) fn add(&mut self, name: &str) -> bool {
        let room = u32::try_from(self.names.len()).is_ok_and(|count| count < ID_MAX);
        if !room || self.id(name).is_some() {
            return false;
        }
        self.names.push(name.to_owned());
        true
    }

    /// Encodes the names as one row.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for name in &self.names {
            put_bytes(&mut out, name.as_bytes());
        }
        out
    }

    /// Decodes a row; none when it is malformed.
    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let mut rest = Bytes::copy_from_slice(row);
        let mut names = Vec::new();
        while rest.has_remaining() {
            let name = take_bytes(&mut rest)?;
            names.push(String::from_utf8(name.to_vec()).ok()?);
        }
        Some(Self { names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_keeps_its_id() {
        let mut keyspaces = Keyspaces::default();
        assert!(keyspaces.add("one"));
        assert!(keyspaces.add("two"));
        assert!(!keyspaces.add("one"));
        assert!(!keyspaces.add("DEFAULT"));
        let again = Keyspaces::decode(&keyspaces.encode()).unwrap();
        assert_eq!(again.id("one"), Some(1));
        assert_eq!(again.id("two"), Some(2));
        assert_eq!(again.id("DEFAULT"), Some(0));
        assert_eq!(again.id("three"), None);
    }
}
