//! Converts facts to journal entries and back, and decides when an entry may be trimmed.
//!
//! Entries are trimmed oldest first, so a replay always reads the latest part of the history. An
//! entry may be trimmed once the records show its images, and everything else in it may be
//! forgotten or is repeated by a later entry. The few facts that keep an old entry alive are
//! carried forward.

use prost::Message;
use proto::{InvalidField, convert};
use storage::{
    record::{self, tx_event},
    tx_meta,
};
use twopc::participant::{Entry, Event};
use types::{BranchState, Mutation, RequestId, Timestamp, TxId, TxMeta};

use super::{
    Core, Domain,
    answers::{decode_vote, encode_vote, id_of},
};
use crate::records::Row;

/// Limit on the entries trimmed at once.
const TRIM_MAX: usize = 256;
/// Number of trimmable entries that justify a separate write.
const TRIM_IDLE_MIN: u64 = 4;
/// Age in milliseconds after which an entry is emptied by carrying its last facts forward. Most
/// calls are over by then, so their outcomes go with the entry.
const CARRY_AFTER_MS: u64 = 35_000;
/// Length of the journal in bytes beyond which the oldest entries are emptied at any age.
const JOURNAL_BYTES_MAX: usize = 16 << 20;
/// Limit on the entries that one batch empties.
const CARRY_ENTRIES: usize = 8;
/// Limit on the facts that one batch carries forward because entries are old. It does not apply
/// while the journal is longer than [`JOURNAL_BYTES_MAX`].
const CARRY_MAX: usize = 64;

/// First byte of the rows that stand for calls among the held rows. No kind of record has it.
const CALL: u8 = 0;

/// The row that stands for a call among the held rows.
pub(super) fn row_of(id: &RequestId) -> Row {
    let mut row = vec![CALL];
    row.extend_from_slice(id.as_str().as_bytes());
    row
}

/// The facts for which a journal entry is needed.
#[derive(Debug)]
pub(super) struct Mark {
    seq: u64,
    start: Timestamp,
    /// Length of the entry.
    bytes: usize,
    txs: Vec<TxId>,
    requests: Vec<RequestId>,
}

impl<D: Domain> Core<D> {
    /// Adds a fact to the state and to the batch.
    pub(super) fn record(&mut self, event: Event<D::Hold>) {
        let encoded = self.encode_event(&event);
        self.run.bytes += encoded.encoded_len() + 4;
        if !is_left_out(&event) {
            self.run.events.push(encoded);
        }
        let seq = self.run.seq;
        self.apply(event, seq);
    }

    /// Adds a fact to the state.
    pub(super) fn apply(&mut self, event: Event<D::Hold>, seq: u64) {
        let tx_id = event.tx_id();
        let held = match &event {
            Event::Prepared { meta, hold, .. } => Some((meta.priority, self.held_rows(meta, hold))),
            Event::Carried(entry) => {
                let rows = |hold| self.held_rows(&entry.meta, hold);
                entry.hold.as_ref().map(|hold| (entry.meta.priority, rows(hold)))
            }
            Event::Fenced { .. } | Event::Decided { .. } | Event::Acknowledged { .. } => None,
        };
        if let Some((priority, rows)) = held {
            for row in rows {
                self.holders.insert((row, priority, tx_id), ());
            }
        }
        let released = self.table.apply(event, seq);
        if let Some(hold) = released
            && let Some(meta) = self.table.get(tx_id).map(|entry| entry.meta.clone())
        {
            let priority = meta.priority;
            for row in self.held_rows(&meta, &hold) {
                self.holders.remove(&(row.clone(), priority, tx_id));
                self.rows_to_recheck.insert(row);
            }
        }
    }

    /// Rows that an unfinished transaction blocks: those of its hold, and the one of its call.
    fn held_rows(&self, meta: &TxMeta, hold: &D::Hold) -> Vec<Row> {
        let mut rows = self.domain.hold_rows(hold);
        rows.extend(self.call_row(meta));
        rows
    }

    /// At the primary: the row that stands for a transaction's call among the rows that it holds.
    /// It makes a second attempt of the same call wait until the outcome of the first is known. No
    /// record has such a row.
    pub(super) fn call_row(&self, meta: &TxMeta) -> Option<Row> {
        Some(row_of(&self.call_of(meta)?.id))
    }

