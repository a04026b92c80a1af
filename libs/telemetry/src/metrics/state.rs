//! What is so now: kept here by whoever knows it, and read when somebody looks.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How many of something are under way.
#[derive(Debug, Clone, Default)]
pub struct Active(Arc<AtomicI64>);

impl Active {
    /// One more, until the guard is dropped.
    pub fn enter(&self) -> Entered {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(Arc::clone(&self.0))
    }

    /// So many more, or fewer, without a guard.
    pub fn add(&self, count: i64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// How many there are.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts one in [`Active`] for as long as it lives.
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

/// What one lane says.
#[derive(Debug, Default)]
struct Slot {
    unresolved: AtomicU64,
    overdue_ms: AtomicU64,
}

/// One lane's word on its votes, for as long as it lives.
#[derive(Debug)]
pub struct LaneVotes(Arc<Slot>);

impl LaneVotes {
    /// So many votes have no outcome; the oldest is this long past its deadline, 0 when none is.
    pub fn set(&self, unresolved: u64, overdue_ms: u64) {
        self.0.unresolved.store(unresolved, Ordering::Relaxed);
        self.0.overdue_ms.store(overdue_ms, Ordering::Relaxed);
    }
}

impl Votes {
    /// A place for one lane's word.
    pub fn lane(&self) -> LaneVotes {
        let slot = Arc::new(Slot::default());
        let mut slots = lock(&self.0);
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(&slot));
        LaneVotes(slot)
    }

    /// How many there are in all, and how long the oldest is past its deadline, in milliseconds; none
    /// where there are no lanes.
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

/// What an audit of the books came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// Offences by invariant; empty when all is well.
    pub offences: Vec<(&'static str, u64)>,
    /// Transactions with a vote without an outcome.
    pub unresolved: u64,
    /// How long it took.
    pub took: Duration,
    /// When it was finished, by this process's clock.
    pub finished: Instant,
}

/// The last audit, while this process does them.
#[derive(Debug, Clone, Default)]
pub struct AuditState(Arc<Mutex<Option<Audited>>>);

impl AuditState {
    /// Replaces the last audit; none: somebody else does them.
    pub fn set(&self, audited: Option<Audited>) {
        *lock(&self.0) = audited;
    }

    /// The last audit.
    pub fn get(&self) -> Option<Audited> {
        lock(&self.0).clone()
    }
}

/// How old the store's safe point is, as far as the replica knows that sweeps the store.
#[derive(Debug, Clone, Default)]
pub struct SafePointAge(Arc<Mutex<Watched>>);

#[derive(Debug, Default)]
struct Watched {
    watches: bool,
    /// When the safe point was now; for want of better, when this replica first swept the store.
    since: Option<Instant>,
}

impl SafePointAge {
    /// Whether this replica sweeps the store; it says nothing while another one does.
    pub fn watch(&self, watches: bool) {
        let mut watched = lock(&self.0);
        watched.watches = watches;
        if watches && watched.since.is_none() {
            watched.since = Some(Instant::now());
        }
    }

    /// The safe point is this old now.
    pub fn set(&self, age: Duration) {
        let now = Instant::now();
        lock(&self.0).since = Some(now.checked_sub(age).unwrap_or(now));
    }

    /// How old it is.
    pub fn get(&self) -> Option<Duration> {
        let watched = lock(&self.0);
        watched.since.filter(|_| watched.watches).map(|since| since.elapsed())
    }
}

/// Whether this process may be sent requests, as it said last.
#[derive(Debug, Clone, Default)]
pub struct Ready(Arc<Mutex<Option<bool>>>);

impl Ready {
    /// Says so.
    pub fn set(&self, ready: bool) {
        *lock(&self.0) = Some(ready);
    }

    /// What was said last; none by what is asked for nothing.
    pub fn get(&self) -> Option<bool> {
        *lock(&self.0)
    }
}

/// What stands behind these locks is replaced as a whole, so a panic elsewhere does not matter.
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
    fn the_safe_points_age_is_told_by_who_sweeps_and_grows() {
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
