//! Locks that outlive their client: waiting for them, resolving them, and how they end.

use crate::support::{
    Server, eventually, get, now, optimistic, put as put_key, resolve_all_locks, snapshot_now,
};
use crate::wire::{Wire, bytes, ms, prewrite, put, started};
use bytes::Bytes;
use dev_kv::wire::kvrpcpb::{self, Action};
use std::time::Duration;
use tikv_client::{Error, Timestamp, TimestampExt as _, TransactionClient};

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_for_a_live_lock_and_then_says_so() {
    let (server, client, wire) = started().await;
    let start = now(&client).await;
    let mut request = prewrite(start, vec![put("k", "1")]);
    request.lock_ttl = 60_000;
    wire.send(request).await;
    let status = wire.status("k", start, now(&client).await).await;
    assert_eq!((status.lock_ttl, status.commit_version), (60_000, 0));
    assert_eq!(status.action(), Action::NoAction);
    assert_eq!(status.lock_info.unwrap().lock_version, start);
    let ts = Timestamp::from_version(now(&client).await);
    let mut snapshot = client.snapshot(ts, tikv_client::TransactionOptions::new_optimistic());
    let error = snapshot.get("k".to_owned()).await.unwrap_err();
    assert!(matches!(error, Error::ResolveLockError(_)), "{error:?}");
    wire.commit(&["k"], start, now(&client).await).await.unwrap();
    assert_eq!(get(&client, "k").await.as_deref(), Some("1"));
    server.stop().await;
}

