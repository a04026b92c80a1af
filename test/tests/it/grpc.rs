//! Calls every method of every service, by reflection alone.

use std::{collections::BTreeSet, sync::Mutex};

use http_body_util::Full;
use rpc::MESSAGE_BYTES_MAX;

use serde_json::{Value, json};
use tonic::{Code, Status, body::Body, transport::Channel};
use tonic_types::StatusExt as _;
use tower::ServiceExt as _;

use system_test::process::Shop;

use crate::dynamic::Client;

const ORDER: &str = "till.order.v1.OrderService";
const STOCK: &str = "till.stock.v1.StockService";
const PAYMENT: &str = "till.payment.v1.PaymentService";
const COORDINATOR: &str = "till.coordinator.v1.CoordinatorService";
const TRANSACTIONS: &str = "till.coordinator.v1.TransactionService";
const PARTICIPANT: &str = "till.participant.v1.ParticipantService";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] =
    ["grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection"];
const BUNDLE: &str = "till.bundle.v1.BundleService/Call";

/// One role, and which of its methods have been called.
struct Role {
    client: Client,
    service: &'static str,
    called: Mutex<BTreeSet<String>>,
}

impl Role {
    async fn connect(shop: &Shop, role: &str, service: &'static str) -> Self {
        let client = Client::connect(shop.address(role)).await;
        Self { client, service, called: Mutex::default() }
    }

    async fn call(&self, method: &str, request: Value) -> Result<Value, Status> {
        self.called.lock().unwrap().insert(method.to_owned());
        self.client.call(&format!("{}/{method}", self.service), request).await
    }

    /// Makes a call that must succeed.
    async fn must(&self, method: &str, request: Value) -> Value {
        let told = format!("{method} {request}");
        self.call(method, request).await.unwrap_or_else(|status| panic!("{told}: {status:?}"))
    }

    fn assert_every_call_was_made(&self) {
        assert_eq!(*self.called.lock().unwrap(), self.client.methods(self.service));
    }
}

/// The machine-readable reason of a refusal.
fn reason(status: &Status) -> String {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert_eq!(info.domain, "till");
    info.reason.clone()
}

#[tokio::test]
async fn a_shop_is_explored_and_used_by_reflection_alone() {
    let shop = Shop::start();
    let order = Role::connect(&shop, "order", ORDER).await;
    let stock = Role::connect(&shop, "stock", STOCK).await;
    let payment = Role::connect(&shop, "payment", PAYMENT).await;
    let coordinator = Role::connect(&shop, "coordinator", COORDINATOR).await;
    let operator = Role::connect(&shop, "coordinator", TRANSACTIONS).await;

    every_role_describes_itself(&[&order, &stock, &payment, &coordinator, &operator]).await;
    let item = items(&stock).await;
    let user = users(&payment).await;
    orders(&order, &item, &user).await;
    let bought = checkouts(&coordinator, &order, &stock, &payment).await;
    transactions(&operator, &bought).await;
    refusals(&order, &stock, &payment, &coordinator).await;
    filling(&order, &stock, &payment).await;
    for role in [&order, &stock, &payment, &coordinator, &operator] {
        role.assert_every_call_was_made();
    }
}

async fn every_role_describes_itself(roles: &[&Role]) {
    for role in roles {
        let services = role.client.services();
        for wanted in [role.service, HEALTH].into_iter().chain(REFLECTION) {
            assert!(services.contains(wanted), "{wanted} is not among {services:?}");
        }
        for asked in ["", role.service, "till.live"] {
            let health =
                role.client.call(&format!("{HEALTH}/Check"), json!({"service": asked})).await;
            assert_eq!(health.unwrap(), json!({"status": "SERVING"}));
        }
        if ![COORDINATOR, TRANSACTIONS].contains(&role.service) {
            assert!(services.contains(PARTICIPANT));
            let told =
                role.client.call(&format!("{PARTICIPANT}/Describe"), json!({})).await.unwrap();
            let area = told["service"].as_str().unwrap();
            assert!(role.service.starts_with(&format!("till.{area}.")));
            assert!(told["shards"].as_u64().unwrap() >= 1);
        }
    }
}

