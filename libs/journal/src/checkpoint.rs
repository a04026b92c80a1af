//! The images that the records of a shard do not show yet, and the pieces that write them.

use std::collections::VecDeque;

use bytes::Bytes;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{Damage, Head, Tail};

/// Number of removals that a piece may always hold, so that trimming keeps up with appending.
const TRIM_MIN: u64 = 64;
/// Approximate size that the removal of an entry adds to a piece, in bytes.
const TRIM_BYTES: usize = 24;
/// Approximate size that a row adds to a piece besides its key and value, in bytes.
const ROW_BYTES: usize = 16;

/// A row as an entry left it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Image {
    /// The record's key within its shard.
    pub row: Bytes,
    /// The record's value; none if the record was removed.
    pub value: Option<Bytes>,
}

/// The newest image of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Newest {
    seq: u64,
    value: Option<Bytes>,
    /// Whether the record already shows it. Valid only as long as nobody else moves the head.
    put: bool,
}

/// A part of a checkpoint: one KV transaction, small enough to commit in one phase. It reads the
/// head, continues only if that is `before`, and writes the piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The head that it must find.
    pub before: Head,
    /// The head that it writes. Entries from `before.oldest` up to `after.oldest` are removed.
    pub after: Head,
    /// Rows to write, or to remove where there is no value.
    pub rows: Vec<Image>,
    /// For each row, the number of the entry that its image is from.
    seqs: Vec<u64>,
}

/// The images of the entries above the head's `flushed`, which the records of a shard do not show
/// yet.
#[derive(Debug, Clone, Default)]
pub struct Checkpoint {
    head: Head,
    newest: FxHashMap<Bytes, Newest>,
    /// Entries that the records do not show entirely, with their rows in the order of their images.
    entries: VecDeque<(u64, Vec<Bytes>)>,
    bytes: usize,
}

impl Checkpoint {
    /// The head as last seen or written.
    #[must_use]
    pub const fn head(&self) -> &Head {
        &self.head
    }

    /// Approximate size of the images that are kept, in bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the records show everything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The newest image of a row: `Some(None)` if the row was removed, `None` if the record itself
    /// shows the state.
    #[must_use]
    pub fn image(&self, row: &[u8]) -> Option<Option<&Bytes>> {
        self.newest.get(row).map(|newest| newest.value.as_ref())
    }

    /// Takes the images of the next entry. Ignores an entry that the records already show.
    pub fn push(&mut self, seq: u64, images: impl IntoIterator<Item = Image>) {
        if seq <= self.head.flushed {
            return;
        }
        let mut rows = Vec::new();
        for Image { row, value } in images {
            self.bytes += size(&row, value.as_ref());
            let newest = Newest { seq, value, put: false };
            if let Some(before) = self.newest.insert(row.clone(), newest) {
                self.bytes -= size(&row, before.value.as_ref());
            }
            rows.push(row);
        }
        self.entries.push_back((seq, rows));
    }

    /// Takes the head as a KV transaction has found it. From now on the caller must read the
    /// records at that transaction's timestamp or a later one.
    pub fn seen(&mut self, head: Head) {
        if head == self.head {
            return;
        }
        for newest in self.newest.values_mut() {
            newest.put = false;
        }
        self.head = head;
        self.prune();
    }

    /// Forgets everything, to replay from this head's oldest entry on.
    pub fn restart(&mut self, head: Head) {
        *self = Self { head, ..Self::default() };
    }

    /// Checks that the journal has every entry that the records show.
    ///
    /// # Errors
    /// [`Damage::Short`] if the journal ends below the head's `flushed`; no retry helps.
    pub const fn check(&self, tail: &Tail) -> Result<(), Damage> {
        let (last, flushed) = (tail.seq(), self.head.flushed);
        if last < flushed { Err(Damage::Short { last, flushed }) } else { Ok(()) }
    }