/// Prewrites a transaction whose client then disappears; returns its start timestamp.
async fn crashed(client: &TransactionClient, wire: &Wire, keys: &[&str], ttl_ms: u64) -> u64 {
    let start = now(client).await;
    let mutations = keys.iter().map(|key| put(key, "torn")).collect();
    let mut request = prewrite(start, mutations);
    request.lock_ttl = ttl_ms;
    assert_eq!(wire.send(request).await.errors, []);
    start
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_client_is_rolled_back_once_its_time_is_over() {
    let (server, client, wire) = started().await;
    put_key(&client, "a", "old").await;
    let start = crashed(&client, &wire, &["a", "b"], 300).await;
    assert_eq!(wire.locks().await.len(), 2);
    assert!(wire.get("a", now(&client).await).await.is_err(), "blocked until then");
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(get(&client, "a").await.as_deref(), Some("old"));
    assert_eq!(get(&client, "b").await, None);
    assert_eq!(wire.locks().await, []);
    let error = wire.commit(&["a"], start, now(&client).await).await.unwrap_err();
    assert!(error.retryable.contains("TxnLockNotFound"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_after_the_primary_is_a_commit() {
    let (server, client, wire) = started().await;
    let start = crashed(&client, &wire, &["a", "b"], 60_000).await;
    let commit = now(&client).await;
    wire.commit(&["a"], start, commit).await.unwrap();
    assert_eq!(get(&client, "b").await.as_deref(), Some("torn"));
    assert_eq!(wire.get("b", commit - 1).await, Ok(None));
    assert_eq!(wire.get("b", commit).await, Ok(Some("torn".to_owned())));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secondary_without_a_primary_is_cleaned_up_and_stays_dead() {
    let (server, client, wire) = started().await;
    let start = now(&client).await;
    let mut request = prewrite(start, vec![put("b", "orphan")]);
    request.primary_lock = Bytes::from_static(b"a");
    wire.send(request).await;
    let question = kvrpcpb::CheckTxnStatusRequest {
        context: crate::support::whole(),
        primary_key: Bytes::from_static(b"a"),
        lock_ts: start,
        current_ts: start,
        verify_is_primary: true,
        ..kvrpcpb::CheckTxnStatusRequest::default()
    };
    let status = wire.kv.clone().kv_check_txn_status(question).await.unwrap().into_inner();
    let missing = status.error.unwrap().txn_not_found.unwrap();
    assert_eq!((missing.start_ts, &missing.primary_key[..]), (start, &b"a"[..]));
    resolve_all_locks(&client).await;
    assert_eq!(wire.locks().await, []);
    let errors = wire.refused(start, vec![put("a", "1"), put("b", "orphan")]).await;
    assert_eq!(errors[0].conflict.as_ref().unwrap().reason, 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_the_last_millisecond_of_its_life_a_lock_is_alive() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    let start = ms(1_000);
    wire.prewrite(start, vec![put("k", "1")]).await;
    let status = wire.status("k", start, ms(4_000)).await;
    assert_eq!(status.lock_ttl, 3_000);
    let status = wire.status("k", start, ms(4_001)).await;
    assert_eq!((status.lock_ttl, status.commit_version), (0, 0));
    assert_eq!(status.lock_info, None);
    assert_eq!(status.action(), Action::TtlExpireRollback);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heart_beats_prolong_a_lock_and_miss_a_lost_one() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(ms(1_000), vec![put("k", "1")]).await;
    let beat = async |key: &'static str, advise_lock_ttl| {
        let request = kvrpcpb::TxnHeartBeatRequest {
            context: crate::support::whole(),
            primary_lock: Bytes::from_static(key.as_bytes()),
            start_version: ms(1_000),
            advise_lock_ttl,
        };
        wire.kv.clone().kv_txn_heart_beat(request).await.unwrap().into_inner()
    };
    assert_eq!(beat("k", 9_000).await.lock_ttl, 9_000);
    assert_eq!(beat("k", 5_000).await.lock_ttl, 9_000);
    assert_eq!(wire.status("k", ms(1_000), ms(10_000)).await.lock_ttl, 9_000);
    assert!(beat("lost", 1).await.error.unwrap().txn_not_found.is_some());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_tells_all_about_itself() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    let mut request = prewrite(ms(1_000), vec![put("a", "1"), put("b", "2")]);
    request.use_async_commit = true;
    request.secondaries = bytes(&["b"]);
    request.txn_size = 7;
    let floor = wire.send(request).await.min_commit_ts;
    let locks = wire.locks().await;
    let expected = |key: &'static str, secondaries| kvrpcpb::LockInfo {
        primary_lock: Bytes::from_static(b"a"),
        lock_version: ms(1_000),
        key: Bytes::from_static(key.as_bytes()),
        lock_ttl: 3_000,
        txn_size: 7,
        lock_type: kvrpcpb::Op::Put.into(),
        lock_for_update_ts: 0,
        use_async_commit: true,
        min_commit_ts: floor,
        secondaries,
    };
    assert_eq!(locks, [expected("a", bytes(&["b"])), expected("b", Vec::new())]);
    // The same after a restart, when the locks come from disk.
    let server = server.restart(|_| {}).await;
    let wire = Wire::new(&server).await;
    assert_eq!(wire.locks().await, locks);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scanning_locks_goes_by_pages_and_timestamps() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    for key in 0..30u64 {
        wire.prewrite(ms(1_000 + key), vec![put(&format!("k{key:02}"), "1")]).await;
    }
    let page = async |start: Bytes, max_version| {
        let request = kvrpcpb::ScanLockRequest {
            context: crate::support::whole(),
            max_version,
            start_key: start,
            limit: 8,
            end_key: Bytes::new(),
        };
        wire.kv.clone().kv_scan_lock(request).await.unwrap().into_inner().locks
    };
    let mut seen = Vec::new();
    let mut start = Bytes::new();
    loop {
        let locks = page(start.clone(), ms(1_019)).await;
        let Some(last) = locks.last() else { break };
        start = [&last.key[..], &[0]].concat().into();
        seen.extend(locks.into_iter().map(|lock| lock.key));
    }
    let expected: Vec<_> = (0..20).map(|key| format!("k{key:02}")).collect();
    assert_eq!(seen, expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn resolving_takes_all_locks_of_the_transaction_and_no_other() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(10, vec![put("a", "1"), put("b", "1")]).await;
    wire.prewrite(11, vec![put("c", "1")]).await;
    wire.resolve(10, 20).await;
    assert_eq!(wire.locks().await.len(), 1);
    assert_eq!(wire.get("b", 20).await, Ok(Some("1".to_owned())));
    wire.resolve(11, 0).await;
    assert_eq!(wire.locks().await, []);
    assert_eq!(wire.get("c", 20).await, Ok(None));
    wire.resolve(12, 0).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_names_every_lock_in_its_way() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(10, vec![put("a", "1"), put("b", "1"), put("c", "1")]).await;
    wire.commit(&["a", "b", "c"], 10, 20).await.unwrap();
    wire.prewrite(30, vec![put("b", "2"), put("d", "2")]).await;
    let request = kvrpcpb::ScanRequest {
        context: crate::support::whole(),
        limit: 10,
        version: 40,
        ..kvrpcpb::ScanRequest::default()
    };
    let pairs = wire.kv.clone().kv_scan(request).await.unwrap().into_inner().pairs;
    let seen: Vec<_> = pairs
        .iter()
        .map(|pair| {
            (&pair.key[..], pair.error.as_ref().is_some_and(|error| error.locked.is_some()))
        })
        .collect();
    let expected: [(&[u8], bool); 4] = [(b"a", false), (b"b", true), (b"c", false), (b"d", true)];
    assert_eq!(seen, expected);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_block_nobody_for_longer_than_their_life() {
    let (server, client, wire) = started().await;
    crashed(&client, &wire, &["a", "b", "c"], 500).await;
    let mut snapshot = snapshot_now(&client).await;
    let range = "a".to_owned().."d".to_owned();
    assert_eq!(snapshot.scan(range, 10).await.unwrap().count(), 0);
    let mut txn = client.begin_with_options(optimistic()).await.unwrap();
    txn.put("b".to_owned(), "new").await.unwrap();
    txn.commit().await.unwrap();
    eventually("the locks are gone", async || wire.locks().await.is_empty()).await;
    server.stop().await;
}
