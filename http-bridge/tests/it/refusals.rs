//! Definite answers other than success come at once, change nothing, and contain no ids.

use crate::shop::{Front, Item};

fn front() -> Front {
    let front = Front::filled();
    let mut state = front.world.state();
    state.orders.get_mut("1").unwrap().paid = true;
    state.orders.get_mut("2").unwrap().lines.clear();
    state.orders.get_mut("3").unwrap().lines[0].1 = 11;
    state.users.insert("4".to_owned(), 4);
    state.users.remove("5");
    state.orders.get_mut("6").unwrap().lines = vec![("nowhere".to_owned(), 1, 5)];
    state.items.insert("full".to_owned(), Item { price: 9, stock: types::AMOUNT_MAX });
    state.users.insert("rich".to_owned(), types::AMOUNT_MAX);
    state.payments.insert(("7".to_owned(), "7".to_owned()), 1);
    drop(state);
    front
}

#[tokio::test]
async fn every_refusal_has_its_status_and_reason() {
    let front = front();
    for (call, status, reason) in [
        ("GET /orders/find/x", 404, "ORDER_NOT_FOUND"),
        ("POST /orders/addItem/x/1/1", 404, "ORDER_NOT_FOUND"),
        ("POST /orders/addItem/0/x/1", 404, "ITEM_NOT_FOUND"),
        ("POST /orders/addItem/1/1/1", 409, "ALREADY_PAID"),
        ("POST /orders/addItem/0/1/9007199254740991", 409, "OVERFLOW"),
        ("POST /orders/addItem/x/1", 404, "ORDER_NOT_FOUND"),
        ("DELETE /orders/removeItem/x/1", 404, "ORDER_NOT_FOUND"),
        ("DELETE /orders/removeItem/0/1", 409, "NOT_IN_ORDER"),
        ("DELETE /orders/removeItem/1/0", 409, "ALREADY_PAID"),
        ("DELETE /orders/remove/x", 404, "ORDER_NOT_FOUND"),
        ("DELETE /orders/remove/1", 409, "ALREADY_PAID"),
        ("POST /orders/checkout/x", 404, "ORDER_NOT_FOUND"),
        ("POST /orders/checkout/2", 409, "EMPTY_ORDER"),
        ("POST /orders/checkout/3", 409, "OUT_OF_STOCK"),
        ("POST /orders/checkout/4", 409, "OUT_OF_CREDIT"),
        ("POST /orders/checkout/5", 409, "UNKNOWN_USER"),
        ("POST /orders/checkout/6", 409, "UNKNOWN_ITEM"),
        ("POST /orders/batch_init/1/1/1/4503599627370496", 409, "OVERFLOW"),
        ("GET /stock/find/x", 404, "ITEM_NOT_FOUND"),
        ("POST /stock/add/x/1", 404, "ITEM_NOT_FOUND"),
        ("POST /stock/add/full/1", 409, "OVERFLOW"),
        ("POST /stock/subtract/x/1", 404, "ITEM_NOT_FOUND"),
        ("POST /stock/subtract/0/11", 409, "OUT_OF_STOCK"),
        ("GET /payment/find_user/x", 404, "USER_NOT_FOUND"),
        ("POST /payment/add_funds/x/1", 404, "USER_NOT_FOUND"),
        ("POST /payment/add_funds/rich/1", 409, "OVERFLOW"),
        ("POST /payment/pay/x/1", 404, "USER_NOT_FOUND"),
        ("POST /payment/pay/0/101", 409, "OUT_OF_CREDIT"),
        ("POST /payment/pay/x/1/1", 404, "USER_NOT_FOUND"),
        ("POST /payment/pay/0/1/101", 409, "OUT_OF_CREDIT"),
        ("POST /payment/pay/7/7/1", 409, "ALREADY_PAID"),
        ("POST /payment/cancel/x/1", 404, "USER_NOT_FOUND"),
        ("POST /payment/cancel/0/1", 409, "NOT_PAID"),
        ("GET /payment/status/x/1", 404, "USER_NOT_FOUND"),
    ] {
        front.world.state().calls.clear();
        let answer = front.call(call).await;
        assert_eq!(answer.outcome(), (status, reason.to_owned()), "{call}");
        let asked = front.world.state().calls.len();
        assert!(asked <= 3, "{call}: a definite answer is not asked for again");
    }
}

#[tokio::test]
async fn a_refusal_says_what_without_ids_and_amounts() {
    let front = front();
    let refused = front.call("POST /orders/checkout/3").await;
    assert_eq!(
        refused.text(),
        "{\"type\":\"/problems/out-of-stock\",\"title\":\"There is not enough stock\",\"status\":409,\
         \"detail\":\"Fewer units are left than were asked for. Nothing was changed; the same call may \
         succeed once there is stock.\",\"reason\":\"OUT_OF_STOCK\"}"
    );
    let explained = front.call("GET /problems/out-of-stock").await;
    assert!(explained.text().starts_with("There is not enough stock\n"));
    assert_eq!(front.call("GET /problems/none").await.outcome().0, 404);
}

#[tokio::test]
async fn a_bug_inside_is_a_500_that_tells_nothing() {
    let front = Front::filled();
    front.world.plan("stock", "/GetItem", crate::shop::Trouble::Say(types::Reason::Internal), 1);
    let answer = front.call("GET /stock/find/1").await;
    assert_eq!(answer.outcome(), (500, "INTERNAL".to_owned()));
}
