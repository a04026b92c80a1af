//! Tests what attempts of a client's call learn of each other: a success, a refusal, the end.

use std::{collections::BTreeMap, time::Duration};

use participant::{
    core::{Answer, Call},
    lane::LaneError,
};
use stock::records::{Op, Reply, Stock};
use storage::{
    codec,
    janitor::{self, JanitorConfig},
    keys::{Kind, Space},
    kv::Kv as _,
    record::JournalEntry,
    schema,
};
use testkit::branch;
use types::{
    BranchState, CALL_AHEAD_MAX_MS, ClientCall, Priority, Reason, Refusal, RequestId, Role,
    ShardId, Timestamp, TxMeta, UnixMillis, Vote,
};

use crate::shop::{
    Handle, Shop, abort, add, breathe, client_call, commit, create, item, op, prepare, said, stock,
    units,
};

/// A transaction for this call, with the shard of stock as its primary.
fn attempt(shop: &Shop, number: u8, call: &ClientCall) -> TxMeta {
    TxMeta {
        priority: Priority { begin_ts: Timestamp::from_physical(shop.clock.now()).0, nonce: 0 },
        branches: [branch("stock"), branch("other")].into(),
        call: Some(call.clone()),
        ..shop.tx(number)
    }
}

/// An Abort of a transaction because another branch refused it.
fn refuse(meta: &TxMeta) -> Call<Stock> {
    let no = Vote::No { reason: "OUT_OF_CREDIT".to_owned(), metadata: BTreeMap::new() };
    Call::Abort { meta: meta.clone(), evidence: true, refusal: Some(no) }
}

/// One unit more.
fn more() -> Op {
    Op::Add(item("a"), units(1))
}

/// Two units less.
fn take() -> Op {
    Op::Subtract(item("a"), units(2))
}

/// One unit more, under a client's own id.
fn more_under(id: &str) -> Call<Stock> {
    Call::Op { op: more(), call: Some(client_call(id, "add")), may_wait: true }
}

async fn ask(lane: &Handle, op: Op, call: &ClientCall) -> Answer<Reply> {
    lane.call(Call::Op { op, call: Some(call.clone()), may_wait: true }).await.unwrap()
}

/// The units that were left after an operation took effect.
fn left(answer: &Answer<Reply>) -> u64 {
    match answer {
        Answer::Done(Reply::Stock(left), _) => *left,
        other => panic!("{other:?}"),
    }
}

fn refused(answer: &Answer<Reply>) -> Reason {
    match answer {
        Answer::Refused(refusal) => refusal.reason,
        other => panic!("{other:?}"),
    }
}

/// Calls with each kind of id: a client's own without and with a call id, and a minted one.
fn each_kind(what: &str) -> [ClientCall; 3] {
    let minted = |number| RequestId::minted(uuid::Uuid::from_u128(number));
    let bare = client_call("a-key", what);
    let keyed = ClientCall { call_id: Some(minted(1)), ..client_call("b-key", what) };
    [bare, keyed, ClientCall::new(minted(2), what)]
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_transaction_committed_is_done_for_every_later_attempt() {
    let shop = Shop::new();
    let lane = shop.stocked(9).await;
    for (number, call) in (0..).zip(each_kind("buy")) {
        let not_after = Some(shop.clock.now().plus_ms(30_000));
        let call = ClientCall { not_after, ..call };
        let first = attempt(&shop, 10 * number + 1, &call);
        assert_eq!(said(&prepare(&lane, &first, "a", 1).await), "YES");
        assert_eq!(commit(&lane, &first).await, BranchState::Committed);
        lane.call(Call::Forget { tx_id: first.tx_id }).await.unwrap();
        // Long enough for the transaction itself to be forgotten.
        for index in 0..25_u8 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            create(&lane, &format!("{number}-{index}")).await;
        }
        for lane in [&lane, &shop.lane(20 + number)] {
            let late = attempt(&shop, 10 * number + 2, &call);
            let vote = prepare(lane, &late, "a", 1).await;
            let Vote::No { reason, metadata } = &vote else { panic!("{vote:?}") };
            assert_eq!(reason, "ALREADY_DONE");
            assert_eq!(metadata["tx_id"], first.tx_id.to_string());
        }
        let other = ClientCall::new(call.id.clone(), "buy something else");
        let other = attempt(&shop, 10 * number + 3, &other);
        assert_eq!(said(&prepare(&lane, &other, "a", 1).await), "REQUEST_ID_REUSED");
    }
    assert_eq!(stock(&lane, "a").await, 6);
}

