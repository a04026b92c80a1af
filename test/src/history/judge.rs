//! Judges whether everything that clients were told of each order, item, user and payment could
//! have happened one call at a time.
//!
//! Linearizability is local (Herlihy and Wing, 1990), so every object is judged separately. A
//! purchase concerns an order, its items and its user. At an item or user it is one call. It took
//! effect between the start of the first checkout that may have made it and the end of the first
//! one that reports it.

use std::collections::{BTreeMap, BTreeSet};

use types::Reason;

use super::{
    Entry, History,
    calls::{Ask, DRAWN, ITEMS, PAYMENT, Said, USERS},
    linear::{Model, Span, Verdict, check, shrink},
    models::{
        Funds, FundsCall, Order, OrderCall, OrderState, Orders, PRICE, PaymentCall, Payments, Shown,
    },
};

/// What the judge found.
#[derive(Debug, Default)]
pub struct Judgement {
    /// Answers that cannot have happened.
    pub problems: Vec<String>,
    /// Objects whose history was too long to decide.
    pub undecided: usize,
}

/// An item or a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pot {
    Item(u64),
    User(u64),
}

/// Judges a history. `closed` has the orders as they stood at the end, and their users. `calm` says
/// that no checkout can have held anything beyond its answer.
pub fn judge(history: &History, closed: &BTreeMap<String, (Order, u64)>, calm: bool) -> Judgement {
    let mut judgement = Judgement::default();
    let judge = Judge { entries: &history.entries, closed, calm };
    for order in judge.orders() {
        let spans = judge.order_spans(&order);
        judgement.decide(&format!("order {order}"), &Orders, &OrderState::default(), &spans);
    }
    let pots = (0..ITEMS).map(Pot::Item).chain((0..USERS).map(Pot::User));
    for pot in pots.filter(|pot| judge.is_known(*pot)) {
        judgement.decide(&format!("{pot:?}"), &Funds, &0, &judge.pot_spans(pot));
    }
    for (user, what) in judge.payments() {
        let spans = judge.payment_spans(user, what);
        judgement.decide(&format!("payment {user}/{what}"), &Payments, &false, &spans);
    }
    judgement.problems.extend(judge.surprises());
    judgement.problems.extend(judge.unfounded());
    judgement
}

impl Judgement {
    fn decide<M: Model>(
        &mut self,
        what: &str,
        model: &M,
        initial: &M::State,
        spans: &[Span<M::Call>],
    ) where
        M::Call: Clone + std::fmt::Debug,
    {
        match check(model, initial, spans) {
            Verdict::Linearizable => {}
            Verdict::Undecided => self.undecided += 1,
            Verdict::Impossible(_) => {
                let spans = shrink(model, initial, spans);
                let Verdict::Impossible(order) = check(model, initial, &spans) else { return };
                let placed: Vec<_> = order.iter().map(|at| &spans[*at].call).collect();
                let left = (0..spans.len()).filter(|at| !order.contains(at)).map(|at| &spans[at]);
                let left: Vec<_> = left.map(Span::to_string).collect();
                self.problems.push(format!(
                    "{what} cannot have gone like this: after {placed:?} nothing fits of {left:?}"
                ));
            }
        }
    }
}

struct Judge<'a> {
    entries: &'a [Entry],
    closed: &'a BTreeMap<String, (Order, u64)>,
    calm: bool,
}

