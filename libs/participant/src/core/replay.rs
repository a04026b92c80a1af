//! What the journal of a shard shows: taking it into the state, and having the records follow it.

use bytes::Bytes;
use journal::{Author, Fate, Head, Image, Look, Piece};
use proto::InvalidField;
use storage::{record, shard};
use twopc::{participant::TransactionTable, undo::UndoMap};
use types::Timestamp;

use super::{Core, Domain, Run, rows};

impl<D: Domain> Core<D> {
    /// The next piece of a checkpoint up to entry `upto`, of about `budget` bytes, for a KV transaction that starts
    /// at `start` or later. Between batches only.
    pub fn piece(&self, upto: u64, start: Timestamp, budget: usize) -> Option<Piece> {
        self.checkpoint.piece(upto, self.may_begin_at(start), budget)
    }

    /// A piece is durable. Between batches only.
    pub fn landed(&mut self, piece: &Piece) {
        self.checkpoint.landed(piece);
        self.forget_before(piece.after.oldest);
    }

    /// A KV transaction that wrote nothing has found this head. Between batches only.
    pub fn found(&mut self, head: Head) {
        self.checkpoint.seen(head);
    }

    /// Forgets everything, for a replay from the oldest entry on that stands. Waiters stay.
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
        // What they wait for may be gone from the journal, too.
        self.rows_to_recheck.extend(self.queue.iter().map(|((row, _, _), ())| row.clone()));
    }

    /// Makes the state that of the journal's end: takes the head, and the entries that follow [`Core::tail`] (where
    /// some of them are trimmed, those from the oldest on), as one look has shown them. Tells what became of
    /// batches whose outcome was unknown.
    ///
    /// # Errors
    /// [`InvalidField`] when an entry does not decode, or is not the next one; a retry does not help, and whatever is
    /// shown later, each further look says the same: what was taken until then is half a state.
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

    /// Takes what another writer (or an earlier run) wrote into the state.
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
