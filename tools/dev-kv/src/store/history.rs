//! Displaced records, in the order of time.
//!
//! A row's key begins with the timestamp at which its record was displaced. So rows are always added at the
//! end of the table, which costs an LSM tree next to nothing: tables on disk do not overlap, and are moved
//! down its levels instead of being merged. And what a safe point makes garbage is the beginning of the table.
//!
//! A key's records are a chain: each one's commit timestamp is the one at which it displaced those before it.
//! Whoever looks for an old record walks down from the newest. A key that changes often has a *milestone*
//! after every so many records, ordered by key, from where a walk may begin.

use super::codec::{self, Displaced};
use super::{KeyRange, Store, StoreError, reclaim};
use crate::model::{Kind, TS_MAX, Ts, Version};
use fjall::{Keyspace, PersistMode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

#[cfg(test)]
mod tests;

/// Between two looks at whether the memory of a table is on disk.
const FLUSH_POLL: Duration = Duration::from_millis(10);

impl Store {
    /// The displaced `Put` or `Delete` that was in force at `version`, when the newest one was committed at
    /// `newest`, later than that.
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

    /// The displaced record that transaction `start_ts` committed on the key. `later` are the commit
    /// timestamps of records that are known, among them those of the newest on disk.
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
                // Whatever was displaced before its start was committed before it, too.
                if version.commit_ts < at && version.commit_ts > start_ts {
                    later.push(version.commit_ts);
                }
            }
        }
        Ok(None)
    }

    /// What the record committed at `at` displaced: a `Put` or `Delete`, a `Lock`, or both; more when a client
    /// committed out of order.
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

    /// The first milestone of a key after `version`.
    fn milestone_after(&self, key: &[u8], version: Ts) -> Result<Option<Ts>, StoreError> {
        let (mut from, mut to) = (Vec::new(), Vec::new());
        codec::milestone_key(key, Ts(version.0.saturating_add(1)), &mut from);
        codec::milestone_key(key, TS_MAX, &mut to);
        let Some(first) = self.milestones.range(from..=to).next() else { return Ok(None) };
        Ok(Some(codec::milestone_at(&first.key()?).ok_or(codec::Corrupt("milestone"))?))
    }

    /// Row keys of the history of all keys in `range`. Reads the whole history.
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

    /// Rewrites the history without its garbage. Takes as long as reading it does; writers go on. Once
    /// `closing` is set it ends soon, its work undone.
    pub(crate) fn compact_history(&self, closing: &Arc<AtomicBool>) -> Result<(), StoreError> {
        self.compact(&self.history, closing)?;
        self.compact(&self.milestones, closing)
    }

    fn compact(&self, table: &Keyspace, closing: &Arc<AtomicBool>) -> Result<(), StoreError> {
        // What is still in memory is not compacted. The engine's own way to wait for the flush would wait for
        // ever when the thread that flushes has failed.
        table.rotate_memtable()?;
        while table.sealed_memtable_count() > 0 {
            if closing.load(Ordering::Relaxed) {
                return Ok(());
            }
            // Fails once such a thread has.
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