    /// Notes the facts for which a durable entry is needed.
    pub(super) fn mark(&mut self, seq: u64, entry: &record::JournalEntry) {
        let txs = entry.events.iter().filter_map(event_tx_id).collect();
        let requests = entry.requests.iter();
        let requests = requests.filter_map(|answer| id_of(answer).ok().flatten());
        let bytes = entry.encoded_len();
        self.journal_bytes += bytes;
        self.journal.push_back(Mark {
            seq,
            start: Timestamp(entry.start_ts),
            bytes,
            txs,
            requests: requests.collect(),
        });
    }

    /// Repeats the few facts that keep the oldest entries alive in the current batch, if the
    /// entries are old or the journal is long.
    pub(super) fn carry_forward(&mut self) {
        let start = self.run.start;
        let mut carried = 0;
        for index in 0..CARRY_ENTRIES {
            let Some(mark) = self.journal.get(index) else { break };
            let old = start.physical().since(mark.start.physical()) > CARRY_AFTER_MS;
            let many = self.journal_bytes > JOURNAL_BYTES_MAX;
            if !(old || many) || self.run.bytes > 2 * self.limits.batch_bytes {
                break;
            }
            let (txs, requests) = self.alive(mark, start);
            carried += txs.len() + requests.len();
            if carried > CARRY_MAX && !many {
                break;
            }
            self.carry(&txs, &requests);
        }
    }

    /// The entry number at which the journal may begin, judged by its entries, for a KV transaction
    /// that starts at `start` or later. Call between batches only: facts that the current batch
    /// carries forward are not durable yet.
    pub(super) fn may_begin_at(&self, start: Timestamp) -> u64 {
        let mut oldest = self.checkpoint.head().oldest;
        for (index, mark) in self.journal.iter().enumerate().take(TRIM_MAX) {
            if !self.is_superseded(index, start) {
                break;
            }
            let (txs, requests) = self.alive(mark, start);
            if !(txs.is_empty() && requests.is_empty()) {
                break;
            }
            oldest = oldest.max(mark.seq.saturating_add(1));
        }
        oldest
    }

    /// Whether an entry's successor is old enough for the entry to be trimmed. Other writers may
    /// rely on finding a younger one.
    fn is_superseded(&self, index: usize, start: Timestamp) -> bool {
        self.journal
            .get(index + 1)
            .is_some_and(|next| journal::is_old_enough(next.start.physical().0, start.physical().0))
    }

    fn alive(&self, mark: &Mark, start: Timestamp) -> (Vec<TxId>, Vec<RequestId>) {
        if Mutation::TrimForgetsFacts.is_on() {
            return (Vec::new(), Vec::new());
        }
        let may_trim = |tx_id: &&TxId| !self.table.may_trim(**tx_id, mark.seq, start);
        let needed = |id: &&RequestId| {
            self.answers.get(id).is_some_and(|known| {
                known.last_seq <= mark.seq && known.keep_until >= start.physical()
            })
        };
        (
            mark.txs.iter().filter(may_trim).copied().collect(),
            mark.requests.iter().filter(needed).cloned().collect(),
        )
    }

    fn carry(&mut self, txs: &[TxId], requests: &[RequestId]) {
        for tx_id in txs {
            if let Some(entry) = self.table.get(*tx_id).cloned() {
                self.record(Event::Carried(Box::new(entry)));
            }
        }
        for id in requests {
            self.carry_answer(id);
        }
    }

    /// Drops from memory what only trimmed entries said. Call only once the trimming is durable.
    pub(super) fn forget_before(&mut self, oldest: u64) {
        while self.journal.front().is_some_and(|mark| mark.seq < oldest) {
            let Some(mark) = self.journal.pop_front() else { break };
            self.journal_bytes -= mark.bytes;
            for tx_id in mark.txs {
                self.table.forget(tx_id, mark.seq);
            }
            for id in mark.requests {
                if self.answers.get(&id).is_some_and(|known| known.last_seq <= mark.seq) {
                    self.answers.remove(&id);
                }
            }
        }
        self.table.settle();
        self.answers.settle();
    }

    /// Whether trimming alone justifies a write, for a KV transaction that starts at `start` or
    /// later.
    pub fn wants_trim(&self, start: Timestamp) -> bool {
        self.may_begin_at(start) >= self.checkpoint.head().oldest.saturating_add(TRIM_IDLE_MIN)
    }

