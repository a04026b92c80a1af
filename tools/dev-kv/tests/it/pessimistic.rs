//! Pessimistic transactions with the real client.

use crate::support::{Server, get, pessimistic, put, whole};
use crate::wire::{Wire, bytes, ms, mutation, started};
use dev_kv::wire::kvrpcpb::{self, Op, write_conflict::Reason};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn the_second_locker_waits_for_the_first() {
    let server = Server::start().await;
    let client = server.client().await;
    put(&client, "k", "0").await;
    let mut first = client.begin_with_options(pessimistic()).await.unwrap();
    assert_eq!(first.get_for_update("k".to_owned()).await.unwrap(), Some(b"0".to_vec()));
    let second = {
        let client = client.clone();
        tokio::spawn(async move {
            let mut second = client.begin_with_options(pessimistic()).await.unwrap();
            let value = second.get_for_update("k".to_owned()).await;
            (value, Instant::now(), second.rollback().await)
        })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    let released = Instant::now();
    first.rollback().await.unwrap();
    let (value, got, rolled_back) = second.await.unwrap();
    assert_eq!(value.unwrap(), Some(b"0".to_vec()));
    assert!(got >= released);
    rolled_back.unwrap();
    assert_eq!(Wire::new(&server).await.locks().await, []);
    server.stop().await;
}

fn lock(start: u64, for_update: u64, keys: &[&str]) -> kvrpcpb::PessimisticLockRequest {
    kvrpcpb::PessimisticLockRequest {
        context: whole(),
        mutations: keys.iter().map(|key| mutation(Op::PessimisticLock, key, "")).collect(),
        primary_lock: bytes(&keys[..1])[0].clone(),
        start_version: start,
        lock_ttl: 20_000,
        for_update_ts: for_update,
        wait_timeout: -1,
        return_values: true,
        ..kvrpcpb::PessimisticLockRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_since_the_asked_timestamp_is_a_conflict() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(10, vec![crate::wire::put("k", "1")]).await;
    wire.commit(&["k"], 10, 20).await.unwrap();
    let take =
        async |request| wire.kv.clone().kv_pessimistic_lock(request).await.unwrap().into_inner();
    let refused = take(lock(15, 15, &["k"])).await;
    let conflict = refused.errors[0].conflict.clone().unwrap();
    assert_eq!(conflict.reason(), Reason::PessimisticRetry);
    assert_eq!(conflict.conflict_commit_ts, 20);
    let taken = take(lock(15, 20, &["k"])).await;
    assert_eq!(taken.errors, []);
    assert!(take(lock(16, 20, &["k"])).await.errors[0].locked.is_some());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_and_absences_come_in_the_order_of_the_keys() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(10, vec![crate::wire::put("a", "1"), crate::wire::put("e", "")]).await;
    wire.commit(&["a", "e"], 10, 20).await.unwrap();
    let request = lock(30, 30, &["e", "missing", "a"]);
    let taken = wire.kv.clone().kv_pessimistic_lock(request).await.unwrap().into_inner();
    assert_eq!(taken.not_founds, [false, true, false]);
    assert_eq!(taken.values, bytes(&["", "", "1"]));
    let mut without = lock(30, 31, &["a"]);
    without.return_values = false;
    let taken = wire.kv.clone().kv_pessimistic_lock(without).await.unwrap().into_inner();
    assert!(taken.values.is_empty() && taken.not_founds.is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_a_lock_is_bounded() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    let take =
        async |request| wire.kv.clone().kv_pessimistic_lock(request).await.unwrap().into_inner();
    take(lock(ms(10), ms(10), &["k"])).await;
    let mut patient = lock(ms(11), ms(11), &["k"]);
    patient.wait_timeout = 200;
    let started = Instant::now();
    assert!(take(patient).await.errors[0].locked.is_some());
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(200) && waited < Duration::from_millis(900));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_pessimistic_lock_gives_way_and_its_owner_cannot_commit() {
    let server = Server::start().await;
    let client = server.client().await;
    put(&client, "k", "0").await;
    let mut slow = client.begin_with_options(pessimistic()).await.unwrap();
    slow.put("k".to_owned(), "slow").await.unwrap();
    // Moves the clock past the lock's life.
    server.tell("/dev-kv/v1/jump-clock", serde_json::json!({ "by_ms": 25_000 })).await;
    let mut fast = client.begin_with_options(pessimistic()).await.unwrap();
    fast.put("k".to_owned(), "fast").await.unwrap();
    fast.commit().await.unwrap();
    slow.commit().await.unwrap_err();
    assert_eq!(get(&client, "k").await.as_deref(), Some("fast"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_pessimistic_transactions_leave_no_locks() {
    let (server, client, wire) = started().await;
    let mut txn = client.begin_with_options(pessimistic()).await.unwrap();
    txn.put("a".to_owned(), "1").await.unwrap();
    txn.delete("b".to_owned()).await.unwrap();
    txn.insert("c".to_owned(), "1").await.unwrap();
    txn.lock_keys(["d".to_owned()]).await.unwrap();
    txn.commit().await.unwrap();
    let mut txn = client.begin_with_options(pessimistic()).await.unwrap();
    txn.put("a".to_owned(), "2").await.unwrap();
    txn.insert("c".to_owned(), "2").await.unwrap_err();
    txn.rollback().await.unwrap();
    crate::support::eventually("no locks", async || wire.locks().await.is_empty()).await;
    assert_eq!(get(&client, "a").await.as_deref(), Some("1"));
    server.stop().await;
}
