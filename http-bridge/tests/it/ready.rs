//! Probes.

use std::time::Duration;

use types::Reason;

use crate::shop::{Front, Trouble};

#[tokio::test(start_paused = true)]
async fn a_shop_that_answers_is_ready() {
    let front = Front::new();
    assert_eq!(front.call("GET /healthz").await.text(), "alive");
    assert_eq!(front.call("GET /readyz").await.text(), "ready");
    front.call("GET /readyz").await;
    assert_eq!(front.world.calls("/Check").len(), 4, "the answer is kept for a while");
    tokio::time::sleep(Duration::from_secs(2)).await;
    front.call("GET /readyz").await;
    assert_eq!(front.world.calls("/Check").len(), 8);
}

#[tokio::test(start_paused = true)]
async fn one_replica_of_each_is_enough() {
    let front = Front::new();
    front.world.plan("stock-0", "/Check", Trouble::NoConnection, usize::MAX);
    front.world.plan("order-1", "/Check", Trouble::Silence, usize::MAX);
    assert_eq!(front.call("GET /readyz").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_named() {
    let front = Front::new();
    front.world.plan("stock", "/Check", Trouble::NoConnection, usize::MAX);
    front.world.plan("coordinator", "/Check", Trouble::Say(Reason::Unavailable), usize::MAX);
    let answer = front.call("GET /readyz").await;
    assert_eq!(answer.outcome(), (503, "UNAVAILABLE".to_owned()));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.json()["detail"], "Not ready: stock, coordinator.");
    assert_eq!(front.call("GET /healthz").await.status, 200);
}

#[tokio::test]
async fn a_draining_bridge_is_not_ready_and_says_goodbye() {
    let front = Front::filled();
    assert_eq!(front.call("GET /stock/find/1").await.header("connection"), "");
    front.bridge.drain();
    assert_eq!(front.call("GET /readyz").await.outcome().0, 503);
    assert_eq!(front.call("GET /stock/find/1").await.header("connection"), "close");
}
