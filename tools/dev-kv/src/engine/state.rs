//! The state in memory: locks, rows with changes that are not on disk yet, the cache, and the open
//! group.
//!
//! A change is made here first, in the open *group*. All changes of a group go to disk together,
//! while the next group gathers. A row whose change is not on disk is *live* and has the number of
//! its group. A request that looks at it is answered only when that group is durable, so no answer
//! reveals anything that a crash could undo.
//!
//! A live row without a lock is retired once the group after its own is written. A reader that did
//! not find a row here and read it from disk may put it into the cache, as long as at most one
//! group was completed since it looked: until then a change would still be live (see
//! [`State::admits`]).

use super::cache::RowCache;
use crate::model::{Effect, KeyState, Kind, Lock, Ts, Version};
use crate::store::codec::{Current, Displaced};
use crate::store::{RowChange, Store, StoreError};
use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// Limit on the rollbacks remembered in memory, by timestamp; beyond it, the disk is asked.
const ROLLBACKS_IN_MEMORY: usize = 200_000;

/// A row that is locked or changed.
#[derive(Debug, Default)]
pub(crate) struct Live {
    /// The lock on the key.
    pub(crate) lock: Option<Arc<Lock>>,
    /// Its newest records; none when only the disk or the cache has them.
    pub(crate) current: Option<Current>,
    /// Records that changes not yet on disk have displaced, newest first.
    pub(crate) displaced: Vec<Displaced>,
    /// The group of the last change.
    pub(crate) group: u64,
    /// The group whose list has the key, so that it is listed once per group.
    listed: u64,
    /// The group that last changed the lock's row.
    lock_row: u64,
    /// The group that last changed the row of the newest records.
    current_row: u64,
}

/// The group that gathers changes.
#[derive(Debug)]
pub(crate) struct Group {
    /// Its number, one more than that of the group before.
    pub(crate) number: u64,
    /// Its changes, in order.
    pub(crate) changes: Vec<RowChange>,
    /// Approximate bytes of keys and values in the changes.
    pub(crate) bytes: usize,
    /// Whether some row is changed more than once.
    pub(crate) repeated: bool,
    /// Keys to retire after it is written.
    pub(crate) touched: Vec<Bytes>,
    /// Raw keys to retire after it is written.
    pub(crate) raw_touched: Vec<Bytes>,
    /// Rollback records in it.
    pub(crate) rollbacks: Vec<(Ts, Bytes)>,
    /// Whether a lock was removed; requests that wait for a lock are woken then.
    pub(crate) unlocked: bool,
}

impl Live {
    /// Lists the key in the group, which will retire it.
    fn list(&mut self, key: &Bytes, open: &mut Group) {
        if std::mem::replace(&mut self.listed, open.number) != open.number {
            open.touched.push(key.clone());
        }
    }
}

impl Group {
    fn new(number: u64) -> Self {
        Self {
            number,
            changes: Vec::new(),
            bytes: 0,
            repeated: false,
            touched: Vec::new(),
            raw_touched: Vec::new(),
            rollbacks: Vec::new(),
            unlocked: false,
        }
    }
}

/// The whole state, behind one mutex. Its operations only use memory, except that a row which was
/// evicted between two looks is read from disk.
#[derive(Debug)]
pub(crate) struct State {
    /// Rows that are locked or changed.
    pub(crate) live: FxHashMap<Bytes, Live>,
    /// Raw rows with changes that are not on disk yet: value and expiry, and the group of the
    /// change.
    pub(crate) raw_live: FxHashMap<Bytes, (Option<(Bytes, u64)>, u64)>,
    /// Newest records of rows that are not live.
    pub(crate) cache: RowCache,
    /// The open group.
    pub(crate) open: Group,
    /// The last group that is durable.
    pub(crate) completed: u64,
    /// The largest timestamp that anything was read at.
    pub(crate) max_read_ts: Ts,
    held_by: FxHashMap<Ts, Held>,
    lock_count: usize,
    rollbacks: Rollbacks,
}

