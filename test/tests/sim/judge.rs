//! Whether everything that clients were told, of each order, item and user, could have happened one call
//! at a time.
//!
//! Linearizability is local (Herlihy and Wing, 1990), so every object is judged by itself. A purchase
//! concerns an order, its items and its user; at an item or user it is one call that took effect between
//! the beginning of the first checkout that may have made it and the end of the first that says so.

use std::collections::{BTreeMap, BTreeSet};

use types::Reason;

use crate::{
    calls::{Ask, DRAWN, ITEMS, Said, USERS},
    linear::{Model, Span, Verdict, check},
    models::{Funds, FundsCall, Order, OrderCall, Orders, PRICE, Shown},
    people::{Entry, History},
};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// What cannot have happened.
    pub(crate) problems: Vec<String>,
    /// Objects whose history was too long to decide.
    pub(crate) undecided: usize,
}

/// An item or a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pot {
    Item(u64),
    User(u64),
}

/// Judges a history. `closed` are the orders as they stand at the end, and whose they are; `calm` says that no checkout can have held anything beyond its answer.
pub(crate) fn judge(
    history: &History,
    closed: &BTreeMap<String, (Order, u64)>,
    calm: bool,
) -> Judgement {
    let mut judgement = Judgement::default();
    let judge = Judge { entries: &history.entries, closed, calm };
    let drawn = (0..DRAWN).map(|order| order.to_string());
    for order in closed.keys().cloned().chain(drawn).collect::<BTreeSet<_>>() {
        let spans = judge.order_spans(&order);
        judgement.decide(&format!("order {order}"), &Orders, &None, &spans);
    }
    let pots = (0..ITEMS).map(Pot::Item).chain((0..USERS).map(Pot::User));
    for pot in pots.filter(|pot| judge.is_known(*pot)) {
        let spans = judge.pot_spans(pot);
        judgement.decide(&format!("{pot:?}"), &Funds, &0, &spans);
    }
    judgement.problems.extend(judge.surprises());
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
        M::Call: std::fmt::Debug,
    {
        match check(model, initial, spans) {
            Verdict::Linearizable => {}
            Verdict::Undecided => self.undecided += 1,
            Verdict::Impossible(order) => {
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
    fn order_spans(&self, order: &str) -> Vec<Span<OrderCall>> {
        let call = |entry: &Entry| {
            let call = order_call(entry, order)?;
            Some(Span { call, began: entry.began, ended: entry.ended })
        };
        let mut spans: Vec<_> = self.entries.iter().filter_map(call).collect();
        if self.draws() > 1 && is_drawn(order) {
            // What was bought is remembered by the order alone, so a late copy buys what is drawn anew.
            let copy =
                |entry: &Entry| Span { call: OrderCall::Buy, began: entry.began, ended: None };
            spans.extend(self.checkouts(order).map(copy));
        }
        spans
    }

    fn draws(&self) -> usize {
        self.entries.iter().filter(|entry| entry.ask == Ask::InitOrders).count()
    }

    /// Drawn orders overwrite who bought what, so what they touch is left to the audit then.
    fn is_known(&self, pot: Pot) -> bool {
        self.draws() == 1 || !matches!(pot, Pot::Item(0) | Pot::User(0))
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
            Some(Said::Amount(amount)) => Some(Shown::new(*amount, &self.holds(entry, pot))),
            _ => None,
        };
        let short = |wanted: u64| match &entry.said {
            Some(Said::Refused(..)) => FundsCall::Short(wanted),
            _ => FundsCall::Take(wanted, shown(&entry.said)),
        };
        match (&entry.ask, pot) {
            (Ask::InitStock(amount), Pot::Item(_)) | (Ask::InitUsers(amount), Pot::User(_)) => {
                Some(FundsCall::Set(*amount))
            }
            (Ask::AddStock(id, amount), Pot::Item(of)) if *id == of => {
                Some(FundsCall::Put(*amount, shown(&entry.said)))
            }
            (Ask::AddFunds(id, amount), Pot::User(of)) if *id == of => {
                Some(FundsCall::Put(*amount, shown(&entry.said)))
            }
            (Ask::Subtract(id, amount), Pot::Item(of)) if *id == of => Some(short(*amount)),
            (Ask::Pay(id, amount), Pot::User(of)) if *id == of => Some(short(*amount)),
            (Ask::FindItem(id), Pot::Item(of)) if *id == of => {
                shown(&entry.said).map(FundsCall::Read)
            }
            (Ask::FindUser(id), Pot::User(of)) if *id == of => {
                shown(&entry.said).map(FundsCall::Read)
            }
            (Ask::Checkout(_), _) => match (&entry.said, pot) {
                (Some(Said::Refused(reason, Some((id, wanted)))), Pot::Item(of))
                    if *id == of && reason == Reason::OutOfStock.as_str() =>
                {
                    Some(FundsCall::Short(*wanted))
                }
                (Some(Said::Refused(reason, Some((id, wanted)))), Pot::User(of))
                    if *id == of && reason == Reason::OutOfCredit.as_str() =>
                {
                    Some(FundsCall::Short(*wanted))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// What was bought in the end, each as one call.
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
            .filter(move |entry| matches!(&entry.ask, Ask::Checkout(id) if id == order))
    }

    /// What unfinished checkouts may have set aside there when something was shown to a client.
    fn holds(&self, shown: &Entry, pot: Pot) -> Vec<u64> {
        if shown.quiet {
            return Vec::new();
        }
        // How many attempts may hold the same at once: more than checkouts where calls are repeated.
        let under_way = |order: &str| {
            let under_way = self.checkouts(order).filter(|checkout| {
                let before = shown.ended.is_some_and(|ended| checkout.began < ended);
                let over = checkout.ended.is_some_and(|ended| ended < shown.began);
                before && !(over && self.calm)
            });
            let count = u64::try_from(under_way.count()).unwrap();
            if self.calm { count } else { 3 * count }
        };
        let mut holds = Vec::new();
        for entry in self.entries {
            let Ask::AddItem(order, item, units) = &entry.ask else { continue };
            let user = self.closed.get(order).map(|(_, user)| *user);
            match pot {
                // Unit by unit, as some may have been taken off again.
                Pot::Item(of) if *item == of => {
                    holds.extend((0..units * under_way(order)).map(|_| 1));
                }
                Pot::User(of) if user.is_none_or(|user| user == of) => {
                    holds.extend((0..units * under_way(order)).map(|_| PRICE));
                }
                Pot::Item(_) | Pot::User(_) => {}
            }
        }
        let drawn: u64 = (0..DRAWN).map(|order| under_way(&order.to_string())).sum();
        match pot {
            Pot::Item(0) => holds.extend((0..drawn).map(|_| 2)),
            Pot::User(0) => holds.extend((0..drawn).map(|_| 2 * PRICE)),
            Pot::Item(_) | Pot::User(_) => {}
        }
        holds
    }

    /// Refusals that nothing which these clients do can lead to.
    fn surprises(&self) -> impl Iterator<Item = String> {
        let expected: BTreeSet<&str> = [
            Reason::OutOfStock,
            Reason::OutOfCredit,
            Reason::EmptyOrder,
            Reason::AlreadyPaid,
            Reason::NotInOrder,
            Reason::OrderNotFound,
        ]
        .map(Reason::as_str)
        .into();
        self.entries.iter().filter_map(move |entry| match &entry.said {
            Some(Said::Refused(reason, _)) if !expected.contains(reason.as_str()) => {
                Some(format!("refused for no reason: {entry:?}"))
            }
            _ => None,
        })
    }
}

fn is_drawn(order: &str) -> bool {
    order.parse().is_ok_and(|number: u64| number < DRAWN)
}

fn order_call(entry: &Entry, of: &str) -> Option<OrderCall> {
    let order = match &entry.ask {
        Ask::AddItem(order, ..)
        | Ask::RemoveItem(order, _)
        | Ask::RemoveOrder(order)
        | Ask::FindOrder(order)
        | Ask::Checkout(order) => order,
        Ask::CreateOrder(_) => match &entry.said {
            Some(Said::Id(order)) => order,
            _ => return None,
        },
        Ask::InitOrders => {
            return is_drawn(of).then_some(OrderCall::Draw);
        }
        _ => return None,
    };
    if order != of {
        return None;
    }
    if let Some(Said::Refused(reason, _)) = &entry.said {
        return match (Reason::parse(reason)?, &entry.ask) {
            (Reason::OrderNotFound, _) => Some(OrderCall::Read(None)),
            (Reason::AlreadyPaid, _) => Some(OrderCall::AlreadyPaid),
            (Reason::EmptyOrder, _) => Some(OrderCall::Empty),
            (Reason::OutOfStock | Reason::OutOfCredit, _) => Some(OrderCall::Short),
            (Reason::NotInOrder, Ask::RemoveItem(_, item)) => Some(OrderCall::NotIn(*item)),
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
        Ask::Checkout(_) => Some(OrderCall::Buy),
        Ask::FindOrder(_) => match &entry.said {
            Some(Said::Order(order, _)) => Some(OrderCall::Read(Some(order.clone()))),
            _ => None,
        },
        _ => None,
    }
}
