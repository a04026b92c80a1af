//! Tests operations: that they happen once, in batches, across replicas and restarts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::future::join_all;
use participant::{
    core::{Answer, Call},
    lane::LaneError,
};
use stock::records::Op;
use storage::{
    Kv as _, codec,
    keys::{Kind, Space},
    record,
};
use testkit::mem::{Call as KvCall, Plan};
use tokio::time::timeout;
use types::{BranchState, Money, Reason, Role, ShardId};

use crate::shop::{
    Handle, SCHEMA, Shop, abort, add, breathe, commit, create, item, op, prepare, request, said,
    stock, subtract, units,
};

#[tokio::test(start_paused = true)]
async fn an_operation_under_one_request_id_happens_once() {
    let shop = Shop::new();
    let lane = shop.stocked(0).await;
    assert_eq!(add(&lane, "a", 5, request("r", 1)).await, Ok(5));
    add(&lane, "a", 1, None).await.unwrap();
    assert_eq!(add(&lane, "a", 5, request("r", 1)).await, Ok(5), "the first answer again");
    assert_eq!(stock(&lane, "a").await, 6);
    let reused = add(&lane, "a", 6, request("r", 2)).await;
    assert_eq!(reused, Err(Reason::RequestIdReused));
    // Another replica knows it too, as does one after a restart.
    assert_eq!(add(&shop.lane(2), "a", 5, request("r", 1)).await, Ok(5));
}

