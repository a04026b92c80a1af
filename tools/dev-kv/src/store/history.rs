//! Displaced records, ordered by the time of their displacement.
//!
//! A row's key begins with the timestamp at which its record was displaced. So rows are always
//! added at the end of the table. This costs an LSM tree next to nothing: its tables do not
//! overlap, and move down the levels without being merged. The garbage below a safe point is a
//! prefix of the table.
//!
//! A key's records form a chain: each record displaced the ones before it at its own commit
//! timestamp. A search for an old record walks down from the newest. A key that changes often has a
//! *milestone* after every [`codec::STEPS_MAX`] values. Milestones are ordered by key, and a walk
//! may begin at one.

use super::codec::{self, Displaced};
use super::{KeyRange, Store, StoreError, reclaim};
use crate::model::{Kind, TS_MAX, Ts, Version};
use fjall::{Keyspace, PersistMode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Pause between two checks whether a memtable has been flushed.
const FLUSH_POLL: Duration = Duration::from_millis(10);

impl Store {
    /// The displaced `Put` or `Delete` that was in force at `version`. The key's newest one was
    /// committed at `newest`, which is above `version`.
    pub(crate) fn history_at(
        &self,
        key: &[u8],
        newest: Ts,
        version: Ts,
    ) -> Result<Option<Displaced>, StoreError> {
        let mut found: Option<Displaced> = None;
        let mut later =
            vec![self.milestone_after(key, version)?.map_or(newest, |at| at.min(newest))];
        while let Some(at) = later.pop() {
            for row in self.displaced_at(key, at) {
                let row = row?;
                let commit_ts = row.version.commit_ts;
                if row.version.kind == Kind::Lock {
                    continue;
                }
                if commit_ts <= version {
                    if found.as_ref().is_none_or(|other| other.version.commit_ts < commit_ts) {
                        found = Some(row);
                    }
                } else if commit_ts < at {
                    later.push(commit_ts);
                }
            }
        }
        Ok(found)
    }

    /// The displaced record that transaction `start_ts` committed on the key. `later` are the
    /// commit timestamps of known records, including the newest ones on disk.
    pub(crate) fn history_of(
        &self,
        key: &[u8],
        mut later: Vec<Ts>,
        start_ts: Ts,
    ) -> Result<Option<Version>, StoreError> {
        while let Some(at) = later.pop() {
            for row in self.displaced_at(key, at) {
                let version = row?.version;
                if version.start_ts == start_ts {
                    return Ok(Some(version));
                }
                // A record displaced before the transaction's start was also committed before it.
                if version.commit_ts < at && version.commit_ts > start_ts {
                    later.push(version.commit_ts);
                }
            }
        }
        Ok(None)
    }

    /// What the record committed at `at` displaced: a `Put` or `Delete`, a `Lock`, or both. More if
    /// a client committed out of order.
    fn displaced_at(
        &self,
        key: &[u8],
        at: Ts,
    ) -> impl Iterator<Item = Result<Displaced, StoreError>> + use<> {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        codec::history_key(key, at, TS_MAX, &mut from);
        codec::history_key(key, at, Ts(0), &mut to);
        self.history.range(from..=to).map(|guard| {
            let (key, row) = guard.into_inner()?;
            Ok(codec::decode_displaced(&key, &row)?)
        })
    }

    /// The key's first milestone after `version`.
    fn milestone_after(&self, key: &[u8], version: Ts) -> Result<Option<Ts>, StoreError> {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        codec::milestone_key(key, Ts(version.0.saturating_add(1)), &mut from);
        codec::milestone_key(key, TS_MAX, &mut to);
        let Some(first) = self.milestones.range(from..=to).next() else { return Ok(None) };
        Ok(Some(codec::milestone_at(&first.key()?).ok_or(codec::Corrupt("milestone"))?))
    }

    /// History row keys of all user keys in `range`. Reads the whole history.
    pub(crate) fn scan_history_keys(
        &self,
        range: &KeyRange,
    ) -> impl Iterator<Item = Result<Vec<u8>, StoreError>> + use<> {
        let range = range.clone();
        self.history.iter().filter_map(move |guard| {
            let row_key = match guard.key() {
                Ok(row_key) => row_key,
                Err(error) => return Some(Err(error.into())),
            };
            match codec::history_user_key(&row_key) {
                Some(key) => range.contains(&key).then(|| Ok(row_key.to_vec())),
                None => Some(Err(codec::Corrupt("history").into())),
            }
        })
    }

    /// Rewrites the history without its garbage. Takes as long as reading it; writes continue
    /// meanwhile. Once `closing` is set it stops soon, without effect.
    pub(crate) fn compact_history(&self, closing: &Arc<AtomicBool>) -> Result<(), StoreError> {
        self.compact(&self.history, closing)?;
        self.compact(&self.milestones, closing)
    }

    fn compact(&self, table: &Keyspace, closing: &Arc<AtomicBool>) -> Result<(), StoreError> {
        // Compaction skips rows in memory. The engine's own wait for a flush would never return if
        // the flushing thread has failed.
        table.rotate_memtable()?;
        while table.sealed_memtable_count() > 0 {
            if closing.load(Ordering::Relaxed) {
                return Ok(());
            }
            // Fails once the flushing thread has failed.
            self.db.persist(PersistMode::Buffer)?;
            std::thread::sleep(FLUSH_POLL);
        }
        if table.table_count() == 0 {
            return Ok(());
        }
        match reclaim::interruptible(closing, || table.major_compact()) {
            Err(_) if closing.load(Ordering::Relaxed) => Ok(()),
            result => Ok(result?),
        }
    }
}
