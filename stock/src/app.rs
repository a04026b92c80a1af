//! Items as a lane's domain: operations, holds, and how they are stored.

use participant::{
    balance::{Balance, Taken},
    core::Rows,
    domain::{Domain, Executed, Judged, Receipt, Row, row},
};
use prost::Message;
use proto::{InvalidField, convert, stock::v1 as wire};
use storage::{
    KvError, Value, codec,
    keys::{Kind, Owner},
    record::ItemRecord,
};
use types::{ItemId, Money, Quantity, Reason, Refusal, Stamp, TxId};

use crate::domain::{HeldLine, Item, held};

/// Name in branches.
pub const NAME: &str = "stock";
/// Items of one order on one shard at most.
const LINES_MAX: usize = 1000;

/// The stock service's domain.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stock;

/// A call that concerns one shard.
#[derive(Debug, Clone)]
pub enum Op {
    /// Make an item without stock.
    Create(ItemId, Money),
    /// Read an item.
    Get(ItemId),
    /// Raise its stock.
    Add(ItemId, Quantity),
    /// Lower its stock.
    Subtract(ItemId, Quantity),
    /// Overwrite the items with these numbers.
    Init {
        /// Numbers of the records, which are their ids.
        numbers: Vec<u64>,
        /// Units of each.
        stock: Quantity,
        /// Price of each.
        price: Money,
    },
}

/// What a call is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// An item as it stands.
    Item(Item),
    /// Units right after a change.
    Stock(u64),
}

fn item_row(id: &ItemId) -> Row {
    row(Kind::Item, id.as_str())
}

fn unknown(reason: Reason, id: &ItemId) -> Refusal {
    Refusal::new(reason).with("item_id", id)
}

impl Stock {
    fn change(
        id: &ItemId,
        rows: &mut Rows<'_, Self>,
        change: impl FnOnce(Item, Quantity) -> Executed<Balance<Quantity>>,
    ) -> Executed<Reply> {
        let row = item_row(id);
        let Some(item) = rows.get(&row).copied() else {
            return Executed::Refused(unknown(Reason::ItemNotFound, id));
        };
        let held = held_on(rows, &row, id, item.stock.incarnation);
        match change(item, held) {
            Executed::Done(stock) => {
                rows.put(row, item.with(stock));
                Executed::Done(Reply::Stock(stock.available.get()))
            }
            Executed::Refused(refusal) => Executed::Refused(refusal.with("item_id", id)),
            Executed::Wait(row) => Executed::Wait(row),
        }
    }

    fn create(id: &ItemId, price: Money, rows: &mut Rows<'_, Self>) -> Executed<Reply> {
        let row = item_row(id);
        if rows.get(&row).is_some() {
            // Ids of new items are derived from request ids, and this one's memory is over.
            return Executed::Refused(unknown(Reason::RequestIdReused, id));
        }
        let stamp = rows.stamp();
        rows.put(row, Item::new(price, Quantity::ZERO, stamp));
        Executed::Done(Reply::Stock(0))
    }
}

fn held_on(rows: &Rows<'_, Stock>, row: &[u8], id: &ItemId, incarnation: Stamp) -> Quantity {
    held(rows.holders(row).map(|holder| holder.hold.as_slice()), id, incarnation)
}

fn out_of_stock(wanted: Quantity, item: &Item, held: Quantity) -> Refusal {
    Refusal::new(Reason::OutOfStock)
        .with("wanted", wanted)
        .with("available", item.stock.available)
        .with("held", held)
}

impl Domain for Stock {
    type Record = Item;
    type Op = Op;
    type Reply = Reply;
    type Payload = Vec<(ItemId, Quantity)>;
    type Hold = Vec<HeldLine>;

    fn owner(&self) -> Owner {
        Owner::Stock
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn encode_record(&self, item: &Item) -> Value {
        codec::encode(&ItemRecord {
            price: item.price.get(),
            available: item.stock.available.get(),
            supplied: item.stock.supplied,
            incarnation: item.stock.incarnation.start.0,
            incarnation_change: item.stock.incarnation.change,
        })
    }

    fn record_bytes(&self, _item: &Item) -> usize {
        // The format, and five numbers with their tags.
        1 + 5 * 11
    }

    fn decode_record(&self, row: &[u8], value: &[u8]) -> Result<Item, KvError> {
        let record: ItemRecord = codec::decode(row, value)?;
        let corrupt = |error: types::AmountError| KvError::Corrupt {
            key: codec::hex(row),
            problem: error.to_string(),
        };
        Ok(Item {
            price: Money::new(record.price).map_err(corrupt)?,
            stock: Balance {
                available: Quantity::new(record.available).map_err(corrupt)?,
                supplied: record.supplied,
                incarnation: Stamp::new(record.incarnation, record.incarnation_change),
            },
        })
    }

    fn encode_hold(&self, hold: &Vec<HeldLine>) -> Vec<u8> {
        receipt_of(hold).encode_to_vec()
    }

    fn decode_hold(&self, bytes: &[u8]) -> Result<Vec<HeldLine>, InvalidField> {
        let hold = wire::HoldStockReceipt::decode(bytes)
            .map_err(|error| InvalidField::new("hold", error))?;
        let lines = hold.lines.into_iter().map(|line| {
            Ok(HeldLine {
                item_id: convert::item_id("hold.lines.item_id", &line.item_id)?,
                quantity: convert::quantity("hold.lines.quantity", line.quantity, 1)?,
                incarnation: Stamp::new(line.incarnation, line.incarnation_change),
            })
        });
        lines.collect()
    }

    fn encode_reply(&self, reply: &Reply) -> Vec<u8> {
        match reply {
            Reply::Stock(units) => units.encode_to_vec(),
            // Reads carry no request id, so this is never stored.
            Reply::Item(_) => Vec::new(),
        }
    }

    fn decode_reply(&self, bytes: &[u8]) -> Result<Reply, InvalidField> {
        let units = u64::decode(bytes).map_err(|error| InvalidField::new("reply", error))?;
        Ok(Reply::Stock(units))
    }

    fn decode_payload(&self, bytes: &[u8]) -> Result<Vec<(ItemId, Quantity)>, InvalidField> {
        let payload =
            wire::HoldStock::decode(bytes).map_err(|error| InvalidField::new("payload", error))?;
        if payload.lines.is_empty() || payload.lines.len() > LINES_MAX {
            return Err(InvalidField::new("payload.lines", "must be 1 to 1000"));
        }
        let lines = payload.lines.into_iter().map(|line| {
            Ok((
                convert::item_id("payload.lines.item_id", &line.item_id)?,
                convert::quantity("payload.lines.quantity", line.quantity, 1)?,
            ))
        });
        let lines: Vec<_> = lines.collect::<Result<_, InvalidField>>()?;
        let mut ids: Vec<_> = lines.iter().map(|(id, _)| id).collect();
        ids.sort();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(InvalidField::new("payload.lines", "must name each item once"));
        }
        Ok(lines)
    }