#[tokio::test(start_paused = true)]
async fn only_the_primary_knows_what_a_call_came_to() {
    let shop = Shop::new();
    let lane = shop.stocked(9).await;
    let call = client_call("a-key", "buy");
    let elsewhere = |number| TxMeta {
        branches: [branch("order"), branch("stock")].into(),
        ..attempt(&shop, number, &call)
    };
    assert_eq!(said(&prepare(&lane, &elsewhere(1), "a", 1).await), "YES");
    commit(&lane, &elsewhere(1)).await;
    assert_eq!(said(&prepare(&lane, &elsewhere(2), "a", 1).await), "YES");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_transaction_binds_what_is_under_way_and_no_later_call() {
    let shop = Shop::new();
    let lane = shop.stocked(9).await;
    for (number, call) in (0..).zip(each_kind("buy")) {
        let attempt = |number: u8| attempt(&shop, number, &call);
        let (first, under_way) = (attempt(10 * number + 1), attempt(10 * number + 2));
        assert_eq!(said(&prepare(&lane, &first, "a", 1).await), "YES");
        breathe().await;
        lane.call(refuse(&first)).await.unwrap();
        // A coordinator that was thought dead tries the same call again.
        for lane in [&lane, &shop.lane(20 + number)] {
            assert_eq!(said(&prepare(lane, &under_way, "a", 1).await), "OUT_OF_CREDIT");
        }
        breathe().await;
        let mut later = attempt(10 * number + 3);
        let is_bound = call.id.is_minted();
        if let Some(call) = &mut later.call {
            call.call_id = call.call_id.as_ref().map(|_| RequestId::new("~another").unwrap());
        }
        let vote = said(&prepare(&lane, &later, "a", 1).await);
        assert_eq!(vote, if is_bound { "OUT_OF_CREDIT" } else { "YES" }, "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_binds_what_read_in_its_own_batch() {
    let shop = Shop::new();
    let lane = shop.stocked(5).await;
    let call = client_call("a-key", "buy");
    let first = TxMeta { priority: Priority { begin_ts: 1, nonce: 0 }, ..attempt(&shop, 1, &call) };
    assert_eq!(said(&prepare(&lane, &first, "a", 1).await), "YES");
    let read = Call::Op { op: Op::Get(item("a")), call: None, may_wait: true };
    let (read, abort) = (lane.begin(read).unwrap(), lane.begin(refuse(&first)).unwrap());
    let Answer::Done(_, read_ts) = read.answer().await.unwrap() else { panic!() };
    abort.answer().await.unwrap();
    let priority = Priority { begin_ts: read_ts.0, nonce: 0 };
    let copy = TxMeta { priority, ..attempt(&shop, 2, &call) };
    assert_eq!(said(&prepare(&lane, &copy, "a", 1).await), "OUT_OF_CREDIT");
    breathe().await;
    let later = attempt(&shop, 3, &call);
    assert_eq!(said(&prepare(&lane, &later, "a", 1).await), "YES");
}

#[tokio::test(start_paused = true)]
async fn a_refused_operation_stays_refused_for_its_own_call_alone() {
    let shop = Shop::new();
    let (lane, other) = (shop.stocked(1).await, shop.lane(2));
    for call in each_kind("take") {
        assert_eq!(refused(&ask(&lane, take(), &call).await), Reason::OutOfStock);
    }
    add(&lane, "a", 5, None).await.unwrap();
    let [bare, keyed, minted] = each_kind("take");
    for late in [&keyed, &minted] {
        assert_eq!(refused(&ask(&other, take(), late).await), Reason::OutOfStock, "{late:?}");
    }
    let again = ClientCall { call_id: Some(RequestId::new("~again").unwrap()), ..keyed };
    for later in [&bare, &again] {
        let answer = ask(&other, take(), later).await;
        assert!(matches!(answer, Answer::Done(..)), "{later:?}: {answer:?}");
    }
    let elsewhere = ClientCall::new(minted.id, "something else");
    assert_eq!(refused(&ask(&other, take(), &elsewhere).await), Reason::RequestIdReused);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_was_found_elsewhere_binds_unless_the_call_has_succeeded() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let refuse = |call: &ClientCall| Call::Refuse {
        call: call.clone(),
        began: None,
        refusal: (&Refusal::new(Reason::ItemNotFound)).into(),
    };
    for call in each_kind("add").into_iter().skip(1) {
        assert_eq!(refused(&lane.call(refuse(&call)).await.unwrap()), Reason::ItemNotFound);
        let late = ask(&lane, more(), &call).await;
        assert_eq!(refused(&late), Reason::ItemNotFound);
    }
    // A refusal whose reason is not one of ours keeps its own words.
    let call = client_call("~blocked", "buy");
    let blocked = Vote::No { reason: "BLOCKED".to_owned(), metadata: BTreeMap::new() };
    for refusal in [blocked.clone(), (&Refusal::new(Reason::ItemNotFound)).into()] {
        let refuse = Call::Refuse { call: call.clone(), began: None, refusal };
        assert_eq!(lane.call(refuse).await.unwrap(), Answer::Vote(blocked.clone()));
    }
    assert_eq!(said(&prepare(&lane, &attempt(&shop, 3, &call), "a", 1).await), "BLOCKED");
    let call = client_call("done", "add");
    ask(&lane, more(), &call).await;
    assert_eq!(left(&lane.call(refuse(&call)).await.unwrap()), 2);
    let call = client_call("bought", "buy");
    let bought = attempt(&shop, 1, &call);
    prepare(&lane, &bought, "a", 1).await;
    commit(&lane, &bought).await;
    let answer = lane.call(refuse(&call)).await.unwrap();
    assert_eq!(answer, Answer::Committed(bought.tx_id));
    // While an attempt is under way, its outcome is unknown.
    let call = client_call("under way", "buy");
    let under_way = attempt(&shop, 2, &call);
    assert_eq!(said(&prepare(&lane, &under_way, "a", 1).await), "YES");
    let answer = lane.call(refuse(&call)).await.unwrap();
    assert!(matches!(answer, Answer::Waiting(_)), "{answer:?}");
    commit(&lane, &under_way).await;
    let answer = lane.call(refuse(&call)).await.unwrap();
    assert_eq!(answer, Answer::Committed(under_way.tx_id));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_remembered_for_ever_or_for_a_call_that_is_over() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let refuse = |id: &str, not_after| Call::Refuse {
        call: ClientCall { not_after: Some(not_after), ..client_call(id, "add") },
        began: None,
        refusal: (&Refusal::new(Reason::ItemNotFound)).into(),
    };
    let add = |id: &str| ClientCall { not_after: None, ..client_call(id, "add") };
    lane.call(refuse("~far", UnixMillis(u64::MAX))).await.unwrap();
    assert_eq!(refused(&ask(&lane, more(), &add("~far")).await), Reason::ItemNotFound);
    lane.call(refuse("~over", shop.clock.now())).await.unwrap();
    assert!(matches!(ask(&lane, more(), &add("~over")).await, Answer::Done(..)));
    tokio::time::sleep(Duration::from_millis(CALL_AHEAD_MAX_MS + 1_000)).await;
    assert!(matches!(ask(&lane, more(), &add("~far")).await, Answer::Done(..)));
}

#[tokio::test(start_paused = true)]
async fn an_operation_takes_effect_before_its_end_or_never() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let until = |id: &str, not_after: UnixMillis| ClientCall {
        not_after: Some(not_after),
        ..client_call(id, "add")
    };
    let now = shop.clock.now();
    assert_eq!(left(&ask(&lane, more(), &until("in time", now.plus_ms(1_000))).await), 2);
    for late in [now, UnixMillis(now.0 - 1)] {
        assert_eq!(ask(&lane, more(), &until("late", late)).await, Answer::Expired);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let again = ask(&lane, more(), &until("in time", now.plus_ms(1_000))).await;
    assert!(!matches!(again, Answer::Done(Reply::Stock(3), _)), "it happened once: {again:?}");
    let now = shop.clock.now();
    let far = now.plus_ms(CALL_AHEAD_MAX_MS);
    assert!(matches!(ask(&lane, more(), &until("far", far)).await, Answer::Done(..)));
    let too_far = until("too far", far.plus_ms(10));
    assert_eq!(refused(&ask(&lane, more(), &too_far).await), Reason::InvalidArgument);
    assert_eq!(stock(&lane, "a").await, 3);
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_waits_takes_no_effect_after_its_end() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let holder = shop.tx(9);
    assert_eq!(said(&prepare(&lane, &holder, "a", 1).await), "YES");
    let not_after = Some(shop.clock.now().plus_ms(500));
    let call = ClientCall { not_after, ..client_call("waits", "take") };
    let waits = ask(&lane, Op::Subtract(item("a"), units(1)), &call);
    let given_back = async {
        tokio::time::sleep(Duration::from_millis(900)).await;
        abort(&lane, &holder).await;
    };
    let (answer, ()) = tokio::join!(waits, given_back);
    assert_eq!(answer, Answer::Expired);
    assert_eq!(op(&lane, Op::Get(item("a")), None).await.map(|_| ()), Ok(()));
    assert_eq!(stock(&lane, "a").await, 1);
}

#[tokio::test(start_paused = true)]
async fn of_two_transactions_of_one_call_one_takes_effect_however_they_meet() {
    let shop = Shop::new();
    let lane = shop.stocked(9).await;
    for (number, call) in (0..).zip(each_kind("buy")) {
        let number = 10 * number;
        let (older, younger) = (
            attempt(&shop, number + 1, &call),
            TxMeta {
                priority: Priority { begin_ts: u64::MAX - 1, nonce: 0 },
                ..attempt(&shop, number + 2, &call)
            },
        );
        // The younger attempt is sent away, and the older one waits.
        assert_eq!(said(&prepare(&lane, &older, "a", 1).await), "YES");
        let vote = said(&prepare(&lane, &younger, "a", 1).await);
        assert_eq!(vote, format!("CONTENDED by {}", number + 1));
        let meta = older.clone();
        lane.call(Call::Abort { meta, evidence: true, refusal: None }).await.unwrap();
        let younger = TxMeta { tx_id: shop.tx(number + 3).tx_id, ..younger };
        assert_eq!(said(&prepare(&lane, &younger, "a", 1).await), "YES");
        let older = TxMeta { tx_id: shop.tx(number + 4).tx_id, ..older };
        let waiting = tokio::spawn({
            let (lane, older) = (lane.clone(), older.clone());
            async move { prepare(&lane, &older, "a", 1).await }
        });
        breathe().await;
        assert!(!waiting.is_finished());
        assert_eq!(commit(&lane, &younger).await, BranchState::Committed);
        assert_eq!(said(&waiting.await.unwrap()), "ALREADY_DONE");
        // Another replica learns of it from the journal.
        let restarted = shop.lane(20 + number);
        let late = attempt(&shop, number + 5, &call);
        assert_eq!(said(&prepare(&restarted, &late, "a", 1).await), "ALREADY_DONE");
    }
    assert_eq!(stock(&lane, "a").await, 6);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_under_a_clients_own_key_binds_every_call_that_had_come_in() {
    let shop = Shop::new();
    let (lane, other) = (shop.stocked(1).await, shop.lane(2));
    let came_in = |number| ClientCall {
        call_id: Some(RequestId::minted(uuid::Uuid::from_u128(number))),
        began: Some(Timestamp::from_physical(shop.clock.now())),
        ..client_call("key", "take")
    };
    // The client's first call hangs somewhere, and its second one is refused.
    let first = came_in(1);
    breathe().await;
    let second = came_in(2);
    breathe().await;
    assert_eq!(refused(&ask(&lane, take(), &second).await), Reason::OutOfStock);
    add(&lane, "a", 5, None).await.unwrap();
    for late in [&first, &second] {
        assert_eq!(refused(&ask(&other, take(), late).await), Reason::OutOfStock, "{late:?}");
    }
    let of_the_first = attempt(&shop, 1, &first);
    assert_eq!(said(&prepare(&other, &of_the_first, "a", 2).await), "OUT_OF_STOCK");
    breathe().await;
    let third = came_in(3);
    assert!(matches!(ask(&other, take(), &third).await, Answer::Done(..)));
}

fn journal(shop: &Shop) -> Vec<JournalEntry> {
    let range = Space::of(Role::Stock, ShardId(0)).range(Kind::Journal);
    let contents = shop.kv.contents();
    contents.range(range).map(|(key, value)| codec::decode_packed(key, value).unwrap()).collect()
}

/// Replicas keep no client's ids in memory, however many there are, and a replica that starts reads
/// none.
#[tokio::test(start_paused = true)]
async fn what_stands_under_clients_own_ids_is_in_no_journal_and_is_told_for_ten_minutes() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let call = |number: u32| client_call(&format!("key {number}"), "add");
    let bought = attempt(&shop, 1, &client_call("bought", "buy"));
    prepare(&lane, &bought, "a", 1).await;
    commit(&lane, &bought).await;
    lane.call(Call::Forget { tx_id: bought.tx_id }).await.unwrap();
    for number in 0..300 {
        assert!(matches!(ask(&lane, more(), &call(number)).await, Answer::Done(..)));
    }
    assert!(journal(&shop).iter().all(|entry| entry.requests.is_empty()));
    tokio::time::sleep(Duration::from_mins(2)).await;
    create(&lane, "b").await;
    tokio::time::sleep(Duration::from_mins(7)).await;
    assert!(journal(&shop).len() < 10, "{}", journal(&shop).len());
    let started = shop.lane(2);
    for lane in [&lane, &started] {
        for number in [0, 299] {
            let again = ask(lane, more(), &call(number)).await;
            assert_eq!(left(&again), u64::from(number) + 1, "the first answer");
        }
        let again = attempt(&shop, 2, &client_call("bought", "buy"));
        assert_eq!(said(&prepare(lane, &again, "a", 1).await), "ALREADY_DONE");
        let other = client_call("key 7", "something else");
        assert_eq!(refused(&ask(lane, more(), &other).await), Reason::RequestIdReused);
    }
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(left(&ask(&started, more(), &call(7)).await), 301);
}

/// An outcome that one replica has is known to the others at once, whether or not they have read
/// the id before.
#[tokio::test(start_paused = true)]
async fn replicas_tell_each_other_what_stands_under_an_id() {
    let shop = Shop::new();
    let (lane, other) = (shop.stocked(1).await, shop.lane(2));
    let call = |began| ClientCall { began: Some(began), ..client_call("key", "take") };
    let now = || Timestamp::from_physical(shop.clock.now());
    for _ in 0..2 {
        for lane in [&lane, &other] {
            assert_eq!(refused(&ask(lane, take(), &call(now())).await), Reason::OutOfStock);
            breathe().await;
        }
    }
    add(&other, "a", 5, None).await.unwrap();
    for lane in [&lane, &other, &lane] {
        assert_eq!(left(&ask(lane, take(), &call(now())).await), 4);
    }
}

/// A repeat in the batch of the first call, and calls of two ids in one batch.
#[tokio::test(start_paused = true)]
async fn a_repeat_in_the_same_batch_is_told_what_the_first_call_came_to() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let begun: Vec<_> =
        ["k", "l", "k", "l"].iter().map(|id| lane.begin(more_under(id)).unwrap()).collect();
    let mut stocks = Vec::new();
    for pending in begun {
        stocks.push(left(&pending.answer().await.unwrap()));
    }
    assert_eq!(stocks, [2, 3, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_answer_fails_the_calls_under_its_id_and_no_others() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let key = Space::of(Role::Stock, ShardId(0)).record(Kind::Answer, b"key");
    let mut txn = shop.kv.begin().await.unwrap();
    txn.put(key, vec![99]);
    txn.commit().await.unwrap();
    let (damaged, whole) =
        (lane.begin(more_under("key")).unwrap(), lane.begin(more_under("other")).unwrap());
    assert!(matches!(damaged.answer().await, Err(LaneError::Damaged(_))));
    assert_eq!(left(&whole.answer().await.unwrap()), 2);
    assert_eq!(stock(&lane, "a").await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_stands_only_if_no_other_attempt_holds_or_has_succeeded() {
    let shop = Shop::new();
    let lane = shop.stocked(9).await;
    let end = async |meta: &TxMeta| {
        let answer = lane.call(refuse(meta)).await.unwrap();
        let Answer::Aborted { state, refused } = answer else { panic!() };
        assert_eq!(state, BranchState::Aborted);
        refused
    };
    for (number, call) in (0..).zip(each_kind("buy")) {
        let attempt = |number: u8| attempt(&shop, number, &call);
        let (first, second) = (attempt(10 * number + 1), attempt(10 * number + 2));
        assert_eq!(said(&prepare(&lane, &first, "a", 1).await), "YES");
        // Another coordinator ends the first attempt. The second attempt arrives before the first
        // one's refusal.
        let ended = Call::Abort { meta: first.clone(), evidence: true, refusal: None };
        lane.call(ended).await.unwrap();
        assert_eq!(said(&prepare(&lane, &second, "a", 1).await), "YES");
        assert!(!end(&first).await, "an attempt holds");
        assert_eq!(commit(&lane, &second).await, BranchState::Committed);
        assert!(!end(&first).await, "an attempt has succeeded");
    }
    for (number, call) in (5..).zip(each_kind("buy nothing")) {
        let call = ClientCall { id: call.id.part("more"), ..call };
        let only = attempt(&shop, 10 * number, &call);
        assert_eq!(said(&prepare(&lane, &only, "a", 1).await), "YES");
        assert!(end(&only).await);
    }
}

/// The janitor and a call reach one answer in its last millisecond, and right after that.
#[tokio::test(start_paused = true)]
async fn an_answer_stands_to_the_last_millisecond_and_its_successor_outlives_a_sweep() {
    let shop = Shop::new();
    schema::open(&shop.kv, Some(1)).await.unwrap();
    let lane = shop.stocked(1).await;
    let call = client_call("key", "add");
    assert_eq!(left(&ask(&lane, more(), &call).await), 2);
    let sweep = || janitor::sweep(&shop.kv, JanitorConfig::default());
    for (later_ms, expected, swept) in [(600_000, 2, 0), (1, 3, 1)] {
        tokio::time::sleep(Duration::from_millis(later_ms)).await;
        let (answer, done) = tokio::join!(ask(&lane, more(), &call), sweep());
        assert_eq!(left(&answer), expected);
        assert!(done.unwrap().answers <= swept);
        assert_eq!(left(&ask(&shop.lane(2), more(), &call).await), expected, "by another replica");
    }
}
