//! The lane's state machine: a shard's state in memory, and what a batch of calls does to it. No async,
//! clock, randomness or I/O: the lane around it ([`crate::lane`]) loads, writes and answers.
//!
//! A batch goes: [`Core::begin`], calls one by one ([`Core::offer`]), then [`Core::finish`] gives what
//! must be written. When that is durable [`Core::settle`] makes it the state; when it definitely is not,
//! [`Core::undo`] takes all of it back and the same calls run again on the state as it is by then.

mod answers;
mod call;
mod decide;
mod journal;
mod rows;
mod wait;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use proto::InvalidField;
use storage::{
    KvError,
    keys::Space,
    record,
    shard::{Head, Writer},
};
use twopc::{participant::Book, undo::UndoMap};
use types::{Branch, ClientCall, Priority, RequestId, Timestamp, TxId, TxMeta, UnixMillis};

use self::{answers::Remembered, journal::Mark, wait::Waiter};
pub use self::{
    call::{Answer, Call, CallId},
    rows::Rows,
};
use crate::domain::{Domain, Row};

/// What a batch must write.
#[derive(Debug)]
pub struct Batch {
    /// The head before.
    pub before: Head,
    /// The head after.
    pub after: Head,
    /// The journal entry.
    pub entry: record::JournalEntry,
    /// Records to put (with their value) or delete (without).
    pub records: Vec<(Row, Option<storage::Value>)>,
}

/// What came of offering a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It is answered, or waits, as part of this batch.
    Taken,
    /// These rows must be loaded first; nothing was done.
    Missing(Vec<Row>),
}

/// Bounds of a lane's memory and of its batches.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Records kept in memory by all shards of a process together, about.
    pub records: usize,
    /// Calls that may wait for others at once.
    pub waiters: usize,
    /// Keys and values of one batch, about, in bytes: no more call is taken at or above it. The store's
    /// client cuts a prewrite at 16 KiB, and only what goes in one request commits in one phase; the rest
    /// is for the last call, the head and what is trimmed.
    pub batch_bytes: usize,
    /// Calls in one batch.
    pub batch_calls: usize,
    /// How long the answer to a client's own request id is remembered, in milliseconds.
    pub retention_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            records: 131_072,
            waiters: 8_192,
            batch_bytes: 15 * 1024,
            batch_calls: 1_024,
            retention_ms: 600_000,
        }
    }
}

impl Limits {
    /// The part of one of so many shards.
    #[must_use]
    pub fn of_one(self, shards: u16) -> Self {
        Self { records: (self.records / usize::from(shards.max(1))).max(RECORDS_MIN), ..self }
    }
}

/// Records that a shard keeps in memory, however many shards there are.
const RECORDS_MIN: usize = 4_096;

/// A shard's state in memory. Current exactly while the store's head is [`Core::head`].
#[derive(Debug)]
pub struct Core<D: Domain> {
    domain: Arc<D>,
    space: Space,
    limits: Limits,
    head: Head,
    book: Book<D::Hold>,
    /// Who holds something on which row, oldest first.
    holders: UndoMap<(Row, Priority, TxId), ()>,
    /// What calls under minted ids came to, and under any id where release 0.1 wrote it.
    answers: UndoMap<RequestId, Remembered>,
    /// Rows of answers that the batch at hand has read.
    loaded_answers: BTreeMap<Row, Option<Remembered>>,
    journal: VecDeque<Mark>,
    records: rows::Cache<D::Record>,
    waiters: UndoMap<CallId, Waiter<D>>,
    /// Who waits on which row, oldest first.
    queue: UndoMap<(Row, Priority, CallId), ()>,
    /// Which transactions' Prepares wait.
    waiting: UndoMap<(TxId, CallId), ()>,
    /// Rows whose waiters must look again.
    improved: BTreeSet<Row>,
    run: Run<D>,
}

