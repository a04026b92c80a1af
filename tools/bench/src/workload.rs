//! The workload: which call comes next, and whether its answer is as expected.

use std::collections::{BTreeMap, VecDeque};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use crate::{
    call::{Call, Trouble},
    tally::{End, Kind},
};

/// What the callers of a run do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Workload {
    /// Check out each prepared order once. Each has two different items.
    Fresh,
    /// Check out each prepared order once. All are for the same item.
    Hot,
    /// Check out each prepared order once. Some items are far more popular than others.
    Zipf,
    /// Read orders, items and users in turn.
    Find,
    /// Create an order, add two items, check it out and read it. Each step is a call.
    Mixed,
    /// Check out orders drawn uniformly from the prepared ones. After a while most are repeats.
    Stress,
    /// Checkouts that succeed, lack stock or lack credit, by the weights of --mix.
    Scenarios,
}

impl Workload {
    /// The name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Hot => "hot",
            Self::Zipf => "zipf",
            Self::Find => "find",
            Self::Mixed => "mixed",
            Self::Stress => "stress",
            Self::Scenarios => "scenarios",
        }
    }
}

/// How a checkout has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Must {
    Succeed,
    LackStock,
    LackCredit,
}

impl Must {
    const fn reason(self) -> Option<&'static str> {
        match self {
            Self::Succeed => None,
            Self::LackStock => Some("OUT_OF_STOCK"),
            Self::LackCredit => Some("OUT_OF_CREDIT"),
        }
    }
}

/// What a caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Job {
    /// One checkout of the order with this number.
    Checkout { order: usize, id: String, must: Must },
    /// One read.
    Find(Kind, Call),
    /// All calls of a purchase: create an order, add two items, check it out, read it.
    Purchase { user: String, items: [String; 2] },
}

/// The data in the shop when the clock starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Stockroom {
    /// The ids of items are `0..items`; each has this stock.
    pub(crate) items: u64,
    pub(crate) stock: u64,
    /// The ids of users are `0..users`; each has this credit.
    pub(crate) users: u64,
    pub(crate) credit: u64,
    /// Ids of orders. Those that can be bought come first.
    pub(crate) orders: Vec<String>,
    /// The positions in `orders` of those that lack stock, and of those that lack credit.
    pub(crate) lacking_stock: std::ops::Range<usize>,
    pub(crate) lacking_credit: std::ops::Range<usize>,
}

/// What the callers know about an order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Fate {
    /// A checkout was answered with success.
    pub(crate) paid: bool,
    /// A checkout was refused.
    pub(crate) refused: bool,
    /// A checkout failed, so it is unknown whether it paid.
    pub(crate) doubtful: bool,
}

/// Deals out jobs, and records how they ended.
#[derive(Debug)]
pub(crate) struct WorkloadState {
    workload: Workload,
    room: Stockroom,
    rng: StdRng,
    /// Numbers of orders still to be bought, for workloads that buy each one once.
    left: VecDeque<usize>,
    /// Weights of success, lacking stock and lacking credit.
    weights: [u32; 3],
    turn: u64,
    fates: BTreeMap<usize, Fate>,
}

impl WorkloadState {
    /// A state that deals the same jobs in the same order for the same seed.
    pub(crate) fn new(workload: Workload, room: Stockroom, weights: [u32; 3], seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let buyable = room.lacking_stock.start.min(room.lacking_credit.start);
        let mut left: Vec<usize> = match workload {
            Workload::Fresh | Workload::Hot | Workload::Zipf => (0..room.orders.len()).collect(),
            Workload::Scenarios => (0..buyable).collect(),
            Workload::Find | Workload::Mixed | Workload::Stress => Vec::new(),
        };
        left.shuffle(&mut rng);
        let left = VecDeque::from(left);
        Self { workload, room, rng, left, weights, turn: 0, fates: BTreeMap::new() }
    }

    /// The next job; none when there is nothing left to buy.
    pub(crate) fn next(&mut self) -> Option<Job> {
        self.turn += 1;
        match self.workload {
            Workload::Fresh | Workload::Hot | Workload::Zipf => self.once(),
            Workload::Find => Some(self.find()),
            Workload::Mixed => {
                Some(Job::Purchase { user: self.below(self.room.users), items: self.two_items() })
            }
            Workload::Stress => {
                let order = self.rng.random_range(0..self.room.orders.len());
                Some(self.checkout(order, Must::Succeed))
            }
            Workload::Scenarios => self.scenario(),
        }
    }

