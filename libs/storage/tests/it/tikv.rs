//! Tests the TiKV backend on a server with faults. Each rule that works around a trap of the client
//! has a test that fails without it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use storage::{
    CommitError, Kv, KvError,
    kv::TXN_LIFE_MAX,
    tikv::{TikvConfig, TikvKv},
};
use tokio::time::{sleep, timeout};

use crate::{
    proxy::{Flow, Proxy},
    server::Server,
};

/// A backend with short time-outs, so that silence is noticed within a test's patience.
pub(crate) async fn connect(endpoint: impl ToString) -> Arc<TikvKv> {
    let mut config = TikvConfig::new(vec![endpoint.to_string()]);
    config.timestamp_timeout_ms = 500;
    config.connect_timeout_ms = 1_000;
    TikvKv::connect(config).await.unwrap()
}

/// A backend that gives up on a commit after a second.
async fn connect_impatient(endpoint: impl ToString) -> Arc<TikvKv> {
    let mut config = TikvConfig::new(vec![endpoint.to_string()]);
    config.request_timeout_ms = 300;
    config.call_timeout_ms = 1_000;
    let kv = TikvKv::connect(config).await.unwrap();
    while kv.timestamp().await.is_err() {
        // Not connected yet.
    }
    kv
}

/// Writes what a test starts with, with the usual time-outs.
async fn given(server: &Server, pairs: &[(&str, &str)]) {
    let kv = connect(server.endpoint()).await;
    for pair in pairs {
        put(kv.as_ref(), &[*pair]).await.unwrap();
    }
}

pub(crate) async fn put(kv: &dyn Kv, pairs: &[(&str, &str)]) -> Result<(), CommitError> {
    let mut txn = kv.begin().await.map_err(CommitError::Failed)?;
    for (key, value) in pairs {
        txn.put(key.as_bytes().to_vec(), value.as_bytes().to_vec());
    }
    txn.commit().await.map(drop)
}

async fn get(kv: &dyn Kv, key: &str) -> Result<Option<String>, KvError> {
    let at = kv.timestamp().await?;
    let value = kv.snapshot(at).get(key.as_bytes()).await?;
    Ok(value.map(|value| String::from_utf8(value).unwrap()))
}

fn is_undetermined<T>(outcome: &Result<T, CommitError>) -> bool {
    matches!(outcome, Err(CommitError::Undetermined(_)))
}

#[tokio::test]
async fn a_role_may_start_before_its_store() {
    let reserved = Server::reserve();
    let kv = connect(reserved.endpoint()).await;
    assert!(matches!(kv.timestamp().await, Err(KvError::Unavailable(_))));
    let server = reserved.start();
    let appeared = Instant::now();
    while kv.timestamp().await.is_err() {
        assert!(appeared.elapsed() < Duration::from_secs(5), "PD is there, the backend is not");
    }
    assert_eq!(put(kv.as_ref(), &[("a", "1")]).await, Ok(()));
    drop(server);
}

#[tokio::test]
async fn the_same_backend_goes_on_after_the_store_was_killed_and_is_back() {
    let server = Server::start();
    let kv = connect(server.endpoint()).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    let stopped = server.stop().await;
    let outcome = timeout(Duration::from_secs(15), get(kv.as_ref(), "a")).await;
    assert!(matches!(outcome, Ok(Err(KvError::Unavailable(_)))), "{outcome:?}");
    let _server = stopped.start();
    let back = Instant::now();
    while get(kv.as_ref(), "a").await != Ok(Some("1".into())) {
        assert!(back.elapsed() < Duration::from_secs(10), "the store is back, the backend is not");
    }
}

/// The client alone would hang for ever: the stream is open, and nothing fails.
#[tokio::test]
async fn a_client_gone_silent_is_replaced() {
    let server = Server::start_behind_proxy().await;
    let proxy: &Proxy = server.proxy();
    let kv = connect(server.endpoint()).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    proxy.existing(Flow::Hold);
    let outcome = timeout(Duration::from_secs(8), kv.timestamp()).await;
    assert!(matches!(outcome, Ok(Ok(_))), "{outcome:?}");
    assert_eq!(get(kv.as_ref(), "a").await, Ok(Some("1".into())));
    assert_eq!(put(kv.as_ref(), &[("a", "2")]).await, Ok(()));
}

