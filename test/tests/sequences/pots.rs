//! Items and users, whose units can be held.

use std::collections::BTreeMap;

use participant::core::Call;
use payment::records::Payment;
use stock::records::Stock;
use types::{ItemId, Money, OrderId, Quantity, Stamp, TxMeta, UserId};

use crate::rig::{Book, Model, Subject, abort, commit, exhaust, op, prepare};

/// A call on an item or user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Get,
    Add(u64),
    /// With an id of the client's own.
    AddKeyed(u64),
    Take(u64),
    /// With an id that was minted for one call.
    TakeMinted(u64),
    Init(u64),
    Prepare(u8, u64),
    Commit(u8),
    Abort(u8),
    PayFor,
    Cancel,
    FindPayment,
}

use Step::{
    Abort, Add, AddKeyed, Cancel, Commit, FindPayment, Get, Init, PayFor, Prepare, Take, TakeMinted,
};

/// The model of an item or user, one call at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pot {
    units: u64,
    incarnation: u32,
    /// A hold: how many units, and of which incarnation.
    book: Book<(u64, u32)>,
    told: BTreeMap<&'static str, String>,
    /// The incarnation whose payment stands.
    paid: Option<u32>,
    out: &'static str,
}

impl Pot {
    fn held(&self) -> u64 {
        let holders = self.book.holders();
        holders.filter(|(_, hold)| hold.1 == self.incarnation).map(|(_, hold)| hold.0).sum()
    }

    fn take(&mut self, amount: u64) -> String {
        if let Some(left) = self.units.checked_sub(amount) {
            self.units = left;
            left.to_string()
        } else if self.units + self.held() >= amount {
            "waiting".to_owned()
        } else {
            self.out.to_owned()
        }
    }

    fn prepare(&mut self, tx: u8, amount: u64) -> String {
        if let Some(vote) = self.book.vote(tx) {
            return vote;
        }
        let judged = if let Some(left) = self.units.checked_sub(amount) {
            self.units = left;
            Ok((amount, self.incarnation))
        } else if self.units + self.held() >= amount {
            // It waits for any holder, of whatever incarnation.
            Err(self.book.wait_or_die(tx))
        } else {
            Err(format!("no, {}", self.out))
        };
        self.book.judge(tx, judged)
    }

    fn once(&mut self, id: &'static str, call: impl FnOnce(&mut Self) -> String) -> String {
        if let Some(told) = self.told.get(id) {
            return told.clone();
        }
        let answer = call(self);
        if answer != "waiting" {
            self.told.insert(id, answer.clone());
        }
        answer
    }
}

impl Model<Step> for Pot {
    fn step(&mut self, step: Step) -> Option<String> {
        let paid = self.paid == Some(self.incarnation);
        Some(match step {
            Get => self.units.to_string(),
            Add(amount) => {
                self.units += amount;
                self.units.to_string()
            }
            AddKeyed(amount) => self.once("k", |pot| {
                pot.units += amount;
                pot.units.to_string()
            }),
            Take(amount) => self.take(amount),
            TakeMinted(amount) => self.once("~k", |pot| pot.take(amount)),
            Init(amount) => {
                self.units = amount;
                self.incarnation += 1;
                "0".to_owned()
            }
            Prepare(tx, amount) => self.prepare(tx, amount),
            Commit(tx) => {
                self.book.commit(tx)?;
                "committed".to_owned()
            }
            Abort(tx) => {
                let (state, hold) = self.book.abort(tx);
                let back = hold.filter(|hold| hold.1 == self.incarnation);
                self.units += back.map_or(0, |hold| hold.0);
                state.to_owned()
            }
            PayFor if paid => "ALREADY_PAID".to_owned(),
            PayFor => {
                let answer = self.take(1);
                if answer.parse::<u64>().is_ok() {
                    self.paid = Some(self.incarnation);
                }
                answer
            }
            Cancel if paid => {
                self.paid = None;
                self.units += 1;
                self.units.to_string()
            }
            Cancel => "NOT_PAID".to_owned(),
            FindPayment => paid.to_string(),
        })
    }
}

/// The model of an item.
#[derive(Debug, Clone, Default)]
pub(crate) struct Item(Pot);

impl Model<Step> for Item {
    fn step(&mut self, step: Step) -> Option<String> {
        self.0.out = "OUT_OF_STOCK";
        self.0.step(step)
    }
}

