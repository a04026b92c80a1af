//! Bloom filters in memory of the keys that have a row. They recognise a new key without a search
//! in the engine.
//!
//! A block is one cache line, after Putze, Sanders, Singler: "Cache-, hash- and space-efficient
//! Bloom filters" (2009). When a store has rows already, a scan in the background fills its filter;
//! until then every key may have a row. A full filter is replaced by a larger one in the same way.

use super::{StoreError, user_key};
use fjall::{Database, Keyspace, Readable as _};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::JoinHandle;

/// 64-bit words in a block, which is a cache line.
const BLOCK_WORDS: usize = 8;
const BLOCK_BITS: u64 = 512;
/// Bits set per key, all in one block.
const PROBES: u32 = 6;
const BITS_PER_KEY: usize = 10;
/// Capacity of the first filter in keys (5 MiB), and the growth factor from one filter to the next.
/// Each next one costs a scan of the table. Starting with a quarter of this capacity took 6.1 us of
/// processor time for each of 2 million new keys; this one takes less than 6.
const KEYS_FIRST: usize = 4 << 20;
const GROWTH: usize = 4;

#[derive(Debug)]
struct Filter {
    words: Box<[AtomicU64]>,
    /// Approximate number of distinct keys added.
    keys: AtomicU64,
    capacity: usize,
}

impl Filter {
    fn new(capacity: usize) -> Self {
        let blocks = (capacity * BITS_PER_KEY / 512).max(1);
        let words = (0..blocks * BLOCK_WORDS).map(|_| AtomicU64::new(0)).collect();
        Self { words, keys: AtomicU64::new(0), capacity }
    }

    /// The key's bits, all in one block, each as a word and a mask.
    fn bits(&self, hash: u64) -> impl Iterator<Item = (&AtomicU64, u64)> {
        let blocks = self.words.len() / BLOCK_WORDS;
        // The upper half of the hash picks the block, evenly, by multiplication. The lower half
        // picks the bits.
        let block = usize::try_from(((hash >> 32) * blocks as u64) >> 32).unwrap_or(0);
        let words = self.words.get(block * BLOCK_WORDS..).unwrap_or_default();
        let mut rest = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (0..PROBES).filter_map(move |_| {
            let bit = rest % BLOCK_BITS;
            rest /= BLOCK_BITS;
            Some((words.get(usize::try_from(bit / 64).ok()?)?, 1 << (bit % 64)))
        })
    }

    fn may_hold(&self, hash: u64) -> bool {
        self.bits(hash).all(|(word, mask)| word.load(Ordering::Relaxed) & mask != 0)
    }

    fn add(&self, hash: u64) {
        let mut fresh = false;
        for (word, mask) in self.bits(hash) {
            fresh |= word.fetch_or(mask, Ordering::Relaxed) & mask == 0;
        }
        if fresh {
            self.keys.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_full(&self) -> bool {
        self.keys.load(Ordering::Relaxed) > self.capacity as u64
    }
}

#[derive(Debug, Default)]
struct Filters {
    /// Holds every key that has a row; none while the first one is filled.
    now: Option<Filter>,
    /// The filter that is being filled, to replace `now`.
    next: Option<Arc<Filter>>,
}

#[derive(Debug, Default)]
struct Shared {
    filters: RwLock<Filters>,
    hasher: RandomState,
    stop: AtomicBool,
}

/// Filter of the keys of one table.
#[derive(Debug, Default)]
pub(super) struct BloomFilters {
    shared: Arc<Shared>,
    filling: Mutex<Option<JoinHandle<()>>>,
}

/// A guard to hold while a batch goes to disk and its keys are added. No filling starts meanwhile,
/// so a key is in the scanned snapshot or is added to the new filter.
pub(super) struct Adding<'a> {
    presence: &'a BloomFilters,
    filters: RwLockReadGuard<'a, Filters>,
}

impl BloomFilters {
    /// Whether the key may have a row. False is certain.
    pub(super) fn may_hold(&self, key: &[u8]) -> bool {
        let filters = self.shared.filters.read().unwrap_or_else(PoisonError::into_inner);
        filters.now.as_ref().is_none_or(|filter| filter.may_hold(self.shared.hasher.hash_one(key)))
    }

