//! The rules of an item: what may happen to it. Pure.

#![deny(clippy::arithmetic_side_effects, clippy::as_conversions)]

use participant::{
    balance::{Balance, Taken},
    core::Domain,
    core::Rows,
    records::{Executed, Judged, Receipt, Records as _, Row, row},
};
use storage::keys::Kind;
use types::{ItemId, Money, Quantity, Reason, Refusal, Stamp, TxId};

use crate::records::{HeldLine, Item, Op, Reply, Stock};

impl Item {
    /// Makes a new item, or a new incarnation of one.
    pub fn new(price: Money, stock: Quantity, stamp: Stamp) -> Self {
        Self { price, stock: Balance::new(stock, stamp) }
    }

    /// The same item with a different balance.
    #[must_use]
    pub const fn with(self, stock: Balance<Quantity>) -> Self {
        Self { stock, ..self }
    }
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
            // The id is derived from a request id whose first result is no longer remembered.
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

/// The units of an item's incarnation that the given holds have set aside.
pub fn held<'a>(
    holds: impl Iterator<Item = &'a [HeldLine]>,
    item_id: &ItemId,
    incarnation: Stamp,
) -> Quantity {
    let lines = holds.flatten();
    let ours = lines.filter(|line| line.item_id == *item_id && line.incarnation == incarnation);
    // Holds of one incarnation never exceed what was supplied, so the sum cannot overflow.
    ours.fold(Quantity::ZERO, |sum, line| sum.checked_add(line.quantity).unwrap_or(sum))
}

impl Domain for Stock {
    fn op_rows(&self, op: &Op) -> Vec<Row> {
        match op {
            Op::Create(id, _) | Op::Get(id) | Op::Add(id, _) | Op::Subtract(id, _) => {
                vec![item_row(id)]
            }
            // These overwrite records without reading them.
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
        let receipt = self.encode_hold(&hold);
        Judged::Yes { hold, receipt }
    }

    fn commit(&self, _: TxId, _: &Vec<HeldLine>, _: &[Receipt], _: &mut Rows<'_, Self>) {
        // The vote has already taken the units, and the order says which transaction bought them.
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

#[cfg(test)]
mod tests;
