//! What clients ask, over REST and over gRPC alike.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use proto::{
    coordinator::v1::{CheckoutRequest, coordinator_service_client::CoordinatorServiceClient},
    order::v1::{self as order, order_service_client::OrderServiceClient},
    payment::v1::{self as payment, payment_service_client::PaymentServiceClient},
    stock::v1::{self as stock, stock_service_client::StockServiceClient},
};
use rpc::{net::Transport, status::Failure};
use serde_json::Value as Json;
use tonic::{Response, Status, body::Body};
use tower::ServiceExt;
use types::Reason;

use crate::models::{Order, PRICE};

/// Orders that batch_init draws: "0" to this - 1.
pub(crate) const DRAWN: u64 = 2;
/// Items "0" to this - 1.
pub(crate) const ITEMS: u64 = 4;
/// Users "0" to this - 1.
pub(crate) const USERS: u64 = 4;

/// A call, without its request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    AddStock(u64, u64),
    Subtract(u64, u64),
    FindItem(u64),
    AddFunds(u64, u64),
    Pay(u64, u64),
    FindUser(u64),
    CreateOrder(u64),
    AddItem(String, u64, u64),
    RemoveItem(String, u64),
    RemoveOrder(String),
    FindOrder(String),
    Checkout(String),
    InitStock(u64),
    InitUsers(u64),
    InitOrders,
}

/// What was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    /// Done, without more.
    Done,
    /// An amount: what is available, or what it costs.
    Amount(u64),
    /// The id of a new order.
    Id(String),
    /// An order as it stands, and whose it is.
    Order(Order, u64),
    /// A definite no: the reason, and where it is told the item or user it is about and what was wanted.
    Refused(String, Option<(u64, u64)>),
}

/// What came of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// A definite answer.
    Said(Said),
    /// Nothing was done, for certain.
    Nothing,
    /// Nobody knows.
    Unknown,
}

