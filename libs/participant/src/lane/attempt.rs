//! One try at one batch.

use std::collections::{BTreeMap, BTreeSet};

use storage::{
    CommitError, KvError, Txn,
    kv::TXN_LIFE_MAX,
    schema::{self, SchemaError},
    shard::{self, Head, read_head, read_journal, write_batch},
};
use tokio::time::Instant;
use types::{Mutation, Timestamp};

use super::{Lane, LaneError, Limbo};
use crate::{
    core::{Answer, Batch, Call, CallId, Offered},
    domain::{Domain, Row},
};

/// Calls that are looked at for one batch at least.
const WINDOW_MIN: usize = 64;

/// Why a try must be repeated.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    /// The store did not answer a read, or refused the write for a reason that a retry may cure.
    #[error("the store failed")]
    Kv(#[source] KvError),
    /// Somebody else wrote the shard first.
    #[error("another replica writes this shard")]
    Conflict,
    /// Nobody knows whether the batch landed.
    #[error("the outcome of a batch is unknown: {0}")]
    Undetermined(String),
}

impl From<KvError> for AttemptError {
    fn from(error: KvError) -> Self {
        Self::Kv(error)
    }
}

impl<D: Domain> Lane<D> {
    /// Begins a KV transaction, makes the state current, applies what is queued, and commits.
    pub(super) async fn attempt(&mut self) -> Result<(), AttemptError> {
        let begun = Instant::now();
        let mut txn = self.seams.kv.begin().await?;
        let began = Instant::now();
        let start = txn.read_ts();
        self.seams.store_time.hear(start);
        // Known again only when this succeeds.
        let known_at = self.head_known_at.take();
        let mut checked = !self.may_trust(known_at, start);
        if checked {
            self.refresh(&mut *txn).await?;
        }
        self.runs += 1;
        let run = self.runs;
        let (taken, batch) = loop {
            let taken = self.apply(&mut *txn).await?;
            // As the head is known by now: somebody else may have written since the lane decided to.
            let tidy = self.tidy && self.tends_the_journal();
            let batch = self.core.finish(self.writer, run, tidy);
            if batch.is_some() || checked {
                break (taken, batch);
            }
            // No write proves that the state was current.
            self.core.undo();
            self.refresh(&mut *txn).await?;
            checked = true;
        };
        let answers = self.core.take_answers();
        self.link_batch(&taken);
        let Some(batch) = batch else {
            self.core.settle(None);
            self.head_known_at = Some(start);
            self.told.answered("read", taken.len(), begun);
            self.tell_calls(start, taken.len(), &answers);
            self.deliver(taken.len(), answers);
            return Ok(());
        };
        if began.elapsed() >= TXN_LIFE_MAX {
            // What it read may be garbage collected by now; a fresh one reads again.
            self.core.undo();
            return Err(KvError::Unavailable("the store was too slow".to_owned()).into());
        }
        if Mutation::AnswerBeforeCommit.is_on() {
            for (id, answer) in answers.clone() {
                self.send(id, Ok(answer));
            }
        }
        write(&mut *txn, &self.core, &batch);
        match txn.commit().await {
            Ok(()) => {
                self.core.settle(Some(&batch));
                self.limbo.clear();
                self.head_known_at = Some(start);
                self.refreshed = Some(Instant::now());
                self.moved = self.refreshed;
                self.told.answered("write", taken.len(), begun);
                self.tell_calls(start, taken.len(), &answers);
                self.deliver(taken.len(), answers);
                Ok(())
            }
            Err(CommitError::Conflict) => {
                self.core.undo();
                Err(AttemptError::Conflict)
            }
            Err(CommitError::Failed(error)) => {
                self.core.undo();
                Err(error.into())
            }
            Err(CommitError::Undetermined(what)) => {
                self.core.undo();
                self.limbo.push(Limbo { run, taken, answers });
                Err(AttemptError::Undetermined(what))
            }
        }
    }

