//! Models of an order, a payment, and an item or user: what one call at a time may do. Pure.

use std::collections::BTreeMap;

use super::linear::Model;

/// Price of a unit of every item.
pub const PRICE: u64 = 2;

/// The model of one order.
#[derive(Debug)]
pub struct Orders;

/// Everything that a call on an order can see.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderState {
    /// The order; none before it was made and after it was removed.
    pub order: Option<Order>,
    /// How often the order has changed.
    change: u32,
    /// The change that was current when the order was sold.
    sold: Option<u32>,
    /// The change that each token names, for the tokens that clients were told.
    tokens: BTreeMap<Token, u32>,
}

/// A token of an order's content, numbered in the order in which clients were told.
pub type Token = usize;

/// An order's content.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Order {
    /// Units by item, in the order of first addition.
    pub lines: Vec<(u64, u64)>,
    /// True once it was bought.
    pub paid: bool,
}

/// A call on one order, with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderCall {
    /// An empty order was made.
    Create,
    /// batch_init overwrote it with two units of item 0.
    Draw,
    /// Units of an item were added; the cost that was told.
    Add(u64, u64, Option<u64>),
    /// A unit of an item was removed; the cost that was told.
    TakeOff(u64, Option<u64>),
    /// It was removed.
    Remove,
    /// It was bought, by this call or before.
    Buy,
    /// It was bought, by this call or before, with this token.
    BuyAs(Token),
    /// It was not bought, as its content is not the token's.
    Modified(Token),
    /// It was not bought, as it was empty.
    Empty,
    /// It was not bought, for lack of stock or credit.
    Short,
    /// It was read, with this token.
    Read(Order, Token),
    /// There was no such order.
    Missing,
    /// A change was refused because the order is paid.
    AlreadyPaid,
    /// The item could not be removed, as the order has none of it.
    NotIn(u64),
}

impl Order {
    fn cost(&self) -> u64 {
        self.lines.iter().map(|(_, units)| units * PRICE).sum()
    }
}

impl OrderState {
    fn unpaid(&self) -> Option<Order> {
        self.order.clone().filter(|order| !order.paid)
    }

    /// The state once the order is replaced or removed.
    fn after(&self, order: Option<Order>) -> Self {
        let Self { change, tokens, .. } = self.clone();
        Self { order, change: change + 1, sold: None, tokens }
    }

    /// The state once the order is replaced; none if another cost was told.
    fn told(&self, order: Order, cost: Option<u64>) -> Option<Self> {
        let fits = cost.is_none_or(|cost| cost == order.cost());
        fits.then(|| self.after(Some(order)))
    }

    fn buy(&self) -> Option<Self> {
        let order = self.order.clone().filter(|order| !order.lines.is_empty())?;
        if order.paid {
            return Some(self.clone());
        }
        let paid = self.after(Some(Order { paid: true, ..order }));
        Some(Self { sold: Some(self.change), ..paid })
    }

    /// Whether the token names the current content, or the content that was sold.
    fn is_as(&self, token: Token) -> bool {
        let named = self.tokens.get(&token);
        named.is_some_and(|named| *named == self.change || Some(*named) == self.sold)
    }

    /// The state once the token was told for the current content; none if that contradicts an
    /// earlier one. Equal content always has the same token, and other content never has it.
    fn named(&self, token: Token) -> Option<Self> {
        let mut named = self.clone();
        if let Some(before) = self.tokens.get(&token) {
            return (*before == self.change).then_some(named);
        }
        if self.tokens.values().any(|change| *change == self.change) {
            return None;
        }
        named.tokens.insert(token, self.change);
        Some(named)
    }
}

impl Model for Orders {
    type State = OrderState;
    type Call = OrderCall;

    fn apply(&self, state: &OrderState, call: &OrderCall) -> Option<OrderState> {
        let stays = |holds: bool| holds.then(|| state.clone());
        match call {
            OrderCall::Create => state.order.is_none().then(|| state.after(Some(Order::default()))),
            OrderCall::Draw => Some(state.after(Some(Order { lines: vec![(0, 2)], paid: false }))),
            OrderCall::Add(item, units, cost) => {
                let mut order = state.unpaid()?;
                match order.lines.iter_mut().find(|(known, _)| known == item) {
                    Some(line) => line.1 += units,
                    None => order.lines.push((*item, *units)),
                }
                state.told(order, *cost)
            }
            OrderCall::TakeOff(item, cost) => {
                let mut order = state.unpaid()?;
                let at = order.lines.iter().position(|(known, _)| known == item)?;
                order.lines[at].1 -= 1;
                if order.lines[at].1 == 0 {
                    order.lines.remove(at);
                }
                state.told(order, *cost)
            }
            OrderCall::Remove => state.unpaid().map(|_| state.after(None)),
            OrderCall::Buy => state.buy(),
            OrderCall::BuyAs(token) => state.is_as(*token).then(|| state.buy())?,
            OrderCall::Modified(token) => stays(state.order.is_some() && !state.is_as(*token)),
            OrderCall::Empty => stays(state.unpaid()?.lines.is_empty()),
            OrderCall::Short => stays(!state.unpaid()?.lines.is_empty()),
            OrderCall::Read(seen, token) => {
                state.order.as_ref().filter(|order| *order == seen)?;
                state.named(*token)
            }
            OrderCall::Missing => stays(state.order.is_none()),
            OrderCall::AlreadyPaid => stays(state.order.as_ref()?.paid),
            OrderCall::NotIn(item) => {
                let lines = state.unpaid()?.lines;
                stays(lines.iter().all(|(known, _)| known != item))
            }
        }
    }

