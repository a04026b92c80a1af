//! A shard's stored journal and head: reads them, appends entries, and writes pieces of
//! checkpoints. The rules are [`journal`]'s.

use journal::{Author, Piece, Writer};
use types::Mutation;

pub use journal::Head;

use crate::{
    codec::{self, FORMAT_3, decode_packed, encode_packed},
    keys::Space,
    kv::{Key, KvError, Reads, Txn, Value},
    record::{self, JournalEntry, tx_event::Event},
};

/// Journal entries read in one page.
const PAGE: u32 = 64;

/// A head as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The head; the default if the shard was never written.
    pub head: Head,
    /// Whether earlier releases can no longer read or write the shard. The first append of this
    /// release ensures it.
    pub is_current: bool,
}

impl Found {
    fn decode(key: &[u8], value: Option<&[u8]>) -> Result<Self, KvError> {
        let Some(value) = value else {
            return Ok(Self { head: Head::default(), is_current: false });
        };
        let (format, head): (_, record::Head) = codec::decode_any(key, value, FORMAT_3)?;
        let record::Head { flushed, part, oldest, runs: _ } = head;
        Ok(Self { head: Head { flushed, part, oldest }, is_current: format == FORMAT_3 })
    }
}

fn encode_head(head: &Head) -> Value {
    let Head { flushed, part, oldest } = *head;
    codec::encode_as(FORMAT_3, &record::Head { flushed, part, oldest, runs: Vec::new() })
}

/// The author of an entry. `None` if the entry does not name a valid one.
#[must_use]
pub fn author(entry: &JournalEntry) -> Option<Author> {
    let writer = Writer::try_from(&entry.writer[..]).ok()?;
    Some(Author { writer, run: entry.run })
}

/// The author of the entry before. `None` if the entry does not name it.
#[must_use]
pub fn previous_author(entry: &JournalEntry) -> Option<Author> {
    let writer = Writer::try_from(&entry.previous_writer[..]).ok()?;
    Some(Author { writer, run: entry.previous_run })
}

/// Reads a shard's head.
///
/// # Errors
/// [`KvError`]; retry unless it is `Corrupt`.
pub async fn read_head<R: Reads + ?Sized>(reads: &mut R, space: Space) -> Result<Found, KvError> {
    let key = space.head();
    let value = reads.get(&key).await?;
    Found::decode(&key, value.as_deref())
}

/// Reads a shard's head, and the entries after `known` in order, with their numbers. If some of
/// those are trimmed, the entries begin at the oldest that remains.
///
/// # Errors
/// [`KvError`]; retry unless it is `Corrupt`.
pub async fn read_tail<R: Reads + ?Sized>(
    reads: &mut R,
    space: Space,
    known: u64,
) -> Result<(Found, Vec<(u64, JournalEntry)>), KvError> {
    let next = known.saturating_add(1);
    let (head_key, next_key) = (space.head(), space.journal(next));
    let pair = reads.batch_get(vec![head_key.clone(), next_key.clone()]).await?;
    let value_of = |key: &Key| pair.iter().find(|(found, _)| found == key).map(|(_, value)| value);
    let found = Found::decode(&head_key, value_of(&head_key).map(Vec::as_slice))?;
    let entries = if found.head.oldest > next {
        read_journal(reads, space, found.head.oldest).await?
    } else {
        match value_of(&next_key) {
            None => Vec::new(),
            Some(value) => {
                let mut entries = vec![(next, decode_packed(&next_key, value)?)];
                entries.extend(read_journal(reads, space, next.saturating_add(1)).await?);
                entries
            }
        }
    };
    Ok((found, entries))
}

