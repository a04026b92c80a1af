//! A shard's table of transactions: the participant's side of the protocol.
//!
//! The table is event-sourced. A decision ([`TransactionTable::gate`],
//! [`TransactionTable::commit`], [`TransactionTable::abort`], [`TransactionTable::query`]) is a
//! pure function of the table that yields a reply and at most one [`Event`]. Facts enter the table
//! only through [`TransactionTable::apply`], live and on replay of a journal alike. Holds (`H`) are
//! opaque.

use types::{Branch, BranchState, Mutation, Timestamp, TxId, TxMeta, UnixMillis, Vote};

use crate::undo::UndoMap;

/// What a shard knows of one transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<H> {
    /// The transaction.
    pub meta: TxMeta,
    /// The branch's state; never `Absent`.
    pub state: BranchState,
    /// What a YES vote set aside. Present only while PREPARED.
    pub hold: Option<H>,
    /// The first answer to Prepare. None for a bare fence, and none once a YES was aborted.
    pub vote: Option<Vote>,
    /// Whether a YES was aborted here.
    pub gave_back: bool,
    /// At the primary: whether every branch has acknowledged the outcome.
    pub acknowledged: bool,
    /// Number of the last journal entry that states everything that was known when it was written.
    pub told_seq: u64,
    /// Number of the last journal entry that states anything about the transaction.
    pub last_seq: u64,
}

/// A durable fact about a transaction.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<H> {
    /// The branch voted YES.
    Prepared {
        /// The transaction.
        meta: TxMeta,
        /// What the vote set aside.
        hold: H,
        /// What the vote hands over to the primary's Commit; opaque.
        receipt: Vec<u8>,
    },
    /// The branch voted NO or CONTENDED, or was fenced without a vote.
    Fenced {
        /// The transaction.
        meta: TxMeta,
        /// The vote as it was given; none for a bare fence.
        vote: Option<Vote>,
    },
    /// The transaction became final after a YES.
    Decided {
        /// The transaction.
        tx_id: TxId,
        /// True for COMMITTED, false for ABORTED.
        committed: bool,
    },
    /// At the primary: every branch has acknowledged the outcome.
    Acknowledged {
        /// The transaction.
        tx_id: TxId,
    },
    /// Everything known, stated again so that older journal entries can be trimmed.
    Carried(Box<Entry<H>>),
}

impl<H> Event<H> {
    /// The transaction that the fact is about.
    pub fn tx_id(&self) -> TxId {
        match self {
            Self::Prepared { meta, .. } | Self::Fenced { meta, .. } => meta.tx_id,
            Self::Decided { tx_id, .. } | Self::Acknowledged { tx_id } => *tx_id,
            Self::Carried(entry) => entry.meta.tx_id,
        }
    }
}

/// Whether a Prepare may be judged.
#[derive(Debug, Clone, PartialEq)]
pub enum Gate {
    /// Nothing is known and the deadline has not passed: judge it.
    Admit,
    /// Answer with this: the first vote again, or FENCED. Nothing is written.
    Reject(Vote),
}

/// The result of a Commit, Abort or Query.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<H> {
    /// The state that stands once `event` is durable.
    pub state: BranchState,
    /// The fact that must be durable before the state is answered.
    pub event: Option<Event<H>>,
}

impl<H> Decision<H> {
    const fn stands(state: BranchState) -> Self {
        Self { state, event: None }
    }
}

/// The transactions that one shard knows.
#[derive(Debug, Clone)]
pub struct TransactionTable<H> {
    branch: Branch,
    entries: UndoMap<TxId, Entry<H>>,
    /// The transactions in `entries` that are unfinished, as in
    /// [`is_unfinished`](Self::is_unfinished). These are few of many.
    unfinished: UndoMap<TxId, ()>,
}

impl<H: Clone> TransactionTable<H> {
    /// Makes an empty table for this branch.
    pub fn new(branch: Branch) -> Self {
        Self { branch, entries: UndoMap::default(), unfinished: UndoMap::default() }
    }

    /// The branch that the table belongs to.
    pub const fn branch(&self) -> &Branch {
        &self.branch
    }

    /// What is known of a transaction.
    pub fn get(&self, tx_id: TxId) -> Option<&Entry<H>> {
        self.entries.get(&tx_id)
    }

