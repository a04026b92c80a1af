//! Tests a store that does not answer, or fails again and again: each call ends by its deadline,
//! and the client is replaced.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;
use storage::{
    CommitError, Kv, KvError,
    tikv::{TikvConfig, TikvKv},
};
use tokio::time::{sleep, timeout};

use crate::{proxy::Flow, server::Server, tikv::put};

/// Longest that a call may take.
const CALL: Duration = Duration::from_secs(2);
/// Longest that a step may take: a call, and the time in which a client is replaced.
const SOON: Duration = Duration::from_secs(6);

/// A backend that has connected, whose calls may take this long. The client itself gives up far
/// later.
async fn connect(endpoint: impl ToString, call: Duration) -> Arc<TikvKv> {
    let mut config = TikvConfig::new(vec![endpoint.to_string()]);
    config.request_timeout_ms = 60_000;
    config.call_timeout_ms = u64::try_from(call.as_millis()).unwrap();
    config.timestamp_timeout_ms = 500;
    let kv = TikvKv::connect(config).await.unwrap();
    while kv.timestamp().await.is_err() {
        // Not connected yet.
    }
    kv
}

#[tokio::test]
async fn each_read_of_a_store_that_hangs_ends_by_its_deadline() {
    let server = Server::start();
    let kv = connect(server.endpoint(), CALL).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    let at = kv.timestamp().await.unwrap();
    let hangs = json!({"kind": "latency", "delay": {"fixed": 300_000}});
    for rpc in ["KvGet", "KvBatchGet", "KvScan"] {
        server.fault(json!({"rpc": rpc, "fault": hangs})).await;
    }
    let mut reads = kv.snapshot(at);
    let got = timeout(SOON, reads.get(b"a")).await.map(|got| got.map(drop));
    let got_many = timeout(SOON, reads.batch_get(vec![b"a".to_vec()])).await;
    let scanned = timeout(SOON, reads.scan(b"a".to_vec()..b"b".to_vec(), 9)).await;
    for ended in [got, got_many.map(|got| got.map(drop)), scanned.map(|got| got.map(drop))] {
        assert!(matches!(ended, Ok(Err(KvError::Unavailable(_)))), "{ended:?}");
    }
}

/// Timestamps are not asked for meanwhile: without them, a read is the first to notice.
#[tokio::test]
async fn a_client_whose_reads_get_no_answer_is_replaced() {
    let server = Server::start_behind_proxy().await;
    let kv = connect(server.endpoint(), CALL).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    let at = kv.timestamp().await.unwrap();
    server.proxy().existing(Flow::Hold);
    let ended = timeout(SOON, kv.snapshot(at).get(b"a")).await;
    assert!(matches!(ended, Ok(Err(KvError::Unavailable(_)))), "{ended:?}");
    let begun = Instant::now();
    while kv.snapshot(at).get(b"a").await != Ok(Some(b"1".to_vec())) {
        assert!(begun.elapsed() < SOON, "the client is silent, and was kept");
    }
}

#[tokio::test]
async fn a_client_whose_commit_gets_no_answer_is_replaced() {
    let server = Server::start_behind_proxy().await;
    let kv = connect(server.endpoint(), CALL).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    let mut txn = kv.begin().await.unwrap();
    let at = txn.read_ts();
    txn.put(b"a".to_vec(), b"2".to_vec());
    server.proxy().existing(Flow::Hold);
    let ended = timeout(SOON, txn.commit()).await;
    assert!(matches!(ended, Ok(Err(CommitError::Undetermined(_)))), "{ended:?}");
    // No call meanwhile, as it would have the client replaced as well.
    sleep(Duration::from_secs(3)).await;
    let seen = timeout(CALL / 2, kv.snapshot(at).get(b"a")).await;
    assert_eq!(seen, Ok(Ok(Some(b"1".to_vec()))), "the client is silent, and was kept");
}

#[tokio::test]
async fn a_call_goes_on_with_the_client_that_replaced_its_own() {
    let server = Server::start_behind_proxy().await;
    let kv = connect(server.endpoint(), SOON * 3).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    let at = kv.timestamp().await.unwrap();
    server.proxy().existing(Flow::Hold);
    // The timestamp is missed after half a second. The read alone would wait for its deadline.
    let mut reads = kv.snapshot(at);
    let both = async { tokio::join!(reads.get(b"a"), kv.timestamp()) };
    let (seen, now) = timeout(SOON, both).await.expect("it waits for a client that was replaced");
    assert_eq!(seen, Ok(Some(b"1".to_vec())));
    assert!(now.is_ok(), "{now:?}");
}

/// A new client begins with a search for the leader.
#[tokio::test]
async fn a_client_whose_calls_fail_again_and_again_is_replaced() {
    let server = Server::start();
    let kv = connect(server.endpoint(), CALL).await;
    put(kv.as_ref(), &[("a", "1")]).await.unwrap();
    // Any answer in between would start the count anew, so all begin before the first fails.
    let mut begun = Vec::new();
    for _ in 0..8 {
        begun.push(kv.begin().await.unwrap());
    }
    server.look_out_for("GetMembers").await;
    server.fault(json!({"rpc": "KvPrewrite", "fault": {"kind": "refuse"}})).await;
    for (number, mut txn) in begun.into_iter().enumerate() {
        assert!(!server.was_called("GetMembers").await, "replaced after {number} failures");
        txn.put(format!("k/{number}").into_bytes(), b"1".to_vec());
        let outcome = txn.commit().await;
        assert!(matches!(outcome, Err(CommitError::Undetermined(_))), "{outcome:?}");
    }
    let failed = Instant::now();
    while !server.was_called("GetMembers").await {
        assert!(failed.elapsed() < SOON, "the client failed eight times, and was kept");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The whole collection may take minutes, but not the search for a placement driver.
#[tokio::test]
async fn a_collection_of_garbage_does_not_wait_long_for_a_placement_driver_that_hangs() {
    let server = Server::start();
    let kv = connect(server.endpoint(), CALL).await;
    let at = kv.timestamp().await.unwrap();
    server.member(1, Some(true), false).await;
    let ended = timeout(Duration::from_secs(20), kv.collect_garbage(at)).await;
    assert!(matches!(ended, Ok(Err(KvError::Unavailable(_)))), "{ended:?}");
}
