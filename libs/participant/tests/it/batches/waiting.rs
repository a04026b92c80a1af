//! Tests when a waiting Prepare is answered, and with what.

use std::slice::from_ref;

use participant::core::Call;
use stock::records::Op;
use types::{BranchState, Money, TxId, TxMeta, UnixMillis};

use super::{abort, add, at, commit, op, prepare, prepare_units, stocked, tx};
use crate::shop::{item, units};

/// No call is answered: all of them wait.
const NOBODY: [&str; 0] = [];

#[test]
fn a_waiting_prepare_ends_exactly_at_its_deadline() {
    let (mut store, mut core) = stocked(1);
    store.write(&mut core, 10, &[prepare(&tx(9))]);
    let waits = TxMeta { deadline: at(500), ..tx(1) };
    assert_eq!(store.write(&mut core, 20, &[prepare(&waits)]), NOBODY);
    assert!(!core.has_due_waiters(at(499)));
    assert_eq!(store.write(&mut core, 499, &[]), NOBODY);
    assert!(core.has_due_waiters(at(500)));
    let answers = store.write(&mut core, 500, &[]);
    assert_eq!(answers, ["FENCED"]);
    assert!(!core.has_waiters());
}

#[test]
fn a_prepare_of_the_holders_own_priority_does_not_wait() {
    let (mut store, mut core) = stocked(1);
    store.write(&mut core, 10, &[prepare(&tx(9))]);
    // The next attempt of the same call keeps the priority of the first one.
    let again = TxMeta { tx_id: TxId([1; 16]), ..tx(9) };
    assert_eq!(store.write(&mut core, 20, &[prepare(&again)]), ["CONTENDED by 9"]);
}

#[test]
fn an_undone_batch_leaves_the_waiters_as_they_were() {
    let (mut store, mut core) = stocked(1);
    let (waits, holder) = (tx(1), tx(9));
    store.write(&mut core, 10, &[prepare(&holder)]);
    assert_eq!(store.offer(&mut core, 20, &[prepare(&waits)]), NOBODY);
    assert!(core.has_waiters());
    core.undo();
    assert!(!core.has_waiters(), "it is offered again");
    assert_eq!(store.write(&mut core, 30, &[prepare(&waits)]), NOBODY);
    // The wait is restored by an undo, no matter whether its own abort had ended it or the
    // holder's.
    for (call, expected) in
        [(abort(&waits), ["FENCED", "ABORTED"]), (abort(&holder), ["ABORTED", "YES"])]
    {
        for _ in 0..2 {
            let answers = store.offer(&mut core, 40, from_ref(&call));
            assert_eq!(answers, expected, "each time");
            assert!(!core.has_waiters());
            core.undo();
            assert!(core.has_waiters(), "it was answered in vain");
            assert!(core.has_due_waiters(UnixMillis(0)));
        }
    }
    let answers = store.write(&mut core, 50, &[abort(&holder)]);
    assert_eq!(answers, ["ABORTED", "YES"]);
}

#[test]
fn a_write_of_another_replica_wakes_waiters() {
    let (waits, holder) = (tx(1), tx(9));
    for (change, vote) in
        [(abort(&holder), "YES"), (commit(&holder), "OUT_OF_STOCK"), (add(), "YES")]
    {
        let (mut store, mut core) = stocked(1);
        store.write(&mut core, 10, &[prepare(&holder)]);
        assert_eq!(store.write(&mut core, 20, &[prepare(&waits)]), NOBODY);
        assert!(!core.has_due_waiters(UnixMillis(0)));
        let mut other = store.replica();
        store.write(&mut other, 30, from_ref(&change));
        store.written.catch_up(&mut core);
        assert!(core.has_due_waiters(UnixMillis(0)), "{change:?}");
        let answers = store.write(&mut core, 40, &[]);
        assert_eq!(answers, [vote], "{change:?}");
    }
}

#[test]
fn a_waiter_looks_again_after_the_journal_was_trimmed() {
    let (waits, holder) = (TxMeta { deadline: at(90_000), ..tx(1) }, tx(9));
    let (mut store, mut core) = stocked(1);
    store.write(&mut core, 10, &[prepare(&holder)]);
    assert_eq!(store.write(&mut core, 20, &[prepare(&waits)]), NOBODY);
    let mut other = store.replica();
    store.write(&mut other, 30, &[abort(&holder)]);
    let elsewhere = op(Op::Init { numbers: vec![1], stock: units(1), price: Money::ZERO });
    for seconds in 1..5 {
        store.write(&mut other, seconds * 10_000, from_ref(&elsewhere));
    }
    assert!(store.written.head.oldest > core.tail().seq() + 1, "{:?}", store.entries());
    store.written.catch_up(&mut core);
    let answers = store.write(&mut core, 60_000, &[]);
    assert_eq!(answers, ["YES"]);
    assert_eq!(core.table().get(waits.tx_id).unwrap().state, BranchState::Prepared);
}

#[test]
fn a_waiter_that_only_older_transactions_block_stops_waiting() {
    let (mut store, mut core) = stocked(2);
    store.write(&mut core, 10, &[prepare(&tx(2)), prepare(&tx(9))]);
    // Both may wait for the youngest holder.
    assert_eq!(store.write(&mut core, 20, &[prepare(&tx(3))]), NOBODY);
    assert_eq!(store.write(&mut core, 30, &[prepare_units(&tx(1), 2)]), NOBODY);
    // One unit comes back. The oldest waiter needs two, so the one behind it now waits for an older
    // one.
    let answers = store.write(&mut core, 40, &[abort(&tx(9))]);
    assert_eq!(answers, ["ABORTED", "CONTENDED by 2"]);
    assert!(core.has_waiters());
    assert_eq!(store.write(&mut core, 50, &[abort(&tx(2))]), ["ABORTED", "YES"]);
}

#[test]
fn a_waiter_whose_row_cannot_be_read_is_given_up_and_the_next_is_due() {
    let (mut store, mut core) = stocked(1);
    store.write(&mut core, 10, &[prepare(&tx(9))]);
    let both = vec![(item("0"), units(1)), (item("1"), units(1))];
    let both = Call::Prepare { meta: tx(1), payload: both, may_wait: true };
    let one = op(Op::Init { numbers: vec![1], stock: units(1), price: Money::ZERO });
    store.write(&mut core, 20, &[one]);
    assert_eq!(store.write(&mut core, 30, from_ref(&both)), NOBODY);
    assert_eq!(store.write(&mut core, 31, &[op(Op::Subtract(item("0"), units(1)))]), NOBODY);
    let rows = core.rows_of(&both);
    let row = |number: u8| rows.iter().find(|row| row.last() == Some(&number)).unwrap();
    // In turn: a row that no call needs, one that a waiter needs, and one that is waited for.
    assert!(core.give_up(&b"other".to_vec()).is_empty());
    assert_eq!(core.give_up(row(b'1')).len(), 1);
    assert!(core.has_waiters());
    assert!(core.has_due_waiters(UnixMillis(0)), "who stood behind it may be next");
    assert_eq!(core.give_up(row(b'0')).len(), 1);
    assert!(!core.has_waiters());
    assert!(!core.has_due_waiters(UnixMillis(0)), "nothing is to be read of it any more");
}