    /// All known transactions.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<H>> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// How many transactions are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if none is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a KV transaction that began at `start` may judge a Prepare.
    ///
    /// A known transaction gets its first answer again and makes no second hold, even long after it
    /// committed. No vote is written at or past the deadline, because fences may be dropped after
    /// it.
    pub fn gate(&self, meta: &TxMeta, start: Timestamp) -> Gate {
        match self.get(meta.tx_id) {
            Some(entry)
                if Mutation::LateSecondHold.is_on() && entry.state == BranchState::Committed =>
            {
                Gate::Admit
            }
            None if Mutation::DeadlineIgnored.is_on() => Gate::Admit,
            Some(entry) => Gate::Reject(entry.vote.clone().unwrap_or(Vote::Fenced)),
            None if start.physical() >= meta.deadline => Gate::Reject(Vote::Fenced),
            None => Gate::Admit,
        }
    }

    /// Judges a Commit. At the primary it decides, from PREPARED only. Elsewhere the primary has
    /// already decided.
    ///
    /// Commit is sent only after every branch voted YES. So a branch that does not know the
    /// transaction has forgotten it, and acknowledges. A branch with a bare fence acknowledges too:
    /// a question left the fence after the branch had forgotten. At the primary a bare fence stands
    /// as ABORTED, because there the Commit itself decides.
    pub fn commit(&self, meta: &TxMeta) -> Decision<H> {
        let forgot = |entry: &Entry<H>| {
            entry.vote.is_none() && !entry.gave_back && !meta.is_primary(&self.branch)
        };
        let entry = self.get(meta.tx_id);
        match entry.map(|entry| entry.state) {
            Some(BranchState::Aborted) if entry.is_some_and(forgot) => {
                Decision::stands(BranchState::Committed)
            }
            Some(BranchState::Prepared) => Decision {
                state: BranchState::Committed,
                event: Some(Event::Decided { tx_id: meta.tx_id, committed: true }),
            },
            Some(BranchState::Aborted) => Decision::stands(BranchState::Aborted),
            Some(BranchState::Committed | BranchState::Absent) | None => {
                Decision::stands(BranchState::Committed)
            }
        }
    }

    /// Judges an Abort. It leaves a fence if nothing is known. At the primary, PREPARED becomes
    /// ABORTED only with evidence: a NO, a CONTENDED or a fence at some branch. Elsewhere the
    /// primary has already decided.
    pub fn abort(&self, meta: &TxMeta, evidence: bool) -> Decision<H> {
        match self.get(meta.tx_id).map(|entry| entry.state) {
            None | Some(BranchState::Absent) => Self::fence(meta),
            Some(BranchState::Prepared) if evidence || !meta.is_primary(&self.branch) => Decision {
                state: BranchState::Aborted,
                event: Some(Event::Decided { tx_id: meta.tx_id, committed: false }),
            },
            Some(state) => Decision::stands(state),
        }
    }

    /// Judges a Query. With `fence`, an unknown transaction becomes ABORTED.
    pub fn query(&self, meta: &TxMeta, fence: bool) -> Decision<H> {
        match self.get(meta.tx_id) {
            Some(entry) => Decision::stands(entry.state),
            None if fence => Self::fence(meta),
            None => Decision::stands(BranchState::Absent),
        }
    }

    /// Judges a Forget: every branch has acknowledged. Only a final state can be acknowledged, and
    /// only once.
    pub fn acknowledge(&self, tx_id: TxId) -> Option<Event<H>> {
        let entry = self.get(tx_id)?;
        let news = entry.state != BranchState::Prepared && !entry.acknowledged;
        news.then_some(Event::Acknowledged { tx_id })
    }

    fn fence(meta: &TxMeta) -> Decision<H> {
        Decision {
            state: BranchState::Aborted,
            event: Some(Event::Fenced { meta: meta.clone(), vote: None }),
        }
    }

    /// Applies a fact of journal entry `seq`. Returns the hold that it ends, if any. On a live
    /// ABORTED the caller must give that hold back.
    ///
    /// On replay an outcome may come without its vote, because the vote's journal entry was already
    /// trimmed. Then the whole transaction may be forgotten, so the outcome is left out.
    pub fn apply(&mut self, event: Event<H>, seq: u64) -> Option<H> {
        let first = |meta, state, hold, vote| Entry {
            meta,
            state,
            hold,
            vote,
            gave_back: false,
            acknowledged: false,
            told_seq: seq,
            last_seq: seq,
        };
        let entry = match event {
            Event::Prepared { meta, hold, receipt } => {
                first(meta, BranchState::Prepared, Some(hold), Some(Vote::Yes { receipt }))
            }
            Event::Fenced { meta, vote } => first(meta, BranchState::Aborted, None, vote),
            Event::Carried(entry) => Entry { told_seq: seq, last_seq: seq, ..*entry },
            Event::Decided { tx_id, committed } => {
                return self.change(tx_id, seq, |entry| {
                    if committed {
                        entry.state = BranchState::Committed;
                    } else {
                        entry.state = BranchState::Aborted;
                        entry.vote = None;
                        entry.gave_back = true;
                    }
                    entry.hold.take()
                });
            }
            Event::Acknowledged { tx_id } => {
                return self.change(tx_id, seq, |entry| {
                    entry.acknowledged = true;
                    None
                });
            }
        };
        self.put(entry);
        None
    }

