//! Raw keys, with the real client.

use crate::support::Server;
use std::collections::BTreeMap;
use tikv_client::{Config, RawClient};

async fn raw(server: &Server) -> RawClient {
    RawClient::new(vec![server.address.clone()]).await.unwrap()
}

/// This client's raw scan never ends in the last region if it finds less than its limit. So the
/// tests keep their keys out of that region.
async fn bounded() -> Server {
    let server = Server::start().await;
    server.split(&["~"]).await;
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_keys_are_put_got_scanned_and_deleted() {
    let server = bounded().await;
    let client = raw(&server).await;
    let truth: BTreeMap<String, String> =
        (0..50).map(|key| (format!("r{key:02}"), format!("v{key}"))).collect();
    client.batch_put(truth.clone()).await.unwrap();
    client.put("r50".to_owned(), "v50".to_owned()).await.unwrap();
    assert_eq!(client.get("r50".to_owned()).await.unwrap(), Some(b"v50".to_vec()));
    assert_eq!(client.get("r51".to_owned()).await.unwrap(), None);
    let found = client.batch_get(truth.keys().cloned()).await.unwrap();
    assert_eq!(found.len(), 50);
    client.delete("r50".to_owned()).await.unwrap();
    let scan = async |limit| {
        let pairs = client.scan("r10".to_owned()..="r59".to_owned(), limit).await.unwrap();
        pairs.into_iter().map(|pair| Vec::from(pair.key().clone())).collect::<Vec<_>>()
    };
    assert_eq!(scan(1_000).await.len(), 40);
    assert_eq!(scan(2).await, [b"r10".to_vec(), b"r11".to_vec()]);
    client.delete_range("r20".to_owned().."r30".to_owned()).await.unwrap();
    assert_eq!(scan(1_000).await.len(), 30);
    client.batch_delete(truth.keys().take(20).cloned()).await.unwrap();
    let server = server.restart(|_| {}).await;
    let client = raw(&server).await;
    let left = client.scan_keys("r".to_owned().."s".to_owned(), 1_000).await.unwrap();
    assert_eq!(left.len(), 20);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compare_and_swap_happens_once() {
    let server = Server::start().await;
    let client = raw(&server).await.with_atomic_for_cas();
    let key = || "counter".to_owned();
    let swap = async |previous: Option<&str>, new: &str| {
        let previous = previous.map(|value| value.as_bytes().to_vec());
        client.compare_and_swap(key(), previous, new.as_bytes().to_vec()).await.unwrap()
    };
    assert_eq!(swap(None, "1").await, (None, true));
    assert_eq!(swap(None, "2").await, (Some(b"1".to_vec()), false));
    assert_eq!(swap(Some("1"), "2").await, (Some(b"1".to_vec()), true));
    let racers: Vec<_> = (0..20)
        .map(|racer| {
            let client = client.clone();
            tokio::spawn(async move {
                let new = format!("racer {racer}").into_bytes();
                client.compare_and_swap(key(), Some(b"2".to_vec()), new).await.unwrap().1
            })
        })
        .collect();
    let mut winners = 0;
    for racer in racers {
        winners += usize::from(racer.await.unwrap());
    }
    assert_eq!(winners, 1);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_life_ends() {
    let server = bounded().await;
    let client = raw(&server).await;
    let key = || "short".to_owned();
    client.put_with_ttl(key(), "x".to_owned(), 100).await.unwrap();
    let left = client.get_key_ttl_secs(key()).await.unwrap().unwrap();
    assert!((90..=100).contains(&left), "{left}");
    server.tell("/dev-kv/v1/jump-clock", serde_json::json!({ "by_ms": 101_000 })).await;
    assert_eq!(client.get(key()).await.unwrap(), None);
    assert_eq!(client.get_key_ttl_secs(key()).await.unwrap(), None);
    assert_eq!(client.scan_keys("a".to_owned().."z".to_owned(), 10).await.unwrap(), []);
    client.put(key(), "y".to_owned()).await.unwrap();
    assert_eq!(client.get_key_ttl_secs(key()).await.unwrap(), Some(0), "for ever");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_and_transactional_keys_are_apart() {
    let server = Server::start().await;
    let client = raw(&server).await;
    let transactional = server.client().await;
    client.put("same".to_owned(), "raw".to_owned()).await.unwrap();
    assert_eq!(crate::support::get(&transactional, "same").await, None);
    crate::support::put(&transactional, "same", "txn").await;
    assert_eq!(client.get("same".to_owned()).await.unwrap(), Some(b"raw".to_vec()));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_keys_of_a_keyspace_find_their_regions() {
    let server = Server::start_with(|config| *config = config.clone().with_regions(42)).await;
    let config = Config::default().with_default_keyspace();
    let client = RawClient::new_with_config(vec![server.address.clone()], config).await.unwrap();
    let keys: Vec<Vec<u8>> = (0..=255u8).map(|key| vec![key, 1]).collect();
    client.batch_put(keys.iter().map(|key| (key.clone(), key.clone()))).await.unwrap();
    let found = client.scan_keys(vec![0u8]..vec![0xff, 0xff], 1_000).await.unwrap();
    assert_eq!(found.into_iter().map(Vec::from).collect::<Vec<_>>(), keys);
    server.stop().await;
}
