//! Decides whether to believe the client's report of a successful commit.
//!
//! Version 0.4 of the client loses errors. It cuts a prewrite or a commit into requests. If the
//! lookup of a region fails, it has no request to send, so none fails, and `commit()` reports
//! success for something never sent. (Reads report such errors.) A lookup is needed only while the
//! client does not know the region: at first, and after it dropped the region because a request
//! failed. Therefore:
//! - the client never repeats the requests of a commit, so that a failure appears here as an error,
//!   without another lookup in the client;
//! - failures of all calls are counted, and a commit's success is believed only if nothing has
//!   failed since a commit to the same shard was confirmed. Otherwise the commit is confirmed by
//!   reading what it wrote.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::kv::Key;

/// Length of a key's owner and shard, along which regions are split.
const PREFIX: usize = 3;
/// Limit on the shards remembered. Beyond it, all are confirmed again.
const SHARDS_MAX: usize = 16_384;

/// A stretch of time in which nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ErrorEpoch {
    generation: u64,
    failures: u64,
}

/// Counts failures, and remembers which shards had a commit confirmed since the last one.
#[derive(Debug, Default)]
pub(super) struct CommitVerifier {
    failures: AtomicU64,
    confirmed: Mutex<BTreeMap<Key, ErrorEpoch>>,
}

impl CommitVerifier {
    /// Notes that a call failed.
    pub(super) fn failed(&self) {
        self.failures.fetch_add(1, Ordering::AcqRel);
    }

    /// The current stretch, with this generation of the client.
    pub(super) fn epoch(&self, generation: u64) -> ErrorEpoch {
        ErrorEpoch { generation, failures: self.failures.load(Ordering::Acquire) }
    }

    /// Whether a commit with this primary was confirmed in this stretch.
    pub(super) fn holds(&self, primary: &[u8], epoch: ErrorEpoch) -> bool {
        let confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        confirmed.get(prefix(primary)) == Some(&epoch)
    }

    /// Notes that a commit with this primary was confirmed, and that it began in this stretch.
    pub(super) fn confirm(&self, primary: &[u8], epoch: ErrorEpoch) {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        if confirmed.len() >= SHARDS_MAX {
            confirmed.clear();
        }
        confirmed.insert(prefix(primary).to_vec(), epoch);
    }
}

fn prefix(key: &[u8]) -> &[u8] {
    key.get(..PREFIX).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_taken_until_something_fails() {
        let verifier = CommitVerifier::default();
        let epoch = verifier.epoch(1);
        assert!(!verifier.holds(b"o\0\x01head", epoch), "nothing was confirmed yet");
        verifier.confirm(b"o\0\x01head", epoch);
        assert!(verifier.holds(b"o\0\x01other", verifier.epoch(1)));
        assert!(!verifier.holds(b"o\0\x02head", verifier.epoch(1)), "another shard");
        assert!(!verifier.holds(b"o\0\x01head", verifier.epoch(2)), "another client");
        verifier.failed();
        assert!(!verifier.holds(b"o\0\x01head", verifier.epoch(1)));
    }
}
