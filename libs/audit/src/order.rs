//! Judges one order, and derives what it sold. Pure.

use std::collections::BTreeMap;

use prost::Message;
use proto::{payment::v1::HoldCreditReceipt, stock::v1::HoldStockReceipt};
use storage::record::{OrderRecord, order_record::Paid};
use types::{AMOUNT_MAX, BranchState, Stamp, Timestamp, TxId};

use crate::{
    journal::Transactions,
    offence::{Findings, Invariant},
};

/// Units or money that a paid order took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sold {
    /// The item or user that it was taken from.
    pub from: Source,
    /// Incarnation of that item or user.
    pub incarnation: Stamp,
    /// Number of units, or amount of money.
    pub amount: u64,
}

/// An item or a user.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// An item.
    Item(String),
    /// A user.
    User(String),
}

/// The purchases according to the journals of the order shards: for each order, the transactions
/// and when they committed.
#[derive(Debug, Default)]
pub struct Bought {
    by_order: BTreeMap<String, Vec<(TxId, Timestamp)>>,
}

impl Bought {
    /// Collects from the journals' transactions.
    pub fn of(transactions: &Transactions) -> Self {
        let mut by_order: BTreeMap<String, Vec<_>> = BTreeMap::new();
        for (tx_id, transaction) in transactions.iter() {
            let Some(said) = transaction.primary() else { continue };
            let order = transaction.meta.as_ref().and_then(|meta| meta.primary());
            let ours = order.is_some_and(|branch| branch.service.as_str() == "order");
            if let (BranchState::Committed, true, Ok(id)) =
                (said.state, ours && !said.hold.is_empty(), std::str::from_utf8(&said.hold))
            {
                by_order.entry(id.to_owned()).or_default().push((tx_id, said.since));
            }
        }
        Self { by_order }
    }

    /// Reports the orders that were bought but never judged, because they have no record.
    pub fn report_missing(self, findings: &mut Findings) {
        for (order_id, all) in self.by_order {
            let bought = all.iter().map(|(tx_id, _)| format!("transaction {tx_id} is COMMITTED"));
            let problem = "was bought, and its record is gone";
            findings.add(
                Invariant::PaidOnce,
                format_args!("order {order_id}"),
                problem,
                bought.collect(),
            );
        }
    }
}

/// Judges an order (I3, I4), and returns what it sold according to its record; empty if unpaid.
pub fn judge(
    order_id: &str,
    record: &OrderRecord,
    bought: &mut Bought,
    transactions: &mut Transactions,
    findings: &mut Findings,
) -> Vec<Sold> {
    let subject = format!("order {order_id}");
    let mut offend = |invariant, problem: String| {
        findings.add(invariant, &subject, problem, vec![describe(record)]);
    };
    if let Err(problem) = amounts(record) {
        offend(problem.0, problem.1);
    }
    let paid_by = record.paid.as_ref().map(|paid| TxId::from_slice(&paid.tx_id));
    let paid_by = match paid_by.transpose() {
        Ok(paid_by) => paid_by,
        Err(error) => {
            offend(Invariant::PaidOnce, format!("paid by no transaction: {error}"));
            None
        }
    };
    for (tx_id, since) in bought.by_order.remove(order_id).unwrap_or_default() {
        // batch_init overwrites orders, even paid ones. The last change of a record without an
        // incarnation may have been one.
        let fresh = if record.incarnation == 0 { record.version } else { record.incarnation };
        if fresh >= since.0 && paid_by != Some(tx_id) {
            continue;
        }
        match paid_by {
            Some(paid_by) if paid_by == tx_id => {}
            Some(paid_by) => {
                offend(Invariant::PaidOnce, format!("bought by {tx_id} and again by {paid_by}"));
            }
            None => offend(Invariant::PaidOnce, format!("bought by {tx_id}, yet it is unpaid")),
        }
    }
    if let Some(transaction) = paid_by.and_then(|tx_id| transactions.get_mut(tx_id)) {
        transaction.paid_order = Some(order_id.to_owned());
    }
    let Some(paid) = &record.paid else { return Vec::new() };
    let (sold, problems) = sold(record, paid);
    for problem in problems {
        offend(Invariant::PaidOnce, problem);
    }
    sold
}

