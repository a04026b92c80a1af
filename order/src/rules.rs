//! The rules of an order: what may happen to it. Pure.

#![deny(clippy::arithmetic_side_effects, clippy::as_conversions)]

use participant::{
    core::Domain,
    core::Rows,
    records::{Executed, Judged, Receipt, Row, row},
};
use storage::keys::Kind;
use types::{ItemId, Money, OrderId, Quantity, Reason, Refusal, Stamp, Timestamp, TxId, UserId};

use crate::records::{Draw, Line, Lock, Op, Order, Orders, Paid, Reply};

/// Upper limit on the lines of one order, so that a record fits a batch.
pub const LINES_MAX: usize = 256;

impl Order {
    /// An order without lines.
    pub const fn empty(user_id: UserId, stamp: Stamp) -> Self {
        Self {
            user_id,
            lines: Vec::new(),
            total_cost: Money::ZERO,
            stamp,
            paid: None,
            incarnation: stamp,
            last_overwritten_paid_at: Timestamp(0),
        }
    }

    /// Returns this order after it has overwritten `before`.
    #[must_use]
    pub fn instead_of(self, before: &Self) -> Self {
        // A paid order never changes, so its stamp says when it was paid.
        let last_overwritten_paid_at = match before.paid {
            Some(_) => before.stamp.start,
            None => before.last_overwritten_paid_at,
        };
        Self { last_overwritten_paid_at, ..self }
    }

    /// Adds units of an item at a price. Units of the same item at the same price share a line.
    ///
    /// # Errors
    /// [`Reason::AlreadyPaid`], [`Reason::Overflow`], [`Reason::OrderTooLarge`]; the order is
    /// unchanged.
    pub fn add(
        &mut self,
        item_id: &ItemId,
        quantity: Quantity,
        price: Money,
        stamp: Stamp,
    ) -> Result<(), Reason> {
        self.check_unpaid()?;
        let cost = price.times(quantity).ok_or(Reason::Overflow)?;
        let total_cost = self.total_cost.checked_add(cost).ok_or(Reason::Overflow)?;
        // A hold of one item is a single quantity, so the sum over its lines must fit one as well.
        let of_item = self.lines.iter().filter(|line| line.item_id == *item_id);
        of_item
            .map(|line| line.quantity)
            .try_fold(quantity, Quantity::checked_add)
            .ok_or(Reason::Overflow)?;
        let same = |line: &&mut Line| line.item_id == *item_id && line.price == price;
        if let Some(line) = self.lines.iter_mut().rev().find(same) {
            line.quantity = line.quantity.checked_add(quantity).ok_or(Reason::Overflow)?;
        } else if self.lines.len() < LINES_MAX {
            // There are many orders with few lines each, so no spare capacity is reserved.
            self.lines.reserve_exact(1);
            self.lines.push(Line { item_id: item_id.clone(), quantity, price });
        } else {
            return Err(Reason::OrderTooLarge);
        }
        self.total_cost = total_cost;
        self.stamp = stamp;
        Ok(())
    }

    /// Removes one unit of an item, from its latest line.
    ///
    /// # Errors
    /// [`Reason::AlreadyPaid`], [`Reason::NotInOrder`]; the order is unchanged.
    pub fn remove(&mut self, item_id: &ItemId, stamp: Stamp) -> Result<(), Reason> {
        self.check_unpaid()?;
        let at = self.lines.iter().rposition(|line| line.item_id == *item_id);
        let line = at.and_then(|at| self.lines.get_mut(at)).ok_or(Reason::NotInOrder)?;
        let one = Quantity::new(1).map_err(|_| Reason::Internal)?;
        let left = line.quantity.checked_sub(one).ok_or(Reason::NotInOrder)?;
        let total_cost = self.total_cost.checked_sub(line.price).ok_or(Reason::Internal)?;
        line.quantity = left;
        if left == Quantity::ZERO
            && let Some(at) = at
        {
            self.lines.remove(at);
        }
        self.total_cost = total_cost;
        self.stamp = stamp;
        Ok(())
    }

    /// Marks the order as paid, for good, with its content as it is.
    pub fn pay(&mut self, tx_id: TxId, receipts: Vec<Receipt>, stamp: Stamp) {
        self.paid = Some(Paid { tx_id, receipts, sold: Some(self.stamp) });
        self.stamp = stamp;
    }

    /// Checks that the order is unpaid and may change.
    ///
    /// # Errors
    /// [`Reason::AlreadyPaid`].
    pub const fn check_unpaid(&self) -> Result<(), Reason> {
        if self.paid.is_some() { Err(Reason::AlreadyPaid) } else { Ok(()) }
    }
}

impl Draw {
    /// Draws the order with this number: a random user, and one unit each of two random items,
    /// which may be the same. `None` if twice the price overflows.
    pub fn order(&self, number: u64, stamp: Stamp) -> Option<Order> {
        let mut state = self.seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |count: u64| {
            // SplitMix64 (Steele, Lea, Flood 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = state;
            bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (bits ^ (bits >> 31)).checked_rem(count).unwrap_or(0)
        };
        let mut order = Order::empty(UserId::numbered(draw(self.user_count)), stamp);
        for _ in 0..2 {
            let item = ItemId::numbered(draw(self.item_count));
            order.add(&item, Quantity::new(1).ok()?, self.item_price, stamp).ok()?;
        }
        Some(order)
    }
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
    /// Changes an order, or waits while it is locked.
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
            // The id is derived from a request id whose first result is no longer remembered.
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
            // The transaction that holds the order is resolved before the order is overwritten.
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
    fn op_rows(&self, op: &Op) -> Vec<Row> {
        match op {
            Op::Create(id, _)
            | Op::Get(id)
            | Op::Add(id, ..)
            | Op::RemoveItem(id, _)
            | Op::Remove(id) => vec![order_row(id)],
            // Reads the records, because an overwritten paid order leaves a trace.
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
                    // The order may be paid already although this record does not show it yet.
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
        // The hold itself is the lock; nothing was written.
    }
}

#[cfg(test)]
mod tests;
