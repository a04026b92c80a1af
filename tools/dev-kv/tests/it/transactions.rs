//! Optimistic transactions: conflicts, repetitions, rollbacks, sizes.

use crate::support::{Server, get, optimistic, put as put_key, snapshot_now};
use crate::wire::{Wire, mutation, prewrite, put};
use dev_kv::wire::kvrpcpb::{Op, write_conflict::Reason};
use tikv_client::{Error, TransactionClient};

/// Whether the error, or one of those it consists of, is a key error of this kind.
fn tells(error: &Error, kind: fn(&tikv_client::ProtoKeyError) -> bool) -> bool {
    if let Error::MultipleKeyErrors(errors) | Error::ExtractedErrors(errors) = error {
        return errors.iter().any(|error| tells(error, kind));
    }
    matches!(error, Error::KeyError(error) if kind(error))
}

fn conflict(error: &Error) -> bool {
    tells(error, |error| error.conflict.is_some())
}

fn already_exists(error: &Error) -> bool {
    tells(error, |error| error.already_exist.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_writers_of_a_key_the_first_wins() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut first = client.begin_with_options(optimistic()).await.unwrap();
    let mut second = client.begin_with_options(optimistic()).await.unwrap();
    first.put("k".to_owned(), "first").await.unwrap();
    second.put("k".to_owned(), "second").await.unwrap();
    first.commit().await.unwrap();
    let error = second.commit().await.unwrap_err();
    assert!(conflict(&error), "{error:?}");
    second.rollback().await.unwrap();
    assert_eq!(get(&client, "k").await.as_deref(), Some("first"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_names_both_transactions() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(10, vec![put("k", "1")]).await;
    wire.commit(&["k"], 10, 20).await.unwrap();
    let errors = wire.refused(15, vec![put("a", ""), put("k", "2")]).await;
    let conflict = errors[0].conflict.clone().unwrap();
    assert_eq!((conflict.start_ts, conflict.conflict_ts), (15, 10));
    assert_eq!(conflict.conflict_commit_ts, 20);
    assert_eq!((&conflict.key[..], &conflict.primary[..]), (&b"k"[..], &b"a"[..]));
    assert_eq!(conflict.reason(), Reason::Optimistic);
    assert!(errors[0].retryable.contains("WriteConflict"));
    assert_eq!(wire.locks().await, []);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_key_and_a_written_one_exclude_each_other() {
    let server = Server::start().await;
    let client = server.client().await;
    put_key(&client, "k", "0").await;
    let mut reader = client.begin_with_options(optimistic()).await.unwrap();
    reader.lock_keys(["k".to_owned()]).await.unwrap();
    reader.put("other".to_owned(), "x").await.unwrap();
    put_key(&client, "k", "1").await;
    assert!(conflict(&reader.commit().await.unwrap_err()));
    server.stop().await;
}

async fn insert(client: &TransactionClient, key: &str) -> Result<(), Error> {
    let mut txn = client.begin_with_options(optimistic()).await?;
    txn.insert(key.to_owned(), "inserted").await?;
    txn.commit().await.map(drop)
}

async fn delete(client: &TransactionClient, key: &str) {
    let mut txn = client.begin_with_options(optimistic()).await.unwrap();
    txn.delete(key.to_owned()).await.unwrap();
    txn.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_succeeds_only_where_nothing_is() {
    let server = Server::start().await;
    let client = server.client().await;
    insert(&client, "new").await.unwrap();
    assert!(already_exists(&insert(&client, "new").await.unwrap_err()));
    delete(&client, "new").await;
    assert_eq!(get(&client, "new").await, None);
    insert(&client, "new").await.unwrap();
    // An insert and a delete in one transaction become "must not exist".
    let mut txn = client.begin_with_options(optimistic()).await.unwrap();
    txn.insert("new".to_owned(), "again").await.unwrap();
    txn.delete("new".to_owned()).await.unwrap();
    assert!(already_exists(&txn.commit().await.unwrap_err()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_fifteen_megabytes_commits() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut txn = client.begin_with_options(optimistic()).await.unwrap();
    for key in 0..1_000u32 {
        txn.put(format!("big{key:04}"), vec![7; 15_000]).await.unwrap();
    }
    txn.commit().await.unwrap();
    for from in (0..1_000u32).step_by(100) {
        let mut snapshot = snapshot_now(&client).await;
        let keys = (from..from + 100).map(|key| format!("big{key:04}"));
        let pairs: Vec<_> = snapshot.batch_get(keys).await.unwrap().collect();
        assert_eq!(pairs.len(), 100);
        assert!(pairs.iter().all(|pair| pair.value().len() == 15_000));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_keys_of_a_transaction_appear_at_one_timestamp() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut txn = client.begin_with_options(optimistic()).await.unwrap();
    for key in 0..500u32 {
        txn.put(format!("many{key:04}"), vec![1; 250]).await.unwrap();
    }
    let commit = txn.commit().await.unwrap().unwrap();
    let commit = tikv_client::TimestampExt::version(&commit);
    let count = async |ts: u64| {
        let ts = tikv_client::TimestampExt::from_version(ts);
        let mut snapshot = client.snapshot(ts, optimistic());
        let range = "many".to_owned().."many~".to_owned();
        snapshot.scan(range, 1_000).await.unwrap().count()
    };
    assert_eq!(count(commit).await, 500);
    assert_eq!(count(commit - 1).await, 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_prewrite_is_one_lock_and_a_late_one_is_none() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(10, vec![put("k", "1")]).await;
    wire.prewrite(10, vec![put("k", "1")]).await;
    assert_eq!(wire.locks().await.len(), 1);
    wire.commit(&["k"], 10, 20).await.unwrap();
    wire.prewrite(10, vec![put("k", "1")]).await;
    assert_eq!(wire.locks().await, []);
    assert_eq!(wire.get("k", 20).await, Ok(Some("1".to_owned())));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_rollback_neither_prewrite_nor_commit_succeed() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.rollback(&["k"], 10).await.unwrap();
    let errors = wire.refused(10, vec![put("k", "1")]).await;
    assert_eq!(errors[0].conflict.as_ref().unwrap().reason(), Reason::SelfRolledBack);
    let error = wire.commit(&["k"], 10, 20).await.unwrap_err();
    assert!(error.retryable.contains("TxnLockNotFound"), "{error:?}");
    let error = wire.commit(&["other"], 11, 20).await.unwrap_err();
    assert!(error.retryable.contains("TxnLockNotFound"), "never prewritten: {error:?}");
    // The rollback outlives the process.
    let server = server.restart(|_| {}).await;
    let wire = Wire::new(&server).await;
    let errors = wire.refused(10, vec![put("k", "1")]).await;
    assert_eq!(errors[0].conflict.as_ref().unwrap().reason(), Reason::SelfRolledBack);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_commit_succeeds_and_one_before_its_start_aborts() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(10, vec![put("k", "1")]).await;
    let error = wire.commit(&["k"], 10, 10).await.unwrap_err();
    assert!(!error.abort.is_empty());
    wire.commit(&["k"], 10, 20).await.unwrap();
    wire.commit(&["k"], 10, 20).await.unwrap();
    wire.commit(&["k"], 10, 30).await.unwrap();
    assert_eq!(wire.get("k", 19).await, Ok(None));
    assert_eq!(wire.get("k", 20).await, Ok(Some("1".to_owned())));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_with_one_lost_lock_commits_nothing() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(10, vec![put("a", "1"), put("b", "2")]).await;
    wire.commit(&["a", "b", "c"], 10, 20).await.unwrap_err();
    assert_eq!(wire.locks().await.len(), 2);
    assert!(wire.get("a", 30).await.unwrap_err().locked.is_some());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_not_rolled_back() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(10, vec![put("a", "1"), put("b", "2")]).await;
    wire.commit(&["a"], 10, 20).await.unwrap();
    let error = wire.rollback(&["b", "a"], 10).await.unwrap_err();
    assert!(error.abort.contains("Committed"), "{error:?}");
    assert_eq!(wire.get("a", 20).await, Ok(Some("1".to_owned())));
    assert_eq!(wire.locks().await.len(), 1, "the other key is left as it was");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_must_not_exist_is_only_checked() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    let check = || vec![put("p", "1"), mutation(Op::CheckNotExists, "k", "")];
    let response = wire.send(prewrite(10, check())).await;
    assert_eq!(response.errors, []);
    assert_eq!(wire.locks().await.len(), 1);
    wire.commit(&["p"], 10, 11).await.unwrap();
    wire.prewrite(20, vec![put("k", "1")]).await;
    wire.commit(&["k"], 20, 21).await.unwrap();
    let errors = wire.refused(30, check()).await;
    assert_eq!(&errors[0].already_exist.as_ref().unwrap().key[..], b"k");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_order_commits_of_a_careless_client_keep_their_places() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(10, vec![put("k", "late")]).await;
    wire.commit(&["k"], 10, 50).await.unwrap();
    // A pessimistic prewrite without the check may commit below an existing record.
    let mut request = prewrite(12, vec![put("k", "early")]);
    request.for_update_ts = 12;
    assert_eq!(wire.send(request).await.errors, []);
    wire.commit(&["k"], 12, 20).await.unwrap();
    assert_eq!(wire.get("k", 20).await, Ok(Some("early".to_owned())));
    assert_eq!(wire.get("k", 49).await, Ok(Some("early".to_owned())));
    assert_eq!(wire.get("k", 50).await, Ok(Some("late".to_owned())));
    server.stop().await;
}