    fn op_rows(&self, op: &Op) -> Vec<Row> {
        match op {
            Op::Create(id, _) | Op::Get(id) | Op::Add(id, _) | Op::Subtract(id, _) => {
                vec![item_row(id)]
            }
            // It overwrites without looking.
            Op::Init { .. } => Vec::new(),
        }
    }

    fn payload_rows(&self, payload: &Vec<(ItemId, Quantity)>) -> Vec<Row> {
        payload.iter().map(|(id, _)| item_row(id)).collect()
    }

    fn hold_rows(&self, hold: &Vec<HeldLine>) -> Vec<Row> {
        hold.iter().map(|line| item_row(&line.item_id)).collect()
    }

    fn execute(&self, op: &Op, rows: &mut Rows<'_, Self>) -> Executed<Reply> {
        match op {
            Op::Create(id, price) => Self::create(id, *price, rows),
            Op::Get(id) => match rows.get(&item_row(id)) {
                Some(item) => Executed::Done(Reply::Item(*item)),
                None => Executed::Refused(unknown(Reason::ItemNotFound, id)),
            },
            Op::Add(id, amount) => {
                Self::change(id, rows, |item, held| match item.stock.supply(*amount, held) {
                    Ok(stock) => Executed::Done(stock),
                    Err(reason) => Executed::Refused(Refusal::new(reason)),
                })
            }
            Op::Subtract(id, amount) => {
                Self::change(id, rows, |item, held| match item.stock.take(*amount, held) {
                    Taken::Done(stock) => Executed::Done(stock),
                    Taken::Wait => Executed::Wait(item_row(id)),
                    Taken::Short => Executed::Refused(out_of_stock(*amount, &item, held)),
                })
            }
            Op::Init { numbers, stock, price } => {
                let item = Item::new(*price, *stock, rows.stamp());
                for number in numbers {
                    rows.put(item_row(&ItemId::numbered(*number)), item);
                }
                Executed::Done(Reply::Stock(0))
            }
        }
    }

    fn prepare(
        &self,
        payload: &Vec<(ItemId, Quantity)>,
        rows: &mut Rows<'_, Self>,
    ) -> Judged<Vec<HeldLine>> {
        let mut changed = Vec::with_capacity(payload.len());
        let mut hold = Vec::with_capacity(payload.len());
        let mut short = None;
        for (id, quantity) in payload {
            let row = item_row(id);
            let Some(item) = rows.get(&row).copied() else {
                return Judged::No(unknown(Reason::UnknownItem, id));
            };
            let held = held_on(rows, &row, id, item.stock.incarnation);
            match item.stock.hold(*quantity, held) {
                Taken::Done(stock) => {
                    let incarnation = stock.incarnation;
                    changed.push((row, item.with(stock)));
                    hold.push(HeldLine { item_id: id.clone(), quantity: *quantity, incarnation });
                }
                Taken::Wait => short = short.or(Some(row)),
                Taken::Short => {
                    return Judged::No(out_of_stock(*quantity, &item, held).with("item_id", id));
                }
            }
        }
        if let Some(row) = short {
            return Judged::Short(row);
        }
        for (row, item) in changed {
            rows.put(row, item);
        }
        let receipt = receipt_of(&hold).encode_to_vec();
        Judged::Yes { hold, receipt }
    }

    fn commit(&self, _: TxId, _: &Vec<HeldLine>, _: &[Receipt], _: &mut Rows<'_, Self>) {
        // The vote took the units off already, and the order says who bought them.
    }

    fn abort(&self, hold: &Vec<HeldLine>, rows: &mut Rows<'_, Self>) {
        for line in hold {
            let row = item_row(&line.item_id);
            if let Some(item) = rows.get(&row).copied() {
                let stock = item.stock.give_back(line.quantity, line.incarnation);
                if stock != item.stock {
                    rows.put(row, item.with(stock));
                }
            }
        }
    }
}

/// A hold as the primary gets it and as it is stored.
fn receipt_of(hold: &[HeldLine]) -> wire::HoldStockReceipt {
    let lines = hold.iter().map(|line| wire::hold_stock_receipt::Line {
        item_id: line.item_id.to_string(),
        quantity: line.quantity.get(),
        incarnation: line.incarnation.start.0,
        incarnation_change: line.incarnation.change,
    });
    wire::HoldStockReceipt { lines: lines.collect() }
}

#[cfg(test)]
mod tests;
