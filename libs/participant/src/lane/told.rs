//! What a lane tells of itself in metrics.

use storage::KvError;
use telemetry::{metrics::LaneVotes, semconv, trace};
use tokio::time::Instant;
use tracing::{Span, field::Empty};
use types::{BranchState, UnixMillis};

use super::{Lane, attempt::AttemptError};
use crate::{core::CallId, domain::Domain};

/// A look at all votes is taken once in so many ticks.
const LOOK_EVERY: u32 = 5;

/// What is kept for it.
#[derive(Debug)]
pub(super) struct Told {
    votes: LaneVotes,
    ticks: u32,
    /// When the oldest call was queued that no batch has taken yet, about.
    waiting_since: Option<Instant>,
}

impl Default for Told {
    fn default() -> Self {
        Self { votes: telemetry::metrics().votes.lane(), ticks: 0, waiting_since: None }
    }
}

impl Told {
    /// A call was queued.
    pub(super) fn queued(&mut self) {
        self.waiting_since.get_or_insert_with(Instant::now);
    }

    /// A batch has ended; what is queued now has been waiting since it began, at most.
    pub(super) fn batch_ended(&mut self, nothing_queued: bool) {
        self.waiting_since = (!nothing_queued).then(Instant::now);
    }

    /// A batch of so many calls, begun at `begun`, was answered.
    pub(super) fn answered(&self, kind: &str, calls: usize, begun: Instant) {
        if calls == 0 {
            return;
        }
        let metrics = telemetry::metrics();
        metrics.lane_batch_size.record(calls, [kind]);
        metrics.lane_batch_duration.record(begun.elapsed(), [kind]);
        if let Some(since) = self.waiting_since {
            metrics.lane_wait.record(begun.saturating_duration_since(since), [kind]);
        }
    }
}

/// A batch must be tried again.
pub(super) fn again(error: &AttemptError) {
    let reason = match error {
        AttemptError::Conflict => "conflict",
        AttemptError::Undetermined(_) => "undetermined",
        AttemptError::Kv(KvError::Unavailable(_) | KvError::Locked) => "unavailable",
        AttemptError::Kv(KvError::Corrupt { .. } | KvError::Refused(_)) => "damaged",
    };
    telemetry::metrics().retries.one(["batch", reason]);
}

impl<D: Domain> Lane<D> {
    /// The span of one try at a batch: in the trace of the oldest call that it may take.
    pub(super) fn batch_span(&self) -> Span {
        let waiting = self.queued.iter().take(self.core.limits().batch_calls);
        let origins = waiting.filter_map(|(id, _)| Some(&self.callers.get(id)?.origin));
        trace::batch(&origins, || {
            tracing::debug_span!(
                target: trace::TARGET,
                "batch of a lane",
                { semconv::BRANCH } = %self.core.branch(),
                { semconv::BATCH_CALLS } = Empty,
            )
        })
    }

    /// Links the batch at hand to the calls that it took.
    pub(super) fn link_batch(&self, taken: &[CallId]) {
        if trace::is_on() {
            let batch = Span::current();
            batch.record(semconv::BATCH_CALLS, taken.len());
            let origins = taken.iter().filter_map(|id| Some(&self.callers.get(id)?.origin));
            trace::link(&batch, origins);
        }
    }

    /// Now and then: how many votes have no outcome, and how old they are.
    pub(super) fn tell_votes(&mut self, now: UnixMillis) {
        self.told.ticks = self.told.ticks.wrapping_add(1);
        if !self.told.ticks.is_multiple_of(LOOK_EVERY) {
            return;
        }
        let open = self.core.book().iter().filter(|entry| entry.state == BranchState::Prepared);
        let (unresolved, overdue_ms) = open.fold((0, 0), |(count, oldest): (u64, u64), entry| {
            (count + 1, oldest.max(now.since(entry.meta.deadline)))
        });
        self.told.votes.set(unresolved, overdue_ms);
    }
}
