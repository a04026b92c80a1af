//! Encodings of rows and row keys on disk. Fixed-size integers are big-endian. Decoders check
//! lengths and return `Corrupt` rather than guess.

use crate::model::{Kind, Lock, LockKind, Ts, Version};
use bytes::{Buf, Bytes};

/// Values of a key between two milestones, which bounds a walk through its history.
pub(crate) const STEPS_MAX: u8 = 64;

/// A row that no version of this program can have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("corrupt {0} row")]
pub(crate) struct Corrupt(pub(crate) &'static str);

/// A row of the `current` table: a key's newest records. Older ones are in the history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Current {
    /// The newest record that determines the value, with the value.
    pub(crate) data: Option<(Version, Bytes)>,
    /// The newest `Lock` record, if it is newer than `data`.
    pub(crate) lock: Option<Version>,
    /// Values displaced since the last milestone.
    pub(crate) steps: u8,
}

impl Current {
    /// The newest record of any kind.
    pub(crate) fn newest(&self) -> Option<Version> {
        self.lock.or(self.newest_data())
    }

    /// The newest record that determines the value.
    pub(crate) fn newest_data(&self) -> Option<Version> {
        self.data.as_ref().map(|(version, _)| *version)
    }

    /// Adds a record. Returns the records that move to the history, and whether it is a milestone
    /// there.
    ///
    /// A correct client's records arrive in the order of their commits. Late ones go straight into
    /// the history.
    pub(crate) fn add(&mut self, version: Version, value: Bytes) -> (Vec<Displaced>, bool) {
        let mut displaced = Vec::new();
        let mut displace = |version: Version, value: Bytes, until: Ts| {
            // A key keeps one record per commit timestamp.
            if version.commit_ts != until {
                displaced.push(Displaced { version, value, until });
            }
        };
        let at = version.commit_ts;
        if version.kind == Kind::Lock {
            match self.newest() {
                Some(newest) if newest.commit_ts > at => displace(version, value, newest.commit_ts),
                Some(_) | None => {
                    if let Some(old) = self.lock.replace(version) {
                        displace(old, Bytes::new(), at);
                    }
                }
            }
            return (displaced, false);
        }
        if let Some(newest) = self.newest_data()
            && newest.commit_ts > at
        {
            displace(version, value, newest.commit_ts);
            return (displaced, false);
        }
        if let Some(old) = self.lock.take_if(|lock| lock.commit_ts <= at) {
            displace(old, Bytes::new(), at);
        }
        let mut milestone = false;
        if let Some((old, old_value)) = self.data.replace((version, value)) {
            displace(old, old_value, at);
            self.steps = self.steps.saturating_add(1);
            milestone = self.steps >= STEPS_MAX;
        }
        if milestone {
            self.steps = 0;
        }
        (displaced, milestone)
    }

    /// Approximate bytes of the row in memory.
    pub(crate) fn weight(&self) -> usize {
        self.data.as_ref().map_or(0, |(_, value)| value.len())
    }
}

/// A record that a newer one displaced from `current`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Displaced {
    /// The record.
    pub(crate) version: Version,
    /// Its value.
    pub(crate) value: Bytes,
    /// Commit timestamp of the record that displaced it. Once the safe point reaches this, no read
    /// sees it.
    pub(crate) until: Ts,
}

const HAS_DATA: u8 = 1;
const HAS_LOCK: u8 = 2;
const IS_DELETE: u8 = 4;

const KIND_PUT: u8 = 0;
const KIND_DELETE: u8 = 1;
const KIND_LOCK: u8 = 2;

/// Encodes a `current` row: flags, steps, timestamps, value.
pub(crate) fn encode_current(row: &Current, out: &mut Vec<u8>) {
    out.clear();
    let mut flags = 0;
    if let Some((version, _)) = &row.data {
        flags |= HAS_DATA;
        if version.kind == Kind::Delete {
            flags |= IS_DELETE;
        }
    }
    if row.lock.is_some() {
        flags |= HAS_LOCK;
    }
    out.push(flags);
    out.push(row.steps);
    if let Some(lock) = row.lock {
        out.extend_from_slice(&lock.commit_ts.0.to_be_bytes());
        out.extend_from_slice(&lock.start_ts.0.to_be_bytes());
    }
    if let Some((version, value)) = &row.data {
        out.extend_from_slice(&version.commit_ts.0.to_be_bytes());
        out.extend_from_slice(&version.start_ts.0.to_be_bytes());
        out.extend_from_slice(value);
    }
}