    /// Whether the workload buys each order once.
    const fn buys_once(&self) -> bool {
        match self.workload {
            Workload::Fresh | Workload::Hot | Workload::Zipf | Workload::Scenarios => true,
            Workload::Find | Workload::Mixed | Workload::Stress => false,
        }
    }

    fn checkout(&self, order: usize, must: Must) -> Job {
        Job::Checkout { order, id: self.room.orders[order].clone(), must }
    }

    fn once(&mut self) -> Option<Job> {
        let order = self.left.pop_back()?;
        Some(self.checkout(order, Must::Succeed))
    }

    fn find(&mut self) -> Job {
        match self.turn % 3 {
            0 => {
                let order = self.rng.random_range(0..self.room.orders.len());
                Job::Find(
                    Kind::FindOrder,
                    Call::FindOrder { order: self.room.orders[order].clone() },
                )
            }
            1 => Job::Find(Kind::FindItem, Call::FindItem { item: self.below(self.room.items) }),
            _ => Job::Find(Kind::FindUser, Call::FindUser { user: self.below(self.room.users) }),
        }
    }

    fn scenario(&mut self) -> Option<Job> {
        let [succeed, lack_stock, lack_credit] = self.weights;
        let drawn = self.rng.random_range(0..succeed + lack_stock + lack_credit);
        if drawn < succeed {
            return self.once();
        }
        let (range, must) = if drawn < succeed + lack_stock {
            (self.room.lacking_stock.clone(), Must::LackStock)
        } else {
            (self.room.lacking_credit.clone(), Must::LackCredit)
        };
        // In turn rather than at random, because two checkouts of one order at once would wait for
        // each other.
        let length = u64::try_from(range.len()).unwrap_or(u64::MAX).max(1);
        let place = usize::try_from(self.turn % length).unwrap_or_default();
        Some(self.checkout(range.start + place, must))
    }

    fn below(&mut self, count: u64) -> String {
        self.rng.random_range(0..count.max(1)).to_string()
    }

    fn two_items(&mut self) -> [String; 2] {
        let first = self.rng.random_range(0..self.room.items.max(2));
        let second = self.rng.random_range(0..self.room.items.max(2) - 1);
        let second = if second >= first { second + 1 } else { second };
        [first.to_string(), second.to_string()]
    }

    /// Adds an order that was created during the run; returns its number.
    pub(crate) fn made(&mut self, id: String) -> usize {
        self.room.orders.push(id);
        self.room.orders.len() - 1
    }

    /// Records how a checkout ended; returns what it counts as.
    pub(crate) fn ended(&mut self, order: usize, must: Must, outcome: Result<(), Trouble>) -> End {
        let fate = self.fates.entry(order).or_default();
        match outcome {
            Ok(()) => {
                let first = !std::mem::replace(&mut fate.paid, true);
                match (must, first) {
                    (Must::Succeed, true) => End::Done(Kind::Fresh),
                    (Must::Succeed, false) => End::Done(Kind::Repeated),
                    (Must::LackStock | Must::LackCredit, _) => {
                        End::Failed("a checkout succeeded that could not be paid for".to_owned())
                    }
                }
            }
            Err(Trouble::Refused(reason)) => {
                fate.refused = true;
                if must.reason() == Some(reason.as_str()) {
                    End::Expected(reason)
                } else {
                    End::Unexplained(reason)
                }
            }
            Err(Trouble::Shed(said)) => {
                // Nothing was begun, so the order must not be paid. It is tried again, as the last
                // one.
                fate.refused = true;
                if must == Must::Succeed && self.buys_once() {
                    self.left.push_front(order);
                }
                End::Shed(said)
            }
            Err(Trouble::Failed(problem)) => {
                fate.doubtful = true;
                End::Failed(problem)
            }
        }
    }

