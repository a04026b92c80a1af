//! Checks items and users against the amounts that orders and holds took from them. Pure.

use std::io;

use storage::{
    Key, KvError, Value, codec,
    keys::{Kind, Space},
    record::{ItemRecord, UserRecord},
};
use types::{AMOUNT_MAX, Role, ShardId, Stamp, Timestamp, shard_of};

use crate::{
    offence::{Findings, Invariant},
    order::{Sold, Source},
    sort::{Sorted, Sorter},
};

/// Length in bytes of the key's prefix: owner, shard and kind.
const PREFIX: usize = 4;
/// Upper limit on the orders and holds listed with an offence.
const NAMED_MAX: usize = 8;

/// Whether an amount is sold or only held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Sold by a paid order.
    Sold,
    /// Held by a vote without an outcome.
    Held,
}

/// An amount that one order or hold took from an item or a user.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Claim<'a> {
    incarnation: Stamp,
    amount: u64,
    taken: Taken,
    by: &'a str,
}

/// The key of an item's or a user's record.
pub fn key_of(source: &Source, shards: u16) -> Key {
    let (service, kind, id) = match source {
        Source::Item(id) => (Role::Stock, Kind::Item, id),
        Source::User(id) => (Role::Payment, Kind::User, id),
    };
    Space::of(service, shard_of(id, shards)).record(kind, id.as_bytes())
}

/// Notes that `by` took an amount. The notes are later sorted by the record that it was taken from.
///
/// # Errors
/// As [`Sorter::push`].
pub async fn note(
    sorter: &mut Sorter,
    shards: u16,
    sold: &Sold,
    taken: Taken,
    by: &str,
) -> io::Result<()> {
    let mut entry = key_of(&sold.from, shards);
    // Ids contain no zero byte, so entries sort like their keys.
    entry.push(0);
    entry.extend_from_slice(&sold.incarnation.start.0.to_be_bytes());
    entry.extend_from_slice(&sold.incarnation.change.to_be_bytes());
    entry.extend_from_slice(&sold.amount.to_be_bytes());
    entry.push(u8::from(taken == Taken::Held));
    entry.extend_from_slice(by.as_bytes());
    sorter.push(&entry).await
}

fn split(entry: &[u8]) -> Option<(&[u8], Claim<'_>)> {
    let end = entry.get(PREFIX..)?.iter().position(|byte| *byte == 0)?.checked_add(PREFIX)?;
    let (key, rest) = entry.split_at_checked(end)?;
    let (start, rest) = rest.get(1..)?.split_first_chunk()?;
    let (change, rest) = rest.split_first_chunk()?;
    let (amount, rest) = rest.split_first_chunk()?;
    let (held, by) = rest.split_first()?;
    let claim = Claim {
        incarnation: Stamp::new(u64::from_be_bytes(*start), u32::from_be_bytes(*change)),
        amount: u64::from_be_bytes(*amount),
        taken: if *held == 1 { Taken::Held } else { Taken::Sold },
        by: std::str::from_utf8(by).ok()?,
    };
    Some((key, claim))
}

/// The content of an item's or user's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Account {
    available: u64,
    supplied: u64,
    incarnation: Stamp,
}

/// Judges the records of one kind, in key order, against the sorted claims.
#[derive(Debug)]
pub struct Balances {
    claims: Sorted,
    /// When the latest of the overwritten paid orders was paid.
    last_overwritten_paid_at: Timestamp,
    /// Number of records whose sum falls short. That is allowed, because an order paid during their
    /// incarnation was overwritten.
    pub judged_in_part: u64,
}

impl Balances {
    /// Makes a judge with these claims. `last_overwritten_paid_at` is the latest such time of any
    /// order.
    pub const fn new(claims: Sorted, last_overwritten_paid_at: Timestamp) -> Self {
        Self { claims, last_overwritten_paid_at, judged_in_part: 0 }
    }

