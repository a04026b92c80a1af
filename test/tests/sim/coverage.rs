//! Counts which calls met in the simulation, over all threads.

use std::{
    cell::RefCell,
    sync::{Mutex, PoisonError},
};

use system_test::history::coverage::{self, Counts, LoggedCall, Seen};
use tracing::{
    Event,
    field::{Field, Visit},
};

pub(crate) use system_test::history::coverage::{Between, TARGET};

static ALL: Mutex<Counts> = Mutex::new(Counts::new());

thread_local! {
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// Whether to count.
pub(crate) fn is_wanted() -> bool {
    std::env::vars_os().any(|(name, _)| name == "SIM_COVERAGE")
}

/// Starts counting on this thread.
pub(crate) fn begin() {
    SEEN.set(is_wanted().then(Seen::default));
}

/// Adds what this thread counted to the total.
pub(crate) fn end() {
    let Some(seen) = SEEN.take() else { return };
    coverage::add(&mut ALL.lock().unwrap_or_else(PoisonError::into_inner), seen.counts);
}

/// Counts a trouble of this replica.
pub(crate) fn trouble(replica: &str, what: Between) {
    let service = replica.split('-').next().unwrap_or_default();
    SEEN.with_borrow_mut(|seen| {
        if let Some(seen) = seen {
            seen.trouble(service, what);
        }
    });
}

/// Takes an event of a lane.
pub(crate) fn hear(event: &Event<'_>) {
    SEEN.with_borrow_mut(|seen| {
        if let Some(seen) = seen {
            let mut fields = Fields::default();
            event.record(&mut fields);
            seen.hear(fields.0);
        }
    });
}

/// The total as tables, and the number of empty cells.
pub(crate) fn tables() -> (String, usize) {
    coverage::tables(&ALL.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Reads the fields of an event.
#[derive(Default)]
struct Fields(LoggedCall);

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "batch" => self.0.batch = value,
            "id" => self.0.id = value,
            _ => {}
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let value = value.to_owned();
        match field.name() {
            "branch" => self.0.branch = value,
            "lane" => self.0.lane = value,
            "call" => self.0.call = Some(value),
            "rows" => self.0.rows = value,
            "tx" => self.0.tx = Some(value),
            "answer" => self.0.answer = value,
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}