    /// The data in the shop, including orders created during the run, and the fates of the orders
    /// that checkouts touched.
    pub(crate) fn into_parts(self) -> (Stockroom, BTreeMap<usize, Fate>) {
        (self.room, self.fates)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn room(orders: usize) -> Stockroom {
        Stockroom {
            items: 10,
            stock: 100,
            users: 10,
            credit: 100,
            orders: (0..orders).map(|id| id.to_string()).collect(),
            lacking_stock: orders..orders,
            lacking_credit: orders..orders,
        }
    }

    #[test]
    fn fresh_buys_every_order_once_and_ends() {
        let mut board = WorkloadState::new(Workload::Fresh, room(50), [1, 0, 0], 7);
        let mut bought = BTreeSet::new();
        while let Some(Job::Checkout { order, must, .. }) = board.next() {
            assert!(bought.insert(order));
            assert_eq!(board.ended(order, must, Ok(())), End::Done(Kind::Fresh));
        }
        assert_eq!(bought.len(), 50);
    }

    #[test]
    fn one_seed_deals_one_order_of_jobs() {
        let jobs = |seed| -> Vec<Option<Job>> {
            let mut board = WorkloadState::new(Workload::Stress, room(50), [1, 0, 0], seed);
            (0..20).map(|_| board.next()).collect()
        };
        assert_eq!(jobs(1), jobs(1));
        assert_ne!(jobs(1), jobs(2));
    }

    #[test]
    fn only_the_first_success_of_an_order_is_fresh() {
        let mut board = WorkloadState::new(Workload::Stress, room(1), [1, 0, 0], 7);
        assert_eq!(board.ended(0, Must::Succeed, Ok(())), End::Done(Kind::Fresh));
        assert_eq!(board.ended(0, Must::Succeed, Ok(())), End::Done(Kind::Repeated));
    }

    #[test]
    fn a_refusal_is_explained_by_its_scenario_alone() {
        let mut board = WorkloadState::new(Workload::Scenarios, room(1), [1, 1, 1], 7);
        let no = || Err(Trouble::Refused("OUT_OF_STOCK".to_owned()));
        assert!(matches!(board.ended(0, Must::LackStock, no()), End::Expected(_)));
        assert!(matches!(board.ended(0, Must::LackCredit, no()), End::Unexplained(_)));
        assert!(matches!(board.ended(0, Must::Succeed, no()), End::Unexplained(_)));
        assert!(matches!(board.ended(0, Must::LackStock, Ok(())), End::Failed(_)));
    }

    #[test]
    fn an_order_that_was_too_much_is_bought_later() {
        let mut board = WorkloadState::new(Workload::Fresh, room(3), [1, 0, 0], 7);
        let shed = || Err(Trouble::Shed("429 OVERLOADED".to_owned()));
        let Some(Job::Checkout { order: first, must, .. }) = board.next() else { panic!("no job") };
        assert!(matches!(board.ended(first, must, shed()), End::Shed(_)));
        let mut bought = Vec::new();
        while let Some(Job::Checkout { order, must, .. }) = board.next() {
            assert_eq!(board.ended(order, must, Ok(())), End::Done(Kind::Fresh));
            bought.push(order);
        }
        assert_eq!((bought.len(), bought.last()), (3, Some(&first)));
    }

    #[test]
    fn scenarios_come_by_weight() {
        let mut room = room(1_000);
        room.lacking_stock = 800..900;
        room.lacking_credit = 900..1_000;
        let mut board = WorkloadState::new(Workload::Scenarios, room, [1, 1, 2], 7);
        let mut counts = [0; 3];
        for _ in 0..1_000 {
            let Some(Job::Checkout { order, must, .. }) = board.next() else { panic!("no job") };
            let (place, range) = match must {
                Must::Succeed => (0, 0..800),
                Must::LackStock => (1, 800..900),
                Must::LackCredit => (2, 900..1_000),
            };
            assert!(range.contains(&order));
            counts[place] += 1;
        }
        assert!(counts[0] > 200 && counts[1] > 200 && counts[2] > 440, "{counts:?}");
    }

    #[test]
    fn a_purchase_has_two_different_items() {
        let mut small = room(1);
        small.items = 2;
        let mut board = WorkloadState::new(Workload::Mixed, small, [1, 0, 0], 7);
        for _ in 0..50 {
            let Some(Job::Purchase { items: [first, second], .. }) = board.next() else {
                panic!("no purchase")
            };
            assert_ne!(first, second);
        }
    }
}