async fn items(stock: &Role) -> Value {
    let made = stock.must("CreateItem", json!({"price": "3"})).await;
    let item = made["itemId"].clone();
    let added = stock.must("AddStock", json!({"itemId": item, "amount": "10"})).await;
    assert_eq!(added, json!({"stock": "10"}));
    let once = json!({"itemId": item, "amount": "4", "requestId": "subtract-once"});
    for _ in 0..2 {
        let left = stock.must("SubtractStock", once.clone()).await;
        assert_eq!(left, json!({"stock": "6"}), "once, and the first answer again");
    }
    let found = stock.must("GetItem", json!({"itemId": item})).await;
    assert_eq!(found, json!({"item": {"itemId": item, "stock": "6", "price": "3"}}));
    item
}

async fn users(payment: &Role) -> Value {
    let made = payment.must("CreateUser", json!({"requestId": "user-once"})).await;
    assert_eq!(payment.must("CreateUser", json!({"requestId": "user-once"})).await, made);
    let user = made["userId"].clone();
    let funded = payment.must("AddFunds", json!({"userId": user, "amount": "100"})).await;
    assert_eq!(funded, json!({"credit": "100"}));
    let bill = json!({"userId": user, "orderId": "bill-1"});
    let paid = json!({"userId": user, "orderId": "bill-1", "amount": "30"});
    assert_eq!(payment.must("Pay", paid).await, json!({"credit": "70"}));
    assert_eq!(payment.must("GetPaymentStatus", bill.clone()).await, json!({"paid": true}));
    assert_eq!(payment.must("CancelPayment", bill.clone()).await, json!({"credit": "100"}));
    let status = payment.must("GetPaymentStatus", bill).await;
    assert_ne!(status["paid"], json!(true));
    let found = payment.must("GetUser", json!({"userId": user})).await;
    assert_eq!(found, json!({"user": {"userId": user, "credit": "100"}}));
    user
}

async fn orders(order: &Role, item: &Value, user: &Value) {
    let id = order.must("CreateOrder", json!({"userId": user})).await["orderId"].clone();
    let line = json!({"orderId": id, "itemId": item, "quantity": "2"});
    assert_eq!(order.must("AddItem", line).await, json!({"totalCost": "6"}));
    let unit = json!({"orderId": id, "itemId": item});
    assert_eq!(order.must("RemoveItem", unit).await, json!({"totalCost": "3"}));
    let found = order.must("GetOrder", json!({"orderId": id})).await;
    assert_eq!(found["order"]["lines"], json!([{"itemId": item, "quantity": "1", "price": "3"}]));
    assert_ne!(found["readTs"], json!("0"));
    order.must("RemoveOrder", json!({"orderId": id})).await;
    let gone = order.call("GetOrder", json!({"orderId": id})).await.unwrap_err();
    assert_eq!((gone.code(), reason(&gone).as_str()), (Code::NotFound, "ORDER_NOT_FOUND"));
}

/// Buys an order; returns its id and that of the transaction.
async fn checkouts(coordinator: &Role, order: &Role, stock: &Role, payment: &Role) -> Value {
    let item = stock.must("CreateItem", json!({"price": "5"})).await["itemId"].clone();
    stock.must("AddStock", json!({"itemId": item, "amount": "2"})).await;
    let user = payment.must("CreateUser", json!({})).await["userId"].clone();
    payment.must("AddFunds", json!({"userId": user, "amount": "20"})).await;
    let id = order.must("CreateOrder", json!({"userId": user})).await["orderId"].clone();
    order.must("AddItem", json!({"orderId": id, "itemId": item, "quantity": "2"})).await;
    let bought = coordinator.must("Checkout", json!({"orderId": id})).await;
    assert_ne!(bought["alreadyPaid"], json!(true));
    assert!(bought["txId"].is_string());
    let again = coordinator.must("Checkout", json!({"orderId": id})).await;
    assert_eq!(again["alreadyPaid"], json!(true));
    let found = stock.must("GetItem", json!({"itemId": item})).await;
    assert!(matches!(found["item"]["stock"].as_str(), None | Some("0")), "{found}");
    let found = payment.must("GetUser", json!({"userId": user})).await;
    assert_eq!(found["user"]["credit"], json!("10"));

    let claim = json!({"requestId": "claimed", "call": "POST /orders/checkout/1"});
    coordinator.must("ClaimRequestId", claim.clone()).await;
    coordinator.must("ClaimRequestId", claim).await;
    let other = json!({"requestId": "claimed", "call": "POST /orders/checkout/2"});
    let reused = coordinator.call("ClaimRequestId", other).await.unwrap_err();
    assert_eq!(
        (reused.code(), reason(&reused).as_str()),
        (Code::AlreadyExists, "REQUEST_ID_REUSED")
    );

    // A transaction that nobody began, long past its deadline. Resolving it decides once and for
    // all that it never happens.
    let lost = json!({"tx": {
        "txId": "AAECAwQFBgcICQoLDA0ODw==",
        "priority": {"beginTs": "1", "nonce": "1"},
        "deadlineMs": "1000",
        "branches": [{"service": "order", "shard": 0}, {"service": "payment", "shard": 0}],
    }});
    for _ in 0..2 {
        let told = coordinator.must("Resolve", lost.clone()).await;
        assert_eq!(told["outcome"], json!("OUTCOME_ABORTED"));
    }
    json!({"orderId": id, "txId": bought["txId"]})
}