/// Decodes a `current` row.
pub(crate) fn decode_current(mut row: &[u8]) -> Result<Current, Corrupt> {
    let corrupt = || Corrupt("current");
    let flags = take_u8(&mut row).ok_or_else(corrupt)?;
    if flags & !(HAS_DATA | HAS_LOCK | IS_DELETE) != 0 {
        return Err(corrupt());
    }
    let steps = take_u8(&mut row).ok_or_else(corrupt)?;
    let lock = if flags & HAS_LOCK == 0 {
        None
    } else {
        Some(take_version(&mut row, Kind::Lock).ok_or_else(corrupt)?)
    };
    let data = if flags & HAS_DATA == 0 {
        None
    } else {
        let kind = if flags & IS_DELETE == 0 { Kind::Put } else { Kind::Delete };
        let version = take_version(&mut row, kind).ok_or_else(corrupt)?;
        Some((version, Bytes::copy_from_slice(row)))
    };
    Ok(Current { data, lock, steps })
}

/// Encodes a history row's value. Two of its timestamps are in the key.
pub(crate) fn encode_displaced(row: &Displaced, out: &mut Vec<u8>) {
    out.clear();
    out.push(match row.version.kind {
        Kind::Put => KIND_PUT,
        Kind::Delete => KIND_DELETE,
        Kind::Lock => KIND_LOCK,
    });
    out.extend_from_slice(&row.version.start_ts.0.to_be_bytes());
    out.extend_from_slice(&row.value);
}

/// Decodes a history row.
pub(crate) fn decode_displaced(key: &[u8], mut row: &[u8]) -> Result<Displaced, Corrupt> {
    let corrupt = || Corrupt("history");
    let kind = match take_u8(&mut row).ok_or_else(corrupt)? {
        KIND_PUT => Kind::Put,
        KIND_DELETE => Kind::Delete,
        KIND_LOCK => Kind::Lock,
        _ => return Err(corrupt()),
    };
    let start_ts = take_ts(&mut row).ok_or_else(corrupt)?;
    let until = history_until(key).ok_or_else(corrupt)?;
    let tail = key.last_chunk::<8>().ok_or_else(corrupt)?;
    Ok(Displaced {
        version: Version { commit_ts: Ts(!u64::from_be_bytes(*tail)), start_ts, kind },
        value: Bytes::copy_from_slice(row),
        until,
    })
}

/// The safe point at which a history row becomes garbage.
pub(crate) fn history_until(mut row_key: &[u8]) -> Option<Ts> {
    take_ts(&mut row_key)
}

/// Encodes a lock.
pub(crate) fn encode_lock(lock: &Lock, out: &mut Vec<u8>) {
    out.clear();
    let kind = match lock.kind {
        LockKind::Put => 0,
        LockKind::Delete => 1,
        LockKind::Lock => 2,
        LockKind::Pessimistic => 3,
    };
    out.push(kind | if lock.async_commit { 0x80 } else { 0 });
    for number in
        [lock.start_ts.0, lock.ttl_ms, lock.for_update_ts.0, lock.min_commit_ts.0, lock.txn_size]
    {
        out.extend_from_slice(&number.to_be_bytes());
    }
    put_bytes(out, &lock.primary);
    put_bytes(out, &lock.value);
    put_bytes(out, &[]); // an empty field, reserved for a later one
    for secondary in &lock.secondaries {
        put_bytes(out, secondary);
    }
}

/// Decodes a lock.
pub(crate) fn decode_lock(row: &[u8]) -> Result<Lock, Corrupt> {
    let corrupt = || Corrupt("lock");
    let whole = Bytes::copy_from_slice(row);
    let mut rest = whole;
    let flags = take_u8_bytes(&mut rest).ok_or_else(corrupt)?;
    let kind = match flags & 0x7f {
        0 => LockKind::Put,
        1 => LockKind::Delete,
        2 => LockKind::Lock,
        3 => LockKind::Pessimistic,
        _ => return Err(corrupt()),
    };
    let mut number = || (rest.remaining() >= 8).then(|| rest.get_u64()).ok_or_else(corrupt);
    let start_ts = Ts(number()?);
    let ttl_ms = number()?;
    let for_update_ts = Ts(number()?);
    let min_commit_ts = Ts(number()?);
    let txn_size = number()?;
    let primary = take_bytes(&mut rest).ok_or_else(corrupt)?;
    let value = take_bytes(&mut rest).ok_or_else(corrupt)?;
    if !take_bytes(&mut rest).ok_or_else(corrupt)?.is_empty() {
        return Err(corrupt());
    }
    let mut secondaries = Vec::new();
    while rest.has_remaining() {
        secondaries.push(take_bytes(&mut rest).ok_or_else(corrupt)?);
    }
    Ok(Lock {
        kind,
        primary,
        start_ts,
        ttl_ms,
        value,
        for_update_ts,
        min_commit_ts,
        async_commit: flags & 0x80 != 0,
        txn_size,
        secondaries,
    })
}