    /// Judges the record at `key` (I1, I2, I3). Records must come in key order.
    ///
    /// # Errors
    /// If a temporary file cannot be read.
    pub fn judge(&mut self, key: &[u8], value: &Value, findings: &mut Findings) -> io::Result<()> {
        self.pass(Some(key), findings)?;
        let is_item = key.get(PREFIX - 1) == Some(&Kind::Item.byte());
        let invariant = if is_item { Invariant::Stock } else { Invariant::Credit };
        let subject = subject(key);
        let account = match account(key, value, is_item) {
            Ok(account) => Some(account),
            Err(error) => {
                findings.add(Invariant::Readable, &subject, error, Vec::new());
                None
            }
        };
        let (mut sold, mut held) = (0_u128, 0_u128);
        let mut by = Vec::new();
        let mut from_the_future = Vec::new();
        while let Some(entry) = self.next_of(key)? {
            let Some((_, claim)) = split(&entry) else { continue };
            let Some(account) = account else { continue };
            if claim.incarnation > account.incarnation {
                from_the_future.push(line(&claim));
            }
            if claim.incarnation != account.incarnation {
                continue;
            }
            match claim.taken {
                Taken::Sold => sold += u128::from(claim.amount),
                Taken::Held => held += u128::from(claim.amount),
            }
            if by.len() < NAMED_MAX {
                by.push(line(&claim));
            }
        }
        let Some(account) = account else { return Ok(()) };
        if !from_the_future.is_empty() {
            from_the_future.truncate(NAMED_MAX);
            let problem = "something was taken from an incarnation that is yet to come";
            findings.add(invariant, &subject, problem, from_the_future);
        }
        let Account { available, supplied, incarnation } = account;
        let record =
            format!("available {available}, supplied {supplied}, incarnation {incarnation}");
        by.insert(0, record);
        if available > AMOUNT_MAX {
            findings.add(Invariant::Range, &subject, "out of range (negative?)", by);
            return Ok(());
        }
        let accounted = u128::from(available) + held + sold;
        let supplied = u128::from(supplied);
        if accounted < supplied && self.last_overwritten_paid_at > incarnation.start {
            self.judged_in_part = self.judged_in_part.saturating_add(1);
        } else if accounted != supplied {
            let problem = format!(
                "supplied {supplied}, but available {available} + held {held} + sold {sold} = \
                 {accounted}"
            );
            findings.add(invariant, &subject, problem, by);
        }
        Ok(())
    }

    /// Reports the claims on records of this kind that do not exist: all claims left before `end`,
    /// which is the first key after these records.
    ///
    /// # Errors
    /// If a temporary file cannot be read.
    pub fn finish(&mut self, end: &[u8], findings: &mut Findings) -> io::Result<()> {
        self.pass(Some(end), findings)
    }

    fn pass(&mut self, until: Option<&[u8]>, findings: &mut Findings) -> io::Result<()> {
        loop {
            let key = self.claims.peek().and_then(split).map(|(key, _)| key.to_vec());
            let Some(key) = key.filter(|key| until.is_none_or(|until| key.as_slice() < until))
            else {
                return Ok(());
            };
            let mut by = Vec::new();
            while let Some(entry) = self.next_of(&key)? {
                if let (Some((_, claim)), true) = (split(&entry), by.len() < NAMED_MAX) {
                    by.push(line(&claim));
                }
            }
            let is_item = key.get(PREFIX - 1) == Some(&Kind::Item.byte());
            let invariant = if is_item { Invariant::Stock } else { Invariant::Credit };
            findings.add(invariant, subject(&key), "has no record, yet something took from it", by);
        }
    }

    fn next_of(&mut self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let next = self.claims.peek().and_then(split);
        if next.is_some_and(|(found, _)| found == key) {
            return self.claims.next_entry();
        }
        Ok(None)
    }
}

fn line(claim: &Claim<'_>) -> String {
    let how = match claim.taken {
        Taken::Sold => "bought by order",
        Taken::Held => "held by transaction",
    };
    format!("{} {how} {} of incarnation {}", claim.amount, claim.by, claim.incarnation)
}

fn account(key: &[u8], value: &Value, is_item: bool) -> Result<Account, KvError> {
    if is_item {
        let ItemRecord { price: _, available, supplied, incarnation, incarnation_change } =
            codec::decode(key, value)?;
        let incarnation = Stamp::new(incarnation, incarnation_change);
        Ok(Account { available, supplied, incarnation })
    } else {
        let UserRecord { available, supplied, incarnation, incarnation_change } =
            codec::decode(key, value)?;
        let incarnation = Stamp::new(incarnation, incarnation_change);
        Ok(Account { available, supplied, incarnation })
    }
}

/// `item 7` or `user 7`.
fn subject(key: &[u8]) -> String {
    let id = String::from_utf8_lossy(key.get(PREFIX..).unwrap_or_default()).into_owned();
    let is_item = key.get(PREFIX - 1) == Some(&Kind::Item.byte());
    if is_item { Source::Item(id) } else { Source::User(id) }.to_string()
}

/// The key range of a kind's records, for each shard.
pub fn ranges(
    service: Role,
    kind: Kind,
    shards: u16,
) -> impl Iterator<Item = std::ops::Range<Key>> {
    (0..shards).map(move |shard| Space::of(service, ShardId(shard)).range(kind))
}
