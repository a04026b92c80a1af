//! Counts which calls met on one record, in which order, and what happened between them. The source
//! is what lanes log of their durable batches (`TILL_LOG=participant::calls=trace`), not what the
//! clients planned.
//!
//! Two calls on one record are in the same batch, or in two. Between two batches nothing happened,
//! or a replica of the service died, was stopped, or had a call failed by the store.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use serde_json::Value;

/// The log target of lanes for their calls.
pub const TARGET: &str = "participant::calls";

/// What happened between two calls on one record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Between {
    /// Nothing: both are in one batch.
    Batch,
    /// Nothing, but they are in two batches.
    Nothing,
    /// A replica of the service died.
    Death,
    /// A replica stood still.
    Standstill,
    /// The store failed a call of a replica, or was cut off from it.
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

/// By service, first call and second call: how often the second followed the first on one record.
pub type Counts = BTreeMap<(String, String, String), BTreeMap<Between, u64>>;

/// What a lane logs of a call: that a batch took it, or how it was answered.
#[derive(Debug, Default)]
pub struct LoggedCall {
    pub branch: String,
    pub lane: String,
    pub batch: u64,
    pub id: u64,
    /// The kind of call; none if this is its answer.
    pub call: Option<String>,
    /// The rows that the call names, as a JSON list.
    pub rows: String,
    pub tx: Option<String>,
    /// The answer; empty if the call was only taken.
    pub answer: String,
}

impl LoggedCall {
    /// Parses a line of a role's JSON log; none if the line is about something else.
    pub fn of_line(line: &str) -> Option<Self> {
        let line: Value = serde_json::from_str(line).ok()?;
        if line["target"] != TARGET {
            return None;
        }
        let text = |name: &str| line[name].as_str().map(ToOwned::to_owned);
        let number = |name: &str| line[name].as_u64();
        Some(Self {
            branch: text("branch")?,
            lane: text("lane")?,
            batch: number("batch")?,
            id: number("id")?,
            call: text("call"),
            rows: text("rows").unwrap_or_default(),
            tx: text("tx"),
            answer: text("answer").unwrap_or_default(),
        })
    }
}

/// The latest batch on a record, its kinds of calls, and how often each trouble had happened by
/// then.
#[derive(Debug)]
struct Last {
    batch: u64,
    kinds: Vec<String>,
    troubles: BTreeMap<Between, u64>,
}

/// What was logged in one shop.
#[derive(Debug, Default)]
pub struct Seen {
    pub counts: Counts,
    /// Calls that were taken and are not answered yet, by lane and number.
    taken: BTreeMap<(String, u64), (String, Vec<String>)>,
    /// Rows of transactions, by branch and transaction.
    held: BTreeMap<(String, String), Vec<String>>,
    /// Latest calls by branch and row.
    last: BTreeMap<(String, String), Last>,
    troubles: BTreeMap<String, BTreeMap<Between, u64>>,
}

impl Seen {
    /// Counts a trouble of one of the service's replicas.
    pub fn trouble(&mut self, service: &str, what: Between) {
        *self.troubles.entry(service.to_owned()).or_default().entry(what).or_default() += 1;
    }

    /// Takes a line of a lane. Lines of one shard must come in the order of its batches.
    pub fn hear(&mut self, logged: LoggedCall) {
        let LoggedCall { branch, lane, batch, id, call, rows, tx, answer } = logged;
        if let Some(call) = call {
            let rows: Vec<String> = serde_json::from_str(&rows).unwrap();
            let mut rows: Vec<String> =
                rows.into_iter().filter(|row| !row.starts_with('a')).collect();
            if let Some(tx) = tx {
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
            // It names no row. Here it overwrites every item or user of its shard.
            let all = self.last.keys().filter(|(of, row)| *of == branch && !row.starts_with('y'));
            rows = all.map(|(_, row)| row.clone()).collect();
        }
        let kind = match (call.as_str(), answer.as_str()) {
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

/// Adds `more` to `all`.
pub fn add(all: &mut Counts, more: Counts) {
    for (pair, counts) in more {
        let known = all.entry(pair).or_default();
        for (between, count) in counts {
            *known.entry(between).or_default() += count;
        }
    }
}

/// The tables of docs/reliability.md, and the number of empty cells.
pub fn tables(all: &Counts) -> (String, usize) {
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
