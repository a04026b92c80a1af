//! One attempt at one batch.

use std::collections::{BTreeMap, BTreeSet};

use journal::{Author, Fate};
use storage::{
    CommitError, KvError, Txn, codec,
    kv::TXN_LIFE_MAX,
    schema::{self, Schema, SchemaError},
    shard::{append, read_tail},
};
use tokio::time::Instant;
use types::{Mutation, Timestamp};

use super::{Lane, LaneError, Undetermined, early::Begun};
use crate::{
    core::{Answer, Batch, Call, CallId, Domain, Offered},
    records::Row,
};

/// Minimum number of queued calls that an attempt considers for its batch.
const WINDOW_MIN: usize = 64;

/// Why an attempt must be repeated.
#[derive(Debug, thiserror::Error)]
pub(super) enum AttemptError {
    /// A read failed, the write is definitely not committed, or the journal is damaged.
    #[error("the store failed")]
    Kv(#[source] KvError),
    /// The entry's number is taken, by another replica or by an earlier run of this lane.
    #[error("the entry's number is taken")]
    Conflict,
    /// It is unknown whether the batch landed.
    #[error("the outcome of a batch is unknown: {0}")]
    Undetermined(String),
}

impl From<KvError> for AttemptError {
    fn from(error: KvError) -> Self {
        Self::Kv(error)
    }
}

impl<D: Domain> Lane<D> {
    /// Applies the queued calls in a KV transaction on a current state, and commits.
    pub(super) async fn attempt(&mut self) -> Result<(), AttemptError> {
        let called_at = Instant::now();
        self.runs += 1;
        let author = Author { writer: self.writer, run: self.runs };
        self.has_read = false;
        let early = self.take_early().await;
        let early = early.and_then(|early| self.apply_early(early, author));
        if let Some((begun, taken, batch)) = early {
            return self.append(begun, taken, &batch, called_at).await;
        }
        let at = Instant::now();
        let mut txn = self.seams.kv.begin().await?;
        let (taken, batch) = self.apply_now(&mut *txn, author).await?;
        if let Some(batch) = batch {
            return self.append(Begun { txn, at }, taken, &batch, called_at).await;
        }
        let answers = self.core.take_answers();
        self.link_batch(&taken);
        self.core.settle_read();
        self.settled("read", txn.read_ts(), taken.len(), answers, called_at);
        Ok(())
    }

    /// Applies the queued calls in a KV transaction that has just begun: on the known state if that
    /// is trusted, otherwise after a look. Returns the calls that were taken, and the batch if it
    /// has something to write.
    async fn apply_now(
        &mut self,
        txn: &mut dyn Txn,
        author: Author,
    ) -> Result<(Vec<CallId>, Option<Batch>), AttemptError> {
        let start = txn.read_ts();
        self.hear(start);
        let trusted = self.core.is_trusted(start) && self.wants_to_write();
        let mut looked = !trusted;
        if looked {
            self.look(txn).await?;
        }
        loop {
            let taken = self.apply(txn).await?;
            let batch = self.core.finish(author);
            if batch.is_some() || looked {
                return Ok((taken, batch));
            }
            // Without an append, nothing proves that the state was current.
            self.core.undo();
            self.look(txn).await?;
            looked = true;
        }
    }