    /// The next piece of a checkpoint up to entry `upto`, of about `budget` bytes. `oldest` is
    /// where the journal may begin, judged by its entries alone. None when there is nothing to
    /// write.
    ///
    /// All images must be of entries that are known to stand, none in flight or in doubt.
    #[must_use]
    pub fn piece(&self, upto: u64, oldest: u64, budget: usize) -> Option<Piece> {
        let mut piece =
            Piece { before: self.head, after: self.head, rows: Vec::new(), seqs: Vec::new() };
        let mut bytes = 0;
        let mut within = FxHashSet::default();
        'all: for (seq, rows) in self.entries.iter().take_while(|(seq, _)| *seq <= upto) {
            let begun = if *seq == self.head.flushed + 1 { self.head.part } else { 0 };
            for (index, row) in (0..).zip(rows).skip(usize::try_from(begun).unwrap_or(usize::MAX)) {
                piece.after = Head { flushed: seq - 1, part: index, ..piece.after };
                let Some(newest) = self.newest.get(row).filter(|newest| !newest.put) else {
                    continue;
                };
                if within.contains(row) {
                    continue;
                }
                let more = size(row, newest.value.as_ref());
                if !piece.rows.is_empty() && bytes + more > budget {
                    break 'all;
                }
                bytes += more;
                within.insert(row);
                piece.rows.push(Image { row: row.clone(), value: newest.value.clone() });
                piece.seqs.push(newest.seq);
            }
            piece.after = Head { flushed: *seq, part: 0, ..piece.after };
        }
        let room = u64::try_from(budget.saturating_sub(bytes) / TRIM_BYTES).unwrap_or(u64::MAX);
        let most = self.head.oldest.saturating_add(room.max(TRIM_MIN));
        let shown = piece.after.flushed.saturating_add(1);
        piece.after.oldest = oldest.min(shown).min(most).max(self.head.oldest);
        (piece.after != piece.before).then_some(piece)
    }

    /// Notes that a piece is durable. Call this between batches only: a KV transaction that began
    /// before the piece may still read the old records.
    pub fn landed(&mut self, piece: &Piece) {
        if self.head != piece.before && self.head != piece.after {
            return;
        }
        for (image, seq) in piece.rows.iter().zip(&piece.seqs) {
            if let Some(newest) = self.newest.get_mut(&image.row) {
                newest.put = newest.seq == *seq;
            }
        }
        self.head = piece.after;
        self.prune();
    }

    /// Drops the images that the records show according to the head's `flushed`.
    fn prune(&mut self) {
        let flushed = self.head.flushed;
        while self.entries.front().is_some_and(|(seq, _)| *seq <= flushed) {
            let Some((_, rows)) = self.entries.pop_front() else { break };
            for row in rows {
                if self.newest.get(&row).is_some_and(|newest| newest.seq <= flushed)
                    && let Some(newest) = self.newest.remove(&row)
                {
                    self.bytes -= size(&row, newest.value.as_ref());
                }
            }
        }
    }
}