/// A transaction's locks.
#[derive(Debug, Default)]
struct Held {
    /// Every key that it locked; some may be unlocked again.
    keys: Vec<Bytes>,
    /// How many it still holds.
    count: usize,
}

/// Which transactions may have rollback records. Prewrites ask this for every key, and the answer
/// is nearly always no.
#[derive(Debug)]
struct Rollbacks {
    /// For transactions up to this one, only the disk knows.
    asked_until: Ts,
    /// Later transactions that have a rollback record on some key.
    known: FxHashSet<Ts>,
    /// Records that are not on disk yet.
    pending: FxHashSet<(Ts, Bytes)>,
}

impl State {
    /// The state of a store that holds these locks. Rollback records of transactions up to
    /// `asked_until` may be on disk; `completed` is the number of the last group.
    pub(crate) fn new(
        cache_bytes: u64,
        locks: Vec<(Bytes, Lock)>,
        asked_until: Ts,
        completed: u64,
    ) -> Self {
        let mut state = Self {
            live: FxHashMap::default(),
            raw_live: FxHashMap::default(),
            cache: RowCache::new(cache_bytes),
            open: Group::new(completed + 1),
            completed,
            max_read_ts: Ts(0),
            held_by: FxHashMap::default(),
            lock_count: 0,
            rollbacks: Rollbacks {
                asked_until,
                known: FxHashSet::default(),
                pending: FxHashSet::default(),
            },
        };
        for (key, lock) in locks {
            let held = state.held_by.entry(lock.start_ts).or_default();
            held.keys.push(key.clone());
            held.count += 1;
            state.lock_count += 1;
            state.live.insert(key, Live { lock: Some(Arc::new(lock)), ..Live::default() });
        }
        state
    }

    /// The number of locks.
    pub(crate) fn lock_count(&self) -> usize {
        self.lock_count
    }