    /// Appends a batch, and sends its answers once it is durable.
    async fn append(
        &mut self,
        Begun { mut txn, at }: Begun,
        taken: Vec<CallId>,
        batch: &Batch,
        called_at: Instant,
    ) -> Result<(), AttemptError> {
        let start = txn.read_ts();
        let answers = self.core.take_answers();
        self.link_batch(&taken);
        if at.elapsed() >= TXN_LIFE_MAX {
            // The versions that it read may be garbage collected by now. A fresh transaction reads
            // again.
            self.core.undo();
            return Err(KvError::Unavailable("the store was too slow".to_owned()).into());
        }
        if Mutation::AnswerBeforeCommit.is_on() {
            for (id, answer) in answers.clone() {
                self.send(id, Ok(answer));
            }
        }
        append(&mut *txn, self.core.space(), batch.seq, &batch.entry, batch.opens.as_ref());
        self.begin_early(taken.len());
        let outcome = txn.commit().await;
        // A store may report a commit timestamp close to the start although the commit was late. So
        // a late reply counts as a late commit.
        let waited = u64::try_from(at.elapsed().as_millis()).unwrap_or(u64::MAX);
        let replied = Timestamp::from_physical(start.physical().plus_ms(waited.saturating_add(1)));
        let unknown = match outcome {
            Ok(committed) if self.core.settle(batch, committed.max(replied)) => {
                self.undetermined.clear();
                self.refreshed = Some(Instant::now());
                self.moved = self.refreshed;
                self.settled("write", start, taken.len(), answers, called_at);
                return Ok(());
            }
            Ok(committed) => {
                format!("begun at {start:?}, committed at {committed:?}, told at {replied:?}")
            }
            Err(CommitError::Conflict) => {
                self.early = None;
                self.core.undo();
                return Err(AttemptError::Conflict);
            }
            Err(CommitError::Failed(error)) => {
                self.early = None;
                self.core.undo();
                return Err(error.into());
            }
            Err(CommitError::Undetermined(what)) => {
                self.core.mark_undetermined(batch);
                what
            }
        };
        self.early = None;
        self.undetermined.push(Undetermined { author: batch.author, taken, answers });
        Err(AttemptError::Undetermined(unknown))
    }

    /// Processes the start timestamp of a batch.
    pub(super) fn hear(&mut self, start: Timestamp) {
        self.seams.store_time.hear(start);
        self.heard = start;
    }

    /// Whether a queued call will probably need an append. That append fails if the journal has
    /// grown.
    pub(super) fn wants_to_write(&self) -> bool {
        self.queued.iter().any(|(_, call)| call.is_mutation())
    }

    /// Applies queued calls to the state, and loads the rows that they need: from their images in
    /// the journal, otherwise from their records at the transaction's start. Returns the calls that
    /// were taken.
    async fn apply(&mut self, txn: &mut dyn Txn) -> Result<Vec<CallId>, KvError> {
        loop {
            match self.fill(txn.read_ts()) {
                Ok(taken) => {
                    self.took = taken.len();
                    return Ok(taken);
                }
                Err(rows) => {
                    self.core.undo();
                    // Includes the rows of the calls behind it, so that one read is enough.
                    let mut wanted = self.missing_rows();
                    wanted.extend(rows);
                    self.load(txn, wanted.into_iter().collect()).await?;
                }
            }
        }
    }

    /// Reads the journal up to its end as of the transaction's start, and settles runs of unknown
    /// outcome.
    async fn look(&mut self, txn: &mut dyn Txn) -> Result<(), KvError> {
        let space = self.core.space();
        if self.skips_look() {
            return Ok(());
        }
        let (mut found, mut entries) = read_tail(txn, space, self.core.tail().seq()).await?;
        if !found.head.follows(self.core.checkpoint().head())
            || (self.core.is_open() && !found.is_current)
        {
            self.check_store(txn).await?;
            self.core.restart(&found.head);
            self.settle_undetermined(Fate::Unknown);
            (found, entries) = read_tail(txn, space, self.core.tail().seq()).await?;
        }
        if !entries.is_empty() || self.moved.is_none() {
            self.moved = Some(Instant::now());
        }
        let looked = self.core.look(found, entries);
        self.settle_undetermined(*looked.as_ref().unwrap_or(&Fate::Unknown));
        looked.map_err(|error| codec::corrupt(&space.head(), &error))?;
        self.refreshed = Some(Instant::now());
        Ok(())
    }

    /// Fails unless this is still the store that the lane was opened on. A head that went back
    /// belongs to another store, perhaps with another number of shards. Nothing is written there,
    /// and the role stops once it notices.
    async fn check_store(&self, txn: &mut dyn Txn) -> Result<(), KvError> {
        match read_schema(txn).await? {
            Some(schema) if schema == self.seams.schema => Ok(()),
            Some(_) | None => Err(other_store_error()),
        }
    }

    /// Whether a mutation of the simulation makes this attempt rely on what is in memory.
    fn skips_look(&self) -> bool {
        let reads = || {
            let is_read = |call: &Call<D>| matches!(call, Call::Op { call: None, .. });
            self.refreshed.is_some() && self.queued.iter().all(|(_, call)| is_read(call))
        };
        Mutation::ReadWithoutLook.is_on() && self.undetermined.is_empty() && reads()
    }

