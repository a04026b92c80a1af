//! The thread that writes groups to disk.

use super::{Done, Engine, Inner, load_state, open_store};
use crate::store::{RowChange, Store};
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Rows let go within one hold of the mutex.
const RETIRE_AT_ONCE: usize = 256;

/// Between two attempts to write again after a failure.
const RETRY_EVERY: Duration = Duration::from_millis(500);

/// The running thread. Dropping it writes what is waiting, and stops.
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
        // The directory is free for the next process once the last request lets go of the store.
        self.engine.lock().store = None;
    }
}

/// Keys of the last group on disk, which are let go after the next one.
#[derive(Default)]
struct Retiring {
    number: u64,
    keys: Vec<Bytes>,
    raw_keys: Vec<Bytes>,
}

fn run(engine: &Engine) {
    let mut retiring = Retiring::default();
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
            std::thread::sleep(RETRY_EVERY);
            recover(engine);
            continue;
        }
        if inner.state.open.changes.is_empty() {
            return; // stopping, and nothing is waiting
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
                let why = crate::error::chain(&error);
                tracing::error!(error = %why, "group not written, serving reads only");
                retiring = Retiring::default();
                fail(engine, &why);
                recover(engine);
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

/// Everybody waiting is told; nothing is served until the store is opened anew.
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

/// Opens the store anew, if it is not open, and tries to write: a success ends the reads-only time.
fn recover(engine: &Engine) {
    let open = engine.lock().store.clone();
    if let Some(store) = open {
        if probe(&store) {
            let mut inner = engine.lock();
            inner.read_only = None;
            tracing::info!("writes are accepted again");
            return;
        }
        // A failed write leaves the engine refusing all others: it has to be opened anew to try again.
        engine.lock().store = None;
        drop(store);
    }
    // Requests that still hold the old store keep its directory locked; the next round comes soon.
    let store = match open_store(&engine.config) {
        Ok(store) => Arc::new(store),
        Err(error) => {
            tracing::warn!(error = %crate::error::chain(&error), "store not opened anew yet");
            return;
        }
    };
    let completed = engine.lock().state.open.number;
    match load_state(&store, &engine.config, completed) {
        Ok(mut state) => {
            let mut inner = engine.lock();
            state.max_read_ts = inner.state.max_read_ts;
            inner.waiting = vec![(state.open.number, Arc::default())];
            inner.state = state;
            inner.store = Some(store);
        }
        Err(error) => {
            tracing::warn!(error = %crate::error::chain(&error), "locks not loaded anew yet");
        }
    }
}

fn probe(store: &Store) -> bool {
    let change = RowChange::Meta("probe".to_owned(), Some(vec![0; 4096]));
    store.apply(&[change], false).is_ok()
}
