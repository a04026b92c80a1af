//! The tables on disk, on top of the storage engine fjall.
//!
//! Tables: `current` (each key's newest records), `locks`, `history` (records that newer ones
//! displaced), `rollbacks` and `deletions` (these three ordered by timestamp, so that a safe point
//! cuts off a prefix), `milestones` (short cuts into the history), `raw` (the raw API's keys,
//! separate from the transactional ones) and `meta`. A row key that holds a user's key has one byte
//! before it, because the engine does not allow empty keys.
//!
//! [`Store::apply`] is the only writer. It returns when the rows are on disk (`fdatasync`). No
//! reader sees them before: the engine journals and syncs a batch before it makes it visible.

mod bloom;
pub(crate) mod codec;
mod format;
mod history;
mod journal;
mod marks;
mod range;
mod reclaim;
mod size;

use crate::SyncProbe;
use crate::model::{Lock, Ts};
use bloom::BloomFilters;
use bytes::Bytes;
use codec::{Corrupt, Current, Displaced};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
pub(crate) use format::Directory;
pub(crate) use range::KeyRange;
pub(crate) use size::StoreSize;
use std::collections::HashMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why the store cannot answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The directory holds other data, or data of another format.
    #[error("{0}")]
    Format(String),
    /// Another process has the directory open.
    #[error("{0} is in use by another process")]
    InUse(String),
    /// Data that was written is missing or unreadable; the text names the file and says what to do.
    #[error("{0}")]
    Damaged(String),
    /// The engine failed; for example, the disk is full or broken.
    #[error("storage engine")]
    Engine(#[from] fjall::Error),
    /// The operating system failed.
    #[error("file system")]
    Io(#[from] std::io::Error),
    /// A row cannot be read.
    #[error(transparent)]
    Corrupt(#[from] Corrupt),
}

/// A change of one row.
#[derive(Debug, Clone)]
pub(crate) enum RowChange {
    /// The key's newest records; none removes the row.
    Current(Bytes, Option<Current>),
    /// Adds a displaced record to the history.
    History(Bytes, Displaced),
    /// Removes the displaced record with this row key.
    HistoryGone(Vec<u8>),
    /// Adds a short cut into the key's history, at the commit timestamp of one of its records.
    Milestone(Bytes, Ts),
    /// The key's lock; none removes it.
    Lock(Bytes, Option<Arc<Lock>>),
    /// Adds the rollback record of the transaction with this start timestamp; false removes it.
    Rollback(Bytes, Ts, bool),
    /// Lists a deletion that can be dropped once the safe point reaches its commit timestamp; false
    /// removes it from the list.
    Deletion(Bytes, Ts, bool),
    /// A raw key's value and expiry (unix seconds, zero for never); none removes it.
    Raw(Bytes, Option<(Bytes, u64)>),
    /// A row of the meta table; none removes it.
    Meta(String, Option<Vec<u8>>),
}

impl RowChange {
    /// Table, timestamp and key: the order of rows in a batch.
    fn place(&self) -> (u8, Ts, &[u8]) {
        match self {
            Self::Current(key, _) => (0, Ts(0), key),
            Self::History(key, displaced) => (1, displaced.until, key),
            Self::HistoryGone(key) => (1, Ts(0), key),
            Self::Lock(key, _) => (2, Ts(0), key),
            Self::Rollback(key, start_ts, _) => (3, *start_ts, key),
            Self::Deletion(key, commit_ts, _) => (4, *commit_ts, key),
            Self::Raw(key, _) => (5, Ts(0), key),
            Self::Meta(name, _) => (6, Ts(0), name.as_bytes()),
            Self::Milestone(key, _) => (7, Ts(0), key),
        }
    }
}

/// Memory sizes of the storage engine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreConfig {
    /// Memory for blocks read from disk, in bytes.
    pub(crate) block_cache_bytes: u64,
    /// Memory for the newest rows of `current` and of `raw` each, in bytes. Up to twice as much is
    /// held while it is written out.
    pub(crate) memtable_bytes: u64,
}

/// The open tables.
pub(crate) struct Store {
    /// Which keys `current` has. Dropped first, so that its thread ends before the engine does.
    filters: BloomFilters,
    db: Database,
    current: Keyspace,
    history: Keyspace,
    milestones: Keyspace,
    locks: Keyspace,
    rollbacks: Keyspace,
    deletions: Keyspace,
    raw: Keyspace,
    meta: Keyspace,
    safe_point: Arc<AtomicU64>,
    /// Number of the last write.
    writes: AtomicU64,
    probe: Option<SyncProbe>,
    /// Dropped last, so that the directory is released only after the engine has closed its files.
    directory: Arc<Directory>,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("directory", &self.directory.path()).finish_non_exhaustive()
    }
}

