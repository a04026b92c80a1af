//! What one call at a time may do to an order, and to an item or a user. Pure.

use std::collections::BTreeSet;

use crate::linear::Model;

/// Price of a unit of every item.
pub(crate) const PRICE: u64 = 2;

/// An order by its client's calls.
pub(crate) struct Orders;

/// An order as it stands: none before it was made or after it was removed.
pub(crate) type OrderState = Option<Order>;

/// An order's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order {
    /// Units by item, in the order of first addition.
    pub(crate) lines: Vec<(u64, u64)>,
    pub(crate) paid: bool,
}

/// A call that concerns one order, with what was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OrderCall {
    /// It was made, empty.
    Create,
    /// It was overwritten by what batch_init draws: two units of item 0.
    Draw,
    /// Units were added; the cost that was told.
    Add(u64, u64, Option<u64>),
    /// A unit was taken off; the cost that was told.
    TakeOff(u64, Option<u64>),
    /// It was removed.
    Remove,
    /// It was bought, now or before.
    Buy,
    /// It was not bought, as it was empty.
    Empty,
    /// It was not bought, for lack of stock or credit.
    Short,
    /// It was read, or was not found.
    Read(OrderState),
    /// A change was refused as it is paid.
    AlreadyPaid,
    /// A unit could not be taken off, as there is none.
    NotIn(u64),
}

impl Order {
    fn cost(&self) -> u64 {
        self.lines.iter().map(|(_, units)| units * PRICE).sum()
    }

    fn unpaid(state: &OrderState) -> Option<Self> {
        state.clone().filter(|order| !order.paid)
    }

    fn told(self, cost: Option<u64>) -> Option<OrderState> {
        cost.is_none_or(|cost| cost == self.cost()).then_some(Some(self))
    }
}

impl Model for Orders {
    type State = OrderState;
    type Call = OrderCall;

    fn apply(&self, state: &OrderState, call: &OrderCall) -> Option<OrderState> {
        let stays = |holds: bool| holds.then(|| state.clone());
        match call {
            OrderCall::Create => state.is_none().then(|| Some(Order::default())),
            OrderCall::Draw => Some(Some(Order { lines: vec![(0, 2)], paid: false })),
            OrderCall::Add(item, units, cost) => {
                let mut order = Order::unpaid(state)?;
                match order.lines.iter_mut().find(|(known, _)| known == item) {
                    Some(line) => line.1 += units,
                    None => order.lines.push((*item, *units)),
                }
                order.told(*cost)
            }
            OrderCall::TakeOff(item, cost) => {
                let mut order = Order::unpaid(state)?;
                let at = order.lines.iter().position(|(known, _)| known == item)?;
                order.lines[at].1 -= 1;
                if order.lines[at].1 == 0 {
                    order.lines.remove(at);
                }
                order.told(*cost)
            }
            OrderCall::Remove => Order::unpaid(state).map(|_| None),
            OrderCall::Buy => {
                let order = state.clone().filter(|order| !order.lines.is_empty())?;
                Some(Some(Order { paid: true, ..order }))
            }
            OrderCall::Empty => stays(Order::unpaid(state)?.lines.is_empty()),
            OrderCall::Short => stays(!Order::unpaid(state)?.lines.is_empty()),
            OrderCall::Read(seen) => stays(seen == state),
            OrderCall::AlreadyPaid => stays(state.as_ref()?.paid),
            OrderCall::NotIn(item) => {
                let lines = Order::unpaid(state)?.lines;
                stays(lines.iter().all(|(known, _)| known != item))
            }
        }
    }
}

/// The units of an item, or the credit of a user.
pub(crate) struct Funds;

/// A call that concerns one item or user, with what was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FundsCall {
    /// Overwritten by batch_init.
    Set(u64),
    /// More of it; what was told to be available then.
    Put(u64, Option<Shown>),
    /// Less of it; what was told to be available then.
    Take(u64, Option<Shown>),
    /// Refused: there is less than this.
    Short(u64),
    /// What was told to be available.
    Read(Shown),
}

/// What a client was shown: all there is, less what unfinished checkouts may have set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shown {
    pub(crate) available: u64,
    /// Every sum that may have been set aside, 0 among them.
    pub(crate) aside: BTreeSet<u64>,
}

