//! The regions: which keys belong to which, their epochs, and splits. The table is pure;
//! [`crate::cluster`] keeps it on disk.
//!
//! Boundaries are memcomparable keys, as PD returns them. A transactional key belongs to the region
//! in which its memcomparable form lies. Comparing the plain key with the decoded boundary gives
//! the same order. A raw key of a client without a keyspace is compared with the encoded boundary
//! as it is.

use crate::store::codec::{encode_key, put_bytes, take_bytes};
use crate::wire::{errorpb, kvrpcpb, metapb};
use bytes::{Buf as _, Bytes};
use std::sync::{Arc, PoisonError, RwLock};

/// The only store's id.
pub(crate) const STORE_ID: u64 = 1;

/// One region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Region {
    /// Its id, never reused.
    pub(crate) id: u64,
    /// Version of its epoch; grows with each split.
    pub(crate) version: u64,
    /// First key, decoded.
    pub(crate) start: Bytes,
    /// The first key after the region, decoded; none means no end.
    pub(crate) end: Option<Bytes>,
    encoded_start: Bytes,
    encoded_end: Bytes,
}

impl Region {
    fn new(id: u64, version: u64, start: Bytes, end: Option<Bytes>) -> Self {
        let encode = |key: &[u8]| {
            let mut out = Vec::new();
            encode_key(key, &mut out);
            Bytes::from(out)
        };
        Self {
            id,
            version,
            encoded_start: if start.is_empty() { Bytes::new() } else { encode(&start) },
            encoded_end: end.as_deref().map(encode).unwrap_or_default(),
            start,
            end,
        }
    }

    /// Its only replica.
    pub(crate) fn peer(&self) -> metapb::Peer {
        metapb::Peer { id: self.id, store_id: STORE_ID }
    }

    /// The region as PD describes it.
    pub(crate) fn to_wire(&self) -> metapb::Region {
        metapb::Region {
            id: self.id,
            start_key: self.encoded_start.clone(),
            end_key: self.encoded_end.clone(),
            region_epoch: Some(metapb::RegionEpoch { conf_ver: 1, version: self.version }),
            peers: vec![self.peer()],
        }
    }

    fn contains(&self, key: &[u8], keys: Keys) -> bool {
        match keys {
            Keys::Plain => {
                key >= self.start.as_ref() && self.end.as_ref().is_none_or(|end| key < end.as_ref())
            }
            Keys::AsGiven => {
                key >= self.encoded_start.as_ref()
                    && (self.encoded_end.is_empty() || key < self.encoded_end.as_ref())
            }
        }
    }

    /// Cuts a range down to the region. An empty end means no end.
    pub(crate) fn clip(&self, start: Bytes, end: Bytes, keys: Keys) -> (Bytes, Bytes) {
        let (first, last) = match keys {
            Keys::Plain => (&self.start, self.end.clone().unwrap_or_default()),
            Keys::AsGiven => (&self.encoded_start, self.encoded_end.clone()),
        };
        let end = match (end.is_empty(), last.is_empty()) {
            (true, _) => last,
            (false, true) => end,
            (false, false) => end.min(last),
        };
        (start.max(first.clone()), end)
    }
}

/// How a request's keys compare with the boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keys {
    /// By their memcomparable form.
    Plain,
    /// Byte by byte with the encoded boundary.
    AsGiven,
}

/// All regions, in key order and without gaps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    regions: Vec<Region>,
    next_id: u64,
}

impl Table {
    /// One region for all keys.
    pub(crate) fn new() -> Self {
        Self { regions: vec![Region::new(2, 1, Bytes::new(), None)], next_id: 3 }
    }

    /// All regions, in key order.
    pub(crate) fn all(&self) -> &[Region] {
        &self.regions
    }

    /// The region with this id.
    pub(crate) fn by_id(&self, id: u64) -> Option<&Region> {
        self.regions.iter().find(|region| region.id == id)
    }

    /// The region that contains this key, encoded as PD's clients send it.
    pub(crate) fn by_pd_key(&self, key: &[u8]) -> Option<&Region> {
        let after = self.regions.partition_point(|region| region.encoded_start.as_ref() <= key);
        self.regions.get(after.checked_sub(1)?)
    }

