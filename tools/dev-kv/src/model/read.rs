//! When a lock blocks a reader.

use super::{Lock, LockKind, TS_MAX, Ts};

/// Whether `lock` on `key` may hide what a read at `version` has to see. A lock is harmless when
/// its transaction started later, only locks, or must commit later. For a read of the newest
/// version, so is the primary of a transaction that has not committed yet, unless it is an async
/// commit: the transaction is ordered after the read. `bypass` lists transactions whose locks the
/// reader knows to be harmless.
pub(crate) fn blocks_read(key: &[u8], lock: &Lock, version: Ts, bypass: &[u64]) -> bool {
    let harmless = lock.start_ts > version
        || matches!(lock.kind, LockKind::Lock | LockKind::Pessimistic)
        || lock.min_commit_ts > version
        || bypass.contains(&lock.start_ts.0)
        || (version == TS_MAX && lock.primary.as_ref() == key && !lock.async_commit);
    !harmless
}