#[tokio::test]
async fn frozen_timestamps_are_bounded_in_time_and_thaw() {
    let server = Server::start();
    let mut config = TikvConfig::new(vec![server.endpoint().to_string()]);
    config.timestamp_timeout_ms = 300;
    config.connect_timeout_ms = 500;
    config.call_timeout_ms = 1_500;
    let kv = TikvKv::connect(config).await.unwrap();
    kv.timestamp().await.unwrap();
    server.freeze_timestamps(60_000).await;
    for _ in 0..2 {
        let outcome = timeout(Duration::from_secs(4), kv.timestamp()).await;
        assert!(matches!(outcome, Ok(Err(KvError::Unavailable(_)))), "{outcome:?}");
        let outcome = timeout(Duration::from_secs(4), kv.begin()).await.map(|begun| begun.is_ok());
        assert_eq!(outcome, Ok(false), "begin fails in time");
    }
    server.clear_faults().await;
    let thawed = Instant::now();
    while kv.timestamp().await.is_err() {
        assert!(
            thawed.elapsed() < Duration::from_secs(10),
            "timestamps thawed, the backend did not"
        );
    }
}

/// A lost reply to the primary's commit looks like any other error, but the transaction is durable.
/// A rollback would then remove only the keys of other regions.
#[tokio::test]
async fn a_lost_commit_reply_is_undetermined_and_the_transaction_stays_whole() {
    // Either our deadline ends the wait, or the client's.
    for (then, impatient) in [("silence", true), ("unavailable", true), ("unavailable", false)] {
        let server = Server::start();
        let kv = if impatient {
            connect_impatient(server.endpoint()).await
        } else {
            connect(server.endpoint()).await
        };
        server.split_at(&["m"]).await;
        given(&server, &[("a", "old"), ("z", "old")]).await;
        server
            .fault(json!({"rpc": "KvCommit", "fault": {"kind": "lose_reply", "then": then}}))
            .await;
        let begun = Instant::now();
        let outcome = put(kv.as_ref(), &[("a", "new"), ("z", "new")]).await;
        assert!(is_undetermined(&outcome), "{outcome:?}");
        let limit = Duration::from_secs(if impatient { 3 } else { 12 });
        assert!(begun.elapsed() < limit, "the client alone takes far longer");
        server.clear_faults().await;
        let patient = connect(server.endpoint()).await;
        assert_eq!(get(patient.as_ref(), "a").await, Ok(Some("new".into())));
        assert_eq!(get(patient.as_ref(), "z").await, Ok(Some("new".into())), "not torn apart");
    }
}

