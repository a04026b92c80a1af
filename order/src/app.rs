//! Orders as a lane's domain: operations, locks, and how they are stored.

use participant::{
    core::Rows,
    domain::{Domain, Executed, Judged, Receipt, Row, row},
};
use prost::Message;
use proto::{InvalidField, convert, order::v1 as wire};
use storage::{
    KvError, Value, codec,
    keys::{Kind, Owner},
    record::{self, OrderRecord, order_record},
};
use types::{ItemId, Money, OrderId, Quantity, Reason, Refusal, Stamp, Timestamp, TxId, UserId};

use crate::domain::{Draw, Line, Order, Paid};

/// Name in branches.
pub const NAME: &str = "order";

/// The order service's domain.
#[derive(Debug, Clone, Copy, Default)]
pub struct Orders;

/// A call that concerns one shard.
#[derive(Debug, Clone)]
pub enum Op {
    /// Make an empty order.
    Create(OrderId, UserId),
    /// Read an order.
    Get(OrderId),
    /// Add units at a price.
    Add(OrderId, ItemId, Quantity, Money),
    /// Take one unit off.
    RemoveItem(OrderId, ItemId),
    /// Delete an unpaid order.
    Remove(OrderId),
    /// Overwrite the orders with these numbers.
    Init {
        /// Numbers of the records, which are their ids.
        numbers: Vec<u64>,
        /// From what they are drawn.
        draw: Draw,
    },
}

/// What a call is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An order as it stands.
    Order(Box<Order>),
    /// Its cost right after a change.
    TotalCost(u64),
}

/// What a Prepare asks for: the order as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    /// The order.
    pub order_id: OrderId,
    /// The stamp that was read.
    pub stamp: Stamp,
}

fn order_row(id: &OrderId) -> Row {
    row(Kind::Order, id.as_str())
}

fn refuse(reason: Reason, id: &OrderId) -> Refusal {
    Refusal::new(reason).with("order_id", id)
}

fn is_locked(rows: &Rows<'_, Orders>, row: &[u8]) -> bool {
    rows.holders(row).next().is_some()
}

impl Orders {
    /// Changes an unlocked order.
    fn change(
        id: &OrderId,
        rows: &mut Rows<'_, Self>,
        change: impl FnOnce(&mut Order, Stamp) -> Result<(), Reason>,
    ) -> Executed<Reply> {
        let row = order_row(id);
        if is_locked(rows, &row) {
            return Executed::Wait(row);
        }
        let stamp = rows.stamp();
        let Some(mut order) = rows.get(&row).cloned() else {
            return Executed::Refused(refuse(Reason::OrderNotFound, id));
        };
        match change(&mut order, stamp) {
            Ok(()) => {
                let total_cost = order.total_cost.get();
                rows.put(row, order);
                Executed::Done(Reply::TotalCost(total_cost))
            }
            Err(reason) => Executed::Refused(refuse(reason, id)),
        }
    }

    fn create(id: &OrderId, user_id: &UserId, rows: &mut Rows<'_, Self>) -> Executed<Reply> {
        let row = order_row(id);
        if rows.get(&row).is_some() {
            // Ids of new orders are derived from request ids, and this one's memory is over.
            return Executed::Refused(refuse(Reason::RequestIdReused, id));
        }
        let stamp = rows.stamp();
        rows.put(row, Order::empty(user_id.clone(), stamp));
        Executed::Done(Reply::TotalCost(0))
    }

    fn remove(id: &OrderId, rows: &mut Rows<'_, Self>) -> Executed<Reply> {
        let row = order_row(id);
        if is_locked(rows, &row) {
            return Executed::Wait(row);
        }
        match rows.get(&row).map(Order::check_unpaid) {
            None => Executed::Refused(refuse(Reason::OrderNotFound, id)),
            Some(Err(reason)) => Executed::Refused(refuse(reason, id)),
            Some(Ok(())) => {
                rows.delete(row);
                Executed::Done(Reply::TotalCost(0))
            }
        }
    }

    fn init(numbers: &[u64], draw: &Draw, rows: &mut Rows<'_, Self>) -> Executed<Reply> {
        let ids: Vec<_> = numbers.iter().map(|number| OrderId::numbered(*number)).collect();
        if let Some(id) = ids.iter().find(|id| is_locked(rows, &order_row(id))) {
            // A prepared order is resolved before it is overwritten.
            return Executed::Wait(order_row(id));
        }
        let stamp = rows.stamp();
        let orders = numbers.iter().map(|number| draw.order(*number, stamp));
        let Some(orders) = orders.collect::<Option<Vec<_>>>() else {
            return Executed::Refused(Refusal::new(Reason::Overflow));
        };
        for (id, order) in ids.iter().zip(orders) {
            let row = order_row(id);
            let order = match rows.get(&row) {
                Some(before) => order.instead_of(before),
                None => order,
            };
            rows.put(row, order);
        }
        Executed::Done(Reply::TotalCost(0))
    }
}

impl Domain for Orders {
    type Record = Order;
    type Op = Op;
    type Reply = Reply;
    type Payload = Lock;
    type Hold = OrderId;