/// The model of a user.
#[derive(Debug, Clone, Default)]
pub(crate) struct User(Pot);

impl Model<Step> for User {
    fn step(&mut self, step: Step) -> Option<String> {
        self.0.out = "OUT_OF_CREDIT";
        self.0.step(step)
    }
}

fn units(amount: u64) -> Quantity {
    Quantity::new(amount).unwrap()
}

fn cents(amount: u64) -> Money {
    Money::new(amount).unwrap()
}

impl Subject for Stock {
    type Step = Step;
    type Model = Item;
    const STEPS: &'static [Step] = &[
        Get,
        Add(1),
        AddKeyed(1),
        Take(2),
        TakeMinted(2),
        Init(1),
        Prepare(1, 2),
        Prepare(2, 1),
        Commit(1),
        Commit(2),
        Abort(1),
        Abort(2),
    ];
    const BEFORE: &'static [&'static [Step]] = &[&[Init(2)], &[Init(2), Prepare(1, 1)]];

    fn call(step: Step, _: &[Stamp], meta: &dyn Fn(u8) -> TxMeta) -> Option<Call<Self>> {
        use stock::records::Op;
        let item = ItemId::numbered(0);
        Some(match step {
            Get => op(Op::Get(item), None),
            Add(amount) => op(Op::Add(item, units(amount)), None),
            AddKeyed(amount) => op(Op::Add(item, units(amount)), Some("k")),
            Take(amount) => op(Op::Subtract(item, units(amount)), None),
            TakeMinted(amount) => op(Op::Subtract(item, units(amount)), Some("~k")),
            Init(amount) => {
                let (stock, price) = (units(amount), cents(1));
                op(Op::Init { numbers: vec![0], stock, price }, None)
            }
            Prepare(tx, amount) => prepare(meta(tx), vec![(item, units(amount))]),
            Commit(tx) => commit(meta(tx)),
            Abort(tx) => abort(meta(tx)),
            PayFor | Cancel | FindPayment => return None,
        })
    }

    fn tell(reply: &stock::records::Reply) -> (String, Option<Stamp>) {
        match reply {
            stock::records::Reply::Item(item) => (item.stock.available.to_string(), None),
            stock::records::Reply::Stock(units) => (units.to_string(), None),
        }
    }
}

impl Subject for Payment {
    type Step = Step;
    type Model = User;
    const STEPS: &'static [Step] = &[
        Get,
        Add(1),
        Take(2),
        PayFor,
        Cancel,
        FindPayment,
        Init(1),
        Prepare(1, 2),
        Prepare(2, 1),
        Commit(2),
        Abort(1),
        Abort(2),
    ];
    const BEFORE: &'static [&'static [Step]] = &[&[Init(2)], &[Init(2), Prepare(1, 1)]];

    fn call(step: Step, _: &[Stamp], meta: &dyn Fn(u8) -> TxMeta) -> Option<Call<Self>> {
        use payment::records::Op;
        let user = UserId::numbered(0);
        let order = OrderId::new("for").unwrap();
        Some(match step {
            Get => op(Op::Get(user), None),
            Add(amount) => op(Op::Add(user, cents(amount)), None),
            Take(amount) => op(Op::Pay(user, cents(amount), None), None),
            PayFor => op(Op::Pay(user, cents(1), Some(order)), None),
            Cancel => op(Op::Cancel(user, order), None),
            FindPayment => op(Op::Status(user, order), None),
            Init(amount) => op(Op::Init { numbers: vec![0], credit: cents(amount) }, None),
            Prepare(tx, amount) => prepare(meta(tx), (user, cents(amount))),
            Commit(tx) => commit(meta(tx)),
            Abort(tx) => abort(meta(tx)),
            AddKeyed(_) | TakeMinted(_) => return None,
        })
    }

    fn tell(reply: &payment::records::Reply) -> (String, Option<Stamp>) {
        match reply {
            payment::records::Reply::Credit(credit) => (credit.to_string(), None),
            payment::records::Reply::Paid(paid) => (paid.to_string(), None),
        }
    }
}

#[test]
fn an_item_is_the_same_however_its_calls_are_batched() {
    println!("{} runs", exhaust(&Stock));
}

#[test]
fn a_user_is_the_same_however_the_calls_are_batched() {
    println!("{} runs", exhaust(&Payment));
}
