//! Amounts that can be set aside: units of an item, or credit of a user. Pure.

use types::{Amount, Mutation, Reason, Stamp};

/// An amount, parts of which unfinished transactions hold or have been sold.
///
/// Invariants: `supplied` = available + held + sold, all of this incarnation, so giving back a hold
/// never exceeds `supplied`; available + held is an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance<A> {
    /// What can be taken now.
    pub available: A,
    /// Initial + added - taken outside of transactions, over the life of the incarnation. It
    /// includes the sold part, so it may exceed the greatest amount.
    pub supplied: u64,
    /// The change that created it or last overwrote it.
    pub incarnation: Stamp,
}

/// Outcome of taking or holding something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken<A> {
    /// Enough was available.
    Done(Balance<A>),
    /// Too little is available, but there would be enough if holds came back.
    Wait,
    /// Too little, even if all holds came back.
    Short,
}

impl<A: Amount> Balance<A> {
    /// A new incarnation.
    pub fn new(amount: A, incarnation: Stamp) -> Self {
        Self { available: amount, supplied: amount.number(), incarnation }
    }

    /// Adds to the balance. `held` is what unfinished transactions hold of this incarnation.
    ///
    /// # Errors
    /// [`Reason::Overflow`] if the amount could exceed the greatest one once all holds came back.
    pub fn supply(self, amount: A, held: A) -> Result<Self, Reason> {
        let available = self.available.plus(amount).ok_or(Reason::Overflow)?;
        available.plus(held).ok_or(Reason::Overflow)?;
        let supplied = self.supplied.checked_add(amount.number()).ok_or(Reason::Overflow)?;
        Ok(Self { available, supplied, ..self })
    }

    /// Sets a part aside. `held` is what unfinished transactions hold of this incarnation.
    #[must_use]
    pub fn hold(self, amount: A, held: A) -> Taken<A> {
        if let Some(available) = self.available.minus(amount) {
            return Taken::Done(Self { available, ..self });
        }
        if Mutation::HoldsNotCounted.is_on() {
            return Taken::Short;
        }
        // A sum beyond the greatest amount also exceeds any request.
        let reachable = self.available.plus(held).is_none_or(|sum| sum >= amount);
        if reachable { Taken::Wait } else { Taken::Short }
    }

    /// Takes a part away permanently, outside of any transaction.
    #[must_use]
    pub fn take(self, amount: A, held: A) -> Taken<A> {
        match self.hold(amount, held) {
            Taken::Done(balance) => match balance.supplied.checked_sub(amount.number()) {
                Some(supplied) => Taken::Done(Self { supplied, ..balance }),
                None => Taken::Short,
            },
            other @ (Taken::Wait | Taken::Short) => other,
        }
    }

    /// Gives back what a hold of `incarnation` has set aside. A hold of another incarnation is
    /// dropped.
    #[must_use]
    pub fn give_back(self, amount: A, incarnation: Stamp) -> Self {
        if incarnation != self.incarnation && !Mutation::OldHoldReturns.is_on() {
            return self;
        }
        match self.available.plus(amount) {
            Some(available) if available.number() <= self.supplied => Self { available, ..self },
            Some(_) | None => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use types::Quantity;

    use super::*;

    const THIS: Stamp = Stamp::new(7, 2);

    fn units(number: u64) -> Quantity {
        Quantity::new(number).unwrap()
    }

    #[test]
    fn a_refusal_counts_what_is_held() {
        let balance = Balance { available: units(2), supplied: 5, incarnation: THIS };
        for (wanted, held, expected) in [
            (2, 0, Taken::Done(Balance { available: units(0), ..balance })),
            (3, 1, Taken::Wait),
            (3, 0, Taken::Short),
            (4, 1, Taken::Short),
        ] {
            assert_eq!(balance.hold(units(wanted), units(held)), expected, "{wanted} of {held}");
        }
    }

    #[test]
    fn a_hold_returns_only_to_the_incarnation_it_came_from() {
        let balance = Balance { available: units(2), supplied: 5, incarnation: THIS };
        assert_eq!(balance.give_back(units(3), THIS).available, units(5));
        for other in [Stamp::new(6, 2), Stamp::new(7, 1), Stamp::new(7, 3)] {
            assert_eq!(balance.give_back(units(3), other), balance, "{other:?}");
        }
        assert_eq!(balance.give_back(units(4), THIS), balance, "more than there ever was");
    }

    #[test]
    fn taking_for_good_lowers_what_was_supplied_and_holding_does_not() {
        let balance = Balance::new(units(5), THIS);
        let Taken::Done(held) = balance.hold(units(2), units(0)) else { panic!() };
        assert_eq!((held.available, held.supplied), (units(3), 5));
        let Taken::Done(taken) = held.take(units(3), units(2)) else { panic!() };
        assert_eq!((taken.available, taken.supplied), (units(0), 2));
        assert_eq!(taken.give_back(units(2), THIS).available, units(2));
    }

    #[test]
    fn what_was_sold_makes_room_and_what_is_held_does_not() {
        let most = types::AMOUNT_MAX;
        let full = Balance::new(units(most), THIS);
        assert_eq!(full.supply(units(1), units(0)), Err(Reason::Overflow));
        let Taken::Done(held) = full.hold(units(2), units(0)) else { panic!() };
        assert_eq!(held.supply(units(1), units(2)), Err(Reason::Overflow), "it may come back");
        let sold = held.supply(units(1), units(0)).unwrap();
        assert_eq!((sold.available, sold.supplied), (units(most - 1), most + 1));
        let ever = Balance { supplied: u64::MAX, ..Balance::new(units(0), THIS) };
        assert_eq!(ever.supply(units(1), units(0)), Err(Reason::Overflow));
    }
}
