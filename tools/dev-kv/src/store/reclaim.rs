//! Garbage that compaction drops by itself: history rows that no read at or above the safe point
//! can see, and milestones at which no such read begins.

use super::codec;
use crate::model::Ts;
use fjall::compaction::filter::{
    CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict,
};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

thread_local! {
    /// Set while this thread runs a compaction that can be interrupted.
    static INTERRUPT: RefCell<Option<Arc<AtomicBool>>> = const { RefCell::new(None) };
}

/// Runs a compaction on this thread; it fails as soon as `interrupt` is set.
pub(super) fn interruptible<T>(interrupt: &Arc<AtomicBool>, compact: impl FnOnce() -> T) -> T {
    INTERRUPT.set(Some(Arc::clone(interrupt)));
    let result = compact();
    INTERRUPT.set(None);
    result
}

/// The compaction filter of a table, if it has one.
pub(super) fn filter_for(table: &str, safe_point: &Arc<AtomicU64>) -> Option<Arc<dyn Factory>> {
    let garbage_from: fn(&[u8]) -> Option<Ts> = match table {
        "history" => codec::history_until,
        "milestones" => codec::milestone_at,
        _ => return None,
    };
    Some(Arc::new(Filters { safe_point: Arc::clone(safe_point), garbage_from }))
}

struct Filters {
    safe_point: Arc<AtomicU64>,
    /// Decodes the safe point at which a row with this key becomes garbage.
    garbage_from: fn(&[u8]) -> Option<Ts>,
}

struct Filter {
    safe_point: u64,
    garbage_from: fn(&[u8]) -> Option<Ts>,
    interrupt: Option<Arc<AtomicBool>>,
}

impl Factory for Filters {
    fn name(&self) -> &'static str {
        "garbage"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Filter {
            safe_point: self.safe_point.load(Ordering::Relaxed),
            garbage_from: self.garbage_from,
            interrupt: INTERRUPT.with_borrow(Clone::clone),
        })
    }
}

impl CompactionFilter for Filter {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        if self.interrupt.as_ref().is_some_and(|interrupt| interrupt.load(Ordering::Relaxed)) {
            return Err(std::io::Error::from(std::io::ErrorKind::Interrupted).into());
        }
        let garbage = (self.garbage_from)(item.key()).is_some_and(|from| from.0 <= self.safe_point);
        // Such a row is written only once, so dropping it reveals no older version.
        Ok(if garbage { Verdict::Destroy } else { Verdict::Keep })
    }
}
