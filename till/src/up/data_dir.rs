//! The directory in which a shop on one machine keeps its state.
//!
//! Invariants: one `till up` at a time holds the directory, by an advisory lock that the kernel
//! drops when the process dies, however it dies. A directory that holds other files and not our
//! marker is never written to or wiped.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// Marks the directory as ours.
const MARKER: &str = "till-data.marker";
/// Locked while a `till up` runs.
const LOCK: &str = "till-data.lock";
/// Content of the marker.
const MARKER_TEXT: &str =
    "This directory holds the data of `till up`. `till up --fresh` deletes it.\n";

/// Why a data directory cannot be used. A retry helps only for `InUse`, once the other process is
/// gone.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another `till up` holds the directory.
    #[error(
        "{} is in use by another `till up`: stop that one, or choose another directory with --data-dir",
        .0.display()
    )]
    InUse(PathBuf),
    /// The directory holds something else.
    #[error(
        "{} is not empty and has no {MARKER} in it, so it is not a till data directory: choose another one with --data-dir",
        .0.display()
    )]
    Foreign(PathBuf),
    /// The file system refused.
    #[error("cannot use {} as the data directory", .0.display())]
    Io(PathBuf, #[source] io::Error),
}

/// A data directory that this process holds.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    /// Closing the file unlocks it.
    _lock: File,
}

impl DataDir {
    /// Takes `path`, creates it if it does not exist, and first wipes it if `fresh`.
    pub(crate) fn open(path: &Path, fresh: bool) -> Result<Self, Error> {
        let io = |error| Error::Io(path.to_owned(), error);
        fs::create_dir_all(path).map_err(io)?;
        let path = path.canonicalize().map_err(io)?;
        if !path.join(MARKER).exists() && !is_empty(&path).map_err(io)? {
            return Err(Error::Foreign(path));
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join(LOCK))
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse(path)),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        // The marker comes first, so that a crash during the wipe leaves a directory that is ours.
        fs::write(path.join(MARKER), MARKER_TEXT).map_err(io)?;
        if fresh {
            wipe(&path).map_err(io)?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// The directory's absolute path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// True when the directory holds nothing but the lock, which is created before everything else.
fn is_empty(path: &Path) -> io::Result<bool> {
    for entry in fs::read_dir(path)? {
        if entry?.file_name() != LOCK {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Deletes everything but the lock and the marker.
fn wipe(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == LOCK || entry.file_name() == MARKER {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_until_the_first_has_gone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let first = DataDir::open(&path, false).unwrap();
        let error = DataDir::open(&path, true).unwrap_err();
        assert!(matches!(error, Error::InUse(_)), "{error}");
        drop(first);
        DataDir::open(&path, false).unwrap();
    }

    #[test]
    fn fresh_wipes_what_is_ours() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        drop(DataDir::open(&path, false).unwrap());
        fs::create_dir(path.join("kv")).unwrap();
        fs::write(path.join("kv/000001.sst"), "rows").unwrap();
        fs::write(path.join("up.json"), "{}").unwrap();
        drop(DataDir::open(&path, false).unwrap());
        assert!(path.join("kv/000001.sst").exists());
        drop(DataDir::open(&path, true).unwrap());
        assert!(!path.join("kv").exists());
        assert!(!path.join("up.json").exists());
    }

    #[test]
    fn a_directory_of_somebody_else_is_neither_used_nor_wiped() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("thesis.tex"), "years of work").unwrap();
        for fresh in [false, true] {
            let error = DataDir::open(parent.path(), fresh).unwrap_err();
            assert!(matches!(error, Error::Foreign(_)), "{error}");
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);
    }
}
