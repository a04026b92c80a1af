//! The lane's state machine: a shard's state in memory, and the effect of a batch of calls on it.
//! It has no async, clock, randomness or I/O: the lane around it ([`crate::lane`]) loads, writes
//! and answers.
//!
//! A batch starts with [`Core::begin`]. [`Core::offer`] adds the calls one by one, and
//! [`Core::finish`] returns the entry to append to the journal. Once the entry is durable,
//! [`Core::settle`] makes it the state. If it is definitely not durable, [`Core::undo`] reverts the
//! batch, and the same calls run again on the newer state. Between batches, [`Core::piece`] returns
//! the records to write next.

mod answers;
mod call;
mod decide;
mod domain;
mod facts;
mod replay;
mod rows;
mod wait;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use journal::{Author, Checkpoint, Head, Tail};
use proto::InvalidField;
use storage::{KvError, Value, keys::Space, record};
use twopc::{participant::TransactionTable, undo::UndoMap};
use types::{
    Branch, ClientCall, Mutation, Priority, RequestId, Timestamp, TxId, TxMeta, UnixMillis,
};

use self::{answers::Remembered, facts::Mark, wait::Waiter};
pub use self::{
    call::{Answer, Call, CallId},
    domain::Domain,
    rows::Rows,
};
use crate::records::Row;

/// The journal entry that a batch must append.
#[derive(Debug)]
pub struct Batch {
    /// The writer and its run.
    pub author: Author,
    /// Number of the entry.
    pub seq: u64,
    /// The entry itself.
    pub entry: record::JournalEntry,
    /// The head to write along with it, if the shard has no head of this release yet.
    pub opens: Option<Head>,
}

/// Outcome of [`Core::offer`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// The call is part of this batch, which answers it or lets it wait.
    Taken,
    /// These rows must be loaded first. The call was not taken.
    Missing(Vec<Row>),
}

/// Bounds on a lane's memory and on its batches.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Approximate number of records that all shards of a process keep in memory together.
    pub records: usize,
    /// Limit on the calls that wait for others.
    pub waiters: usize,
    /// Approximate size of one batch's entry, in bytes: a batch takes no further call at or above
    /// it. One key commits in one phase at any length, but long values burden the store.
    pub batch_bytes: usize,
    /// Limit on the calls in one batch.
    pub batch_calls: usize,
    /// How long the answer to a client's own request id is remembered, in milliseconds.
    pub retention_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            records: 131_072,
            waiters: 8_192,
            batch_bytes: 128 * 1024,
            batch_calls: 1_024,
            retention_ms: 600_000,
        }
    }
}

impl Limits {
    /// The limits of one shard out of `shards`.
    #[must_use]
    pub fn of_one(self, shards: u16) -> Self {
        Self { records: (self.records / usize::from(shards.max(1))).max(RECORDS_MIN), ..self }
    }
}

/// Minimum number of records that a shard keeps in memory, however many shards there are.
const RECORDS_MIN: usize = 4_096;

/// A shard's state in memory: that of its journal up to [`Core::tail`].
#[derive(Debug)]
pub struct Core<D: Domain> {
    domain: Arc<D>,
    space: Space,
    limits: Limits,
    tail: Tail,
    checkpoint: Checkpoint,
    /// A head of this release was seen, so earlier releases cannot write to this shard.
    is_open: bool,
    /// The damage that a look found in the journal. The shard does nothing from then on.
    damage: Option<InvalidField>,
    table: TransactionTable<D::Hold>,
    /// Transactions that hold something on a row, oldest first.
    holders: UndoMap<(Row, Priority, TxId), ()>,
    /// Outcomes of calls under minted ids, and those that release 0.1 wrote under any id.
    answers: UndoMap<RequestId, Remembered>,
    /// Rows of answers that the current batch has read.
    loaded_answers: BTreeMap<Row, Option<Remembered>>,
    journal: VecDeque<Mark>,
    journal_bytes: usize,
    records: rows::Cache<D::Record>,
    waiters: UndoMap<CallId, Waiter<D>>,
    /// Calls that wait on a row, oldest first.
    queue: UndoMap<(Row, Priority, CallId), ()>,
    /// Waiting Prepares, by transaction.
    waiting: UndoMap<(TxId, CallId), ()>,
    /// Rows whose waiters must be tried again.
    rows_to_recheck: BTreeSet<Row>,
    run: Run<D>,
}