const KEY_PREFIX: u8 = b'k';
/// Memtable size of tables that are small or written in key order. A bigger one would save no
/// merging.
const SMALL_MEMTABLE_BYTES: u64 = 8 << 20;
const JOURNAL_BYTES_MAX: u64 = 256 << 20;
/// Row of the meta table that every batch writes: the number of the write.
const WRITES: &str = "writes";

impl Store {
    /// Opens the tables in the directory, and creates them if it is new. Fails when acknowledged
    /// writes are missing or cannot be read.
    pub(crate) fn open(
        directory: Arc<Directory>,
        config: StoreConfig,
        probe: Option<SyncProbe>,
    ) -> Result<Self, StoreError> {
        inspect(&directory)?;
        let safe_point = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&safe_point);
        let db = Database::builder(directory.data())
            .cache_size(config.block_cache_bytes)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .manual_journal_persist(true)
            .with_compaction_filter_factories(Arc::new(move |table| {
                reclaim::filter_for(table, &shared)
            }))
            .open()
            .map_err(|error| {
                if matches!(error, fjall::Error::Locked) {
                    StoreError::InUse(directory.path().display().to_string())
                } else {
                    StoreError::Engine(error)
                }
            })?;
        let table = |name: &str, memtable| {
            db.keyspace(name, || {
                KeyspaceCreateOptions::default()
                    .manual_journal_persist(true)
                    .max_memtable_size(memtable)
            })
        };
        let store = Self {
            filters: BloomFilters::default(),
            current: table("current", config.memtable_bytes)?,
            history: table("history", SMALL_MEMTABLE_BYTES)?,
            milestones: table("milestones", SMALL_MEMTABLE_BYTES)?,
            locks: table("locks", SMALL_MEMTABLE_BYTES)?,
            rollbacks: table("rollbacks", SMALL_MEMTABLE_BYTES)?,
            deletions: table("deletions", SMALL_MEMTABLE_BYTES)?,
            raw: table("raw", config.memtable_bytes)?,
            meta: table("meta", SMALL_MEMTABLE_BYTES)?,
            db,
            safe_point,
            writes: AtomicU64::new(0),
            probe,
            directory,
        };
        if let Some(row) = store.meta(WRITES)? {
            store.writes.store(decode_u64(&row)?, Ordering::Relaxed);
        }
        store.check_marks()?;
        if let Some(row) = store.meta("safe_point")? {
            store.set_safe_point(Ts(decode_u64(&row)?));
        }
        store.filters.begin(&store.db, &store.current);
        Ok(store)
    }

    /// Applies the changes as one atomic batch, which is on disk when this returns. After an error
    /// nothing of the batch is readable, but it may show up after the next start. `repeated` tells
    /// that a row may be changed twice; the last change counts.
    pub(crate) fn apply(&self, changes: &[RowChange], repeated: bool) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let rows = changes.len().saturating_add(1);
        let mut batch = fjall::OwnedWriteBatch::with_capacity(self.db.clone(), rows)
            .durability(Some(PersistMode::SyncData));
        let mut key = Vec::new();
        let mut row = Vec::new();
        if repeated {
            let mut last = HashMap::with_capacity(changes.len());
            for (position, change) in changes.iter().enumerate() {
                let (table, _) = self.encode(change, &mut key, &mut row);
                last.insert((table.id(), key.clone()), position);
            }
            for (position, change) in changes.iter().enumerate() {
                let (table, present) = self.encode(change, &mut key, &mut row);
                if last.get(&(table.id(), key.clone())) == Some(&position) {
                    push(&mut batch, table, &key, present.then_some(&row));
                }
            }
        } else {
            // In key order, successive inserts touch the same part of the engine's memtable, which
            // is then in the processor's cache.
            let mut ordered: Vec<&RowChange> = changes.iter().collect();
            ordered.sort_unstable_by(|a, b| a.place().cmp(&b.place()));
            for change in ordered {
                let (table, present) = self.encode(change, &mut key, &mut row);
                push(&mut batch, table, &key, present.then_some(&row));
            }
        }
        let writes = self.writes.load(Ordering::Relaxed).wrapping_add(1);
        batch.insert(&self.meta, WRITES, writes.to_be_bytes());
        let adding = self.filters.adding();
        batch.commit()?;
        self.writes.store(writes, Ordering::Relaxed);
        for change in changes {
            if let RowChange::Current(key, Some(_)) = change {
                adding.add(key);
            }
        }
        drop(adding);
        self.filters.grow(&self.db, &self.current);
        if let Some(probe) = &self.probe {
            probe(self.directory.path())?;
        }
        self.directory.marks().wrote(writes)?;
        Ok(())
    }

    /// Fails when the tables are older than the last acknowledged write.
    fn check_marks(&self) -> Result<(), StoreError> {
        let (found, known) =
            (self.writes.load(Ordering::Relaxed), self.directory.marks().held().writes);
        if found < known {
            let file = self.directory.data();
            return Err(lost(&self.directory, &file.display().to_string(), found, known));
        }
        Ok(())
    }

    /// Encodes the row of a change into the buffers. Returns its table, and whether the row exists
    /// afterwards.
    fn encode(
        &self,
        change: &RowChange,
        key: &mut Vec<u8>,
        row: &mut Vec<u8>,
    ) -> (&Keyspace, bool) {
        match change {
            RowChange::Current(user_key, current) => {
                prefixed(user_key, key);
                if let Some(current) = current {
                    codec::encode_current(current, row);
                }
                (&self.current, current.is_some())
            }
            RowChange::History(user_key, displaced) => {
                let Displaced { version, until, .. } = displaced;
                codec::history_key(user_key, *until, version.commit_ts, key);
                codec::encode_displaced(displaced, row);
                (&self.history, true)
            }
            RowChange::HistoryGone(row_key) => {
                key.clear();
                key.extend_from_slice(row_key);
                (&self.history, false)
            }
            RowChange::Milestone(user_key, at) => {
                codec::milestone_key(user_key, *at, key);
                row.clear();
                (&self.milestones, true)
            }
            RowChange::Lock(user_key, lock) => {
                prefixed(user_key, key);
                if let Some(lock) = lock {
                    codec::encode_lock(lock, row);
                }
                (&self.locks, lock.is_some())
            }
            RowChange::Rollback(user_key, start_ts, present) => {
                codec::timed_key(*start_ts, user_key, key);
                row.clear();
                (&self.rollbacks, *present)
            }
            RowChange::Deletion(user_key, commit_ts, present) => {
                codec::timed_key(*commit_ts, user_key, key);
                row.clear();
                (&self.deletions, *present)
            }
            RowChange::Raw(user_key, value) => {
                prefixed(user_key, key);
                row.clear();
                if let Some((value, expiry)) = value {
                    row.extend_from_slice(&expiry.to_be_bytes());
                    row.extend_from_slice(value);
                }
                (&self.raw, value.is_some())
            }
            RowChange::Meta(name, value) => {
                key.clear();
                key.extend_from_slice(name.as_bytes());
                row.clear();
                if let Some(value) = value {
                    row.extend_from_slice(value);
                }
                (&self.meta, value.is_some())
            }
        }
    }

    /// A key's newest records; empty when it has none.
    pub(crate) fn current(&self, key: &[u8]) -> Result<Current, StoreError> {
        if !self.filters.may_hold(key) {
            return Ok(Current::default());
        }
        let mut row_key = Vec::with_capacity(key.len() + 1);
        prefixed(key, &mut row_key);
        match self.current.get(&row_key)? {
            Some(row) => Ok(codec::decode_current(&row)?),
            None => Ok(Current::default()),
        }
    }

    /// Whether the transaction was rolled back on the key.
    pub(crate) fn rolled_back(&self, key: &[u8], start_ts: Ts) -> Result<bool, StoreError> {
        let mut row_key = Vec::with_capacity(key.len() + 8);
        codec::timed_key(start_ts, key, &mut row_key);
        Ok(self.rollbacks.contains_key(&row_key)?)
    }

    /// All locks.
    pub(crate) fn all_locks(
        &self,
    ) -> impl Iterator<Item = Result<(Bytes, Lock), StoreError>> + use<> {
        self.locks.iter().map(|guard| {
            let (key, row) = guard.into_inner()?;
            Ok((user_key(&key)?, codec::decode_lock(&row)?))
        })
    }

    /// Newest records of the keys in `range`, in a snapshot, ascending or descending.
    pub(crate) fn scan_current(
        &self,
        range: &KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<(Bytes, Current), StoreError>>> {
        let rows = self.db.snapshot().range(&self.current, range.rows());
        directed(rows, reverse, |guard| {
            let (key, row) = guard.into_inner()?;
            Ok((user_key(&key)?, codec::decode_current(&row)?))
        })
    }

    /// A raw key's value and expiry in unix seconds.
    pub(crate) fn raw(&self, key: &[u8]) -> Result<Option<(Bytes, u64)>, StoreError> {
        let mut row_key = Vec::with_capacity(key.len() + 1);
        prefixed(key, &mut row_key);
        match self.raw.get(&row_key)? {
            Some(row) => Ok(Some(decode_raw(&row)?)),
            None => Ok(None),
        }
    }

    /// Raw keys in `range` with their values and expiries, in a snapshot, ascending or descending.
    #[expect(clippy::type_complexity, reason = "a row and its expiry, said once")]
    pub(crate) fn scan_raw(
        &self,
        range: &KeyRange,
        reverse: bool,
    ) -> Box<dyn Iterator<Item = Result<(Bytes, (Bytes, u64)), StoreError>>> {
        let rows = self.db.snapshot().range(&self.raw, range.rows());
        directed(rows, reverse, |guard| {
            let (key, row) = guard.into_inner()?;
            Ok((user_key(&key)?, decode_raw(&row)?))
        })
    }

    /// Rollback records of transactions that started at or before `until`, oldest first.
    pub(crate) fn rollbacks_until(
        &self,
        until: Ts,
    ) -> impl Iterator<Item = Result<(Ts, Bytes), StoreError>> + use<> {
        timed_rows(&self.rollbacks, until)
    }

    /// Deletions committed at or before `until`, oldest first.
    pub(crate) fn deletions_until(
        &self,
        until: Ts,
    ) -> impl Iterator<Item = Result<(Ts, Bytes), StoreError>> + use<> {
        timed_rows(&self.deletions, until)
    }

    /// A row of the meta table.
    pub(crate) fn meta(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.meta.get(name)?.map(|row| row.to_vec()))
    }

    /// Lets compaction drop, from now on, what no read at or above this timestamp can see.
    pub(crate) fn set_safe_point(&self, safe_point: Ts) {
        self.safe_point.fetch_max(safe_point.0, Ordering::Relaxed);
    }

    /// Approximate sizes.
    pub(crate) fn size(&self) -> Result<StoreSize, StoreError> {
        let big = [&self.current, &self.history, &self.milestones, &self.locks, &self.raw];
        let small = [&self.rollbacks, &self.deletions, &self.meta];
        Ok(StoreSize {
            disk_bytes: self.db.disk_space()?,
            table_bytes: big.iter().chain(&small).map(|table| table.disk_space()).sum(),
            history_rows: self.history.approximate_len(),
        })
    }
}

