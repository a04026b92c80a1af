//! Exhaustive bounded check of the rules of a shard's journal.
//!
//! Two lanes drive the crate's own types against a model of a store with snapshot isolation.
//! Between any two of their steps, any time may pass and anything else may happen. An append or a
//! piece of a checkpoint lands on time, late or never. Its reply arrives or is lost. Entries are
//! trimmed. Garbage collection forgets removed keys, and the conflicts with them. After every step,
//! a reader from outside, a lane that reads and every caller that was answered must have seen the
//! truth: what each entry did when it landed.
//!
//! The search is breadth-first, so the first counter-example is a shortest one. It is printed step
//! by step. States merge when they behave the same (`print`). Times count only by the bounds that
//! they have crossed, so one age stands for all ages of its class.
//!
//! Bounds of a default run, all of them exhausted: 5.2 million states and 66 s of one core in
//! total, including the searches with a rule left out:
//!
//! | operations | besides appends and pieces | time jumps by, in s | states |
//! |---|---|---|---|
//! | 2 | reads, undetermined appends, lost pieces | 0.9, 5, 61, 601 | 305,135 |
//! | 2 | a crash, undetermined appends and pieces | 5 | 270,126 |
//! | 2 | a fact, undetermined appends | 5 | 144,126 |
//! | 2 | reads by lanes that keep rows, undetermined appends | 5 | 132,400 |
//! | 2 | lanes that keep rows and begin early, undetermined appends | 5 | 325,908 |
//! | 3 | the same, reads, nothing undetermined | 5 | 953,889 |
//! | 2 | reads beside the batches, undetermined appends | 5 | 840,069 |
//! | 2 | a shard without a head, reads, undetermined appends | 5 | 82,343 |
//! | 1 | reads, undetermined appends, lanes that stop within a batch | 0.9, 5, 61, 601 | 16,067 |
//! | 3 | a fact; reads; nothing | 5; 0.9, 5; 5, 601 | 160,079; 222,910; 135,601 |
//! | 3 | rows that are written early | | 6,952 |
//!
//! A piece holds one row, where entries have up to two. With three operations it holds all rows,
//! except in the last line. One undetermined append may be in flight; any number may be lost. A
//! deep run (`JOURNAL_MODEL_DEEP`) takes larger bounds, and some minutes.
//!
//! Leaving out a rule of [`BROKEN`] must break something. Leaving out one of the two in
//! [`HARMLESS`] breaks nothing, as the search confirms.

mod lane;
mod print;
mod scope;
mod search;
mod steps;
mod store;
mod world;

use scope::{Break, Feature, Scope, TICKS};
use search::{Found, explore};
use world::seen;

const AGE: &[u64] = &[5_000];
const TRUST_AND_AGE: &[u64] = &[900, 5_000];
const AGE_AND_GARBAGE: &[u64] = &[5_000, 601_000];
const WHOLE: &[usize] = &[usize::MAX];

/// Maximum number of states of one search.
const STATES: usize = 4_000_000;

/// A narrow scope, for counter-examples that need many operations.
const NARROW: Scope = Scope { ops: 3, ticks: AGE, budgets: WHOLE, with: &[], ..Scope::SMALL };

/// Lanes that begin KV transactions early.
const BUSY: Scope = Scope { with: &[Feature::Reads, Feature::Caches, Feature::Early], ..NARROW };

/// Lanes that read beside their batches.
const BESIDE: Scope = Scope {
    ticks: AGE,
    with: &[Feature::Doubts, Feature::Caches, Feature::Beside],
    ..Scope::SMALL
};

/// Rules whose absence breaks something, each with the scope that shows it.
const BROKEN: [(Break, Scope); 26] = [
    (Break::AppendWithoutInsert, Scope::SMALL),
    (Break::TrustFromReply, Scope { ops: 4, ..NARROW }),
    (Break::UndeterminedForgotten, Scope::SMALL),
    (Break::ConflictSettles, Scope::SMALL),
    (Break::UnknownRunsAgain, Scope::SMALL),
    (Break::ExpiredWhileUndetermined, Scope::SMALL),
    (
        Break::BelowOldestBelieved,
        Scope { ticks: AGE_AND_GARBAGE, with: &[Feature::Doubts], ..NARROW },
    ),
    (Break::LookWithoutOldest, Scope::SMALL),
    (Break::ReadWithoutLook, Scope::SMALL),
    (Break::LoadWithoutOverlay, Scope::SMALL),
    (Break::CheckpointRenewsTrust, Scope { ops: 4, ..NARROW }),
    (
        Break::PruneUnderBatch,
        Scope { ops: 1, ticks: &[], with: &[Feature::Reads, Feature::Split], ..Scope::SMALL },
    ),
    (Break::PieceIncludesInFlight, Scope::SMALL),
    (Break::PieceSkipsRow, Scope::SMALL),
    (Break::PieceIgnoresHead, Scope::SMALL),
    (Break::TrimAboveFlushed, Scope::SMALL),
    (Break::TrimByOwnAge, Scope { with: &[Feature::Reads], ..NARROW }),
    (Break::TrimForgetsFacts, Scope { with: &[Feature::Facts], ..NARROW }),
    (Break::CarriedBeforeDurable, Scope { with: &[Feature::Facts], ..NARROW }),
    (Break::LastEntryTrimmed, Scope::SMALL),
    (Break::OutsideWithoutOverlay, Scope::SMALL),
    (Break::OutsideAtTwoTimestamps, Scope::SMALL),
    (Break::LateYesBelieved, Scope { ticks: AGE_AND_GARBAGE, ..NARROW }),
    (Break::EarlyBelieved, BUSY),
    (Break::BesideBelieved, BESIDE),
    (
        Break::EarlyReads,
        Scope { ops: 4, ticks: &[], with: &[Feature::Caches, Feature::Early], ..NARROW },
    ),
];

