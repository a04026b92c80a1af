//! The directory's format mark. Only this program's data of this very format is opened.

use super::StoreError;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

/// Raised whenever rows change their form; there is no conversion, a development store is made anew.
const FORMAT: u32 = 1;
const FILE: &str = "dev-kv.format";

/// Refuses a directory that holds anything else; marks an absent or empty one.
pub(super) fn check_or_create(directory: &Path) -> Result<(), StoreError> {
    let path = directory.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => match text.trim().strip_prefix("dev-kv format ") {
            Some(number) if number.parse() == Ok(FORMAT) => Ok(()),
            Some(number) => Err(StoreError::Format(format!(
                "{} has format {number}, this program reads and writes format {FORMAT}: use the \
                 version that wrote it, or start with an empty directory",
                directory.display()
            ))),
            None => Err(not_ours(directory)),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(directory, &path),
        Err(error) => Err(error.into()),
    }
}

fn create(directory: &Path, path: &Path) -> Result<(), StoreError> {
    fs::create_dir_all(directory)?;
    // Complete or absent, never half: a crash in between leaves the draft, which counts as nothing.
    let draft = directory.join(format!("{FILE}.new"));
    for entry in fs::read_dir(directory)? {
        if entry?.path() != draft {
            return Err(not_ours(directory));
        }
    }
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
