//! The thread that writes groups to disk.

use super::timestamps::META_CEILING;
use super::{Done, Engine, Inner, load_state, open_store};
use crate::store::{Directory, RowChange, Store, StoreError};
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Rows retired within one hold of the mutex.
const RETIRE_AT_ONCE: usize = 256;

/// Pause before an attempt to write again after a failure: the first one, and the longest while
/// attempts fail although there seems to be room.
const RETRY_EVERY: Duration = Duration::from_millis(500);
const RETRY_EVERY_MAX: Duration = Duration::from_secs(8);

/// The running thread. Dropping this writes all waiting changes and stops the thread.
#[derive(Debug)]
pub(crate) struct Committer {
    engine: Arc<Engine>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    pub(super) fn start(engine: Arc<Engine>) -> std::io::Result<Self> {
        let shared = Arc::clone(&engine);
        let thread = std::thread::Builder::new()
            .name("dev-kv-commit".to_owned())
            .spawn(move || run(&shared))?;
        Ok(Self { engine, thread: Some(thread) })
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.engine.close();
        self.engine.lock().stopping = true;
        self.engine.work.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("committer panicked");
        }
        // Another process can take the directory once the last request has dropped the store.
        let mut inner = self.engine.lock();
        inner.store = None;
        inner.directory = None;
    }
}

/// Keys of the last written group. They are retired after the next one.
#[derive(Default)]
struct Retiring {
    number: u64,
    keys: Vec<Bytes>,
    raw_keys: Vec<Bytes>,
}

/// State of the recovery from a failed write.
struct Recovery {
    /// Pause before the next attempt.
    pause: Duration,
    /// Whether a write failed since the store was opened. The storage engine then refuses all
    /// further writes.
    spoiled: bool,
    /// Whether it was logged that the store cannot be opened.
    told: bool,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { pause: RETRY_EVERY, spoiled: false, told: false }
    }
}

fn run(engine: &Engine) {
    let mut retiring = Retiring::default();
    let mut recovery = Recovery::default();
    loop {
        let mut inner = engine.lock();
        while inner.state.open.changes.is_empty() && !inner.stopping && inner.read_only.is_none() {
            inner = engine.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        if inner.read_only.is_some() {
            if inner.stopping {
                return;
            }
            drop(inner);
            std::thread::sleep(recovery.pause);
            recover(engine, &mut recovery);
            continue;
        }
        if inner.state.open.changes.is_empty() {
            return; // stopping, and no change is waiting
        }
        let group = inner.state.close_group();
        let next = inner.state.open.number;
        inner.waiting.push((next, Arc::default()));
        let Some(store) = inner.store.clone() else {
            return;
        };
        drop(inner);

        let written = store.apply(&group.changes, group.repeated);
        drop(store);
        match written {
            Ok(()) => {
                count(engine, &group.changes);
                let done = {
                    let mut inner = engine.lock();
                    inner.state.complete(group.number, &group.rollbacks);
                    finished(&mut inner, group.number)
                };
                if let Some(done) = done {
                    done.finish(Ok(()));
                }
                if group.unlocked {
                    engine.unlocked.notify_waiters();
                }
                let old = std::mem::replace(
                    &mut retiring,
                    Retiring {
                        number: group.number,
                        keys: group.touched,
                        raw_keys: group.raw_touched,
                    },
                );
                retire(engine, &old);
            }
            Err(error) => {
                let why = types::error::chain(&error);
                tracing::error!(error = %why, "group not written, serving reads only");
                retiring = Retiring::default();
                fail(engine, &why);
                recovery = Recovery::default();
                reopen(engine, &mut recovery);
            }
        }
    }
}

fn finished(inner: &mut Inner, number: u64) -> Option<Arc<Done>> {
    let place = inner.waiting.iter().position(|(group, _)| *group == number)?;
    Some(inner.waiting.remove(place).1)
}

fn count(engine: &Engine, changes: &[RowChange]) {
    let counters = engine.counters();
    counters.groups.fetch_add(1, Ordering::Relaxed);
    counters.rows.fetch_add(changes.len() as u64, Ordering::Relaxed);
    let commits =
        changes.iter().filter(|change| matches!(change, RowChange::Current(_, Some(_)))).count();
    counters.commits.fetch_add(commits as u64, Ordering::Relaxed);
}

fn retire(engine: &Engine, old: &Retiring) {
    for keys in old.keys.chunks(RETIRE_AT_ONCE) {
        engine.lock().state.retire(keys, old.number);
    }
    for keys in old.raw_keys.chunks(RETIRE_AT_ONCE) {
        engine.lock().state.retire_raw(keys, old.number);
    }
}

/// Fails all waiting callers, and closes the store until it can be opened again.
fn fail(engine: &Engine, why: &str) {
    let waiting = {
        let mut inner = engine.lock();
        inner.read_only = Some(why.to_owned());
        inner.store = None;
        std::mem::take(&mut inner.waiting)
    };
    for (_, done) in waiting {
        done.finish(Err(why.to_owned()));
    }
}

/// Tries to write once there is room. A success ends the read-only time. The store stays open for
/// reads while there is no room.
fn recover(engine: &Engine, recovery: &mut Recovery) {
    let (store, directory) = {
        let inner = engine.lock();
        (inner.store.clone(), inner.directory.clone())
    };
    let Some(store) = store else {
        reopen(engine, recovery);
        return;
    };
    if !directory.is_some_and(|directory| directory.has_room()) {
        return;
    }
    if recovery.spoiled {
        engine.lock().store = None;
        drop(store);
        reopen(engine, recovery);
    } else if probe(engine, &store) {
        *recovery = Recovery::default();
        engine.lock().read_only = None;
        tracing::info!("writes are accepted again");
    } else {
        recovery.spoiled = true;
        recovery.pause = (recovery.pause * 2).min(RETRY_EVERY_MAX);
    }
}

/// Opens the store again. This settles whether a failed write is on disk.
fn reopen(engine: &Engine, recovery: &mut Recovery) {
    let Some(directory) = engine.lock().directory.clone() else { return };
    // Requests that still hold the old store keep the engine's files locked. The next attempt
    // follows soon.
    match open_anew(engine, &directory) {
        Ok(()) => {
            recovery.spoiled = false;
            recovery.told = false;
        }
        Err(error) => {
            if !std::mem::replace(&mut recovery.told, true) {
                let error = types::error::chain(&error);
                tracing::warn!(error = %error, "store not reopened yet, nothing is served");
            }
        }
    }
}

fn open_anew(engine: &Engine, directory: &Arc<Directory>) -> Result<(), StoreError> {
    let store = Arc::new(open_store(&engine.config, directory)?);
    let completed = engine.lock().state.open.number;
    let mut state = load_state(&store, &engine.config, completed)?;
    let mut inner = engine.lock();
    state.max_read_ts = inner.state.max_read_ts;
    inner.waiting = vec![(state.open.number, Arc::default())];
    inner.state = state;
    inner.store = Some(store);
    Ok(())
}

/// Writes a test row, and the ceiling, which may have been raised in the marks meanwhile.
fn probe(engine: &Engine, store: &Store) -> bool {
    let ceiling = engine.oracle().ceiling().to_be_bytes().to_vec();
    let meta = |name: &str, row| RowChange::Meta(name.to_owned(), Some(row));
    store.apply(&[meta("probe", vec![0; 4096]), meta(META_CEILING, ceiling)], false).is_ok()
}
