//! What a run really asked of the shop: which calls met on one record, in which order, and what happened between
//! them. Counted from what lanes tell of their durable batches, not from what the clients' program says.
//!
//! Of two calls on one record the later one follows the earlier one in the same batch, or in a later batch: with
//! nothing between them, or with a death, a standstill or a failure of the store that hit a replica of the service.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    sync::{Mutex, PoisonError},
};

use tracing::{
    Event,
    field::{Field, Visit},
};

/// Where lanes tell their calls.
pub(crate) const TARGET: &str = "participant::calls";

/// What lies between two calls on one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Between {
    /// They are of one batch.
    Batch,
    /// They are of two batches, and nothing happened.
    Nothing,
    /// A replica of the service died.
    Death,
    /// One stood still.
    Standstill,
    /// The store failed a call of one, or cut it off.
    Store,
}

impl Between {
    const ALL: [Self; 5] = [Self::Batch, Self::Nothing, Self::Death, Self::Standstill, Self::Store];

    const fn letter(self) -> char {
        match self {
            Self::Batch => 'b',
            Self::Nothing => 'n',
            Self::Death => 'd',
            Self::Standstill => 's',
            Self::Store => 'k',
        }
    }
}

/// How often the second kind of call followed the first one on a record of a service.
type Counts = BTreeMap<(String, String, String), BTreeMap<Between, u64>>;

static ALL: Mutex<Counts> = Mutex::new(BTreeMap::new());

/// The call on a record before, and how often each trouble had happened by then.
struct Last {
    batch: u64,
    kinds: Vec<String>,
    troubles: BTreeMap<Between, u64>,
}

#[derive(Default)]
struct Seen {
    counts: Counts,
    /// Calls that were taken, by lane and number.
    taken: BTreeMap<(String, u64), (String, Vec<String>)>,
    /// Rows of transactions, by branch and transaction.
    held: BTreeMap<(String, String), Vec<String>>,
    /// By branch and row.
    last: BTreeMap<(String, String), Last>,
    troubles: BTreeMap<String, BTreeMap<Between, u64>>,
}

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
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    for (pair, counts) in seen.counts {
        let known = all.entry(pair).or_default();
        for (between, count) in counts {
            *known.entry(between).or_default() += count;
        }
    }
}

/// A replica came into trouble.
pub(crate) fn trouble(replica: &str, what: Between) {
    let service = replica.split('-').next().unwrap_or_default();
    SEEN.with_borrow_mut(|seen| {
        if let Some(seen) = seen {
            *seen.troubles.entry(service.to_owned()).or_default().entry(what).or_default() += 1;
        }
    });
}

/// Hears what a lane tells.
pub(crate) fn hear(event: &Event<'_>) {
    SEEN.with_borrow_mut(|seen| {
        if let Some(seen) = seen {
            let mut fields = Fields::default();
            event.record(&mut fields);
            seen.hear(fields);
        }
    });
}

/// An event's fields.
#[derive(Default)]
struct Fields {
    texts: BTreeMap<&'static str, String>,
    numbers: BTreeMap<&'static str, u64>,
}

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.numbers.insert(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.texts.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.texts.insert(field.name(), format!("{value:?}"));
    }
}

impl Seen {
    fn hear(&mut self, mut fields: Fields) {
        let branch = fields.texts.remove("branch").unwrap();
        let lane = fields.texts.remove("lane").unwrap();
        let (batch, id) = (fields.numbers["batch"], fields.numbers["id"]);
        if let Some(call) = fields.texts.remove("call") {
            let rows: Vec<String> = serde_json::from_str(&fields.texts["rows"]).unwrap();
            let mut rows: Vec<String> =
                rows.into_iter().filter(|row| !row.starts_with('a')).collect();
            if let Some(tx) = fields.texts.remove("tx") {
                let held = self.held.entry((branch, tx)).or_default();
                if rows.is_empty() {
                    rows.clone_from(held);
                } else {
                    held.clone_from(&rows);
                }
            }
            self.taken.insert((lane, id), (call, rows));
            return;
        }
        let Some((call, mut rows)) = self.taken.remove(&(lane, id)) else { return };
        if call == "Init" && rows.is_empty() {
            // It reads nothing and overwrites, here, every item or user of its shard.
            let all = self.last.keys().filter(|(of, row)| *of == branch && !row.starts_with('y'));
            rows = all.map(|(_, row)| row.clone()).collect();
        }
        let kind = match (call.as_str(), fields.texts["answer"].as_str()) {
            (_, "waiting" | "overloaded" | "expired") => return,
            ("Prepare", "yes") => "Prepare".to_owned(),
            ("Prepare", _) => "Prepare, no".to_owned(),
            (_, "refused") => format!("{call}, refused"),
            _ => call,
        };
        for row in rows {
            self.follow(&branch, batch, row, &kind);
        }
    }

    fn follow(&mut self, branch: &str, batch: u64, row: String, kind: &str) {
        let service = branch.split('/').next().unwrap_or_default().to_owned();
        let troubles = self.troubles.get(&service).cloned().unwrap_or_default();
        let place = (branch.to_owned(), row);
        let mut pairs = BTreeSet::new();
        let last = self.last.entry(place).or_insert_with(|| Last {
            batch,
            kinds: Vec::new(),
            troubles: troubles.clone(),
        });
        if last.batch == batch {
            pairs.extend(last.kinds.iter().map(|before| (before.clone(), Between::Batch)));
        } else {
            let happened = Between::ALL.into_iter().filter(|one| {
                troubles.get(one).copied().unwrap_or(0)
                    > last.troubles.get(one).copied().unwrap_or(0)
            });
            let mut happened: Vec<Between> = happened.collect();
            if happened.is_empty() {
                happened.push(Between::Nothing);
            }
            for before in last.kinds.drain(..) {
                pairs.extend(happened.iter().map(|between| (before.clone(), *between)));
            }
            (last.batch, last.troubles) = (batch, troubles);
        }
        last.kinds.push(kind.to_owned());
        for (before, between) in pairs {
            let pair = (service.clone(), before, kind.to_owned());
            *self.counts.entry(pair).or_default().entry(between).or_default() += 1;
        }
    }
}

/// What was counted by all threads, as tables for docs/reliability.md, and how many cells are empty.
pub(crate) fn tables() -> (String, usize) {
    let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    let mut text = String::new();
    let mut empty = 0;
    for service in ["order", "stock", "payment"] {
        let kinds: BTreeSet<&String> = all
            .keys()
            .filter(|(of, ..)| of == service)
            .flat_map(|(_, before, after)| [before, after])
            .collect();
        let header: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
        writeln!(text, "\n| {service}: first, then | {} |", header.join(" | ")).unwrap();
        writeln!(text, "|---|{}", "---|".repeat(kinds.len())).unwrap();
        for before in &kinds {
            let cells = kinds.iter().map(|after| {
                let pair = (service.to_owned(), (*before).clone(), (*after).clone());
                let counts = all.get(&pair);
                let letter = |between: Between| {
                    let count = counts.and_then(|counts| counts.get(&between)).copied();
                    if count.is_some() { between.letter() } else { '.' }
                };
                Between::ALL.map(letter).into_iter().collect::<String>()
            });
            let cells: Vec<String> = cells.collect();
            empty += cells.iter().map(|cell| cell.matches('.').count()).sum::<usize>();
            writeln!(text, "| {before} | {} |", cells.join(" | ")).unwrap();
        }
    }
    (text, empty)
}