    /// Whether a batch that starts at `start` may do without reading the head: it was known a moment ago,
    /// nothing is in doubt, and something will be written, whose commit fails should the head have moved.
    fn may_trust(&self, known_at: Option<Timestamp>, start: Timestamp) -> bool {
        let fresh = known_at
            .is_some_and(|known| start.physical().since(known.physical()) <= shard::TRUST_MS);
        fresh && self.limbo.is_empty() && self.queued.iter().any(|(_, call)| call.is_mutation())
    }

    /// Applies what is queued to the state, with the records that it needs as they stand at the
    /// transaction's start. Returns the calls that were taken.
    async fn apply(&mut self, txn: &mut dyn Txn) -> Result<Vec<CallId>, KvError> {
        loop {
            match self.fill(txn) {
                Ok(taken) => {
                    self.took = taken.len();
                    return Ok(taken);
                }
                Err(rows) => {
                    self.core.undo();
                    // Those of the calls behind it as well, so that one read is enough.
                    let mut wanted = self.missing_rows();
                    wanted.extend(rows);
                    self.load(txn, wanted.into_iter().collect()).await?;
                }
            }
        }
    }

    /// Makes the state that of the head at the transaction's start, and settles runs whose fate was
    /// unknown: the head tells which of them stands.
    async fn refresh(&mut self, txn: &mut dyn Txn) -> Result<(), KvError> {
        let space = self.core.space();
        if self.skips_head() {
            return Ok(());
        }
        let head = read_head(txn, space).await?;
        let moved = head != *self.core.head();
        if moved || self.moved.is_none() {
            self.moved = Some(Instant::now());
        }
        if moved {
            let known = self.core.head().seq;
            if head.seq < known {
                self.check_store(txn).await?;
            }
            let from = if known.saturating_add(1) < head.oldest || head.seq < known {
                self.core.reset();
                head.oldest
            } else {
                known + 1
            };
            let entries = read_journal(txn, space, from, head.seq).await?;
            self.core.catch_up(head.clone(), entries).map_err(|error| KvError::Corrupt {
                key: storage::codec::hex(&space.head()),
                problem: error.to_string(),
            })?;
        }
        self.settle_limbo(&head);
        self.refreshed = Some(Instant::now());
        Ok(())
    }

    /// Whether it is still the store that the lane was opened on: a shard that goes back belongs to another one,
    /// perhaps of other shards. Nothing is written there; the role ends when it notices.
    async fn check_store(&self, txn: &mut dyn Txn) -> Result<(), KvError> {
        match schema::read_from(txn).await {
            Ok(Some(schema)) if schema == self.seams.schema => Ok(()),
            Ok(_) => Err(KvError::Unavailable("the store was made anew".to_owned())),
            Err(SchemaError::Kv(error)) => Err(error),
            Err(error) => Err(KvError::Unavailable(error.to_string())),
        }
    }

    /// Whether the simulation has this try rely on what is in memory.
    fn skips_head(&self) -> bool {
        let reads = || {
            let is_read = |call: &Call<D>| matches!(call, Call::Op { call: None, .. });
            self.refreshed.is_some() && self.queued.iter().all(|(_, call)| is_read(call))
        };
        (Mutation::RerunWithoutHead.is_on() && !self.limbo.is_empty())
            || (Mutation::ReadWithoutHead.is_on() && reads())
    }

    /// Answers the calls of a run that turned out to stand. It was the last of this writer: a later one
    /// would have rewritten the head, and both cannot stand.
    fn settle_limbo(&mut self, head: &Head) {
        let Some(stands) = head.run_of(&self.writer) else { return };
        if let Some(at) = self.limbo.iter().position(|limbo| limbo.run == stands) {
            let limbo = self.limbo.swap_remove(at);
            self.limbo.clear();
            self.conclude(limbo);
        }
    }

