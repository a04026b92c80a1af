//! Tests votes, outcomes, fences and waiting.

use std::time::Duration;

use participant::core::{Answer, Call};
use stock::records::Op;
use testkit::branch;
use tokio::time::{Instant, timeout};
use types::{BranchState, Priority, TxMeta};

use crate::shop::{
    Handle, Shop, abort, add, breathe, commit, item, prepare, query, said, stock, subtract, units,
};

fn soon(lane: &Handle, meta: &TxMeta, amount: u64) -> tokio::task::JoinHandle<String> {
    let (lane, meta) = (lane.clone(), meta.clone());
    tokio::spawn(async move { said(&prepare(&lane, &meta, "a", amount).await) })
}

/// A lane whose only unit the second transaction holds and the first, older one waits for, with
/// both of them and the vote to come.
async fn contested() -> (Handle, TxMeta, TxMeta, tokio::task::JoinHandle<String>) {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let (old, young) = (shop.tx(1), shop.tx(2));
    assert_eq!(said(&prepare(&lane, &young, "a", 1).await), "YES");
    let waiting = soon(&lane, &old, 1);
    breathe().await;
    assert!(!waiting.is_finished());
    (lane, old, young, waiting)
}

#[tokio::test(start_paused = true)]
async fn a_fence_that_was_left_over_what_was_forgotten_is_no_contradiction() {
    let shop = Shop::new();
    let lane = shop.stocked(5).await;
    // A Commit is sent only on the primary's word, so this shard must have voted and forgotten.
    let forgotten = shop.tx(1);
    assert_eq!(query(&lane, &forgotten, true).await, BranchState::Aborted);
    assert_eq!(commit(&lane, &forgotten).await, BranchState::Committed);
    // A Commit after the hold was given back is a contradiction.
    let aborted = shop.tx(2);
    assert_eq!(said(&prepare(&lane, &aborted, "a", 2).await), "YES");
    assert_eq!(abort(&lane, &aborted).await, BranchState::Aborted);
    assert_eq!(commit(&lane, &aborted).await, BranchState::Aborted);
    assert_eq!(commit(&shop.lane(2), &aborted).await, BranchState::Aborted, "from the journal");
    assert_eq!(stock(&lane, "a").await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_prepare_gets_the_first_answer_and_makes_no_second_hold() {
    let shop = Shop::new();
    let lane = shop.stocked(5).await;
    let meta = shop.tx(1);
    for _ in 0..3 {
        assert_eq!(said(&prepare(&lane, &meta, "a", 2).await), "YES");
        assert_eq!(stock(&lane, "a").await, 3);
    }
    assert_eq!(commit(&lane, &meta).await, BranchState::Committed);
    assert_eq!(said(&prepare(&lane, &meta, "a", 2).await), "YES", "late, after Commit");
    assert_eq!(stock(&lane, "a").await, 3);
    assert_eq!(abort(&lane, &meta).await, BranchState::Committed, "a final state stands");
    assert_eq!(stock(&lane, "a").await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_stays_refused() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let meta = shop.tx(1);
    assert_eq!(said(&prepare(&lane, &meta, "a", 2).await), "OUT_OF_STOCK");
    add(&lane, "a", 10, None).await.unwrap();
    assert_eq!(said(&prepare(&lane, &meta, "a", 2).await), "OUT_OF_STOCK");
    assert_eq!(said(&prepare(&lane, &shop.tx(2), "a", 2).await), "YES", "a new attempt may");
    assert_eq!(said(&prepare(&lane, &shop.tx(3), "b", 2).await), "UNKNOWN_ITEM");
}

#[tokio::test(start_paused = true)]
async fn an_abort_without_a_vote_leaves_a_fence() {
    let shop = Shop::new();
    let lane = shop.stocked(5).await;
    let meta = shop.tx(1);
    assert_eq!(abort(&lane, &meta).await, BranchState::Aborted);
    assert_eq!(said(&prepare(&lane, &meta, "a", 2).await), "FENCED");
    assert_eq!(stock(&lane, "a").await, 5);
    let other = shop.tx(2);
    assert_eq!(query(&lane, &other, false).await, BranchState::Absent);
    assert_eq!(query(&lane, &other, true).await, BranchState::Aborted);
    assert_eq!(said(&prepare(&shop.lane(2), &other, "a", 2).await), "FENCED");
}

#[tokio::test(start_paused = true)]
async fn no_vote_is_written_past_its_deadline() {
    let shop = Shop::new();
    let lane = shop.stocked(5).await;
    let meta = shop.tx(1);
    tokio::time::sleep(Duration::from_millis(2_001)).await;
    assert_eq!(said(&prepare(&lane, &meta, "a", 2).await), "FENCED");
    assert_eq!(query(&lane, &meta, false).await, BranchState::Absent, "and nothing is left");
}

#[tokio::test(start_paused = true)]
async fn the_older_waits_for_the_younger_and_gets_the_unit() {
    let (lane, _, young, waiting) = contested().await;
    abort(&lane, &young).await;
    assert_eq!(waiting.await.unwrap(), "YES");
}

#[tokio::test(start_paused = true)]
async fn the_older_is_refused_when_the_younger_buys() {
    let (lane, _, young, waiting) = contested().await;
    commit(&lane, &young).await;
    assert_eq!(waiting.await.unwrap(), "OUT_OF_STOCK", "only once the hold is final");
}

#[tokio::test(start_paused = true)]
async fn the_younger_does_not_wait_for_the_older() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let (old, young) = (shop.tx(1), shop.tx(2));
    assert_eq!(said(&prepare(&lane, &old, "a", 1).await), "YES");
    assert_eq!(said(&prepare(&lane, &young, "a", 1).await), "CONTENDED by 1");
    abort(&lane, &old).await;
    assert_eq!(said(&prepare(&lane, &young, "a", 1).await), "CONTENDED by 1", "it is a fence");
    assert_eq!(said(&prepare(&lane, &shop.tx(3), "a", 1).await), "YES");
}

#[tokio::test(start_paused = true)]
async fn returned_units_serve_the_oldest_waiter_first() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let holder = shop.tx(9);
    assert_eq!(said(&prepare(&lane, &holder, "a", 1).await), "YES");
    let (second, first) = (soon(&lane, &shop.tx(5), 1), soon(&lane, &shop.tx(3), 1));
    breathe().await;
    abort(&lane, &holder).await;
    assert_eq!(first.await.unwrap(), "YES");
    // The second one could only wait for an older transaction now.
    assert_eq!(second.await.unwrap(), "CONTENDED by 3");
}

#[tokio::test(start_paused = true)]
async fn a_younger_transaction_never_overtakes_an_older_waiter() {
    let shop = Shop::new();
    let lane = shop.stocked(3).await;
    let holder = shop.tx(9);
    assert_eq!(said(&prepare(&lane, &holder, "a", 2).await), "YES");
    let waiting = soon(&lane, &shop.tx(3), 2);
    breathe().await;
    assert_eq!(said(&prepare(&lane, &shop.tx(7), "a", 1).await), "CONTENDED by 9");
    assert_eq!(said(&prepare(&lane, &shop.tx(1), "a", 1).await), "YES", "the older may pass");
    abort(&lane, &holder).await;
    assert_eq!(waiting.await.unwrap(), "YES");
}

#[tokio::test(start_paused = true)]
async fn a_subtraction_waits_for_holds_in_its_way() {
    let shop = Shop::new();
    let lane = shop.stocked(3).await;
    let (one, two) = (shop.tx(1), shop.tx(2));
    assert_eq!(said(&prepare(&lane, &one, "a", 2).await), "YES");
    assert_eq!(said(&prepare(&lane, &two, "a", 1).await), "YES");
    let patient = lane.clone();
    let waiting = tokio::spawn(async move { subtract(&patient, "a", 2).await });
    breathe().await;
    assert!(!waiting.is_finished(), "it depends on what becomes of the holds");
    commit(&lane, &two).await;
    breathe().await;
    assert!(!waiting.is_finished());
    abort(&lane, &one).await;
    assert_eq!(waiting.await.unwrap(), Ok(0));
}

#[tokio::test(start_paused = true)]
async fn a_prepare_stops_waiting_at_its_deadline() {
    let (lane, _, young, waiting) = contested().await;
    let vote = timeout(Duration::from_secs(4), waiting).await.unwrap().unwrap();
    assert_eq!(vote, "FENCED");
    abort(&lane, &young).await;
    assert_eq!(stock(&lane, "a").await, 1, "and it took nothing");
}

#[tokio::test(start_paused = true)]
async fn an_abort_ends_the_wait_of_its_own_prepare() {
    let (lane, old, _, waiting) = contested().await;
    assert_eq!(abort(&lane, &old).await, BranchState::Aborted);
    assert_eq!(timeout(Duration::from_millis(500), waiting).await.unwrap().unwrap(), "FENCED");
}

#[tokio::test(start_paused = true)]
async fn an_impatient_prepare_is_told_its_blocker() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let (old, young) = (shop.tx(1), shop.tx(2));
    assert_eq!(said(&prepare(&lane, &young, "a", 1).await), "YES");
    let payload = vec![(item("a"), units(1))];
    let call = Call::Prepare { meta: old.clone(), payload, may_wait: false };
    let answer = lane.call(call).await.unwrap();
    let Answer::Waiting(blocker) = answer else { panic!("{answer:?}") };
    assert_eq!(blocker.tx_id, young.tx_id);
    assert_eq!(query(&lane, &old, false).await, BranchState::Absent, "nothing was written");
    let op = Op::Subtract(item("a"), units(1));
    let answer = lane.call(Call::Op { op, call: None, may_wait: false }).await.unwrap();
    let Answer::Waiting(blocker) = answer else { panic!("{answer:?}") };
    assert_eq!(blocker.tx_id, young.tx_id);
}

