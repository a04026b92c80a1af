//! Checks the storage engine's journals before the engine opens them.
//!
//! The engine takes the first thing it cannot read for the end of a journal, and cuts off the rest.
//! Only the torn tail of the last write may be cut off, because it was never acknowledged. Anything
//! else that cannot be read is damage. So is a missing journal, or a write missing between two
//! others.
//!
//! A journal is a sequence of batches. A batch has a start with the number of items and a sequence
//! number, the items, and an end with a checksum of the items and four magic bytes. The file is
//! allocated in advance, so zeros may follow the last batch. Every batch holds a row with the
//! number of the write, one more than in the batch before. Batches of releases without this row are
//! accepted.

use super::{StoreError, WRITES};
use std::fs::{self, File};
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

#[cfg(test)]
mod tests;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// Ends every batch.
const MAGIC: [u8; 4] = *b"FJL\x03";
/// Bounds for sequence numbers, which have no checksum. They grow with each batch, and by a few
/// with each table.
const SEQNO_GAP_MAX: u64 = 1 << 32;
const SEQNO_MAX: u64 = 1 << 56;
/// A disk writes this many bytes at once or not at all.
const SECTOR: u64 = 512;
/// Bytes scanned at a time.
const BLOCK: u64 = 64 << 10;
const BUFFER: usize = 64 << 10;
/// Zeros to compare a block with.
static ZEROS: [u8; BUFFER] = [0; BUFFER];

/// The last write in the journals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LastWrite {
    /// Its number.
    pub(super) number: u64,
    /// The journal that holds it.
    pub(super) file: PathBuf,
    /// The byte after it.
    pub(super) end: u64,
}

/// The torn tail of the last write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Torn {
    /// The journal that holds it.
    pub(super) file: PathBuf,
    /// Where it begins.
    pub(super) offset: u64,
    /// Its length.
    pub(super) bytes: u64,
}

/// What the journals of a directory hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Contents {
    /// The last write that has a number.
    pub(super) last: Option<LastWrite>,
    /// What the engine will cut off.
    pub(super) torn: Option<Torn>,
}

/// Reads all journals in the engine's directory, and changes nothing. Fails when there is no
/// journal.
pub(super) fn inspect(directory: &Path) -> Result<Contents, StoreError> {
    let mut contents = Contents::default();
    let mut seqno = None;
    for file in files(directory)? {
        let mut journal = Journal::open(&file)?;
        if let Some(torn) = contents.torn.as_ref().filter(|_| journal.end > 0) {
            return Err(damaged(
                &torn.file,
                torn.offset,
                &format!("a write is torn, but {} was written later", file.display()),
            ));
        }
        let mut at = 0;
        while at < journal.end {
            let batch = match journal.batch(at) {
                Ok(batch) => batch,
                Err(Stop::Io(error)) => return Err(error.into()),
                Err(stop) => {
                    if let Some(problem) = journal.damage(at, &stop)? {
                        return Err(damaged(&file, at, &problem));
                    }
                    let bytes = journal.end - at;
                    contents.torn = Some(Torn { file: file.clone(), offset: at, bytes });
                    break;
                }
            };
            let before = seqno.replace(batch.seqno);
            if before.is_some_and(|before| {
                !(1..SEQNO_GAP_MAX).contains(&batch.seqno.wrapping_sub(before))
            }) || batch.seqno > SEQNO_MAX
            {
                let problem = format!("sequence number {} follows {before:?}", batch.seqno);
                return Err(damaged(&file, at, &problem));
            }
            if let Some(number) = batch.write {
                if let Some(last) = contents.last.as_ref().filter(|last| last.number + 1 != number)
                {
                    let problem = format!("write {number} follows write {}", last.number);
                    return Err(damaged(&file, at, &problem));
                }
                contents.last = Some(LastWrite { number, file: file.clone(), end: batch.end });
            }
            at = batch.end;
        }
    }
    Ok(contents)
}