    /// Sends the answers of the batch that was just settled. It took the first calls of the queue, and
    /// what it did not answer waits in the core.
    fn deliver(&mut self, taken: usize, answers: Vec<(CallId, Answer<D::Reply>)>) {
        self.queued.drain(..taken);
        for (id, answer) in answers {
            self.send(id, Ok(answer));
        }
    }

    /// Sends the answers of a batch that turned out to stand. What it took and did not answer is offered
    /// again, as others ran since, unless it waits in the core by now.
    fn conclude(&mut self, done: Limbo<D>) {
        let answered: BTreeSet<CallId> = done.answers.iter().map(|(id, _)| *id).collect();
        let waiting: BTreeSet<CallId> = self.core.waiting_calls().collect();
        let taken: BTreeSet<CallId> = done.taken.into_iter().collect();
        self.queued.retain(|(id, _)| {
            !(answered.contains(id) || (taken.contains(id) && waiting.contains(id)))
        });
        for (id, answer) in done.answers {
            if waiting.contains(&id) {
                self.core.cancel(id);
            }
            self.send(id, Ok(answer));
        }
    }

    /// Offers queued calls to the core until the batch is full.
    fn fill(&mut self, txn: &dyn Txn) -> Result<Vec<CallId>, Vec<Row>> {
        self.core.begin(txn.read_ts());
        if let Offered::Missing(rows) = self.core.look_again() {
            return Err(rows);
        }
        let mut taken = Vec::new();
        for (id, call) in self.queued.iter().take(self.window()) {
            if !self.core.has_room() {
                break;
            }
            match self.core.offer(*id, call) {
                Offered::Taken => taken.push(*id),
                Offered::Missing(rows) => return Err(rows),
            }
        }
        Ok(taken)
    }

    /// Rows that the calls of one batch need and that are not in memory.
    fn missing_rows(&self) -> BTreeSet<Row> {
        let calls = self.queued.iter().take(self.window());
        calls.flat_map(|(_, call)| self.core.missing_for(call)).collect()
    }

    /// How many calls are looked at for one batch: some more than the last one took, as looking at those
    /// that it has no room for would cost the more the longer the queue is.
    fn window(&self) -> usize {
        (2 * self.took).clamp(WINDOW_MIN, self.core.limits().batch_calls.max(WINDOW_MIN))
    }

    /// Reads rows into memory. A damaged one fails the calls that need it, and no others.
    async fn load(&mut self, txn: &mut dyn Txn, rows: Vec<Row>) -> Result<(), KvError> {
        if rows.is_empty() {
            return Ok(());
        }
        let space = self.core.space();
        let keys = rows.iter().map(|row| space.key(row)).collect();
        let found: BTreeMap<_, _> = txn.batch_get(keys).await?.into_iter().collect();
        for row in rows {
            let value = found.get(&space.key(&row)).map(Vec::as_slice);
            if let Err(error) = self.core.load(row.clone(), value) {
                self.fail_callers_of(&row, &error);
            }
        }
        Ok(())
    }

    /// Fails the calls that need a damaged row, those that wait among them.
    fn fail_callers_of(&mut self, row: &Row, error: &KvError) {
        if self.damaged.insert(row.clone()) {
            tracing::error!(%error, branch = %self.core.branch(), "damaged record");
        }
        let core = &self.core;
        let mut failed: BTreeSet<CallId> = self
            .queued
            .iter()
            .filter(|(_, call)| core.missing_for(call).contains(row))
            .map(|(id, _)| *id)
            .collect();
        self.queued.retain(|(id, _)| !failed.contains(id));
        failed.extend(self.core.give_up(row));
        for id in failed {
            self.send(id, Err(LaneError::Damaged(error.clone())));
        }
    }
}

fn write<D: Domain>(txn: &mut dyn Txn, core: &crate::core::Core<D>, batch: &Batch) {
    let space = core.space();
    write_batch(txn, space, &batch.before, &batch.after, &batch.entry);
    for (row, value) in &batch.records {
        match value {
            Some(value) => txn.put(space.key(row), value.clone()),
            None => txn.delete(space.key(row)),
        }
    }
}
