//! A shard's two bookkeeping records: its head and its journal.
//!
//! Every KV transaction that changes anything in a shard writes its head first, as it follows from the head that
//! it knows, and inserts the journal entry of its number. So two writers of a shard can never both commit from the
//! same state; a writer that was cut off fails at its next commit; and an undetermined commit is settled by reading
//! the head.
//!
//! It reads the head, unless its writer's own last batch (or look at the head) is fresh: to insert the entry fails
//! when the shard has a batch of that number already, and what is written after the start of the KV transaction
//! conflicts on the head. For that to see every batch of somebody else, its entry must still stand, so trimming
//! follows a rule of its own:
//!
//! Let a writer know the head at batch `k` as of timestamp `s0`, and start at `s` within [`TRUST_MS`] of it.
//! If somebody wrote `k + 1` at commit timestamp `c`, then `c > s0`, or it would have been seen. If `c > s`,
//! the head conflicts. Else entry `k + 1` stands at `s`, and the insert fails: it may only be removed by a
//! batch that starts [`TRIM_AGE_MS`] after the start of batch `k + 2`, which saw `k + 1` and so started
//! after `c`; that is later than `s0 + TRIM_AGE_MS > s`. All of these are timestamps of the store.

use crate::{
    codec::{self, FORMAT_2, decode, encode},
    keys::Space,
    kv::{KvError, Reads, Txn},
    record::{self, JournalEntry, tx_event::Event},
};
use types::Mutation;

/// How many recent writers a head remembers.
const RUNS_MAX: usize = 16;

/// Journal entries read in one page when a lane catches up.
const PAGE: u32 = 128;

/// How long after it last knew the head a writer may do without reading it, in milliseconds between start
/// timestamps.
pub const TRUST_MS: u64 = 1_000;

/// A journal entry may be removed by a batch that starts this long after the start of the entry's
/// successor, in milliseconds; the last entry never. Far longer than [`TRUST_MS`].
pub const TRIM_AGE_MS: u64 = 5_000;

/// Names one start of one process.
pub type Writer = [u8; 16];

/// A shard's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Number of the last batch; 0 before the first.
    pub seq: u64,
    /// Oldest batch that still stands in the journal; `seq + 1` when there is none.
    pub oldest: u64,
    /// Recent writers and their last run that stands, the latest last.
    runs: Vec<(Writer, u64)>,
    /// Stands in the format of release 0.1, which must not write the shard any more.
    outdated: bool,
}

impl Default for Head {
    fn default() -> Self {
        Self { seq: 0, oldest: 1, runs: Vec::new(), outdated: false }
    }
}

impl Head {
    /// The last run of a writer that stands, if the head still remembers it.
    pub fn run_of(&self, writer: &Writer) -> Option<u64> {
        self.runs.iter().find(|(known, _)| known == writer).map(|(_, run)| *run)
    }

    /// Who wrote the last batch; none before the first.
    pub fn last_writer(&self) -> Option<&Writer> {
        self.runs.last().map(|(writer, _)| writer)
    }

    /// True while releases that know no stamps may still write the shard. Any batch ends that.
    pub const fn is_outdated(&self) -> bool {
        self.outdated
    }

    /// The head after one more batch.
    #[must_use]
    pub fn next(&self, writer: Writer, run: u64, oldest: u64) -> Self {
        let mut runs: Vec<_> =
            self.runs.iter().filter(|(known, _)| *known != writer).copied().collect();
        runs.push((writer, run));
        let surplus = runs.len().saturating_sub(RUNS_MAX);
        runs.drain(..surplus);
        Self { seq: self.seq + 1, oldest, runs, outdated: false }
    }

    fn decode(key: &[u8], value: &[u8]) -> Result<Self, KvError> {
        let (format, head): (_, record::Head) = codec::decode_any(key, value, FORMAT_2)?;
        let runs = head.runs.iter().map(|run| Ok((writer(key, &run.writer)?, run.run)));
        let runs = runs.collect::<Result<_, KvError>>()?;
        let outdated = format < FORMAT_2;
        Ok(Self { seq: head.seq, oldest: head.oldest, runs, outdated })
    }

    fn encode(&self) -> Vec<u8> {
        let runs = self
            .runs
            .iter()
            .map(|(writer, run)| record::head::Run { writer: writer.to_vec().into(), run: *run });
        let head = record::Head { seq: self.seq, oldest: self.oldest, runs: runs.collect() };
        codec::encode_as(FORMAT_2, &head)
    }
}

