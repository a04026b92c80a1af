//! The optional API key. If one is set, changes over REST and the public console's operator part
//! need it.
//!
//! It is off unless a file is named, because the shop's public clients have no key. The file is
//! read again when it changes. It may hold several keys, one per line, so that one can be replaced
//! while both are valid.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use http::{HeaderMap, Method, header};
use rpc::reload::{RELOAD_EVERY, keep_fresh};
use subtle::{Choice, ConstantTimeEq as _};

#[cfg(test)]
mod tests;

/// Minimum and maximum length of a key, in bytes.
const KEY_LEN_MIN: usize = 16;
const KEY_LEN_MAX: usize = 512;
/// Maximum number of bytes read from a file of keys.
const FILE_LEN_MAX: u64 = 64 * 1024;

/// Why a file of keys cannot be used. The text never contains a key. A retry helps once the file is
/// corrected.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// Path of the file.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A line is not a key.
    #[error(
        "{} line {line}: a key is {KEY_LEN_MIN} to {KEY_LEN_MAX} visible ASCII characters",
        path.display()
    )]
    Line {
        /// Path of the file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
    },
    /// The file holds no key.
    #[error("{} holds no key", path.display())]
    Empty {
        /// Path of the file.
        path: PathBuf,
    },
}

/// The valid keys. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Keys {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    keys: RwLock<Vec<Vec<u8>>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl Keys {
    /// Reads the file and reads it again when it changes. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`KeyError`]; a person must correct the file.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        let keys = RwLock::new(read(path)?);
        let shared = Arc::new(Shared { path: path.to_owned(), keys });
        keep_fresh(&shared, RELOAD_EVERY, "the api keys", Shared::reload);
        Ok(Self { shared })
    }

    /// True when the request carries one of the keys, as `Authorization: Bearer KEY`. Keys are
    /// compared in constant time.
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let mut told = headers.get_all(header::AUTHORIZATION).iter();
        let (Some(only), None) = (told.next(), told.next()) else { return false };
        let Some((scheme, key)) = only.as_bytes().split_at_checked(7) else { return false };
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return false;
        }
        let keys = self.shared.keys.read().unwrap_or_else(PoisonError::into_inner);
        let one_fits = |so_far: Choice, each: &Vec<u8>| so_far | each.as_slice().ct_eq(key);
        keys.iter().fold(Choice::from(0), one_fits).into()
    }
}

impl Shared {
    /// Reads the file again. Keeps the keys in force when the file cannot be used.
    fn reload(&self) -> Result<bool, KeyError> {
        let found = read(&self.path)?;
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        let changed = *keys != found;
        *keys = found;
        Ok(changed)
    }
}

/// Checks whether a file of keys can be used.
///
/// # Errors
/// [`KeyError`]; a person must correct the file.
pub fn check(path: &Path) -> Result<(), KeyError> {
    read(path).map(drop)
}

/// True for a method that may change something.
pub(crate) fn changes(method: &Method) -> bool {
    !(*method == Method::GET || *method == Method::HEAD || *method == Method::OPTIONS)
}

fn read(path: &Path) -> Result<Vec<Vec<u8>>, KeyError> {
    let unreadable = |source| KeyError::File { path: path.to_owned(), source };
    let file = fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_LEN_MAX).read_to_end(&mut bytes).map_err(unreadable)?;
    let mut keys = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        let fits = (KEY_LEN_MIN..=KEY_LEN_MAX).contains(&line.len());
        if !(fits && line.iter().all(u8::is_ascii_graphic)) {
            return Err(KeyError::Line { path: path.to_owned(), line: index + 1 });
        }
        keys.push(line.to_vec());
    }
    if keys.is_empty() {
        return Err(KeyError::Empty { path: path.to_owned() });
    }
    Ok(keys)
}
