//! Orders as data: converts records, requests and answers from and to bytes.

use participant::records::{Receipt, Records};
use prost::Message as _;
use proto::{InvalidField, convert, order::v1 as wire};
use storage::{
    KvError, Value, codec,
    record::{self, OrderRecord, order_record},
};
use types::{ItemId, Money, OrderId, Quantity, Role, Stamp, Timestamp, TxId, UserId};

/// A number of units of one item, at the price when they were added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The item.
    pub item_id: ItemId,
    /// Number of units, at least 1.
    pub quantity: Quantity,
    /// Price of one unit.
    pub price: Money,
}

/// The transaction that paid an order, and its receipts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paid {
    /// The transaction that paid.
    pub tx_id: TxId,
    /// The receipts of all branches, in the order of the transaction's branches.
    pub receipts: Vec<Receipt>,
    /// The order's stamp when it was locked, which identifies the content that was sold. `None` in
    /// records of release 0.1.
    pub sold: Option<Stamp>,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The buyer, who need not exist.
    pub user_id: UserId,
    /// The lines, in the order in which they were added.
    pub lines: Vec<Line>,
    /// Sum over all lines.
    pub total_cost: Money,
    /// The last change of the order. Different contents under one id never have the same stamp,
    /// even if the order was removed, overwritten or recreated in between (P13).
    pub stamp: Stamp,
    /// `None` while unpaid. Once set it never changes.
    pub paid: Option<Paid>,
    /// The change that created the order, or that last overwrote it by batch_init.
    pub incarnation: Stamp,
    /// When the latest paid order was paid among those that batch_init overwrote under this id; 0
    /// if none was. An audit needs it, because no order shows any more what that one sold.
    pub last_overwritten_paid_at: Timestamp,
}

/// The order service's domain.
#[derive(Debug, Clone, Copy, Default)]
pub struct Orders;

/// A call that concerns one shard.
#[derive(Debug, Clone)]
pub enum Op {
    /// Creates an empty order.
    Create(OrderId, UserId),
    /// Reads an order.
    Get(OrderId),
    /// Adds units at a price.
    Add(OrderId, ItemId, Quantity, Money),
    /// Removes one unit.
    RemoveItem(OrderId, ItemId),
    /// Deletes an unpaid order.
    Remove(OrderId),
    /// Overwrites the orders with these numbers.
    Init {
        /// Numbers of the orders; an order's number is its id.
        numbers: Vec<u64>,
        /// What the orders are drawn from.
        draw: Draw,
    },
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The order as it is.
    Order(Box<Order>),
    /// The order's cost right after a change.
    TotalCost(u64),
}

/// What a Prepare asks for: to sell the order as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The order.
    pub order_id: OrderId,
    /// The order's stamp when it was read.
    pub stamp: Stamp,
}

/// What batch_init draws orders from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Seed of the random sequence.
    pub seed: u64,
    /// Number of items; their ids are "0" to `item_count` - 1.
    pub item_count: u64,
    /// Number of users; their ids are "0" to `user_count` - 1.
    pub user_count: u64,
    /// Price of one unit of any item.
    pub item_price: Money,
}

impl Records for Orders {
    type Record = Order;
    type Op = Op;
    type Reply = Reply;
    type Payload = Lock;
    type Hold = OrderId;

    fn role(&self) -> Role {
        Role::Order
    }

    fn encode_record(&self, order: &Order) -> Value {
        codec::encode(&stored(order))
    }

    fn decode_record(&self, row: &[u8], value: &[u8]) -> Result<Order, KvError> {
        let record: OrderRecord = codec::decode(row, value)?;
        decode_order(record).map_err(|error| codec::corrupt(row, &error))
    }

    fn encode_hold(&self, order_id: &OrderId) -> Vec<u8> {
        order_id.as_str().as_bytes().to_vec()
    }

    fn decode_hold(&self, bytes: &[u8]) -> Result<OrderId, InvalidField> {
        let text = std::str::from_utf8(bytes).map_err(|error| InvalidField::new("hold", error))?;
        convert::order_id("hold", text)
    }

    fn encode_reply(&self, reply: &Reply) -> Vec<u8> {
        match reply {
            Reply::TotalCost(cost) => cost.encode_to_vec(),
            // Reads carry no request id, so this is never stored.
            Reply::Order(_) => Vec::new(),
        }
    }

    fn decode_reply(&self, bytes: &[u8]) -> Result<Reply, InvalidField> {
        let cost = convert::message("reply", bytes)?;
        Ok(Reply::TotalCost(cost))
    }

