//! Several regions: order, limits, wrong epochs, and splits while a client is running.

use crate::support::{Server, get, optimistic, put, snapshot_now, whole};
use crate::wire::Wire;
use bytes::Bytes;
use dev_kv::wire::kvrpcpb;
use serde_json::json;
use std::collections::BTreeMap;
use tikv_client::{BoundRange, Key, TransactionClient};

#[tokio::test(flavor = "multi_thread")]
async fn scans_and_batches_cross_regions_in_order() {
    let server = Server::start().await;
    server.split(&["k02", "k05", "k07"]).await;
    let client = server.client().await;
    let mut txn = client.begin_with_options(optimistic()).await.unwrap();
    for key in 0..10 {
        txn.put(format!("k{key:02}"), "v").await.unwrap();
    }
    txn.commit().await.unwrap();
    let keys = |from: usize, to: usize| -> Vec<Vec<u8>> {
        (from..to).map(|key| format!("k{key:02}").into_bytes()).collect()
    };
    let range = || "k01".to_owned().."k09".to_owned();
    let mut snapshot = snapshot_now(&client).await;
    let scanned = snapshot.scan_keys(range(), 5).await.unwrap();
    assert_eq!(scanned.map(Vec::from).collect::<Vec<_>>(), keys(1, 6));
    let mut snapshot = snapshot_now(&client).await;
    let scanned = snapshot.scan_keys_reverse(range(), 4).await.unwrap();
    let mut backwards = keys(5, 9);
    backwards.reverse();
    assert_eq!(scanned.map(Vec::from).collect::<Vec<_>>(), backwards);
    let mut snapshot = snapshot_now(&client).await;
    let found = snapshot.batch_get(keys(0, 12)).await.unwrap().count();
    assert_eq!(found, 10);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_split_under_a_running_client_is_not_noticed() {
    let server = Server::start().await;
    let client = server.client().await;
    for key in ["a", "m", "z"] {
        put(&client, key, "before").await;
    }
    server.split(&["f", "q"]).await;
    for key in ["a", "m", "z"] {
        assert_eq!(get(&client, key).await.as_deref(), Some("before"));
        put(&client, key, "after").await;
        assert_eq!(get(&client, key).await.as_deref(), Some("after"));
    }
    // The region table survives a restart.
    let server = server.restart(|_| {}).await;
    assert_eq!(server.page("/pd/api/v1/regions").await["count"], json!(3));
    let client = server.client().await;
    assert_eq!(get(&client, "m").await.as_deref(), Some("after"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_may_find_its_region_split() {
    let server = Server::start().await;
    let client = server.client().await;
    server.fault(json!({ "fault": { "kind": "split" }, "probability": 0.3, "count": 20 })).await;
    for round in 0..40 {
        let value = round.to_string();
        let mut txn = client.begin_with_options(optimistic()).await.unwrap();
        for key in ["c", "l", "x"] {
            txn.put(format!("{key}{round:02}"), value.clone()).await.unwrap();
        }
        txn.commit().await.unwrap();
        for key in ["c", "l", "x"] {
            let key = format!("{key}{round:02}");
            assert_eq!(get(&client, &key).await.as_deref(), Some(value.as_str()), "{key}");
        }
    }
    assert!(server.page("/pd/api/v1/regions").await["count"].as_u64().unwrap() > 5);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_region_epoch_store_or_key_is_told_as_such() {
    let server = Server::start().await;
    server.split(&["m"]).await;
    let wire = Wire::new(&server).await;
    let ask = async |change: fn(&mut kvrpcpb::Context), key: &'static str| {
        let mut context = whole().unwrap();
        context.region_epoch.as_mut().unwrap().version = 2;
        change(&mut context);
        let request = kvrpcpb::GetRequest {
            context: Some(context),
            key: Bytes::from_static(key.as_bytes()),
            version: 1,
        };
        wire.kv.clone().kv_get(request).await.unwrap().into_inner().region_error
    };
    assert_eq!(ask(|_| {}, "a").await, None);
    let error = ask(|context| context.region_id = 77, "a").await.unwrap();
    assert_eq!(error.region_not_found.unwrap().region_id, 77);
    let error = ask(|context| context.region_epoch = None, "a").await.unwrap();
    assert_eq!(error.epoch_not_match.unwrap().current_regions.len(), 1);
    let error = ask(|context| context.peer.as_mut().unwrap().store_id = 9, "a").await.unwrap();
    assert_eq!(error.store_not_match.unwrap().actual_store_id, 1);
    let error = ask(|_| {}, "z").await.unwrap().key_not_in_region.unwrap();
    assert_eq!((error.region_id, &error.key[..]), (2, &b"z"[..]));
    assert_eq!(error.end_key, Bytes::from_static(b"m\0\0\0\0\0\0\0\xf8"));
    let request = kvrpcpb::GetRequest::default();
    let error = wire.kv.clone().kv_get(request).await.unwrap().into_inner().region_error.unwrap();
    assert!(error.region_not_found.is_some(), "no context at all");
    server.stop().await;
}

/// Keys that are hard for encodings: zeros, 0xff, lengths around the group of eight, prefixes of
/// each other.
fn hard_keys() -> Vec<Vec<u8>> {
    let mut keys = vec![vec![0], vec![0, 0], vec![0xff], vec![0xff; 8], vec![0xff; 9], vec![0; 8]];
    for length in [1, 6, 7, 8, 9, 15, 16, 17, 24] {
        keys.push(vec![b'q'; length]);
        let mut key = vec![b'q'; length];
        key.push(0);
        keys.push(key.clone());
        key.push(0xff);
        keys.push(key);
    }
    keys
}

async fn check_scans(client: &TransactionClient, truth: &BTreeMap<Vec<u8>, Vec<u8>>) {
    let keys: Vec<&Vec<u8>> = truth.keys().collect();
    let bounds: Vec<Vec<u8>> =
        keys.iter().step_by(4).map(|key| (*key).clone()).chain([vec![0, 0, 1]]).collect();
    for from in &bounds {
        for to in bounds.iter().filter(|to| *to >= from) {
            let within = || truth.range(from.clone()..to.clone());
            let range = || BoundRange::from(Key::from(from.clone())..Key::from(to.clone()));
            for limit in [1, 3, 1_000] {
                let mut snapshot = snapshot_now(client).await;
                let found: Vec<(Vec<u8>, Vec<u8>)> = snapshot
                    .scan(range(), limit)
                    .await
                    .unwrap()
                    .map(|pair| (pair.key().clone().into(), pair.value().clone()))
                    .collect();
                let expected: Vec<_> = within()
                    .take(limit as usize)
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect();
                assert_eq!(found, expected, "{from:?}..{to:?} limit {limit}");
                let mut snapshot = snapshot_now(client).await;
                let found: Vec<Vec<u8>> = snapshot
                    .scan_keys_reverse(range(), limit)
                    .await
                    .unwrap()
                    .map(Into::into)
                    .collect();
                let expected: Vec<_> =
                    within().rev().take(limit as usize).map(|(key, _)| key.clone()).collect();
                assert_eq!(found, expected, "{to:?} down to {from:?} limit {limit}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_are_exact_for_hard_keys_in_memory_on_disk_and_across_regions() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut truth = BTreeMap::new();
    for (number, key) in hard_keys().into_iter().enumerate() {
        let mut txn = client.begin_with_options(optimistic()).await.unwrap();
        txn.put(key.clone(), vec![u8::try_from(number).unwrap()]).await.unwrap();
        txn.commit().await.unwrap();
        truth.insert(key, vec![u8::try_from(number).unwrap()]);
    }
    check_scans(&client, &truth).await;
    server.split(&["q", "qqqqqqqq", "qqqqqqqq\0"]).await;
    check_scans(&client, &truth).await;
    let server = server.restart(|_| {}).await;
    let client = server.client().await;
    check_scans(&client, &truth).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_key_is_a_key() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    wire.prewrite(10, vec![crate::wire::put("", "empty")]).await;
    wire.commit(&[""], 10, 20).await.unwrap();
    assert_eq!(wire.get("", 20).await, Ok(Some("empty".to_owned())));
    let server = server.restart(|_| {}).await;
    let wire = Wire::new(&server).await;
    assert_eq!(wire.get("", 20).await, Ok(Some("empty".to_owned())));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pd_answers_http_on_the_same_port() {
    let server = Server::start_with(|config| *config = config.clone().with_regions(8)).await;
    let regions = server.page("/pd/api/v1/regions").await;
    assert_eq!(regions["count"], json!(8));
    assert_eq!(regions["regions"].as_array().unwrap().len(), 8);
    let stores = server.page("/pd/api/v1/stores").await;
    assert_eq!(stores["stores"][0]["store"]["address"], json!(server.address));
    assert!(server.page("/pd/api/v1/version").await["version"].is_string());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keyspace_has_a_name_and_keys_of_its_own() {
    let server =
        Server::start_with(|config| config.keyspaces = vec!["one".into(), "two".into()]).await;
    let connect = async |name: &str| {
        let config = tikv_client::Config::default().with_keyspace(name);
        TransactionClient::new_with_config(vec![server.address.clone()], config).await
    };
    let (one, two) = (connect("one").await.unwrap(), connect("two").await.unwrap());
    put(&one, "k", "of one").await;
    assert_eq!(get(&one, "k").await.as_deref(), Some("of one"));
    assert_eq!(get(&two, "k").await, None);
    let error = connect("three").await.map(drop).unwrap_err();
    assert!(matches!(error, tikv_client::Error::KeyspaceNotFound(_)), "{error:?}");
    server.stop().await;
}