impl Ask {
    /// Which role a gRPC client asks.
    pub(crate) const fn role(&self) -> &'static str {
        match self {
            Self::AddStock(..) | Self::Subtract(..) | Self::FindItem(_) | Self::InitStock(_) => {
                "stock"
            }
            Self::AddFunds(..) | Self::Pay(..) | Self::FindUser(_) | Self::InitUsers(_) => {
                "payment"
            }
            Self::Checkout(_) => "coordinator",
            Self::CreateOrder(_)
            | Self::AddItem(..)
            | Self::RemoveItem(..)
            | Self::RemoveOrder(_)
            | Self::FindOrder(_)
            | Self::InitOrders => "order",
        }
    }

    /// Whether it changes nothing.
    pub(crate) const fn is_read(&self) -> bool {
        matches!(self, Self::FindItem(_) | Self::FindUser(_) | Self::FindOrder(_))
    }

    /// Asks a bridge once.
    pub(crate) async fn rest(&self, to: Transport, key: Option<&str>) -> Attempt {
        let (method, path) = self.path();
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let Ok(response) = to.oneshot(request.body(Body::empty()).unwrap()).await else {
            return Attempt::Unknown;
        };
        let (parts, body) = response.into_parts();
        let Ok(body) = body.collect().await else { return Attempt::Unknown };
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        if parts.status.is_success() {
            return Attempt::Said(self.understand(&text));
        }
        let problem: Json = serde_json::from_str(&text).unwrap();
        let reason = problem["reason"].as_str().unwrap().to_owned();
        match parts.status {
            StatusCode::SERVICE_UNAVAILABLE if reason == Reason::OutcomeUnknown.as_str() => {
                Attempt::Unknown
            }
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Attempt::Nothing,
            _ => Attempt::Said(Said::Refused(reason, None)),
        }
    }

    fn path(&self) -> (Method, String) {
        let post = |path: String| (Method::POST, path);
        match self {
            Self::AddStock(item, amount) => post(format!("/stock/add/{item}/{amount}")),
            Self::Subtract(item, amount) => post(format!("/stock/subtract/{item}/{amount}")),
            Self::FindItem(item) => (Method::GET, format!("/stock/find/{item}")),
            Self::AddFunds(user, amount) => post(format!("/payment/add_funds/{user}/{amount}")),
            Self::Pay(user, amount) => post(format!("/payment/pay/{user}/{amount}")),
            Self::FindUser(user) => (Method::GET, format!("/payment/find_user/{user}")),
            Self::CreateOrder(user) => post(format!("/orders/create/{user}")),
            Self::AddItem(order, item, units) => {
                post(format!("/orders/addItem/{order}/{item}/{units}"))
            }
            Self::RemoveItem(order, item) => {
                (Method::DELETE, format!("/orders/removeItem/{order}/{item}"))
            }
            Self::RemoveOrder(order) => (Method::DELETE, format!("/orders/remove/{order}")),
            Self::FindOrder(order) => (Method::GET, format!("/orders/find/{order}")),
            Self::Checkout(order) => post(format!("/orders/checkout/{order}")),
            Self::InitStock(stock) => post(format!("/stock/batch_init/{ITEMS}/{stock}/{PRICE}")),
            Self::InitUsers(credit) => post(format!("/payment/batch_init/{USERS}/{credit}")),
            Self::InitOrders => post(format!("/orders/batch_init/{DRAWN}/1/1/{PRICE}")),
        }
    }

    /// Reads a bridge's good answer.
    fn understand(&self, text: &str) -> Said {
        let json = || serde_json::from_str::<Json>(text).unwrap();
        match self {
            Self::FindItem(_) => Said::Amount(json()["stock"].as_u64().unwrap()),
            Self::FindUser(_) => Said::Amount(json()["credit"].as_u64().unwrap()),
            Self::CreateOrder(_) => Said::Id(json()["order_id"].as_str().unwrap().to_owned()),
            Self::FindOrder(_) => {
                let order = json();
                let line = |line: &Json| {
                    (line[0].as_str().unwrap().parse().unwrap(), line[1].as_u64().unwrap())
                };
                let lines = order["items"].as_array().unwrap().iter().map(line).collect();
                let paid = order["paid"].as_bool().unwrap();
                let user = order["user_id"].as_str().unwrap().parse().unwrap();
                Said::Order(Order { lines, paid }, user)
            }
            Self::AddStock(..)
            | Self::Subtract(..)
            | Self::AddFunds(..)
            | Self::Pay(..)
            | Self::AddItem(..) => Said::Amount(text.rsplit(' ').next().unwrap().parse().unwrap()),
            Self::RemoveItem(..) => {
                let last = text.rsplit(' ').next().unwrap();
                last.parse().map_or(Said::Done, Said::Amount)
            }
            Self::RemoveOrder(_)
            | Self::Checkout(_)
            | Self::InitStock(_)
            | Self::InitUsers(_)
            | Self::InitOrders => Said::Done,
        }
    }

    /// Asks a service itself, once, within `time`.
    pub(crate) async fn grpc(&self, to: Transport, id: &str, time: Duration) -> Attempt {
        let outcome = match self.role() {
            "stock" => self.stock(to, id, time).await,
            "payment" => self.payment(to, id, time).await,
            "order" => self.order(to, id, time).await,
            _ => self.coordinator(to, id, time).await,
        };
        let status = match outcome {
            Ok(said) => return Attempt::Said(said),
            Err(status) => status,
        };
        let failure = Failure::from_status(&status);
        if failure.is_transient() {
            return Attempt::Unknown;
        }
        let number = |name: &str| failure.metadata.get(name)?.parse().ok();
        let short = number("item_id").or_else(|| number("user_id")).zip(number("wanted"));
        Attempt::Said(Said::Refused(failure.reason, short))
    }

    async fn stock(&self, to: Transport, id: &str, time: Duration) -> Result<Said, Status> {
        let mut to = StockServiceClient::new(to);
        let request_id = id.to_owned();
        match self {
            Self::AddStock(item, amount) => {
                let item_id = item.to_string();
                let request = stock::AddStockRequest { item_id, amount: *amount, request_id };
                said(to.add_stock(within(request, time)).await, |said| Said::Amount(said.stock))
            }
            Self::Subtract(item, amount) => {
                let item_id = item.to_string();
                let request = stock::SubtractStockRequest { item_id, amount: *amount, request_id };
                let answer = to.subtract_stock(within(request, time)).await;
                said(answer, |said| Said::Amount(said.stock))
            }
            Self::FindItem(item) => {
                let request = stock::GetItemRequest { item_id: item.to_string() };
                let answer = to.get_item(within(request, time)).await;
                said(answer, |said| Said::Amount(said.item.unwrap().stock))
            }
            _ => {
                let Self::InitStock(starting_stock) = self else { unreachable!("{self:?}") };
                let request = stock::BatchInitRequest {
                    count: ITEMS,
                    starting_stock: *starting_stock,
                    item_price: PRICE,
                    request_id,
                    shards: Vec::new(),
                    first: 0,
                    shard_count: 0,
                };
                said(to.batch_init(within(request, time)).await, |_| Said::Done)
            }
        }
    }

    async fn payment(&self, to: Transport, id: &str, time: Duration) -> Result<Said, Status> {
        let mut to = PaymentServiceClient::new(to);
        let request_id = id.to_owned();
        match self {
            Self::AddFunds(user, amount) => {
                let user_id = user.to_string();
                let request = payment::AddFundsRequest { user_id, amount: *amount, request_id };
                said(to.add_funds(within(request, time)).await, |said| Said::Amount(said.credit))
            }
            Self::Pay(user, amount) => {
                let request = payment::PayRequest {
                    user_id: user.to_string(),
                    amount: *amount,
                    order_id: String::new(),
                    request_id,
                };
                said(to.pay(within(request, time)).await, |said| Said::Amount(said.credit))
            }
            Self::FindUser(user) => {
                let request = payment::GetUserRequest { user_id: user.to_string() };
                let answer = to.get_user(within(request, time)).await;
                said(answer, |said| Said::Amount(said.user.unwrap().credit))
            }
            _ => {
                let Self::InitUsers(starting_money) = self else { unreachable!("{self:?}") };
                let request = payment::BatchInitRequest {
                    count: USERS,
                    starting_money: *starting_money,
                    request_id,
                    shards: Vec::new(),
                    first: 0,
                    shard_count: 0,
                };
                said(to.batch_init(within(request, time)).await, |_| Said::Done)
            }
        }
    }

    async fn order(&self, to: Transport, id: &str, time: Duration) -> Result<Said, Status> {
        let mut to = OrderServiceClient::new(to);
        let request_id = id.to_owned();
        match self {
            Self::CreateOrder(user) => {
                let request = order::CreateOrderRequest { user_id: user.to_string(), request_id };
                said(to.create_order(within(request, time)).await, |said| Said::Id(said.order_id))
            }
            Self::AddItem(order_id, item, units) => {
                let request = order::AddItemRequest {
                    order_id: order_id.clone(),
                    item_id: item.to_string(),
                    quantity: *units,
                    request_id,
                };
                let answer = to.add_item(within(request, time)).await;
                said(answer, |said| Said::Amount(said.total_cost))
            }
            Self::RemoveItem(order_id, item) => {
                let request = order::RemoveItemRequest {
                    order_id: order_id.clone(),
                    item_id: item.to_string(),
                    request_id,
                };
                let answer = to.remove_item(within(request, time)).await;
                said(answer, |said| Said::Amount(said.total_cost))
            }
            Self::RemoveOrder(order_id) => {
                let request = order::RemoveOrderRequest { order_id: order_id.clone(), request_id };
                said(to.remove_order(within(request, time)).await, |_| Said::Done)
            }
            Self::FindOrder(order_id) => {
                let request = order::GetOrderRequest { order_id: order_id.clone() };
                let answer = to.get_order(within(request, time)).await;
                said(answer, |said| order_of(said.order.unwrap()))
            }
            _ => {
                let request = order::BatchInitRequest {
                    count: DRAWN,
                    item_count: 1,
                    user_count: 1,
                    item_price: PRICE,
                    request_id,
                    shards: Vec::new(),
                    first: 0,
                    shard_count: 0,
                };
                said(to.batch_init(within(request, time)).await, |_| Said::Done)
            }
        }
    }

    async fn coordinator(&self, to: Transport, id: &str, time: Duration) -> Result<Said, Status> {
        let Self::Checkout(order_id) = self else { unreachable!("{self:?}") };
        let request = CheckoutRequest {
            order_id: order_id.clone(),
            request_id: id.to_owned(),
            ..CheckoutRequest::default()
        };
        let answer = CoordinatorServiceClient::new(to).checkout(within(request, time)).await;
        said(answer, |_| Said::Done)
    }
}

fn within<T>(request: T, time: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    rpc::deadline::set(&mut request, time);
    request
}

fn said<T>(
    answer: Result<Response<T>, Status>,
    read: impl FnOnce(T) -> Said,
) -> Result<Said, Status> {
    answer.map(|answer| read(answer.into_inner()))
}

fn order_of(order: order::Order) -> Said {
    let mut lines: Vec<(u64, u64)> = Vec::new();
    for line in order.lines {
        let item = line.item_id.parse().unwrap();
        match lines.iter_mut().find(|(known, _)| *known == item) {
            Some((_, units)) => *units += line.quantity,
            None => lines.push((item, line.quantity)),
        }
    }
    Said::Order(Order { lines, paid: order.paid }, order.user_id.parse().unwrap())
}

/// A body that is there at once.
pub(crate) fn whole(bytes: Bytes) -> Body {
    Body::new(Full::new(bytes).map_err(|never: std::convert::Infallible| match never {}))
}
