//! Marks: what the store must hold at least when it is opened again. These are the number of the
//! last synced write, and the ceiling of timestamps.
//!
//! A journal that lost its end still reads well, and so does a table that is older than its
//! journal. So the number of each write is kept a second time, outside of the storage engine. It is
//! written after the write itself is synced, and is not synced. After a power loss it may be
//! behind, but never ahead.
//!
//! The ceiling is kept here while the engine cannot write. The file never grows and is changed in
//! place, so this works on a full disk too.

use super::StoreError;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use xxhash_rust::xxh3::xxh3_64;

#[cfg(test)]
mod tests;

/// The file's name in the data directory.
pub(super) const FILE: &str = "dev-kv.marks";
const MAGIC: [u8; 8] = *b"dkvmark1";
/// Distance between the two copies of the record. They are written in turn.
const COPY: u64 = 512;
const LENGTH: usize = 40;

/// The values of the marks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// Number of the last write that is on disk.
    pub(crate) writes: u64,
    /// All timestamps given out are below this, in unix milliseconds.
    pub(crate) ceiling: u64,
}

#[derive(Debug)]
struct Inner {
    file: File,
    /// Counts the records written; its parity picks the copy.
    turn: u64,
    held: Held,
}

/// The file of the marks.
#[derive(Debug)]
pub(crate) struct Marks {
    path: PathBuf,
    inner: Mutex<Inner>,
}

impl Marks {
    /// Opens the marks of the directory; creates them if there are none.
    pub(super) fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let file = match File::options().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => Self::make(directory, &path)?,
            Err(error) => return Err(error.into()),
        };
        let mut found: Option<(u64, u64, u64)> = None;
        for place in [0, COPY] {
            let mut record = [0; LENGTH];
            if file.read_exact_at(&mut record, place).is_ok() {
                found = found.max(decode(&record));
            }
        }
        let Some((turn, writes, ceiling)) = found else {
            return Err(StoreError::Damaged(format!(
                "{0} is damaged: neither copy of its record is whole. Restore the data directory \
                 from a copy; or remove {0}, and nobody can tell whether the journals lost their \
                 end",
                path.display()
            )));
        };
        let held = Held { writes, ceiling };
        Ok(Self { path, inner: Mutex::new(Inner { file, turn, held }) })
    }

    /// Creates the file. It appears complete or not at all.
    fn make(directory: &Path, path: &Path) -> io::Result<File> {
        let draft = directory.join("dev-kv.marks.new");
        let file =
            File::options().read(true).write(true).create(true).truncate(true).open(&draft)?;
        for (turn, place) in [(0, 0), (1, COPY)] {
            file.write_all_at(&encode(turn, Held::default()), place)?;
        }
        file.sync_all()?;
        fs::rename(&draft, path)?;
        File::open(directory)?.sync_all()?;
        Ok(file)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current values.
    pub(crate) fn held(&self) -> Held {
        self.lock().held
    }

    /// The file's path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Records that the write with this number is on disk. Not synced.
    pub(super) fn wrote(&self, writes: u64) -> io::Result<()> {
        let mut inner = self.lock();
        let held = Held { writes, ..inner.held };
        inner.write(held)
    }

    /// Raises the ceiling and syncs it; never lowers it.
    pub(crate) fn raise_ceiling(&self, ceiling: u64) -> io::Result<()> {
        let mut inner = self.lock();
        let held = Held { ceiling: ceiling.max(inner.held.ceiling), ..inner.held };
        inner.write(held)?;
        inner.file.sync_data()
    }
}

impl Inner {
    fn write(&mut self, held: Held) -> io::Result<()> {
        let turn = self.turn.wrapping_add(1);
        let place = if turn.is_multiple_of(2) { 0 } else { COPY };
        self.file.write_all_at(&encode(turn, held), place)?;
        self.turn = turn;
        self.held = held;
        Ok(())
    }
}

fn encode(turn: u64, held: Held) -> Vec<u8> {
    let mut record = MAGIC.to_vec();
    for number in [turn, held.writes, held.ceiling] {
        record.extend_from_slice(&number.to_be_bytes());
    }
    let checksum = xxh3_64(&record);
    record.extend_from_slice(&checksum.to_be_bytes());
    record
}

/// Turn, writes and ceiling; none when the record is damaged.
fn decode(record: &[u8; LENGTH]) -> Option<(u64, u64, u64)> {
    let (content, checksum) = record.split_last_chunk::<8>()?;
    if u64::from_be_bytes(*checksum) != xxh3_64(content) {
        return None;
    }
    let numbers = content.strip_prefix(&MAGIC)?;
    let number = |place: usize| -> Option<u64> {
        Some(u64::from_be_bytes(numbers.get(place..place + 8)?.try_into().ok()?))
    };
    Some((number(0)?, number(8)?, number(16)?))
}
