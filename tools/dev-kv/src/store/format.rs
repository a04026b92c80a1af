//! Whose the directory is, and its format mark. Only this program's data of this very format is opened.

use super::StoreError;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

/// Raised whenever rows change their form; there is no conversion, a development store is made anew.
const FORMAT: u32 = 2;
const FILE: &str = "dev-kv.format";
/// Held by the process that has the directory.
const LOCK: &str = "dev-kv.lock";

/// Takes the directory, which is this process's until the file is dropped, and refuses one that holds anything
/// else; marks an absent or empty one.
pub(super) fn take(directory: &Path) -> Result<File, StoreError> {
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
        Err(error) if error.kind() == ErrorKind::NotFound => mark(directory, &path).map(|()| lock),
        Err(error) => Err(error.into()),
    }
}

/// Complete or absent, never half: a crash in between leaves a draft that is written again.
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
