//! Tests the record of the store's layout: the first replica writes it, and the others obey it.

use std::sync::Arc;

use storage::{
    Key, Kv as _, KvError, codec,
    keys::{Kind, Space},
    record,
    schema::{SHARDS_DEFAULT, Schema, SchemaError, VERSION, open, open_when_there, read},
};
use testkit::mem::{Chaos, ChaosRates, MemKv};
use tokio::task::JoinSet;
use types::Timestamp;

fn key() -> Key {
    Space::STORE.record(Kind::Schema, b"")
}

async fn write(kv: &MemKv, found: record::Schema) {
    let mut txn = kv.begin().await.unwrap();
    txn.put(key(), codec::encode(&found));
    txn.commit().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_first_one_decides_and_the_others_follow() {
    let kv = MemKv::default();
    let schema = open(&kv, None).await.unwrap();
    assert_eq!(schema.shards, SHARDS_DEFAULT);
    assert_eq!(open(&kv, Some(SHARDS_DEFAULT)).await, Ok(schema));
    assert_eq!(
        open(&kv, Some(8)).await,
        Err(SchemaError::Shards { found: SHARDS_DEFAULT, wanted: 8 })
    );
    assert_eq!(kv.stats().commits, 1, "the record is written once");
}

#[tokio::test(start_paused = true)]
async fn racing_replicas_agree_in_chaos() {
    for seed in 0..200 {
        let calm = MemKv::default();
        let kv = calm.with_faults(Arc::new(Chaos::new(seed, ChaosRates::default())));
        let mut replicas = JoinSet::new();
        for _ in 0..4 {
            let kv = kv.clone();
            replicas.spawn(async move { open_when_there(&kv, Some(8)).await });
        }
        let mut first = None;
        for outcome in replicas.join_all().await {
            let schema = outcome.unwrap();
            assert_eq!((schema.shards, *first.get_or_insert(schema)), (8, schema), "SEED={seed}");
        }
        assert_eq!(calm.stats().commits, 1, "SEED={seed}: the record is written once");
    }
}

#[tokio::test(start_paused = true)]
async fn an_older_layout_becomes_this_one_and_keeps_its_shards() {
    let kv = MemKv::default();
    write(&kv, record::Schema { version: 1, shards: 7, created_ts: 0 }).await;
    assert_eq!(read(&kv).await, Ok(Some(Schema { shards: 7, created: Timestamp(0) })));
    assert_eq!(open(&kv, Some(8)).await, Err(SchemaError::Shards { found: 7, wanted: 8 }));
    assert_eq!(kv.stats().commits, 1, "who contradicts the data changes nothing");
    for commits in [2, 2] {
        let schema = open(&kv, None).await.unwrap();
        assert!(schema.shards == 7 && schema.created > Timestamp(0), "{schema:?}");
        assert_eq!(kv.stats().commits, commits);
    }
    let stands = kv.begin().await.unwrap().get(&key()).await.unwrap().unwrap();
    let stands: record::Schema = codec::decode(&key(), &stands).unwrap();
    assert_eq!((stands.version, stands.shards), (VERSION, 7));
}

#[tokio::test(start_paused = true)]
async fn a_newer_layout_is_refused() {
    let kv = MemKv::default();
    write(&kv, record::Schema { version: VERSION + 1, shards: 16, created_ts: 1 }).await;
    assert_eq!(open(&kv, None).await, Err(SchemaError::Newer { found: VERSION + 1 }));
    assert_eq!(open_when_there(&kv, None).await, Err(SchemaError::Newer { found: VERSION + 1 }));
}

#[tokio::test(start_paused = true)]
async fn an_impossible_number_of_shards_is_refused() {
    let kv = MemKv::default();
    assert_eq!(open(&kv, Some(0)).await, Err(SchemaError::OutOfRange(0)));
    assert_eq!(open(&kv, Some(4_097)).await, Err(SchemaError::OutOfRange(4_097)));
    write(&kv, record::Schema { version: VERSION, shards: 70_000, created_ts: 1 }).await;
    assert_eq!(open(&kv, None).await, Err(SchemaError::OutOfRange(70_000)));
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_is_corrupt_not_absent() {
    let kv = MemKv::default();
    let mut txn = kv.begin().await.unwrap();
    txn.put(key(), vec![9, 9, 9]);
    txn.commit().await.unwrap();
    assert!(matches!(open(&kv, None).await, Err(SchemaError::Kv(KvError::Corrupt { .. }))));
}