impl Shown {
    /// All sums of what each unfinished checkout may hold.
    pub(crate) fn new(available: u64, holds: &[u64]) -> Self {
        let mut aside = BTreeSet::from([0]);
        for hold in holds {
            let with: Vec<u64> = aside.iter().map(|sum| sum + hold).collect();
            aside.extend(with);
        }
        Self { available, aside }
    }

    fn fits(&self, all: u64) -> bool {
        all.checked_sub(self.available).is_some_and(|aside| self.aside.contains(&aside))
    }
}

impl Model for Funds {
    type State = u64;
    type Call = FundsCall;

    fn apply(&self, state: &u64, call: &FundsCall) -> Option<u64> {
        let shown = |after: u64, shown: &Option<Shown>| {
            shown.as_ref().is_none_or(|shown| shown.fits(after)).then_some(after)
        };
        match call {
            FundsCall::Set(amount) => Some(*amount),
            FundsCall::Put(amount, told) => shown(state.checked_add(*amount)?, told),
            FundsCall::Take(amount, told) => shown(state.checked_sub(*amount)?, told),
            FundsCall::Short(wanted) => (*state < *wanted).then_some(*state),
            FundsCall::Read(told) => told.fits(*state).then_some(*state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linear::{Span, Verdict, check};

    fn spans<C>(calls: Vec<C>) -> Vec<Span<C>> {
        let timed = calls.into_iter().zip((1..).step_by(2));
        timed.map(|(call, began)| Span { call, began, ended: Some(began + 1) }).collect()
    }

    /// Whether this can happen in this very order.
    fn order(calls: Vec<OrderCall>) -> bool {
        check(&Orders, &None, &spans(calls)) == Verdict::Linearizable
    }

    fn funds(calls: Vec<FundsCall>) -> bool {
        check(&Funds, &5, &spans(calls)) == Verdict::Linearizable
    }

    fn read(available: u64, holds: &[u64]) -> FundsCall {
        FundsCall::Read(Shown::new(available, holds))
    }

    #[test]
    fn an_order_is_bought_once_and_stays_so() {
        use OrderCall::{Add, AlreadyPaid, Buy, Create, Draw, Empty, Read, Remove, Short};
        let bought = Some(Order { lines: vec![(1, 2)], paid: true });
        let begin = vec![Create, Add(1, 2, Some(4))];
        let with = |rest: &[OrderCall]| order([begin.clone(), rest.to_vec()].concat());
        assert!(with(&[Short, Buy, Buy, Read(bought.clone()), AlreadyPaid]));
        assert!(with(&[Buy, Draw, Short]));
        assert!(!with(&[Buy, Short]), "refused after it was bought");
        assert!(!with(&[Short, Read(bought.clone())]), "refused and paid");
        assert!(!with(&[Buy, Remove]), "what is paid stays");
        assert!(!with(&[Buy, Add(1, 1, None)]));
        assert!(!with(&[Add(1, 1, Some(4))]), "a sum that misses what was added before");
        assert!(!with(&[Empty]));
        assert!(order(vec![Create, Empty, Remove, Read(None)]));
        assert!(!order(vec![Read(bought)]));
    }

    #[test]
    fn units_come_and_go_one_call_at_a_time() {
        use FundsCall::{Put, Set, Short, Take};
        let shown = |available| Some(Shown::new(available, &[]));
        assert!(funds(vec![Put(2, shown(7)), Take(7, shown(0)), Short(1), Set(3), read(3, &[])]));
        assert!(!funds(vec![Take(6, None)]), "more than there is");
        assert!(!funds(vec![Short(5)]), "refused although there is enough");
        assert!(!funds(vec![Put(2, shown(5))]), "a lost update");
        assert!(!funds(vec![Take(2, None), read(5, &[])]), "a stale read");
    }

    #[test]
    fn what_is_set_aside_is_missing_for_a_while_and_nothing_else_is() {
        for (available, possible) in [(5, true), (3, true), (4, true), (2, true), (1, false)] {
            assert_eq!(funds(vec![read(available, &[1, 2])]), possible, "{available}");
        }
        assert!(!funds(vec![read(6, &[1, 2])]), "more than there is");
    }
}