/// Appends a length (4 bytes) and the bytes.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Takes what [`put_bytes`] wrote.
pub(crate) fn take_bytes(rest: &mut Bytes) -> Option<Bytes> {
    if rest.remaining() < 4 {
        return None;
    }
    let length = usize::try_from(rest.get_u32()).ok()?;
    (rest.remaining() >= length).then(|| rest.split_to(length))
}

fn take_u8_bytes(rest: &mut Bytes) -> Option<u8> {
    rest.has_remaining().then(|| rest.get_u8())
}

fn take_u8(rest: &mut &[u8]) -> Option<u8> {
    let (first, tail) = rest.split_first()?;
    *rest = tail;
    Some(*first)
}

fn take_ts(rest: &mut &[u8]) -> Option<Ts> {
    let (first, tail) = rest.split_first_chunk::<8>()?;
    *rest = tail;
    Some(Ts(u64::from_be_bytes(*first)))
}

fn take_version(rest: &mut &[u8], kind: Kind) -> Option<Version> {
    Some(Version { commit_ts: take_ts(rest)?, start_ts: take_ts(rest)?, kind })
}

const GROUP: usize = 8;
const MARKER: u8 = 0xff;

/// Appends the memcomparable form of a key, as TiKV and PD use it: groups of eight bytes, zero
/// padded, each followed by 0xff minus the length of the padding. It keeps the order of keys, and
/// no form is a prefix of another.
pub(crate) fn encode_key(key: &[u8], out: &mut Vec<u8>) {
    let mut chunks = key.chunks_exact(GROUP);
    for chunk in &mut chunks {
        out.extend_from_slice(chunk);
        out.push(MARKER);
    }
    let rest = chunks.remainder();
    out.extend_from_slice(rest);
    for _ in rest.len()..GROUP {
        out.push(0);
    }
    // The remainder is shorter than a group, so this cannot wrap.
    out.push(MARKER - u8::try_from(GROUP - rest.len()).unwrap_or(0));
}

/// The key with this memcomparable form; none when it is malformed.
pub(crate) fn decode_key(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut key = Vec::with_capacity(encoded.len());
    let mut rest = encoded;
    loop {
        let (group, tail) = rest.split_at_checked(GROUP)?;
        let (marker, tail) = tail.split_first()?;
        let padding = usize::from(MARKER - marker);
        if padding > GROUP {
            return None;
        }
        let (kept, pad) = group.split_at_checked(GROUP.checked_sub(padding)?)?;
        if pad.iter().any(|byte| *byte != 0) {
            return None;
        }
        key.extend_from_slice(kept);
        rest = tail;
        if padding != 0 {
            return rest.is_empty().then_some(key);
        }
    }
}

/// The history key of a record. Orders by the timestamp of displacement, then by key, then newest
/// first.
pub(crate) fn history_key(key: &[u8], until: Ts, commit_ts: Ts, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&until.0.to_be_bytes());
    encode_key(key, out);
    out.extend_from_slice(&(!commit_ts.0).to_be_bytes());
}

/// The key that a history row belongs to.
pub(crate) fn history_user_key(row_key: &[u8]) -> Option<Vec<u8>> {
    decode_key(row_key.get(8..row_key.len().checked_sub(8)?)?)
}

/// A milestone's key. Orders by key, then by the commit timestamp of the record it is at.
pub(crate) fn milestone_key(key: &[u8], at: Ts, out: &mut Vec<u8>) {
    out.clear();
    encode_key(key, out);
    out.extend_from_slice(&at.0.to_be_bytes());
}

/// The commit timestamp a milestone is at.
pub(crate) fn milestone_at(row_key: &[u8]) -> Option<Ts> {
    row_key.last_chunk::<8>().map(|at| Ts(u64::from_be_bytes(*at)))
}

/// A key prefixed with a timestamp: rollback records, and deletions that wait for the safe point.
pub(crate) fn timed_key(ts: Ts, key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&ts.0.to_be_bytes());
    out.extend_from_slice(key);
}

