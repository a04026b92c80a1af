//! What the journals show of records that were not written yet: a shard is its journal, and its records follow behind.

use std::{collections::BTreeMap, ops::Range};

use storage::{Key, Value, keys::Space, record::JournalEntry};

/// Images of records that the records themselves do not show, by key; none where the record is gone.
#[derive(Debug, Default)]
pub struct Overlay(BTreeMap<Key, Option<Value>>);

impl Overlay {
    /// Takes an entry of a shard's journal, whose head says that its records show it up to `flushed`. Entries come in
    /// order.
    pub fn take(&mut self, space: Space, flushed: u64, seq: u64, entry: &JournalEntry) {
        if seq <= flushed {
            return;
        }
        for image in &entry.images {
            let value = (!image.value.is_empty()).then(|| image.value.to_vec());
            self.0.insert(space.key(&image.row), value);
        }
    }

    /// What stands under a key, where a record says this.
    #[must_use]
    pub fn lay_over_one(&self, key: &[u8], record: Option<Value>) -> Option<Value> {
        self.0.get(key).map_or(record, Clone::clone)
    }

    /// What stands in a range, where its records say this.
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
