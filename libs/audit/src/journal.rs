//! Transactions according to the live journals, combined over all branches. Pure.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use prost::Message;
use proto::{convert, participant::v1::Vote as WireVote};
use storage::{
    record::{self, TxEvent, tx_event},
    tx_meta,
};
use types::{Branch, BranchState, Timestamp, TxId, TxMeta, UnixMillis, Vote};

use crate::offence::{Findings, Invariant};

/// What one branch's journal says of a transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Said {
    /// PREPARED, COMMITTED or ABORTED.
    pub state: BranchState,
    /// The vote that was given, if the journal still has it.
    pub vote: Option<Vote>,
    /// What the vote set aside, in the form of the branch's service.
    pub hold: Bytes,
    /// Start timestamp of the KV transaction that wrote the state.
    pub since: Timestamp,
    /// True for a fence without a vote that was written past the deadline. It decides nothing,
    /// because no vote could come any more.
    pub late_fence: bool,
    /// True at the primary once every branch has acknowledged.
    pub acknowledged: bool,
}

/// One transaction.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    /// `None` if only an outcome is left of the transaction.
    pub meta: Option<TxMeta>,
    /// What each branch says. Branches without a word in the journals are missing.
    pub branches: BTreeMap<Branch, Said>,
    /// The order whose record says that this transaction paid it.
    pub paid_order: Option<String>,
}

/// An event that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

fn unreadable(problem: impl fmt::Display) -> Unreadable {
    Unreadable(problem.to_string())
}

impl Transaction {
    /// What the primary says.
    pub fn primary(&self) -> Option<&Said> {
        self.branches.get(self.meta.as_ref()?.primary()?)
    }

    /// True if some vote has no outcome.
    pub fn is_unresolved(&self) -> bool {
        self.branches.values().any(|said| said.state == BranchState::Prepared)
    }

    /// What each branch says, as lines of text for people.
    pub fn describe(&self) -> Vec<String> {
        let lines = self.branches.iter().map(|(branch, said)| format!("{branch} {said}"));
        let paid = self.paid_order.iter().map(|order| format!("order {order} says it was paid"));
        lines.chain(paid).collect()
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            BranchState::Absent => "ABSENT",
            BranchState::Prepared => "PREPARED",
            BranchState::Committed => "COMMITTED",
            BranchState::Aborted => "ABORTED",
        };
        write!(f, "{state} since {}", self.since.physical().0)?;
        match &self.vote {
            Some(Vote::Yes { .. }) => write!(f, ", voted YES"),
            Some(Vote::No { reason, .. }) => write!(f, ", voted NO ({reason})"),
            Some(Vote::Contended { blocker }) => {
                write!(f, ", voted CONTENDED (behind {})", blocker.tx_id)
            }
            Some(Vote::Fenced) | None => Ok(()),
        }?;
        if self.late_fence { write!(f, ", fenced past its deadline") } else { Ok(()) }
    }
}

/// All transactions that the journals know.
#[derive(Debug, Clone, Default)]
pub struct Transactions {
    all: BTreeMap<TxId, Transaction>,
}

impl Transactions {
    /// What is known of a transaction.
    pub fn get(&self, tx_id: TxId) -> Option<&Transaction> {
        self.all.get(&tx_id)
    }

    /// What is known of a transaction, for adding to it.
    pub fn get_mut(&mut self, tx_id: TxId) -> Option<&mut Transaction> {
        self.all.get_mut(&tx_id)
    }

    /// Notes that an order's record names this transaction as the one that paid it.
    pub fn note_paid(&mut self, tx_id: TxId, order_id: &str) {
        self.all.entry(tx_id).or_default().paid_order = Some(order_id.to_owned());
    }

    /// All transactions, by id.
    pub fn iter(&self) -> impl Iterator<Item = (TxId, &Transaction)> {
        self.all.iter().map(|(tx_id, transaction)| (*tx_id, transaction))
    }

    /// The number of transactions.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// True if there are no transactions.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Takes an event of a branch's journal. Events of one branch must come in order.
    ///
    /// # Errors
    /// [`Unreadable`]; later events are still worth taking.
    pub fn apply(
        &mut self,
        branch: &Branch,
        start: Timestamp,
        event: &TxEvent,
    ) -> Result<(), Unreadable> {
        match event.event.as_ref().ok_or_else(|| unreadable("an event without content"))? {
            tx_event::Event::Prepared(prepared) => {
                let meta = meta(prepared.tx.as_ref())?;
                let vote = Some(Vote::Yes { receipt: prepared.receipt.to_vec() });
                let said = Said {
                    state: BranchState::Prepared,
                    vote,
                    hold: prepared.hold.clone(),
                    since: start,
                    late_fence: false,
                    acknowledged: false,
                };
                self.say(branch, meta, said);
            }
            tx_event::Event::Fenced(fenced) => {
                let meta = meta(fenced.tx.as_ref())?;
                let vote = vote(&fenced.vote)?;
                let late_fence = vote.is_none() && start.physical() >= meta.deadline;
                let said = Said {
                    state: BranchState::Aborted,
                    vote,
                    hold: Bytes::new(),
                    since: start,
                    late_fence,
                    acknowledged: false,
                };
                self.say(branch, meta, said);
            }
            tx_event::Event::Decided(decided) => {
                let transaction = self.all.entry(tx_id(&decided.tx_id)?).or_default();
                let before = transaction.branches.get(branch);
                let said = decide(before, decided.committed, start);
                transaction.branches.insert(branch.clone(), said);
            }
            tx_event::Event::Acknowledged(acknowledged) => {
                let transaction = self.all.get_mut(&tx_id(&acknowledged.tx_id)?);
                if let Some(said) = transaction.and_then(|known| known.branches.get_mut(branch)) {
                    said.acknowledged = true;
                }
            }
            tx_event::Event::Carried(carried) => self.carry(branch, start, carried)?,
        }
        Ok(())
    }

