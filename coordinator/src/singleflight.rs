//! Lets concurrent callers with the same question share one answer.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures::future::{BoxFuture, Shared};

/// An answer under way.
type UnderWay<V> = Shared<BoxFuture<'static, V>>;

/// Answers under way, by question.
#[derive(Debug)]
pub(crate) struct Singleflight<K, V: Clone>(Mutex<BTreeMap<K, UnderWay<V>>>);

impl<K, V: Clone> Default for Singleflight<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord, V: Clone> Singleflight<K, V> {
    /// Joins the answer under way, or starts one by `begin`.
    pub(crate) fn join(
        &self,
        key: K,
        begin: impl FnOnce() -> BoxFuture<'static, V>,
    ) -> UnderWay<V> {
        let begin = || futures::FutureExt::shared(begin());
        self.under_way().entry(key).or_insert_with(begin).clone()
    }

    /// Forgets an answer, so that later callers start a new one.
    pub(crate) fn end(&self, key: &K) {
        self.under_way().remove(key);
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<K, UnderWay<V>>> {
        // No change under this lock is left half-done, so a panic elsewhere does not matter.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
