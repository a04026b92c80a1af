//! Counts which calls met in the simulation, on every thread.

use std::{
    cell::RefCell,
    sync::{Mutex, PoisonError},
};

use system_test::history::coverage::{self, Counts, Seen, Told};
use tracing::{
    Event,
    field::{Field, Visit},
};

pub(crate) use system_test::history::coverage::{Between, TARGET};

static ALL: Mutex<Counts> = Mutex::new(Counts::new());

thread_local! {
    static SEEN: RefCell<Option<Seen>> = const { RefCell::new(None) };
}

/// Whether somebody wants to know.
pub(crate) fn is_wanted() -> bool {
    std::env::vars_os().any(|(name, _)| name == "SIM_COVERAGE")
}

/// Begins to count on this thread.
pub(crate) fn begin() {
    SEEN.set(is_wanted().then(Seen::default));
}

/// Adds what was counted on this thread to what all threads have.
pub(crate) fn end() {
    let Some(seen) = SEEN.take() else { return };
    coverage::add(&mut ALL.lock().unwrap_or_else(PoisonError::into_inner), seen.counts);
}

/// A replica came into trouble.
pub(crate) fn trouble(replica: &str, what: Between) {
    let service = replica.split('-').next().unwrap_or_default();
    SEEN.with_borrow_mut(|seen| {
        if let Some(seen) = seen {
            seen.trouble(service, what);
        }
    });
}

/// Hears what a lane tells.
pub(crate) fn hear(event: &Event<'_>) {
    SEEN.with_borrow_mut(|seen| {
        if let Some(seen) = seen {
            let mut fields = Fields::default();
            event.record(&mut fields);
            seen.hear(fields.0);
        }
    });
}

/// What was counted by all threads, as tables, and how many cells are empty.
pub(crate) fn tables() -> (String, usize) {
    coverage::tables(&ALL.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Reads an event's fields.
#[derive(Default)]
struct Fields(Told);

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