/// Checks the journals before the engine opens them, which would cut off what it cannot read.
fn inspect(directory: &Directory) -> Result<(), StoreError> {
    let data = directory.data();
    let known = directory.marks().held().writes;
    // The engine writes this file once its first journal exists.
    if !data.join("version").try_exists()? {
        if known > 0 {
            return Err(lost(directory, &data.display().to_string(), 0, known));
        }
        return Ok(());
    }
    let contents = journal::inspect(&data)?;
    if let Some(last) = contents.last.filter(|last| last.number < known) {
        let place = format!("{} ends at byte {}", last.file.display(), last.end);
        return Err(lost(directory, &place, last.number, known));
    }
    if let Some(torn) = contents.torn {
        tracing::warn!(
            file = %torn.file.display(),
            offset = torn.offset,
            bytes = torn.bytes,
            "the last write is torn and is dropped; nobody was told that it succeeded"
        );
    }
    Ok(())
}

fn lost(directory: &Directory, place: &str, found: u64, known: u64) -> StoreError {
    let marks = directory.marks().path().display();
    StoreError::Damaged(format!(
        "{place}: write {found} is the last one there, but {known} was acknowledged. Restore the \
         data directory from a copy, or start with an empty one. To open what is left and lose the \
         rest, remove {marks}"
    ))
}