/// In a one-phase commit, the prewrite is the commit.
#[tokio::test]
async fn a_lost_reply_of_a_one_phase_commit_is_undetermined() {
    let server = Server::start();
    let kv = connect_impatient(server.endpoint()).await;
    server.fault(json!({"rpc": "KvPrewrite", "fault": {"kind": "lose_reply"}})).await;
    let outcome = put(kv.as_ref(), &[("a", "1")]).await;
    assert!(is_undetermined(&outcome), "{outcome:?}");
    server.clear_faults().await;
    let patient = connect(server.endpoint()).await;
    assert_eq!(get(patient.as_ref(), "a").await, Ok(Some("1".into())));
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_undetermined_too() {
    let server = Server::start();
    given(&server, &[("a", "1")]).await;
    server.fault(json!({"rpc": "KvPrewrite", "fault": {"kind": "refuse"}})).await;
    let endpoint = server.endpoint();
    let_die(move || async move {
        let kv = connect_impatient(endpoint).await;
        let outcome = put(kv.as_ref(), &[("a", "2")]).await;
        assert!(is_undetermined(&outcome), "{outcome:?}");
    })
    .await;
    server.clear_faults().await;
    let kv = connect(server.endpoint()).await;
    assert_eq!(get(kv.as_ref(), "a").await, Ok(Some("1".into())));
    assert_eq!(put(kv.as_ref(), &[("a", "3")]).await, Ok(()));
}

/// The client returns these errors to its caller at once.
#[tokio::test]
async fn a_busy_store_is_tried_again_by_reads_and_leaves_commits_undetermined() {
    let server = Server::start();
    let kv = connect(server.endpoint()).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    for kind in ["server_is_busy", "max_timestamp_not_synced"] {
        for rpc in ["KvGet", "KvScan", "KvBatchGet"] {
            server.fault(json!({"rpc": rpc, "count": 4, "fault": {"kind": kind}})).await;
        }
        assert_eq!(get(kv.as_ref(), "a").await, Ok(Some("1".into())));
        let at = kv.timestamp().await.unwrap();
        let mut snapshot = kv.snapshot(at);
        let pair = vec![(b"a".to_vec(), b"1".to_vec())];
        assert_eq!(snapshot.scan(b"a".to_vec()..b"b".to_vec(), 9).await, Ok(pair.clone()));
        assert_eq!(snapshot.batch_get(vec![b"a".to_vec()]).await, Ok(pair));
        server.fault(json!({"rpc": "KvPrewrite", "count": 1, "fault": {"kind": kind}})).await;
        let outcome = put(kv.as_ref(), &[("a", "1")]).await;
        assert!(is_undetermined(&outcome), "{outcome:?}");
        assert_eq!(put(kv.as_ref(), &[("a", "1")]).await, Ok(()));
    }
}

/// The store may fall back to two phases. The client then fails and leaves its locks. With async
/// commit, it would report a commit that never happens.
#[tokio::test]
async fn a_declined_one_phase_commit_fails_for_sure_and_the_next_does_without() {
    let server = Server::start();
    let kv = connect(server.endpoint()).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    server.fault(json!({"rpc": "KvPrewrite", "fault": {"kind": "fall_back"}})).await;
    let outcome = put(kv.as_ref(), &[("a", "2"), ("b", "2")]).await;
    assert!(matches!(outcome, Err(CommitError::Failed(_))), "{outcome:?}");
    let looked = Instant::now();
    assert_eq!(get(kv.as_ref(), "a").await, Ok(Some("1".into())));
    assert!(looked.elapsed() < Duration::from_secs(2), "its locks were left behind");
    assert_eq!(put(kv.as_ref(), &[("a", "3"), ("b", "3")]).await, Ok(()));
    assert_eq!(get(kv.as_ref(), "a").await, Ok(Some("3".into())));
    assert_eq!(get(kv.as_ref(), "b").await, Ok(Some("3".into())));
}

/// Without an acknowledged rollback, the prewrite may still be on its way.
#[tokio::test]
async fn without_an_acknowledged_rollback_a_one_phase_commit_stays_undetermined() {
    let server = Server::start();
    let kv = connect(server.endpoint()).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    server.fault(json!({"rpc": "KvPrewrite", "fault": {"kind": "fall_back"}})).await;
    server.fault(json!({"rpc": "KvBatchRollback", "fault": {"kind": "refuse"}})).await;
    let outcome = put(kv.as_ref(), &[("a", "2")]).await;
    assert!(is_undetermined(&outcome), "{outcome:?}");
}

/// One of several prewrite requests meets a conflict. The locks of the others would stand for
/// seconds.
#[tokio::test]
async fn a_conflict_leaves_no_locks_behind() {
    let server = Server::start();
    let kv = connect(server.endpoint()).await;
    server.split_at(&["m"]).await;
    let mut loser = kv.begin().await.unwrap();
    loser.put(b"a".to_vec(), b"loser".to_vec());
    loser.put(b"z".to_vec(), b"loser".to_vec());
    put(kv.as_ref(), &[("z", "winner")]).await.unwrap();
    assert_eq!(loser.commit().await, Err(CommitError::Conflict));
    let looked = Instant::now();
    assert_eq!(get(kv.as_ref(), "a").await, Ok(None));
    assert!(looked.elapsed() < Duration::from_secs(2), "its locks were left behind");
}

#[tokio::test]
async fn an_address_given_twice_counts_once() {
    let server = Server::start();
    let endpoint = server.endpoint().to_string();
    let twice = TikvConfig::new(vec![endpoint.clone(), endpoint]);
    let kv = TikvKv::connect(twice).await.unwrap();
    assert_eq!(put(kv.as_ref(), &[("a", "1")]).await, Ok(()));
}

/// Runs a writer that dies: its runtime ends, and the client's background work with it.
async fn let_die<F>(writer: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    let died = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(writer());
    });
    died.await.unwrap();
}

