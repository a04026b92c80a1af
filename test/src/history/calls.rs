//! The calls of clients, made over REST or over gRPC ([`super::grpc`]).

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use rpc::net::Transport;
use serde_json::Value as Json;
use tonic::body::Body;
use tower::ServiceExt;
use types::Reason;

use super::models::{Order, PRICE};

/// Orders that batch_init draws: "0" to this number - 1.
pub const DRAWN: u64 = 2;
/// Items: "0" to this number - 1.
pub const ITEMS: u64 = 4;
/// Users: "0" to this number - 1.
pub const USERS: u64 = 4;
/// A foreign participant, in shops that have one. It has one shard, and holds whatever it is asked
/// for.
pub const FOREIGN: &str = "points";
/// The amount of one payment outside of checkouts.
pub const PAYMENT: u64 = 1;

/// A call, without its request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    AddStock(u64, u64),
    Subtract(u64, u64),
    FindItem(u64),
    AddFunds(u64, u64),
    Pay(u64, u64),
    FindUser(u64),
    /// Pays a user's amount for something that this number names.
    PayFor(u64, u64),
    Cancel(u64, u64),
    FindPayment(u64, u64),
    CreateOrder(u64),
    AddItem(String, u64, u64),
    RemoveItem(String, u64),
    RemoveOrder(String),
    FindOrder(String),
    /// With the token that the client read, if it read one.
    Checkout(String, Option<String>),
    /// A client's own transaction, without an order: a user buys units of an item.
    Sell(u64, u64, u64),
    /// The same with a shard that does not exist.
    Misplan(u64, u64, u64),
    InitStock(u64),
    InitUsers(u64),
    InitOrders,
}

/// A definite answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Success without further content.
    Done,
    /// What is available now, or what the order costs now.
    Amount(u64),
    /// The id of a new order.
    Id(String),
    /// Whether a payment stands.
    Paid(bool),
    /// An order's content, its user, and the token of its content.
    Order(Order, u64, String),
    /// A definite refusal: the reason, and if it is told the item or user in question and the
    /// amount that was wanted.
    Refused(String, Option<(u64, u64)>),
}

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// A definite answer.
    Said(Said),
    /// It certainly had no effect.
    Nothing,
    /// It may or may not have had an effect.
    Unknown,
}

impl Ask {
    /// The role that a gRPC client calls.
    pub const fn role(&self) -> &'static str {
        match self {
            Self::AddStock(..) | Self::Subtract(..) | Self::FindItem(_) | Self::InitStock(_) => {
                "stock"
            }
            Self::AddFunds(..)
            | Self::Pay(..)
            | Self::FindUser(_)
            | Self::PayFor(..)
            | Self::Cancel(..)
            | Self::FindPayment(..)
            | Self::InitUsers(_) => "payment",
            Self::Checkout(..) | Self::Sell(..) | Self::Misplan(..) => "coordinator",
            Self::CreateOrder(_)
            | Self::AddItem(..)
            | Self::RemoveItem(..)
            | Self::RemoveOrder(_)
            | Self::FindOrder(_)
            | Self::InitOrders => "order",
        }
    }

    /// The order that the call concerns.
    pub fn order(&self) -> Option<&str> {
        match self {
            Self::AddItem(order, ..)
            | Self::RemoveItem(order, _)
            | Self::RemoveOrder(order)
            | Self::FindOrder(order)
            | Self::Checkout(order, _) => Some(order),
            _ => None,
        }
    }

    /// The payment outside of checkouts that the call concerns: the user, and what it is for.
    pub const fn payment(&self) -> Option<(u64, u64)> {
        match self {
            Self::PayFor(user, what) | Self::Cancel(user, what) | Self::FindPayment(user, what) => {
                Some((*user, *what))
            }
            _ => None,
        }
    }

    /// True if the call changes nothing.
    pub const fn is_read(&self) -> bool {
        matches!(
            self,
            Self::FindItem(_) | Self::FindUser(_) | Self::FindOrder(_) | Self::FindPayment(..)
        )
    }

    /// True if the REST API has the call.
    pub const fn is_rest(&self) -> bool {
        !matches!(self, Self::Sell(..) | Self::Misplan(..))
    }

    /// Makes one attempt at a bridge.
    pub async fn rest(&self, to: Transport, key: Option<&str>) -> Attempt {
        let (method, path) = self.path();
        let mut request = Request::builder().method(method).uri(path);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        if let Self::Checkout(_, Some(token)) = self {
            request = request.header("if-match", token);
        }
        let Ok(response) = to.oneshot(request.body(Body::empty()).unwrap()).await else {
            return Attempt::Unknown;
        };
        let (parts, body) = response.into_parts();
        let Ok(body) = body.collect().await else { return Attempt::Unknown };
        let text = String::from_utf8(body.to_bytes().to_vec()).unwrap();
        if parts.status.is_success() {
            let token = parts.headers.get("etag").map(|token| token.to_str().unwrap());
            return Attempt::Said(self.understand(&text, token));
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
            Self::PayFor(user, what) => post(format!("/payment/pay/{user}/for-{what}/{PAYMENT}")),
            Self::Cancel(user, what) => post(format!("/payment/cancel/{user}/for-{what}")),
            Self::FindPayment(user, what) => {
                (Method::GET, format!("/payment/status/{user}/for-{what}"))
            }
            Self::CreateOrder(user) => post(format!("/orders/create/{user}")),
            Self::AddItem(order, item, units) => {
                post(format!("/orders/addItem/{order}/{item}/{units}"))
            }
            Self::RemoveItem(order, item) => {
                (Method::DELETE, format!("/orders/removeItem/{order}/{item}"))
            }
            Self::RemoveOrder(order) => (Method::DELETE, format!("/orders/remove/{order}")),
            Self::FindOrder(order) => (Method::GET, format!("/orders/find/{order}")),
            Self::Checkout(order, _) => post(format!("/orders/checkout/{order}")),
            Self::Sell(..) | Self::Misplan(..) => unreachable!("{self:?} is asked over gRPC"),
            Self::InitStock(stock) => post(format!("/stock/batch_init/{ITEMS}/{stock}/{PRICE}")),
            Self::InitUsers(credit) => post(format!("/payment/batch_init/{USERS}/{credit}")),
            Self::InitOrders => post(format!("/orders/batch_init/{DRAWN}/1/1/{PRICE}")),
        }
    }

    /// Reads the body of a bridge's success.
    fn understand(&self, text: &str, token: Option<&str>) -> Said {
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
                Said::Order(Order { lines, paid }, user, token.unwrap().to_owned())
            }
            Self::FindPayment(..) => Said::Paid(json()["paid"].as_bool().unwrap()),
            Self::AddStock(..)
            | Self::Subtract(..)
            | Self::AddFunds(..)
            | Self::Pay(..)
            | Self::PayFor(..)
            | Self::Cancel(..)
            | Self::AddItem(..) => Said::Amount(text.rsplit(' ').next().unwrap().parse().unwrap()),
            Self::RemoveItem(..) => {
                let last = text.rsplit(' ').next().unwrap();
                last.parse().map_or(Said::Done, Said::Amount)
            }
            Self::RemoveOrder(_)
            | Self::Checkout(..)
            | Self::Sell(..)
            | Self::Misplan(..)
            | Self::InitStock(_)
            | Self::InitUsers(_)
            | Self::InitOrders => Said::Done,
        }
    }
}