fn push(batch: &mut fjall::OwnedWriteBatch, table: &Keyspace, key: &[u8], row: Option<&Vec<u8>>) {
    match row {
        Some(row) => batch.insert(table, key, row.as_slice()),
        None => batch.remove(table, key),
    }
}

fn directed<T: 'static>(
    rows: fjall::Iter,
    reverse: bool,
    decode: impl Fn(fjall::Guard) -> Result<T, StoreError> + 'static,
) -> Box<dyn Iterator<Item = Result<T, StoreError>>> {
    if reverse { Box::new(rows.rev().map(decode)) } else { Box::new(rows.map(decode)) }
}

fn timed_rows(
    table: &Keyspace,
    until: Ts,
) -> impl Iterator<Item = Result<(Ts, Bytes), StoreError>> + use<> {
    let end = match until.0.checked_add(1) {
        Some(after) => Bound::Excluded(after.to_be_bytes().to_vec()),
        None => Bound::Unbounded,
    };
    table.range::<Vec<u8>, _>((Bound::Unbounded, end)).map(|guard| {
        let row_key = guard.key()?;
        let (ts, key) = codec::split_timed_key(&row_key).ok_or(Corrupt("timed"))?;
        Ok((ts, Bytes::copy_from_slice(key)))
    })
}

fn prefixed(key: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.push(KEY_PREFIX);
    out.extend_from_slice(key);
}

fn user_key(row_key: &[u8]) -> Result<Bytes, Corrupt> {
    match row_key.split_first() {
        Some((&KEY_PREFIX, key)) => Ok(Bytes::copy_from_slice(key)),
        Some(_) | None => Err(Corrupt("key")),
    }
}

fn decode_raw(row: &[u8]) -> Result<(Bytes, u64), Corrupt> {
    let (expiry, value) = row.split_first_chunk::<8>().ok_or(Corrupt("raw"))?;
    Ok((Bytes::copy_from_slice(value), u64::from_be_bytes(*expiry)))
}

/// Decodes an eight-byte integer of the meta table.
pub(crate) fn decode_u64(row: &[u8]) -> Result<u64, Corrupt> {
    Ok(u64::from_be_bytes(row.try_into().map_err(|_| Corrupt("integer"))?))
}
