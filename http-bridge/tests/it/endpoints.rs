//! What each endpoint answers when it succeeds.

use std::time::Duration;

use http::Method;
use http_bridge::Settings;
use serde_json::json;
use types::{Reason, Role};

use crate::shop::{Front, SHARDS, Trouble, settings};

#[tokio::test]
async fn an_order_is_made_filled_bought_and_read() {
    let front = Front::new();
    let user = front.call("POST /payment/create_user").await;
    assert_eq!((user.status.as_u16(), user.header("content-type")), (200, "application/json"));
    let user_id = user.json()["user_id"].as_str().unwrap().to_owned();
    let item = front.call("POST /stock/item/create/5").await.json();
    let item_id = item["item_id"].as_str().unwrap();
    let order = front.call(&format!("POST /orders/create/{user_id}")).await.json();
    let order_id = order["order_id"].as_str().unwrap();

    let added = front.call(&format!("POST /stock/add/{item_id}/10")).await;
    assert_eq!(added.text(), format!("Item: {item_id} stock updated to: 10"));
    assert_eq!(added.header("content-type"), "text/plain; charset=utf-8");
    let taken = front.call(&format!("POST /stock/subtract/{item_id}/3")).await;
    assert_eq!(taken.text(), format!("Item: {item_id} stock updated to: 7"));
    let funded = front.call(&format!("POST /payment/add_funds/{user_id}/100")).await;
    assert_eq!(funded.text(), format!("User: {user_id} credit updated to: 100"));
    let paid = front.call(&format!("POST /payment/pay/{user_id}/40")).await;
    assert_eq!(paid.text(), format!("User: {user_id} credit updated to: 60"));
    let line = front.call(&format!("POST /orders/addItem/{order_id}/{item_id}/2")).await;
    assert_eq!(line.text(), format!("Item: {item_id} added to: {order_id} price updated to: 10"));

    let found = front.call(&format!("GET /orders/find/{order_id}")).await;
    assert_eq!(found.header("content-type"), "application/json");
    let unpaid = json!({ "order_id": order_id, "paid": false, "items": [[item_id, 2]],
        "user_id": user_id, "total_cost": 10 });
    assert_eq!(found.json(), unpaid);
    for _ in 0..2 {
        let bought = front.call(&format!("POST /orders/checkout/{order_id}")).await;
        assert_eq!((bought.status.as_u16(), bought.text()), (200, "Checkout successful"));
        assert_eq!(bought.header("content-type"), "text/plain; charset=utf-8");
    }
    let found = front.call(&format!("GET /orders/find/{order_id}")).await;
    assert_eq!(found.json()["paid"], json!(true));
    let stock = front.call(&format!("GET /stock/find/{item_id}")).await;
    assert_eq!(stock.json(), json!({ "stock": 5, "price": 5 }));
    assert_eq!(stock.header("content-type"), "application/json");
    let user = front.call(&format!("GET /payment/find_user/{user_id}")).await;
    assert_eq!(user.json(), json!({ "user_id": user_id, "credit": 50 }));
}

#[tokio::test]
async fn older_clients_add_remove_and_delete() {
    let front = Front::filled();
    let line = front.call("POST /orders/addItem/1/4").await;
    assert_eq!(line.text(), "Item: 4 added to: 1 price updated to: 10");
    let less = front.call("DELETE /orders/removeItem/1/4").await;
    assert_eq!(less.text(), "Item: 4 removed from: 1 price updated to: 5");
    let gone = front.call("DELETE /orders/remove/1").await;
    assert_eq!((gone.status.as_u16(), gone.text()), (200, "Order: 1 removed"));
    assert!(!front.world.state().orders.contains_key("1"));
}