#[tokio::test(start_paused = true)]
async fn twins_in_one_batch_happen_once() {
    let shop = Shop::new();
    let lane = shop.stocked(0).await;
    let answers = join_all((0..10).map(|_| add(&lane, "a", 5, request("twin", 1)))).await;
    assert!(answers.iter().all(|answer| *answer == Ok(5)));
    assert_eq!(stock(&lane, "a").await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_remembered() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    assert_eq!(subtract(&lane, "a", 2).await, Err(Reason::OutOfStock));
    add(&lane, "a", 1, None).await.unwrap();
    assert_eq!(subtract(&lane, "a", 2).await, Ok(0), "the same request id succeeds later");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_minted_request_id_stays_a_refusal_on_every_replica() {
    let shop = Shop::new();
    let (lane, other) = (shop.stocked(1).await, shop.lane(2));
    let ask = async |lane: &Handle, call| {
        let op = Op::Subtract(item("a"), units(2));
        crate::shop::op(lane, op, request("~one call", call)).await.map(|_| ())
    };
    assert_eq!(ask(&lane, 7).await, Err(Reason::OutOfStock));
    add(&lane, "a", 5, None).await.unwrap();
    // A late copy of the refused call.
    assert_eq!(ask(&other, 7).await, Err(Reason::OutOfStock));
    assert_eq!(ask(&other, 8).await, Err(Reason::RequestIdReused), "another call is told apart");
    assert_eq!(stock(&other, "a").await, 6);
}

#[tokio::test(start_paused = true)]
async fn a_bad_request_does_not_fail_its_batch() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let (good, unknown, short) =
        tokio::join!(add(&lane, "a", 1, None), add(&lane, "b", 1, None), subtract(&lane, "a", 9));
    assert_eq!((good, unknown), (Ok(2), Err(Reason::ItemNotFound)));
    assert_eq!(short, Err(Reason::OutOfStock));
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_together_share_one_commit() {
    let shop = Shop::new();
    let lane = shop.stocked(0).await;
    let before = shop.kv.stats();
    let answers = join_all((0..200).map(|_| add(&lane, "a", 1, None))).await;
    assert!(answers.iter().all(Result::is_ok));
    let after = shop.kv.stats();
    assert!(after.commits - before.commits <= 3, "{before:?} {after:?}");
    assert_eq!(stock(&lane, "a").await, 200);
}

#[tokio::test(start_paused = true)]
async fn replicas_on_one_shard_never_lose_an_update() {
    let mut shop = Shop::new();
    // Every call takes a while, so that replicas overlap.
    let slow = |_: &KvCall<'_>| Plan::after(Duration::from_millis(1));
    shop.kv = shop.kv.with_faults(Arc::new(slow));
    let lanes = [shop.stocked(0).await, shop.lane(2), shop.lane(3)];
    for round in 0..20 {
        let adds = lanes.iter().map(|lane| add(lane, "a", 1, None));
        assert!(join_all(adds).await.iter().all(Result::is_ok));
        for lane in &lanes {
            assert_eq!(stock(lane, "a").await, (round + 1) * 3, "a read never lags a reply");
        }
    }
    assert!(shop.kv.stats().conflicts > 0, "the lanes did meet");
}

#[tokio::test(start_paused = true)]
async fn a_new_lane_finds_everything_in_the_journal() {
    let shop = Shop::new();
    let lane = shop.stocked(5).await;
    let (kept, ended) = (shop.tx(1), shop.tx(2));
    assert_eq!(said(&prepare(&lane, &kept, "a", 3).await), "YES");
    assert_eq!(said(&prepare(&lane, &ended, "a", 1).await), "YES");
    abort(&lane, &ended).await;
    drop(lane);
    breathe().await;
    let lane = shop.lane(2);
    assert_eq!(stock(&lane, "a").await, 2);
    assert_eq!(said(&prepare(&lane, &kept, "a", 3).await), "YES");
    assert_eq!(said(&prepare(&lane, &ended, "a", 1).await), "FENCED");
    assert_eq!(stock(&lane, "a").await, 2, "known transactions hold nothing twice");
    abort(&lane, &kept).await;
    assert_eq!(stock(&lane, "a").await, 5);
}

#[tokio::test(start_paused = true)]
async fn the_journal_is_trimmed_once_nothing_in_it_is_needed() {
    let shop = Shop::new();
    let lane = shop.stocked(1_000).await;
    for number in 1..100 {
        let meta = shop.tx(number);
        assert_eq!(said(&prepare(&lane, &meta, "a", 1).await), "YES");
        commit(&lane, &meta).await;
    }
    let journal = shop.kv.contents().keys().filter(|key| key[3] == 2).count();
    assert!(journal > 50, "{journal}");
    tokio::time::sleep(Duration::from_mins(1)).await;
    let left = shop.kv.contents().keys().filter(|key| key[3] == 2).count();
    assert!(left < 8, "{left} entries are left");
    assert_eq!(stock(&lane, "a").await, 901);
    assert_eq!(stock(&shop.lane(2), "a").await, 901, "a new lane starts from what is left");
}

#[tokio::test(start_paused = true)]
async fn what_keeps_an_old_entry_alive_is_carried_forward() {
    let shop = Shop::new();
    let lane = shop.stocked(10).await;
    assert_eq!(add(&lane, "a", 1, request("long", 1)).await, Ok(11));
    let stuck = shop.tx(200);
    assert_eq!(said(&prepare(&lane, &stuck, "a", 4).await), "YES");
    for _ in 0..120 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        add(&lane, "a", 1, None).await.unwrap();
    }
    let journal = shop.kv.contents().keys().filter(|key| key[3] == 2).count();
    assert!(journal < 60, "{journal} entries are left");
    let fresh = shop.lane(2);
    assert_eq!(add(&fresh, "a", 1, request("long", 1)).await, Ok(11), "the request id is kept");
    assert_eq!(said(&prepare(&fresh, &stuck, "a", 4).await), "YES");
    assert_eq!(stock(&fresh, "a").await, 127);
    abort(&fresh, &stuck).await;
    assert_eq!(stock(&fresh, "a").await, 131, "the carried hold is whole");
}

#[tokio::test(start_paused = true)]
async fn a_hold_of_an_old_incarnation_goes_nowhere() {
    let shop = Shop::new();
    let lane = shop.lane(1);
    create(&lane, "7").await;
    add(&lane, "7", 5, None).await.unwrap();
    let meta = shop.tx(1);
    assert_eq!(said(&prepare(&lane, &meta, "7", 5).await), "YES");
    let init = Op::Init { numbers: vec![7], stock: units(3), price: Money::ZERO };
    op(&lane, init, None).await.unwrap();
    assert_eq!(stock(&lane, "7").await, 3);
    assert_eq!(subtract(&lane, "7", 4).await, Err(Reason::OutOfStock), "old holds do not count");
    abort(&lane, &meta).await;
    assert_eq!(stock(&lane, "7").await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_fails_only_the_calls_that_need_it() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    create(&lane, "b").await;
    let key = Space::of(Role::Stock, ShardId(0)).record(Kind::Item, b"b");
    // The journal has the image until the records follow.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut txn = shop.kv.begin().await.unwrap();
    assert!(txn.read_ts().0 > 0);
    txn.put(key, vec![99]);
    txn.commit().await.unwrap();
    let fresh = shop.lane(2);
    let call = Call::Op { op: Op::Get(item("b")), call: None, may_wait: true };
    let (damaged, good) = tokio::join!(fresh.call(call), add(&fresh, "a", 1, None));
    assert!(matches!(damaged, Err(LaneError::Damaged(_))), "{damaged:?}");
    assert_eq!(good, Ok(2));
}

#[tokio::test(start_paused = true)]
async fn a_tail_is_not_trusted_once_what_others_appended_may_be_trimmed() {
    let mut shop = Shop::new();
    // This lane looks only when it is called.
    shop.options.refresh = Duration::from_hours(1);
    let lane = shop.stocked(1).await;
    let other = shop.lane(2);
    for number in 2..22 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(add(&other, "a", 1, None).await, Ok(number));
    }
    let first = Space::of(Role::Stock, ShardId(0)).journal(3);
    assert!(!shop.kv.contents().contains_key(&first), "it was there when the lane looked last");
    // The request id makes this a mutation: without one, the lane would look first, as for a read.
    assert_eq!(add(&lane, "a", 1, request("late", 1)).await, Ok(22));
    assert_eq!(stock(&other, "a").await, 22);
}

/// Number of journal entries that are not trimmed.
fn journal(shop: &Shop) -> usize {
    shop.kv.contents().keys().filter(|key| key[3] == 2).count()
}

#[tokio::test(start_paused = true)]
async fn replicas_that_do_not_write_a_shard_leave_its_journal_to_the_one_that_does() {
    let mut shop = Shop::new();
    // Every call takes a while, so that replicas overlap.
    let slow = |_: &KvCall<'_>| Plan::after(Duration::from_millis(1));
    shop.kv = shop.kv.with_faults(Arc::new(slow));
    let lane = shop.stocked(1_000).await;
    let others = [shop.lane(2), shop.lane(3), shop.lane(4)];
    for number in 1..100 {
        let meta = shop.tx(number);
        assert_eq!(said(&prepare(&lane, &meta, "a", 1).await), "YES");
        commit(&lane, &meta).await;
    }
    // Long enough for the others to look, and for everything to be trimmed.
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(journal(&shop) < 8, "{} entries are left", journal(&shop));
    assert_eq!(shop.kv.stats().conflicts, 0, "nobody was in anybody's way");
    drop(others);
}

#[tokio::test(start_paused = true)]
async fn a_journal_whose_writer_is_gone_is_trimmed_by_another_replica() {
    let shop = Shop::new();
    let lane = shop.stocked(1_000).await;
    let others = [shop.lane(2), shop.lane(3)];
    for number in 1..100 {
        let meta = shop.tx(number);
        assert_eq!(said(&prepare(&lane, &meta, "a", 1).await), "YES");
        commit(&lane, &meta).await;
    }
    drop(lane);
    breathe().await;
    assert!(journal(&shop) > 50, "{} entries are left", journal(&shop));
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(journal(&shop) < 8, "{} entries are left", journal(&shop));
    drop(others);
}

#[tokio::test(start_paused = true)]
async fn two_overwrites_in_one_batch_are_two_incarnations() {
    let shop = Shop::new();
    let lane = shop.lane(1);
    create(&lane, "7").await;
    let init = || Call::Op {
        op: Op::Init { numbers: vec![7], stock: units(10), price: Money::ZERO },
        call: None,
        may_wait: true,
    };
    let held = shop.tx(1);
    let hold =
        Call::Prepare { meta: held.clone(), payload: vec![(item("7"), units(4))], may_wait: true };
    let commits = shop.kv.stats().commits;
    let begun = [init(), hold, init()].map(|call| lane.begin(call).unwrap());
    for begun in begun {
        begun.answer().await.unwrap();
    }
    assert_eq!(shop.kv.stats().commits, commits + 1, "it was one batch");
    assert_eq!(said(&prepare(&lane, &shop.tx(2), "7", 5).await), "YES");
    abort(&lane, &held).await;
    assert_eq!(stock(&lane, "7").await, 5, "what was held of the first goes nowhere");
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_an_earlier_release_wrote_is_taken_from_it_at_once() {
    for format in [codec::FORMAT_1, codec::FORMAT_2] {
        let shop = Shop::new();
        let space = Space::of(Role::Stock, ShardId(0));
        let mut txn = shop.kv.begin().await.unwrap();
        let old = record::Head { flushed: 7, oldest: 8, ..Default::default() };
        txn.put(space.head(), codec::encode_as(format, &old));
        let item = record::ItemRecord {
            price: 3,
            available: 2,
            supplied: 5,
            incarnation: 9,
            ..Default::default()
        };
        txn.put(space.record(Kind::Item, b"a"), codec::encode(&item));
        txn.commit().await.unwrap();
        let lane = shop.lane(1);
        breathe().await;
        let mut reads = shop.kv.snapshot(shop.kv.timestamp().await.unwrap());
        let head = reads.get(&space.head()).await.unwrap().unwrap();
        let refused = codec::decode_any::<record::Head>(&space.head(), &head, codec::FORMAT_2);
        assert!(refused.is_err(), "earlier releases must not read it any more: {refused:?}");
        // An earlier replica that trusts the head without reading it would append its next batch as
        // this entry.
        let next = reads.get(&space.journal(8)).await.unwrap();
        assert!(next.is_some(), "its place must be taken");
        // What the earlier release held and left unfinished goes on.
        assert_eq!(stock(&lane, "a").await, 2);
        assert_eq!(add(&lane, "a", 1, None).await, Ok(3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_fails_a_call_that_waits_for_it_and_stops_no_other() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    create(&lane, "b").await;
    let holder = shop.tx(9);
    assert_eq!(said(&prepare(&lane, &holder, "a", 1).await), "YES");
    let waits = {
        let call = Call::Op {
            op: Op::Subtract(item("a"), units(1)),
            call: request("waits", 1),
            may_wait: true,
        };
        lane.begin(call).unwrap()
    };
    breathe().await;
    // A replica of a release with another format changes the item.
    let image = record::Image {
        row: participant::records::row(Kind::Item, "a").into(),
        value: vec![99].into(),
    };
    let entry = record::JournalEntry { images: vec![image], ..Default::default() };
    shop.put_entries(vec![(1, entry)]).await;
    let good = timeout(Duration::from_secs(30), add(&lane, "b", 1, None)).await;
    assert_eq!(good.expect("the lane is stuck"), Ok(1));
    let damaged = timeout(Duration::from_secs(30), waits.answer()).await.unwrap();
    assert!(matches!(damaged, Err(LaneError::Damaged(_))), "{damaged:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_coordinator_left_is_asked_about_without_pauses() {
    let mut shop = Shop::new();
    shop.options.limits.batch_bytes = 1 << 20;
    let lane = shop.stocked(10_000).await;
    let metas: Vec<_> = (0..2_000_u64)
        .map(|number| {
            let mut meta = shop.tx(1);
            meta.tx_id.0[8..].copy_from_slice(&number.to_be_bytes());
            meta.priority.begin_ts = number + 10;
            meta
        })
        .collect();
    let votes = join_all(metas.iter().map(|meta| prepare(&lane, meta, "a", 1))).await;
    assert!(votes.iter().all(|vote| said(vote) == "YES"));
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = tokio::time::Instant::now();
    let mut left: BTreeMap<_, _> = metas.iter().map(|meta| (meta.tx_id, meta.clone())).collect();
    let mut asked_twice = 0;
    while !left.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let asked = std::mem::take(&mut *shop.asked.0.lock().unwrap());
        for tx_id in asked {
            match left.remove(&tx_id) {
                Some(meta) => drop(abort(&lane, &meta).await),
                None => asked_twice += 1,
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{} are left", left.len());
    }
    assert_eq!(asked_twice, 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_was_made_anew_beneath_a_lane_is_not_written() {
    let (made_same, made_other) = (SCHEMA.created.0, 2);
    for (created, moves_head) in
        [(made_same, true), (made_other, true), (made_same, false), (made_other, false)]
    {
        let is_same = created == made_same;
        let mut shop = Shop::new();
        if !moves_head {
            shop.options.checkpoint_after = Duration::from_hours(1);
        }
        let lane = shop.stocked(1).await;
        // Long enough for the lane to look again.
        tokio::time::sleep(Duration::from_secs(2)).await;
        shop.make_anew(created).await;
        let made = timeout(Duration::from_secs(5), create(&lane, "b")).await;
        assert_eq!(made.is_ok(), is_same, "created {created}");
        assert_eq!(shop.kv.contents().len() > 1, is_same, "created {created}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_was_begun_anew_beneath_a_lane_is_read_anew() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    // Long enough for the records to follow, so that the head goes back.
    tokio::time::sleep(Duration::from_secs(3)).await;
    shop.make_anew(SCHEMA.created.0).await;
    let other = shop.lane(2);
    create(&other, "b").await;
    assert_eq!(add(&lane, "a", 1, None).await, Err(Reason::ItemNotFound));
    assert_eq!(add(&lane, "b", 1, None).await, Ok(1));
    assert_eq!(stock(&other, "b").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_nobody_can_ask_any_more_answers_what_is_queued() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    // It may join a later batch, which never comes.
    let commit = Call::Commit { meta: shop.tx(1), receipts: Vec::new() };
    let queued = lane.begin(commit).unwrap();
    drop(lane);
    let answer = queued.answer().await;
    assert!(matches!(answer, Ok(Answer::State(BranchState::Committed, _))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dropped_lane_answers_its_waiters() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let (older, younger) = (shop.tx(1), shop.tx(2));
    assert_eq!(said(&prepare(&lane, &younger, "a", 1).await), "YES");
    let payload = vec![(item("a"), units(1))];
    let waits = lane.begin(Call::Prepare { meta: older, payload, may_wait: true }).unwrap();
    breathe().await;
    drop(lane);
    let answer = timeout(Duration::from_secs(1), waits.answer()).await;
    assert_eq!(answer.unwrap(), Err(LaneError::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_on_though_nobody_waits_for_it_any_more() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let call = request("r", 1);
    drop(lane.begin(Call::Op { op: Op::Add(item("a"), units(1)), call, may_wait: true }).unwrap());
    assert_eq!(stock(&lane, "a").await, 2);
}
