//! Tests the chore that keeps the store clean.

use std::{
    mem::take,
    sync::{Arc, Mutex},
    time::Duration,
};

use storage::{
    Kv as _, KvError,
    claims::{Claim, claim_request_id},
    codec,
    janitor::{
        AnnounceError, JanitorConfig, READER_AGE_MAX, announce_reader, run, sweep, withdraw_reader,
    },
    keys::{Kind, Space},
    record, schema,
};
use testkit::{
    SeededEntropy,
    mem::{Call, CallFate, MemKv, Op, Plan},
};
use tokio::{
    sync::{self, oneshot},
    time::{Instant, advance, sleep},
};
use types::{RequestId, Role, ShardId, UnixMillis};

/// Held by a test while its janitors run, because they all set one metric.
static RUNNING: sync::Mutex<()> = sync::Mutex::const_new(());

/// Starts a janitor. It ends when the sender is dropped or used.
fn start(kv: &MemKv, process: u32) -> oneshot::Sender<()> {
    let kv = kv.process(process).shared();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let entropy = SeededEntropy::new(process.into());
        run(kv, &entropy, JanitorConfig::default(), async move { drop(stopped.await) }).await;
    });
    stop
}

#[tokio::test(start_paused = true)]
async fn one_of_many_sweeps_every_few_minutes_and_another_takes_over() {
    let _running = RUNNING.lock().await;
    let seen: Arc<Mutex<Vec<(u32, Instant)>>> = Arc::default();
    let sweeps = Arc::clone(&seen);
    let kv = MemKv::default().with_faults(Arc::new(move |call: &Call<'_>| {
        if call.op == Op::CollectGarbage {
            seen.lock().unwrap().push((call.process, Instant::now()));
        }
        Plan::PROCEED
    }));
    let swept = || take(&mut *sweeps.lock().unwrap());
    let mut janitors: Vec<Option<oneshot::Sender<()>>> =
        (0..4).map(|process| Some(start(&kv, process))).collect();
    sleep(Duration::from_mins(31)).await;
    let sweeps = swept();
    let holder = sweeps.first().map(|(process, _)| *process).unwrap();
    assert!(sweeps.iter().all(|(process, _)| *process == holder), "{sweeps:?}");
    assert!((6..=7).contains(&sweeps.len()), "{sweeps:?}");
    // The holder goes away without giving up its lease.
    janitors[usize::try_from(holder).unwrap()] = None;
    sleep(Duration::from_mins(3)).await;
    let sweeps = swept();
    assert_eq!(sweeps.len(), 1, "{sweeps:?}");
    assert_ne!(sweeps[0].0, holder);
}

#[tokio::test(start_paused = true)]
async fn garbage_is_what_is_ten_minutes_old_by_the_stores_clock() {
    let kv = MemKv::default();
    advance(Duration::from_hours(1)).await;
    let now = kv.timestamp().await.unwrap().physical();
    let swept = sweep(&kv, JanitorConfig::default()).await.unwrap();
    assert_eq!(swept.safe_point.unwrap().physical(), UnixMillis(now.0 - 600_000));
}