#[tokio::test]
async fn older_clients_pay_for_an_order_and_take_it_back() {
    let front = Front::filled();
    let status = async || front.call("GET /payment/status/3/9").await.json();
    assert_eq!(status().await, json!({ "paid": false }));
    let paid = front.call("POST /payment/pay/3/9/30").await;
    assert_eq!(paid.text(), "User: 3 credit updated to: 70");
    assert_eq!(status().await, json!({ "paid": true }));
    let back = front.call("POST /payment/cancel/3/9").await;
    assert_eq!(back.text(), "User: 3 credit updated to: 100");
    assert_eq!(status().await, json!({ "paid": false }));
    assert!(!front.world.state().orders["9"].paid, "such a payment touches no checkout");
}

#[tokio::test]
async fn batch_init_fills_every_shard_through_the_replica_that_serves_it() {
    let front = Front::new();
    for (path, msg) in [
        ("/stock/batch_init/100/7/5", "Batch init for stock successful"),
        ("/payment/batch_init/100/50", "Batch init for users successful"),
        ("/orders/batch_init/100/100/100/5", "Batch init for orders successful"),
    ] {
        let done = front.call(&format!("POST {path}")).await;
        assert_eq!((done.status.as_u16(), done.json()), (200, json!({ "msg": msg })));
    }
    let calls = front.world.calls("/BatchInit");
    assert_eq!(calls.len(), 6, "one for each of two replicas of three services: {calls:?}");
    let state = front.world.state();
    assert_eq!((state.items.len(), state.users.len(), state.orders.len()), (100, 100, 100));
    assert_eq!(state.orders["99"].cost(), 10);
}

#[tokio::test]
async fn a_batch_init_of_nothing_succeeds() {
    let front = Front::new();
    assert_eq!(front.call("POST /orders/batch_init/0/1/1/0").await.status, 200);
    assert!(front.world.state().orders.is_empty());
}

#[tokio::test]
async fn a_call_goes_to_the_replica_that_serves_its_shard() {
    let front = Front::filled();
    for id in 0..10 {
        let shard = types::shard_of(&id.to_string(), SHARDS);
        let route = front.bridge.shop().at(Role::Stock).route(shard).unwrap();
        front.call(&format!("GET /stock/find/{id}")).await;
        let last = front.world.calls("/GetItem").pop().unwrap();
        assert_eq!(last.endpoint, route.endpoint.as_str());
    }
}

#[tokio::test]
async fn what_is_made_is_made_where_it_will_be_read() {
    let front = Front::new();
    for (call, made, member, read) in [
        ("POST /stock/item/create/1", "/CreateItem", "item_id", "GET /stock/find"),
        ("POST /payment/create_user", "/CreateUser", "user_id", "GET /payment/find_user"),
        ("POST /orders/create/1", "/CreateOrder", "order_id", "GET /orders/find"),
    ] {
        for _ in 0..8 {
            let id = front.call(call).await.json()[member].as_str().unwrap().to_owned();
            let made = front.world.calls(made).pop().unwrap().endpoint;
            assert_eq!(front.call(&format!("{read}/{id}")).await.status, 200);
            let read = front.world.state().calls.pop().unwrap().endpoint;
            assert_eq!(made, read);
        }
    }
}

#[tokio::test]
async fn one_item_at_two_prices_is_one_pair() {
    let front = Front::filled();
    front.world.state().items.get_mut("0").unwrap().price = 7;
    front.call("POST /orders/addItem/2/1/1").await;
    front.call("POST /orders/addItem/2/0/3").await;
    let found = front.call("GET /orders/find/2").await.json();
    assert_eq!(found["items"], json!([["0", 4], ["1", 1]]));
    assert_eq!(found["total_cost"], json!(5 + 5 + 21));
}

#[tokio::test]
async fn clients_may_send_what_they_like_as_a_body() {
    let front = Front::filled();
    for (content_type, body) in [
        ("application/octet-stream", ""),
        ("application/json", "{not json"),
        ("application/x-www-form-urlencoded", "a=b"),
        ("nonsense", "\u{0}"),
    ] {
        let request = http::Request::builder()
            .method(Method::POST)
            .uri("/stock/add/1/1")
            .header("content-type", content_type)
            .body(body.into())
            .unwrap();
        assert_eq!(front.send(request).await.status, 200, "{content_type}");
    }
}