impl Judge<'_> {
    /// Every order that occurs in the history, and the drawn ones.
    fn orders(&self) -> BTreeSet<String> {
        let spoken = self.entries.iter().filter_map(|entry| match (&entry.ask, &entry.said) {
            (Ask::CreateOrder(_), Some(Said::Id(order))) => Some(order.clone()),
            (ask, _) => ask.order().map(str::to_owned),
        });
        spoken.chain((0..DRAWN).map(|order| order.to_string())).collect()
    }

    fn order_spans(&self, order: &str) -> Vec<Span<OrderCall>> {
        let mut tokens = Tokens::default();
        let call = |entry: &Entry| {
            let call = order_call(entry, order, &mut tokens)?;
            Some(Span { call, began: entry.began, ended: entry.ended })
        };
        self.entries.iter().filter_map(call).collect()
    }

    fn draws(&self) -> usize {
        self.entries.iter().filter(|entry| entry.ask == Ask::InitOrders).count()
    }

    /// False for what a drawn order may hold if orders were drawn more than once: user 0, item 0
    /// and each item that was added to one. Drawing overwrites who bought what, so those are left
    /// to the audit.
    fn is_known(&self, pot: Pot) -> bool {
        let was_added = |item| {
            let adds = |ask: &Ask| matches!(ask, Ask::AddItem(order, of, _) if *of == item && is_drawn(order));
            self.entries.iter().any(|entry| adds(&entry.ask))
        };
        let may_be_drawn = match pot {
            Pot::Item(item) => item == 0 || was_added(item),
            Pot::User(user) => user == 0,
        };
        self.draws() <= 1 || !may_be_drawn
    }

    fn pot_spans(&self, pot: Pot) -> Vec<Span<FundsCall>> {
        let call = |entry: &Entry| {
            let call = self.pot_call(entry, pot)?;
            Some(Span { call, began: entry.began, ended: entry.ended })
        };
        let mut spans: Vec<_> = self.entries.iter().filter_map(call).collect();
        spans.extend(self.purchases(pot));
        spans
    }

    fn pot_call(&self, entry: &Entry, pot: Pot) -> Option<FundsCall> {
        let shown = |said: &Option<Said>| match said {
            Some(Said::Amount(available)) => Some(self.shown(entry, *available, pot)),
            _ => None,
        };
        let taken = |wanted: u64| FundsCall::Take(wanted, shown(&entry.said));
        if let Some(Said::Refused(reason, short)) = &entry.said {
            return refused(&entry.ask, reason, *short, pot);
        }
        match (&entry.ask, pot) {
            (Ask::InitStock(amount), Pot::Item(_)) | (Ask::InitUsers(amount), Pot::User(_)) => {
                Some(FundsCall::Set(*amount))
            }
            (Ask::AddStock(id, amount), Pot::Item(of))
            | (Ask::AddFunds(id, amount), Pot::User(of))
                if *id == of =>
            {
                Some(FundsCall::Put(*amount, shown(&entry.said)))
            }
            (Ask::Cancel(id, _), Pot::User(of)) if *id == of => {
                Some(FundsCall::Put(PAYMENT, shown(&entry.said)))
            }
            (Ask::Subtract(id, amount), Pot::Item(of)) | (Ask::Pay(id, amount), Pot::User(of))
                if *id == of =>
            {
                Some(taken(*amount))
            }
            (Ask::PayFor(id, _), Pot::User(of)) if *id == of => Some(taken(PAYMENT)),
            (Ask::Sell(_, id, units), Pot::Item(of)) if *id == of => Some(taken(*units)),
            (Ask::Sell(id, _, units), Pot::User(of)) if *id == of => Some(taken(units * PRICE)),
            (Ask::FindItem(id), Pot::Item(of)) | (Ask::FindUser(id), Pot::User(of))
                if *id == of =>
            {
                shown(&entry.said).map(FundsCall::Read)
            }
            _ => None,
        }
    }

    /// The purchases that stand at the end, each as one call.
    fn purchases(&self, pot: Pot) -> impl Iterator<Item = Span<FundsCall>> {
        self.closed.iter().filter(|(_, (order, _))| order.paid).filter_map(
            move |(id, (order, user))| {
                let amount = match pot {
                    Pot::Item(item) => order.lines.iter().find(|(known, _)| *known == item)?.1,
                    Pot::User(of) => (*user == of)
                        .then(|| order.lines.iter().map(|(_, units)| units * PRICE).sum())?,
                };
                let refused = |entry: &&Entry| !matches!(entry.said, Some(Said::Refused(..)));
                let checkouts = || self.checkouts(id).filter(refused);
                Some(Span {
                    call: FundsCall::Take(amount, None),
                    began: checkouts().map(|entry| entry.began).min()?,
                    ended: Some(
                        checkouts().filter_map(|entry| entry.ended).min().unwrap_or(u64::MAX),
                    ),
                })
            },
        )
    }

    fn checkouts(&self, order: &str) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |entry| matches!(&entry.ask, Ask::Checkout(id, _) if id == order))
    }

    /// The available amount that a client was told, and the most that unfinished transactions may
    /// have held then.
    fn shown(&self, told: &Entry, available: u64, pot: Pot) -> Shown {
        let unit = if matches!(pot, Pot::Item(_)) { 1 } else { PRICE };
        let units = if told.quiet { 0 } else { self.units_aside(told, pot) };
        Shown { available, aside: units * unit, unit }
    }

    fn units_aside(&self, told: &Entry, pot: Pot) -> u64 {
        // Attempts of one call that may hold at once: more than one if calls are repeated.
        let attempts = if self.calm { 1 } else { 3 };
        let may_hold = |entry: &&Entry| {
            let before = told.ended.is_some_and(|ended| entry.began < ended);
            let over = entry.ended.is_some_and(|ended| ended < told.began);
            before && !(over && self.calm)
        };
        let under_way = |order: &str| {
            attempts * u64::try_from(self.checkouts(order).filter(may_hold).count()).unwrap()
        };
        let of_one = |entry: &Entry| match (&entry.ask, pot) {
            (Ask::AddItem(order, item, units), Pot::Item(of)) if *item == of => {
                units * under_way(order)
            }
            (Ask::AddItem(order, _, units), Pot::User(of)) if self.may_be_of(order, of) => {
                units * under_way(order)
            }
            (Ask::Sell(_, item, units) | Ask::Misplan(_, item, units), Pot::Item(of))
                if *item == of && may_hold(&entry) =>
            {
                units * attempts
            }
            (Ask::Sell(user, _, units) | Ask::Misplan(user, _, units), Pot::User(of))
                if *user == of && may_hold(&entry) =>
            {
                units * attempts
            }
            _ => 0,
        };
        let drawn = || (0..DRAWN).map(|order| 2 * under_way(&order.to_string())).sum();
        let of_drawn: u64 = if matches!(pot, Pot::Item(0) | Pot::User(0)) { drawn() } else { 0 };
        self.entries.iter().map(of_one).sum::<u64>() + of_drawn
    }

    fn may_be_of(&self, order: &str, user: u64) -> bool {
        self.owner(order).is_none_or(|owner| owner == user)
    }

    fn owner(&self, order: &str) -> Option<u64> {
        if is_drawn(order) {
            return Some(0);
        }
        let made = |entry: &Entry| match (&entry.ask, &entry.said) {
            (Ask::CreateOrder(user), Some(Said::Id(id))) if id == order => Some(*user),
            _ => None,
        };
        self.entries.iter().find_map(made)
    }

    /// Payments outside of checkouts that occur in the history.
    fn payments(&self) -> BTreeSet<(u64, u64)> {
        let payment = |entry: &Entry| match entry.ask {
            Ask::PayFor(user, what) | Ask::Cancel(user, what) | Ask::FindPayment(user, what) => {
                Some((user, what))
            }
            _ => None,
        };
        self.entries.iter().filter_map(payment).collect()
    }

    fn payment_spans(&self, user: u64, what: u64) -> Vec<Span<PaymentCall>> {
        let call = |entry: &Entry| {
            let reason = match &entry.said {
                Some(Said::Refused(reason, _)) => Some(Reason::parse(reason)?),
                _ => None,
            };
            let call = match (&entry.ask, reason) {
                (Ask::InitUsers(_), None) => PaymentCall::Set,
                (ask, _) if ask.payment() != Some((user, what)) => return None,
                (Ask::PayFor(..), None) => PaymentCall::Pay,
                (Ask::PayFor(..), Some(Reason::AlreadyPaid)) => PaymentCall::AlreadyPaid,
                (Ask::PayFor(..), Some(Reason::OutOfCredit)) => PaymentCall::Read(false),
                (Ask::Cancel(..), None) => PaymentCall::Cancel,
                (Ask::Cancel(..), Some(Reason::NotPaid)) => PaymentCall::NotPaid,
                (Ask::FindPayment(..), None) => match entry.said {
                    Some(Said::Paid(seen)) => PaymentCall::Read(seen),
                    _ => return None,
                },
                _ => return None,
            };
            Some(Span { call, began: entry.began, ended: entry.ended })
        };
        self.entries.iter().filter_map(call).collect()
    }

    /// Answers that these clients' calls can never get.
    fn surprises(&self) -> impl Iterator<Item = String> {
        self.entries.iter().filter_map(move |entry| match &entry.said {
            Some(Said::Refused(reason, _)) if !expected(&entry.ask, Reason::parse(reason)) => {
                Some(format!("refused for no reason: {entry:?}"))
            }
            Some(Said::Done) if matches!(entry.ask, Ask::Misplan(..)) => {
                Some(format!("a shard that does not exist has voted: {entry:?}"))
            }
            _ => None,
        })
    }

    /// Checkouts that were refused for lack of something, though nothing of their order was
    /// lacking. REST does not say what was short: then some item of the order or its user must have
    /// been.
    fn unfounded(&self) -> impl Iterator<Item = String> {
        self.entries.iter().filter_map(move |entry| {
            let (Ask::Checkout(order, _), Some(Said::Refused(reason, told))) =
                (&entry.ask, &entry.said)
            else {
                return None;
            };
            let wanted = self.wanted(order, entry);
            let user = || {
                let cost = PRICE * wanted.values().sum::<u64>();
                self.owner(order).map(|user| vec![(Pot::User(user), cost)]).unwrap_or_default()
            };
            let candidates: Vec<_> = match Reason::parse(reason)? {
                Reason::OutOfStock => {
                    wanted.iter().map(|(item, units)| (Pot::Item(*item), *units)).collect()
                }
                Reason::OutOfCredit => user(),
                _ => return None,
            };
            let named = |(pot, most): &(Pot, u64)| match (told, pot) {
                (None, _) => true,
                (Some((id, units)), Pot::Item(of) | Pot::User(of)) => id == of && units <= most,
            };
            let candidates: Vec<_> = candidates.into_iter().filter(named).collect();
            let may_lack = |(pot, most): &(Pot, u64)| {
                !self.is_known(*pot) || told.is_some() || self.may_lack(*pot, *most, entry)
            };
            let unknown = self.owner(order).is_none();
            (!unknown && !candidates.iter().any(may_lack))
                .then(|| format!("nothing of it was lacking: {entry:?}"))
        })
    }

    /// Whether less than `wanted` may have been there at some time during the call.
    fn may_lack(&self, pot: Pot, wanted: u64, entry: &Entry) -> bool {
        let mut spans = self.pot_spans(pot);
        let call = FundsCall::Short(wanted);
        spans.push(Span { call, began: entry.began, ended: entry.ended });
        !matches!(check(&Funds, &0, &spans), Verdict::Impossible(_))
    }

    /// The most units of each item that an order can have had when this call ended.
    fn wanted(&self, order: &str, entry: &Entry) -> BTreeMap<u64, u64> {
        let mut wanted = BTreeMap::new();
        if is_drawn(order) {
            wanted.insert(0, 2);
        }
        for added in self.entries {
            if let Ask::AddItem(id, item, units) = &added.ask
                && id == order
                && entry.ended.is_some_and(|ended| added.began < ended)
                && !matches!(added.said, Some(Said::Refused(..)))
            {
                *wanted.entry(*item).or_default() += units;
            }
        }
        wanted
    }
}