    fn untold(&self, call: &OrderCall) -> Option<OrderCall> {
        match call {
            OrderCall::Add(item, units, _) => Some(OrderCall::Add(*item, *units, None)),
            OrderCall::TakeOff(item, _) => Some(OrderCall::TakeOff(*item, None)),
            OrderCall::Create
            | OrderCall::Draw
            | OrderCall::Remove
            | OrderCall::Buy
            | OrderCall::BuyAs(_) => Some(call.clone()),
            OrderCall::Read(..)
            | OrderCall::Modified(_)
            | OrderCall::Empty
            | OrderCall::Short
            | OrderCall::Missing
            | OrderCall::AlreadyPaid
            | OrderCall::NotIn(_) => None,
        }
    }

    /// A read says which change its token names, so it must stay.
    fn may_go(&self, call: &OrderCall) -> bool {
        self.untold(call).is_none() && !matches!(call, OrderCall::Read(..))
    }
}

/// The model of one payment outside of checkouts: whether it stands.
#[derive(Debug)]
pub struct Payments;

/// A call on one such payment, with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentCall {
    /// It was paid.
    Pay,
    /// It was not paid, as it stands already.
    AlreadyPaid,
    /// It was refunded.
    Cancel,
    /// It was not refunded, as it does not stand.
    NotPaid,
    /// It was read.
    Read(bool),
    /// batch_init overwrote its user.
    Set,
}

impl Model for Payments {
    type State = bool;
    type Call = PaymentCall;

    fn apply(&self, stands: &bool, call: &PaymentCall) -> Option<bool> {
        match call {
            PaymentCall::Pay => (!*stands).then_some(true),
            PaymentCall::AlreadyPaid => stands.then_some(true),
            PaymentCall::Cancel => stands.then_some(false),
            PaymentCall::NotPaid => (!*stands).then_some(false),
            PaymentCall::Read(seen) => (stands == seen).then_some(*stands),
            PaymentCall::Set => Some(false),
        }
    }

    fn untold(&self, call: &PaymentCall) -> Option<PaymentCall> {
        match call {
            PaymentCall::Pay | PaymentCall::Cancel | PaymentCall::Set => Some(call.clone()),
            PaymentCall::AlreadyPaid | PaymentCall::NotPaid | PaymentCall::Read(_) => None,
        }
    }
}

/// The model of an item's units, or a user's credit.
#[derive(Debug)]
pub struct Funds;

/// A call on one item or user, with its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FundsCall {
    /// batch_init overwrote it with this amount.
    Set(u64),
    /// An amount was added; what was shown then.
    Put(u64, Option<Shown>),
    /// An amount was taken; what was shown then.
    Take(u64, Option<Shown>),
    /// Refused, as there is less than this amount.
    Short(u64),
    /// It was read.
    Read(Shown),
}

/// The amount that a client was shown: the total less what unfinished transactions held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The amount that was shown.
    pub available: u64,
    /// The most that may have been held. Any whole number of units up to that is possible.
    pub aside: u64,
    /// The amount of one unit.
    pub unit: u64,
}