    /// Keys that the transaction may hold locks on, sorted.
    pub(crate) fn locks_of(&self, start_ts: Ts) -> Vec<Bytes> {
        let mut keys = self.held_by.get(&start_ts).map_or_else(Vec::new, |held| held.keys.clone());
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Newest records of a key, if they are in memory.
    pub(crate) fn current(&self, key: &[u8]) -> Option<&Current> {
        match self.live.get(key) {
            Some(Live { current: Some(current), .. }) => Some(current),
            Some(_) | None => self.cache.get(key),
        }
    }

    /// Whether a row read from disk is still the newest. The reader did not find it in memory when
    /// `looked` was the last complete group.
    pub(crate) fn admits(&self, key: &[u8], looked: u64) -> bool {
        self.completed <= looked + 1 && self.live.get(key).is_none_or(|live| live.current.is_none())
    }

    /// Makes rows that were read from disk live, for a change that follows.
    pub(crate) fn stage(&mut self, rows: Vec<(Bytes, Current)>, looked: u64) {
        if self.completed > looked + 1 {
            return; // see `admits`
        }
        for (key, row) in rows {
            let live = self.live.entry(key.clone()).or_default();
            if live.current.is_none() {
                live.list(&key, &mut self.open);
                live.current = Some(row);
            }
        }
    }

    /// Lock and newest records, whether the latter are in memory, and the group of the last change.
    pub(crate) fn key_state(&self, key: &[u8]) -> (KeyState<'_>, bool, u64) {
        let live = self.live.get(key);
        let current = live.and_then(|live| live.current.as_ref()).or_else(|| self.cache.get(key));
        let state = KeyState {
            lock: live.and_then(|live| live.lock.as_deref()),
            newest: current.and_then(Current::newest),
            newest_data: current.and_then(Current::newest_data),
        };
        (state, current.is_some(), live.map_or(0, |live| live.group))
    }

    /// Whether the transaction was rolled back on the key; none when the disk has to be asked.
    pub(crate) fn rolled_back(&self, key: &Bytes, start_ts: Ts) -> Option<bool> {
        if start_ts > self.rollbacks.asked_until && !self.rollbacks.known.contains(&start_ts) {
            return Some(false);
        }
        // A probe without allocation would need a borrowed pair. This path is rare.
        if self.rollbacks.pending.contains(&(start_ts, key.clone())) {
            return Some(true);
        }
        None
    }

    /// Applies the effects of one request, in the open group.
    pub(crate) fn apply(&mut self, effects: Vec<Effect>, store: &Store) -> Result<(), StoreError> {
        // Read everything that can fail before changing anything.
        for effect in &effects {
            if let Effect::Write(key, ..) = effect {
                self.ensure_current(key, store)?;
            }
        }
        for effect in effects {
            match effect {
                Effect::Lock(key, lock) => self.lock(key, Arc::from(lock)),
                Effect::Unlock(key) => self.unlock(key),
                Effect::Write(key, version, value) => self.write(key, version, value),
                Effect::Rollback(key, start_ts) => self.roll_back(key, start_ts),
            }
        }
        Ok(())
    }

    fn ensure_current(&mut self, key: &Bytes, store: &Store) -> Result<(), StoreError> {
        if let Some(live) = self.live.get(key)
            && live.current.is_some()
        {
            return Ok(());
        }
        let row = match self.cache.get(key) {
            Some(row) => row.clone(),
            None => store.current(key)?,
        };
        let live = self.live.entry(key.clone()).or_default();
        live.list(key, &mut self.open);
        live.current = Some(row);
        Ok(())
    }

    /// Marks the row as changed in the open group.
    fn touch(&mut self, key: &Bytes) -> &mut Live {
        let live = self.live.entry(key.clone()).or_default();
        live.group = self.open.number;
        live.list(key, &mut self.open);
        self.open.bytes += key.len();
        live
    }

    /// Marks the row of the lock as changed in the open group.
    fn touch_lock(&mut self, key: &Bytes) -> &mut Live {
        let number = self.open.number;
        self.open.bytes += key.len();
        let live = self.live.entry(key.clone()).or_default();
        if std::mem::replace(&mut live.lock_row, number) == number {
            self.open.repeated = true;
        }
        live.group = number;
        live.list(key, &mut self.open);
        live
    }

    fn lock(&mut self, key: Bytes, lock: Arc<Lock>) {
        let start_ts = lock.start_ts;
        self.open.bytes += lock.value.len();
        let fresh = self.touch_lock(&key).lock.replace(Arc::clone(&lock)).is_none();
        if fresh {
            let held = self.held_by.entry(start_ts).or_default();
            held.keys.push(key.clone());
            held.count += 1;
            self.lock_count += 1;
        }
        self.open.changes.push(RowChange::Lock(key, Some(lock)));
    }

    fn unlock(&mut self, key: Bytes) {
        if self.live.get(&key).is_none_or(|live| live.lock.is_none()) {
            return;
        }
        if let Some(lock) = self.touch_lock(&key).lock.take() {
            self.lock_count -= 1;
            if let Some(held) = self.held_by.get_mut(&lock.start_ts) {
                held.count -= 1;
                if held.count == 0 {
                    self.held_by.remove(&lock.start_ts);
                }
            }
        }
        self.open.unlocked = true;
        self.open.changes.push(RowChange::Lock(key, None));
    }

    fn write(&mut self, key: Bytes, version: Version, value: Bytes) {
        self.open.bytes += value.len();
        let number = self.open.number;
        let live = self.touch(&key);
        let repeated = std::mem::replace(&mut live.current_row, number) == number;
        let mut current = live.current.take().unwrap_or_default();
        let (displaced, milestone) = current.add(version, value);
        for row in &displaced {
            let place = live
                .displaced
                .partition_point(|other| other.version.commit_ts > row.version.commit_ts);
            live.displaced.insert(place, row.clone());
        }
        live.current = Some(current.clone());
        self.open.repeated |= repeated;
        for row in displaced {
            self.open.bytes += row.value.len();
            self.open.changes.push(RowChange::History(key.clone(), row));
        }
        if milestone {
            self.open.changes.push(RowChange::Milestone(key.clone(), version.commit_ts));
        }
        if version.kind == Kind::Delete {
            self.open.changes.push(RowChange::Deletion(key.clone(), version.commit_ts, true));
        }
        self.open.changes.push(RowChange::Current(key, Some(current)));
    }

    fn roll_back(&mut self, key: Bytes, start_ts: Ts) {
        self.touch(&key);
        self.rollbacks.known.insert(start_ts);
        if !self.rollbacks.pending.insert((start_ts, key.clone())) {
            return;
        }
        self.open.rollbacks.push((start_ts, key.clone()));
        self.open.changes.push(RowChange::Rollback(key, start_ts, true));
    }

    /// Drops a deletion that no read can see any more, and the row itself if that is its newest
    /// record.
    pub(crate) fn drop_deletion(
        &mut self,
        key: &Bytes,
        commit_ts: Ts,
        store: &Store,
    ) -> Result<(), StoreError> {
        self.ensure_current(key, store)?;
        self.open.repeated = true;
        let live = self.touch(key);
        let is_newest = live
            .current
            .as_ref()
            .and_then(Current::newest)
            .is_some_and(|newest| newest.commit_ts == commit_ts && newest.kind == Kind::Delete);
        if is_newest {
            live.current = Some(Current::default());
            self.open.changes.push(RowChange::Current(key.clone(), None));
        }
        self.open.changes.push(RowChange::Deletion(key.clone(), commit_ts, false));
        Ok(())
    }

    /// Erases the key: its lock and its records, but not its history rows.
    pub(crate) fn erase(&mut self, key: &Bytes) {
        self.unlock(key.clone());
        self.open.repeated = true;
        let live = self.touch(key);
        live.current = Some(Current::default());
        live.displaced.clear();
        self.open.changes.push(RowChange::Current(key.clone(), None));
    }

    /// Changes a raw row; none removes it.
    pub(crate) fn write_raw(&mut self, key: Bytes, value: Option<(Bytes, u64)>) {
        self.open.bytes += key.len() + value.as_ref().map_or(0, |(value, _)| value.len());
        let row = (value.clone(), self.open.number);
        if let Some((_, group)) = self.raw_live.insert(key.clone(), row)
            && group == self.open.number
        {
            self.open.repeated = true;
        }
        self.open.raw_touched.push(key.clone());
        self.open.changes.push(RowChange::Raw(key, value));
    }

    /// Changes a row of the meta table; none removes it.
    pub(crate) fn write_meta(&mut self, name: &str, value: Option<Vec<u8>>) {
        self.open.repeated = true;
        self.open.changes.push(RowChange::Meta(name.to_owned(), value));
    }

    /// Closes the open group and opens the next one.
    pub(crate) fn close_group(&mut self) -> Group {
        let next = Group::new(self.open.number + 1);
        std::mem::replace(&mut self.open, next)
    }

    /// Notes that the group is on disk.
    pub(crate) fn complete(&mut self, number: u64, rollbacks: &[(Ts, Bytes)]) {
        self.completed = number;
        for record in rollbacks {
            self.rollbacks.pending.remove(record);
        }
        if self.rollbacks.known.len() > ROLLBACKS_IN_MEMORY {
            let newest = self.rollbacks.known.iter().max().copied();
            self.rollbacks.asked_until = self.rollbacks.asked_until.max(newest.unwrap_or_default());
            self.rollbacks.known.clear();
        }
    }

    /// Retires rows last changed in group `number` or earlier, which is on disk. Their records move
    /// to the cache; locked rows stay live.
    pub(crate) fn retire(&mut self, keys: &[Bytes], number: u64) {
        for key in keys {
            let Entry::Occupied(mut entry) = self.live.entry(key.clone()) else {
                continue;
            };
            let live = entry.get_mut();
            if live.group > number {
                continue; // retired with its later group
            }
            live.displaced.clear();
            if let Some(row) = live.current.take() {
                self.cache.put(key, &row);
            }
            if live.lock.is_none() {
                entry.remove();
            }
        }
    }

    /// Drops raw rows in the same way.
    pub(crate) fn retire_raw(&mut self, keys: &[Bytes], number: u64) {
        for key in keys {
            if self.raw_live.get(key).is_some_and(|(_, group)| *group <= number) {
                self.raw_live.remove(key);
            }
        }
    }
}