    /// Splits at a plain key; false when a region starts there already.
    pub(crate) fn split(&mut self, key: &Bytes) -> bool {
        let Some(place) = self.regions.iter().position(|region| region.contains(key, Keys::Plain))
        else {
            return false;
        };
        let Some(old) = self.regions.get(place).filter(|old| old.start != *key) else {
            return false;
        };
        let version = old.version + 1;
        let left = Region::new(old.id, version, old.start.clone(), Some(key.clone()));
        let right = Region::new(self.next_id, version, key.clone(), old.end.clone());
        self.next_id += 1;
        self.regions.splice(place..=place, [left, right]);
        true
    }

    /// Encodes the table as one row.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.next_id.to_be_bytes().to_vec();
        for region in &self.regions {
            out.extend_from_slice(&region.id.to_be_bytes());
            out.extend_from_slice(&region.version.to_be_bytes());
            put_bytes(&mut out, &region.start);
        }
        out
    }

    /// Decodes a row; none when it is malformed.
    pub(crate) fn decode(row: &[u8]) -> Option<Self> {
        let mut rest = Bytes::copy_from_slice(row);
        let number = |rest: &mut Bytes| (rest.remaining() >= 8).then(|| rest.get_u64());
        let next_id = number(&mut rest)?;
        let mut parts = Vec::new();
        while rest.has_remaining() {
            let id = number(&mut rest)?;
            let version = number(&mut rest)?;
            parts.push((id, version, take_bytes(&mut rest)?));
        }
        let ends: Vec<_> =
            parts.iter().skip(1).map(|(_, _, start)| Some(start.clone())).chain([None]).collect();
        let regions: Vec<_> = parts
            .into_iter()
            .zip(ends)
            .map(|((id, version, start), end)| Region::new(id, version, start, end))
            .collect();
        let ordered = regions.is_sorted_by(|a, b| a.start < b.start);
        let complete = regions.first().is_some_and(|region| region.start.is_empty());
        (ordered && complete).then_some(Self { regions, next_id })
    }
}

/// Keys that cut the key space into `count` regions. Half of them are spread over all keys by their
/// first two bytes, half over the default keyspace (API v2), where its clients' keys are.
pub(crate) fn presplit_keys(count: usize) -> Vec<Bytes> {
    let cuts = count.saturating_sub(1);
    let within = cuts / 2;
    let over_all = cuts - within;
    let cut = |prefix: &[u8], number: usize, of: usize| {
        // Below 65,536 by construction.
        let point = u16::try_from(number * 65_536 / (of + 1)).unwrap_or(u16::MAX);
        let mut key = prefix.to_vec();
        key.extend_from_slice(&point.to_be_bytes());
        Bytes::from(key)
    };
    let mut keys: Vec<_> = (1..=over_all).map(|n| cut(b"", n, over_all)).collect();
    let raw = within / 2;
    keys.extend((1..=raw).map(|n| cut(b"r\0\0\0", n, raw)));
    keys.extend((1..=within - raw).map(|n| cut(b"x\0\0\0", n, within - raw)));
    keys
}

/// The table that requests are checked against.
#[derive(Debug)]
pub(crate) struct Regions {
    table: RwLock<Arc<Table>>,
}

impl Regions {
    /// Starts with this table.
    pub(crate) fn new(table: Table) -> Self {
        Self { table: RwLock::new(Arc::new(table)) }
    }