/// The batch at hand.
#[derive(Debug)]
struct Run<D: Domain> {
    start: Timestamp,
    /// Number that the batch will have.
    seq: u64,
    /// Number of the call at hand within the batch, counted from 1: the `change` of its stamps.
    change: u32,
    dirty: BTreeMap<Row, Option<D::Record>>,
    events: Vec<record::TxEvent>,
    requests: Vec<record::RequestAnswer>,
    /// Rows of answers to write.
    told: BTreeMap<Row, Remembered>,
    answers: Vec<(CallId, Answer<D::Reply>)>,
    /// Rows that the domain changed by the call at hand.
    changed: BTreeSet<Row>,
    missing: BTreeSet<Row>,
    bytes: usize,
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
    /// An empty state: that of a shard that was never written.
    pub fn new(domain: Arc<D>, branch: Branch, limits: Limits) -> Self {
        let space = Space::new(domain.owner(), branch.shard);
        Self {
            domain,
            space,
            limits,
            head: Head::default(),
            book: Book::new(branch),
            holders: UndoMap::default(),
            answers: UndoMap::default(),
            loaded_answers: BTreeMap::new(),
            journal: VecDeque::new(),
            records: rows::Cache::new(limits.records),
            waiters: UndoMap::default(),
            queue: UndoMap::default(),
            waiting: UndoMap::default(),
            improved: BTreeSet::new(),
            run: Run::default(),
        }
    }

    /// The head that this state belongs to.
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// The shard's keys.
    pub const fn space(&self) -> Space {
        self.space
    }

    /// The branch.
    pub const fn branch(&self) -> &Branch {
        self.book.branch()
    }

    /// The bounds.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// What is known of transactions.
    pub const fn book(&self) -> &Book<D::Hold> {
        &self.book
    }

    /// True while some call waits for others.
    pub fn has_waiters(&self) -> bool {
        !self.waiters.is_empty()
    }

    /// True when waiters must look again, or have waited past their deadline.
    pub fn wants_look(&self, now: UnixMillis) -> bool {
        (!self.improved.is_empty() && self.has_waiters())
            || self.waiters.iter().any(|(_, waiter)| waiter.call.is_over(now))
    }

    /// Begins a batch on the state as of `start`. Prepares whose deadline has come stop waiting.
    pub fn begin(&mut self, start: Timestamp) {
        self.run = Run { start, seq: self.head.seq + 1, ..Run::default() };
        self.expire_waiters();
    }

    /// True when the batch has room for another call.
    pub fn has_room(&self) -> bool {
        self.run.bytes < self.limits.batch_bytes && self.run.answers.len() < self.limits.batch_calls
    }

