//! What may happen to an order. Pure.

#![deny(clippy::arithmetic_side_effects, clippy::as_conversions)]

use participant::domain::Receipt;
use types::{ItemId, Money, Quantity, Reason, Stamp, Timestamp, TxId, UserId};

/// Lines of one order at most, so that a record fits a batch.
pub const LINES_MAX: usize = 256;

/// A number of units of one item at the price they were added for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The item.
    pub item_id: ItemId,
    /// Units, at least 1.
    pub quantity: Quantity,
    /// Of one unit.
    pub price: Money,
}

/// Who paid an order, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paid {
    /// The transaction.
    pub tx_id: TxId,
    /// What every branch handed over, in the order of the transaction's branches.
    pub receipts: Vec<Receipt>,
    /// The order's stamp when it was locked: what was sold. None in records of release 0.1.
    pub sold: Option<Stamp>,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Whose; the user need not exist.
    pub user_id: UserId,
    /// In the order of addition.
    pub lines: Vec<Line>,
    /// Sum over the lines.
    pub total_cost: Money,
    /// The change that made it what it is. No two contents under one id ever have the same stamp, whatever
    /// was removed, overwritten or made anew in between.
    pub stamp: Stamp,
    /// None while unpaid; final.
    pub paid: Option<Paid>,
    /// The change that created it or last overwrote it by batch_init.
    pub incarnation: Stamp,
    /// When the latest paid order that batch_init has overwritten under this id was paid; 0 if none was.
    /// An audit needs it: what that order sold is in no order any more.
    pub last_overwritten_paid_at: Timestamp,
}

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

    /// The same order in the place of another one, which is lost.
    #[must_use]
    pub fn instead_of(self, before: &Self) -> Self {
        // A paid order does not change any more, so its stamp says when it was paid.
        let last_overwritten_paid_at = match before.paid {
            Some(_) => before.stamp.start,
            None => before.last_overwritten_paid_at,
        };
        Self { last_overwritten_paid_at, ..self }
    }

    /// Adds units of an item at a price. Units of the same item at the same price share a line.
    ///
    /// # Errors
    /// [`Reason::AlreadyPaid`], [`Reason::Overflow`], [`Reason::OrderTooLarge`]; the order is as before.
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
        // What one transaction can hold of an item is bounded, too.
        let of_item = self.lines.iter().filter(|line| line.item_id == *item_id);
        of_item
            .map(|line| line.quantity)
            .try_fold(quantity, Quantity::checked_add)
            .ok_or(Reason::Overflow)?;
        let same = |line: &&mut Line| line.item_id == *item_id && line.price == price;
        if let Some(line) = self.lines.iter_mut().rev().find(same) {
            line.quantity = line.quantity.checked_add(quantity).ok_or(Reason::Overflow)?;
        } else if self.lines.len() < LINES_MAX {
            // Orders are many, and short: no room for lines that never come.
            self.lines.reserve_exact(1);
            self.lines.push(Line { item_id: item_id.clone(), quantity, price });
        } else {
            return Err(Reason::OrderTooLarge);
        }
        self.total_cost = total_cost;
        self.stamp = stamp;
        Ok(())
    }

    /// Takes one unit of an item off, of the latest addition.
    ///
    /// # Errors
    /// [`Reason::AlreadyPaid`], [`Reason::NotInOrder`]; the order is as before.
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

    /// Makes it paid, for good, as it stands.
    pub fn pay(&mut self, tx_id: TxId, receipts: Vec<Receipt>, stamp: Stamp) {
        self.paid = Some(Paid { tx_id, receipts, sold: Some(self.stamp) });
        self.stamp = stamp;
    }

    /// Refuses what only an unpaid order allows.
    ///
    /// # Errors
    /// [`Reason::AlreadyPaid`].
    pub const fn check_unpaid(&self) -> Result<(), Reason> {
        if self.paid.is_some() { Err(Reason::AlreadyPaid) } else { Ok(()) }
    }
}

/// What batch_init draws an order from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draw {
    /// Starts the sequence.
    pub seed: u64,
    /// Items "0" to this - 1.
    pub item_count: u64,
    /// Users "0" to this - 1.
    pub user_count: u64,
    /// Of one unit of any item.
    pub item_price: Money,
}

