//! Goal: a table is right at the very edges: at the deadline, and at what one journal entry states.

#![allow(clippy::arithmetic_side_effects, reason = "small numbers, and tests panic on overflow")]

use proptest::prelude::*;
use types::{Branch, BranchState, Timestamp, TxId, TxMeta, UnixMillis, Vote};

use super::{Entry, Event, Gate, TransactionTable};
use crate::coordinator::tests::meta;

const DEADLINE: UnixMillis = UnixMillis(1_000);
const EARLIER: u64 = 999;
const LATER: u64 = 1_001;

const fn at(at_ms: u64) -> Timestamp {
    Timestamp::from_physical(UnixMillis(at_ms))
}

/// A transaction of two branches.
fn tx(number: u8) -> TxMeta {
    TxMeta { deadline: DEADLINE, ..meta(number, 2) }
}

/// The table of a branch: 0 is the primary, 1 is the second branch.
fn table(place: usize) -> TransactionTable<u8> {
    TransactionTable::new(branch(place))
}

fn branch(place: usize) -> Branch {
    tx(1).branches[place].clone()
}

fn prepared(meta: &TxMeta) -> Event<u8> {
    Event::Prepared { meta: meta.clone(), hold: 7, receipt: vec![1] }
}

fn fenced(meta: &TxMeta) -> Event<u8> {
    Event::Fenced { meta: meta.clone(), vote: None }
}

fn decided(meta: &TxMeta, committed: bool) -> Event<u8> {
    Event::Decided { tx_id: meta.tx_id, committed }
}

/// Ids of the overdue transactions.
fn overdue(table: &TransactionTable<u8>, now: u64, grace_ms: u64) -> Vec<TxId> {
    table.overdue(UnixMillis(now), grace_ms).map(|meta| meta.tx_id).collect()
}

#[test]
fn a_vote_is_judged_before_its_deadline_and_not_at_it() {
    let (mut table, meta) = (table(1), tx(1));
    assert_eq!(table.gate(&meta, at(EARLIER)), Gate::Admit);
    let last_before = Timestamp(at(DEADLINE.0).0 - 1);
    assert_eq!(table.gate(&meta, last_before), Gate::Admit);
    assert_eq!(table.gate(&meta, at(DEADLINE.0)), Gate::Reject(Vote::Fenced));
    assert_eq!(table.gate(&meta, at(LATER)), Gate::Reject(Vote::Fenced));
    table.apply(prepared(&meta), 1);
    let first = Gate::Reject(Vote::Yes { receipt: vec![1] });
    assert_eq!(table.gate(&meta, at(LATER)), first, "what was voted stays said");
}

#[test]
fn nothing_is_forgotten_at_its_deadline_and_what_is_final_after_it() {
    for (event, is_final) in
        [(prepared(&tx(1)), false), (fenced(&tx(1)), true), (decided(&tx(1), true), true)]
    {
        let (mut table, meta) = (table(1), tx(1));
        table.apply(prepared(&meta), 1);
        table.apply(event, 1);
        for (start, is_past) in [(EARLIER, false), (DEADLINE.0, false), (LATER, true)] {
            let expected = is_past && is_final;
            assert_eq!(table.may_forget(meta.tx_id, at(start)), expected, "{start}");
            assert_eq!(table.may_trim(meta.tx_id, 1, at(start)), expected, "{start}");
        }
    }
    assert!(table(1).may_forget(tx(1).tx_id, at(0)), "what is not known");
}

#[test]
fn a_primary_forgets_what_all_have_acknowledged() {
    let (mut table, meta) = (table(0), tx(1));
    table.apply(prepared(&meta), 1);
    assert_eq!(table.acknowledge(meta.tx_id), None, "it has no outcome");
    table.apply(decided(&meta, true), 2);
    assert!(!table.may_forget(meta.tx_id, at(LATER)));
    let acknowledged = table.acknowledge(meta.tx_id).unwrap();
    assert_eq!(acknowledged.tx_id(), meta.tx_id);
    table.apply(acknowledged, 3);
    assert!(table.may_forget(meta.tx_id, at(LATER)));
    assert!(!table.may_forget(meta.tx_id, at(DEADLINE.0)));
    assert_eq!(table.acknowledge(meta.tx_id), None, "once is enough");
    assert_eq!(table.acknowledge(tx(2).tx_id), None, "nobody knows it");
}

#[test]
fn an_entry_is_trimmed_by_the_last_one_that_says_all() {
    let (mut table, meta) = (table(1), tx(1));
    table.apply(prepared(&meta), 1);
    table.apply(decided(&meta, true), 2);
    assert!(!table.may_trim(meta.tx_id, 1, at(EARLIER)), "the second says the outcome alone");
    table.forget(meta.tx_id, 1);
    let entry = table.get(meta.tx_id).cloned().unwrap();
    assert_eq!((entry.told_seq, entry.last_seq), (1, 2));
    table.apply(Event::Carried(Box::new(entry)), 3);
    assert!(table.may_trim(meta.tx_id, 1, at(EARLIER)));
    assert!(table.may_trim(meta.tx_id, 2, at(EARLIER)));
    assert!(!table.may_trim(meta.tx_id, 3, at(EARLIER)));
    table.forget(meta.tx_id, 2);
    assert_eq!((table.len(), table.is_empty()), (1, false));
    table.forget(meta.tx_id, 3);
    assert!(table.is_empty());
}

