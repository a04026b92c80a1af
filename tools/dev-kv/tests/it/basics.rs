//! The basic operations of every client.

use crate::support::{Server, get, now, optimistic, put, snapshot_now};
use dev_kv::wire::pdpb;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_read_from_its_timestamp_on() {
    let server = Server::start().await;
    let client = server.client().await;
    let first = put(&client, "a", "1").await;
    let second = put(&client, "a", "2").await;
    let at = |ts: u64| {
        let ts = tikv_client::TimestampExt::from_version(ts);
        client.snapshot(ts, optimistic())
    };
    let read = async |ts: u64| at(ts).get("a".to_owned()).await.unwrap();
    assert_eq!(read(first - 1).await, None);
    assert_eq!(read(first).await, Some(b"1".to_vec()));
    assert_eq!(read(second - 1).await, Some(b"1".to_vec()));
    assert_eq!(read(second).await, Some(b"2".to_vec()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_not_an_empty_value() {
    let server = Server::start().await;
    let client = server.client().await;
    put(&client, "empty", "").await;
    assert_eq!(get(&client, "empty").await, Some(String::new()));
    assert_eq!(get(&client, "missing").await, None);
    let mut snapshot = snapshot_now(&client).await;
    let pairs: Vec<_> =
        snapshot.batch_get(["empty".to_owned(), "missing".to_owned()]).await.unwrap().collect();
    assert_eq!(pairs.len(), 1);
    assert!(pairs[0].value().is_empty());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_phase_commits_are_one_request_and_leave_no_locks() {
    let server = Server::start().await;
    let client = server.client().await;
    let before = now(&client).await;
    let counted = async || server.page("/dev-kv/v1/stats").await["traffic"].clone();
    let traffic = counted().await;
    let mut txn = client.begin_with_options(optimistic().try_one_pc()).await.unwrap();
    for key in 0..150u32 {
        txn.put(key.to_be_bytes().to_vec(), b"x".to_vec()).await.unwrap();
    }
    let commit = txn.commit().await.unwrap().unwrap();
    assert!(tikv_client::TimestampExt::version(&commit) > before);
    let grown = counted().await;
    let grew = |name: &str| grown[name].as_u64().unwrap() - traffic[name].as_u64().unwrap();
    assert_eq!(grew("transactions"), 1);
    assert_eq!((grew("one_phase_commits"), grew("mutations")), (1, 150));
    assert_eq!(grown["requests"]["KvCommit"], traffic["requests"]["KvCommit"]);
    let mut snapshot = snapshot_now(&client).await;
    let range = 0u32.to_be_bytes().to_vec()..1_000u32.to_be_bytes().to_vec();
    assert_eq!(snapshot.scan(range, 1_000).await.unwrap().count(), 150);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_data_cluster_and_clients() {
    let server = Server::start().await;
    let client = server.client().await;
    put(&client, "kept", "yes").await;
    let before = now(&client).await;
    let cluster_id = async |server: &Server| {
        let request = pdpb::GetMembersRequest::default();
        let members = server.pd().await.get_members(request).await.unwrap().into_inner();
        members.header.unwrap().cluster_id
    };
    let cluster = cluster_id(&server).await;
    let server = server.restart(|_| {}).await;
    assert_eq!(cluster_id(&server).await, cluster);
    // The old client notices the restart and goes on.
    for _ in 0..40 {
        if client.current_timestamp().await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    }
    assert!(now(&client).await > before);
    assert_eq!(get(&client, "kept").await.as_deref(), Some("yes"));
    server.stop().await;
}