/// Leaves the locks of a transaction on "a" and "z", which lie in two regions.
async fn die_committing(server: &Server) {
    server.fault(json!({"rpc": "KvCommit", "fault": {"kind": "refuse"}})).await;
    let endpoint = server.endpoint();
    let_die(move || async move {
        let writer = connect_impatient(endpoint).await;
        let outcome = put(writer.as_ref(), &[("a", "new"), ("z", "new")]).await;
        assert!(is_undetermined(&outcome), "{outcome:?}");
    })
    .await;
    server.clear_faults().await;
}

/// The client's default patience with a lock is half the time for which a dead writer's lock is
/// honoured.
#[tokio::test]
async fn one_read_outlasts_a_dead_writers_lock() {
    let server = Server::start();
    server.split_at(&["m"]).await;
    let reader = connect(server.endpoint()).await;
    given(&server, &[("a", "old"), ("z", "old")]).await;
    die_committing(&server).await;
    let at = reader.timestamp().await.unwrap();
    let seen = reader.snapshot(at).get(b"z").await;
    assert_eq!(seen, Ok(Some(b"old".to_vec())));
}

#[tokio::test]
async fn one_commit_outlasts_a_dead_writers_lock() {
    let server = Server::start();
    server.split_at(&["m"]).await;
    let kv = connect(server.endpoint()).await;
    kv.timestamp().await.unwrap();
    die_committing(&server).await;
    assert_eq!(put(kv.as_ref(), &[("z", "mine")]).await, Ok(()));
}

/// Prewrites only the first of several requests, so that its locks name a primary that was never
/// written.
async fn leave_orphans(server: &Server) {
    server.fault(json!({"rpc": "KvPrewrite", "skip": 1, "fault": {"kind": "refuse"}})).await;
    let endpoint = server.endpoint();
    let_die(move || async move {
        let kv = connect_impatient(endpoint).await;
        let mut txn = kv.begin().await.unwrap();
        // Requests go out in key order, and the primary is in the last one.
        txn.put(b"o/9".to_vec(), b"primary".to_vec());
        for number in 0..8 {
            txn.put(format!("o/{number}").into_bytes(), vec![b'x'; 12_000]);
        }
        let outcome = txn.commit().await;
        assert!(is_undetermined(&outcome), "{outcome:?}");
    })
    .await;
    server.clear_faults().await;
}

#[tokio::test]
async fn an_orphaned_lock_is_cleared_for_a_reader() {
    let server = Server::start();
    leave_orphans(&server).await;
    let kv = connect(server.endpoint()).await;
    let at = kv.timestamp().await.unwrap();
    assert_eq!(kv.snapshot(at).get(b"o/0").await, Ok(None));
}

