//! Items as data: converts records, requests and answers from and to bytes.

use participant::{balance::Balance, records::Records};
use prost::Message as _;
use proto::{InvalidField, convert, stock::v1 as wire};
use storage::{KvError, Value, codec, record::ItemRecord};
use types::{AmountError, ItemId, Money, Quantity, Role, Stamp};

/// Upper limit on the items of one order on one shard.
pub(crate) const LINES_MAX: usize = 1000;

/// An item: its price and its units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Price of one unit.
    pub price: Money,
    /// Units available and supplied.
    pub stock: Balance<Quantity>,
}

/// One item's share of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLine {
    /// The item that the units came from.
    pub item_id: ItemId,
    /// Number of units set aside.
    pub quantity: Quantity,
    /// Incarnation of the item that the units came from.
    pub incarnation: Stamp,
}

/// The stock service's domain.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stock;

/// A call that concerns one shard.
#[derive(Debug, Clone)]
pub enum Op {
    /// Creates an item without stock.
    Create(ItemId, Money),
    /// Reads an item.
    Get(ItemId),
    /// Raises an item's stock.
    Add(ItemId, Quantity),
    /// Lowers an item's stock.
    Subtract(ItemId, Quantity),
    /// Overwrites the items with these numbers.
    Init {
        /// Numbers of the items; an item's number is its id.
        numbers: Vec<u64>,
        /// Units of each item.
        stock: Quantity,
        /// Price of each item.
        price: Money,
    },
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The item as it is.
    Item(Item),
    /// Available units right after a change.
    Stock(u64),
}

impl Records for Stock {
    type Record = Item;
    type Op = Op;
    type Reply = Reply;
    type Payload = Vec<(ItemId, Quantity)>;
    type Hold = Vec<HeldLine>;

    fn role(&self) -> Role {
        Role::Stock
    }

    fn encode_record(&self, item: &Item) -> Value {
        codec::encode(&stored(item))
    }

    fn decode_record(&self, row: &[u8], value: &[u8]) -> Result<Item, KvError> {
        let record: ItemRecord = codec::decode(row, value)?;
        let corrupt = |error: AmountError| codec::corrupt(row, &error);
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
        let hold: wire::HoldStockReceipt = convert::message("hold", bytes)?;
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
        let units = convert::message("reply", bytes)?;
        Ok(Reply::Stock(units))
    }

    fn decode_payload(&self, bytes: &[u8]) -> Result<Vec<(ItemId, Quantity)>, InvalidField> {
        let payload: wire::HoldStock = convert::message("payload", bytes)?;
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
}

const fn stored(item: &Item) -> ItemRecord {
    ItemRecord {
        price: item.price.get(),
        available: item.stock.available.get(),
        supplied: item.stock.supplied,
        incarnation: item.stock.incarnation.start.0,
        incarnation_change: item.stock.incarnation.change,
    }
}

/// A hold as a message: it is stored, and it is the receipt for the primary.
fn receipt_of(hold: &[HeldLine]) -> wire::HoldStockReceipt {
    let lines = hold.iter().map(|line| wire::hold_stock_receipt::Line {
        item_id: line.item_id.to_string(),
        quantity: line.quantity.get(),
        incarnation: line.incarnation.start.0,
        incarnation_change: line.incarnation.change,
    });
    wire::HoldStockReceipt { lines: lines.collect() }
}
