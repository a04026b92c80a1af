//! All changes of state: a mutex, a thread that writes groups to disk, and the callers that wait
//! for it.
//!
//! A change is made in memory within one critical section that waits for nothing, so a dropped
//! request never leaves half a change. The committer thread takes all changes that have gathered,
//! writes them with one sync, and wakes the waiting callers. The next group gathers meanwhile.
//!
//! When the disk refuses a group, all waiting callers get an error, the state in memory is dropped,
//! and the store is opened again, because only the disk says what was written. Until a write
//! succeeds again, only reads and timestamps are served.

mod cache;
mod committer;
mod critical_section;
mod maintain;
mod reads;
mod scan;
mod state;
mod timestamps;

pub(crate) use critical_section::CriticalSection;
pub(crate) use scan::ScanRequest;

use crate::SyncProbe;
use crate::model::{Failure, Refusal, TS_MAX, Ts};
use crate::store::codec::Current;
use crate::store::{Directory, RowChange, Store, StoreConfig, StoreError, StoreSize, decode_u64};
use crate::traffic::Traffic;
use crate::tso::Oracle;
use bytes::Bytes;
pub(crate) use committer::Committer;
use state::State;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use timestamps::META_CEILING;
use tokio::sync::Notify;
use types::Clock;

/// A group larger than this many bytes makes further writers wait for the group before it.
const GROUP_BYTES_MAX: usize = 64 << 20;

/// Reads may be this far ahead of the clock, in milliseconds.
const FUTURE_MS_MAX: u64 = 3_600_000;

const META_CLUSTER: &str = "cluster_id";
const META_SAFE_POINT: &str = "safe_point";

/// Why the engine did not answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum EngineError {
    /// The disk refused the group. Whether it holds the change is unknown until the store is opened
    /// again. A retry may help once there is space.
    #[error("the store could not write: {0}")]
    WriteFailed(String),
    /// After a failed write, the store is being opened again, or serves reads only.
    #[error("the store does not accept writes: {0}")]
    ReadOnly(String),
    /// A row could not be read.
    #[error("the store could not read: {0}")]
    ReadFailed(String),
    /// Every timestamp below the ceiling has been given out.
    #[error("the timestamp window is used up")]
    WindowUsedUp,
}

impl From<StoreError> for EngineError {
    fn from(error: StoreError) -> Self {
        Self::ReadFailed(types::error::chain(&error))
    }
}

/// Why an update was not carried out.
#[derive(Debug)]
pub(crate) enum UpdateError {
    /// The rules forbid it.
    Refused(Vec<Refusal>),
    /// The engine failed.
    Engine(EngineError),
}

impl From<EngineError> for UpdateError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<Failure<EngineError>> for UpdateError {
    fn from(failure: Failure<EngineError>) -> Self {
        match failure {
            Failure::Refused(refusals) => Self::Refused(refusals),
            Failure::View(error) => Self::Engine(error),
        }
    }
}

/// How an engine is opened.
#[derive(Clone)]
pub(crate) struct EngineConfig {
    /// The data directory.
    pub(crate) directory: PathBuf,
    /// Memory for rows, in bytes.
    pub(crate) cache_bytes: u64,
    /// Sizes of the storage engine's caches and tables.
    pub(crate) store: StoreConfig,
    /// Called after every sync.
    pub(crate) probe: Option<SyncProbe>,
}

/// What the mutex protects.
struct Inner {
    state: State,
    /// None while the store is being opened again.
    store: Option<Arc<Store>>,
    /// None once the engine has stopped, so that another process can take the directory.
    directory: Option<Arc<Directory>>,
    /// Why only reads are served.
    read_only: Option<String>,
    /// Groups that are not on disk yet: the one being written, and the open one.
    waiting: Vec<(u64, Arc<Done>)>,
    stopping: bool,
}

/// The outcome of writing a group, once it is known.
#[derive(Debug, Default)]
struct Done {
    result: OnceLock<Result<(), String>>,
    changed: Notify,
}

impl Done {
    fn finish(&self, result: Result<(), String>) {
        if self.result.set(result).is_ok() {
            self.changed.notify_waiters();
        }
    }

    async fn wait(&self) -> Result<(), EngineError> {
        loop {
            let changed = self.changed.notified();
            if let Some(result) = self.result.get() {
                return result.clone().map_err(EngineError::WriteFailed);
            }
            changed.await;
        }
    }
}

/// The state of the server: memory, store and timestamps.
pub(crate) struct Engine {
    inner: Mutex<Inner>,
    /// Wakes the committer.
    work: Condvar,
    oracle: Mutex<Oracle>,
    /// Held while the ceiling is raised, so that only one task raises it.
    raising: tokio::sync::Mutex<()>,
    raise_planned: AtomicBool,
    clock: Arc<dyn Clock>,
    cluster_id: u64,
    safe_point: AtomicU64,
    /// Notified when locks were removed.
    unlocked: Notify,
    /// Notified when the safe point moved.
    safe_point_moved: Notify,
    /// Set when garbage collection has to end.
    closing: Arc<AtomicBool>,
    counters: Counters,
    started_at: u64,
    config: EngineConfig,
}

