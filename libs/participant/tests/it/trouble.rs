//! Commits whose outcome nobody knows, and stores that are not there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use storage::{
    KvError, codec,
    keys::{Kind, Owner, Space},
    mem::{Call, Chaos, ChaosRates, Faults, Landing, Op, Plan, TokioClock, Verdict},
    record::JournalEntry,
};
use types::{ShardId, Timestamp};

use crate::shop::{ORIGIN, Shop, abort, add, prepare, request, said, stock};

fn undetermined(landing: Landing) -> Verdict {
    Verdict::Undetermined(landing)
}

#[tokio::test(start_paused = true)]
async fn an_undetermined_commit_takes_effect_once_whatever_became_of_it() {
    let late = Landing::Late(Duration::from_millis(50));
    for landing in [Landing::Landed, Landing::Lost, late] {
        for times in 1..=3 {
            let shop = Shop::new();
            let lane = shop.stocked(10).await;
            let script = std::iter::repeat_n(undetermined(landing), times);
            shop.script.0.lock().unwrap().extend(script);
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
    // The first try lands while the second is on its way, and another replica writes in between.
    let late = undetermined(Landing::Late(Duration::from_millis(1)));
    shop.script.0.lock().unwrap().push_back(late);
    let meta = shop.tx(1);
    let (vote, added) = tokio::join!(prepare(&lane, &meta, "a", 1), add(&other, "a", 1, None));
    assert_eq!(said(&vote), "YES");
    added.unwrap();
    assert_eq!(stock(&lane, "a").await, 1);
    abort(&lane, &meta).await;
    assert_eq!(stock(&other, "a").await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_for_a_while_is_only_slower() {
    let shop = Shop::new();
    let lane = shop.stocked(1).await;
    let failed = Verdict::Fail(KvError::Unavailable("away".to_owned()));
    shop.script.0.lock().unwrap().extend(std::iter::repeat_n(failed, 5));
    assert_eq!(add(&lane, "a", 1, request("r", 1)).await, Ok(2));
}

/// Adds from three replicas through a store in chaos: each acknowledged addition is there once.
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

/// Makes the first load of a record take longer than a KV transaction may live.
#[derive(Debug, Default)]
struct Stuck(AtomicBool);

impl Faults for Stuck {
    fn before(&self, call: &Call<'_>) -> Plan {
        let first = call.op == Op::BatchGet && !self.0.swap(true, Ordering::Relaxed);
        Plan { delay_before: Duration::from_secs(if first { 61 } else { 0 }), ..Plan::PROCEED }
    }
}

#[tokio::test(start_paused = true)]
async fn a_kv_transaction_that_grew_too_old_is_begun_anew() {
    let mut shop = Shop::new();
    shop.stocked(1).await;
    shop.kv = shop.kv.with_faults(Arc::new(Stuck::default()));
    let lane = shop.lane(2);
    assert_eq!(add(&lane, "a", 1, None).await, Ok(2));
    let now = shop.clock.now();
    let contents = shop.kv.contents();
    let journal = Space::new(Owner::Stock, ShardId(0)).range(Kind::Journal);
    let (key, value) = contents.range(journal).next_back().unwrap();
    let entry: JournalEntry = codec::decode(key, value).unwrap();
    let age = now.since(Timestamp(entry.start_ts).physical());
    assert!(age < 60_000, "written by a KV transaction of {age} ms ago");
}

/// Counts KV transactions, each of which takes a millisecond to begin.
#[derive(Debug, Default)]
struct Begun(AtomicUsize);

impl Faults for Begun {
    fn before(&self, call: &Call<'_>) -> Plan {
        let begins = call.op == Op::Begin;
        self.0.fetch_add(usize::from(begins), Ordering::Relaxed);
        Plan { delay_before: Duration::from_millis(u64::from(begins)), ..Plan::PROCEED }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_does_not_keep_the_store_busy() {
    let mut shop = Shop::new();
    shop.stocked(1).await;
    let (older, younger) = (shop.tx(1), shop.tx(2));
    let begun = Arc::new(Begun::default());
    shop.kv = shop.kv.with_faults(begun.clone());
    shop.clock = Arc::new(TokioClock::starting_at(ORIGIN.plus_ms(3_600_000)));
    let lane = shop.lane(2);
    assert_eq!(said(&prepare(&lane, &younger, "a", 1).await), "YES");
    let waits = tokio::spawn(async move { said(&prepare(&lane, &older, "a", 1).await) });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let begun = begun.0.load(Ordering::Relaxed);
    assert!(begun < 60, "{begun} KV transactions in a second");
    assert_eq!(waits.await.unwrap(), "FENCED", "by the store's clock");
}
