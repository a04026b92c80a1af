//! The images in the journals that records do not show yet. A shard's state is its journal, and its
//! records lag behind (J5, J9).

use std::{collections::BTreeMap, ops::Range};

use storage::{Key, Value, keys::Space, record::JournalEntry};

/// Images that the records do not show yet, by key; `None` where the record is deleted.
#[derive(Debug, Default)]
pub struct Overlay(BTreeMap<Key, Option<Value>>);

impl Overlay {
    /// Takes an entry of a shard's journal. `flushed` is from the shard's head: the records show
    /// every entry up to it. Entries must come in order.
    pub fn take(&mut self, space: Space, flushed: u64, seq: u64, entry: &JournalEntry) {
        if seq <= flushed {
            return;
        }
        for image in &entry.images {
            let value = (!image.value.is_empty()).then(|| image.value.to_vec());
            self.0.insert(space.key(&image.row), value);
        }
    }

    /// The value of a key, given the value of its record.
    #[must_use]
    pub fn lay_over_one(&self, key: &[u8], record: Option<Value>) -> Option<Value> {
        self.0.get(key).map_or(record, Clone::clone)
    }

    /// The values in a range, given its records.
    #[must_use]
    pub fn lay_over(&self, range: Range<Key>, records: Vec<(Key, Value)>) -> Vec<(Key, Value)> {
        if range.is_empty() || self.0.range(range.clone()).next().is_none() {
            return records;
        }
        let mut shown: BTreeMap<_, _> = records.into_iter().collect();
        for (key, value) in self.0.range(range) {
            match value {
                Some(value) => drop(shown.insert(key.clone(), value.clone())),
                None => drop(shown.remove(key)),
            }
        }
        shown.into_iter().collect()
    }
}