    /// The current table.
    pub(crate) fn now(&self) -> Arc<Table> {
        Arc::clone(&self.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the table.
    pub(crate) fn replace(&self, table: Table) {
        *self.table.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(table);
    }

    /// Checks a request's region, store, epoch and keys. Returns the region, or the client's error.
    pub(crate) fn check<'a>(
        &self,
        context: Option<&kvrpcpb::Context>,
        keys: impl IntoIterator<Item = &'a Bytes>,
        kind: Keys,
    ) -> Result<Region, Box<errorpb::Error>> {
        let table = self.now();
        let id = context.map_or(0, |context| context.region_id);
        let Some(region) = table.by_id(id) else {
            return Err(Box::new(errorpb::Error {
                message: format!("region {id} is not found"),
                region_not_found: Some(errorpb::RegionNotFound { region_id: id }),
                ..errorpb::Error::default()
            }));
        };
        let peer = context.and_then(|context| context.peer);
        if let Some(peer) = peer.filter(|peer| peer.store_id != STORE_ID) {
            return Err(Box::new(errorpb::Error {
                message: format!("store {} is not this one", peer.store_id),
                store_not_match: Some(errorpb::StoreNotMatch {
                    request_store_id: peer.store_id,
                    actual_store_id: STORE_ID,
                }),
                ..errorpb::Error::default()
            }));
        }
        let epoch = context.and_then(|context| context.region_epoch).unwrap_or_default();
        if epoch.version != region.version || epoch.conf_ver != 1 {
            return Err(Box::new(errorpb::Error {
                message: format!("epoch of region {id} is {}, not that", region.version),
                epoch_not_match: Some(errorpb::EpochNotMatch {
                    current_regions: vec![region.to_wire()],
                }),
                ..errorpb::Error::default()
            }));
        }
        for key in keys {
            if !region.contains(key, kind) {
                return Err(Box::new(errorpb::Error {
                    message: format!("key {key:?} is not in region {id}"),
                    key_not_in_region: Some(errorpb::KeyNotInRegion {
                        key: key.clone(),
                        region_id: id,
                        start_key: region.encoded_start.clone(),
                        end_key: region.encoded_end.clone(),
                    }),
                    ..errorpb::Error::default()
                }));
            }
        }
        Ok(region.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn context(region: &Region) -> kvrpcpb::Context {
        kvrpcpb::Context {
            region_id: region.id,
            region_epoch: region.to_wire().region_epoch,
            peer: Some(region.peer()),
            ..kvrpcpb::Context::default()
        }
    }

    #[test]
    fn a_split_makes_older_epochs_of_both_halves_unknown() {
        let regions = Regions::new(Table::new());
        let before = context(&regions.now().all()[0]);
        let mut table = Table::clone(&regions.now());
        assert!(table.split(&Bytes::from_static(b"m")));
        assert!(!table.split(&Bytes::from_static(b"m")), "cut there already");
        regions.replace(table);
        let error = regions.check(Some(&before), [], Keys::Plain).unwrap_err();
        assert!(error.epoch_not_match.is_some());
        let left = context(&regions.now().all()[0]);
        let key = Bytes::from_static(b"z");
        let error = regions.check(Some(&left), [&key], Keys::Plain).unwrap_err();
        assert!(error.key_not_in_region.is_some());
        let key = Bytes::from_static(b"a");
        assert!(regions.check(Some(&left), [&key], Keys::Plain).is_ok());
    }

    #[test]
    fn a_range_is_cut_down_to_the_region() {
        let mut table = Table::new();
        table.split(&Bytes::from_static(b"f"));
        table.split(&Bytes::from_static(b"p"));
        let middle = &table.all()[1];
        let clip = |start: &'static [u8], end: &'static [u8]| {
            middle.clip(Bytes::from_static(start), Bytes::from_static(end), Keys::Plain)
        };
        assert_eq!(clip(b"", b""), (Bytes::from("f"), Bytes::from("p")));
        assert_eq!(clip(b"g", b"h"), (Bytes::from("g"), Bytes::from("h")));
        assert_eq!(clip(b"a", b"z"), (Bytes::from("f"), Bytes::from("p")));
    }

    #[test]
    fn as_many_regions_as_asked_for() {
        for count in [1, 2, 3, 8, 42] {
            let mut table = Table::new();
            for key in presplit_keys(count) {
                table.split(&key);
            }
            assert_eq!(table.all().len(), count);
        }
    }

    proptest! {
        #[test]
        fn every_key_lies_in_exactly_one_region_and_pd_finds_it(
            cuts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 0..20),
            key in proptest::collection::vec(any::<u8>(), 0..12),
        ) {
            let mut table = Table::new();
            for cut in cuts {
                table.split(&Bytes::from(cut));
            }
            let holders: Vec<_> =
                table.all().iter().filter(|region| region.contains(&key, Keys::Plain)).collect();
            prop_assert_eq!(holders.len(), 1);
            let mut encoded = Vec::new();
            encode_key(&key, &mut encoded);
            prop_assert_eq!(table.by_pd_key(&encoded).map(|region| region.id), Some(holders[0].id));
            prop_assert_eq!(Table::decode(&table.encode()), Some(table));
        }
    }
}
