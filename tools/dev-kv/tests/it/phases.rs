//! One-phase and async commits, with readers in between.

use crate::support::{Server, get, now, optimistic, resolve_all_locks, snapshot_now};
use crate::wire::{Wire, bytes, ms, prewrite, put, started};
use dev_kv::wire::kvrpcpb;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_one_phase_commit_answers_the_first_timestamp() {
    let (server, client, wire) = started().await;
    let start = now(&client).await;
    let mut request = prewrite(start, vec![put("a", "1"), put("b", "2")]);
    request.try_one_pc = true;
    let first = wire.send(request.clone()).await;
    assert!(first.one_pc_commit_ts > start);
    assert!(first.one_pc_commit_ts < now(&client).await);
    assert_eq!(wire.send(request.clone()).await, first);
    assert_eq!(wire.locks().await, []);
    assert_eq!(wire.get("a", first.one_pc_commit_ts - 1).await, Ok(None));
    assert_eq!(wire.get("b", first.one_pc_commit_ts).await, Ok(Some("2".to_owned())));
    let server = server.restart(|_| {}).await;
    let wire = Wire::new(&server).await;
    assert_eq!(wire.send(request).await, first);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_one_phase_commits_in_two() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut txn = client.begin_with_options(optimistic().try_one_pc()).await.unwrap();
    for key in 0..40 {
        txn.put(format!("wide{key:02}"), vec![1; 1_000]).await.unwrap();
    }
    txn.commit().await.unwrap();
    let mut snapshot = snapshot_now(&client).await;
    let range = "wide".to_owned().."wide~".to_owned();
    assert_eq!(snapshot.scan(range, 100).await.unwrap().count(), 40);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_by_locks_alone_ends_at_the_largest_floor() {
    let (server, client, wire) = started().await;
    let start = now(&client).await;
    let part = |keys: &[&str]| {
        let mut request = prewrite(start, keys.iter().map(|key| put(key, "1")).collect());
        request.primary_lock = "a".into();
        request.use_async_commit = true;
        request.secondaries = bytes(&["b", "c"]);
        request.lock_ttl = 100;
        request
    };
    let first = wire.send(part(&["a"])).await.min_commit_ts;
    let second = wire.send(part(&["b", "c"])).await.min_commit_ts;
    assert!(start < first && first < second);
    let status = wire.status("a", start, u64::MAX).await;
    assert_eq!(status.lock_info.unwrap().secondaries, bytes(&["b", "c"]));
    let question = kvrpcpb::CheckSecondaryLocksRequest {
        context: crate::support::whole(),
        keys: bytes(&["b", "c"]),
        start_version: start,
    };
    let answer = wire.kv.clone().kv_check_secondary_locks(question).await.unwrap().into_inner();
    assert_eq!(answer.locks.len(), 2);
    resolve_all_locks(&client).await;
    assert_eq!(wire.locks().await, []);
    assert_eq!(wire.get("c", second).await, Ok(Some("1".to_owned())));
    assert_eq!(wire.get("c", second - 1).await, Ok(None));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_by_locks_alone_with_a_lock_missing_is_rolled_back() {
    let (server, client, wire) = started().await;
    let start = now(&client).await;
    let mut request = prewrite(start, vec![put("a", "1")]);
    request.use_async_commit = true;
    request.secondaries = bytes(&["b"]);
    wire.send(request).await;
    let question = kvrpcpb::CheckSecondaryLocksRequest {
        context: crate::support::whole(),
        keys: bytes(&["b"]),
        start_version: start,
    };
    let answer = wire.kv.clone().kv_check_secondary_locks(question).await.unwrap().into_inner();
    assert_eq!((answer.locks, answer.commit_ts), (Vec::new(), 0));
    let errors = wire.refused(start, vec![put("b", "1")]).await;
    assert_eq!(errors[0].conflict.as_ref().unwrap().reason, 3);
    wire.resolve(start, 0).await;
    assert_eq!(get(&client, "a").await, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_async_commit_of_the_real_client_is_read_back() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut txn = client.begin_with_options(optimistic().use_async_commit()).await.unwrap();
    for key in ["x", "y", "z"] {
        txn.put(key.to_owned(), key).await.unwrap();
    }
    txn.commit().await.unwrap();
    for key in ["x", "y", "z"] {
        assert_eq!(get(&client, key).await.as_deref(), Some(key));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_below_its_floor_is_told_the_floor() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    let mut request = prewrite(ms(1), vec![put("k", "1")]);
    request.min_commit_ts = ms(9);
    wire.send(request).await;
    let expired = wire.commit(&["k"], ms(1), ms(5)).await.unwrap_err().commit_ts_expired.unwrap();
    assert_eq!((expired.start_ts, expired.attempted_commit_ts), (ms(1), ms(5)));
    assert_eq!((expired.min_commit_ts, &expired.key[..]), (ms(9), &b"k"[..]));
    wire.commit(&["k"], ms(1), ms(9)).await.unwrap();
    server.stop().await;
}

/// A writer commits a counter in two keys, by one-phase and by async commits. Readers take a
/// timestamp and read both keys. The two keys agree, and a later read at the same timestamp sees
/// the same: nothing commits at or below a timestamp after a read there.
#[tokio::test(flavor = "multi_thread")]
async fn no_read_misses_a_commit_below_its_timestamp() {
    const ROUNDS: u64 = 10_000;
    let (server, client, wire) = started().await;
    let done = Arc::new(AtomicU64::new(0));
    let writer = {
        let (wire, client, done) = (wire.clone(), client.clone(), done.clone());
        tokio::spawn(async move {
            let mut round = 0;
            while done.load(Ordering::Relaxed) < ROUNDS {
                round += 1;
                let start = now(&client).await;
                let value = round.to_string();
                let mut request = prewrite(start, vec![put("a", &value), put("b", &value)]);
                request.try_one_pc = round % 2 == 0;
                request.use_async_commit = round % 2 == 1;
                request.secondaries = bytes(&["b"]);
                let answer = wire.send(request).await;
                assert_eq!(answer.errors, []);
                if round % 2 == 1 {
                    wire.commit(&["a", "b"], start, answer.min_commit_ts).await.unwrap();
                }
            }
        })
    };
    let readers: Vec<_> = (0..8)
        .map(|_| {
            let (wire, client, done) = (wire.clone(), client.clone(), done.clone());
            tokio::spawn(async move {
                let mut seen = Vec::new();
                while done.fetch_add(1, Ordering::Relaxed) < ROUNDS {
                    let version = now(&client).await;
                    let (a, b) = tokio::join!(wire.get("a", version), wire.get("b", version));
                    // A lock in the way does not count as an answer.
                    if let (Ok(a), Ok(b)) = (a, b) {
                        assert_eq!(a, b, "torn at {version}");
                        seen.push((version, a));
                    }
                }
                seen
            })
        })
        .collect();
    let mut seen = Vec::new();
    for reader in readers {
        seen.extend(reader.await.unwrap());
    }
    writer.await.unwrap();
    assert!(seen.len() > 1_000, "only {} reads were answered", seen.len());
    for (version, value) in seen {
        assert_eq!(wire.get("a", version).await, Ok(value), "read at {version}");
    }
    server.stop().await;
}