impl Shown {
    fn fits(&self, all: u64) -> bool {
        all.checked_sub(self.available)
            .is_some_and(|aside| aside <= self.aside && aside.is_multiple_of(self.unit))
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

    fn untold(&self, call: &FundsCall) -> Option<FundsCall> {
        match call {
            FundsCall::Set(amount) => Some(FundsCall::Set(*amount)),
            FundsCall::Put(amount, _) => Some(FundsCall::Put(*amount, None)),
            FundsCall::Take(amount, _) => Some(FundsCall::Take(*amount, None)),
            FundsCall::Short(_) | FundsCall::Read(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::linear::{Span, Verdict, check};

    fn spans<C>(calls: Vec<C>) -> Vec<Span<C>> {
        let timed = calls.into_iter().zip((1..).step_by(2));
        timed.map(|(call, began)| Span { call, began, ended: Some(began + 1) }).collect()
    }

    /// Whether the calls can happen in exactly this order.
    fn order(calls: Vec<OrderCall>) -> bool {
        check(&Orders, &OrderState::default(), &spans(calls)) == Verdict::Linearizable
    }

    fn funds(calls: Vec<FundsCall>) -> bool {
        check(&Funds, &5, &spans(calls)) == Verdict::Linearizable
    }

    fn shown(available: u64, aside: u64, unit: u64) -> Shown {
        Shown { available, aside, unit }
    }

    #[test]
    fn an_order_is_bought_once_and_stays_so() {
        use OrderCall::{Add, AlreadyPaid, Buy, Create, Draw, Empty, Missing, Read, Remove, Short};
        let bought = Order { lines: vec![(1, 2)], paid: true };
        let begin = vec![Create, Add(1, 2, Some(4))];
        let with = |rest: &[OrderCall]| order([begin.clone(), rest.to_vec()].concat());
        assert!(with(&[Short, Buy, Buy, Read(bought.clone(), 0), AlreadyPaid]));
        assert!(with(&[Buy, Draw, Short]));
        assert!(!with(&[Buy, Short]), "refused after it was bought");
        assert!(!with(&[Short, Read(bought.clone(), 0)]), "refused and paid");
        assert!(!with(&[Buy, Remove]), "what is paid stays");
        assert!(!with(&[Buy, Add(1, 1, None)]));
        assert!(!with(&[AlreadyPaid]));
        assert!(!with(&[Add(1, 1, Some(4))]), "a sum that misses what was added before");
        assert!(!with(&[Empty]));
        assert!(order(vec![Create, Empty, Remove, Missing]));
        assert!(!order(vec![Read(bought, 0)]));
    }

    #[test]
    fn a_token_names_one_content() {
        use OrderCall::{Add, Buy, BuyAs, Create, Modified, Read, TakeOff};
        let seen = || Order { lines: vec![(1, 1)], paid: false };
        let begin = vec![Create, Add(1, 1, None), Read(seen(), 7)];
        let with = |rest: &[OrderCall]| order([begin.clone(), rest.to_vec()].concat());
        assert!(with(&[Read(seen(), 7), BuyAs(7), BuyAs(7)]));
        assert!(with(&[Buy, BuyAs(7)]), "it was sold as the token says");
        assert!(!with(&[Modified(7)]), "it is as the token says");
        assert!(!with(&[Read(seen(), 8)]), "two tokens for one content");
        let there_and_back = [Add(1, 1, None), TakeOff(1, None)];
        for (last, possible) in [(Read(seen(), 7), false), (Modified(7), true), (BuyAs(7), false)] {
            assert_eq!(with(&[&there_and_back[..], &[last]].concat()), possible);
        }
        assert!(with(&[Add(2, 1, None), Buy, Modified(7)]));
        assert!(!with(&[Add(2, 1, None), Buy, BuyAs(7)]));
    }

    #[test]
    fn a_payment_stands_until_it_is_given_back() {
        use PaymentCall::{AlreadyPaid, Cancel, NotPaid, Pay, Read, Set};
        let fits = |calls| check(&Payments, &false, &spans(calls)) == Verdict::Linearizable;
        assert!(fits(vec![NotPaid, Pay, AlreadyPaid, Read(true), Cancel, NotPaid, Pay, Set, Pay]));
        assert!(!fits(vec![Pay, Pay]));
        assert!(!fits(vec![Pay, Cancel, Cancel]));
        assert!(!fits(vec![Pay, Read(false)]));
    }

    #[test]
    fn units_come_and_go_one_call_at_a_time() {
        use FundsCall::{Put, Read, Set, Short, Take};
        let told = |available| Some(shown(available, 0, 1));
        let read = |available| Read(shown(available, 0, 1));
        assert!(funds(vec![Put(2, told(7)), Take(7, told(0)), Short(1), Set(3), read(3)]));
        assert!(!funds(vec![Take(6, None)]), "more than there is");
        assert!(!funds(vec![Short(5)]), "refused although there is enough");
        assert!(!funds(vec![Put(2, told(5))]), "a lost update");
        assert!(!funds(vec![Take(2, None), read(5)]), "a stale read");
    }

    #[test]
    fn what_is_set_aside_is_missing_for_a_while_and_nothing_else_is() {
        for (available, possible) in [(5, true), (3, true), (1, true), (4, false), (0, false)] {
            let read = FundsCall::Read(shown(available, 4, 2));
            assert_eq!(funds(vec![read]), possible, "{available}");
        }
        assert!(!funds(vec![FundsCall::Read(shown(6, 4, 1))]), "more than there is");
    }
}