async fn transactions(operator: &Role, bought: &Value) {
    for subject in ["orderId", "txId"] {
        let told = operator.must("ExplainTransaction", json!({subject: bought[subject]})).await;
        let [told] = told["transactions"].as_array().unwrap().as_slice() else { panic!("{told}") };
        assert_eq!(told["outcome"], json!("OUTCOME_COMMITTED"));
        assert_eq!((&told["orderId"], &told["txId"]), (&bought["orderId"], &bought["txId"]));
    }
    operator.must("ListUnresolved", json!({})).await;
    // This shop was not told to audit itself.
    assert_eq!(operator.must("GetAudit", json!({})).await, json!({}));
    let nobody = json!({"txId": "/////////////////////w=="});
    let unknown = operator.call("ResolveById", nobody).await.unwrap_err();
    assert_eq!(
        (unknown.code(), reason(&unknown).as_str()),
        (Code::NotFound, "TRANSACTION_UNKNOWN")
    );
    let strange = json!({"branches": [{"branch": {"service": "unheard-of"}}]});
    let refused = operator.call("RunTransaction", strange).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

async fn refusals(order: &Role, stock: &Role, payment: &Role, coordinator: &Role) {
    let poor = payment.must("CreateUser", json!({})).await["userId"].clone();
    let dear = stock.must("CreateItem", json!({"price": "9"})).await["itemId"].clone();
    let id = order.must("CreateOrder", json!({"userId": poor})).await["orderId"].clone();
    let checkout = json!({"orderId": id});
    let rejected = Code::FailedPrecondition;
    for (role, method, request, code, why) in [
        (coordinator, "Checkout", checkout.clone(), rejected, "EMPTY_ORDER"),
        (coordinator, "Checkout", json!({"orderId": "none"}), Code::NotFound, "ORDER_NOT_FOUND"),
        (stock, "SubtractStock", json!({"itemId": dear, "amount": "1"}), rejected, "OUT_OF_STOCK"),
        (stock, "GetItem", json!({"itemId": "none"}), Code::NotFound, "ITEM_NOT_FOUND"),
        (payment, "Pay", json!({"userId": poor, "amount": "1"}), rejected, "OUT_OF_CREDIT"),
        (payment, "GetUser", json!({"userId": "none"}), Code::NotFound, "USER_NOT_FOUND"),
        (payment, "CancelPayment", json!({"userId": poor, "orderId": "x"}), rejected, "NOT_PAID"),
    ] {
        let status = role.call(method, request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{method}");
    }
    order.must("AddItem", json!({"orderId": id, "itemId": dear, "quantity": "1"})).await;
    // With two reasons to refuse, either could be given.
    payment.must("AddFunds", json!({"userId": poor, "amount": "9"})).await;
    let short = coordinator.call("Checkout", checkout).await.unwrap_err();
    assert_eq!(reason(&short), "OUT_OF_STOCK");
    // The error details have what the REST body leaves out.
    let details = short.get_error_details();
    let metadata = &details.error_info().unwrap().metadata;
    assert!(metadata.values().any(|value| json!(value) == dear), "{metadata:?}");

    for (role, method, request, field) in [
        (stock, "AddStock", json!({"itemId": dear, "amount": "0"}), "amount"),
        (stock, "CreateItem", json!({"price": "9007199254740992"}), "price"),
        (payment, "Pay", json!({"userId": "a/b", "amount": "1"}), "user_id"),
        (order, "GetOrder", json!({"orderId": ""}), "order_id"),
        (coordinator, "Checkout", json!({"orderId": "x".repeat(129)}), "order_id"),
    ] {
        let status = role.call(method, request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{method}: {status:?}");
        let details = status.get_error_details();
        let named: Vec<&str> = details
            .bad_request()
            .iter()
            .flat_map(|bad| &bad.field_violations)
            .map(|violation| violation.field.as_str())
            .collect();
        assert_eq!(named, [field], "{method}");
    }
}

async fn filling(order: &Role, stock: &Role, payment: &Role) {
    let written = json!({"written": "50"});
    let items = json!({"count": "50", "startingStock": "7", "itemPrice": "2"});
    assert_eq!(stock.must("BatchInit", items).await, written);
    let users = json!({"count": "50", "startingMoney": "9"});
    assert_eq!(payment.must("BatchInit", users).await, written);
    let orders = json!({"count": "50", "itemCount": "50", "userCount": "50", "itemPrice": "2"});
    assert_eq!(order.must("BatchInit", orders).await, written);
    let found = order.must("GetOrder", json!({"orderId": "49"})).await;
    assert_eq!(found["order"]["totalCost"], json!("4"));
}

/// A message whose one field is longer than the message itself; plain, and compressed by gzip.
const TORN: &[u8] = &[0x0a, 2, b'x'];
const TORN_COMPRESSED: &[u8] =
    &[31, 139, 8, 0, 0, 0, 0, 0, 2, 255, 227, 98, 170, 0, 0, 72, 199, 62, 158, 3, 0, 0, 0];

/// The status code of the answer to one frame, which has a flag (1: compressed), the length that it
/// claims, and its bytes.
async fn code(channel: &Channel, path: &str, flag: u8, length: usize, message: &[u8]) -> Code {
    let length = u32::try_from(length).unwrap();
    let frame = [&[flag], length.to_be_bytes().as_slice(), message].concat();
    let request = http::Request::post(format!("/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-encoding", if flag == 1 { "gzip" } else { "identity" })
        .body(Body::new(Full::new(frame.into())))
        .unwrap();
    let answer = channel.clone().oneshot(request).await.unwrap();
    Status::from_header_map(answer.headers()).map_or(Code::Ok, |status| status.code())
}

#[tokio::test]
async fn every_call_reads_its_request_alike() {
    let shop = Shop::start();
    let mut calls = 0;
    for role in ["order", "stock", "payment", "coordinator"] {
        let client = Client::connect(shop.address(role)).await;
        let services = client.services().iter().filter(|name| !REFLECTION.contains(&name.as_str()));
        let described = services.flat_map(|service| {
            client.methods(service).into_iter().map(move |method| format!("{service}/{method}"))
        });
        for path in described.chain([BUNDLE.to_owned()]) {
            let channel = client.channel();
            let torn = code(channel, &path, 0, TORN.len(), TORN).await;
            assert_eq!(torn, Code::InvalidArgument, "{path}, malformed");
            let torn = code(channel, &path, 1, TORN_COMPRESSED.len(), TORN_COMPRESSED).await;
            assert_eq!(torn, Code::InvalidArgument, "{path}, malformed and compressed");
            let fits = match path.as_str() {
                BUNDLE => 1024 * 1024,
                path if path.starts_with("grpc.health.") => 16 * 1024,
                _ => MESSAGE_BYTES_MAX,
            };
            let large = code(channel, &path, 0, fits + 1, &[]).await;
            assert_eq!(large, Code::OutOfRange, "{path}, one byte too large");
            // Not too large: only its bytes are missing.
            let cut = code(channel, &path, 0, fits, &[]).await;
            assert_eq!(cut, Code::InvalidArgument, "{path}, as large as may be");
            calls += 1;
        }
    }
    assert!(calls > 35, "{calls}");
}