#[test]
fn an_overdue_transaction_is_unfinished_and_late() {
    let grace = 500;
    for place in [0, 1] {
        let (mut table, is_primary) = (table(place), place == 0);
        let (open, done) = (tx(1), tx(2));
        table.apply(prepared(&open), 1);
        table.apply(fenced(&done), 1);
        assert!(table.is_unfinished(open.tx_id));
        assert_eq!(table.is_unfinished(done.tx_id), is_primary, "not acknowledged");
        assert!(!table.is_unfinished(tx(3).tx_id));
        assert_eq!(overdue(&table, DEADLINE.0, grace), []);
        assert_eq!(overdue(&table, DEADLINE.0 + grace, grace), [open.tx_id]);
        let late = if is_primary { vec![open.tx_id, done.tx_id] } else { vec![open.tx_id] };
        assert_eq!(overdue(&table, LATER + grace, grace), late);
        table.apply(Event::Acknowledged { tx_id: done.tx_id }, 2);
        assert_eq!(overdue(&table, LATER + grace, grace), [open.tx_id]);
        assert!(!table.is_unfinished(done.tx_id));
    }
}

/// One step of a batch: a fact about a transaction, or the end of a batch.
#[derive(Debug, Clone)]
enum Step {
    Fact(Event<u8>),
    Forget(TxId, u64),
    Settle,
    Undo,
}

fn step() -> impl Strategy<Value = Step> {
    (1_u8..5, 0..8_u8).prop_map(|(number, kind)| {
        let meta = tx(number);
        match kind {
            0 => Step::Fact(prepared(&meta)),
            1 => Step::Fact(fenced(&meta)),
            2 => Step::Fact(decided(&meta, true)),
            3 => Step::Fact(decided(&meta, false)),
            4 => Step::Fact(Event::Acknowledged { tx_id: meta.tx_id }),
            5 => Step::Forget(meta.tx_id, u64::MAX),
            6 => Step::Settle,
            _ => Step::Undo,
        }
    })
}

proptest! {
    #[test]
    fn the_unfinished_ones_are_those_of_the_table(
        place in 0_usize..2,
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let mut table = table(place);
        for (step, seq) in steps.into_iter().zip(1..) {
            match step {
                Step::Fact(event) => { table.apply(event, seq); }
                Step::Forget(tx_id, trimmed) => table.forget(tx_id, trimmed),
                Step::Settle => table.settle(),
                Step::Undo => table.undo(),
            }
            let is_open = |entry: &&Entry<u8>| entry.state == BranchState::Prepared;
            let is_unfinished =
                |entry: &&Entry<u8>| is_open(entry) || (place == 0 && !entry.acknowledged);
            let ids = |entry: &Entry<u8>| entry.meta.tx_id;
            let unfinished: Vec<_> = table.iter().filter(is_unfinished).map(ids).collect();
            let open: Vec<_> = table.iter().filter(is_open).map(ids).collect();
            prop_assert_eq!(overdue(&table, u64::MAX, 0), unfinished);
            prop_assert_eq!(table.unresolved().map(ids).collect::<Vec<_>>(), open);
        }
    }
}

#[test]
fn an_aborted_vote_is_told_apart_from_a_bare_fence() {
    let (mut table, meta) = (table(1), tx(1));
    table.apply(prepared(&meta), 1);
    assert_eq!(table.apply(decided(&meta, false), 2), Some(7), "what it held");
    let Entry { state, hold, vote, gave_back, .. } = table.get(meta.tx_id).unwrap().clone();
    assert_eq!((state, hold, vote, gave_back), (BranchState::Aborted, None, None, true));
    assert_eq!(table.commit(&meta).state, BranchState::Aborted);
    // Commit is sent only after every branch voted YES, so this one had voted and then forgotten.
    let forgotten = tx(2);
    table.apply(fenced(&forgotten), 3);
    assert_eq!(table.commit(&forgotten).state, BranchState::Committed);
    assert_eq!(table.commit(&forgotten).event, None);
    let mut primary = self::table(0);
    primary.apply(fenced(&forgotten), 1);
    assert_eq!(primary.commit(&forgotten).state, BranchState::Aborted, "it decides");
}

#[test]
fn a_primary_aborts_what_is_prepared_only_with_evidence() {
    for (place, evidence, state) in [
        (0, false, BranchState::Prepared),
        (0, true, BranchState::Aborted),
        (1, false, BranchState::Aborted),
        (1, true, BranchState::Aborted),
    ] {
        let (mut table, meta) = (table(place), tx(1));
        table.apply(prepared(&meta), 1);
        assert_eq!(table.abort(&meta, evidence).state, state, "{place} {evidence}");
        table.apply(decided(&meta, true), 2);
        assert_eq!(table.abort(&meta, evidence).state, BranchState::Committed, "it is final");
        assert_eq!(table.abort(&meta, evidence).event, None);
    }
}