/// The current batch.
#[derive(Debug)]
struct Run<D: Domain> {
    start: Timestamp,
    /// Number of the batch's entry.
    seq: u64,
    /// Number of the current call within the batch, counted from 1: the `change` of its stamps.
    change: u32,
    dirty: BTreeMap<Row, Changed<D::Record>>,
    events: Vec<record::TxEvent>,
    requests: Vec<record::RequestAnswer>,
    /// Rows of answers to write.
    told: BTreeMap<Row, Remembered>,
    answers: Vec<(CallId, Answer<D::Reply>)>,
    /// Rows that the domain changed during the current call.
    changed: BTreeSet<Row>,
    missing: BTreeSet<Row>,
    bytes: usize,
}

/// A row that the batch has changed. Both are none if the row was removed.
#[derive(Debug)]
struct Changed<R> {
    record: Option<R>,
    /// The stored form, for the batch's entry.
    value: Option<Value>,
}

impl<D: Domain> Default for Run<D> {
    fn default() -> Self {
        Self {
            start: Timestamp::default(),
            seq: 0,
            change: 0,
            dirty: BTreeMap::new(),
            events: Vec::new(),
            requests: Vec::new(),
            told: BTreeMap::new(),
            answers: Vec::new(),
            changed: BTreeSet::new(),
            missing: BTreeSet::new(),
            bytes: 0,
        }
    }
}

impl<D: Domain> Core<D> {
    /// Makes the state of a shard that was never written.
    pub fn new(domain: Arc<D>, branch: Branch, limits: Limits) -> Self {
        let space = Space::of(domain.role(), branch.shard);
        Self {
            domain,
            space,
            limits,
            tail: Tail::default(),
            checkpoint: Checkpoint::default(),
            is_open: false,
            damage: None,
            table: TransactionTable::new(branch),
            holders: UndoMap::default(),
            answers: UndoMap::default(),
            loaded_answers: BTreeMap::new(),
            journal: VecDeque::new(),
            journal_bytes: 0,
            records: rows::Cache::new(limits.records),
            waiters: UndoMap::default(),
            queue: UndoMap::default(),
            waiting: UndoMap::default(),
            rows_to_recheck: BTreeSet::new(),
            run: Run::default(),
        }
    }

    /// The end of the journal that this state corresponds to.
    pub const fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Whether earlier releases can no longer write to this shard.
    pub const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether the journal is damaged. Nothing in memory can be relied on then.
    pub const fn is_damaged(&self) -> bool {
        self.damage.is_some()
    }

    /// The images that the records do not show yet.
    pub const fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// The shard's keys.
    pub const fn space(&self) -> Space {
        self.space
    }

    /// The shard as a branch of transactions.
    pub const fn branch(&self) -> &Branch {
        self.table.branch()
    }

    /// The bounds on memory and batches.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// The transactions that this shard knows of.
    pub const fn table(&self) -> &TransactionTable<D::Hold> {
        &self.table
    }

    /// True while some call waits for others.
    pub fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// True if waiters must be tried again, or one of them is past its end.
    pub fn has_due_waiters(&self, now: UnixMillis) -> bool {
        (!self.rows_to_recheck.is_empty() && self.has_waiters())
            || self.waiters.iter().any(|(_, waiter)| waiter.call.is_over(now))
    }

    /// Starts a KV transaction at `start`. Returns whether its batch may be appended without a
    /// look.
    pub fn is_trusted(&mut self, start: Timestamp) -> bool {
        self.tail.begin(start.physical().0)
    }