/// Whether such a call of these clients may be refused for this reason.
fn expected(ask: &Ask, reason: Option<Reason>) -> bool {
    use Reason::{
        AlreadyPaid, EmptyOrder, InvalidArgument, NotInOrder, NotPaid, OrderModified,
        OrderNotFound, OutOfCredit, OutOfStock,
    };
    let expected: &[Reason] = match ask {
        Ask::AddItem(..) | Ask::RemoveOrder(_) => &[OrderNotFound, AlreadyPaid],
        Ask::RemoveItem(..) => &[OrderNotFound, AlreadyPaid, NotInOrder],
        Ask::FindOrder(_) => &[OrderNotFound],
        Ask::Checkout(_, None) => &[OrderNotFound, EmptyOrder, OutOfStock, OutOfCredit],
        Ask::Checkout(_, Some(_)) => {
            &[OrderNotFound, EmptyOrder, OutOfStock, OutOfCredit, OrderModified]
        }
        Ask::Subtract(..) => &[OutOfStock],
        Ask::Pay(..) => &[OutOfCredit],
        Ask::PayFor(..) => &[OutOfCredit, AlreadyPaid],
        Ask::Cancel(..) => &[NotPaid],
        Ask::Sell(..) => &[OutOfStock, OutOfCredit],
        Ask::Misplan(..) => &[InvalidArgument],
        Ask::AddStock(..)
        | Ask::FindItem(_)
        | Ask::AddFunds(..)
        | Ask::FindUser(_)
        | Ask::FindPayment(..)
        | Ask::CreateOrder(_)
        | Ask::InitStock(_)
        | Ask::InitUsers(_)
        | Ask::InitOrders => &[],
    };
    reason.is_some_and(|reason| expected.contains(&reason))
}

