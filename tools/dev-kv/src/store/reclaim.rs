//! Garbage that compaction drops by itself: history rows that nobody at or above the safe point can read.

use super::codec;
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

thread_local! {
    /// Set while this thread runs a compaction that may be given up.
    static INTERRUPT: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Runs a compaction on this thread that fails as soon as `interrupt` is set.
pub(super) fn interruptible<T>(interrupt: &Arc<AtomicBool>, compact: impl FnOnce() -> T) -> T {
    INTERRUPT.set(Some(Arc::clone(interrupt)));
    let result = compact();
    INTERRUPT.set(None);
    result
}

/// The filter for a table, when it has one.
pub(super) fn filter_for(table: &str, safe_point: &Arc<AtomicU64>) -> Option<Arc<dyn Factory>> {
    (table == "history").then(|| {
        Arc::new(HistoryFilters { safe_point: Arc::clone(safe_point) }) as Arc<dyn Factory>
    })
}

struct HistoryFilters {
    safe_point: Arc<AtomicU64>,
}

struct HistoryFilter {
    safe_point: u64,
    interrupt: Option<Arc<AtomicBool>>,
}

impl Factory for HistoryFilters {
    fn name(&self) -> &'static str {
        "history"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(HistoryFilter {
            safe_point: self.safe_point.load(Ordering::Relaxed),
            interrupt: INTERRUPT.with_borrow(Clone::clone),
        })
    }
}

impl CompactionFilter for HistoryFilter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        if self.interrupt.as_ref().is_some_and(|interrupt| interrupt.load(Ordering::Relaxed)) {
            return Err(std::io::Error::from(std::io::ErrorKind::Interrupted).into());
        }
        let garbage = codec::superseded_at(&item.value()?)
            .is_some_and(|superseded_at| superseded_at.0 <= self.safe_point);
        // A history row is written once, so nothing older can come back from below.
        Ok(if garbage { Verdict::Destroy } else { Verdict::Keep })
    }
}
