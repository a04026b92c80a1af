//! What one shard knows of transactions: the participant's side of the protocol.
//!
//! Event-sourced: a decision is a pure function of the table ([`TransactionTable::gate`], [`TransactionTable::commit`],
//! [`TransactionTable::abort`], [`TransactionTable::query`]) that yields a reply and at most one [`Event`];
//! [`TransactionTable::apply`] is the only thing that changes the table, live and on replay of a journal alike. What
//! is held (`H`) is opaque.

use types::{Branch, BranchState, Mutation, Timestamp, TxId, TxMeta, UnixMillis, Vote};

use crate::undo::UndoMap;

/// What is known of one transaction.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry<H> {
    /// The transaction.
    pub meta: TxMeta,
    /// Never `Absent`.
    pub state: BranchState,
    /// What a YES set aside; there while PREPARED only.
    pub hold: Option<H>,
    /// The first answer to Prepare; none for a bare fence, and none once a YES was aborted.
    pub vote: Option<Vote>,
    /// A YES was aborted here.
    pub gave_back: bool,
    /// At the primary: every branch has acknowledged the outcome.
    pub acknowledged: bool,
    /// Number of the last journal entry that says all of this.
    pub told_seq: u64,
    /// Number of the last journal entry that says something of it.
    pub last_seq: u64,
}

/// A durable fact.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<H> {
    /// Voted YES.
    Prepared {
        /// The transaction.
        meta: TxMeta,
        /// What is set aside.
        hold: H,
        /// What the vote hands over.
        receipt: Vec<u8>,
    },
    /// Voted NO or CONTENDED, or was fenced without a vote.
    Fenced {
        /// The transaction.
        meta: TxMeta,
        /// The vote as it was said; none for a bare fence.
        vote: Option<Vote>,
    },
    /// Became final after a YES.
    Decided {
        /// The transaction.
        tx_id: TxId,
        /// COMMITTED or ABORTED.
        committed: bool,
    },
    /// Every branch has acknowledged (at the primary).
    Acknowledged {
        /// The transaction.
        tx_id: TxId,
    },
    /// All that is known, said again so that an older journal entry can be trimmed.
    Carried(Box<Entry<H>>),
}

impl<H> Event<H> {
    /// Which transaction it is about.
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
    /// Nothing is known and there is time: judge it.
    Admit,
    /// This is the answer: the first vote again, or FENCED. Nothing is written.
    Reject(Vote),
}

/// What a Commit, Abort or Query comes to.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<H> {
    /// What stands once `event` is durable.
    pub state: BranchState,
    /// What must be made durable before that is said.
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
}

impl<H: Clone> TransactionTable<H> {
    /// An empty table of this branch.
    pub fn new(branch: Branch) -> Self {
        Self { branch, entries: UndoMap::default() }
    }

    /// Whose table it is.
    pub const fn branch(&self) -> &Branch {
        &self.branch
    }

    /// What is known of a transaction.
    pub fn get(&self, tx_id: TxId) -> Option<&Entry<H>> {
        self.entries.get(&tx_id)
    }

    /// All that is known.
    pub fn iter(&self) -> impl Iterator<Item = &Entry<H>> {
        self.entries.iter().map(|(_, entry)| entry)
    }

    /// How many transactions are known.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when none is known.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a Prepare may be judged by a KV transaction that began at `start`.
    ///
    /// A known transaction gets its first answer and makes no second hold, even long after it was
    /// committed; none votes at or past its deadline, as fences may be dropped from then on.
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

    /// Commit. At the primary it decides, from PREPARED only; elsewhere the primary has decided.
    ///
    /// A transaction that is not known was forgotten, as Commit is sent only after every branch voted
    /// YES: it is acknowledged. So is one that a question left a bare fence of after it was forgotten;
    /// not at the primary, where nothing has been decided before.
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

    /// Abort. A fence is left where nothing is known. At the primary PREPARED goes to ABORTED only with
    /// evidence of a fence at some branch; elsewhere the primary has decided.
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

    /// Query; with `fence` nothing known becomes ABORTED.
    pub fn query(&self, meta: &TxMeta, fence: bool) -> Decision<H> {
        match self.get(meta.tx_id) {
            Some(entry) => Decision::stands(entry.state),
            None if fence => Self::fence(meta),
            None => Decision::stands(BranchState::Absent),
        }
    }

    /// Forget: every branch has acknowledged. Only a final state can be acknowledged.
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