    /// Starts the filter with the rows of the table.
    pub(super) fn begin(&self, db: &Database, table: &Keyspace) {
        if table.iter().next().is_none() {
            let mut filters = self.shared.filters.write().unwrap_or_else(PoisonError::into_inner);
            filters.now = Some(Filter::new(KEYS_FIRST));
        } else {
            let known = table.approximate_len();
            self.fill(db, table, KEYS_FIRST.max(known * 2));
        }
    }

    /// Takes the guard to add keys under.
    pub(super) fn adding(&self) -> Adding<'_> {
        let filters = self.shared.filters.read().unwrap_or_else(PoisonError::into_inner);
        Adding { presence: self, filters }
    }

    /// Starts to fill a larger filter, if this one is full.
    pub(super) fn grow(&self, db: &Database, table: &Keyspace) {
        let capacity = {
            let filters = self.shared.filters.read().unwrap_or_else(PoisonError::into_inner);
            match (&filters.now, &filters.next) {
                (Some(now), None) if now.is_full() => now.capacity * GROWTH,
                (_, _) => return,
            }
        };
        self.fill(db, table, capacity);
    }

    fn fill(&self, db: &Database, table: &Keyspace, capacity: usize) {
        let next = Arc::new(Filter::new(capacity));
        let rows = {
            let mut filters = self.shared.filters.write().unwrap_or_else(PoisonError::into_inner);
            filters.next = Some(Arc::clone(&next));
            // Every row is in this snapshot, or is added to the filter later.
            db.snapshot().iter(table)
        };
        let shared = Arc::clone(&self.shared);
        let started =
            std::thread::Builder::new().name("dev-kv-presence".to_owned()).spawn(move || {
                let filled = add_all(&shared, &next, rows);
                drop(next);
                let mut filters = shared.filters.write().unwrap_or_else(PoisonError::into_inner);
                let next = filters.next.take().and_then(Arc::into_inner);
                match filled {
                    Ok(true) => filters.now = next,
                    Ok(false) => {}
                    // The old filter, or none, is still correct.
                    Err(error) => {
                        tracing::warn!(error = %types::error::chain(&error), "keys not counted");
                    }
                }
            });
        match started {
            Ok(thread) => {
                *self.filling.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
            }
            Err(error) => tracing::warn!(error = %error, "keys not counted"),
        }
    }
}

/// Adds the key of every row. Returns false if it was told to stop.
fn add_all(shared: &Shared, filter: &Filter, rows: fjall::Iter) -> Result<bool, StoreError> {
    for row in rows {
        if shared.stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let key = user_key(&row.key()?)?;
        filter.add(shared.hasher.hash_one(&key[..]));
    }
    Ok(true)
}

impl Drop for BloomFilters {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let filling = self.filling.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = filling
            && thread.join().is_err()
        {
            tracing::error!("counting keys panicked");
        }
    }
}

impl Adding<'_> {
    /// Adds a key that has a row.
    pub(super) fn add(&self, key: &[u8]) {
        let hash = self.presence.shared.hasher.hash_one(key);
        if let Some(filter) = &self.filters.now {
            filter.add(hash);
        }
        if let Some(filter) = &self.filters.next {
            filter.add(hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_there_and_little_else_is() {
        let filter = Filter::new(10_000);
        let hasher = RandomState::new();
        for number in 0..10_000u32 {
            filter.add(hasher.hash_one(number));
        }
        assert!((0..10_000u32).all(|number| filter.may_hold(hasher.hash_one(number))));
        let wrong = (10_000..20_000u32).filter(|number| filter.may_hold(hasher.hash_one(number)));
        let wrong = wrong.count();
        assert!(wrong < 400, "{wrong} of 10000 are said to be there");
        assert!(!filter.is_full());
    }

    #[test]
    fn a_full_filter_says_so() {
        let filter = Filter::new(1_000);
        let hasher = RandomState::new();
        for number in 0..2_000u32 {
            filter.add(hasher.hash_one(number));
        }
        assert!(filter.is_full());
        for _ in 0..5 {
            let before = filter.keys.load(Ordering::Relaxed);
            filter.add(hasher.hash_one(1u32));
            assert_eq!(filter.keys.load(Ordering::Relaxed), before, "a repeated key is no new one");
        }
    }
}