/// The parts of a [`timed_key`].
pub(crate) fn split_timed_key(row_key: &[u8]) -> Option<(Ts, &[u8])> {
    let (ts, key) = row_key.split_first_chunk::<8>()?;
    Some((Ts(u64::from_be_bytes(*ts)), key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_key_encoding_is_tikvs() {
        let encode = |key: &[u8]| {
            let mut out = Vec::new();
            encode_key(key, &mut out);
            out
        };
        assert_eq!(encode(b""), [0, 0, 0, 0, 0, 0, 0, 0, 0xf7]);
        assert_eq!(encode(b"\x01\x02\x03"), [1, 2, 3, 0, 0, 0, 0, 0, 0xfa]);
        assert_eq!(
            encode(&[1, 2, 3, 4, 5, 6, 7, 8]),
            [1, 2, 3, 4, 5, 6, 7, 8, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0xf7]
        );
    }

    #[test]
    fn what_is_no_encoded_key_is_refused() {
        for bad in [
            &b""[..],
            b"abc",
            &[0, 0, 0, 0, 0, 0, 0, 0, 0xf6],
            &[1, 0, 0, 0, 0, 0, 0, 0, 0xf7],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0xff],
            &[0, 0, 0, 0, 0, 0, 0, 0, 0xf7, 1],
        ] {
            assert_eq!(decode_key(bad), None, "{bad:?}");
        }
    }

    fn any_bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(prop_oneof![Just(0u8), Just(0xffu8), any::<u8>()], 0..20)
            .prop_map(Bytes::from)
    }

    fn any_version(kind: Kind) -> impl Strategy<Value = Version> {
        (any::<u64>(), any::<u64>()).prop_map(move |(commit, start)| Version {
            commit_ts: Ts(commit),
            start_ts: Ts(start),
            kind,
        })
    }

    proptest! {
        #[test]
        fn keys_come_back_and_keep_their_order(a in any_bytes(), b in any_bytes()) {
            let (mut left, mut right) = (Vec::new(), Vec::new());
            encode_key(&a, &mut left);
            encode_key(&b, &mut right);
            prop_assert_eq!(decode_key(&left), Some(a.to_vec()));
            prop_assert_eq!(left.cmp(&right), a.cmp(&b));
            prop_assert!(a == b || !left.starts_with(&right));
        }

        #[test]
        fn current_rows_come_back(
            data in proptest::option::of((any_version(Kind::Put), any_bytes())),
            deleted in any::<bool>(),
            lock in proptest::option::of(any_version(Kind::Lock)),
            steps in any::<u8>(),
        ) {
            let data = data.map(|(mut version, value)| {
                if deleted {
                    version.kind = Kind::Delete;
                }
                (version, value)
            });
            let row = Current { data, lock, steps };
            let mut out = Vec::new();
            encode_current(&row, &mut out);
            prop_assert_eq!(decode_current(&out), Ok(row));
        }

        #[test]
        fn history_rows_come_back(
            key in any_bytes(),
            version in any_version(Kind::Put),
            value in any_bytes(),
            at in any::<u64>(),
        ) {
            let row = Displaced { version, value, until: Ts(at) };
            let (mut row_key, mut out) = (Vec::new(), Vec::new());
            history_key(&key, Ts(at), version.commit_ts, &mut row_key);
            encode_displaced(&row, &mut out);
            prop_assert_eq!(history_until(&row_key), Some(Ts(at)));
            prop_assert_eq!(decode_displaced(&row_key, &out), Ok(row));
            prop_assert_eq!(history_user_key(&row_key), Some(key.to_vec()));
        }

        #[test]
        fn locks_come_back(
            numbers in any::<[u64; 5]>(),
            primary in any_bytes(),
            value in any_bytes(),
            secondaries in proptest::collection::vec(any_bytes(), 0..4),
            async_commit in any::<bool>(),
        ) {
            let lock = Lock {
                kind: LockKind::Put,
                primary,
                start_ts: Ts(numbers[0]),
                ttl_ms: numbers[1],
                value,
                for_update_ts: Ts(numbers[2]),
                min_commit_ts: Ts(numbers[3]),
                async_commit,
                txn_size: numbers[4],
                secondaries,
            };
            let mut out = Vec::new();
            encode_lock(&lock, &mut out);
            prop_assert_eq!(decode_lock(&out), Ok(lock));
        }

        #[test]
        fn no_bytes_make_a_decoder_panic(key in any_bytes(), row in any_bytes()) {
            drop(decode_current(&row));
            drop(decode_displaced(&key, &row));
            drop(decode_lock(&row));
            drop(decode_key(&row));
        }
    }
}
