//! A map that can undo all changes since it was last settled.

use std::{collections::BTreeMap, ops::RangeBounds};

/// An ordered map with an undo log, so that a batch that did not commit leaves no trace in memory
/// (L2).
///
/// Invariant: [`UndoMap::undo`] restores exactly the contents at the last [`UndoMap::settle`].
#[derive(Debug, Clone)]
pub struct UndoMap<K, V> {
    map: BTreeMap<K, V>,
    log: Vec<(K, Option<V>)>,
}

impl<K, V> Default for UndoMap<K, V> {
    fn default() -> Self {
        Self { map: BTreeMap::new(), log: Vec::new() }
    }
}

impl<K: Ord + Clone, V: Clone> UndoMap<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.map.get(key)
    }

    /// Sets the value of a key.
    pub fn insert(&mut self, key: K, value: V) {
        let before = self.map.insert(key.clone(), value);
        self.log.push((key, before));
    }

    /// Removes a key and returns its value.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        let before = self.map.remove(key)?;
        self.log.push((key.clone(), Some(before.clone())));
        Some(before)
    }

    /// The entries in a range, in order.
    pub fn range(&self, range: impl RangeBounds<K>) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.map.range(range)
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.map.iter()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True when there are none.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Makes all changes so far permanent.
    pub fn settle(&mut self) {
        self.log.clear();
    }

    /// Undoes all changes since the last [`UndoMap::settle`].
    pub fn undo(&mut self) {
        while let Some((key, before)) = self.log.pop() {
            match before {
                Some(value) => self.map.insert(key, value),
                None => self.map.remove(&key),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn undo_restores_the_last_settlement(
            kept in prop::collection::vec((0_u8..8, prop::option::of(0_u8..8)), 0..20),
            dropped in prop::collection::vec((0_u8..8, prop::option::of(0_u8..8)), 0..20),
        ) {
            let mut map = UndoMap::default();
            let change = |map: &mut UndoMap<u8, u8>, steps: &[(u8, Option<u8>)]| {
                for (key, value) in steps {
                    match value {
                        Some(value) => map.insert(*key, *value),
                        None => { map.remove(key); }
                    }
                }
            };
            change(&mut map, &kept);
            map.settle();
            let before: Vec<_> = map.iter().map(|(key, value)| (*key, *value)).collect();
            change(&mut map, &dropped);
            map.undo();
            let after: Vec<_> = map.iter().map(|(key, value)| (*key, *value)).collect();
            prop_assert_eq!(before, after);
        }
    }
}
