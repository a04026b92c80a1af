//! Takes journal entries into the state, and lets the records follow the journal.

use bytes::Bytes;
use journal::{Author, Fate, Head, Image, Look, Piece};
use proto::InvalidField;
use storage::{record, shard};
use twopc::{participant::TransactionTable, undo::UndoMap};
use types::Timestamp;

use super::{Core, Domain, Run, rows};

impl<D: Domain> Core<D> {
    /// The next piece of a checkpoint up to entry `upto`, of about `budget` bytes, for a KV
    /// transaction that starts at `start` or later. Call between batches only.
    pub fn piece(&self, upto: u64, start: Timestamp, budget: usize) -> Option<Piece> {
        self.checkpoint.piece(upto, self.may_begin_at(start), budget)
    }

    /// Notes that a piece is durable. Call between batches only.
    pub fn landed(&mut self, piece: &Piece) {
        self.checkpoint.landed(piece);
        self.forget_before(piece.after.oldest);
    }

    /// Takes the head that a KV transaction found, which wrote nothing. Call between batches only.
    pub fn found(&mut self, head: Head) {
        self.checkpoint.seen(head);
    }

    /// Forgets everything but the waiters, for a replay from the oldest entry in the journal.
    pub fn restart(&mut self, head: &Head) {
        self.damage = None;
        self.tail.restart(head);
        self.forget_state(*head);
    }

    fn forget_state(&mut self, head: Head) {
        self.checkpoint.restart(head);
        self.table = TransactionTable::new(self.table.branch().clone());
        self.holders = UndoMap::default();
        self.answers = UndoMap::default();
        self.loaded_answers.clear();
        self.journal.clear();
        self.journal_bytes = 0;
        self.records = rows::Cache::new(self.limits.records);
        self.run = Run::default();
        // The transactions that they wait for may be gone from the journal.
        self.rows_to_recheck.extend(self.queue.iter().map(|((row, _, _), ())| row.clone()));
    }

    /// Brings the state to the journal's end. Takes the head and the entries after [`Core::tail`]
    /// from one look; if some of those entries are trimmed, `entries` begins at the oldest one
    /// instead. Returns the fate of batches whose outcome was unknown.
    ///
    /// # Errors
    /// [`InvalidField`] when an entry does not decode or is not the next one. A retry does not
    /// help: the state is then incomplete, and every further look returns the same error.
    pub fn look(
        &mut self,
        found: shard::Found,
        entries: Vec<(u64, record::JournalEntry)>,
    ) -> Result<Fate, InvalidField> {
        if let Some(damage) = &self.damage {
            return Err(damage.clone());
        }
        let looked = self.take_look(found, entries);
        self.damage = looked.as_ref().err().cloned();
        looked
    }

    fn take_look(
        &mut self,
        found: shard::Found,
        entries: Vec<(u64, record::JournalEntry)>,
    ) -> Result<Fate, InvalidField> {
        let next = entries.first().filter(|(seq, _)| *seq == self.tail.seq() + 1);
        let next = next.map(|(_, entry)| author(entry)).transpose()?;
        let (look, fate) = self.tail.look(&found.head, next);
        if let Look::Lost(_) = look {
            self.forget_state(found.head);
        } else {
            self.checkpoint.seen(found.head);
        }
        self.is_open = found.is_current;
        for (seq, entry) in entries {
            self.take(seq, &entry)?;
        }
        self.checkpoint.check(&self.tail).map_err(|damage| InvalidField::new("journal", damage))?;
        self.forget_before(found.head.oldest);
        self.table.settle();
        self.holders.settle();
        self.answers.settle();
        Ok(fate)
    }

    /// Applies an entry that another writer or an earlier run wrote.
    fn take(&mut self, seq: u64, entry: &record::JournalEntry) -> Result<(), InvalidField> {
        let taken = self.tail.take(seq, author(entry)?, shard::previous_author(entry));
        taken.map_err(|damage| InvalidField::new("journal", damage))?;
        for event in &entry.events {
            let event = self.decode_event(event)?;
            self.apply(event, seq);
        }
        for answer in &entry.requests {
            self.take_answer(answer, seq)?;
        }
        for row in entry.images.iter().map(|image| &image.row).chain(&entry.changed) {
            if self.forget_answer(row) {
                continue;
            }
            self.records.remove(row);
            self.rows_to_recheck.insert(row.to_vec());
        }
        self.checkpoint.push(seq, images(entry));
        self.mark(seq, entry);
        Ok(())
    }
}

fn author(entry: &record::JournalEntry) -> Result<Author, InvalidField> {
    shard::author(entry).ok_or_else(|| InvalidField::new("writer", "must be 16 bytes"))
}

/// The images of an entry.
pub(super) fn images(entry: &record::JournalEntry) -> impl Iterator<Item = Image> {
    let value = |value: &Bytes| (!value.is_empty()).then(|| value.clone());
    let images = entry.images.iter();
    images.map(move |image| Image { row: image.row.clone(), value: value(&image.value) })
}