fn size(row: &Bytes, value: Option<&Bytes>) -> usize {
    row.len() + value.map_or(0, Bytes::len) + ROW_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(row: &'static str, value: &'static str) -> Image {
        let value = (!value.is_empty()).then(|| Bytes::from_static(value.as_bytes()));
        Image { row: Bytes::from_static(row.as_bytes()), value }
    }

    fn head(flushed: u64, part: u32, oldest: u64) -> Head {
        Head { flushed, part, oldest }
    }

    /// Three entries: a, b; b, c; a again.
    fn three() -> Checkpoint {
        let mut checkpoint = Checkpoint::default();
        checkpoint.push(1, [image("a", "a1"), image("b", "b1")]);
        checkpoint.push(2, [image("b", "b2"), image("c", "")]);
        checkpoint.push(3, [image("a", "a3")]);
        checkpoint
    }

    fn rows(piece: &Piece) -> Vec<(&str, &str)> {
        let text = |bytes: &'_ Bytes| std::str::from_utf8(bytes).unwrap().to_owned();
        let rows =
            piece.rows.iter().map(|image| (text(&image.row), image.value.as_ref().map(text)));
        rows.map(|(row, value)| (&*row.leak(), &*value.unwrap_or_default().leak())).collect()
    }

    #[test]
    fn a_piece_writes_each_row_once_and_as_it_is_by_now() {
        let piece = three().piece(3, 1, 1_000).unwrap();
        assert_eq!((piece.before, piece.after), (head(0, 0, 1), head(3, 0, 1)));
        assert_eq!(rows(&piece), [("a", "a3"), ("b", "b2"), ("c", "")]);
    }

    #[test]
    fn a_piece_ends_in_the_middle_of_an_entry_and_the_next_one_goes_on_there() {
        let mut checkpoint = three();
        let first = checkpoint.piece(3, 1, 1).unwrap();
        assert_eq!((first.after, rows(&first)), (head(0, 1, 1), vec![("a", "a3")]));
        checkpoint.landed(&first);
        assert_eq!(
            checkpoint.image(b"a"),
            Some(Some(&Bytes::from_static(b"a3"))),
            "kept till then"
        );
        let second = checkpoint.piece(3, 1, 1).unwrap();
        assert_eq!((second.after, rows(&second)), (head(1, 1, 1), vec![("b", "b2")]));
        checkpoint.landed(&second);
        let third = checkpoint.piece(3, 1, 1).unwrap();
        assert_eq!((third.after, rows(&third)), (head(3, 0, 1), vec![("c", "")]));
        checkpoint.landed(&third);
        assert!(checkpoint.is_empty());
        assert_eq!((checkpoint.bytes(), checkpoint.image(b"a")), (0, None));
        assert_eq!(checkpoint.piece(3, 1, 1), None);
    }

    #[test]
    fn what_was_put_early_is_put_again_when_somebody_else_moved_the_head() {
        let mut checkpoint = three();
        let first = checkpoint.piece(3, 1, 1).unwrap();
        checkpoint.landed(&first);
        checkpoint.seen(head(1, 0, 1));
        let piece = checkpoint.piece(3, 1, 1_000).unwrap();
        assert_eq!(rows(&piece), [("b", "b2"), ("c", ""), ("a", "a3")]);
        // A piece that began from another head has no effect.
        let mut other = checkpoint.clone();
        other.landed(&first);
        assert_eq!(other.piece(3, 1, 1_000), Some(piece));
    }

    #[test]
    fn a_row_that_changed_while_its_piece_was_written_is_written_again() {
        let mut checkpoint = three();
        let piece = checkpoint.piece(3, 1, 1_000).unwrap();
        checkpoint.push(4, [image("b", "b4")]);
        checkpoint.landed(&piece);
        assert_eq!(checkpoint.image(b"b"), Some(Some(&Bytes::from_static(b"b4"))));
        assert_eq!(rows(&checkpoint.piece(4, 1, 1_000).unwrap()), [("b", "b4")]);
    }

    #[test]
    fn what_the_records_do_not_show_is_not_trimmed() {
        let checkpoint = three();
        assert_eq!(checkpoint.piece(2, 4, 1_000).unwrap().after, head(2, 0, 3));
        assert_eq!(checkpoint.piece(0, 4, 1_000), None, "nothing is shown yet");
    }

    #[test]
    fn trimming_alone_is_worth_a_piece_and_keeps_up_whatever_rows_there_are() {
        let mut checkpoint = Checkpoint::default();
        for seq in 1..=200 {
            checkpoint.push(seq, []);
        }
        let piece = checkpoint.piece(200, 150, 1).unwrap();
        assert_eq!(piece.after, head(200, 0, 65));
        checkpoint.landed(&piece);
        assert_eq!(checkpoint.piece(200, 150, 100_000).unwrap().after, head(200, 0, 150));
    }

    #[test]
    fn images_of_entries_that_the_records_show_are_not_taken() {
        let mut checkpoint = Checkpoint::default();
        checkpoint.restart(head(2, 0, 1));
        checkpoint.push(2, [image("a", "a2")]);
        assert!(checkpoint.is_empty());
        checkpoint.push(3, [image("a", "a3")]);
        assert_eq!(checkpoint.image(b"a"), Some(Some(&Bytes::from_static(b"a3"))));
    }

    #[test]
    fn a_journal_that_ends_below_what_the_records_show_is_damaged() {
        let mut checkpoint = Checkpoint::default();
        checkpoint.restart(head(3, 0, 2));
        let mut tail = Tail::default();
        tail.restart(checkpoint.head());
        assert_eq!(checkpoint.check(&tail), Err(Damage::Short { last: 1, flushed: 3 }));
    }
}
