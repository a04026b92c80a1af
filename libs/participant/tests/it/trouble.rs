//! Tests commits of unknown outcome, and stores that are not there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::future::join_all;
use participant::lane::LaneError;
use storage::{
    codec,
    keys::{Kind, Space},
    record::{ItemRecord, JournalEntry},
};
use testkit::{
    ORIGIN, TokioClock,
    mem::{Call, CallFate, Chaos, ChaosRates, Landing, Op, Plan},
};
use types::{Role, ShardId, Timestamp};

use crate::shop::{Handle, Shop, abort, add, add_or_expire, prepare, request, said, stock};

fn undetermined(landing: Landing) -> CallFate {
    CallFate::Undetermined(landing)
}

#[tokio::test(start_paused = true)]
async fn an_undetermined_commit_takes_effect_once_whatever_became_of_it() {
    let late = Landing::Late(Duration::from_millis(50));
    for landing in [Landing::Landed, Landing::Lost, late] {
        for times in 1..=3 {
            let shop = Shop::new();
            let lane = shop.stocked(10).await;
            let script = std::iter::repeat_n(undetermined(landing), times);
            shop.script.lock().unwrap().extend(script);
            let answers = join_all((0..5).map(|_| add(&lane, "a", 1, None))).await;
            let mut answers: Vec<u64> = answers.into_iter().map(Result::unwrap).collect();
            answers.sort_unstable();
            assert_eq!(answers, [11, 12, 13, 14, 15], "{landing:?} {times}");
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(stock(&lane, "a").await, 15, "{landing:?} {times}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_landed_late_gives_its_own_answers() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let other = shop.lane(2);
    // The first attempt lands while the second is on its way, and another replica writes in
    // between.
    let late = undetermined(Landing::Late(Duration::from_millis(1)));
    shop.script.lock().unwrap().push_back(late);
    let meta = shop.tx(1);
    let (vote, added) = tokio::join!(prepare(&lane, &meta, "a", 1), add(&other, "a", 1, None));
    assert_eq!(said(&vote), "YES");
    added.unwrap();
    assert_eq!(stock(&lane, "a").await, 1);
    abort(&lane, &meta).await;
    assert_eq!(stock(&other, "a").await, 2);
}

/// A lane does not hear of its append for a long time, while another replica appends, checkpoints
/// and trims.
#[tokio::test(start_paused = true)]
async fn calls_whose_fate_is_trimmed_are_told_so_and_never_run_again() {
    for landing in [Landing::Landed, Landing::Lost] {
        let mut shop = Shop::new();
        shop.stocked(1).await;
        let other = shop.lane(2);
        // While the store is away, the first commit has this unknown outcome, and all later calls
        // fail.
        let away: Arc<AtomicBool> = Arc::default();
        let (is_away, has_committed) = (Arc::clone(&away), AtomicBool::new(false));
        shop.kv = shop.kv.with_faults(Arc::new(move |call: &Call<'_>| {
            if !is_away.load(Relaxed) {
                return Plan::PROCEED;
            }
            let commits = call.op == Op::Commit;
            if has_committed.fetch_or(commits, Relaxed) {
                Plan::unavailable()
            } else if commits {
                Plan::at_once(undetermined(landing))
            } else {
                Plan::PROCEED
            }
        }));
        let lane = shop.lane(3);
        assert_eq!(stock(&lane, "a").await, 1);
        away.store(true, Relaxed);
        let asked = tokio::spawn({
            let lane = lane.clone();
            async move { add_or_expire(&lane, "a", 1, request("in doubt", 1)).await }
        });
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            add(&other, "a", 1, None).await.unwrap();
        }
        assert!(!asked.is_finished());
        away.store(false, Relaxed);
        assert_eq!(asked.await.unwrap(), Err(LaneError::Unavailable), "{landing:?}");
        let landed = u64::from(landing == Landing::Landed);
        assert_eq!(stock(&lane, "a").await, 31 + landed);
        // A repetition under the same key is answered, or takes effect now.
        add(&lane, "a", 1, request("in doubt", 1)).await.unwrap();
        assert_eq!(stock(&other, "a").await, 32);
    }
}

/// A call's time ends while its append is in doubt and may still land.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_told_it_did_nothing_does_nothing_later() {
    let shop = Shop::new();
    let lane = shop.stocked(10).await;
    let late = undetermined(Landing::Late(Duration::from_secs(5)));
    let failed = Plan::unavailable().fate;
    shop.script.lock().unwrap().push_back(late);
    shop.script.lock().unwrap().extend(std::iter::repeat_n(failed, 12));
    let call = request("short", 1).map(|call| {
        let not_after = Some(shop.clock.now().plus_ms(50));
        types::ClientCall { not_after, ..call }
    });
    let told = add_or_expire(&lane, "a", 1, call).await;
    assert_eq!(told, Err(LaneError::Expired));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(stock(&lane, "a").await, 10);
    assert_eq!(stock(&shop.lane(2), "a").await, 10);
}

