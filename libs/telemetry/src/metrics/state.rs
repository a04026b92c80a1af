//! Current state: set by the code that knows it, and read when metrics are collected.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How many of something are in progress.
#[derive(Debug, Clone, Default)]
pub struct Active(Arc<AtomicI64>);

impl Active {
    /// Counts one more until the guard is dropped.
    pub fn enter(&self) -> Entered {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(Arc::clone(&self.0))
    }

    /// Adds `count`, which may be negative, without a guard.
    pub fn add(&self, count: i64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// The current count.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts one in [`Active`] until it is dropped.
#[must_use = "it counts for as long as it is kept"]
#[derive(Debug)]
pub struct Entered(Arc<AtomicI64>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Votes without an outcome, as the lanes of this process know them.
#[derive(Debug, Clone, Default)]
pub struct Votes(Arc<Mutex<Vec<Weak<Slot>>>>);

/// The numbers of one lane.
#[derive(Debug, Default)]
struct Slot {
    unresolved: AtomicU64,
    overdue_ms: AtomicU64,
}

/// Reports the votes of one lane. They count until it is dropped.
#[derive(Debug)]
pub struct LaneVotes(Arc<Slot>);

impl LaneVotes {
    /// Sets how many votes have no outcome, and how many milliseconds the oldest is past its
    /// deadline: 0 if none is past it.
    pub fn set(&self, unresolved: u64, overdue_ms: u64) {
        self.0.unresolved.store(unresolved, Ordering::Relaxed);
        self.0.overdue_ms.store(overdue_ms, Ordering::Relaxed);
    }
}

impl Votes {
    /// A handle for one lane.
    pub fn lane(&self) -> LaneVotes {
        let slot = Arc::new(Slot::default());
        let mut slots = lock(&self.0);
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(&slot));
        LaneVotes(slot)
    }

    /// The number of votes in all, and how many milliseconds the oldest is past its deadline; none
    /// if there are no lanes.
    pub fn totals(&self) -> Option<(u64, u64)> {
        let slots = lock(&self.0);
        let told = slots.iter().filter_map(Weak::upgrade).map(|slot| {
            (slot.unresolved.load(Ordering::Relaxed), slot.overdue_ms.load(Ordering::Relaxed))
        });
        told.reduce(|(sum, oldest), (unresolved, overdue_ms)| {
            (sum.saturating_add(unresolved), oldest.max(overdue_ms))
        })
    }
}

/// The result of an audit of the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// Number of offences by invariant; empty if the audit is clean.
    pub offences: Vec<(&'static str, u64)>,
    /// Transactions that have a vote but no outcome.
    pub unresolved: u64,
    /// How long the audit took.
    pub took: Duration,
    /// When it finished, by this process's clock.
    pub finished: Instant,
}

/// The last audit; none while another process does the audits.
#[derive(Debug, Clone, Default)]
pub struct AuditState(Arc<Mutex<Option<Audited>>>);

impl AuditState {
    /// Replaces the last audit; none if another process does them now.
    pub fn set(&self, audited: Option<Audited>) {
        *lock(&self.0) = audited;
    }

    /// The last audit, if this process does them.
    pub fn get(&self) -> Option<Audited> {
        lock(&self.0).clone()
    }
}

/// Age of the store's safe point, as known to the replica that sweeps the store.
#[derive(Debug, Clone, Default)]
pub struct SafePointAge(Arc<Mutex<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    watches: bool,
    /// When the safe point was the current time. While that is unknown: when this replica first
    /// swept the store.
    since: Option<Instant>,
}

impl SafePointAge {
    /// Sets whether this replica sweeps the store. [`SafePointAge::get`] is none while another one
    /// does.
    pub fn watch(&self, watches: bool) {
        let mut watched = lock(&self.0);
        watched.watches = watches;
        if watches && watched.since.is_none() {
            watched.since = Some(Instant::now());
        }
    }

    /// Sets the safe point's age as of now.
    pub fn set(&self, age: Duration) {
        let now = Instant::now();
        lock(&self.0).since = Some(now.checked_sub(age).unwrap_or(now));
    }

    /// The age by now; none while another replica sweeps the store.
    pub fn get(&self) -> Option<Duration> {
        let watched = lock(&self.0);
        watched.since.filter(|_| watched.watches).map(|since| since.elapsed())
    }
}

/// Whether this process last reported that it is ready.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<Mutex<Option<bool>>>);

impl Ready {
    /// Sets whether this process is ready.
    pub fn set(&self, ready: bool) {
        *lock(&self.0) = Some(ready);
    }

    /// The last value; none before the first.
    pub fn get(&self) -> Option<bool> {
        *lock(&self.0)
    }
}

/// Each value behind these locks is replaced as a whole, so a panic while one is held leaves it
/// sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn votes_are_those_of_the_lanes_that_live() {
        let votes = Votes::default();
        assert_eq!(votes.totals(), None);
        let first = votes.lane();
        let second = votes.lane();
        first.set(3, 0);
        second.set(4, 1500);
        assert_eq!(votes.totals(), Some((7, 1500)));
        drop(second);
        assert_eq!(votes.totals(), Some((3, 0)));
    }

    #[test]
    fn only_the_sweeping_replica_reports_the_safe_points_age() {
        let age = SafePointAge::default();
        assert_eq!(age.get(), None);
        age.watch(true);
        assert!(age.get().unwrap() < Duration::from_mins(1), "unknown, it counts from now");
        age.set(Duration::from_mins(10));
        assert!(age.get().unwrap() >= Duration::from_mins(10));
        age.watch(false);
        assert_eq!(age.get(), None, "another replica sweeps");
        age.watch(true);
        assert!(age.get().unwrap() >= Duration::from_mins(10), "it did not get younger");
    }

    #[test]
    fn what_is_under_way_is_counted_until_it_ends() {
        let active = Active::default();
        let (one, two) = (active.enter(), active.enter());
        assert_eq!(active.get(), 2);
        drop(one);
        drop(two);
        assert_eq!(active.get(), 0);
    }
}
