//! Malformed requests get a 400 that names the field, before any service is asked.

use crate::shop::Front;

/// Every parameter's position; the text under test replaces `@`.
const IDS: [(&str, &str); 17] = [
    ("POST /orders/create/@", "user_id"),
    ("GET /orders/find/@", "order_id"),
    ("POST /orders/addItem/@/1/1", "order_id"),
    ("POST /orders/addItem/1/@/1", "item_id"),
    ("POST /orders/addItem/1/@", "item_id"),
    ("DELETE /orders/removeItem/@/1", "order_id"),
    ("DELETE /orders/removeItem/1/@", "item_id"),
    ("DELETE /orders/remove/@", "order_id"),
    ("POST /orders/checkout/@", "order_id"),
    ("GET /stock/find/@", "item_id"),
    ("POST /stock/add/@/1", "item_id"),
    ("POST /stock/subtract/@/1", "item_id"),
    ("GET /payment/find_user/@", "user_id"),
    ("POST /payment/add_funds/@/1", "user_id"),
    ("POST /payment/pay/1/@/1", "order_id"),
    ("POST /payment/cancel/@/1", "user_id"),
    ("GET /payment/status/1/@", "order_id"),
];

const NUMBERS: [(&str, &str, u64); 15] = [
    ("POST /orders/addItem/1/1/@", "quantity", 1),
    ("POST /orders/batch_init/@/1/1/1", "n", 0),
    ("POST /orders/batch_init/1/@/1/1", "n_items", 1),
    ("POST /orders/batch_init/1/1/@/1", "n_users", 1),
    ("POST /orders/batch_init/1/1/1/@", "item_price", 0),
    ("POST /stock/item/create/@", "price", 0),
    ("POST /stock/add/1/@", "amount", 1),
    ("POST /stock/subtract/1/@", "amount", 1),
    ("POST /stock/batch_init/@/1/1", "n", 0),
    ("POST /stock/batch_init/1/@/1", "starting_stock", 0),
    ("POST /stock/batch_init/1/1/@", "item_price", 0),
    ("POST /payment/add_funds/1/@", "amount", 1),
    ("POST /payment/pay/1/@", "amount", 1),
    ("POST /payment/pay/1/1/@", "amount", 1),
    ("POST /payment/batch_init/1/@", "starting_money", 0),
];

async fn assert_invalid(front: &Front, call: &str, field: &str) {
    let answer = front.call(call).await;
    assert_eq!(answer.outcome(), (400, "INVALID_ARGUMENT".to_owned()), "{call}");
    let body = answer.json();
    assert_eq!(body["field"], field, "{call}");
    assert!(body["detail"].as_str().unwrap().starts_with(field), "{call}: {body}");
}

#[tokio::test]
async fn malformed_ids_are_named() {
    let front = Front::filled();
    let long = "x".repeat(129);
    let long_bytes = "%C3%A9".repeat(65);
    for (call, field) in IDS {
        for text in
            ["a%2Fb", "a%0Ab", "%00", "%7F", "%C2%85", "%zz", "%C3", "a%", &long, &long_bytes]
        {
            assert_invalid(&front, &call.replace('@', text), field).await;
        }
    }
    assert!(front.world.state().calls.is_empty(), "nothing malformed goes on");
}

#[tokio::test]
async fn malformed_numbers_are_named() {
    let front = Front::filled();
    for (call, field, least) in NUMBERS {
        let mut texts = vec![
            "+1",
            "-1",
            "1.0",
            "1e3",
            "%201",
            "1%20",
            "0x1",
            "one",
            "%D9%A1",
            "1_000",
            "9007199254740992",
            "99999999999999999999999999",
        ];
        if least == 1 {
            texts.extend(["0", "000"]);
        }
        if field == "n" {
            texts.push("10000001");
        }
        for text in texts {
            assert_invalid(&front, &call.replace('@', text), field).await;
        }
    }
    assert!(front.world.state().calls.is_empty(), "nothing malformed goes on");
}

#[tokio::test]
async fn the_first_malformed_field_is_named() {
    let front = Front::filled();
    assert_invalid(&front, "POST /orders/addItem/a%2Fb/%00/0", "order_id").await;
    assert_invalid(&front, "POST /orders/addItem/a/%00/0", "item_id").await;
}

#[tokio::test]
async fn numbers_may_have_leading_zeros() {
    let front = Front::filled();
    assert_eq!(front.call("POST /stock/add/1/0005").await.text(), "Item: 1 stock updated to: 15");
}

#[tokio::test]
async fn a_query_changes_nothing() {
    let front = Front::filled();
    assert_eq!(front.call("GET /stock/find/1?x=/y").await.status, 200);
}
