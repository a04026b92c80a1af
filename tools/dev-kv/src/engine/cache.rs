//! The newest records of keys, in bounded memory.

use crate::store::codec::Current;
use bytes::Bytes;
use quick_cache::unsync::Cache;
use quick_cache::{DefaultHashBuilder, Weighter};
use std::fmt;

/// Bookkeeping per entry in bytes, besides key and value; measured and rounded up.
const OVERHEAD: u64 = 192;

/// Values smaller than this are copied; otherwise one of them would keep a whole request's buffer
/// alive. Larger ones keep the buffer they came in.
const COPY_BELOW: usize = 2 * 1024;

#[derive(Clone)]
struct Weigh;

impl Weighter<Bytes, Current> for Weigh {
    fn weight(&self, key: &Bytes, row: &Current) -> u64 {
        (key.len() + row.weight()) as u64 + OVERHEAD
    }
}

/// A cache of rows by key.
pub(crate) struct RowCache {
    rows: Cache<Bytes, Current, Weigh>,
    entry_max: u64,
}

impl fmt::Debug for RowCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowCache").field("bytes", &self.rows.weight()).finish_non_exhaustive()
    }
}

impl RowCache {
    /// A cache of about this many bytes.
    pub(crate) fn new(bytes: u64) -> Self {
        let estimated = usize::try_from(bytes / 512).unwrap_or(usize::MAX).max(16);
        Self {
            entry_max: bytes / 16,
            rows: Cache::with(
                estimated,
                bytes.max(1),
                Weigh,
                DefaultHashBuilder::default(),
                quick_cache::unsync::DefaultLifecycle::default(),
            ),
        }
    }

    /// The row, if it is cached.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Current> {
        self.rows.get(key)
    }

    /// Caches the row. An empty row is dropped instead, because the disk tells cheaply that a row
    /// is absent.
    pub(crate) fn put(&mut self, key: &[u8], row: &Current) {
        if row.newest().is_none() {
            self.rows.remove(key);
            return;
        }
        if (key.len() + row.weight()) as u64 > self.entry_max {
            self.rows.remove(key);
            return;
        }
        let mut row = row.clone();
        if let Some((_, value)) = &mut row.data
            && value.len() < COPY_BELOW
        {
            *value = Bytes::copy_from_slice(value);
        }
        self.rows.insert(Bytes::copy_from_slice(key), row);
    }

    /// Bytes of all entries.
    pub(crate) fn weight(&self) -> u64 {
        self.rows.weight()
    }
}