/// The journals, oldest first.
fn files(directory: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
            let number = number.ok_or_else(|| {
                StoreError::Damaged(format!("{} is not the name of a journal", path.display()))
            })?;
            found.push((number, path));
        }
    }
    found.sort_unstable();
    let missing = |number: u64| {
        let file = directory.join(format!("{number}.jnl"));
        StoreError::Damaged(format!(
            "{} is missing, and all writes with it that are in no table yet. Put it back, or \
             restore the data directory from a copy, or start with an empty one",
            file.display()
        ))
    };
    if found.is_empty() {
        return Err(missing(0));
    }
    for pair in found.windows(2) {
        if let [(number, _), (next, _)] = pair
            && number + 1 != *next
        {
            return Err(missing(number + 1));
        }
    }
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn damaged(file: &Path, offset: u64, problem: &str) -> StoreError {
    let name = file.display();
    StoreError::Damaged(format!(
        "{name} is damaged at byte {offset}: {problem}. Restore the data directory from a copy, or \
         start with an empty one. To open what was written before that byte and lose everything \
         after it: `truncate -s {offset} {name}`, remove the journals with higher numbers, and \
         remove {}",
        super::marks::FILE
    ))
}

/// Why a batch cannot be read.
#[derive(Debug)]
enum Stop {
    /// It extends beyond the written part of the journal.
    Short,
    /// It is written, but wrong. If the second field is known, the next batch would begin there.
    Wrong(&'static str, Option<u64>),
    /// The file cannot be read.
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

struct Batch {
    seqno: u64,
    write: Option<u64>,
    end: u64,
}

struct Journal {
    file: BufReader<File>,
    /// Position of the next byte to read.
    at: u64,
    /// The bytes from here on are all zero.
    end: u64,
}

impl Journal {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let mut end = file.metadata()?.len();
        let mut block = Vec::new();
        while end > 0 {
            let start = (end - 1) / BLOCK * BLOCK;
            read_at(&file, start, end, &mut block)?;
            if !is_zero(&block) {
                let last = block.iter().rposition(|byte| *byte != 0).unwrap_or(0);
                end = start + last as u64 + 1;
                break;
            }
            end = start;
        }
        Ok(Self { file: BufReader::with_capacity(BUFFER, file), at: 0, end })
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Stop> {
        let mut bytes = [0; N];
        self.reserve(N as u64)?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Advances by this many bytes, if they are written.
    fn reserve(&mut self, count: u64) -> Result<(), Stop> {
        let after = self.at.checked_add(count).filter(|after| *after <= self.end);
        self.at = after.ok_or(Stop::Short)?;
        Ok(())
    }

    fn hashed<const N: usize>(&mut self, hash: &mut Xxh3) -> Result<[u8; N], Stop> {
        let bytes = self.take()?;
        hash.update(&bytes);
        Ok(bytes)
    }

    fn hashed_vec(&mut self, count: u64, hash: &mut Xxh3) -> Result<Vec<u8>, Stop> {
        self.reserve(count)?;
        let mut bytes = Vec::new();
        (&mut self.file).take(count).read_to_end(&mut bytes)?;
        hash.update(&bytes);
        Ok(bytes)
    }

    /// Reads the batch that begins at `at`.
    fn batch(&mut self, at: u64) -> Result<Batch, Stop> {
        if self.at != at {
            self.file.seek(SeekFrom::Start(at))?;
            self.at = at;
        }
        let mut hash = Xxh3::new();
        if self.take::<1>()? != [START] {
            return Err(Stop::Wrong("no batch begins there", None));
        }
        let items = u32::from_le_bytes(self.take()?);
        let seqno = u64::from_le_bytes(self.take()?);
        let mut write = None;
        for _ in 0..items {
            write = self.item(&mut hash)?.or(write);
        }
        if self.take::<1>()? != [END] {
            return Err(Stop::Wrong("its batch has more items than it says", None));
        }
        let checksum = u64::from_le_bytes(self.take()?);
        if self.take::<4>()? != MAGIC {
            return Err(Stop::Wrong("its batch does not end as batches do", Some(self.at)));
        }
        if hash.digest() != checksum {
            return Err(Stop::Wrong("its batch and the checksum differ", Some(self.at)));
        }
        Ok(Batch { seqno, write, end: self.at })
    }

    /// Reads an item of a batch; returns the number of the write if the item holds it.
    fn item(&mut self, hash: &mut Xxh3) -> Result<Option<u64>, Stop> {
        match self.hashed::<1>(hash)? {
            [ITEM] => {}
            [CLEAR] => {
                self.hashed::<8>(hash)?;
                return Ok(None);
            }
            _ => return Err(Stop::Wrong("its batch holds something that is not an item", None)),
        }
        // Kind of value, compression, table, and three lengths: key, value, and the value as
        // stored.
        let head: [u8; 20] = self.hashed(hash)?;
        let [.., k0, k1, _, _, _, _, v0, v1, v2, v3] = head;
        let key = self.hashed_vec(u16::from_le_bytes([k0, k1]).into(), hash)?;
        let value_len = u32::from_le_bytes([v0, v1, v2, v3]);
        if key == WRITES.as_bytes() && value_len == 8 {
            return Ok(Some(u64::from_be_bytes(self.hashed(hash)?)));
        }
        let mut left = u64::from(value_len);
        if self.at.saturating_add(left) > self.end {
            return Err(Stop::Short);
        }
        while left > 0 {
            let some = left.min(BLOCK);
            self.hashed_vec(some, hash)?;
            left -= some;
        }
        Ok(None)
    }

    /// Why the unreadable batch at `at` cannot be the torn tail of the last write; none if it can.
    ///
    /// A torn write is an incomplete batch with nothing after it: it ends too early, or some of its
    /// sectors are still zeros.
    fn damage(&mut self, at: u64, stop: &Stop) -> Result<Option<String>, StoreError> {
        let (problem, next) = match stop {
            Stop::Wrong(problem, next) => (*problem, *next),
            Stop::Short => ("its batch is longer than the journal", None),
            Stop::Io(_) => return Ok(None),
        };
        if let Some(later) = self.later_batch(at, next)? {
            return Ok(Some(format!("{problem}, and another one follows at byte {later}")));
        }
        let whole = match stop {
            Stop::Short => self.ends_as_a_batch(at)?,
            Stop::Wrong(..) | Stop::Io(_) => true,
        };
        Ok((whole && !self.has_hole(at)?).then(|| problem.to_owned()))
    }

    /// Position of a whole batch after `at`, if there is one. `next` is tried first.
    fn later_batch(&mut self, at: u64, next: Option<u64>) -> Result<Option<u64>, StoreError> {
        let mut candidates: Vec<u64> = next.into_iter().collect();
        let mut block = Vec::new();
        let mut start = at;
        while start < self.end {
            // Blocks overlap, so that an end of a batch across two blocks is found.
            read_at(self.file.get_ref(), start, (start + BLOCK + 3).min(self.end), &mut block)?;
            let ends = block.windows(MAGIC.len()).enumerate().filter(|(_, bytes)| **bytes == MAGIC);
            candidates.extend(ends.map(|(place, _)| start + place as u64 + MAGIC.len() as u64));
            start += BLOCK;
        }
        for candidate in candidates {
            match self.batch(candidate) {
                Ok(_) => return Ok(Some(candidate)),
                Err(Stop::Io(error)) => return Err(error.into()),
                Err(Stop::Short | Stop::Wrong(..)) => {}
            }
        }
        Ok(None)
    }

    fn ends_as_a_batch(&self, at: u64) -> io::Result<bool> {
        let mut last = Vec::new();
        let start = at.max(self.end.saturating_sub(MAGIC.len() as u64));
        read_at(self.file.get_ref(), start, self.end, &mut last)?;
        Ok(last == MAGIC)
    }

    /// Whether a sector of the data from `at` on is all zeros, so that it was never written.
    fn has_hole(&self, at: u64) -> io::Result<bool> {
        let mut sector = Vec::new();
        let mut start = at;
        while start < self.end {
            let end = (start / SECTOR + 1) * SECTOR;
            read_at(self.file.get_ref(), start, end.min(self.end), &mut sector)?;
            if end <= self.end && is_zero(&sector) {
                return Ok(true);
            }
            start = end;
        }
        Ok(false)
    }
}

/// Whether these bytes, at most [`BLOCK`], are all zero. Fast, because journals hold megabytes of
/// zeros.
fn is_zero(bytes: &[u8]) -> bool {
    ZEROS.get(..bytes.len()).is_some_and(|zeros| zeros == bytes)
}

/// Reads the bytes of a file from `start` to `end`; fails when it is shorter.
fn read_at(file: &File, start: u64, end: u64, into: &mut Vec<u8>) -> io::Result<()> {
    let length = usize::try_from(end.saturating_sub(start)).map_err(io::Error::other)?;
    into.clear();
    into.resize(length, 0);
    file.read_exact_at(into, start)
}
