//! A deterministic store in memory, for simulation and tests. It has TiKV's snapshot isolation and,
//! on demand, TiKV's failures.
//!
//! The store itself draws no random numbers, reads no clock and spawns no task: time comes from
//! [`types::Clock`] and tokio's clock, failures from [`Faults`]. Iteration is always ordered. So
//! the same schedule of calls always gives the same history.

mod faults;
#[cfg(test)]
mod tests;
mod txn;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    ops::{Bound, Range},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use storage::kv::{Key, Kv, KvError, Reads, SharedKv, Txn, Value};
use tokio::time::{Instant, sleep};
use types::{Clock, Timestamp};

pub use faults::{After, Call, CallFate, Chaos, ChaosRates, Faults, Landing, Op, Plan};

use crate::env::TokioClock;
use txn::MemTxn;

/// The writes of a KV transaction. `None` is a removal.
type Writes = BTreeMap<Key, Option<Value>>;

/// One simulated process's handle to the store. Clones share the store.
#[derive(Clone)]
pub struct MemKv {
    store: Arc<Store>,
    faults: Arc<dyn Faults>,
    process: u32,
}

/// Counts of what has happened in a store so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// KV transactions with writes that landed, including late ones.
    pub commits: u64,
    /// Keys that they wrote.
    pub mutations: u64,
    /// Commits rejected because another transaction was first.
    pub conflicts: u64,
    /// Commits that landed after their caller had been told `Undetermined`.
    pub late: u64,
}

struct Store {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_ts: Timestamp,
    /// Versions of each key, oldest first.
    versions: BTreeMap<Key, Vec<(Timestamp, Option<Value>)>>,
    late: Vec<Late>,
    safe_point: Timestamp,
    calls: u64,
    stats: Stats,
}

/// A commit that will still land, although its caller was told `Undetermined`.
struct Late {
    due: Instant,
    start_ts: Timestamp,
    writes: Writes,
    inserts: BTreeSet<Key>,
}

impl fmt::Debug for MemKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemKv").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Default for MemKv {
    /// An empty store without faults, whose clock is a new [`TokioClock`].
    fn default() -> Self {
        Self::new(Arc::new(TokioClock::default()))
    }
}

impl MemKv {
    /// Makes an empty store without faults, seen by process 0.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            store: Arc::new(Store { clock, state: Mutex::default() }),
            faults: Arc::new(|_: &Call<'_>| Plan::PROCEED),
            process: 0,
        }
    }

    /// The same store, with these faults for calls of this handle and its later clones.
    #[must_use]
    pub fn with_faults(&self, faults: Arc<dyn Faults>) -> Self {
        Self { faults, ..self.clone() }
    }

    /// The same store, as seen by this process. The number is passed to [`Faults`].
    #[must_use]
    pub fn process(&self, process: u32) -> Self {
        Self { process, ..self.clone() }
    }

    /// This handle as the seam's type.
    pub fn shared(&self) -> SharedKv {
        Arc::new(self.clone())
    }

    /// Counts of what has happened so far.
    pub fn stats(&self) -> Stats {
        self.state().stats
    }

    /// The newest values of all keys, for checks at the end of a test.
    pub fn contents(&self) -> BTreeMap<Key, Value> {
        let state = self.state();
        state
            .versions
            .iter()
            .filter_map(|(key, versions)| Some((key.clone(), versions.last()?.1.clone()?)))
            .collect()
    }

    /// All versions that were written and not collected, oldest first for each key. `None` is a
    /// removal.
    pub fn versions(&self) -> BTreeMap<Key, Vec<(Timestamp, Option<Value>)>> {
        self.state().versions.clone()
    }

    /// Locks the state, after landing the late commits that are due.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.store.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.land_due(self.store.clock.as_ref());
        state
    }

    fn next_ts(&self) -> Timestamp {
        self.state().next_ts(self.store.clock.as_ref())
    }

    /// Asks the faults what happens to a call, and waits for the first delay.
    async fn enter(&self, op: Op, start_ts: Timestamp, primary: &[u8]) -> (u64, Plan) {
        let number = {
            let mut state = self.state();
            state.calls += 1;
            state.calls
        };
        let call = Call { process: self.process, number, op, start_ts, key: primary };
        let plan = self.faults.before(&call);
        if !plan.delay_before.is_zero() {
            sleep(plan.delay_before).await;
        }
        if matches!(plan.fate, CallFate::Vanish) {
            std::future::pending::<()>().await;
        }
        (number, plan)
    }

    /// Tells the faults that the effect is done, and waits for the second delay.
    async fn leave(&self, op: Op, start_ts: Timestamp, key: &[u8], entered: &(u64, Plan)) {
        let (number, plan) = entered;
        let call = Call { process: self.process, number: *number, op, start_ts, key };
        if matches!(self.faults.after(&call), After::Vanish) {
            std::future::pending::<()>().await;
        }
        if !plan.delay_after.is_zero() {
            sleep(plan.delay_after).await;
        }
    }

    /// Makes a call whose effect happens at one moment, with the faults applied.
    async fn call<T>(
        &self,
        op: Op,
        start_ts: Timestamp,
        key: &[u8],
        effect: impl FnOnce(&Self) -> T + Send,
    ) -> Result<T, KvError>
    where
        T: Send,
    {
        let entered = self.enter(op, start_ts, key).await;
        let outcome = match &entered.1.fate {
            CallFate::Fail(error) => Err(error.clone()),
            CallFate::Proceed
            | CallFate::Conflict
            | CallFate::Undetermined(_)
            | CallFate::Vanish => Ok(effect(self)),
        };
        self.leave(op, start_ts, key, &entered).await;
        outcome
    }
}