    /// Begins a batch on the state as of `start`. Waiters that are past their end stop waiting.
    pub fn begin(&mut self, start: Timestamp) {
        self.run = Run { start, seq: self.tail.seq() + 1, ..Run::default() };
        self.expire_waiters();
    }

    /// Whether the batch has room for another call.
    pub fn has_room(&self) -> bool {
        self.run.bytes < self.limits.batch_bytes && self.run.answers.len() < self.limits.batch_calls
    }

    /// Rows that `call` would read and that are not in memory.
    pub fn missing_for(&self, call: &Call<D>) -> Vec<Row> {
        let rows = self.rows_of(call);
        rows.into_iter().filter(|row| !self.is_loaded(row)).collect()
    }

    /// Rows that `call` reads.
    pub fn rows_of(&self, call: &Call<D>) -> Vec<Row> {
        let (mut rows, client) = match call {
            Call::Op { op, call, .. } => (self.domain.op_rows(op), call.as_ref()),
            Call::Prepare { meta, payload, .. } => {
                (self.domain.payload_rows(payload), self.call_of(meta))
            }
            Call::Commit { meta, .. } => (self.rows_held_by(meta.tx_id), None),
            Call::Abort { meta, refusal, .. } => {
                (self.rows_held_by(meta.tx_id), meta.call.as_ref().filter(|_| refusal.is_some()))
            }
            Call::Reject { meta, .. } => (Vec::new(), self.call_of(meta)),
            Call::Refuse { call, .. } => (Vec::new(), Some(call)),
            Call::Query { .. } | Call::Forget { .. } => (Vec::new(), None),
        };
        rows.extend(client.into_iter().flat_map(Self::answer_rows));
        rows
    }

    fn rows_held_by(&self, tx_id: TxId) -> Vec<Row> {
        let hold = self.table.get(tx_id).and_then(|entry| entry.hold.as_ref());
        hold.map(|hold| self.domain.hold_rows(hold)).unwrap_or_default()
    }

