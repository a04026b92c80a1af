//! Garbage that compaction drops by itself: history rows that nobody at or above the safe point can read.

use super::codec;
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
}

impl Factory for HistoryFilters {
    fn name(&self) -> &'static str {
        "history"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(HistoryFilter { safe_point: self.safe_point.load(Ordering::Relaxed) })
    }
}

impl CompactionFilter for HistoryFilter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        let garbage = codec::superseded_at(&item.value()?)
            .is_some_and(|superseded_at| superseded_at.0 <= self.safe_point);
        // A history row is written once, so nothing older can come back from below.
        Ok(if garbage { Verdict::Destroy } else { Verdict::Keep })
    }
}
