//! Checks what must hold in the store itself once everything is quiet, whatever clients were told.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message;
use proto::{
    payment::v1::HoldCreditReceipt,
    stock::v1::{HoldStockReceipt, hold_stock_receipt::Line},
};
use storage::{
    codec,
    keys::{Kind, Space},
    record::{Head, ItemRecord, JournalEntry, OrderRecord, UserRecord, tx_event::Event},
};
use testkit::MemKv;
use types::{BranchState, Role, ShardId, Stamp, TxId};

use system_test::history::calls::{DRAWN, FOREIGN};

use crate::shop::SHARDS;

/// A branch: its service and shard.
type Seat = (&'static str, u16);

/// What one shard's journal said of one transaction.
#[derive(Debug, Default)]
struct Seen {
    committed: bool,
    /// It aborted, or was refused by a vote.
    against: bool,
    open: bool,
}

/// What was bought by which transactions, from every version of every order.
#[derive(Debug, Default)]
struct Sales {
    /// Units by item and incarnation.
    units: BTreeMap<(String, Stamp), u64>,
    /// Money by user and incarnation.
    money: BTreeMap<(String, Stamp), u64>,
    problems: Vec<String>,
}

/// Checks the store, and what the foreign participant knows. Returns the problems.
pub(crate) fn audit(kv: &MemKv, foreign: &[(TxId, BranchState)]) -> Vec<String> {
    let stored = kv.versions();
    let (versions, mut behind) = shown(&stored);
    let each = |owner: Role, kind: Kind| {
        let ranges = (0..SHARDS).map(move |shard| Space::of(owner, ShardId(shard)).range(kind));
        let versions = &versions;
        ranges.flat_map(move |range| versions.range(range))
    };
    let mut sales = Sales::default();
    let mut payers = BTreeSet::new();
    for (key, versions) in each(Role::Order, Kind::Order) {
        for value in versions.iter().filter_map(|(_, value)| value.as_ref()) {
            let order: OrderRecord = codec::decode(key, value).unwrap();
            let Some(paid) = &order.paid else { continue };
            let id = text(key);
            if payers.insert((paid.tx_id.clone(), id.clone())) {
                sales.add(&id, &order);
            }
        }
    }
    let payments: BTreeSet<_> = payers.iter().map(|(tx_id, _)| tx_id).collect();
    let mut problems = sales.add_overwritten(&versions, &payments);
    problems.append(&mut sales.problems);
    problems.append(&mut behind);
    if payments.len() < payers.len() {
        problems.push(format!("a transaction paid two orders: {payers:?}"));
    }
    for (key, versions) in each(Role::Stock, Kind::Item) {
        let Some((_, Some(value))) = versions.last() else { continue };
        let item: ItemRecord = codec::decode(key, value).unwrap();
        let incarnation = Stamp::new(item.incarnation, item.incarnation_change);
        let sold = sales.units.get(&(text(key), incarnation)).copied().unwrap_or(0);
        if item.available + sold != item.supplied {
            problems.push(format!("item {}: {item:?}, but sold {sold}", text(key)));
        }
    }
    for (key, versions) in each(Role::Payment, Kind::User) {
        let Some((_, Some(value))) = versions.last() else { continue };
        let user: UserRecord = codec::decode(key, value).unwrap();
        let incarnation = Stamp::new(user.incarnation, user.incarnation_change);
        let spent = sales.money.get(&(text(key), incarnation)).copied().unwrap_or(0);
        if user.available + spent != user.supplied {
            problems.push(format!("user {}: {user:?}, but spent {spent}", text(key)));
        }
    }
    for owner in Role::SERVICES {
        for shard in 0..SHARDS {
            let range = Space::of(owner, ShardId(shard)).range(Kind::Journal);
            let stands = versions.range(range).filter_map(|(key, all)| Some((key, all.last()?)));
            let stands = stands.filter_map(|(key, (_, value))| Some((key, value.as_ref()?)));
            let open = seen(stands).into_iter().filter(|(_, seen)| seen.open);
            problems.extend(open.map(|(tx, _)| format!("{owner:?}/{shard} never heard of {tx}")));
        }
    }
    let open = foreign.iter().filter(|(_, state)| *state == BranchState::Prepared);
    problems.extend(open.map(|(tx, _)| format!("{FOREIGN} never heard of {tx}")));
    problems.extend(contradictions(&versions, foreign));
    problems
}

impl Sales {
    /// Adds a paid order's receipts, which must match its lines and its cost.
    fn add(&mut self, id: &str, order: &OrderRecord) {
        let mut ordered: BTreeMap<&str, u64> = BTreeMap::new();
        for line in &order.lines {
            *ordered.entry(&line.item_id).or_default() += line.quantity;
        }
        let mut held: BTreeMap<String, u64> = BTreeMap::new();
        let mut paid = Vec::new();
        for receipt in order.paid.iter().flat_map(|paid| &paid.receipts) {
            match receipt.branch.as_ref().map(|branch| branch.service.as_str()) {
                Some("stock") => {
                    for line in self.add_units(&receipt.receipt) {
                        *held.entry(line.item_id).or_default() += line.quantity;
                    }
                }
                Some("payment") => {
                    let receipt = self.add_money(&receipt.receipt);
                    paid.push((receipt.user_id, receipt.amount));
                }
                _ => {}
            }
        }
        let held: BTreeMap<&str, u64> = held.iter().map(|(id, units)| (&id[..], *units)).collect();
        if held != ordered || paid != [(order.user_id.clone(), order.total_cost)] {
            self.problems.push(format!("order {id} is paid with {held:?} and {paid:?}: {order:?}"));
        }
    }

    fn add_units(&mut self, receipt: &[u8]) -> Vec<Line> {
        let lines = HoldStockReceipt::decode(receipt).unwrap().lines;
        for line in &lines {
            let incarnation = Stamp::new(line.incarnation, line.incarnation_change);
            let item = (line.item_id.clone(), incarnation);
            *self.units.entry(item).or_default() += line.quantity;
        }
        lines
    }

    fn add_money(&mut self, receipt: &[u8]) -> HoldCreditReceipt {
        let receipt = HoldCreditReceipt::decode(receipt).unwrap();
        let incarnation = Stamp::new(receipt.incarnation, receipt.incarnation_change);
        let user = (receipt.user_id.clone(), incarnation);
        *self.money.entry(user).or_default() += receipt.amount;
        receipt
    }

    /// Adds purchases whose order was overwritten. One batch may buy a drawn order and draw it
    /// anew, so that no record ever says that it was paid. For any other order that is a problem.
    fn add_overwritten(&mut self, versions: &Versions, paid: &BTreeSet<&Bytes>) -> Vec<String> {
        let mut problems = Vec::new();
        let mut overwritten = BTreeSet::new();
        let mut orders = BTreeMap::new();
        for event in events(versions, Role::Order) {
            match event {
                Event::Prepared(event) => drop(orders.insert(event.tx.unwrap().tx_id, event.hold)),
                Event::Decided(event) if event.committed && !paid.contains(&event.tx_id) => {
                    let order = orders.get(&event.tx_id).cloned().unwrap_or_default();
                    let order = String::from_utf8_lossy(&order).into_owned();
                    if order.parse().is_ok_and(|number: u64| number < DRAWN) {
                        overwritten.insert(event.tx_id);
                    } else {
                        problems.push(format!("order {order} was committed and is not paid"));
                    }
                }
                _ => {}
            }
        }
        // No order has what was sold without one.
        overwritten.extend(without_order(versions));
        for owner in [Role::Stock, Role::Payment] {
            let mut seen = BTreeSet::new();
            for event in events(versions, owner) {
                let Event::Prepared(event) = event else { continue };
                let tx_id = event.tx.unwrap().tx_id;
                let first = seen.insert((tx_id.clone(), event.receipt.clone()));
                if !overwritten.contains(&tx_id) || !first {
                    continue;
                }
                if owner == Role::Stock {
                    self.add_units(&event.receipt);
                } else {
                    self.add_money(&event.receipt);
                }
            }
        }
        problems
    }
}

/// Committed transactions that sold something without an order, by the journals of stock, their
/// primary.
fn without_order(versions: &Versions) -> BTreeSet<Bytes> {
    let (mut planned, mut committed) = (BTreeSet::new(), BTreeSet::new());
    for event in events(versions, Role::Stock) {
        match event {
            Event::Prepared(event) => {
                let tx = event.tx.unwrap();
                if tx.branches.iter().all(|branch| branch.service != "order") {
                    planned.insert(tx.tx_id);
                }
            }
            Event::Decided(event) if event.committed => drop(committed.insert(event.tx_id)),
            _ => {}
        }
    }
    planned.intersection(&committed).cloned().collect()
}

/// Every event in any version of a service's journals, shard by shard.
fn events(versions: &Versions, owner: Role) -> impl Iterator<Item = Event> {
    let ranges =
        (0..SHARDS).map(move |shard| Space::of(owner, ShardId(shard)).range(Kind::Journal));
    let values = ranges.flat_map(|range| versions.range(range)).flat_map(|(key, all)| {
        all.iter().filter_map(move |(_, value)| Some((key, value.as_ref()?)))
    });
    values.flat_map(|(key, value)| {
        let entry: JournalEntry = codec::decode_packed(key, value).unwrap();
        entry.events.into_iter().filter_map(|event| event.event)
    })
}

/// Finds branches that are committed though another one is aborted (I5).
fn contradictions(versions: &Versions, foreign: &[(TxId, BranchState)]) -> Vec<String> {
    let mut all: BTreeMap<String, BTreeMap<Seat, Seen>> = BTreeMap::new();
    for (tx_id, state) in foreign {
        let committed = *state == BranchState::Committed;
        let seen = Seen { committed, against: !committed, open: false };
        all.entry(codec::hex(&tx_id.0)).or_default().insert(("foreign", 0), seen);
    }
    for owner in Role::SERVICES {
        for shard in 0..SHARDS {
            let range = Space::of(owner, ShardId(shard)).range(Kind::Journal);
            let ever = versions.range(range).flat_map(|(key, all)| {
                all.iter().filter_map(move |(_, value)| Some((key, value.as_ref()?)))
            });
            for (tx, seen) in seen(ever) {
                all.entry(tx).or_default().insert((owner.name(), shard), seen);
            }
        }
    }
    let contradicts = |seats: &BTreeMap<Seat, Seen>| {
        seats.values().any(|seen| seen.committed) && seats.values().any(|seen| seen.against)
    };
    let wrong = all.into_iter().filter(|(_, seats)| contradicts(seats));
    wrong.map(|(tx, seats)| format!("{tx} went both ways: {seats:?}")).collect()
}

type Versions = BTreeMap<storage::Key, Vec<(types::Timestamp, Option<storage::Value>)>>;

/// Replaces the records by every image of them in the journals, and keeps everything else. Also
/// returns the problems of the records themselves: up to what the head says is flushed, a record
/// must be as its last image.
fn shown(stored: &Versions) -> (Versions, Vec<String>) {
    let mut shown = stored.clone();
    let mut problems = Vec::new();
    for owner in Role::SERVICES {
        for shard in 0..SHARDS {
            let space = Space::of(owner, ShardId(shard));
            let mut last = BTreeMap::new();
            let head = stored.get(&space.head()).and_then(|all| all.last()?.1.as_ref());
            let head: Head = head.map_or_else(Head::default, |value| {
                codec::decode_any(&space.head(), value, codec::FORMAT_3).unwrap().1
            });
            for kind in [Kind::Order, Kind::Item, Kind::User, Kind::Payment, Kind::Answer] {
                let keys: Vec<_> = stored.range(space.range(kind)).map(|(key, _)| key).collect();
                for key in keys {
                    shown.remove(key);
                }
            }
            for (key, all) in stored.range(space.range(Kind::Journal)) {
                let seq = u64::from_be_bytes(key[4..].try_into().unwrap());
                for (at, value) in all {
                    let Some(value) = value else { continue };
                    let entry: JournalEntry = codec::decode_packed(key, value).unwrap();
                    for image in entry.images {
                        let key = space.key(&image.row);
                        let value = (!image.value.is_empty()).then(|| image.value.to_vec());
                        last.insert(key.clone(), (seq, value.clone()));
                        shown.entry(key).or_default().push((*at, value));
                    }
                }
            }
            for (key, (seq, value)) in last {
                let record = stored.get(&key).and_then(|all| all.last()).cloned();
                let record = record.and_then(|(_, value)| value);
                if seq <= head.flushed && record != value {
                    problems.push(format!("{} is not as entry {seq} left it", codec::hex(&key)));
                }
            }
        }
    }
    (shown, problems)
}

/// What journal entries say of each transaction, by its id.
fn seen<'a>(
    entries: impl Iterator<Item = (&'a storage::Key, &'a storage::Value)>,
) -> BTreeMap<String, Seen> {
    let mut all: BTreeMap<String, Seen> = BTreeMap::new();
    for (key, value) in entries {
        let entry: JournalEntry = codec::decode_packed(key, value).unwrap();
        for event in entry.events.into_iter().filter_map(|event| event.event) {
            match event {
                Event::Prepared(event) => {
                    all.entry(codec::hex(&event.tx.unwrap().tx_id)).or_default().open = true;
                }
                Event::Decided(event) => {
                    let seen = all.entry(codec::hex(&event.tx_id)).or_default();
                    seen.open = false;
                    seen.committed |= event.committed;
                    seen.against |= !event.committed;
                }
                // A bare fence may remain where the transaction is over and forgotten.
                Event::Fenced(event) => {
                    let seen = all.entry(codec::hex(&event.tx.unwrap().tx_id)).or_default();
                    seen.against |= !event.vote.is_empty();
                }
                Event::Carried(event) => {
                    all.entry(codec::hex(&event.tx.unwrap().tx_id)).or_default().open =
                        event.state == 2;
                }
                Event::Acknowledged(_) => {}
            }
        }
    }
    all
}

/// The id that a record's key holds.
fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key.get(4..).unwrap_or_default()).into_owned()
}