/// Rules whose absence breaks nothing, each with the scope that was searched.
///
/// Trust while an append is undetermined: an entry that landed in the append's place cannot be
/// trimmed within the trust window, so the insert of a rerun decides. Trust from the commit: the
/// entry was the last one at that time, because its successor starts later.
const HARMLESS: [(Break, Scope); 2] = [
    (
        Break::TrustWhileUndetermined,
        Scope { ticks: AGE, with: &[Feature::Reads, Feature::Doubts], ..Scope::SMALL },
    ),
    (Break::TrustFromCommit, NARROW),
];

/// Explores a scope and prints the result.
fn search(scope: &Scope) -> Found {
    let found = explore(scope, STATES);
    let Found { states, is_whole, depth, seconds, broken, .. } = &found;
    let whole = if *is_whole { "" } else { "; more are left" };
    eprintln!("{scope:?}: {states} states, depth {depth}, {seconds:.1} s{whole}");
    if let Some((path, problem)) = broken {
        eprintln!("broken after {} steps: {problem}", path.len());
        for (number, step) in (1..).zip(path) {
            eprintln!("{number:4}. {step}");
        }
    }
    found
}

fn holds(scope: &Scope) -> u16 {
    let found = search(scope);
    assert!(found.broken.is_none(), "the rules do not hold");
    assert!(found.is_whole, "the scope is larger than was bounded");
    found.seen
}

#[test]
fn the_rules_hold() {
    let came_across = holds(&Scope::SMALL);
    for (bit, what) in (0..).zip(seen::NAMES) {
        assert!(came_across & 1 << bit != 0, "the search never came across this: {what}");
    }
}

#[test]
fn the_rules_hold_where_lanes_crash() {
    let with = &[Feature::Doubts, Feature::Failures];
    holds(&Scope { crashes: 1, stray_pieces: 1, ticks: AGE, with, ..Scope::SMALL });
}

#[test]
fn the_rules_hold_for_facts() {
    holds(&Scope { with: &[Feature::Facts], ..NARROW });
    holds(&Scope { with: &[Feature::Facts, Feature::Doubts], ticks: AGE, ..Scope::SMALL });
}

#[test]
fn the_rules_hold_for_lanes_that_keep_rows() {
    let with = &[Feature::Reads, Feature::Doubts, Feature::Caches];
    holds(&Scope { ticks: AGE, with, ..Scope::SMALL });
}

#[test]
fn the_rules_hold_for_lanes_that_begin_early() {
    let came_across = holds(&BUSY);
    assert!(came_across & seen::EARLY != 0, "the search never used an early transaction");
    let with = &[Feature::Doubts, Feature::Failures, Feature::Caches, Feature::Early];
    holds(&Scope { ticks: AGE, with, ..Scope::SMALL });
}

#[test]
fn the_rules_hold_for_reads_beside_the_batches() {
    let came_across = holds(&BESIDE);
    assert!(came_across & seen::BESIDE != 0, "no look ever proved anything");
}

#[test]
fn the_rules_hold_for_a_shard_without_a_head() {
    let with = &[Feature::Reads, Feature::Doubts, Feature::Fresh];
    holds(&Scope { ticks: AGE, with, ..Scope::SMALL });
}

#[test]
fn the_rules_hold_where_a_lane_stops_within_a_batch() {
    let with = &[Feature::Reads, Feature::Doubts, Feature::Split];
    holds(&Scope { ops: 1, with, ..Scope::SMALL });
}

#[test]
fn the_rules_hold_for_three_operations() {
    holds(&Scope { ticks: TRUST_AND_AGE, with: &[Feature::Reads], ..NARROW });
    holds(&Scope { ticks: AGE_AND_GARBAGE, ..NARROW });
}

/// One lane writes a row early. The other lane, which knows less, writes an older image over it.
#[test]
fn the_rules_hold_for_rows_that_are_written_early() {
    holds(&Scope { ops: 3, ticks: &[], with: &[], ..Scope::SMALL });
}

#[test]
fn a_rule_left_out_is_found() {
    for (rule, scope) in BROKEN {
        let found = search(&Scope { without: Some(rule), ..scope });
        assert!(found.broken.is_some(), "nothing breaks without {rule:?}");
    }
}

#[test]
fn a_rule_that_is_stricter_than_it_must_be_is_known() {
    for (rule, scope) in HARMLESS {
        holds(&Scope { without: Some(rule), ..scope });
    }
}

/// Larger bounds, which take some minutes: `JOURNAL_MODEL_DEEP=1 cargo test -p journal deep`. The
/// first two scopes are exhausted, with 1.0 and 1.8 million states. The others go as far as
/// [`STATES`].
#[test]
fn the_rules_hold_in_a_deep_search() {
    if std::env::var_os("JOURNAL_MODEL_DEEP").is_none() {
        return;
    }
    let with = &[Feature::Reads, Feature::Doubts, Feature::Split];
    holds(&Scope { ticks: AGE, with, ..Scope::SMALL });
    let with = &[Feature::Doubts, Feature::Failures, Feature::Facts];
    holds(&Scope { crashes: 1, stray_pieces: 1, with, ..Scope::SMALL });
    for scope in [
        Scope { ops: 4, ..NARROW },
        Scope { with: &[Feature::Doubts], ..NARROW },
        Scope { ticks: TICKS, with: &[Feature::Reads, Feature::Doubts], ..NARROW },
    ] {
        assert!(search(&scope).broken.is_none(), "the rules do not hold");
    }
}