    /// Rows not in memory that `call` would read.
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
        let hold = self.book.get(tx_id).and_then(|entry| entry.hold.as_ref());
        hold.map(|hold| self.domain.hold_rows(hold)).unwrap_or_default()
    }

    /// The call of a transaction, where this is its primary: there it stands what its attempts came to.
    fn call_of<'a>(&self, meta: &'a TxMeta) -> Option<&'a ClientCall> {
        meta.call.as_ref().filter(|_| meta.is_primary(self.book.branch()))
    }

    /// Takes a record, as it stands at the batch's start timestamp, into memory.
    ///
    /// # Errors
    /// [`KvError::Corrupt`]; a retry does not help.
    pub fn load(&mut self, row: Row, value: Option<&[u8]>) -> Result<(), KvError> {
        if answers::id_in(&row).is_some() {
            return self.load_answer(row, value);
        }
        let record = value.map(|value| self.domain.decode_record(&row, value)).transpose()?;
        self.records.insert(row, record);
        Ok(())
    }

    /// Adds a call to the batch: it is answered by it, or waits. Waiters that it lets go on are served
    /// at once, oldest first. When rows turn out to be missing the whole batch must be undone, the rows
    /// loaded, and the calls offered again.
    pub fn offer(&mut self, id: CallId, call: &Call<D>) -> Offered {
        let missing = self.missing_for(call);
        if !missing.is_empty() {
            return Offered::Missing(missing);
        }
        self.decide(id, call, None);
        self.look_again()
    }

    /// Serves waiters whose row changed, oldest first.
    pub fn look_again(&mut self) -> Offered {
        self.serve_waiters();
        if self.run.missing.is_empty() {
            Offered::Taken
        } else {
            Offered::Missing(std::mem::take(&mut self.run.missing).into_iter().collect())
        }
    }

    /// Ends the batch: what must be written, or nothing. Entries of the journal that may be forgotten are
    /// trimmed along the way; with `tidy` even when that is all there is to write. A head that older releases
    /// may write is reason enough to write.
    pub fn finish(&mut self, writer: Writer, run: u64, tidy: bool) -> Option<Batch> {
        let idle = self.run.events.is_empty()
            && self.run.requests.is_empty()
            && self.run.told.is_empty()
            && self.run.dirty.is_empty();
        let outdated = self.head.is_outdated();
        if idle && !tidy && !outdated {
            return None;
        }
        let oldest = self.trim(idle);
        if idle && oldest == self.head.oldest && !outdated {
            return None;
        }
        let after = self.head.next(writer, run, oldest);
        let records = self.run.dirty.iter().map(|(row, record)| {
            (row.clone(), record.as_ref().map(|record| self.domain.encode_record(record)))
        });
        let records: Vec<_> = records.chain(self.told_rows()).collect();
        let entry = record::JournalEntry {
            writer: writer.to_vec().into(),
            run,
            events: self.run.events.clone(),
            requests: self.run.requests.clone(),
            changed: records.iter().map(|(row, _)| row.clone().into()).collect(),
            start_ts: self.run.start.0,
        };
        Some(Batch { before: self.head.clone(), after, entry, records })
    }

    /// The answers of the batch at hand; they may go out once it is settled.
    pub fn take_answers(&mut self) -> Vec<(CallId, Answer<D::Reply>)> {
        std::mem::take(&mut self.run.answers)
    }

    /// The batch is durable (or wrote nothing): it is the state now.
    pub fn settle(&mut self, batch: Option<&Batch>) {
        self.book.settle();
        self.holders.settle();
        self.answers.settle();
        self.waiters.settle();
        self.queue.settle();
        self.waiting.settle();
        if let Some(batch) = batch {
            self.head = batch.after.clone();
            self.mark(batch.after.seq, &batch.entry);
            self.forget_before(batch.after.oldest);
        }
        let run = std::mem::take(&mut self.run);
        self.loaded_answers.clear();
        self.records.extend(run.dirty);
        self.records.rotate();
    }

    /// The batch is definitely not durable, or must run again: the state is as it was before.
    pub fn undo(&mut self) {
        self.book.undo();
        self.holders.undo();
        self.answers.undo();
        self.waiters.undo();
        self.queue.undo();
        self.waiting.undo();
        self.run = Run::default();
        // Whoever was served in vain must be served again.
        self.improved.extend(self.queue.iter().map(|((row, _, _), ())| row.clone()));
    }

    /// Forgets everything, for a reload from the store. Waiters stay.
    pub fn reset(&mut self) {
        self.head = Head::default();
        self.book = Book::new(self.book.branch().clone());
        self.holders = UndoMap::default();
        self.answers = UndoMap::default();
        self.loaded_answers.clear();
        self.journal.clear();
        self.records = rows::Cache::new(self.limits.records);
        self.run = Run::default();
        // What they wait for may be gone from the journal, too.
        self.improved.extend(self.queue.iter().map(|((row, _, _), ())| row.clone()));
    }

    /// Takes what other writers (or earlier runs) wrote after [`Core::head`] into the state.
    ///
    /// # Errors
    /// [`InvalidField`] when an entry does not decode; a retry does not help.
    pub fn catch_up(
        &mut self,
        head: Head,
        entries: Vec<(u64, record::JournalEntry)>,
    ) -> Result<(), InvalidField> {
        for (seq, entry) in entries {
            for event in &entry.events {
                let event = self.decode_event(event)?;
                self.apply(event, seq);
            }
            for answer in &entry.requests {
                self.take_answer(answer, seq)?;
            }
            for row in &entry.changed {
                if self.forget_answer(row) {
                    continue;
                }
                self.records.remove(row);
                self.improved.insert(row.to_vec());
            }
            self.mark(seq, &entry);
        }
        self.forget_before(head.oldest);
        self.head = head;
        self.book.settle();
        self.holders.settle();
        self.answers.settle();
        Ok(())
    }
}