/// Sizes in memory and on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Number of locks.
    pub(crate) locks: usize,
    /// Number of rows that are locked or changed.
    pub(crate) live: usize,
    /// Bytes of cached rows.
    pub(crate) cache_bytes: u64,
    /// Approximate sizes on disk.
    pub(crate) store: StoreSize,
}

/// Figures since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Groups written.
    pub(crate) groups: AtomicU64,
    /// Rows changed on disk.
    pub(crate) rows: AtomicU64,
    /// Versions committed.
    pub(crate) commits: AtomicU64,
    /// Keys read.
    pub(crate) reads: AtomicU64,
    /// Keys read from disk.
    pub(crate) misses: AtomicU64,
    /// Calls by name, and their contents.
    pub(crate) traffic: Traffic,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("directory", &self.config.directory).finish_non_exhaustive()
    }
}

impl Engine {
    /// Opens the directory and starts the committer. `new_cluster_id` becomes the cluster's id if
    /// the directory has none yet.
    pub(crate) fn open(
        config: EngineConfig,
        clock: Arc<dyn Clock>,
        new_cluster_id: u64,
    ) -> Result<(Arc<Self>, Committer), StoreError> {
        let directory = Arc::new(Directory::take(&config.directory)?);
        let store = open_store(&config, &directory)?;
        let cluster_id = if let Some(row) = store.meta(META_CLUSTER)? {
            decode_u64(&row)?
        } else {
            let row = Some(new_cluster_id.to_be_bytes().to_vec());
            store.apply(&[RowChange::Meta(META_CLUSTER.to_owned(), row)], false)?;
            new_cluster_id
        };
        let number = |name| -> Result<u64, StoreError> {
            Ok(match store.meta(name)? {
                Some(row) => decode_u64(&row)?,
                None => 0,
            })
        };
        let oracle = Oracle::resume(number(META_CEILING)?.max(directory.marks().held().ceiling));
        let safe_point = number(META_SAFE_POINT)?;
        let state = load_state(&store, &config, 0)?;
        let started_at = clock.now().0 / 1000;
        let waiting = vec![(state.open.number, Arc::default())];
        let engine = Arc::new(Self {
            inner: Mutex::new(Inner {
                state,
                store: Some(Arc::new(store)),
                directory: Some(directory),
                read_only: None,
                waiting,
                stopping: false,
            }),
            work: Condvar::new(),
            oracle: Mutex::new(oracle),
            raising: tokio::sync::Mutex::new(()),
            raise_planned: AtomicBool::new(false),
            clock,
            cluster_id,
            safe_point: AtomicU64::new(safe_point),
            unlocked: Notify::new(),
            safe_point_moved: Notify::new(),
            closing: Arc::default(),
            counters: Counters::default(),
            started_at,
            config,
        });
        let committer = Committer::start(Arc::clone(&engine))?;
        Ok((engine, committer))
    }

    /// The cluster's id, the same for the life of the directory.
    pub(crate) fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// Figures since the start.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// When the engine was opened, in unix seconds.
    pub(crate) fn started_at(&self) -> u64 {
        self.started_at
    }

    /// The current time, in unix seconds.
    pub(crate) fn unix_seconds(&self) -> u64 {
        self.clock.now().0 / 1000
    }

    /// Whether `version` is far ahead of the clock and of all timestamps given out. A read there
    /// would push later commits that far ahead.
    pub(crate) fn is_far_future(&self, version: Ts) -> bool {
        version != TS_MAX
            && version.physical().0 > self.clock.now().0.saturating_add(FUTURE_MS_MAX)
            && version.physical() > self.oracle().latest().physical()
    }

    /// The sizes in memory and on disk.
    pub(crate) fn sizes(&self) -> Result<Sizes, EngineError> {
        let store = self.store()?;
        let held = store.size()?;
        let inner = self.lock();
        Ok(Sizes {
            locks: inner.state.lock_count(),
            live: inner.state.live.len(),
            cache_bytes: inner.state.cache.weight(),
            store: held,
        })
    }

    /// A row of the meta table.
    pub(crate) fn read_meta(&self, name: &str) -> Result<Option<Vec<u8>>, EngineError> {
        Ok(self.store()?.meta(name)?)
    }