    fn encode_event(&self, event: &Event<D::Hold>) -> record::TxEvent {
        let event = match event {
            Event::Prepared { meta, hold, receipt } => {
                tx_event::Event::Prepared(tx_event::Prepared {
                    tx: Some(meta.into()),
                    hold: self.domain.encode_hold(hold).into(),
                    receipt: receipt.clone().into(),
                })
            }
            Event::Fenced { meta, vote } => tx_event::Event::Fenced(tx_event::Fenced {
                tx: Some(meta.into()),
                vote: encode_vote(vote.as_ref()),
            }),
            Event::Decided { tx_id, committed } => tx_event::Event::Decided(tx_event::Decided {
                tx_id: tx_id.0.to_vec().into(),
                committed: *committed,
            }),
            Event::Acknowledged { tx_id } => {
                tx_event::Event::Acknowledged(tx_event::Acknowledged {
                    tx_id: tx_id.0.to_vec().into(),
                })
            }
            Event::Carried(entry) => tx_event::Event::Carried(self.encode_entry(entry)),
        };
        record::TxEvent { event: Some(event) }
    }

    fn encode_entry(&self, entry: &Entry<D::Hold>) -> tx_event::Carried {
        tx_event::Carried {
            tx: Some((&entry.meta).into()),
            state: convert::branch_state_number(entry.state),
            hold: entry
                .hold
                .as_ref()
                .map(|hold| self.domain.encode_hold(hold))
                .unwrap_or_default()
                .into(),
            vote: encode_vote(entry.vote.as_ref()),
            acknowledged: entry.acknowledged,
            gave_back: entry.gave_back,
        }
    }

    pub(super) fn decode_event(
        &self,
        event: &record::TxEvent,
    ) -> Result<Event<D::Hold>, InvalidField> {
        let missing = || InvalidField::new("event", "is missing");
        Ok(match event.event.as_ref().ok_or_else(missing)? {
            tx_event::Event::Prepared(prepared) => Event::Prepared {
                meta: meta(prepared.tx.as_ref())?,
                hold: self.domain.decode_hold(&prepared.hold)?,
                receipt: prepared.receipt.to_vec(),
            },
            tx_event::Event::Fenced(fenced) => {
                Event::Fenced { meta: meta(fenced.tx.as_ref())?, vote: decode_vote(&fenced.vote)? }
            }
            tx_event::Event::Decided(decided) => Event::Decided {
                tx_id: convert::tx_id(&decided.tx_id)?,
                committed: decided.committed,
            },
            tx_event::Event::Acknowledged(acknowledged) => {
                Event::Acknowledged { tx_id: convert::tx_id(&acknowledged.tx_id)? }
            }
            tx_event::Event::Carried(carried) => {
                let state = convert::branch_state(i32::try_from(carried.state).unwrap_or(0))?;
                let hold = (state == BranchState::Prepared)
                    .then(|| self.domain.decode_hold(&carried.hold))
                    .transpose()?;
                Event::Carried(Box::new(Entry {
                    meta: meta(carried.tx.as_ref())?,
                    state,
                    hold,
                    vote: decode_vote(&carried.vote)?,
                    gave_back: carried.gave_back,
                    acknowledged: carried.acknowledged,
                    told_seq: 0,
                    last_seq: 0,
                }))
            }
        })
    }
}

fn event_tx_id(event: &record::TxEvent) -> Option<TxId> {
    let bytes = match event.event.as_ref()? {
        tx_event::Event::Prepared(event) => &event.tx.as_ref()?.tx_id,
        tx_event::Event::Fenced(event) => &event.tx.as_ref()?.tx_id,
        tx_event::Event::Decided(event) => &event.tx_id,
        tx_event::Event::Acknowledged(event) => &event.tx_id,
        tx_event::Event::Carried(event) => &event.tx.as_ref()?.tx_id,
    };
    TxId::from_slice(bytes).ok()
}

/// Whether a mutation of the simulation keeps this fact out of the journal.
fn is_left_out<H>(event: &Event<H>) -> bool {
    match event {
        Event::Decided { committed: false, .. } => Mutation::ReturnNotJournaled.is_on(),
        Event::Decided { committed: true, .. } => Mutation::CommitNotJournaled.is_on(),
        Event::Prepared { .. }
        | Event::Fenced { .. }
        | Event::Acknowledged { .. }
        | Event::Carried(_) => false,
    }
}

fn meta(meta: Option<&record::TxMeta>) -> Result<TxMeta, InvalidField> {
    tx_meta::decode(meta).map_err(|error| InvalidField::new("tx", error))
}
