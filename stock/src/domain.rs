//! What may happen to an item. Pure.

#![deny(clippy::arithmetic_side_effects, clippy::as_conversions)]

use participant::balance::Balance;
use types::{Money, Quantity, Stamp};

/// An item: its price and its units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Of one unit.
    pub price: Money,
    /// Units.
    pub stock: Balance<Quantity>,
}

impl Item {
    /// A new item, or a new incarnation of one.
    pub fn new(price: Money, stock: Quantity, stamp: Stamp) -> Self {
        Self { price, stock: Balance::new(stock, stamp) }
    }

    /// The same item with other units.
    #[must_use]
    pub const fn with(self, stock: Balance<Quantity>) -> Self {
        Self { stock, ..self }
    }
}

/// One item's share of a hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldLine {
    /// The item.
    pub item_id: types::ItemId,
    /// Units set aside.
    pub quantity: Quantity,
    /// Incarnation of the item they came from.
    pub incarnation: Stamp,
}

/// How much of `item` the given holds have set aside, of this incarnation.
pub fn held<'a>(
    holds: impl Iterator<Item = &'a [HeldLine]>,
    item_id: &types::ItemId,
    incarnation: Stamp,
) -> Quantity {
    let lines = holds.flatten();
    let ours = lines.filter(|line| line.item_id == *item_id && line.incarnation == incarnation);
    // Holds of one incarnation never exceed what was supplied, so the sum cannot overflow.
    ours.fold(Quantity::ZERO, |sum, line| sum.checked_add(line.quantity).unwrap_or(sum))
}