/// An order as one line of text for people.
pub fn describe(record: &OrderRecord) -> String {
    let lines = record
        .lines
        .iter()
        .map(|line| format!("{} of item {} at {}", line.quantity, line.item_id, line.price))
        .collect::<Vec<_>>()
        .join(", ");
    let paid = match &record.paid {
        Some(paid) => match TxId::from_slice(&paid.tx_id) {
            Ok(tx_id) => format!("paid by {tx_id}"),
            Err(_) => "paid by an unreadable transaction".to_owned(),
        },
        None => "unpaid".to_owned(),
    };
    format!(
        "of user {}: {lines}; total {}; {paid}; version {}",
        record.user_id, record.total_cost, record.version
    )
}

/// Checks that the total is the sum of the lines and that every amount is within range.
fn amounts(record: &OrderRecord) -> Result<(), (Invariant, String)> {
    let out = |what: &str, value: u64| {
        (Invariant::Range, format!("{what} {value} is out of range (negative?)"))
    };
    let mut total: u128 = 0;
    for line in &record.lines {
        for (what, value) in [("quantity", line.quantity), ("price", line.price)] {
            if value > AMOUNT_MAX {
                return Err(out(what, value));
            }
        }
        total = total.saturating_add(u128::from(line.quantity).saturating_mul(line.price.into()));
    }
    if record.total_cost > AMOUNT_MAX {
        return Err(out("total", record.total_cost));
    }
    if total != u128::from(record.total_cost) {
        let problem = format!("its lines cost {total}, its total is {}", record.total_cost);
        return Err((Invariant::PaidOnce, problem));
    }
    Ok(())
}

/// What a paid order's lines took, with the incarnations from its receipts; and the differences
/// between lines and receipts.
fn sold(record: &OrderRecord, paid: &Paid) -> (Vec<Sold>, Vec<String>) {
    let mut problems = Vec::new();
    let mut wanted: BTreeMap<Source, u64> = BTreeMap::new();
    for line in &record.lines {
        let sum = wanted.entry(Source::Item(line.item_id.clone())).or_default();
        *sum = sum.saturating_add(line.quantity);
    }
    wanted.insert(Source::User(record.user_id.clone()), record.total_cost);

    let mut receipts: BTreeMap<Source, (Stamp, u64)> = BTreeMap::new();
    for (source, incarnation, amount) in taken(paid, &mut problems) {
        let twice = receipts.insert(source.clone(), (incarnation, amount)).is_some();
        if twice {
            problems.push(format!("{source} is charged by two receipts"));
        }
        if !wanted.contains_key(&source) {
            problems.push(format!("{source} is charged {amount}, which is in no line"));
        }
    }
    let mut sold = Vec::new();
    for (source, amount) in wanted {
        match receipts.get(&source) {
            Some((incarnation, charged)) => {
                if *charged != amount {
                    problems.push(format!("{source} is charged {charged} instead of {amount}"));
                }
                sold.push(Sold { from: source, incarnation: *incarnation, amount });
            }
            None => problems.push(format!("no receipt for {amount} of {source}")),
        }
    }
    (sold, problems)
}

/// The amounts taken according to the receipts.
fn taken(paid: &Paid, problems: &mut Vec<String>) -> Vec<(Source, Stamp, u64)> {
    let mut taken = Vec::new();
    for receipt in &paid.receipts {
        let service = receipt.branch.as_ref().map_or("", |branch| branch.service.as_str());
        match service {
            "stock" => match HoldStockReceipt::decode(receipt.receipt.clone()) {
                Ok(hold) => taken.extend(hold.lines.into_iter().map(|line| {
                    let incarnation = Stamp::new(line.incarnation, line.incarnation_change);
                    (Source::Item(line.item_id), incarnation, line.quantity)
                })),
                Err(error) => problems.push(format!("a receipt of stock is unreadable: {error}")),
            },
            "payment" => match HoldCreditReceipt::decode(receipt.receipt.clone()) {
                Ok(hold) => {
                    let incarnation = Stamp::new(hold.incarnation, hold.incarnation_change);
                    taken.push((Source::User(hold.user_id), incarnation, hold.amount));
                }
                Err(error) => problems.push(format!("a receipt of payment is unreadable: {error}")),
            },
            // Any other participant keeps its own books.
            _ => {}
        }
    }
    taken
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Item(id) => write!(f, "item {id}"),
            Self::User(id) => write!(f, "user {id}"),
        }
    }
}