/// Reads the entries from `first` on, with their numbers, in order.
///
/// # Errors
/// [`KvError`]; retry unless it is `Corrupt`.
pub async fn read_journal<R: Reads + ?Sized>(
    reads: &mut R,
    space: Space,
    first: u64,
) -> Result<Vec<(u64, JournalEntry)>, KvError> {
    let mut entries = Vec::new();
    let mut range = space.range(crate::keys::Kind::Journal);
    range.start = space.journal(first);
    loop {
        let page = reads.scan(range.clone(), PAGE).await?;
        let full = u32::try_from(page.len()).is_ok_and(|len| len >= PAGE);
        for (key, value) in page {
            let seq = journal_seq(space, &key)?;
            entries.push((seq, decode_packed(&key, &value)?));
            range.start = space.journal(seq.saturating_add(1));
        }
        if !full {
            return Ok(entries);
        }
    }
}

fn journal_seq(space: Space, key: &[u8]) -> Result<u64, KvError> {
    let id = space.strip(key).and_then(|record| record.get(1..));
    let seq = id.and_then(|id| <[u8; 8]>::try_from(id).ok()).map(u64::from_be_bytes);
    seq.ok_or_else(|| codec::corrupt(key, &"a journal key must end in 8 bytes"))
}

/// Appends an entry by inserting it under its number, which no other entry may have. If the shard
/// has no head of this release yet, the same KV transaction writes `opens` as its head, and earlier
/// releases can no longer write to the shard.
pub fn append<T: Txn + ?Sized>(
    txn: &mut T,
    space: Space,
    seq: u64,
    entry: &JournalEntry,
    opens: Option<&Head>,
) {
    let value = encode_packed(entry);
    if Mutation::FenceOutsideJournal.is_on() && is_fences(entry) {
        txn.put(space.journal(seq | 1 << 40), value);
    } else if Mutation::AppendWithoutInsert.is_on() {
        txn.put(space.journal(seq), value);
    } else {
        txn.insert(space.journal(seq), value);
    }
    if let Some(head) = opens {
        txn.put(space.head(), encode_head(head));
    }
}

/// Writes a piece of a checkpoint. The head is the KV transaction's primary. The caller must have
/// read `piece.before` as the head in the same transaction.
pub fn write_piece<T: Txn + ?Sized>(txn: &mut T, space: Space, piece: &Piece) {
    txn.put(space.head(), encode_head(&piece.after));
    let skipped = usize::from(Mutation::CheckpointSkipsRow.is_on());
    for image in piece.rows.iter().skip(skipped) {
        match &image.value {
            Some(value) => txn.put(space.key(&image.row), value.to_vec()),
            None => txn.delete(space.key(&image.row)),
        }
    }
    for seq in piece.before.oldest..piece.after.oldest {
        txn.delete(space.journal(seq));
    }
}

/// Whether an entry contains nothing but fences.
fn is_fences(entry: &JournalEntry) -> bool {
    let is_fence = |event: &record::TxEvent| matches!(&event.event, Some(Event::Fenced(_)));
    entry.requests.is_empty() && entry.images.is_empty() && entry.events.iter().all(is_fence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_of_an_earlier_release_is_read_and_is_not_current() {
        let run = record::head::Run { writer: vec![1; 16].into(), run: 3 };
        let old = record::Head { flushed: 7, oldest: 5, runs: vec![run], part: 0 };
        for format in [codec::FORMAT_1, codec::FORMAT_2] {
            let found = Found::decode(b"", Some(&codec::encode_as(format, &old))).unwrap();
            assert_eq!(
                found,
                Found { head: Head { flushed: 7, part: 0, oldest: 5 }, is_current: false }
            );
        }
    }

    #[test]
    fn earlier_releases_cannot_read_a_head_of_this_one() {
        let head = Head { flushed: 7, part: 3, oldest: 5 };
        let written = encode_head(&head);
        assert_eq!(Found::decode(b"", Some(&written)), Ok(Found { head, is_current: true }));
        let refused = codec::decode_any::<record::Head>(b"", &written, codec::FORMAT_2);
        assert!(matches!(refused, Err(KvError::Corrupt { .. })), "{refused:?}");
    }
}