#[tokio::test]
async fn ids_are_decoded_and_sent_on_as_they_are() {
    let front = Front::new();
    let made = front.call("POST /orders/create/J%C3%BCrgen%20%25").await.json();
    let order_id = made["order_id"].as_str().unwrap();
    let found = front.call(&format!("GET /orders/find/{order_id}")).await.json();
    assert_eq!(found["user_id"], json!("Jürgen %"));
}

#[tokio::test]
async fn the_log_of_a_checkout_is_kept_on_request() {
    let front = Front::filled();
    let call = "POST /orders/checkout/1";
    assert_eq!(front.call(call).await.status, 200);
    assert_eq!(front.call_with(call, &[("till-keep-log", "1")]).await.status, 200);
    let answer = front.call_with(call, &[("till-keep-log", "yes")]).await;
    assert_eq!(answer.outcome(), (400, "INVALID_ARGUMENT".to_owned()));
    assert_eq!(answer.json()["field"], "Till-Keep-Log");
    assert_eq!(front.world.state().logs_kept, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn a_large_batch_init_is_made_of_parts_with_a_life_each() {
    let batch_init_timeout = Duration::from_mins(10);
    let front = Front::with(Settings { batch_init_timeout, ..settings() });
    front.world.plan("payment", "/BatchInit", Trouble::Say(Reason::Unavailable), 60);
    let begun = front.world.store_ms();
    let done = front.call("POST /payment/batch_init/120000/1").await;
    assert_eq!(done.status, 200);
    assert_eq!(front.world.state().users.len(), 120_000);
    let calls = front.world.calls("/BatchInit");
    assert!(calls.len() >= 63, "three parts, and what was tried again: {}", calls.len());
    let ends: Vec<u64> = calls.into_iter().map(|call| call.meta.not_after.unwrap().0).collect();
    let (first, last) = (ends[0] - begun, ends[ends.len() - 1] - begun);
    assert!((59_000..=60_000).contains(&first), "{first}");
    assert!(last > first + 1_000 && last < 120_000, "{first} {last}");
}

#[tokio::test]
async fn what_a_client_has_seen_goes_along_with_its_checkout() {
    let front = Front::filled();
    let etag = front.call("GET /orders/find/1").await.header("etag").to_owned();
    assert!(etag.starts_with('"') && etag.ends_with('"') && etag.len() > 2, "{etag}");
    front.call("POST /orders/addItem/1/0/1").await;
    assert_ne!(front.call("GET /orders/find/1").await.header("etag"), etag);
    let both = format!("{etag}, \"other\"");
    front.call_with("POST /orders/checkout/1", &[("if-match", &both)]).await;
    front.call("POST /orders/checkout/2").await;
    let seen: Vec<_> =
        front.world.state().checkouts.iter().map(|checkout| checkout.if_match.clone()).collect();
    assert_eq!(seen, [vec![etag.trim_matches('"').to_owned(), "other".to_owned()], vec![]]);
    for wrong in ["", "unquoted", "\"a"] {
        let answer = front.call_with("POST /orders/checkout/3", &[("if-match", wrong)]).await;
        assert_eq!(answer.outcome(), (400, "INVALID_ARGUMENT".to_owned()));
        assert_eq!(answer.json()["field"], "If-Match");
    }
    front.world.plan("", "/Checkout", Trouble::Say(Reason::OrderModified), 1);
    let answer = front.call_with("POST /orders/checkout/3", &[("if-match", &etag)]).await;
    assert_eq!(answer.outcome(), (412, "ORDER_MODIFIED".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_batch_init_counts_the_shards_anew_when_there_are_others() {
    let front = Front::new();
    front.world.plan("payment-0", "/BatchInit", Trouble::Say(Reason::WrongShard), 1);
    assert_eq!(front.call("POST /payment/batch_init/100/1").await.status, 200);
    assert_eq!(front.world.state().users.len(), 100);
    let described = front.world.calls("/Describe");
    let payment = described.iter().filter(|call| call.endpoint.starts_with("payment"));
    assert_eq!(payment.count(), 2);
}
