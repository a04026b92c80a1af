//! The critical section: the model's view of the state, and the timestamps taken inside it.

use super::EngineError;
use super::state::State;
use crate::model::{KeyState, Kind, Lock, TS_MAX, Ts, Version, View, blocks_read};
use crate::store::{Store, StoreError};
use bytes::Bytes;

/// One request's exclusive access to the state.
pub(crate) struct CriticalSection<'a> {
    pub(super) state: &'a mut State,
    pub(super) store: &'a Store,
    /// The newest group that changed anything looked at here. The answer waits for it to be
    /// durable.
    pub(super) seen: u64,
    /// Takes the next timestamp, above the given one as far as the ceiling allows.
    pub(super) take_ts: &'a mut dyn FnMut(Ts) -> Result<Ts, EngineError>,
}

impl std::fmt::Debug for CriticalSection<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CriticalSection").field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl CriticalSection<'_> {
    /// A timestamp above all that were given out, and above all that anything was read at. A
    /// request that gets a later one enters after this section.
    pub(crate) fn fresh_ts(&mut self) -> Result<Ts, EngineError> {
        let ts = (self.take_ts)(self.state.max_read_ts)?;
        Ok(ts.max(Ts(self.state.max_read_ts.0.saturating_add(1))))
    }

    /// Keys that the transaction may hold locks on, in order.
    pub(crate) fn locks_of(&self, start_ts: Ts) -> Vec<Bytes> {
        self.state.locks_of(start_ts)
    }

    /// A raw key's value and expiry.
    pub(crate) fn raw(&mut self, key: &[u8]) -> Result<Option<(Bytes, u64)>, StoreError> {
        match self.state.raw_live.get(key) {
            Some((value, group)) => {
                self.seen = self.seen.max(*group);
                Ok(value.clone())
            }
            None => self.store.raw(key),
        }
    }

    /// Changes a raw key.
    pub(crate) fn write_raw(&mut self, key: Bytes, value: Option<(Bytes, u64)>) {
        self.state.write_raw(key, value);
    }

    /// Changes a row of the meta table.
    pub(crate) fn write_meta(&mut self, name: &str, value: Option<Vec<u8>>) {
        self.state.write_meta(name, value);
    }

    /// Changes a row that has no counterpart in memory.
    pub(crate) fn change(&mut self, change: crate::store::RowChange) {
        self.state.open.repeated = true;
        self.state.open.changes.push(change);
    }

    /// State and store, for maintenance.
    pub(crate) fn state(&mut self) -> (&mut State, &Store) {
        (self.state, self.store)
    }

    /// Records a read at `version`, so that later calls of [`Self::fresh_ts`] stay above it.
    pub(crate) fn reads_at(&mut self, version: Ts) {
        if version != TS_MAX {
            self.state.max_read_ts = self.state.max_read_ts.max(version);
        }
    }

    /// Looks the key up in memory, as of `version`; records the read unless a lock blocks it.
    pub(crate) fn look(&mut self, key: &Bytes, version: Ts, bypass: &[u64]) -> Look {
        if let Some(live) = self.state.live.get(key) {
            self.seen = self.seen.max(live.group);
            if let Some(lock) = &live.lock
                && blocks_read(key, lock, version, bypass)
            {
                return Look::Blocked(Box::new(Lock::clone(lock)));
            }
        }
        self.reads_at(version);
        let Some(current) = self.state.current(key) else {
            return Look::OnDisk;
        };
        match &current.data {
            None => Look::Value(None),
            Some((newest, value)) if newest.commit_ts <= version => {
                Look::Value((newest.kind == Kind::Put).then(|| value.clone()))
            }
            Some(_) => {
                let older = self.state.live.get(key).and_then(|live| {
                    live.displaced.iter().find(|row| {
                        row.version.commit_ts <= version && row.version.kind != Kind::Lock
                    })
                });
                older.map_or(Look::OnDisk, |row| {
                    Look::Value((row.version.kind == Kind::Put).then(|| row.value.clone()))
                })
            }
        }
    }
}

/// The result of looking a key up in memory.
#[derive(Debug, Clone)]
pub(crate) enum Look {
    /// This lock blocks the read.
    Blocked(Box<Lock>),
    /// The key's value; none when it has none.
    Value(Option<Bytes>),
    /// Memory does not know; the disk has to be read.
    OnDisk,
}

/// The key's value on disk at `version`.
pub(crate) fn value_on_disk(
    store: &Store,
    key: &[u8],
    version: Ts,
) -> Result<Option<Bytes>, StoreError> {
    let current = store.current(key)?;
    match current.data {
        None => Ok(None),
        Some((newest, value)) if newest.commit_ts <= version => {
            Ok((newest.kind == Kind::Put).then_some(value))
        }
        Some((newest, _)) => Ok(store
            .history_at(key, newest.commit_ts, version)?
            .filter(|row| row.version.kind == Kind::Put)
            .map(|row| row.value)),
    }
}

impl View for CriticalSection<'_> {
    type Error = EngineError;

    fn key(&mut self, key: &Bytes) -> Result<KeyState<'_>, EngineError> {
        let (mut found, known, group) = self.state.key_state(key);
        self.seen = self.seen.max(group);
        if !known {
            let row = self.store.current(key)?;
            (found.newest, found.newest_data) = (row.newest(), row.newest_data());
        }
        Ok(found)
    }

    fn commit_of(&mut self, key: &Bytes, start_ts: Ts) -> Result<Option<Version>, EngineError> {
        let row = match self.state.current(key) {
            Some(row) => row.clone(),
            None => self.store.current(key)?,
        };
        let own = |version: &Version| version.start_ts == start_ts;
        if let Some(version) = row.lock.filter(own).or(row.newest_data().filter(own)) {
            return Ok(Some(version));
        }
        // All older records were committed before the newest one, and a commit comes after its
        // start.
        if row.newest().is_none_or(|newest| newest.commit_ts < start_ts) {
            return Ok(None);
        }
        let in_memory = self.state.live.get(key).map_or(&[][..], |live| &live.displaced);
        let known = in_memory.iter().map(|row| row.version);
        if let Some(found) = known.clone().find(own) {
            return Ok(Some(found));
        }
        let newest = row.lock.into_iter().chain(row.newest_data());
        let later = newest.chain(known).map(|version| version.commit_ts).collect();
        Ok(self.store.history_of(key, later, start_ts)?)
    }

    fn rolled_back(&mut self, key: &Bytes, start_ts: Ts) -> Result<bool, EngineError> {
        match self.state.rolled_back(key, start_ts) {
            Some(known) => Ok(known),
            None => Ok(self.store.rolled_back(key, start_ts)?),
        }
    }

    fn newest_value(&mut self, key: &Bytes) -> Result<Option<Bytes>, EngineError> {
        let row = match self.state.current(key) {
            Some(row) => row.clone(),
            None => self.store.current(key)?,
        };
        Ok(row.data.filter(|(version, _)| version.kind == Kind::Put).map(|(_, value)| value))
    }
}
