//! A call to the shop, by either protocol, and its outcome.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

/// Longest wait for an answer: more than the shop's own deadline of 30 s, so that its answer
/// counts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
/// Longest wait for a `batch_init`, which clients give 60 s.
pub(crate) const FILL_PATIENCE: Duration = Duration::from_mins(2);

/// A call to the shop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// Creates an order of a user.
    CreateOrder { user: String },
    /// Adds one unit of an item to an order.
    AddItem { order: String, item: String },
    /// Buys an order.
    Checkout { order: String },
    /// Reads an order.
    FindOrder { order: String },
    /// Reads an item.
    FindItem { item: String },
    /// Reads a user.
    FindUser { user: String },
    /// Creates an item without stock.
    CreateItem { price: u64 },
    /// Creates a user without credit.
    CreateUser,
    /// Overwrites the items `0..count`.
    FillStock { count: u64, stock: u64, price: u64 },
    /// Overwrites the users `0..count`.
    FillUsers { count: u64, credit: u64 },
    /// Overwrites the orders `0..count`, each with two random units of the items below `items`.
    FillOrders { count: u64, items: u64, users: u64, price: u64 },
}

impl Call {
    /// Method and path of the call by REST.
    pub(crate) fn rest(&self) -> (Method, String) {
        let post = |path| (Method::POST, path);
        let get = |path| (Method::GET, path);
        match self {
            Self::CreateOrder { user } => post(format!("/orders/create/{user}")),
            Self::AddItem { order, item } => post(format!("/orders/addItem/{order}/{item}/1")),
            Self::Checkout { order } => post(format!("/orders/checkout/{order}")),
            Self::FindOrder { order } => get(format!("/orders/find/{order}")),
            Self::FindItem { item } => get(format!("/stock/find/{item}")),
            Self::FindUser { user } => get(format!("/payment/find_user/{user}")),
            Self::CreateItem { price } => post(format!("/stock/item/create/{price}")),
            Self::CreateUser => post("/payment/create_user".to_owned()),
            Self::FillStock { count, stock, price } => {
                post(format!("/stock/batch_init/{count}/{stock}/{price}"))
            }
            Self::FillUsers { count, credit } => {
                post(format!("/payment/batch_init/{count}/{credit}"))
            }
            Self::FillOrders { count, items, users, price } => {
                post(format!("/orders/batch_init/{count}/{items}/{users}/{price}"))
            }
        }
    }

    /// The longest wait for its answer.
    pub(crate) const fn patience(&self) -> Duration {
        match self {
            Self::FillStock { .. } | Self::FillUsers { .. } | Self::FillOrders { .. } => {
                FILL_PATIENCE
            }
            Self::CreateOrder { .. }
            | Self::AddItem { .. }
            | Self::Checkout { .. }
            | Self::FindOrder { .. }
            | Self::FindItem { .. }
            | Self::FindUser { .. }
            | Self::CreateItem { .. }
            | Self::CreateUser => PATIENCE,
        }
    }
}

/// Why a call did not do what it asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// A definite refusal. Nothing was changed.
    #[error("refused: {0}")]
    Refused(String),
    /// Refused as too much. Nothing was begun.
    #[error("{0}")]
    Shed(String),
    /// Failed in any other way. The call may have taken effect.
    #[error("{0}")]
    Failed(String),
}

/// The outcome of a call.
pub(crate) type Outcome = Result<Reply, Trouble>;

/// An order as it was read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) paid: bool,
    pub(crate) user: String,
    /// Items and quantities.
    pub(crate) lines: Vec<(String, u64)>,
    pub(crate) cost: u64,
}

/// The reply of a call that did what it asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    /// A REST body, not parsed yet, as most measured calls do not need it.
    Body(Bytes),
    /// From gRPC: the id of what was created.
    Id(String),
    /// From gRPC: an order.
    Order(Order),
    /// From gRPC: an item's stock or a user's credit.
    Amount(u64),
    /// From gRPC: nothing that matters.
    Nothing,
}

impl Reply {
    /// The id of what was created.
    pub(crate) fn id(&self) -> Result<String, Trouble> {
        match self {
            Self::Id(id) => Ok(id.clone()),
            Self::Body(body) => {
                let value = json(body)?;
                ["order_id", "item_id", "user_id"]
                    .iter()
                    .find_map(|name| value[*name].as_str())
                    .map(str::to_owned)
                    .ok_or_else(|| odd("an answer without an id"))
            }
            Self::Order(_) | Self::Amount(_) | Self::Nothing => Err(odd("an answer without an id")),
        }
    }

    /// An item's stock or a user's credit.
    pub(crate) fn amount(&self) -> Result<u64, Trouble> {
        match self {
            Self::Amount(amount) => Ok(*amount),
            Self::Body(body) => {
                let value = json(body)?;
                ["stock", "credit"]
                    .iter()
                    .find_map(|name| value[*name].as_u64())
                    .ok_or_else(|| odd("an answer without an amount"))
            }
            Self::Id(_) | Self::Order(_) | Self::Nothing => Err(odd("an answer without an amount")),
        }
    }

    /// An order.
    pub(crate) fn order(&self) -> Result<Order, Trouble> {
        match self {
            Self::Order(order) => Ok(order.clone()),
            Self::Body(body) => {
                order(&json(body)?).ok_or_else(|| odd("an answer without an order"))
            }
            Self::Id(_) | Self::Amount(_) | Self::Nothing => Err(odd("an answer without an order")),
        }
    }
}

fn order(value: &Value) -> Option<Order> {
    let line = |line: &Value| Some((line[0].as_str()?.to_owned(), line[1].as_u64()?));
    Some(Order {
        paid: value["paid"].as_bool()?,
        user: value["user_id"].as_str()?.to_owned(),
        lines: value["items"].as_array()?.iter().map(line).collect::<Option<_>>()?,
        cost: value["total_cost"].as_u64()?,
    })
}

fn json(body: &[u8]) -> Result<Value, Trouble> {
    serde_json::from_slice(body).map_err(|_| odd("an answer that is not JSON"))
}

fn odd(what: &str) -> Trouble {
    Trouble::Failed(what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_read_as_the_contract_has_them() {
        let body = |text: &'static str| Reply::Body(Bytes::from_static(text.as_bytes()));
        assert_eq!(body(r#"{"order_id": "a"}"#).id(), Ok("a".to_owned()));
        assert_eq!(body(r#"{"stock": 3, "price": 9}"#).amount(), Ok(3));
        assert_eq!(body(r#"{"user_id": "u", "credit": 4}"#).amount(), Ok(4));
        let order = body(
            r#"{"order_id":"1","paid":true,"items":[["4",2],["9",1]],"user_id":"u","total_cost":5}"#,
        );
        let lines = vec![("4".to_owned(), 2), ("9".to_owned(), 1)];
        let read = Order { paid: true, user: "u".to_owned(), lines, cost: 5 };
        assert_eq!(order.order(), Ok(read));
        assert!(body("Checkout successful").order().is_err());
    }
}