    /// The safe point. Reads below it may miss versions.
    pub(crate) fn safe_point(&self) -> Ts {
        Ts(self.safe_point.load(Ordering::Acquire))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic inside a section is a bug that may have left the state in memory inconsistent.
        // The disk is still consistent. Going on is no worse than refusing every request.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes state. `decide` runs in the critical section, where it reads the state and makes its
    /// changes. Its answer is returned once everything it saw and did is on disk. `keys` are the
    /// keys that it looks at; their rows are read from disk beforehand.
    pub(crate) async fn update<T>(
        &self,
        keys: &[Bytes],
        decide: impl Fn(&mut CriticalSection<'_>) -> Result<(T, Vec<crate::model::Effect>), UpdateError>,
    ) -> Result<T, UpdateError> {
        loop {
            let (looked, rows) = self.fetch(keys)?;
            let (result, seen) = match self.enter(looked, rows, &decide)? {
                Entered::Full(done) => {
                    done.wait().await?;
                    continue;
                }
                Entered::Decided(result, seen) => (result, seen),
            };
            if let Err(UpdateError::Engine(EngineError::WindowUsedUp)) = &result {
                Box::pin(self.raise_ceiling(true)).await?;
                continue;
            }
            if let Some(done) = seen {
                done.wait().await?;
            }
            return result;
        }
    }

    fn enter<T>(
        &self,
        looked: u64,
        rows: Vec<(Bytes, Current)>,
        decide: &impl Fn(
            &mut CriticalSection<'_>,
        ) -> Result<(T, Vec<crate::model::Effect>), UpdateError>,
    ) -> Result<Entered<T>, EngineError> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Some(why) = &inner.read_only {
            return Err(EngineError::ReadOnly(why.clone()));
        }
        let Some(store) = inner.store.clone() else {
            return Err(EngineError::ReadOnly("it is being reopened".to_owned()));
        };
        if inner.state.open.bytes > GROUP_BYTES_MAX
            && let [(_, oldest), _, ..] = inner.waiting.as_slice()
        {
            return Ok(Entered::Full(Arc::clone(oldest)));
        }
        inner.state.stage(rows, looked);
        let before = inner.state.open.changes.len();
        let mut take_ts = |above: Ts| {
            self.oracle().skip_past(above);
            self.take_now(1).ok_or(EngineError::WindowUsedUp)
        };
        let mut section = CriticalSection {
            state: &mut inner.state,
            store: &store,
            seen: 0,
            take_ts: &mut take_ts,
        };
        let decided = decide(&mut section);
        let mut seen = section.seen;
        let result = match decided {
            Ok((answer, effects)) => {
                inner.state.apply(effects, &store)?;
                Ok(answer)
            }
            Err(error) => Err(error),
        };
        if inner.state.open.changes.len() > before {
            seen = inner.state.open.number;
            self.work.notify_one();
        }
        Ok(Entered::Decided(result, pending(&inner.waiting, seen)))
    }

    /// Reads the rows that are not in memory. Also returns the number of the last complete group.
    fn fetch(&self, keys: &[Bytes]) -> Result<(u64, Vec<(Bytes, Current)>), EngineError> {
        let (looked, store, missing) = {
            let inner = self.lock();
            let Some(store) = inner.store.clone() else {
                return Err(EngineError::ReadOnly("it is being reopened".to_owned()));
            };
            let missing: Vec<Bytes> =
                keys.iter().filter(|key| inner.state.current(key).is_none()).cloned().collect();
            (inner.state.completed, store, missing)
        };
        let mut missing = missing;
        missing.sort_unstable();
        let mut rows = Vec::with_capacity(missing.len());
        for key in missing {
            let row = store.current(&key)?;
            rows.push((key, row));
        }
        Ok((looked, rows))
    }

    /// Waits until some lock is removed, or for this long.
    pub(crate) async fn some_unlock(&self, at_most: Duration) {
        // An unlock just before this call is missed. That costs at most `at_most`, which callers
        // keep short.
        drop(tokio::time::timeout(at_most, self.unlocked.notified()).await);
    }
}

enum Entered<T> {
    /// Too much is waiting to be written; retry after this.
    Full(Arc<Done>),
    /// Decided. The answer waits for this.
    Decided(Result<T, UpdateError>, Option<Arc<Done>>),
}

/// What to wait for before a change made in `group` may be reported; none when it is durable.
fn pending(waiting: &[(u64, Arc<Done>)], group: u64) -> Option<Arc<Done>> {
    waiting.iter().rev().find(|(number, _)| *number == group).map(|(_, done)| Arc::clone(done))
}

fn open_store(config: &EngineConfig, directory: &Arc<Directory>) -> Result<Store, StoreError> {
    Store::open(Arc::clone(directory), config.store, config.probe.clone())
}

/// The state in memory right after opening.
fn load_state(store: &Store, config: &EngineConfig, completed: u64) -> Result<State, StoreError> {
    let locks = store.all_locks().collect::<Result<Vec<_>, _>>()?;
    let last_rollback = store.rollbacks_until(TS_MAX).last().transpose()?;
    let asked_until = last_rollback.map_or(Ts(0), |(ts, _)| ts);
    Ok(State::new(config.cache_bytes, locks, asked_until, completed))
}