    fn decode_payload(&self, bytes: &[u8]) -> Result<Lock, InvalidField> {
        let payload: wire::LockOrder = convert::message("payload", bytes)?;
        let order_id = convert::order_id("payload.order_id", &payload.order_id)?;
        let stamp = match payload.etag.as_str() {
            // A coordinator of release 0.1 sends the version alone. Only changes made by that
            // release have 0 as the number of their stamp.
            "" => Stamp::new(payload.version, 0),
            etag => etag.parse().map_err(|error| InvalidField::new("payload.etag", error))?,
        };
        Ok(Lock { order_id, stamp })
    }

    fn decode_query(&self, bytes: &[u8]) -> Result<Op, InvalidField> {
        let query: wire::GetOrderRequest = convert::message("query", bytes)?;
        Ok(Op::Get(convert::order_id("query.order_id", &query.order_id)?))
    }

    fn encode_answer(&self, query: &Op, reply: &Reply, at: Timestamp) -> Vec<u8> {
        match (query, reply) {
            (Op::Get(id), Reply::Order(order)) => {
                let order = Some(order.to_wire(id));
                wire::GetOrderResponse { order, read_ts: at.0 }.encode_to_vec()
            }
            // The only query is Get, which is answered with an order.
            _ => Vec::new(),
        }
    }
}

impl Order {
    /// The order as a message.
    pub fn to_wire(&self, id: &OrderId) -> wire::Order {
        let line = |line: &Line| wire::order::Line {
            item_id: line.item_id.to_string(),
            quantity: line.quantity.get(),
            price: line.price.get(),
        };
        wire::Order {
            order_id: id.to_string(),
            user_id: self.user_id.to_string(),
            paid: self.paid.is_some(),
            lines: self.lines.iter().map(line).collect(),
            total_cost: self.total_cost.get(),
            version: self.stamp.start.0,
            etag: self.stamp.to_string(),
            sold_etag: self
                .paid
                .as_ref()
                .and_then(|paid| paid.sold)
                .map(|stamp| stamp.to_string())
                .unwrap_or_default(),
        }
    }
}

fn stored(order: &Order) -> OrderRecord {
    let line = |line: &Line| order_record::Line {
        item_id: line.item_id.to_string(),
        quantity: line.quantity.get(),
        price: line.price.get(),
    };
    OrderRecord {
        user_id: order.user_id.to_string(),
        lines: order.lines.iter().map(line).collect(),
        total_cost: order.total_cost.get(),
        version: order.stamp.start.0,
        version_change: order.stamp.change,
        paid: order.paid.as_ref().map(stored_paid),
        incarnation: order.incarnation.start.0,
        incarnation_change: order.incarnation.change,
        last_overwritten_paid_at: order.last_overwritten_paid_at.0,
    }
}

fn stored_paid(paid: &Paid) -> order_record::Paid {
    let sold = paid.sold.unwrap_or_default();
    order_record::Paid {
        sold_version: sold.start.0,
        sold_change: sold.change,
        tx_id: paid.tx_id.0.to_vec().into(),
        receipts: paid
            .receipts
            .iter()
            .map(|receipt| order_record::Receipt {
                branch: Some(record::Branch {
                    service: receipt.branch.service.to_string(),
                    shard: u32::from(receipt.branch.shard.0),
                }),
                receipt: receipt.receipt.clone().into(),
            })
            .collect(),
    }
}

fn decode_order(record: OrderRecord) -> Result<Order, InvalidField> {
    let line = |line: order_record::Line| {
        Ok(Line {
            item_id: convert::item_id("lines.item_id", &line.item_id)?,
            quantity: convert::quantity("lines.quantity", line.quantity, 1)?,
            price: convert::money("lines.price", line.price, 0)?,
        })
    };
    Ok(Order {
        user_id: convert::user_id("user_id", &record.user_id)?,
        lines: record.lines.into_iter().map(line).collect::<Result<_, InvalidField>>()?,
        total_cost: convert::money("total_cost", record.total_cost, 0)?,
        stamp: Stamp::new(record.version, record.version_change),
        paid: record.paid.map(decode_paid).transpose()?,
        incarnation: Stamp::new(record.incarnation, record.incarnation_change),
        last_overwritten_paid_at: Timestamp(record.last_overwritten_paid_at),
    })
}

fn decode_paid(paid: order_record::Paid) -> Result<Paid, InvalidField> {
    let receipt = |receipt: order_record::Receipt| {
        let branch = receipt.branch.map(|branch| proto::types::v1::Branch {
            service: branch.service,
            shard: branch.shard,
        });
        let branch = convert::branch(branch.as_ref())?;
        Ok(Receipt { branch, receipt: receipt.receipt.to_vec() })
    };
    let sold = Stamp::new(paid.sold_version, paid.sold_change);
    Ok(Paid {
        sold: (sold != Stamp::default()).then_some(sold),
        tx_id: convert::tx_id(&paid.tx_id)?,
        receipts: paid.receipts.into_iter().map(receipt).collect::<Result<_, InvalidField>>()?,
    })
}