#[tokio::test]
async fn an_orphaned_lock_is_cleared_for_a_writer() {
    let server = Server::start();
    leave_orphans(&server).await;
    let kv = connect(server.endpoint()).await;
    let begun = Instant::now();
    loop {
        match put(kv.as_ref(), &[("o/0", "mine")]).await {
            Ok(()) => break,
            Err(CommitError::Failed(KvError::Locked)) => sleep(Duration::from_millis(200)).await,
            Err(other) => panic!("{other:?}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "the orphan stands in the way");
    }
    assert_eq!(get(kv.as_ref(), "o/0").await, Ok(Some("mine".into())));
}

#[tokio::test]
async fn a_commit_whose_lock_was_cleared_meanwhile_is_no_success() {
    let server = Server::start();
    let mut config = TikvConfig::new(vec![server.endpoint().to_string()]);
    config.request_timeout_ms = 8_000;
    let slow = TikvKv::connect(config).await.unwrap();
    server.split_at(&["m"]).await;
    given(&server, &[("a", "old"), ("z", "old")]).await;
    let delay = json!({"kind": "latency", "delay": {"fixed": 6000}});
    server.fault(json!({"rpc": "KvCommit", "count": 1, "fault": delay})).await;
    let pairs = [("a", "new"), ("z", "new")];
    let write = put(slow.as_ref(), &pairs);
    let reader = connect(server.endpoint()).await;
    let read = async {
        sleep(Duration::from_millis(200)).await;
        get(reader.as_ref(), "a").await
    };
    let (outcome, seen) = tokio::join!(write, read);
    assert_eq!(seen, Ok(Some("old".into())));
    assert!(is_undetermined(&outcome), "{outcome:?}");
    assert_eq!(get(reader.as_ref(), "z").await, Ok(Some("old".into())));
}

/// The client loses the errors of region lookups, and reports success for a commit of which it sent
/// nothing.
#[tokio::test]
async fn a_commit_that_was_never_sent_is_no_success() {
    let server = Server::start();
    // This client knows no region yet, so both phases look it up.
    let kv = connect_impatient(server.endpoint()).await;
    server.fault(json!({"rpc": "GetRegion", "fault": {"kind": "refuse"}})).await;
    let outcome = put(kv.as_ref(), &[("a", "never sent")]).await;
    assert!(is_undetermined(&outcome), "{outcome:?}");
    server.clear_faults().await;
    let kv = connect(server.endpoint()).await;
    assert_eq!(get(kv.as_ref(), "a").await, Ok(None));
    // This one knows the region, and forgets it when its request fails.
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    server.fault(json!({"rpc": "KvPrewrite", "count": 1, "fault": {"kind": "refuse"}})).await;
    server.fault(json!({"rpc": "GetRegion", "fault": {"kind": "refuse"}})).await;
    let outcome = put(kv.as_ref(), &[("a", "never sent")]).await;
    assert!(outcome.is_err(), "{outcome:?}");
    server.clear_faults().await;
    assert_eq!(get(kv.as_ref(), "a").await, Ok(Some("1".to_owned())));
    assert_eq!(put(kv.as_ref(), &[("a", "2")]).await, Ok(()));
}

/// With the client's defaults, every commit leaves a task that sleeps for ten seconds.
#[tokio::test]
async fn commits_leave_no_tasks_behind() {
    let server = Server::start();
    let kv = connect(server.endpoint()).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for number in 0..100 {
        put(kv.as_ref(), &[("a", "1"), (&number.to_string(), "1")]).await.unwrap();
    }
    sleep(Duration::from_millis(500)).await;
    assert!(tasks() < before + 30, "{before} tasks have become {}", tasks());
}

#[tokio::test]
async fn a_dropped_transaction_panics_nobody() {
    let server = Server::start();
    let kv = connect(server.endpoint()).await;
    let mut txn = kv.begin().await.unwrap();
    txn.put(b"a".to_vec(), b"1".to_vec());
    drop(txn);
    assert_eq!(get(kv.as_ref(), "a").await, Ok(None));
}

/// Versions that an old transaction reads may be collected while it runs.
#[tokio::test]
async fn a_transaction_that_lived_too_long_is_turned_down() {
    let server = Server::start();
    let kv = connect(server.endpoint()).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    let mut txn = kv.begin().await.unwrap();
    txn.put(b"a".to_vec(), b"2".to_vec());
    tokio::time::pause();
    tokio::time::advance(TXN_LIFE_MAX + Duration::from_millis(1)).await;
    tokio::time::resume();
    let outcome = txn.commit().await;
    assert!(matches!(outcome, Err(CommitError::Failed(_))), "{outcome:?}");
    assert_eq!(get(kv.as_ref(), "a").await, Ok(Some("1".into())));
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_before_anything_is_sent() {
    let server = Server::start();
    let kv = connect(server.endpoint()).await;
    for (key, value) in [(vec![b'k'; 9_000], b"v".to_vec()), (b"k".to_vec(), vec![0; 7 << 20])] {
        let mut txn = kv.begin().await.unwrap();
        txn.put(b"first".to_vec(), b"v".to_vec());
        txn.put(key, value);
        let outcome = txn.commit().await;
        assert!(matches!(outcome, Err(CommitError::Failed(KvError::Refused(_)))), "{outcome:?}");
    }
    assert_eq!(get(kv.as_ref(), "first").await, Ok(None));
}
