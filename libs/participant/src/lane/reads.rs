//! Answers reads beside the batches, so that no call waits for a batch that only reads.
//!
//! A separate look shows that the lane's state has every entry that was committed by the look's
//! start, which is after the reads arrived (J2). The lane answers them between two batches, from
//! its state at that time. If other calls wait for a batch anyway, reads go along with them: the
//! append then proves that the state was current.

use std::sync::Arc;

use journal::Head;
use storage::{
    KvError, SharedKv,
    keys::Space,
    shard::{Found, read_tail},
};
use tokio::{task::JoinSet, time::Instant};
use tracing::Instrument as _;
use types::{Mutation, Timestamp};

use super::Lane;
use crate::core::{Call, CallId, Domain};

/// The result of a look.
pub(super) struct Shown {
    start: Timestamp,
    found: Found,
    /// The last entry as of the look's start.
    last: u64,
}

/// Reads that wait for a look. At most one look is under way.
pub(super) struct Reads<D: Domain> {
    look: JoinSet<Result<Shown, KvError>>,
    waiting: Vec<(CallId, Call<D>)>,
    /// The head that the lane knew when the look began.
    head: Head,
    began: Instant,
    /// Whether the next batch must take the queued reads.
    in_batch: bool,
}

impl<D: Domain> Default for Reads<D> {
    fn default() -> Self {
        Self {
            look: JoinSet::new(),
            waiting: Vec::new(),
            head: Head::default(),
            began: Instant::now(),
            in_batch: true,
        }
    }
}

impl<D: Domain> Reads<D> {
    /// How many reads wait for a look.
    pub(super) const fn count(&self) -> usize {
        self.waiting.len()
    }

    /// The result of the look under way. `None` without one.
    pub(super) async fn next(&mut self) -> Option<Result<Shown, KvError>> {
        let shown = self.look.join_next().await?;
        Some(shown.unwrap_or_else(|error| Err(KvError::Unavailable(error.to_string()))))
    }

    /// Notes that a batch has ended. A batch that was given up may leave rows newer than the known
    /// state. A look would show that and answer nothing, so the reads go with the next batch at
    /// once.
    pub(super) const fn batch_ended(&mut self, is_done: bool) {
        self.in_batch = !is_done;
    }
}

impl<D: Domain> Lane<D> {
    /// Whether a call may be answered beside the batches.
    pub(super) fn goes_beside(&self, call: &Call<D>) -> bool {
        call.is_read() && !self.reads.in_batch && self.undetermined.is_empty()
    }

    /// Begins a look for the queued reads, unless one is under way. Returns whether a batch must
    /// take them instead, as their rows are not in memory or the state was never current.
    pub(super) fn begin_reads(&mut self) -> bool {
        let beside = |(_, call): &(CallId, Call<D>)| self.goes_beside(call);
        if !self.reads.look.is_empty() || !self.queued.iter().any(beside) {
            return false;
        }
        let is_loaded = |call: &Call<D>| self.core.missing_for(call).is_empty();
        let mut reads = self.queued.iter().filter(|queued| beside(queued));
        if !self.core.is_open() || !reads.all(|(_, call)| is_loaded(call)) {
            self.reads.in_batch = true;
            return true;
        }
        let (waiting, queued) = std::mem::take(&mut self.queued)
            .into_iter()
            .partition::<Vec<_>, _>(|(_, call)| call.is_read());
        self.queued = queued.into();
        let span = self.batch_span(waiting.iter());
        let ids: Vec<CallId> = waiting.iter().map(|(id, _)| *id).collect();
        span.in_scope(|| self.link_batch(&ids));
        self.reads.waiting = waiting;
        self.reads.head = *self.core.checkpoint().head();
        self.reads.began = Instant::now();
        let (kv, space) = (Arc::clone(&self.seams.kv), self.core.space());
        self.reads.look.spawn(look(kv, space, self.core.tail().seq()).instrument(span));
        false
    }

    /// Answers the reads that waited for this look. Those that cannot be answered go to the next
    /// batch. Call between batches only.
    pub(super) fn answer_reads(&mut self, shown: Result<Shown, KvError>) {
        let waiting = std::mem::take(&mut self.reads.waiting);
        let start = shown.ok().filter(|shown| self.proves(shown)).map(|shown| shown.start);
        let mut answers = Vec::new();
        let mut taken = Vec::new();
        let mut left = Vec::new();
        for (id, call) in waiting {
            if let Some(answer) = start.and_then(|start| self.core.read(&call, start)) {
                answers.push((id, answer));
                taken.push((id, call));
            } else {
                left.push((id, call));
            }
        }
        if !left.is_empty() {
            self.reads.in_batch = true;
            left.extend(std::mem::take(&mut self.queued));
            self.queued = left.into();
        }
        let Some(start) = start else { return };
        // No batch may start at an earlier timestamp than an answered read.
        self.early = None;
        let oldest = answers.first().map(|(id, _)| *id);
        self.batch_answered("read", answers.len(), self.reads.began, oldest);
        self.tell_calls(start, taken.iter(), &answers);
        for (id, answer) in answers {
            self.send(id, Ok(answer));
        }
    }

    /// Returns reads that wait for a look to the queue.
    pub(super) fn give_reads_back(&mut self) {
        self.reads.look.abort_all();
        self.answer_reads(Err(KvError::Unavailable("the lane stops".to_owned())));
    }

    /// Whether the state has every entry that was committed when the look began. It may have later
    /// ones: this lane's own, or what a batch has found since.
    fn proves(&self, shown: &Shown) -> bool {
        let tail = self.core.tail();
        let is_same_store = shown.found.is_current && shown.found.head.follows(&self.reads.head);
        let has_all = shown.found.head.oldest <= tail.seq() + 1 && shown.last <= tail.seq();
        let is_sound = !self.core.is_damaged() && !tail.is_undetermined();
        !self.reads.in_batch
            && is_sound
            && (is_same_store && has_all || Mutation::ReadWithoutLook.is_on())
    }
}

/// Looks at the head and at what follows entry `known`.
async fn look(kv: SharedKv, space: Space, known: u64) -> Result<Shown, KvError> {
    let mut txn = kv.begin().await?;
    let (found, entries) = read_tail(&mut *txn, space, known).await?;
    let last = entries.last().map_or(known, |(seq, _)| *seq);
    Ok(Shown { start: txn.read_ts(), found, last })
}