impl Draw {
    /// The `number`th order: a random user, two random items (they may be the same) of quantity 1. None
    /// when twice the price is too much money.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn money(amount: u64) -> Money {
        Money::new(amount).unwrap()
    }

    fn units(number: u64) -> Quantity {
        Quantity::new(number).unwrap()
    }

    const fn at(start: u64) -> Stamp {
        Stamp::new(start, 1)
    }

    fn order() -> Order {
        Order::empty(UserId::numbered(1), at(1))
    }

    #[test]
    fn one_unit_leaves_at_the_price_of_the_latest_addition() {
        let item = ItemId::numbered(7);
        let mut order = order();
        order.add(&item, units(2), money(10), at(2)).unwrap();
        order.add(&item, units(1), money(15), at(3)).unwrap();
        assert_eq!((order.total_cost, order.lines.len()), (money(35), 2));
        order.remove(&item, at(4)).unwrap();
        assert_eq!((order.total_cost, order.lines.len()), (money(20), 1));
        order.remove(&item, at(5)).unwrap();
        order.remove(&item, at(6)).unwrap();
        assert_eq!((order.total_cost, order.lines.len()), (money(0), 0));
        assert_eq!(order.remove(&item, at(7)), Err(Reason::NotInOrder));
        assert_eq!(order.stamp, at(6), "a refused change is no change");
    }

    #[test]
    fn who_overwrites_a_paid_order_remembers_when() {
        let mut paid = order();
        paid.pay(TxId([1; 16]), Vec::new(), at(2));
        let second = Order::empty(UserId::numbered(1), at(3)).instead_of(&paid);
        let third = Order::empty(UserId::numbered(1), at(4)).instead_of(&second);
        let paid_at = |order: &Order| order.last_overwritten_paid_at.0;
        assert_eq!((paid_at(&second), paid_at(&third)), (2, 2));
        let never = Order::empty(UserId::numbered(1), at(4)).instead_of(&order());
        assert_eq!(paid_at(&never), 0);
    }

    #[test]
    fn a_paid_order_stays_as_it_is() {
        let mut order = order();
        order.pay(TxId([1; 16]), Vec::new(), at(2));
        let before = order.clone();
        let item = ItemId::numbered(1);
        assert_eq!(order.add(&item, units(1), money(1), at(3)), Err(Reason::AlreadyPaid));
        assert_eq!(order.remove(&item, at(3)), Err(Reason::AlreadyPaid));
        assert_eq!(order, before);
    }

    #[test]
    fn sums_that_grow_too_large_are_refused() {
        let mut order = order();
        let item = ItemId::numbered(1);
        assert_eq!(
            order.add(&item, units(types::AMOUNT_MAX), money(2), at(2)),
            Err(Reason::Overflow)
        );
        order.add(&item, units(types::AMOUNT_MAX), money(0), at(2)).unwrap();
        assert_eq!(order.add(&item, units(1), money(1), at(3)), Err(Reason::Overflow));
        for number in 2..=256 {
            order.add(&ItemId::numbered(number), units(1), money(1), at(3)).unwrap();
        }
        let one_more = order.add(&ItemId::numbered(999), units(1), money(1), at(4));
        assert_eq!(one_more, Err(Reason::OrderTooLarge));
    }

    #[test]
    fn drawn_orders_have_two_items_and_twice_the_price() {
        let draw = Draw { seed: 9, item_count: 3, user_count: 5, item_price: money(4) };
        let mut users = std::collections::BTreeSet::new();
        for number in 0..200 {
            let order = draw.order(number, at(1)).unwrap();
            assert_eq!(order.total_cost, money(8));
            let quantity: u64 = order.lines.iter().map(|line| line.quantity.get()).sum();
            assert_eq!(quantity, 2);
            assert!(
                order.lines.iter().all(|line| ["0", "1", "2"].contains(&line.item_id.as_str()))
            );
            users.insert(order.user_id);
        }
        assert_eq!(users.len(), 5);
    }
}