    fn owner(&self) -> Owner {
        Owner::Order
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn encode_record(&self, order: &Order) -> Value {
        codec::encode(&OrderRecord {
            user_id: order.user_id.to_string(),
            lines: order
                .lines
                .iter()
                .map(|line| order_record::Line {
                    item_id: line.item_id.to_string(),
                    quantity: line.quantity.get(),
                    price: line.price.get(),
                })
                .collect(),
            total_cost: order.total_cost.get(),
            version: order.stamp.start.0,
            version_change: order.stamp.change,
            paid: order.paid.as_ref().map(encode_paid),
            incarnation: order.incarnation.start.0,
            incarnation_change: order.incarnation.change,
            last_overwritten_paid_at: order.last_overwritten_paid_at.0,
        })
    }

    fn record_bytes(&self, order: &Order) -> usize {
        // Tags, lengths and numbers take up to these many bytes beside the texts.
        let lines = order.lines.iter().map(|line| line.item_id.as_str().len() + 28);
        let paid = order.paid.iter().flat_map(|paid| &paid.receipts);
        let receipts =
            paid.map(|receipt| receipt.branch.service.as_str().len() + receipt.receipt.len() + 20);
        order.user_id.as_str().len() + lines.sum::<usize>() + receipts.sum::<usize>() + 128
    }

    fn decode_record(&self, row: &[u8], value: &[u8]) -> Result<Order, KvError> {
        let record: OrderRecord = codec::decode(row, value)?;
        decode_order(record)
            .map_err(|error| KvError::Corrupt { key: codec::hex(row), problem: error.to_string() })
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
        let cost = u64::decode(bytes).map_err(|error| InvalidField::new("reply", error))?;
        Ok(Reply::TotalCost(cost))
    }

    fn decode_payload(&self, bytes: &[u8]) -> Result<Lock, InvalidField> {
        let payload =
            wire::LockOrder::decode(bytes).map_err(|error| InvalidField::new("payload", error))?;
        let order_id = convert::order_id("payload.order_id", &payload.order_id)?;
        let stamp = match payload.etag.as_str() {
            // A coordinator of release 0.1 knows the version alone. No change has this stamp but one that
            // its release left behind.
            "" => Stamp::new(payload.version, 0),
            etag => etag.parse().map_err(|error| InvalidField::new("payload.etag", error))?,
        };
        Ok(Lock { order_id, stamp })
    }

    fn decode_query(&self, bytes: &[u8]) -> Result<Op, InvalidField> {
        let query = wire::GetOrderRequest::decode(bytes)
            .map_err(|error| InvalidField::new("query", error))?;
        Ok(Op::Get(convert::order_id("query.order_id", &query.order_id)?))
    }

    fn encode_answer(&self, query: &Op, reply: &Reply, at: Timestamp) -> Vec<u8> {
        match (query, reply) {
            (Op::Get(id), Reply::Order(order)) => {
                let order = Some(order.to_wire(id));
                wire::GetOrderResponse { order, read_ts: at.0 }.encode_to_vec()
            }
            // The only query is Get, and it is answered with an order.
            _ => Vec::new(),
        }
    }

    fn op_rows(&self, op: &Op) -> Vec<Row> {
        match op {
            Op::Create(id, _)
            | Op::Get(id)
            | Op::Add(id, ..)
            | Op::RemoveItem(id, _)
            | Op::Remove(id) => vec![order_row(id)],
            // What was paid must not go unnoticed.
            Op::Init { numbers, .. } => {
                numbers.iter().map(|number| order_row(&OrderId::numbered(*number))).collect()
            }
        }
    }

    fn payload_rows(&self, lock: &Lock) -> Vec<Row> {
        vec![order_row(&lock.order_id)]
    }

    fn hold_rows(&self, order_id: &OrderId) -> Vec<Row> {
        vec![order_row(order_id)]
    }

    fn execute(&self, op: &Op, rows: &mut Rows<'_, Self>) -> Executed<Reply> {
        match op {
            Op::Create(id, user_id) => Self::create(id, user_id, rows),
            Op::Get(id) => {
                let row = order_row(id);
                if is_locked(rows, &row) {
                    // It may be paid already without this record's knowing.
                    return Executed::Wait(row);
                }
                match rows.get(&row) {
                    Some(order) => Executed::Done(Reply::Order(Box::new(order.clone()))),
                    None => Executed::Refused(refuse(Reason::OrderNotFound, id)),
                }
            }
            Op::Add(id, item_id, quantity, price) => {
                Self::change(id, rows, |order, stamp| order.add(item_id, *quantity, *price, stamp))
            }
            Op::RemoveItem(id, item_id) => {
                Self::change(id, rows, |order, stamp| order.remove(item_id, stamp))
            }
            Op::Remove(id) => Self::remove(id, rows),
            Op::Init { numbers, draw } => Self::init(numbers, draw, rows),
        }
    }

    fn prepare(&self, lock: &Lock, rows: &mut Rows<'_, Self>) -> Judged<OrderId> {
        let row = order_row(&lock.order_id);
        if is_locked(rows, &row) {
            return Judged::Short(row);
        }
        match rows.get(&row) {
            Some(order) if order.paid.is_some() => {
                Judged::No(refuse(Reason::AlreadyPaid, &lock.order_id))
            }
            Some(order) if order.stamp == lock.stamp => {
                Judged::Yes { hold: lock.order_id.clone(), receipt: Vec::new() }
            }
            Some(_) | None => Judged::No(refuse(Reason::OrderChanged, &lock.order_id)),
        }
    }

    fn commit(
        &self,
        tx_id: TxId,
        order_id: &OrderId,
        receipts: &[Receipt],
        rows: &mut Rows<'_, Self>,
    ) {
        let row = order_row(order_id);
        let stamp = rows.stamp();
        if let Some(mut order) = rows.get(&row).cloned() {
            order.pay(tx_id, receipts.to_vec(), stamp);
            rows.put(row, order);
        }
    }

    fn abort(&self, _: &OrderId, _: &mut Rows<'_, Self>) {
        // The lock is the hold itself; nothing was written.
    }
}

impl Order {
    /// As the wire shows it.
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

fn encode_paid(paid: &Paid) -> order_record::Paid {
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

#[cfg(test)]
mod tests;