fn is_drawn(order: &str) -> bool {
    order.parse().is_ok_and(|number: u64| number < DRAWN)
}

/// What a refusal reveals about an item or a user.
fn refused(ask: &Ask, reason: &str, short: Option<(u64, u64)>, pot: Pot) -> Option<FundsCall> {
    let (of, is_short) = match pot {
        Pot::Item(of) => (of, reason == Reason::OutOfStock.as_str()),
        Pot::User(of) => (of, reason == Reason::OutOfCredit.as_str()),
    };
    let wanted = match (ask, pot) {
        (Ask::Subtract(id, amount), Pot::Item(_)) | (Ask::Pay(id, amount), Pot::User(_)) => {
            (*id == of).then_some(*amount)
        }
        (Ask::PayFor(id, _), Pot::User(_)) => (*id == of).then_some(PAYMENT),
        (Ask::Sell(_, id, units), Pot::Item(_)) => (*id == of).then_some(*units),
        (Ask::Sell(id, _, units), Pot::User(_)) => (*id == of).then_some(units * PRICE),
        (Ask::Checkout(..), _) => short.filter(|(id, _)| *id == of).map(|(_, wanted)| wanted),
        _ => None,
    };
    wanted.filter(|_| is_short).map(FundsCall::Short)
}

/// Numbers the tokens of an order.
#[derive(Default)]
struct Tokens(BTreeMap<String, usize>);

