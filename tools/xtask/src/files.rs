//! Files and folders, with errors that name them.

use std::{
    fmt::Display,
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, chown, symlink},
    path::Path,
};

/// Puts a path in front of an error.
fn at<E: Display>(path: impl AsRef<Path>) -> impl FnOnce(E) -> String {
    move |error| format!("{}: {error}", path.as_ref().display())
}

/// Reads a file.
pub(crate) fn read(path: impl AsRef<Path>) -> Result<String, String> {
    fs::read_to_string(&path).map_err(at(path))
}

/// Reads a file of JSON.
pub(crate) fn json(path: impl AsRef<Path>) -> Result<serde_json::Value, String> {
    serde_json::from_str(&read(&path)?).map_err(at(path))
}

/// The last lines of a file, for an error message; nothing if it cannot be read.
pub(crate) fn tail(path: impl AsRef<Path>, lines: usize) -> String {
    let text = read(path).unwrap_or_default();
    let skipped = text.lines().count().saturating_sub(lines);
    text.lines().skip(skipped).collect::<Vec<_>>().join("\n")
}

/// Writes a file.
pub(crate) fn write(path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> Result<(), String> {
    fs::write(&path, text).map_err(at(path))
}

/// Writes a program, which anybody may run.
pub(crate) fn program(path: impl AsRef<Path>, text: impl AsRef<[u8]>) -> Result<(), String> {
    write(&path, text)?;
    fs::set_permissions(&path, Permissions::from_mode(0o755)).map_err(at(path))
}

/// Copies a file with its permissions.
pub(crate) fn copy(from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), String> {
    fs::copy(&from, to).map(drop).map_err(at(from))
}

/// Removes a file.
pub(crate) fn remove(path: impl AsRef<Path>) -> Result<(), String> {
    fs::remove_file(&path).map_err(at(path))
}

/// Makes a symbolic link, in place of an earlier one.
pub(crate) fn link(target: impl AsRef<Path>, link: impl AsRef<Path>) -> Result<(), String> {
    if link.as_ref().is_symlink() {
        remove(&link)?;
    }
    symlink(target, &link).map_err(at(link))
}

/// Gives a file or folder to this user and to the group of the same number.
pub(crate) fn give(path: impl AsRef<Path>, user: u32) -> Result<(), String> {
    chown(&path, Some(user), Some(user)).map_err(at(path))
}

/// Makes a folder, with those above it, unless it is there.
pub(crate) fn folder(path: impl AsRef<Path>) -> Result<(), String> {
    fs::create_dir_all(&path).map_err(at(path))
}

/// Removes a folder with all that is in it, if it is there.
pub(crate) fn no_folder(path: impl AsRef<Path>) -> Result<(), String> {
    if path.as_ref().exists() { fs::remove_dir_all(&path).map_err(at(path)) } else { Ok(()) }
}

/// Makes a folder without leftovers.
pub(crate) fn empty_folder(path: impl AsRef<Path>) -> Result<(), String> {
    no_folder(&path)?;
    folder(path)
}
