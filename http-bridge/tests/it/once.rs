//! Request ids: a repeated call takes effect once.

use crate::shop::{Front, Trouble, settings};

const KEY: &str = "Idempotency-Key";

async fn stock(front: &Front) -> u64 {
    front.call("GET /stock/find/1").await.json()["stock"].as_u64().unwrap()
}

#[tokio::test]
async fn a_repeated_call_takes_effect_once_and_gets_the_first_answer() {
    let front = Front::filled();
    for _ in 0..3 {
        let answer = front.call_with("POST /stock/subtract/1/4", &[(KEY, "a")]).await;
        assert_eq!(answer.text(), "Item: 1 stock updated to: 6");
    }
    assert_eq!(stock(&front).await, 6);
    front.call_with("POST /stock/subtract/1/4", &[(KEY, "b")]).await;
    assert_eq!(stock(&front).await, 2);
}

#[tokio::test]
async fn what_is_made_twice_with_one_key_is_made_once() {
    let front = Front::new();
    for call in ["POST /stock/item/create/5", "POST /payment/create_user", "POST /orders/create/u"]
    {
        let first = front.call_with(call, &[(KEY, call.rsplit('/').next().unwrap())]).await;
        let again = front.call_with(call, &[(KEY, call.rsplit('/').next().unwrap())]).await;
        assert_eq!(first.json(), again.json());
        let other = front.call_with(call, &[(KEY, "other")]).await;
        if other.status == 200 {
            assert_ne!(first.json(), other.json());
        }
    }
}

#[tokio::test]
async fn calls_without_a_key_are_calls_of_their_own() {
    let front = Front::filled();
    for _ in 0..2 {
        front.call("POST /stock/subtract/1/4").await;
    }
    assert_eq!(stock(&front).await, 2);
    assert!(front.world.calls("/ClaimRequestId").is_empty(), "a minted id need not be claimed");
}

#[tokio::test]
async fn a_refusal_is_not_remembered() {
    let front = Front::filled();
    let subtract =
        async || front.call_with("POST /stock/subtract/1/11", &[(KEY, "a")]).await.status.as_u16();
    assert_eq!(subtract().await, 409);
    front.call("POST /stock/add/1/1").await;
    assert_eq!(subtract().await, 200);
    assert_eq!(subtract().await, 200);
    assert_eq!(stock(&front).await, 0);
}

#[tokio::test]
async fn a_key_stands_for_one_method_and_path() {
    let front = Front::filled();
    front.call_with("POST /stock/add/1/4", &[(KEY, "a")]).await;
    for other in [
        "POST /stock/add/1/5",
        "POST /stock/add/2/4",
        "POST /stock/subtract/1/4",
        "POST /payment/add_funds/1/4",
        "POST /orders/checkout/1",
        "DELETE /orders/remove/1",
        // REQUEST_ID_REUSED comes before ITEM_NOT_FOUND.
        "POST /stock/add/none/4",
    ] {
        let answer = front.call_with(other, &[(KEY, "a")]).await;
        assert_eq!(answer.outcome(), (422, "REQUEST_ID_REUSED".to_owned()), "{other}");
    }
    let same = front.call_with("POST /stock/add/%31/04?x", &[(KEY, "a")]).await;
    assert_eq!(same.text(), "Item: 1 stock updated to: 14");
}

#[tokio::test]
async fn reading_needs_no_key_and_binds_none() {
    let front = Front::filled();
    front.call_with("GET /stock/find/1", &[(KEY, "~")]).await;
    assert!(front.world.calls("/ClaimRequestId").is_empty());
}

#[tokio::test]
async fn a_malformed_key_is_named() {
    let front = Front::filled();
    let long = "k".repeat(127);
    for key in ["", "~1", "a b", "a\tb", "k\u{e9}", &long] {
        let answer = front.call_with("POST /stock/add/1/1", &[(KEY, key)]).await;
        assert_eq!(answer.outcome(), (400, "INVALID_ARGUMENT".to_owned()), "{key:?}");
        assert_eq!(answer.json()["field"], KEY);
    }
    let twice = front.call_with("POST /stock/add/1/1", &[(KEY, "a"), (KEY, "b")]).await;
    assert_eq!(twice.json()["field"], KEY);
    assert!(front.world.state().calls.is_empty());
    let longest = "k".repeat(126);
    let answer = front.call_with("POST /stock/add/1/1", &[(KEY, &longest)]).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_key_is_bound_although_the_coordinator_stumbles() {
    let front = Front::filled();
    front.world.plan("coordinator", "/ClaimRequestId", Trouble::LoseReply, 3);
    let answer = front.call_with("POST /stock/add/1/1", &[(KEY, "a")]).await;
    assert_eq!(answer.status, 200);
    assert_eq!(front.world.calls("/ClaimRequestId").len(), 4);
}

#[tokio::test]
async fn a_correlation_id_is_echoed_and_no_more() {
    let front = Front::filled();
    for _ in 0..2 {
        let answer = front.call_with("POST /stock/add/1/1", &[("X-Request-Id", "trace-7")]).await;
        assert_eq!(answer.header("x-request-id"), "trace-7");
    }
    assert_eq!(stock(&front).await, 12);
    let refused = front.call_with("GET /stock/find/none", &[("X-Request-Id", "trace-8")]).await;
    assert_eq!(refused.header("x-request-id"), "trace-8");
}

#[tokio::test]
async fn a_correlation_id_is_made_where_there_is_none_that_can_be_echoed() {
    let front = Front::filled();
    let long = "x".repeat(129);
    let mut seen = std::collections::BTreeSet::new();
    for told in [vec![], vec![("X-Request-Id", long.as_str())], vec![("X-Request-Id", "a b")]] {
        let answer = front.call_with("GET /nowhere", &told).await;
        let made = answer.header("x-request-id").to_owned();
        assert_eq!(made.len(), 32, "{made}");
        assert!(seen.insert(made));
    }
}

#[tokio::test]
async fn a_trusted_correlation_id_makes_a_call_happen_once() {
    let front = Front::with(http_bridge::Settings { trust_request_id: true, ..settings() });
    front.fill();
    let add = async |headers: &[(&str, &str)]| {
        front.call_with("POST /stock/add/1/1", headers).await.text().to_owned()
    };
    let trace = ("X-Request-Id", "trace");
    assert_eq!(add(&[trace]).await, "Item: 1 stock updated to: 11");
    assert_eq!(add(&[trace]).await, "Item: 1 stock updated to: 11");
    assert_eq!(add(&[trace, (KEY, "a")]).await, "Item: 1 stock updated to: 12");
    assert_eq!(add(&[]).await, "Item: 1 stock updated to: 13");
    let bad = front.call_with("POST /stock/add/1/1", &[("X-Request-Id", "~x")]).await;
    assert_eq!(bad.json()["field"], "X-Request-Id");
}

#[tokio::test]
async fn a_repeated_batch_init_overwrites_once() {
    let front = Front::new();
    let fill = async || {
        front.call_with("POST /stock/batch_init/20/10/5", &[(KEY, "fill")]).await.status.as_u16()
    };
    assert_eq!(fill().await, 200);
    front.call("POST /stock/subtract/1/4").await;
    assert_eq!(fill().await, 200);
    assert_eq!(stock(&front).await, 6);
    front.call("POST /stock/batch_init/20/10/5").await;
    assert_eq!(stock(&front).await, 10);
}
