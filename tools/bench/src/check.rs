//! The check after a run: exactly what was sold is paid for and gone from the stock.
//!
//! It is independent of `till audit`, because it asks only what any client may ask. It reads every
//! order that a checkout touched, and then the items and users of the paid ones. An item must have
//! lost exactly the units in the paid orders' lines, and a user exactly their cost. This holds only
//! while nobody else uses the shop.

use std::collections::BTreeMap;

use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use crate::{
    call::{Call, Order, Reply},
    client::Endpoints,
    workload::{Fate, Stockroom},
};

/// How many findings are shown in words.
const SHOWN_MAX: usize = 10;

/// What the check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Orders read, which are all that checkouts touched.
    pub(crate) orders: usize,
    /// How many of them are paid.
    pub(crate) paid: usize,
    /// Items and users compared, and how many could have been.
    pub(crate) compared: usize,
    pub(crate) comparable: usize,
    /// Units and money of the paid orders.
    pub(crate) units: u64,
    pub(crate) money: u64,
    findings: usize,
    shown: Vec<String>,
}

impl Verdict {
    fn find(&mut self, finding: String) {
        self.findings += 1;
        if self.shown.len() < SHOWN_MAX {
            self.shown.push(finding);
        }
    }

    /// What is wrong; empty when all is well.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.shown.clone();
        if self.findings > self.shown.len() {
            problems.push(format!("{} findings in all", self.findings));
        }
        problems
    }
}

/// Checks the shop. Compares at most `compare_max` items and users, drawn at random.
///
/// # Errors
/// In words, when a call to the shop fails.
pub(crate) async fn check(
    endpoints: &Endpoints,
    room: &Stockroom,
    fates: &BTreeMap<usize, Fate>,
    compare_max: usize,
    seed: u64,
) -> Result<Verdict, String> {
    let find = |number: &usize| Call::FindOrder { order: room.orders[*number].clone() };
    let replies = endpoints.all("check of orders", fates.keys().map(find).collect()).await?;
    let orders = replies.iter().map(Reply::order).collect::<Result<Vec<_>, _>>();
    let orders = orders.map_err(|trouble| trouble.to_string())?;
    let mut verdict = Verdict::default();
    let (units, money) = sold(&mut verdict, room, fates, &orders);
    let mut expected: Vec<(Call, u64)> = Vec::new();
    for (item, sold) in units {
        let left = room.stock.saturating_sub(sold);
        expected.push((Call::FindItem { item }, left));
    }
    for (user, spent) in money {
        expected.push((Call::FindUser { user }, room.credit.saturating_sub(spent)));
    }
    verdict.comparable = expected.len();
    expected.shuffle(&mut StdRng::seed_from_u64(seed));
    expected.truncate(compare_max);
    verdict.compared = expected.len();
    let calls = expected.iter().map(|(call, _)| call.clone()).collect();
    let replies = endpoints.all("check of items and users", calls).await?;
    for ((call, expected), reply) in expected.iter().zip(replies) {
        let is = reply.amount().map_err(|trouble| trouble.to_string())?;
        if is != *expected {
            verdict.find(format!("{}: {is} instead of {expected}", call.rest().1));
        }
    }
    Ok(verdict)
}

type Sums = BTreeMap<String, u64>;

/// Units by item and money by user, of the paid orders. Records where callers were shown something
/// else.
fn sold(
    verdict: &mut Verdict,
    room: &Stockroom,
    fates: &BTreeMap<usize, Fate>,
    orders: &[Order],
) -> (Sums, Sums) {
    let (mut units, mut money) = (Sums::new(), Sums::new());
    for ((number, fate), order) in fates.iter().zip(orders) {
        let id = &room.orders[*number];
        verdict.orders += 1;
        if fate.paid && !order.paid {
            verdict.find(format!("order {id}: answered with success, but not paid"));
        }
        if order.paid && !fate.paid && !fate.doubtful {
            verdict.find(format!("order {id}: refused, but paid"));
        }
        if order.paid {
            verdict.paid += 1;
            verdict.money += order.cost;
            *money.entry(order.user.clone()).or_default() += order.cost;
            for (item, quantity) in &order.lines {
                verdict.units += quantity;
                *units.entry(item.clone()).or_default() += quantity;
            }
        }
    }
    (units, money)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(paid: bool) -> Order {
        let lines = vec![("a".to_owned(), 2), ("b".to_owned(), 1)];
        Order { paid, user: "u".to_owned(), lines, cost: 3 }
    }

    fn judge(fate: Fate, paid: bool) -> (Verdict, Sums, Sums) {
        let room = Stockroom { orders: vec!["o".to_owned()], ..Stockroom::default() };
        let mut verdict = Verdict::default();
        let (units, money) =
            sold(&mut verdict, &room, &BTreeMap::from([(0, fate)]), &[order(paid)]);
        (verdict, units, money)
    }

    #[test]
    fn what_is_paid_is_what_was_sold() {
        let (verdict, units, money) = judge(Fate { paid: true, ..Fate::default() }, true);
        assert_eq!(verdict.problems(), Vec::<String>::new());
        assert_eq!((units["a"], units["b"], money["u"]), (2, 1, 3));
        let (_, units, _) = judge(Fate { refused: true, ..Fate::default() }, false);
        assert!(units.is_empty());
    }

    #[test]
    fn a_broken_promise_is_found() {
        let (lost, ..) = judge(Fate { paid: true, ..Fate::default() }, false);
        assert_eq!(lost.problems().len(), 1);
        let (sneaked, ..) = judge(Fate { refused: true, ..Fate::default() }, true);
        assert_eq!(sneaked.problems().len(), 1);
        // The outcome was unknown, so both are right.
        for paid in [true, false] {
            let (doubted, ..) = judge(Fate { doubtful: true, ..Fate::default() }, paid);
            assert!(doubted.problems().is_empty());
        }
    }
}
