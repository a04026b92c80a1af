//! Runs the conformance suite on the cluster that `PD_ENDPOINTS` names. It is a separate target
//! that a run of all tests leaves out: without a cluster it could only fail, or pass without a
//! check.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "in a test a panic is the report")]

use storage::{
    SharedKv,
    tikv::{TikvConfig, TikvKv},
};
use testkit::conformance;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_conforms() {
    #[allow(clippy::disallowed_methods, reason = "the one way to hand a cluster to a test")]
    let endpoints = std::env::var("PD_ENDPOINTS").expect("PD_ENDPOINTS must name a cluster");
    let endpoints = endpoints.split(',').map(str::to_owned).collect();
    let kv: SharedKv = TikvKv::connect(TikvConfig::new(endpoints)).await.unwrap();
    let run = kv.timestamp().await.unwrap().0;
    let outcome = conformance::run(kv, format!("\x01it/{run}/").as_bytes()).await;
    assert_eq!(outcome, Ok(()));
}
