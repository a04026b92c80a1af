//! Ownership of the data directory, and its format mark. Only data of exactly this format is
//! opened.

use super::StoreError;
use super::marks::Marks;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Raised whenever the form of rows changes. There is no conversion: start a development store
/// anew.
const FORMAT: u32 = 2;
const FILE: &str = "dev-kv.format";
/// Holds the storage engine's files.
const DATA: &str = "data";
/// Locked by the process that owns the directory.
const LOCK: &str = "dev-kv.lock";
/// Written and removed again, to find out whether there is room.
const ROOM: &str = "dev-kv.room";
/// Bytes that must be free before writes are tried again: a small table, and some writes.
const ROOM_BYTES: usize = 1 << 20;

/// A data directory that this process owns until this is dropped.
#[derive(Debug)]
pub(crate) struct Directory {
    path: PathBuf,
    marks: Marks,
    _lock: File,
}

impl Directory {
    /// Takes ownership, and marks an absent or empty directory. Fails when it holds anything else
    /// or another process owns it.
    pub(crate) fn take(path: &Path) -> Result<Self, StoreError> {
        let lock = take(path)?;
        fs::remove_file(path.join(ROOM)).ok(); // left by a process that was killed
        Ok(Self { path: path.to_owned(), marks: Marks::open(path)?, _lock: lock })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the store must hold at least.
    pub(crate) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Where the storage engine keeps its journals and tables.
    pub(super) fn data(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// Whether the disk has room, and a file may grow beyond the longest journal.
    pub(crate) fn has_room(&self) -> bool {
        let room = self.path.join(ROOM);
        let written = self.write_as_a_journal(&room);
        fs::remove_file(&room).ok();
        written.is_ok()
    }

    fn write_as_a_journal(&self, room: &Path) -> std::io::Result<()> {
        let mut longest = 0;
        for entry in fs::read_dir(self.data())? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|extension| extension == "jnl") {
                longest = entry.metadata()?.len().max(longest);
            }
        }
        let file = File::create(room)?;
        file.write_all_at(&vec![1; ROOM_BYTES], longest)?;
        file.sync_all()
    }
}

fn take(directory: &Path) -> Result<File, StoreError> {
    fs::create_dir_all(directory)?;
    let lock = directory.join(LOCK);
    let foreign = !lock.exists() && fs::read_dir(directory)?.next().is_some();
    let path = directory.join(FILE);
    if foreign && !path.exists() {
        return Err(not_ours(directory));
    }
    let lock = File::options().create(true).append(true).open(lock)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StoreError::InUse(directory.display().to_string()));
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().strip_prefix("dev-kv format ") {
            Some(number) if number.parse() == Ok(FORMAT) => Ok(lock),
            Some(number) => Err(StoreError::Format(format!(
                "{} has format {number}, this program reads and writes format {FORMAT}: use the \
                 version that wrote it, or start with an empty directory",
                directory.display()
            ))),
            None => Err(not_ours(directory)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound && directory.join(DATA).exists() => {
            Err(StoreError::Damaged(format!(
                "{0} is missing, and there is data, of a format that nobody knows now. Restore the \
                 file from a copy; or write \"dev-kv format {FORMAT}\" into {0} if this release made \
                 the data",
                path.display()
            )))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => mark(directory, &path).map(|()| lock),
        Err(error) => Err(error.into()),
    }
}

/// Creates the mark. It appears complete or not at all; a crash in between leaves a draft that is
/// overwritten.
fn mark(directory: &Path, path: &Path) -> Result<(), StoreError> {
    let draft = directory.join("dev-kv.format.new");
    let mut file = File::create(&draft)?;
    writeln!(file, "dev-kv format {FORMAT}")?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    File::open(directory)?.sync_all()?;
    Ok(())
}

fn not_ours(directory: &Path) -> StoreError {
    StoreError::Format(format!(
        "{} is not empty and was not written by dev-kv",
        directory.display()
    ))
}
