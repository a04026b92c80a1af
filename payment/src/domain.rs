//! What may happen to a user's credit. Pure.

#![deny(clippy::arithmetic_side_effects, clippy::as_conversions)]

use participant::balance::Balance;
use types::{Money, Reason, Stamp, UserId};

/// A payment made for an order outside of checkouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payment {
    /// What was paid.
    pub amount: Money,
    /// False once it was given back.
    pub paid: bool,
    /// Incarnation of the user who paid; for another one it never happened.
    pub incarnation: Stamp,
}

impl Payment {
    /// True while it stands for this incarnation of the user.
    pub fn stands_for(&self, credit: &Balance<Money>) -> bool {
        self.paid && self.incarnation == credit.incarnation
    }

    /// The user's credit after giving it back, and the payment as it is then; `held` as for [`Balance::supply`].
    ///
    /// # Errors
    /// [`Reason::NotPaid`] when it does not stand; [`Reason::Overflow`].
    pub fn cancel(
        self,
        credit: Balance<Money>,
        held: Money,
    ) -> Result<(Balance<Money>, Self), Reason> {
        if !self.stands_for(&credit) {
            return Err(Reason::NotPaid);
        }
        Ok((credit.supply(self.amount, held)?, Self { paid: false, ..self }))
    }
}

/// Money set aside for a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldCredit {
    /// The user.
    pub user_id: UserId,
    /// How much.
    pub amount: Money,
    /// Incarnation of the user it came from.
    pub incarnation: Stamp,
}

/// How much the given holds have set aside, of this incarnation.
pub fn held<'a>(holds: impl Iterator<Item = &'a HeldCredit>, incarnation: Stamp) -> Money {
    let ours = holds.filter(|hold| hold.incarnation == incarnation);
    // Holds of one incarnation never exceed what was supplied, so the sum cannot overflow.
    ours.fold(Money::ZERO, |sum, hold| sum.checked_add(hold.amount).unwrap_or(sum))
}
