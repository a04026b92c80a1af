//! Safe points, garbage collection, and erasing ranges.

use crate::support::{Server, eventually, get, now, optimistic, put};
use crate::wire::{Wire, started};
use dev_kv::PdVersion;
use dev_kv::wire::pdpb;
use std::time::{Duration, Instant};
use tikv_client::{Timestamp, TimestampExt as _, TransactionClient};

async fn history_rows(server: &Server) -> u64 {
    server.page("/dev-kv/v1/stats").await["history_rows"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_safe_point_only_rises_and_survives() {
    let server = Server::start().await;
    let raise = async |server: &Server, safe_point| {
        let request = pdpb::UpdateGcSafePointRequest { header: None, safe_point };
        let answer = server.pd().await.update_gc_safe_point(request).await.unwrap();
        answer.into_inner().new_safe_point
    };
    assert_eq!(raise(&server, 100).await, 100);
    assert_eq!(raise(&server, 50).await, 100);
    let server = server.restart(|_| {}).await;
    assert_eq!(raise(&server, 99).await, 100);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_versions_vanish_and_what_can_be_read_stays() {
    let (server, client, wire) = started().await;
    put(&client, "deleted", "x").await;
    for round in 0..20 {
        put(&client, "k", &round.to_string()).await;
    }
    let mut txn = client.begin_with_options(optimistic()).await.unwrap();
    txn.delete("deleted".to_owned()).await.unwrap();
    txn.commit().await.unwrap();
    wire.rollback(&["rolled"], now(&client).await).await.unwrap();
    let safe_point = now(&client).await;
    let middle = put(&client, "k", "after").await;
    put(&client, "k", "last").await;
    assert!(client.gc(Timestamp::from_version(safe_point)).await.unwrap());
    assert!(!client.gc(Timestamp::from_version(safe_point - 1)).await.unwrap());
    // The version in force at the safe point, and the two since.
    eventually("two old versions are left", async || history_rows(&server).await == 2).await;
    assert_eq!(wire.get("k", safe_point).await, Ok(Some("19".to_owned())));
    assert_eq!(wire.get("k", middle).await, Ok(Some("after".to_owned())));
    assert_eq!(get(&client, "k").await.as_deref(), Some("last"));
    assert_eq!(get(&client, "deleted").await, None);
    let server = server.restart(|_| {}).await;
    let wire = Wire::new(&server).await;
    assert_eq!(wire.get("k", safe_point).await, Ok(Some("19".to_owned())));
    assert_eq!(wire.get("deleted", u64::MAX - 1 - (1 << 62)).await.ok().flatten(), None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn erasing_a_range_takes_versions_and_locks_and_nothing_else() {
    let (server, client, wire) = started().await;
    for round in 0..3 {
        for key in 0..30 {
            put(&client, &format!("k{key:02}"), &round.to_string()).await;
        }
    }
    let early = now(&client).await;
    wire.prewrite(early, vec![crate::wire::put("k05", "l"), crate::wire::put("k25", "l")]).await;
    let range = "k00".to_owned().."k20".to_owned();
    client.unsafe_destroy_range(range).await.unwrap();
    let locks = wire.locks().await;
    assert_eq!(locks.len(), 1);
    assert_eq!(&locks[0].key[..], b"k25");
    wire.resolve(early, 0).await;
    for key in 0..30 {
        let name = format!("k{key:02}");
        let expected = (key >= 20).then_some("2");
        assert_eq!(get(&client, &name).await.as_deref(), expected, "{name}");
        let before = wire.get(&name, early - 1).await.unwrap();
        assert_eq!(before.as_deref(), expected, "{name} as of before");
    }
    // The keys can be used again, also after a restart.
    put(&client, "k03", "new").await;
    let server = server.restart(|_| {}).await;
    let client = server.client().await;
    assert_eq!(get(&client, "k03").await.as_deref(), Some("new"));
    assert_eq!(get(&client, "k04").await, None);
    server.stop().await;
}

/// Bytes of a hot key's value. All values written together exceed `TABLES_MAX` several times.
const HOT_VALUE: usize = 512;
const TABLES_MAX: u64 = 2 << 20;

/// Writes each key this many times. Writes of one key are sequential, those of different keys
/// concurrent.
async fn write_often(client: &TransactionClient, keys: usize, rounds: usize) -> Duration {
    let started = Instant::now();
    let writers: Vec<_> = (0..keys)
        .map(|key| {
            let client = client.clone();
            tokio::spawn(async move {
                for round in 0..rounds {
                    let options = optimistic().try_one_pc();
                    let mut txn = client.begin_with_options(options).await.unwrap();
                    let value = vec![u8::try_from(round % 251).unwrap(); HOT_VALUE];
                    txn.put(format!("hot{key}"), value).await.unwrap();
                    txn.commit().await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    started.elapsed()
}

fn number_from(variable: &str) -> Option<usize> {
    std::env::var_os(variable)?.to_str()?.parse().ok()
}

/// Writes some hot keys. `TILL_DEV_KV_HOT_KEYS=1 TILL_DEV_KV_HOT_WRITES=1000000` is the extreme.
#[tokio::test(flavor = "multi_thread")]
async fn hot_keys_neither_slow_down_nor_grow_the_store() {
    const PARTS: usize = 5;
    let writes = number_from("TILL_DEV_KV_HOT_WRITES").unwrap_or(50_000);
    let keys = number_from("TILL_DEV_KV_HOT_KEYS").unwrap_or(32);
    let server = Server::start().await;
    let client = server.client().await;
    let mut times = Vec::new();
    for _ in 0..PARTS {
        times.push(write_often(&client, keys, writes / PARTS / keys).await);
        assert!(client.gc(client.current_timestamp().await.unwrap()).await.unwrap());
        eventually("their old versions are gone", async || {
            history_rows(&server).await <= u64::try_from(keys).unwrap()
        })
        .await;
        let stats = server.page("/dev-kv/v1/stats").await;
        let tables = stats["table_bytes"].as_u64().unwrap();
        assert!(tables < TABLES_MAX, "{tables} bytes of tables after {times:?}");
        assert!(stats["disk_bytes"].as_u64().unwrap() < 400 << 20, "{stats}");
    }
    // Other work shares the machine, so only a large slowdown is a failure.
    assert!(times[PARTS - 1] < times[0] * 3, "it slowed down: {times:?}");
    println!("{writes} writes of {keys} keys: {times:?}");
    server.stop().await;
}

/// Garbage collection in the background delays neither the stop of a server nor the drop of its
/// runtime.
#[test]
fn a_server_may_end_in_the_middle_of_a_collection() {
    for orderly in [true, false, false] {
        let (ended, end) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let server = runtime.block_on(async {
                let server = Server::start().await;
                let client = server.client().await;
                for round in 0..50 {
                    put(&client, "k", &round.to_string()).await;
                }
                let safe_point = now(&client).await;
                let request = pdpb::UpdateGcSafePointRequest { header: None, safe_point };
                server.pd().await.update_gc_safe_point(request).await.unwrap();
                if orderly {
                    server.stop().await;
                    return None;
                }
                Some(server)
            });
            // Removes its directory, as a failing test does.
            drop(server);
            drop(runtime);
            ended.send(()).unwrap();
        });
        assert!(end.recv_timeout(Duration::from_secs(20)).is_ok(), "it hangs");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_calls_of_pd_9_are_not_there_before_9() {
    for (version, text, known) in
        [(PdVersion::V8_5, "8.5.0", false), (PdVersion::V9, "9.0.0", true)]
    {
        let server = Server::start_with(|config| config.pd_version = version).await;
        assert_eq!(server.page("/pd/api/v1/version").await["version"], text);
        let mut pd = server.pd().await;
        let request = pdpb::AdvanceTxnSafePointRequest { header: None, target: 100 };
        let txn = pd.advance_txn_safe_point(request).await.map(drop);
        let request = pdpb::AdvanceGcSafePointRequest { header: None, target: 100 };
        let gc = pd.advance_gc_safe_point(request).await.map(drop);
        for answer in [txn, gc] {
            let code = answer.map_err(|status| status.code());
            let expected = if known { Ok(()) } else { Err(tonic::Code::Unimplemented) };
            assert_eq!(code, expected, "{version:?}");
        }
        server.stop().await;
    }
}