    fn change(
        &mut self,
        tx_id: TxId,
        seq: u64,
        change: impl FnOnce(&mut Entry<H>) -> Option<H>,
    ) -> Option<H> {
        let mut entry = self.entries.get(&tx_id)?.clone();
        let held = change(&mut entry);
        entry.last_seq = seq;
        self.put(entry);
        held
    }

    fn put(&mut self, entry: Entry<H>) {
        let tx_id = entry.meta.tx_id;
        let is_open = entry.state == BranchState::Prepared;
        if is_open || (entry.meta.is_primary(&self.branch) && !entry.acknowledged) {
            self.unfinished.insert(tx_id, ());
        } else {
            self.unfinished.remove(&tx_id);
        }
        self.entries.insert(tx_id, entry);
    }

    /// Whether a KV transaction that began at `start` may forget a transaction. Its state must be
    /// final here, the deadline must have passed (so that no vote can follow), and at the primary
    /// every branch must have acknowledged.
    ///
    /// A final state at another branch implies that the primary is final: other branches learn an
    /// outcome only after it is durable there. A NO, CONTENDED or fence is final by itself.
    pub fn may_forget(&self, tx_id: TxId, start: Timestamp) -> bool {
        let Some(entry) = self.get(tx_id) else { return true };
        let is_final = entry.state != BranchState::Prepared;
        let acknowledged = entry.acknowledged || !entry.meta.is_primary(&self.branch);
        let is_past = start.physical() > entry.meta.deadline;
        is_final && acknowledged && (is_past || Mutation::FenceDroppedEarly.is_on())
    }

    /// Whether this transaction lets journal entry `seq` be trimmed: the transaction may be
    /// forgotten, or a later entry states everything again.
    pub fn may_trim(&self, tx_id: TxId, seq: u64, start: Timestamp) -> bool {
        self.get(tx_id).is_none_or(|entry| entry.told_seq > seq) || self.may_forget(tx_id, start)
    }

    /// Forgets a transaction if no journal entry after `trimmed` states anything about it.
    pub fn forget(&mut self, tx_id: TxId, trimmed: u64) {
        if self.get(tx_id).is_some_and(|entry| entry.last_seq <= trimmed) {
            self.entries.remove(&tx_id);
            self.unfinished.remove(&tx_id);
        }
    }

    /// Whether a transaction has a vote without an outcome here or, at its primary, an outcome that
    /// some branch has not acknowledged.
    pub fn is_unfinished(&self, tx_id: TxId) -> bool {
        self.unfinished.get(&tx_id).is_some()
    }

    fn unfinished(&self) -> impl Iterator<Item = &Entry<H>> {
        self.unfinished.iter().filter_map(|(tx_id, ())| self.get(*tx_id))
    }

    /// Votes without an outcome here.
    pub fn unresolved(&self) -> impl Iterator<Item = &Entry<H>> {
        self.unfinished().filter(|entry| entry.state == BranchState::Prepared)
    }

    /// Transactions that should have been resolved by `now`: votes past their deadline, and
    /// outcomes at the primary that some branch has not acknowledged `grace_ms` after the deadline.
    pub fn overdue(&self, now: UnixMillis, grace_ms: u64) -> impl Iterator<Item = &TxMeta> {
        self.unfinished().filter_map(move |entry| {
            let is_open = entry.state == BranchState::Prepared;
            let grace_ms = if is_open { 0 } else { grace_ms };
            (now > entry.meta.deadline.plus_ms(grace_ms)).then_some(&entry.meta)
        })
    }

    /// Makes everything applied so far permanent.
    pub fn settle(&mut self) {
        self.entries.settle();
        self.unfinished.settle();
    }

    /// Undoes everything applied since the last [`TransactionTable::settle`].
    pub fn undo(&mut self) {
        self.entries.undo();
        self.unfinished.undo();
    }
}

#[cfg(test)]
mod tests;
