//! A lane's metrics, spans and trace events.

use storage::{KvError, codec};
use telemetry::{metrics::LaneVotes, semconv, trace};
use tokio::time::Instant;
use tracing::{Span, field::Empty};
use types::{Timestamp, UnixMillis, Vote};

use super::{Lane, attempt::AttemptError};
use crate::core::{Answer, Call, CallId, Domain};

/// Target of the events that report each call of each batch, at level TRACE.
const CALLS: &str = "participant::calls";

/// Number of ticks between two counts of all votes.
const LOOK_EVERY: u32 = 5;

/// A lane's state for its metrics.
#[derive(Debug)]
pub(super) struct LaneMetrics {
    votes: LaneVotes,
    ticks: u32,
}

impl Default for LaneMetrics {
    fn default() -> Self {
        Self { votes: telemetry::metrics().votes.lane(), ticks: 0 }
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
    /// A batch of `calls` calls, begun at `begun`, is about to be answered.
    pub(super) fn batch_answered(
        &self,
        kind: &str,
        calls: usize,
        begun: Instant,
        oldest: Option<CallId>,
    ) {
        if calls == 0 {
            return;
        }
        let metrics = telemetry::metrics();
        metrics.lane_batch_size.record(calls, [kind]);
        metrics.lane_batch_duration.record(begun.elapsed(), [kind]);
        if let Some(since) = oldest.and_then(|id| self.called_at(id)) {
            metrics.lane_wait.record(begun.saturating_duration_since(since), [kind]);
        }
    }

    /// The span of one attempt at a batch, in the trace of the oldest of these calls that it may
    /// take.
    pub(super) fn batch_span<'a>(
        &self,
        calls: impl Iterator<Item = &'a (CallId, Call<D>)> + Clone,
    ) -> Span {
        let calls = calls.take(self.core.limits().batch_calls);
        let spans = calls.filter_map(|(id, _)| Some(&self.callers.get(id)?.span));
        trace::batch(&spans, || {
            tracing::debug_span!(
                target: trace::TARGET,
                "batch of a lane",
                { semconv::BRANCH } = %self.core.branch(),
                { semconv::BATCH_CALLS } = Empty,
            )
        })
    }

    /// Links the current batch to the calls that it took.
    pub(super) fn link_batch(&self, taken: &[CallId]) {
        if trace::is_on() {
            let batch = Span::current();
            batch.record(semconv::BATCH_CALLS, taken.len());
            let spans = taken.iter().filter_map(|id| Some(&self.callers.get(id)?.span));
            trace::link(&batch, spans);
        }
    }

    /// Reports the calls that a durable batch took and answered, in order. A call that it took
    /// without answering waits for a later batch.
    pub(super) fn tell_calls<'a>(
        &self,
        start: Timestamp,
        taken: impl Iterator<Item = &'a (CallId, Call<D>)>,
        answers: &[(CallId, Answer<D::Reply>)],
    ) {
        if !tracing::enabled!(target: CALLS, tracing::Level::TRACE) {
            return;
        }
        let (branch, batch, lane) = (self.core.branch(), start.0, codec::hex(&self.writer));
        for (id, call) in taken {
            let rows = self.core.rows_of(call);
            let rows: Vec<_> = rows.iter().map(|row| String::from_utf8_lossy(row)).collect();
            let tx = call.tx_id().map(|tx_id| tx_id.to_string());
            tracing::trace!(target: CALLS, %branch, lane, batch, id, call = kind_of(call), ?rows, tx);
        }
        for (id, answer) in answers {
            let answer = answer_in_a_word(answer);
            tracing::trace!(target: CALLS, %branch, lane, batch, id, answer);
        }
    }

    /// Every [`LOOK_EVERY`] ticks, reports how many votes have no outcome, and how old they are.
    pub(super) fn tell_votes(&mut self, now: UnixMillis) {
        self.metrics.ticks = self.metrics.ticks.wrapping_add(1);
        if !self.metrics.ticks.is_multiple_of(LOOK_EVERY) {
            return;
        }
        let open = self.core.table().unresolved();
        let (unresolved, overdue_ms) = open.fold((0, 0), |(count, oldest): (u64, u64), entry| {
            (count + 1, oldest.max(now.since(entry.meta.deadline)))
        });
        self.metrics.votes.set(unresolved, overdue_ms);
    }
}

/// The kind of a call. For an operation, this is the service's name for it.
fn kind_of<D: Domain>(call: &Call<D>) -> String {
    match call {
        Call::Op { op, .. } => {
            let op = format!("{op:?}");
            op.split(|after: char| !after.is_alphanumeric()).next().unwrap_or_default().to_owned()
        }
        Call::Prepare { .. } => "Prepare".to_owned(),
        Call::Reject { .. } => "Reject".to_owned(),
        Call::Commit { .. } => "Commit".to_owned(),
        Call::Abort { .. } => "Abort".to_owned(),
        Call::Query { .. } => "Query".to_owned(),
        Call::Forget { .. } => "Forget".to_owned(),
        Call::Refuse { .. } => "Refuse".to_owned(),
    }
}

const fn answer_in_a_word<R>(answer: &Answer<R>) -> &'static str {
    match answer {
        Answer::Done(..) | Answer::Committed(_) => "done",
        Answer::Refused(_) => "refused",
        Answer::Expired => "expired",
        Answer::Vote(Vote::Yes { .. }) => "yes",
        Answer::Vote(Vote::No { .. }) => "no",
        Answer::Vote(Vote::Contended { .. }) => "contended",
        Answer::Vote(Vote::Fenced) => "fenced",
        Answer::Waiting(_) => "waiting",
        Answer::State(..) | Answer::Aborted { .. } | Answer::Forgotten => "noted",
        Answer::Overloaded => "overloaded",
    }
}
