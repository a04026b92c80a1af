//! Histories as JSON, for other checkers: `test/porcupine` reads them. Format 1:
//!
//! ```json
//! {"format": 1, "calm": false,
//!  "world": {"items": 4, "users": 4, "drawn": 2, "price": 2, "payment": 1},
//!  "calls": [{"call": "add_item", "order": "7b...", "item": 1, "units": 2, "began": 4, "ended": 9,
//!             "quiet": false, "answer": {"is": "amount", "amount": 4}}],
//!  "closed": [{"order": "7b...", "user": 1, "lines": [[1, 2]], "paid": true}]}
//! ```
//!
//! `began` and `ended` are steps of one clock. Without `ended` and `answer` the outcome is unknown:
//! the call took effect at any time after it began, or never. `quiet`: nothing else was under way.
//! `calm`: no call can have held anything after it ended. `closed`: the orders as they stood at the
//! end. A `batch_init` concerns all items, all users, or the drawn orders "0" to `drawn` - 1, each
//! of which then holds two units of item 0 for user 0.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    Entry, History,
    calls::{Ask, DRAWN, ITEMS, PAYMENT, Said, USERS},
    models::{Order, PRICE},
};

/// A history, and its orders as they stood at the end.
pub fn write(history: &History, closed: &BTreeMap<String, (Order, u64)>, calm: bool) -> Value {
    let closed: Vec<_> = closed
        .iter()
        .map(|(id, (order, user))| {
            json!({"order": id, "user": user, "lines": order.lines, "paid": order.paid})
        })
        .collect();
    json!({
        "format": 1,
        "calm": calm,
        "world": {
            "items": ITEMS, "users": USERS, "drawn": DRAWN, "price": PRICE, "payment": PAYMENT,
        },
        "calls": history.entries.iter().map(call).collect::<Vec<_>>(),
        "closed": closed,
    })
}

fn call(entry: &Entry) -> Value {
    let mut call = ask(&entry.ask);
    call["began"] = entry.began.into();
    call["quiet"] = entry.quiet.into();
    if let (Some(ended), Some(said)) = (entry.ended, &entry.said) {
        call["ended"] = ended.into();
        call["answer"] = answer(said);
    }
    call
}

fn ask(ask: &Ask) -> Value {
    match ask {
        Ask::AddStock(item, amount) => json!({"call": "add_stock", "item": item, "amount": amount}),
        Ask::Subtract(item, amount) => json!({"call": "subtract", "item": item, "amount": amount}),
        Ask::FindItem(item) => json!({"call": "find_item", "item": item}),
        Ask::AddFunds(user, amount) => json!({"call": "add_funds", "user": user, "amount": amount}),
        Ask::Pay(user, amount) => json!({"call": "pay", "user": user, "amount": amount}),
        Ask::FindUser(user) => json!({"call": "find_user", "user": user}),
        Ask::PayFor(user, what) => json!({"call": "pay_for", "user": user, "what": what}),
        Ask::Cancel(user, what) => json!({"call": "cancel", "user": user, "what": what}),
        Ask::FindPayment(user, what) => json!({"call": "find_payment", "user": user, "what": what}),
        Ask::CreateOrder(user) => json!({"call": "create_order", "user": user}),
        Ask::AddItem(order, item, units) => {
            json!({"call": "add_item", "order": order, "item": item, "units": units})
        }
        Ask::RemoveItem(order, item) => {
            json!({"call": "remove_item", "order": order, "item": item})
        }
        Ask::RemoveOrder(order) => json!({"call": "remove_order", "order": order}),
        Ask::FindOrder(order) => json!({"call": "find_order", "order": order}),
        Ask::Checkout(order, None) => json!({"call": "checkout", "order": order}),
        Ask::Checkout(order, Some(token)) => {
            json!({"call": "checkout", "order": order, "if_match": token})
        }
        Ask::Sell(user, item, units) => {
            json!({"call": "sell", "user": user, "item": item, "units": units})
        }
        Ask::Misplan(user, item, units) => {
            json!({"call": "misplan", "user": user, "item": item, "units": units})
        }
        Ask::InitStock(amount) => json!({"call": "init_stock", "amount": amount}),
        Ask::InitUsers(amount) => json!({"call": "init_users", "amount": amount}),
        Ask::InitOrders => json!({"call": "init_orders"}),
    }
}

fn answer(said: &Said) -> Value {
    match said {
        Said::Done => json!({"is": "done"}),
        Said::Amount(amount) => json!({"is": "amount", "amount": amount}),
        Said::Id(id) => json!({"is": "id", "id": id}),
        Said::Paid(paid) => json!({"is": "payment", "stands": paid}),
        Said::Order(order, user, token) => json!({
            "is": "order", "lines": order.lines, "paid": order.paid, "user": user, "etag": token,
        }),
        Said::Refused(reason, None) => json!({"is": "refused", "reason": reason}),
        Said::Refused(reason, Some((of, wanted))) => {
            json!({"is": "refused", "reason": reason, "of": of, "wanted": wanted})
        }
    }
}
