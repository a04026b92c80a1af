//! Orders, which are sold as they were read or not at all.

use std::collections::BTreeMap;

use order::records::{Draw, Lock, Op, Order, Orders, Reply};
use participant::core::Call;
use types::{ItemId, Money, OrderId, Quantity, Stamp, TxMeta, UserId};

use crate::rig::{Book, Model, Subject, abort, commit, exhaust, op, prepare};

/// A call on an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Create,
    Get,
    Add,
    /// With an id that was minted for one call.
    AddMinted,
    TakeOff,
    Remove,
    Init,
    /// With the token that was read last.
    Prepare(u8),
    /// With the token that was read first.
    PrepareOld(u8),
    Commit(u8),
    Abort(u8),
}

use Step::{
    Abort, Add, AddMinted, Commit, Create, Get, Init, Prepare, PrepareOld, Remove, TakeOff,
};

/// The model of an order, one call at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    /// Units of item "0", and whether it is paid.
    order: Option<(u64, bool)>,
    /// How often it has changed.
    change: u32,
    /// The changes that were read, by number.
    read: Vec<u32>,
    book: Book<()>,
    told: BTreeMap<&'static str, String>,
}

impl Shelf {
    fn set(&mut self, order: Option<(u64, bool)>) {
        self.order = order;
        self.change += 1;
    }

    fn is_locked(&self) -> bool {
        self.book.holders().next().is_some()
    }

    fn change(&mut self, change: impl FnOnce(u64) -> Result<u64, &'static str>) -> String {
        let changed = match self.order {
            _ if self.is_locked() => Err("waiting"),
            None => Err("ORDER_NOT_FOUND"),
            Some((_, true)) => Err("ALREADY_PAID"),
            Some((units, false)) => change(units),
        };
        match changed {
            Ok(units) => {
                self.set(Some((units, false)));
                units.to_string()
            }
            Err(why) => why.to_owned(),
        }
    }

    fn remove(&mut self) -> &'static str {
        match self.order {
            _ if self.is_locked() => "waiting",
            None => "ORDER_NOT_FOUND",
            Some((_, true)) => "ALREADY_PAID",
            Some((_, false)) => {
                self.set(None);
                "0"
            }
        }
    }

    fn prepare(&mut self, tx: u8, token: Option<u32>) -> Option<String> {
        let token = token?;
        if let Some(vote) = self.book.vote(tx) {
            return Some(vote);
        }
        let judged = if self.is_locked() {
            Err(self.book.wait_or_die(tx))
        } else {
            match self.order {
                Some((_, true)) => Err("no, ALREADY_PAID".to_owned()),
                Some(_) if token == self.change => Ok(()),
                Some(_) | None => Err("no, ORDER_CHANGED".to_owned()),
            }
        };
        Some(self.book.judge(tx, judged))
    }
}

impl Model<Step> for Shelf {
    fn step(&mut self, step: Step) -> Option<String> {
        Some(match step {
            Create if self.order.is_some() => "REQUEST_ID_REUSED".to_owned(),
            Create => {
                self.set(Some((0, false)));
                "0".to_owned()
            }
            Get | Init if self.is_locked() => "waiting".to_owned(),
            Get => match self.order {
                Some((units, paid)) => {
                    if self.read.last() != Some(&self.change) {
                        self.read.push(self.change);
                    }
                    format!("{units} {paid}")
                }
                None => "ORDER_NOT_FOUND".to_owned(),
            },
            Add => self.change(|units| Ok(units + 1)),
            AddMinted => {
                if let Some(told) = self.told.get("~k") {
                    return Some(told.clone());
                }
                let answer = self.change(|units| Ok(units + 1));
                if answer != "waiting" {
                    self.told.insert("~k", answer.clone());
                }
                answer
            }
            TakeOff => self.change(|units| units.checked_sub(1).ok_or("NOT_IN_ORDER")),
            Remove => self.remove().to_owned(),
            Init => {
                self.set(Some((2, false)));
                "0".to_owned()
            }
            Prepare(tx) => self.prepare(tx, self.read.last().copied())?,
            PrepareOld(tx) => self.prepare(tx, self.read.first().copied())?,
            Commit(tx) => {
                if self.book.commit(tx)? {
                    self.set(self.order.map(|(units, _)| (units, true)));
                }
                "committed".to_owned()
            }
            Abort(tx) => self.book.abort(tx).0.to_owned(),
        })
    }
}

fn content(order: &Order) -> String {
    let units: u64 = order.lines.iter().map(|line| line.quantity.get()).sum();
    format!("{units} {}", order.paid.is_some())
}

impl Subject for Orders {
    type Step = Step;
    type Model = Shelf;
    const STEPS: &'static [Step] = &[
        Create,
        Get,
        Add,
        AddMinted,
        TakeOff,
        Remove,
        Init,
        Prepare(1),
        Prepare(2),
        PrepareOld(1),
        Commit(1),
        Abort(1),
        Abort(2),
    ];
    const BEFORE: &'static [&'static [Step]] =
        &[&[Create, Add, Get], &[Create, Add, Get, Prepare(1)]];

    fn call(step: Step, tokens: &[Stamp], meta: &dyn Fn(u8) -> TxMeta) -> Option<Call<Self>> {
        let (id, item) = (OrderId::numbered(0), ItemId::numbered(0));
        let (one, price) = (Quantity::new(1).unwrap(), Money::new(1).unwrap());
        let draw = Draw { seed: 1, item_count: 1, user_count: 1, item_price: price };
        let lock = |tx, stamp: Option<&Stamp>| {
            let payload = Lock { order_id: OrderId::numbered(0), stamp: *stamp? };
            Some(prepare::<Self>(meta(tx), payload))
        };
        Some(match step {
            Create => op(Op::Create(id, UserId::numbered(0)), None),
            Get => op(Op::Get(id), None),
            Add => op(Op::Add(id, item, one, price), None),
            AddMinted => op(Op::Add(id, item, one, price), Some("~k")),
            TakeOff => op(Op::RemoveItem(id, item), None),
            Remove => op(Op::Remove(id), None),
            Init => op(Op::Init { numbers: vec![0], draw }, None),
            Prepare(tx) => lock(tx, tokens.last())?,
            PrepareOld(tx) => lock(tx, tokens.first())?,
            Commit(tx) => commit(meta(tx)),
            Abort(tx) => abort(meta(tx)),
        })
    }

    fn tell(reply: &Reply) -> (String, Option<Stamp>) {
        match reply {
            Reply::Order(order) => (content(order), Some(order.stamp)),
            Reply::TotalCost(cost) => (cost.to_string(), None),
        }
    }
}

#[test]
fn an_order_is_the_same_however_its_calls_are_batched() {
    println!("{} runs", exhaust(&Orders));
}