    /// The client's call behind a transaction, at its primary only: outcomes of its attempts are
    /// remembered there.
    fn call_of<'a>(&self, meta: &'a TxMeta) -> Option<&'a ClientCall> {
        meta.call.as_ref().filter(|_| meta.is_primary(self.table.branch()))
    }

    /// Whether the journal has an image of this row, so that it loads without its record.
    pub fn has_image(&self, row: &[u8]) -> bool {
        self.checkpoint.image(row).is_some() && !Mutation::LoadWithoutImages.is_on()
    }

    /// Loads a row: from its image in the journal, else from `value`, its record at the batch's
    /// start timestamp.
    ///
    /// # Errors
    /// [`KvError::Corrupt`]; a retry does not help.
    pub fn load(&mut self, row: Row, value: Option<&[u8]>) -> Result<(), KvError> {
        let image = self.checkpoint.image(&row).flatten().cloned();
        let value = if self.has_image(&row) { image.as_deref() } else { value };
        if answers::id_in(&row).is_some() {
            return self.load_answer(row, value);
        }
        let record = value.map(|value| self.domain.decode_record(&row, value)).transpose()?;
        self.records.insert(row, record);
        Ok(())
    }

    /// Adds a call to the batch, which answers it or lets it wait. Serves the waiters that can go
    /// on because of it, oldest first. If rows are missing, the caller must undo the whole batch,
    /// load the rows, and offer the calls again.
    pub fn offer(&mut self, id: CallId, call: &Call<D>) -> Offered {
        let missing = self.missing_for(call);
        if !missing.is_empty() {
            return Offered::Missing(missing);
        }
        self.decide(id, call, None);
        self.recheck_waiters()
    }

    /// Serves waiters whose row changed, oldest first.
    pub fn recheck_waiters(&mut self) -> Offered {
        self.serve_waiters();
        if self.run.missing.is_empty() {
            Offered::Taken
        } else {
            Offered::Missing(std::mem::take(&mut self.run.missing).into_iter().collect())
        }
    }

    /// Ends the batch. Returns what must be written, if anything. A batch without effects is still
    /// written if earlier releases understand the head, or if the outcome of an append is unknown:
    /// until another entry takes its place, that append may land, even after an answer that relies
    /// on its absence.
    pub fn finish(&mut self, author: Author) -> Option<Batch> {
        let idle = self.run.events.is_empty()
            && self.run.requests.is_empty()
            && self.run.told.is_empty()
            && self.run.dirty.is_empty();
        if idle && self.is_open && !self.tail.is_undetermined() {
            return None;
        }
        self.carry_forward();
        let dirty = self.run.dirty.iter_mut();
        let records: Vec<_> =
            dirty.map(|(row, changed)| (row.clone(), changed.value.take())).collect();
        let images = records.into_iter().chain(self.told_rows()).map(|(row, value)| {
            record::Image { row: row.into(), value: value.map(Into::into).unwrap_or_default() }
        });
        let previous = self.tail.author();
        let entry = record::JournalEntry {
            writer: author.writer.to_vec().into(),
            run: author.run,
            images: images.collect(),
            events: std::mem::take(&mut self.run.events),
            requests: std::mem::take(&mut self.run.requests),
            changed: Vec::new(),
            start_ts: self.run.start.0,
            previous_writer: previous
                .map(|previous| previous.writer.to_vec().into())
                .unwrap_or_default(),
            previous_run: previous.map(|previous| previous.run).unwrap_or_default(),
        };
        let opens = (!self.is_open).then(|| *self.checkpoint.head());
        Some(Batch { author, seq: self.run.seq, entry, opens })
    }

    /// The answers of the current batch. Send them only once it is settled.
    pub fn take_answers(&mut self) -> Vec<(CallId, Answer<D::Reply>)> {
        std::mem::take(&mut self.run.answers)
    }

    /// Ends a batch that wrote nothing, on a journal that was current at its start. Its answers may
    /// go out.
    pub fn settle_read(&mut self) {
        self.tail.looked(self.run.start.physical().0);
        self.keep_run();
    }

    /// Makes the batch the state, now that it is durable as of `committed`. If the commit came too
    /// late after its start to count, the outcome is unknown: then this undoes the batch and
    /// returns false.
    #[must_use]
    pub fn settle(&mut self, batch: &Batch, committed: Timestamp) -> bool {
        let (start, committed) = (self.run.start.physical().0, committed.physical().0);
        if !self.tail.appended(batch.author, start, committed) {
            self.undo();
            return false;
        }
        self.is_open = true;
        self.checkpoint.push(batch.seq, replay::images(&batch.entry));
        self.mark(batch.seq, &batch.entry);
        self.keep_run();
        true
    }

    fn keep_run(&mut self) {
        self.table.settle();
        self.holders.settle();
        self.answers.settle();
        self.waiters.settle();
        self.queue.settle();
        self.waiting.settle();
        let run = std::mem::take(&mut self.run);
        self.loaded_answers.clear();
        self.records.extend(run.dirty.into_iter().map(|(row, changed)| (row, changed.record)));
        self.records.rotate();
    }

    /// Restores the state before the batch, when it is unknown whether the batch is or will become
    /// durable.
    pub fn mark_undetermined(&mut self, batch: &Batch) {
        self.tail.undetermined(batch.author);
        self.undo();
    }

    /// Restores the state before the batch, when the batch is definitely not durable or must run
    /// again.
    pub fn undo(&mut self) {
        self.table.undo();
        self.holders.undo();
        self.answers.undo();
        self.waiters.undo();
        self.queue.undo();
        self.waiting.undo();
        self.run = Run::default();
        // The undone batch may have served waiters, which must be served again.
        self.rows_to_recheck.extend(self.queue.iter().map(|((row, _, _), ())| row.clone()));
    }
}