/// Appends and checkpoints of several replicas, over a store that loses calls.
#[tokio::test(start_paused = true)]
async fn records_follow_the_journal_whatever_becomes_of_their_pieces() {
    for seed in 0..20 {
        let mut shop = Shop::new();
        shop.options.checkpoint_after = Duration::from_millis(1);
        shop.stocked(0).await;
        let plain = shop.kv.clone();
        shop.kv = plain.clone().with_faults(Arc::new(Chaos::new(seed, ChaosRates::default())));
        let lanes = [shop.lane(2), shop.lane(3)];
        let mut expected = 0;
        for round in 0..60_u64 {
            let id = format!("{round}");
            let lane = &lanes[usize::try_from(round % 2).unwrap()];
            while add_or_expire(lane, "a", 1, request(&id, round)).await.is_err() {}
            expected += 1;
        }
        shop.kv = plain;
        drop(lanes);
        let fresh = shop.lane(9);
        assert_eq!(stock(&fresh, "a").await, expected, "seed {seed}");
        // The lane of the last writer writes what is left.
        add(&fresh, "a", 1, None).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        let contents = shop.kv.contents();
        let space = Space::of(Role::Stock, ShardId(0));
        let item: ItemRecord =
            codec::decode(b"a", &contents[&space.record(Kind::Item, b"a")]).unwrap();
        assert_eq!(item.available, expected + 1, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_is_only_slower() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let failed = Plan::unavailable().fate;
    shop.script.lock().unwrap().extend(std::iter::repeat_n(failed, 5));
    assert_eq!(add(&lane, "a", 1, request("r", 1)).await, Ok(2));
}

/// While a store is closed, no KV transaction begins, and attempts are counted.
#[derive(Default)]
struct Closed {
    is_closed: AtomicBool,
    attempts: AtomicUsize,
}

/// A lane with one unit of item "a", whose store has just closed.
async fn lane_of_a_closed_store() -> (Handle, Arc<Closed>) {
    let mut shop = Shop::new();
    shop.stocked(1).await;
    let closed = Arc::new(Closed::default());
    let store = Arc::clone(&closed);
    shop.kv = shop.kv.with_faults(Arc::new(move |call: &Call<'_>| {
        if !store.is_closed.load(Relaxed) {
            return Plan::PROCEED;
        }
        store.attempts.fetch_add(usize::from(call.op == Op::Begin), Relaxed);
        Plan::unavailable()
    }));
    let lane = shop.lane(2);
    assert_eq!(stock(&lane, "a").await, 1);
    closed.is_closed.store(true, Relaxed);
    (lane, closed)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_away_is_asked_less_and_less_often() {
    let (lane, closed) = lane_of_a_closed_store().await;
    let asked = tokio::spawn(async move { add(&lane, "a", 1, request("r", 1)).await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    let tries = closed.attempts.load(Relaxed);
    assert!((10..100).contains(&tries), "{tries} tries in ten seconds");
    closed.is_closed.store(false, Relaxed);
    assert_eq!(asked.await.unwrap(), Ok(2));
}

/// Adds from three replicas through a store in chaos. Each acknowledged addition takes effect once.
#[tokio::test(start_paused = true)]
async fn chaos_loses_and_doubles_nothing() {
    for seed in 0..60 {
        let mut shop = Shop::new();
        shop.stocked(0).await;
        let rates = ChaosRates::default();
        shop.kv = shop.kv.with_faults(Arc::new(Chaos::new(seed, rates)));
        let lanes = [shop.lane(2), shop.lane(3), shop.lane(4)];
        let mut expected = 0;
        for round in 0..10 {
            let adds = lanes.iter().enumerate().flat_map(|(index, lane)| {
                let key = move |twin: u8| request(&format!("{round} {index} {}", twin % 2), 1);
                (0..4).map(move |twin| add(lane, "a", 1, key(twin)))
            });
            let answers = join_all(adds).await;
            assert!(answers.iter().all(Result::is_ok), "SEED={seed} {answers:?}");
            expected += 3 * 2;
            assert_eq!(stock(&lanes[0], "a").await, expected, "SEED={seed} round {round}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_kv_transaction_that_grew_too_old_is_begun_anew() {
    let mut shop = Shop::new();
    shop.stocked(1).await;
    // The first load of a record takes longer than a KV transaction may live.
    let has_loaded = AtomicBool::new(false);
    shop.kv = shop.kv.with_faults(Arc::new(move |call: &Call<'_>| {
        let is_first = call.op == Op::BatchGet && !has_loaded.swap(true, Relaxed);
        Plan::after(Duration::from_secs(if is_first { 61 } else { 0 }))
    }));
    let lane = shop.lane(2);
    assert_eq!(add(&lane, "a", 1, None).await, Ok(2));
    let now = shop.clock.now();
    let contents = shop.kv.contents();
    let journal = Space::of(Role::Stock, ShardId(0)).range(Kind::Journal);
    let (key, value) = contents.range(journal).next_back().unwrap();
    let entry: JournalEntry = codec::decode_packed(key, value).unwrap();
    let age = now.since(Timestamp(entry.start_ts).physical());
    assert!(age < 60_000, "written by a KV transaction of {age} ms ago");
}

/// Counts the KV transactions of later lanes, each of which takes a millisecond to begin.
fn count_begun(shop: &mut Shop) -> Arc<AtomicUsize> {
    let begun: Arc<AtomicUsize> = Arc::default();
    let count = Arc::clone(&begun);
    shop.kv = shop.kv.with_faults(Arc::new(move |call: &Call<'_>| {
        let begins = call.op == Op::Begin;
        count.fetch_add(usize::from(begins), Relaxed);
        Plan::after(Duration::from_millis(u64::from(begins)))
    }));
    begun
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_does_not_keep_the_store_busy() {
    let mut shop = Shop::new();
    shop.stocked(1).await;
    let (older, younger) = (shop.tx(1), shop.tx(2));
    let begun = count_begun(&mut shop);
    shop.clock = Arc::new(TokioClock::starting_at(ORIGIN.plus_ms(3_600_000)));
    let lane = shop.lane(2);
    assert_eq!(said(&prepare(&lane, &younger, "a", 1).await), "YES");
    let waits = tokio::spawn(async move { said(&prepare(&lane, &older, "a", 1).await) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = begun.load(Relaxed);
    assert!(begun < 60, "{begun} KV transactions in a second");
    assert_eq!(waits.await.unwrap(), "FENCED", "by the store's clock");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_any_more_is_not_begun_once_the_store_is_back() {
    let (lane, closed) = lane_of_a_closed_store().await;
    let asked = add(&lane, "a", 1, request("r", 1));
    tokio::time::timeout(Duration::from_secs(3), asked).await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(3)).await;
    closed.is_closed.store(false, Relaxed);
    assert_eq!(stock(&lane, "a").await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_nobody_asks_looks_at_its_journal_now_and_then() {
    let mut shop = Shop::new();
    shop.stocked(1).await;
    let begun = count_begun(&mut shop);
    let _lane = shop.lane(2);
    tokio::time::sleep(Duration::from_mins(1)).await;
    let begun = begun.load(Relaxed);
    assert!((10..20).contains(&begun), "{begun} KV transactions in a minute");
}

#[tokio::test(start_paused = true)]
async fn a_look_that_panics_leaves_its_reads_to_the_next_batch() {
    let mut shop = Shop::new();
    shop.stocked(1).await;
    // If set, the next KV transaction panics as it begins.
    let panics: Arc<AtomicBool> = Arc::default();
    let is_set = Arc::clone(&panics);
    shop.kv = shop.kv.with_faults(Arc::new(move |call: &Call<'_>| {
        let panics = call.op == Op::Begin && is_set.swap(false, Relaxed);
        assert!(!panics, "as the test asks");
        Plan::PROCEED
    }));
    let lane = shop.lane(2);
    assert_eq!(stock(&lane, "a").await, 1, "in a batch, which loads the row");
    panics.store(true, Relaxed);
    let read = tokio::time::timeout(Duration::from_secs(10), stock(&lane, "a"));
    assert_eq!(read.await, Ok(1));
    assert!(!panics.load(Relaxed), "a look has begun");
}