impl Tokens {
    fn number(&mut self, token: &str) -> usize {
        let next = self.0.len();
        *self.0.entry(token.to_owned()).or_insert(next)
    }
}

fn order_call(entry: &Entry, of: &str, tokens: &mut Tokens) -> Option<OrderCall> {
    let order = match (&entry.ask, &entry.said) {
        (Ask::CreateOrder(_), Some(Said::Id(order))) => order,
        (Ask::InitOrders, _) => return is_drawn(of).then_some(OrderCall::Draw),
        (ask, _) => ask.order()?,
    };
    if order != of {
        return None;
    }
    if let Some(Said::Refused(reason, _)) = &entry.said {
        return match (Reason::parse(reason)?, &entry.ask) {
            (Reason::OrderNotFound, _) => Some(OrderCall::Missing),
            (Reason::AlreadyPaid, _) => Some(OrderCall::AlreadyPaid),
            (Reason::EmptyOrder, _) => Some(OrderCall::Empty),
            (Reason::OutOfStock | Reason::OutOfCredit, _) => Some(OrderCall::Short),
            (Reason::NotInOrder, Ask::RemoveItem(_, item)) => Some(OrderCall::NotIn(*item)),
            (Reason::OrderModified, Ask::Checkout(_, Some(token))) => {
                Some(OrderCall::Modified(tokens.number(token)))
            }
            _ => None,
        };
    }
    let cost = match entry.said {
        Some(Said::Amount(cost)) => Some(cost),
        _ => None,
    };
    match &entry.ask {
        Ask::CreateOrder(_) => Some(OrderCall::Create),
        Ask::AddItem(_, item, units) => Some(OrderCall::Add(*item, *units, cost)),
        Ask::RemoveItem(_, item) => Some(OrderCall::TakeOff(*item, cost)),
        Ask::RemoveOrder(_) => Some(OrderCall::Remove),
        Ask::Checkout(_, None) => Some(OrderCall::Buy),
        Ask::Checkout(_, Some(token)) => Some(OrderCall::BuyAs(tokens.number(token))),
        Ask::FindOrder(_) => match &entry.said {
            Some(Said::Order(order, _, token)) => {
                Some(OrderCall::Read(order.clone(), tokens.number(token)))
            }
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests;