#[tokio::test(start_paused = true)]
async fn an_announced_reader_holds_the_safe_point_back_until_it_is_done() {
    let kv = MemKv::default();
    let config = JanitorConfig::default();
    let early = kv.timestamp().await.unwrap();
    let late = {
        advance(Duration::from_mins(2)).await;
        kv.timestamp().await.unwrap()
    };
    announce_reader(&kv, "late", late, 3_600_000).await.unwrap();
    announce_reader(&kv, "early", early, 3_600_000).await.unwrap();
    advance(Duration::from_mins(30)).await;
    assert_eq!(sweep(&kv, config).await.unwrap().safe_point, Ok(early));
    withdraw_reader(&kv, "early").await.unwrap();
    assert_eq!(sweep(&kv, config).await.unwrap().safe_point, Ok(late));
    // Another announcement extends the first.
    announce_reader(&kv, "late", late, 3_600_000).await.unwrap();
    advance(Duration::from_mins(45)).await;
    assert_eq!(sweep(&kv, config).await.unwrap().safe_point, Ok(late));
    advance(Duration::from_mins(30)).await;
    let swept = sweep(&kv, config).await.unwrap();
    assert!(swept.safe_point.unwrap() > late, "an announcement ends by itself");
    assert_eq!(swept.readers, 1);
    assert_eq!(sweep(&kv, config).await.unwrap().readers, 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_sweep_may_have_passed_cannot_be_announced() {
    let kv = MemKv::default();
    let at = kv.timestamp().await.unwrap();
    advance(READER_AGE_MAX).await;
    assert_eq!(announce_reader(&kv, "audit", at, 1_000).await, Err(AnnounceError::TooOld));
    let at = kv.timestamp().await.unwrap();
    announce_reader(&kv, "audit", at, 60_000).await.unwrap();
    advance(Duration::from_mins(20)).await;
    let lapsed = announce_reader(&kv, "audit", at, 60_000).await;
    assert_eq!(lapsed, Err(AnnounceError::TooOld), "it lapsed");
    // Twice the age suffices for the safe point never to pass an announced timestamp, whenever
    // during a sweep the announcement comes.
    assert!(
        JanitorConfig::default().life_ms >= 2 * u64::try_from(READER_AGE_MAX.as_millis()).unwrap()
    );
}

#[tokio::test(start_paused = true)]
async fn expired_request_ids_are_removed_in_pages_and_the_others_stay() {
    let kv = MemKv::default();
    let config = JanitorConfig { page: 7, ..JanitorConfig::default() };
    for number in 0..50_u64 {
        let id = RequestId::new(format!("id {number}")).unwrap();
        let keep_ms = if number % 5 == 0 { 3_600_000 } else { 1_000 };
        let claim = claim_request_id(&kv, &id, "POST /a", keep_ms).await;
        assert!(matches!(claim, Ok(Claim::Claimed(_))));
    }
    assert_eq!(sweep(&kv, config).await.unwrap().claims, 0);
    advance(Duration::from_secs(2)).await;
    assert_eq!(sweep(&kv, config).await.unwrap().claims, 40);
    assert_eq!(kv.contents().len(), 10);
    let id = RequestId::new("id 5").unwrap();
    assert_eq!(claim_request_id(&kv, &id, "POST /b", 1_000).await, Ok(Claim::Reused));
}

#[tokio::test(start_paused = true)]
async fn expired_answers_are_removed_from_every_shard_and_the_others_stay() {
    let kv = MemKv::default();
    let now = kv.timestamp().await.unwrap().physical();
    let schema = schema::open(&kv, Some(3)).await.unwrap();
    let mut txn = kv.begin().await.unwrap();
    let spaces = Role::SERVICES
        .into_iter()
        .flat_map(|owner| (0..schema.shards).map(move |shard| Space::of(owner, ShardId(shard))));
    for (number, space) in spaces.enumerate() {
        for (id, keep_ms) in [(b"early", 1_000), (b"later", 600_000 + number as u64)] {
            let keep_until_ms = now.plus_ms(keep_ms).0;
            let answer = record::RequestAnswer { keep_until_ms, ..Default::default() };
            txn.put(space.record(Kind::Answer, id), codec::encode(&answer));
        }
    }
    // A record that is damaged, or of a newer release, blocks nothing.
    let first = Space::of(Role::SERVICES[0], ShardId(0));
    txn.put(first.record(Kind::Answer, b"damaged"), b"?".to_vec());
    txn.commit().await.unwrap();
    let config = JanitorConfig::default();
    assert_eq!(sweep(&kv, config).await.unwrap().answers, 0);
    advance(Duration::from_secs(2)).await;
    assert_eq!(sweep(&kv, config).await.unwrap().answers, 9);
    assert_eq!(sweep(&kv, config).await.unwrap().answers, 0);
    assert_eq!(kv.contents().len(), 9 + 2, "those that are kept, the damaged one, and the schema");
}

#[tokio::test(start_paused = true)]
async fn expired_request_ids_are_removed_by_a_store_that_does_not_collect_garbage() {
    let kv = MemKv::default().with_faults(Arc::new(|call: &Call<'_>| {
        if call.op != Op::CollectGarbage {
            return Plan::PROCEED;
        }
        Plan::at_once(CallFate::Fail(KvError::Refused("not beyond the txn safe point".to_owned())))
    }));
    let id = RequestId::new("id").unwrap();
    claim_request_id(&kv, &id, "POST /a", 1_000).await.unwrap();
    announce_reader(&kv, "gone", kv.timestamp().await.unwrap(), 1_000).await.unwrap();
    advance(Duration::from_secs(2)).await;
    let swept = sweep(&kv, JanitorConfig::default()).await.unwrap();
    assert!(swept.safe_point.is_err());
    assert_eq!((swept.claims, swept.readers), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_replica_that_sweeps_tells_how_old_the_safe_point_is_and_the_others_do_not() {
    let _running = RUNNING.lock().await;
    let kv = MemKv::default();
    let age = &telemetry::metrics().safe_point_age;
    for (process, sweeps) in [(1, true), (2, false)] {
        let janitor = start(&kv, process);
        sleep(Duration::from_secs(1)).await;
        let told = age.get().map(|age| age >= Duration::from_mins(10));
        assert_eq!(told, sweeps.then_some(true), "process {process}");
        drop(janitor);
    }
}
