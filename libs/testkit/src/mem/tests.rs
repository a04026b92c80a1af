use std::time::Duration;

use storage::CommitError;
use tokio::{
    task::JoinSet,
    time::{advance, timeout},
};
use types::UnixMillis;

use super::*;

/// Applies this to commits whose primary is `b"x"`.
struct OnCommit(CallFate, After);

impl Faults for OnCommit {
    fn before(&self, call: &Call<'_>) -> Plan {
        if call.op == Op::Commit && call.key == b"x" {
            Plan::at_once(self.0.clone())
        } else {
            Plan::PROCEED
        }
    }

    fn after(&self, call: &Call<'_>) -> After {
        if call.op == Op::Commit && call.key == b"x" { self.1 } else { After::Return }
    }
}

async fn put(kv: &MemKv, key: &[u8], value: &[u8]) -> Result<(), CommitError> {
    let mut txn = kv.begin().await.unwrap();
    txn.put(key.to_vec(), value.to_vec());
    txn.commit().await.map(drop)
}

async fn get(kv: &MemKv, key: &[u8]) -> Option<Value> {
    let at = kv.timestamp().await.unwrap();
    kv.snapshot(at).get(key).await.unwrap()
}

fn undetermined(landing: Landing) -> Arc<OnCommit> {
    Arc::new(OnCommit(CallFate::Undetermined(landing), After::Return))
}

#[tokio::test(start_paused = true)]
async fn an_undetermined_commit_lands_or_not_as_planned() {
    for (landing, expected) in [(Landing::Landed, Some(b"1".to_vec())), (Landing::Lost, None)] {
        let calm = MemKv::default();
        let kv = calm.with_faults(undetermined(landing));
        assert!(matches!(put(&kv, b"x", b"1").await, Err(CommitError::Undetermined(_))));
        advance(Duration::from_hours(1)).await;
        assert_eq!(get(&calm, b"x").await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_commit_lands_when_it_is_due_and_not_before() {
    let calm = MemKv::default();
    let kv = calm.with_faults(undetermined(Landing::Late(Duration::from_millis(500))));
    assert!(put(&kv, b"x", b"1").await.is_err());
    advance(Duration::from_millis(499)).await;
    let before = calm.timestamp().await.unwrap();
    assert_eq!(get(&calm, b"x").await, None);
    advance(Duration::from_millis(1)).await;
    assert_eq!(get(&calm, b"x").await, Some(b"1".to_vec()));
    assert_eq!(calm.snapshot(before).get(b"x").await, Ok(None), "the past does not change");
    assert_eq!(calm.stats().late, 1);
}

#[tokio::test(start_paused = true)]
async fn a_late_commit_that_conflicts_by_then_never_lands() {
    let calm = MemKv::default();
    let kv = calm.with_faults(undetermined(Landing::Late(Duration::from_millis(500))));
    assert!(put(&kv, b"x", b"late").await.is_err());
    put(&calm, b"x", b"settled").await.unwrap();
    advance(Duration::from_secs(1)).await;
    assert_eq!(get(&calm, b"x").await, Some(b"settled".to_vec()));
    assert_eq!(calm.stats().late, 0);
}

#[tokio::test(start_paused = true)]
async fn a_process_may_die_right_before_and_right_after_a_commit() {
    for (faults, expected) in [
        (OnCommit(CallFate::Vanish, After::Return), None),
        (OnCommit(CallFate::Proceed, After::Vanish), Some(b"1".to_vec())),
    ] {
        let calm = MemKv::default();
        let kv = calm.with_faults(Arc::new(faults));
        let commit = timeout(Duration::from_hours(1), put(&kv, b"x", b"1"));
        assert!(commit.await.is_err(), "the dead hear nothing");
        assert_eq!(get(&calm, b"x").await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn timestamps_never_go_back_with_the_clock() {
    #[derive(Debug, Default)]
    struct Wild(Mutex<u64>);
    impl Clock for Wild {
        fn now(&self) -> UnixMillis {
            let mut calls = self.0.lock().unwrap();
            *calls += 1;
            UnixMillis(1_000_000 - *calls * 1_000 % 7_000)
        }
    }
    let kv = MemKv::new(Arc::new(Wild::default()));
    let mut last = Timestamp::default();
    for _ in 0..100 {
        let next = kv.timestamp().await.unwrap();
        assert!(next > last, "{next:?} came after {last:?}");
        last = next;
    }
}

#[tokio::test(start_paused = true)]
async fn reads_below_the_safe_point_are_incomplete() {
    let kv = MemKv::default();
    put(&kv, b"a", b"1").await.unwrap();
    let early = kv.timestamp().await.unwrap();
    put(&kv, b"a", b"2").await.unwrap();
    let late = kv.timestamp().await.unwrap();
    kv.collect_garbage(late).await.unwrap();
    assert_eq!(kv.snapshot(early).get(b"a").await, Ok(None), "as TiKV: silently too little");
    assert_eq!(kv.snapshot(late).get(b"a").await, Ok(Some(b"2".to_vec())));
}

#[tokio::test(start_paused = true)]
async fn a_transaction_that_lived_too_long_is_turned_down() {
    let kv = MemKv::default();
    let mut txn = kv.begin().await.unwrap();
    txn.put(b"a".to_vec(), b"1".to_vec());
    advance(storage::kv::TXN_LIFE_MAX + Duration::from_millis(1)).await;
    assert!(matches!(txn.commit().await, Err(CommitError::Failed(_))));
    assert_eq!(get(&kv, b"a").await, None);
}

/// Runs some tasks under chaos. Returns what each saw, what stands in the end, and the counts.
async fn history(seed: u64) -> (Vec<Vec<String>>, BTreeMap<Key, Value>, Stats) {
    let kv = MemKv::default().with_faults(Arc::new(Chaos::new(seed, ChaosRates::default())));
    let mut tasks = JoinSet::new();
    for task in 0..4_u8 {
        let kv = kv.process(task.into());
        tasks.spawn(async move {
            let mut seen = Vec::new();
            for step in 0..20_u8 {
                let Ok(mut txn) = kv.begin().await else { continue };
                let value = txn.get(&[step % 3]).await;
                txn.put(vec![step % 3], vec![task, step]);
                let outcome = txn.commit().await;
                seen.push(format!("{:?} {value:?} {outcome:?}", kv.timestamp().await));
            }
            seen
        });
    }
    let seen = tasks.join_all().await;
    (seen, kv.contents(), kv.stats())
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_history() {
    for seed in 0..20 {
        let first = history(seed).await;
        assert_eq!(first, history(seed).await, "SEED={seed}");
        assert_ne!(first.0, history(seed + 1_000).await.0, "another seed, another history");
    }
}