    /// Makes a fact of journal entry `seq` part of the table. Returns what is held no more, if anything:
    /// on a live ABORTED it is for the caller to give back.
    ///
    /// On replay an outcome may come without its vote, when the vote's journal entry has been trimmed
    /// already: then the whole transaction may be forgotten, and it is left out.
    pub fn apply(&mut self, event: Event<H>, seq: u64) -> Option<H> {
        match event {
            Event::Prepared { meta, hold, receipt } => {
                let entry = Entry {
                    meta,
                    state: BranchState::Prepared,
                    hold: Some(hold),
                    vote: Some(Vote::Yes { receipt }),
                    gave_back: false,
                    acknowledged: false,
                    told_seq: seq,
                    last_seq: seq,
                };
                self.entries.insert(entry.meta.tx_id, entry);
                None
            }
            Event::Fenced { meta, vote } => {
                let entry = Entry {
                    meta,
                    state: BranchState::Aborted,
                    hold: None,
                    vote,
                    gave_back: false,
                    acknowledged: false,
                    told_seq: seq,
                    last_seq: seq,
                };
                self.entries.insert(entry.meta.tx_id, entry);
                None
            }
            Event::Decided { tx_id, committed } => self.change(tx_id, seq, |entry| {
                if committed {
                    entry.state = BranchState::Committed;
                } else {
                    entry.state = BranchState::Aborted;
                    entry.vote = None;
                    entry.gave_back = true;
                }
                entry.hold.take()
            }),
            Event::Acknowledged { tx_id } => self.change(tx_id, seq, |entry| {
                entry.acknowledged = true;
                None
            }),
            Event::Carried(mut entry) => {
                entry.told_seq = seq;
                entry.last_seq = seq;
                self.entries.insert(entry.meta.tx_id, *entry);
                None
            }
        }
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
        self.entries.insert(tx_id, entry);
        held
    }

    /// Whether a KV transaction that began at `start` may drop what is known: final here, past the
    /// deadline (so that no vote can follow), and, at the primary, acknowledged by every branch.
    ///
    /// A final state elsewhere than at the primary implies that the primary is final: nobody acts
    /// elsewhere before. A NO, CONTENDED or fence is final by itself.
    pub fn may_forget(&self, tx_id: TxId, start: Timestamp) -> bool {
        let Some(entry) = self.get(tx_id) else { return true };
        let is_final = entry.state != BranchState::Prepared;
        let acknowledged = entry.acknowledged || !entry.meta.is_primary(&self.branch);
        let is_past = start.physical() > entry.meta.deadline;
        is_final && acknowledged && (is_past || Mutation::FenceDroppedEarly.is_on())
    }

    /// Whether journal entry `seq` may be trimmed as far as this transaction goes: it may be forgotten, or
    /// a later entry says all of it again.
    pub fn may_trim(&self, tx_id: TxId, seq: u64, start: Timestamp) -> bool {
        self.get(tx_id).is_none_or(|entry| entry.told_seq > seq) || self.may_forget(tx_id, start)
    }

    /// Drops what is known when `trimmed` was the last journal entry that said something of it.
    pub fn forget(&mut self, tx_id: TxId, trimmed: u64) {
        if self.get(tx_id).is_some_and(|entry| entry.last_seq <= trimmed) {
            self.entries.remove(&tx_id);
        }
    }

    /// Whether a transaction has a vote without an outcome here, or, at its primary, an outcome that not every
    /// branch has acknowledged.
    pub fn is_unfinished(&self, tx_id: TxId) -> bool {
        self.get(tx_id).is_some_and(|entry| {
            entry.state == BranchState::Prepared
                || (entry.meta.is_primary(&self.branch) && !entry.acknowledged)
        })
    }

    /// Transactions that somebody should have resolved by now: votes past their deadline, and outcomes
    /// at the primary that not every branch has acknowledged `grace_ms` later.
    pub fn overdue(&self, now: UnixMillis, grace_ms: u64) -> impl Iterator<Item = &TxMeta> {
        self.iter().filter_map(move |entry| {
            let unfinished = match entry.state {
                BranchState::Prepared => now > entry.meta.deadline,
                BranchState::Committed | BranchState::Aborted => {
                    entry.meta.is_primary(&self.branch)
                        && !entry.acknowledged
                        && now > entry.meta.deadline.plus_ms(grace_ms)
                }
                BranchState::Absent => false,
            };
            unfinished.then_some(&entry.meta)
        })
    }

    /// Keeps everything applied so far.
    pub fn settle(&mut self) {
        self.entries.settle();
    }

    /// Takes back everything applied since the last settlement.
    pub fn undo(&mut self) {
        self.entries.undo();
    }
}

#[cfg(test)]
mod tests;