    /// Settles runs of unknown outcome by their fate. The calls of a run that stands are answered.
    /// If the fate can never be known, the calls fail and never run again.
    fn settle_undetermined(&mut self, fate: Fate) {
        match fate {
            Fate::Settled | Fate::Open => {}
            Fate::Void if Mutation::UndeterminedBelieved.is_on() => {
                let believed = self.undetermined.pop();
                self.undetermined.clear();
                if let Some(undetermined) = believed {
                    self.conclude(undetermined);
                }
            }
            Fate::Void => self.undetermined.clear(),
            Fate::Stands(author) => {
                let stands =
                    self.undetermined.iter().position(|undetermined| undetermined.author == author);
                let stands = stands.map(|at| self.undetermined.swap_remove(at));
                self.undetermined.clear();
                if let Some(undetermined) = stands {
                    self.conclude(undetermined);
                }
            }
            Fate::Unknown => {
                // This includes waiters that such a run served.
                let of_one = |undetermined: Undetermined<D>| {
                    undetermined
                        .taken
                        .into_iter()
                        .chain(undetermined.answers.into_iter().map(|(id, _)| id))
                };
                let calls: BTreeSet<CallId> =
                    self.undetermined.drain(..).flat_map(of_one).collect();
                self.queued.retain(|(id, _)| !calls.contains(id));
                for id in calls {
                    self.core.cancel(id);
                    self.send(id, Err(LaneError::Unavailable));
                }
            }
        }
    }

    /// Sends the answers of the batch that was just settled. It took the first calls of the queue.
    /// Those that it did not answer wait in the core.
    fn settled(
        &mut self,
        kind: &str,
        start: Timestamp,
        taken: usize,
        answers: Vec<(CallId, Answer<D::Reply>)>,
        called_at: Instant,
    ) {
        let oldest = self.queued.front().map(|(id, _)| *id);
        self.batch_answered(kind, taken, called_at, oldest);
        self.tell_calls(start, self.queued.iter().take(taken), &answers);
        self.queued.drain(..taken);
        for (id, answer) in answers {
            self.send(id, Ok(answer));
        }
    }

    /// Sends the answers of a batch that turned out to stand. Other batches have run since, so a
    /// call that it took without answering is offered again, unless it waits in the core by now.
    fn conclude(&mut self, done: Undetermined<D>) {
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
    pub(super) fn fill(&mut self, start: Timestamp) -> Result<Vec<CallId>, Vec<Row>> {
        self.core.begin(start);
        if let Offered::Missing(rows) = self.core.recheck_waiters() {
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

    /// How many queued calls to consider for one batch: some more than the last batch took. The
    /// cost of considering calls for which there is no room grows with the queue.
    fn window(&self) -> usize {
        (2 * self.took).clamp(WINDOW_MIN, self.core.limits().batch_calls.max(WINDOW_MIN))
    }

    /// Reads rows into memory, in the batch's KV transaction. A damaged row fails only the calls
    /// that need it.
    async fn load(&mut self, txn: &mut dyn Txn, rows: Vec<Row>) -> Result<(), KvError> {
        self.has_read = true;
        let space = self.core.space();
        let keys = rows.iter().filter(|row| !self.core.has_image(row));
        let keys: Vec<_> = keys.map(|row| space.key(row)).collect();
        let found: BTreeMap<_, _> = if keys.is_empty() {
            BTreeMap::new()
        } else {
            txn.batch_get(keys).await?.into_iter().collect()
        };
        for row in rows {
            let value = found.get(&space.key(&row)).map(Vec::as_slice);
            if let Err(error) = self.core.load(row.clone(), value) {
                self.fail_callers_of(&row, &error);
            }
        }
        Ok(())
    }

    /// Fails the calls that need a damaged row, waiting ones included.
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

/// The store's schema as of these reads. A schema that this program cannot use belongs to another
/// store.
pub(super) async fn read_schema(txn: &mut dyn Txn) -> Result<Option<Schema>, KvError> {
    match schema::read_from(txn).await {
        Ok(schema) => Ok(schema),
        Err(SchemaError::Kv(error)) => Err(error),
        Err(error) => Err(KvError::Unavailable(error.to_string())),
    }
}

/// The error for a store other than the one that the lane was opened on.
pub(super) fn other_store_error() -> KvError {
    KvError::Unavailable("the store was recreated".to_owned())
}
