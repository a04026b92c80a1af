//! Injected faults, as the real client meets them.

use crate::support::{Server, eventually, get, http, http_as, now, optimistic, put};
use crate::wire::Wire;
use dev_kv::wire::pdpb::{GetMembersRequest, pd_client::PdClient};
use serde_json::json;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tikv_client::{Config, Error, TransactionClient};
use tokio::net::TcpListener;
use tokio::time::timeout;

async fn write(client: &TransactionClient, key: &str, value: &str) -> tikv_client::Result<()> {
    let mut txn = client.begin_with_options(optimistic()).await?;
    txn.put(key.to_owned(), value.to_owned()).await?;
    txn.commit().await.map(drop)
}

/// A client that gives up early.
async fn impatient(server: &Server) -> TransactionClient {
    let config = Config::default().with_timeout(Duration::from_millis(300));
    TransactionClient::new_with_config(vec![server.address.clone()], config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_leaders_and_stale_commands_are_not_noticed() {
    let server = Server::start().await;
    let client = server.client().await;
    for fault in [
        json!({ "kind": "not_leader", "name_leader": true }),
        json!({ "kind": "not_leader" }),
        json!({ "kind": "stale_command" }),
    ] {
        for rpc in ["KvPrewrite", "KvCommit", "KvGet"] {
            server.fault(json!({ "rpc": rpc, "count": 2, "fault": fault })).await;
        }
        put(&client, "k", &fault.to_string()).await;
        assert_eq!(get(&client, "k").await, Some(fault.to_string()));
    }
    let hits = server.page("/dev-kv/v1/faults").await["hits"].as_u64().unwrap();
    assert_eq!(hits, 18);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_is_the_callers_business() {
    let server = Server::start().await;
    let client = server.client().await;
    for kind in ["server_is_busy", "max_timestamp_not_synced"] {
        let rule = json!({ "rpc": "KvPrewrite", "count": 1, "fault": { "kind": kind } });
        server.fault(rule).await;
        let error = write(&client, "k", "x").await.unwrap_err();
        assert!(format!("{error:?}").contains("RegionError"), "{error:?}");
        write(&client, "k", "x").await.unwrap();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_is_as_long_as_asked_for() {
    let server = Server::start().await;
    let client = server.client().await;
    put(&client, "k", "v").await;
    let read = async || {
        let started = Instant::now();
        get(&client, "k").await;
        started.elapsed()
    };
    let rule = |delay| json!({ "rpc": "KvGet", "fault": { "kind": "latency", "delay": delay } });
    server.fault(rule(json!({ "fixed": 150 }))).await;
    assert!(read().await >= Duration::from_millis(150));
    server.no_faults().await;
    server.fault(rule(json!({ "uniform": [100, 120] }))).await;
    assert!(read().await >= Duration::from_millis(100));
    server.no_faults().await;
    server.fault(rule(json!({ "exponential": 20 }))).await;
    let mut times = Vec::new();
    for _ in 0..30 {
        times.push(read().await);
    }
    let (shortest, longest) = (times.iter().min().unwrap(), times.iter().max().unwrap());
    assert!(*longest > *shortest * 3, "{times:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_hides_a_commit_that_is_there() {
    let server = Server::start().await;
    let client = impatient(&server).await;
    put(&client, "k", "old").await;
    let lost = json!({ "kind": "lose_reply", "then": "silence" });
    server.fault(json!({ "rpc": "KvCommit", "fault": lost })).await;
    let attempt = timeout(Duration::from_secs(1), write(&client, "k", "new"));
    assert!(!matches!(attempt.await, Ok(Ok(()))), "the reply came through");
    server.no_faults().await;
    assert_eq!(get(&client, "k").await.as_deref(), Some("new"));
    server.stop().await;
}

/// A trap of tikv-client 0.4 for its users. When it cuts a prewrite or a commit into requests, it
/// drops errors of looking up regions. Then no request is left, and none has failed. If this test
/// fails, the client is fixed, and commits need no longer be confirmed by reading.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_never_sent_is_called_a_success() {
    let server = Server::start().await;
    let client = server.client().await;
    put(&client, "k", "old").await;
    let mut txn = client.begin_with_options(optimistic()).await.unwrap();
    txn.put("k".to_owned(), "new").await.unwrap();
    server.fault(json!({ "rpc": "KvCommit", "count": 1, "fault": { "kind": "refuse" } })).await;
    server.fault(json!({ "rpc": "GetRegion", "fault": { "kind": "refuse" } })).await;
    let at = txn.commit().await.unwrap().unwrap();
    server.no_faults().await;
    let wire = Wire::new(&server).await;
    let at = tikv_client::TimestampExt::version(&at);
    assert!(wire.get("k", at).await.is_err(), "its lock stands, nothing is committed");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_after_a_lost_reply_has_one_effect() {
    let server = Server::start().await;
    let client = server.client().await;
    let lost = json!({ "kind": "lose_reply" });
    server.fault(json!({ "rpc": "KvPrewrite", "count": 1, "fault": lost })).await;
    let before = now(&client).await;
    let mut txn = client.begin_with_options(optimistic().try_one_pc()).await.unwrap();
    txn.put("k".to_owned(), "v").await.unwrap();
    let commit = txn.commit().await.unwrap().unwrap();
    let commit = tikv_client::TimestampExt::version(&commit);
    assert!(commit > before);
    let wire = Wire::new(&server).await;
    assert_eq!(wire.get("k", commit - 1).await, Ok(None));
    assert_eq!(wire.get("k", commit).await, Ok(Some("v".to_owned())));
    assert_eq!(server.page("/dev-kv/v1/stats").await["history_rows"], json!(0));
    server.stop().await;
}

/// The marker protocol: a repeated operation reads the marker first, so it happens once, whatever
/// became of the first try.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_landing_meets_the_marker_of_the_second_try() {
    let server = Server::start().await;
    let client = impatient(&server).await;
    put(&client, "marker", "none").await;
    put(&client, "balance", "10").await;
    let late = json!({ "kind": "land_late", "delay": { "fixed": 600 }, "then": "silence" });
    server.fault(json!({ "rpc": "KvPrewrite", "count": 1, "fault": late })).await;
    let spend = async || -> tikv_client::Result<bool> {
        let mut txn = client.begin_with_options(optimistic().try_one_pc()).await?;
        let marker = txn.get("marker".to_owned()).await?;
        if marker.as_deref() == Some(&b"spent"[..]) {
            txn.rollback().await?;
            return Ok(false);
        }
        let balance: u64 = String::from_utf8(txn.get("balance".to_owned()).await?.unwrap())
            .unwrap()
            .parse()
            .unwrap();
        txn.put("marker".to_owned(), "spent").await?;
        txn.put("balance".to_owned(), (balance - 1).to_string()).await?;
        txn.commit().await.map(|_| true)
    };
    let first = timeout(Duration::from_millis(100), spend()).await;
    assert!(first.is_err(), "undetermined by then");
    // Tries again at once, and again after the first try has landed or failed.
    eventually("one of them is known", async || spend().await.is_ok()).await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    assert!(!spend().await.unwrap(), "it has happened");
    assert_eq!(get(&client, "balance").await.as_deref(), Some("9"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusing_server_is_back_after_its_time() {
    let server = Server::start().await;
    let client = server.client().await;
    put(&client, "k", "v").await;
    server.fault(json!({ "for_ms": 500, "fault": { "kind": "refuse" } })).await;
    let status = server.kv().await.kv_get(dev_kv::wire::kvrpcpb::GetRequest::default()).await;
    assert_eq!(status.unwrap_err().code(), tonic::Code::Unavailable);
    tokio::time::sleep(Duration::from_millis(600)).await;
    eventually("it serves", async || write(&client, "k", "again").await.is_ok()).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn falling_back_to_two_phases_is_told_by_a_zero() {
    let server = Server::start().await;
    let client = server.client().await;
    server.fault(json!({ "count": 1, "fault": { "kind": "fall_back" } })).await;
    let mut txn = client.begin_with_options(optimistic().try_one_pc()).await.unwrap();
    txn.put("k".to_owned(), "v").await.unwrap();
    let error = txn.commit().await.unwrap_err();
    assert!(matches!(error, Error::OnePcFailure), "{error:?}");
    txn.rollback().await.unwrap();
    assert_eq!(get(&client, "k").await, None);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_commit_timestamp_is_replaced_by_a_later_one() {
    let server = Server::start().await;
    let client = server.client().await;
    server.fault(json!({ "count": 1, "fault": { "kind": "commit_ts_expired" } })).await;
    write(&client, "k", "v").await.unwrap();
    assert_eq!(get(&client, "k").await.as_deref(), Some("v"));
    let faults = server.page("/dev-kv/v1/faults").await;
    assert_eq!((faults["hits"].clone(), faults["rules"].clone()), (json!(1), json!([])));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_hits_as_many_requests_as_it_says() {
    let server = Server::start().await;
    let wire = Wire::new(&server).await;
    let rule = json!({ "rpc": "KvGet", "skip": 2, "count": 3, "fault": { "kind": "refuse" } });
    server.fault(rule).await;
    let request = || dev_kv::wire::kvrpcpb::GetRequest {
        context: crate::support::whole(),
        key: "k".into(),
        version: 1,
    };
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(wire.kv.clone().kv_get(request()).await.is_ok());
    }
    assert_eq!(seen, [true, true, false, false, false, true, true]);
    server.fault(json!({ "probability": 0.5, "fault": { "kind": "refuse" } })).await;
    let mut served = 0;
    for _ in 0..400 {
        served += u32::from(wire.kv.clone().kv_get(request()).await.is_ok());
    }
    assert!((140..=260).contains(&served), "{served} of 400");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_says_nothing_known_is_refused() {
    let server = Server::start().await;
    for rule in [
        json!({ "fault": { "kind": "meteor" } }),
        json!({ "fault": { "kind": "refuse" }, "propability": 1 }),
        json!({}),
    ] {
        let (status, _) = http(&server.address, "POST", "/dev-kv/v1/faults", &rule).await;
        assert!((400..500).contains(&status), "{rule}");
    }
    server.stop().await;
}

/// A website whose name resolves to this machine would make a browser call the server by that name.
#[tokio::test(flavor = "multi_thread")]
async fn on_loopback_another_name_gets_at_no_page() {
    let directory = TempDir::new().unwrap();
    for (bound, other) in [("127.0.0.1:0", 421), ("0.0.0.0:0", 204)] {
        let listener = TcpListener::bind(bound).await.unwrap();
        let server = Server::open_on(listener, &directory.path().join(bound), |_| {});
        let rule = json!({ "rpc": "KvGet", "fault": { "kind": "refuse" } });
        for (host, status) in [
            ("localhost:2379", 204),
            ("127.0.0.1", 204),
            ("[::1]:2379", 204),
            ("evil.example", other),
        ] {
            for (method, body) in [("POST", &rule), ("DELETE", &serde_json::Value::Null)] {
                let path = "/dev-kv/v1/faults";
                let (told, _) = http_as(host, &server.address, method, path, body).await;
                assert_eq!(told, status, "{bound} {host} {method}");
            }
        }
        let read =
            http_as("evil.example", &server.address, "GET", "/pd/api/v1/members", &json!(null));
        assert_eq!(read.await.0, if other == 421 { 421 } else { 200 }, "{bound}");
        server.stop().await;
    }
}

/// The second placement driver of a store has its own listener.
#[tokio::test(flavor = "multi_thread")]
async fn on_loopback_another_name_gets_at_no_page_of_a_further_placement_driver() {
    let server = Server::start_with(two_members).await;
    let address = member_url(&server, 2).await.replace("http://", "");
    let rule = json!({ "rpc": "KvGet", "fault": { "kind": "refuse" } });
    for (host, status) in [("localhost:2379", 204), ("127.0.0.1", 204), ("evil.example", 421)] {
        let told = http_as(host, &address, "POST", "/dev-kv/v1/faults", &rule).await;
        assert_eq!(told.0, status, "{host}");
    }
    server.stop().await;
}

fn two_members(config: &mut dev_kv::Config) {
    config.pd_listen = vec!["127.0.0.1:0".parse().unwrap()];
}

/// Where the placement driver with this number is, counted from 1.
async fn member_url(server: &Server, number: usize) -> String {
    let page = server.page("/dev-kv/v1/members").await;
    page["members"][number - 1]["client_urls"][0].as_str().unwrap().to_owned()
}

/// Whether the placement driver with this number answers a call within half a second.
async fn answers(server: &Server, number: usize) -> bool {
    let mut pd = PdClient::connect(member_url(server, number).await).await.unwrap();
    let call = pd.get_members(GetMembersRequest { header: None });
    timeout(Duration::from_millis(500), call).await.is_ok_and(|answer| answer.is_ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_driver_that_hangs_from_the_start_answers_once_it_no_longer_does() {
    let server = Server::start_with(|config| {
        two_members(config);
        config.pd_hanging = vec![2];
    })
    .await;
    assert!(answers(&server, 1).await);
    assert!(!answers(&server, 2).await, "it hangs");
    server.tell("/dev-kv/v1/members", json!({ "member": 2, "hangs": false })).await;
    assert!(answers(&server, 2).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_driver_that_is_told_to_hang_answers_no_call_and_the_others_go_on() {
    let server = Server::start_with(two_members).await;
    assert!(answers(&server, 1).await);
    server.tell("/dev-kv/v1/members", json!({ "member": 1, "hangs": true })).await;
    assert!(!answers(&server, 1).await, "it hangs");
    assert!(answers(&server, 2).await);
    server.tell("/dev-kv/v1/members", json!({ "member": 1, "hangs": false })).await;
    assert!(answers(&server, 1).await);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_implemented_is_named() {
    let server = Server::start().await;
    let channel = server.channel().await;
    for path in ["/tikvpb.Tikv/Coprocessor", "/pdpb.PD/Bootstrap", "/tikvpb.Tikv/KvGC", "/a.B/C"] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<
            dev_kv::wire::kvrpcpb::GetRequest,
            dev_kv::wire::kvrpcpb::GetResponse,
        >::default();
        let request = tonic::Request::new(dev_kv::wire::kvrpcpb::GetRequest::default());
        let status = grpc.unary(request, path.parse().unwrap(), codec).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unimplemented, "{path}");
        assert!(status.message().contains(path), "{path}: {}", status.message());
    }
    server.stop().await;
}