#[async_trait]
impl Kv for MemKv {
    async fn timestamp(&self) -> Result<Timestamp, KvError> {
        self.call(Op::Timestamp, Timestamp::default(), &[], Self::next_ts).await
    }

    async fn begin(&self) -> Result<Box<dyn Txn>, KvError> {
        let start_ts = self.call(Op::Begin, Timestamp::default(), &[], Self::next_ts).await?;
        Ok(Box::new(MemTxn::new(self.clone(), start_ts)))
    }

    fn snapshot(&self, at: Timestamp) -> Box<dyn Reads> {
        Box::new(MemTxn::new(self.clone(), at))
    }

    async fn collect_garbage(&self, safe_point: Timestamp) -> Result<Timestamp, KvError> {
        self.call(Op::CollectGarbage, safe_point, &[], |kv| {
            let mut state = kv.state();
            state.collect_garbage(safe_point);
            state.safe_point
        })
        .await
    }
}

impl State {
    /// A timestamp after all earlier ones, and not before the clock.
    fn next_ts(&mut self, clock: &dyn Clock) -> Timestamp {
        let now = Timestamp::from_physical(clock.now());
        self.last_ts = now.max(Timestamp(self.last_ts.0 + 1));
        self.last_ts
    }

    fn get(&self, key: &[u8], at: Timestamp) -> Option<&Value> {
        self.versions.get(key).and_then(|all| visible(all, at))
    }

    /// Pairs of a range as of a timestamp, overlaid with own writes.
    fn scan(
        &self,
        range: &Range<Key>,
        limit: u32,
        at: Timestamp,
        own: &Writes,
    ) -> Vec<(Key, Value)> {
        if range.start >= range.end {
            return Vec::new();
        }
        let bounds =
            (Bound::Included(range.start.as_slice()), Bound::Excluded(range.end.as_slice()));
        let mut merged: BTreeMap<&Key, &Value> = self
            .versions
            .range::<[u8], _>(bounds)
            .filter_map(|(key, all)| Some((key, visible(all, at)?)))
            .collect();
        for (key, write) in own.range::<[u8], _>(bounds) {
            match write {
                Some(value) => merged.insert(key, value),
                None => merged.remove(key),
            };
        }
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        merged.into_iter().take(limit).map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    /// First committer wins: returns `None` if a key was written after the transaction began, or if
    /// a key to be inserted has a value.
    ///
    /// As in TiKV, this sees only versions that are still there. Garbage collection past a
    /// transaction's start forgets the removal of a key, and the conflict with it.
    fn commit(
        &mut self,
        clock: &dyn Clock,
        start_ts: Timestamp,
        writes: Writes,
        inserts: &BTreeSet<Key>,
    ) -> Option<Timestamp> {
        let conflict = writes.keys().any(|key| {
            let newest = self.versions.get(key).and_then(|all| all.last());
            newest.is_some_and(|(commit_ts, value)| {
                *commit_ts > start_ts || (value.is_some() && inserts.contains(key))
            })
        });
        if conflict {
            self.stats.conflicts += 1;
            return None;
        }
        let commit_ts = self.next_ts(clock);
        self.stats.commits += 1;
        for (key, value) in writes {
            self.stats.mutations += 1;
            self.versions.entry(key).or_default().push((commit_ts, value));
        }
        Some(commit_ts)
    }

    /// Lands the late commits that are due, in the order in which they became due.
    fn land_due(&mut self, clock: &dyn Clock) {
        if self.late.is_empty() {
            return;
        }
        let now = Instant::now();
        let (mut due, waiting): (Vec<Late>, Vec<Late>) =
            mem::take(&mut self.late).into_iter().partition(|late| late.due <= now);
        self.late = waiting;
        due.sort_by_key(|late| late.due); // stable: equals in order of arrival
        for late in due {
            if self.commit(clock, late.start_ts, late.writes, &late.inserts).is_some() {
                self.stats.late += 1;
            }
        }
    }

    fn collect_garbage(&mut self, safe_point: Timestamp) {
        if safe_point <= self.safe_point {
            return; // it never goes back
        }
        self.safe_point = safe_point;
        self.versions.retain(|_, all| {
            let old = all.partition_point(|(commit_ts, _)| *commit_ts <= safe_point);
            let newest_old_is_removal = old
                .checked_sub(1)
                .and_then(|last| all.get(last))
                .is_some_and(|(_, value)| value.is_none());
            // Keep the newest of the old ones, unless it is a removal.
            let drop = if newest_old_is_removal { old } else { old.saturating_sub(1) };
            all.drain(..drop);
            !all.is_empty()
        });
    }
}

/// The newest value at a timestamp.
fn visible(versions: &[(Timestamp, Option<Value>)], at: Timestamp) -> Option<&Value> {
    let count = versions.partition_point(|(commit_ts, _)| *commit_ts <= at);
    let (_, value) = versions.get(count.checked_sub(1)?)?;
    value.as_ref()
}