#[tokio::test(start_paused = true)]
async fn a_patient_commit_rides_along_with_a_call_that_is_awaited() {
    let shop = Shop::new();
    let lane = shop.stocked(9).await;
    let linger = shop.options.linger;
    let patient = async |number: u8, calls: usize| {
        let meta = shop.tx(number);
        assert_eq!(said(&prepare(&lane, &meta, "a", 1).await), "YES");
        let begun = Instant::now();
        let urgent = async {
            for _ in 0..calls {
                tokio::time::sleep(linger / 10).await;
                add(&lane, "a", 1, None).await.unwrap();
            }
        };
        let (state, ()) = tokio::join!(commit(&lane, &meta), urgent);
        assert_eq!(state, BranchState::Committed);
        begun.elapsed()
    };
    assert!((linger..2 * linger).contains(&patient(1, 0).await), "nothing else is to do");
    assert!(patient(2, 1).await < linger);
    // At the primary a commit is awaited.
    let meta = TxMeta { branches: [branch("stock"), branch("other")].into(), ..shop.tx(3) };
    assert_eq!(said(&prepare(&lane, &meta, "a", 1).await), "YES");
    let begun = Instant::now();
    commit(&lane, &meta).await;
    assert!(begun.elapsed() < linger);
}

#[tokio::test(start_paused = true)]
async fn the_unfinished_is_asked_about() {
    let shop = Shop::new();
    let lane = shop.stocked(2).await;
    let (stuck, waiter) = (shop.tx(9), shop.tx(1));
    assert_eq!(said(&prepare(&lane, &stuck, "a", 2).await), "YES");
    breathe().await;
    assert_eq!(*shop.asked.0.lock().unwrap(), [], "nobody is in anybody's way yet");
    let waiting = soon(&lane, &waiter, 1);
    tokio::time::sleep(Duration::from_millis(shop.options.ask_after_ms - 50)).await;
    assert_eq!(*shop.asked.0.lock().unwrap(), [], "nor for long");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(shop.asked.0.lock().unwrap().contains(&stuck.tx_id), "it blocks somebody");
    waiting.abort();
    shop.asked.0.lock().unwrap().clear();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let asked = shop.asked.0.lock().unwrap().len();
    assert!((2..6).contains(&asked), "past its deadline, every half second or so: {asked}");
}