    fn carry(
        &mut self,
        branch: &Branch,
        start: Timestamp,
        carried: &tx_event::Carried,
    ) -> Result<(), Unreadable> {
        let meta = meta(carried.tx.as_ref())?;
        let state = i32::try_from(carried.state).unwrap_or(0);
        let state = convert::branch_state(state).map_err(unreadable)?;
        let vote = vote(&carried.vote)?;
        let known = self.all.get(&meta.tx_id).and_then(|known| known.branches.get(branch));
        let said = match known {
            // The first event with this state has more: since when, and what was held.
            Some(before) if before.state == state => {
                Said { acknowledged: carried.acknowledged, ..before.clone() }
            }
            // A carried event does not distinguish a fence from an aborted YES.
            Some(_) | None => Said {
                state,
                late_fence: state == BranchState::Aborted
                    && vote.is_none()
                    && start.physical() >= meta.deadline,
                vote,
                hold: carried.hold.clone(),
                since: start,
                acknowledged: carried.acknowledged,
            },
        };
        self.say(branch, meta, said);
        Ok(())
    }

    fn say(&mut self, branch: &Branch, meta: TxMeta, said: Said) {
        let transaction = self.all.entry(meta.tx_id).or_default();
        transaction.meta.get_or_insert(meta);
        transaction.branches.insert(branch.clone(), said);
    }

    /// Judges every transaction as of `at`: it has one outcome (I5), its holds end within
    /// `grace_ms` after the deadline (I7), and after quiet no vote is unresolved (I8).
    pub fn judge(&self, at: Timestamp, grace_ms: u64, quiet: bool, findings: &mut Findings) {
        for (tx_id, transaction) in self.iter() {
            let subject = format!("transaction {tx_id}");
            if let Some(problem) = one_outcome(transaction) {
                findings.add(Invariant::OneOutcome, &subject, problem, transaction.describe());
            }
            if !transaction.is_unresolved() {
                continue;
            }
            let deadline = transaction.meta.as_ref().map_or(UnixMillis(0), |meta| meta.deadline);
            let late = at.physical().since(deadline.plus_ms(grace_ms));
            if late > 0 {
                let over = at.physical().since(deadline);
                let problem = format!("a hold stands {over} ms past its deadline");
                findings.add(Invariant::HoldsEnd, &subject, problem, transaction.describe());
            }
            if quiet {
                let problem = "a vote is unresolved after quiet";
                findings.add(Invariant::Quiet, &subject, problem, transaction.describe());
            }
        }
    }

    /// The number of transactions that have a vote without an outcome.
    pub fn unresolved(&self) -> usize {
        self.all.values().filter(|known| known.is_unresolved()).count()
    }
}

fn decide(before: Option<&Said>, committed: bool, start: Timestamp) -> Said {
    let state = if committed { BranchState::Committed } else { BranchState::Aborted };
    let mut said = Said {
        state,
        vote: None,
        hold: Bytes::new(),
        since: start,
        late_fence: false,
        acknowledged: false,
    };
    if let Some(before) = before {
        said.vote.clone_from(&before.vote);
        said.hold = before.hold.clone();
    }
    said
}

/// What is wrong with a transaction's outcome, if anything.
fn one_outcome(transaction: &Transaction) -> Option<String> {
    let in_state = |state: BranchState| {
        transaction.branches.iter().filter(move |(_, said)| said.state == state)
    };
    let committed = in_state(BranchState::Committed).map(|(branch, _)| branch.to_string()).next();
    let committed = committed.or_else(|| {
        let order = transaction.paid_order.as_ref()?;
        Some(format!("order {order}"))
    });
    let against = in_state(BranchState::Aborted).find(|(_, said)| !said.late_fence);
    if let (Some(committed), Some((against, _))) = (&committed, against) {
        return Some(format!("{committed} committed and {against} aborted"));
    }
    let prepared = transaction.primary()?.state == BranchState::Prepared;
    if let (Some(committed), true) = (&committed, prepared) {
        return Some(format!("{committed} committed before the primary decided"));
    }
    let gave_back = against.filter(|(_, said)| matches!(said.vote, Some(Vote::Yes { .. })));
    if let (Some((branch, _)), true) = (gave_back, prepared) {
        return Some(format!("{branch} gave its hold back before the primary decided"));
    }
    None
}

fn tx_id(bytes: &[u8]) -> Result<TxId, Unreadable> {
    TxId::from_slice(bytes).map_err(unreadable)
}

fn vote(bytes: &[u8]) -> Result<Option<Vote>, Unreadable> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let vote = WireVote::decode(bytes).map_err(unreadable)?;
    convert::vote(Some(&vote)).map(Some).map_err(unreadable)
}

/// Decodes a stored transaction, which must be present.
///
/// # Errors
/// [`Unreadable`]; a retry does not help.
pub fn meta(meta: Option<&record::TxMeta>) -> Result<TxMeta, Unreadable> {
    tx_meta::decode(meta).map_err(unreadable)
}
