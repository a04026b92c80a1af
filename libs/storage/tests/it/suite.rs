//! Runs the conformance suite on the TiKV backend over the development server, with and without
//! faults.

use std::{sync::Arc, time::Instant};

use serde_json::json;
use storage::{
    SharedKv,
    tikv::{TikvConfig, TikvKv},
};
use testkit::conformance::CASES;

use crate::{server::Server, tikv::connect};

async fn run_cases(kv: &SharedKv, cases: &[&str]) {
    for case in CASES.iter().filter(|case| cases.is_empty() || cases.contains(&case.name)) {
        let prefix = format!("it/{}/", case.name);
        let begun = Instant::now();
        let outcome = case.run(Arc::clone(kv), prefix.as_bytes()).await;
        eprintln!("{} took {:?}", case.name, begun.elapsed());
        assert_eq!(outcome, Ok(()), "{}", case.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_development_server_conforms() {
    let server = Server::start();
    let kv: SharedKv = connect(server.endpoint()).await;
    run_cases(&kv, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_conforms_while_leaders_change() {
    let server = Server::start();
    let kv: SharedKv = connect(server.endpoint()).await;
    for rpc in ["KvGet", "KvBatchGet", "KvScan"] {
        for (probability, fault) in leader_faults() {
            server.fault(json!({"rpc": rpc, "probability": probability, "fault": fault})).await;
        }
    }
    run_cases(&kv, &[]).await;
}

/// Reads succeed in spite of these faults. A commit that meets one is undetermined.
fn leader_faults() -> [(f64, serde_json::Value); 3] {
    [
        (0.05, json!({"kind": "not_leader", "name_leader": true})),
        (0.05, json!({"kind": "not_leader"})),
        (0.05, json!({"kind": "stale_command"})),
    ]
}

/// Whatever happens to commits, their markers settle them: nothing is lost, and nothing happens
/// twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_settle_undetermined_commits() {
    let server = Server::start();
    let mut config = TikvConfig::new(vec![server.endpoint().to_string()]);
    config.request_timeout_ms = 300;
    config.call_timeout_ms = 3_000;
    let kv: SharedKv = TikvKv::connect(config).await.unwrap();
    let late = json!({"kind": "land_late", "delay": {"uniform": [100, 1500]}});
    for rpc in ["KvPrewrite", "KvCommit"] {
        for (probability, fault) in [
            (0.05, json!({"kind": "lose_reply"})),
            (0.02, json!({"kind": "lose_reply", "then": "silence"})),
            (0.05, late.clone()),
            (0.05, json!({"kind": "refuse"})),
            (0.05, json!({"kind": "server_is_busy"})),
            (0.02, json!({"kind": "max_timestamp_not_synced"})),
        ]
        .into_iter()
        .chain(leader_faults())
        .chain([(0.02, json!({"kind": "split"}))])
        {
            let rule = json!({"rpc": rpc, "probability": probability, "fault": fault});
            server.fault(rule).await;
        }
    }
    let cases = ["racing_increments_lose_none", "an_undetermined_commit_is_settled_by_its_marker"];
    run_cases(&kv, &cases).await;
}
