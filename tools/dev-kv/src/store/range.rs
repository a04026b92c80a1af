//! Ranges of keys, as in requests and as the engine takes them.

use super::{KEY_PREFIX, prefixed};
use bytes::Bytes;
use std::ops::Bound;

/// The keys from `start` (inclusive) to `end` (exclusive); without an end, all from `start` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyRange {
    /// The first key.
    pub(crate) start: Bytes,
    /// The first key after the range.
    pub(crate) end: Option<Bytes>,
}

impl KeyRange {
    /// A range as in a request: an empty end means no end.
    pub(crate) fn new(start: Bytes, end: Bytes) -> Self {
        Self { start, end: (!end.is_empty()).then_some(end) }
    }

    /// Whether the key is in the range.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_ref() && self.end.as_ref().is_none_or(|end| key < end.as_ref())
    }

    /// Whether no key can be in the range.
    pub(crate) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    pub(super) fn rows(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        let row = |key: &[u8]| {
            let mut out = Vec::with_capacity(key.len() + 1);
            prefixed(key, &mut out);
            out
        };
        let start = row(&self.start);
        let end = match &self.end {
            // The engine panics on a range that ends before it starts.
            Some(end) => row(end).max(start.clone()),
            None => vec![KEY_PREFIX + 1],
        };
        (Bound::Included(start), Bound::Excluded(end))
    }
}
