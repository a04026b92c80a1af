//! Those who ask for the same at the same moment share one answer.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures::future::{BoxFuture, Shared};

/// An answer that is being found.
type UnderWay<V> = Shared<BoxFuture<'static, V>>;

/// Answers that are being found, by what was asked.
#[derive(Debug)]
pub(crate) struct Singleflight<K, V: Clone>(Mutex<BTreeMap<K, UnderWay<V>>>);

impl<K, V: Clone> Default for Singleflight<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Ord, V: Clone> Singleflight<K, V> {
    /// The answer that is being found, or the one that `begin` begins to find.
    pub(crate) fn join(
        &self,
        key: K,
        begin: impl FnOnce() -> BoxFuture<'static, V>,
    ) -> UnderWay<V> {
        let begin = || futures::FutureExt::shared(begin());
        self.under_way().entry(key).or_insert_with(begin).clone()
    }

    /// Who asks from now on begins anew.
    pub(crate) fn end(&self, key: &K) {
        self.under_way().remove(key);
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<K, UnderWay<V>>> {
        // Nothing under this lock leaves the map half-changed, so a panic elsewhere does not matter.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
