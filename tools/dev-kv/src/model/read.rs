//! When a lock stands in a reader's way.

use super::{Lock, LockKind, TS_MAX, Ts};

/// Whether `lock` on `key` hides what a read at `version` should see. A transaction that started later, only
/// locks, or is bound to commit later does not; neither does, for the newest version, the primary of a
/// transaction that has not committed yet (it is ordered after this read). `bypass` are transactions whose
/// locks the reader knows to be harmless.
pub(crate) fn blocks_read(key: &[u8], lock: &Lock, version: Ts, bypass: &[u64]) -> bool {
    let harmless = lock.start_ts > version
        || matches!(lock.kind, LockKind::Lock | LockKind::Pessimistic)
        || lock.min_commit_ts > version
        || bypass.contains(&lock.start_ts.0)
        || (version == TS_MAX && lock.primary.as_ref() == key && !lock.async_commit);
    !harmless
}