/// Reads a writer's name.
fn writer(key: &[u8], bytes: &[u8]) -> Result<Writer, KvError> {
    bytes.try_into().map_err(|_| KvError::Corrupt {
        key: codec::hex(key),
        problem: "a writer must be 16 bytes".to_owned(),
    })
}

/// Reads a shard's head; a shard that was never written has the default one.
///
/// # Errors
/// [`KvError`]; retry unless it is `Corrupt`.
pub async fn read_head<R: Reads + ?Sized>(reads: &mut R, space: Space) -> Result<Head, KvError> {
    let key = space.head();
    match reads.get(&key).await? {
        Some(value) => Head::decode(&key, &value),
        None => Ok(Head::default()),
    }
}

/// Reads the journal entries `from..=to` that still stand, with their numbers, in order.
///
/// # Errors
/// [`KvError`]; retry unless it is `Corrupt`.
pub async fn read_journal<R: Reads + ?Sized>(
    reads: &mut R,
    space: Space,
    from: u64,
    to: u64,
) -> Result<Vec<(u64, JournalEntry)>, KvError> {
    let mut entries = Vec::new();
    let mut next = from;
    while next <= to {
        let page = reads.scan(space.journal(next)..space.journal(to + 1), PAGE).await?;
        let full = u32::try_from(page.len()).is_ok_and(|len| len >= PAGE);
        for (key, value) in page {
            let seq = journal_seq(space, &key)?;
            entries.push((seq, decode(&key, &value)?));
            next = seq + 1;
        }
        if !full {
            break;
        }
    }
    Ok(entries)
}

fn journal_seq(space: Space, key: &[u8]) -> Result<u64, KvError> {
    let id = space.strip(key).and_then(|record| record.get(1..));
    id.and_then(|id| <[u8; 8]>::try_from(id).ok()).map(u64::from_be_bytes).ok_or_else(|| {
        KvError::Corrupt {
            key: codec::hex(key),
            problem: "a journal key must end in 8 bytes".to_owned(),
        }
    })
}

/// Writes a batch's bookkeeping: the head first, so that it is the KV transaction's primary, then the
/// journal entry, which no other batch of this number may have written, then the removal of entries that
/// may be forgotten. Returns the bytes written.
pub fn write_batch<T: Txn + ?Sized>(
    txn: &mut T,
    space: Space,
    before: &Head,
    after: &Head,
    entry: &JournalEntry,
) -> usize {
    let head = after.encode();
    let journal = encode(entry);
    let bytes = head.len() + journal.len();
    if Mutation::FenceWithoutHead.is_on() && is_fences(entry) {
        txn.put(space.journal(after.seq | 1 << 40), journal);
        return bytes;
    }
    txn.put(space.head(), head);
    txn.insert(space.journal(after.seq), journal);
    for seq in before.oldest..after.oldest {
        txn.delete(space.journal(seq));
    }
    bytes
}

/// Whether a batch says nothing but that transactions are fenced.
fn is_fences(entry: &JournalEntry) -> bool {
    let is_fence = |event: &record::TxEvent| matches!(&event.event, Some(Event::Fenced(_)));
    entry.requests.is_empty() && entry.changed.is_empty() && entry.events.iter().all(is_fence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_remembers_the_last_run_of_recent_writers() {
        let mut head = Head::default();
        for round in 1..=3 {
            for name in 0..16_u8 {
                head = head.next([name; 16], round, 1);
            }
        }
        assert_eq!(head.seq, 48);
        assert_eq!(head.last_writer(), Some(&[15; 16]));
        assert_eq!(head.run_of(&[0; 16]), Some(3));
        head = head.next([99; 16], 1, 1);
        assert_eq!(head.run_of(&[0; 16]), None, "the oldest writer made room");
        assert_eq!(head.run_of(&[1; 16]), Some(3));
        assert_eq!(Head::decode(b"", &head.encode()), Ok(head));
    }

    #[test]
    fn a_head_of_release_0_1_is_read_and_is_outdated_until_the_next_batch() {
        let old = record::Head { seq: 7, oldest: 5, runs: Vec::new() };
        let old = Head::decode(b"", &encode(&old)).unwrap();
        assert!(old.is_outdated());
        let next = old.next([1; 16], 1, 5);
        assert!(!next.is_outdated());
        let refused = decode::<record::Head>(b"", &next.encode());
        assert!(
            matches!(refused, Err(KvError::Corrupt { .. })),
            "what release 0.1 reads: {refused:?}"
        );
    }
}