#[tokio::test(start_paused = true)]
async fn a_primary_aborts_a_vote_only_with_evidence() {
    let shop = Shop::new();
    let lane = shop.stocked(5).await;
    let meta = TxMeta { branches: [branch("stock"), branch("other")].into(), ..shop.tx(1) };
    assert_eq!(said(&prepare(&lane, &meta, "a", 2).await), "YES");
    assert_eq!(abort(&lane, &meta).await, BranchState::Prepared, "no fence was seen");
    let call = Call::Abort { meta: meta.clone(), evidence: true, refusal: None };
    let answer = lane.call(call).await.unwrap();
    assert!(matches!(answer, Answer::Aborted { state: BranchState::Aborted, .. }), "{answer:?}");
    assert_eq!(stock(&lane, "a").await, 5);
    assert_eq!(commit(&lane, &meta).await, BranchState::Aborted, "who loses adopts what stands");
}

#[tokio::test(start_paused = true)]
async fn a_primary_keeps_an_outcome_until_every_branch_acknowledged() {
    let shop = Shop::new();
    let lane = shop.stocked(5).await;
    let meta = TxMeta { branches: [branch("stock"), branch("other")].into(), ..shop.tx(1) };
    assert_eq!(said(&prepare(&lane, &meta, "a", 2).await), "YES");
    assert_eq!(commit(&lane, &meta).await, BranchState::Committed);
    for number in 10..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        abort(&lane, &shop.tx(number)).await;
    }
    assert_eq!(query(&lane, &meta, false).await, BranchState::Committed, "not acknowledged");
    assert_eq!(query(&shop.lane(2), &meta, false).await, BranchState::Committed);
    lane.call(Call::Forget { tx_id: meta.tx_id }).await.unwrap();
    for number in 60..90 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        abort(&lane, &shop.tx(number)).await;
    }
    assert_eq!(query(&lane, &meta, false).await, BranchState::Absent, "acknowledged");
}

#[tokio::test(start_paused = true)]
async fn a_waiter_without_a_request_id_keeps_no_place() {
    let shop = Shop::new();
    let lane = shop.stocked(2).await;
    assert_eq!(said(&prepare(&lane, &shop.tx(1), "a", 1).await), "YES");
    let both = Op::Subtract(item("a"), units(2));
    let _waits = lane.begin(Call::Op { op: both, call: None, may_wait: true }).unwrap();
    breathe().await;
    let priority = Priority { begin_ts: u64::MAX, nonce: 0 };
    let younger = TxMeta { priority, ..shop.tx(2) };
    assert_eq!(said(&prepare(&lane, &younger, "a", 1).await), "YES");
}
