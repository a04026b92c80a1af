//! The coordinator's machine for one transaction: it asks for votes, finds the outcome, and makes
//! every branch acknowledge it.
//!
//! A machine starts in one of two ways. [`Transaction::begin`] is for the one coordinator that made
//! the transaction, [`Transaction::resolve`] for anybody who needs its outcome. Both lead to the
//! same states, and any number of machines may run at once. The primary's state decides: every
//! machine adopts it before it acts on other branches.
//!
//! ```text
//!  begin -> Voting --all YES: answer--> Deciding(commit) -+
//!             |  \--NO, CONTENDED-----> Deciding(abort) --+-> Notifying -> Forgetting -> Done
//!             |FENCED, deadline                 ^         |
//!             v                                 |         |
//!  resolve -> Polling <-> Recovering -> Tallying+---------+
//! ```
//!
//! The machine does no I/O. Its driver sends each message until it is answered or replaced: a later
//! [`Output::Send`] to the same index replaces the earlier one. This module decides and notifies;
//! [`crate::resolver`] asks when votes are missing.

use types::{BranchState, TxMeta, Vote};

use crate::{
    message::{
        BranchIndex, Input, Message, MessageId, Outcome, Output, PRIMARY, Refused, Reply, Violation,
    },
    rules::Rule,
};

/// What the machine knows of a branch's vote.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum BranchKnowledge {
    /// Nothing yet.
    Nothing,
    /// YES, with its receipt.
    Yes(Vec<u8>),
    /// NO or CONTENDED: durable and final.
    Against(Vote),
    /// ABORTED without a reason: a bare fence, or a YES that was aborted.
    Fence,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) known: BranchKnowledge,
    /// The message whose reply is awaited.
    pub(crate) pending: Option<MessageId>,
    /// The branch has acknowledged the outcome, or need not do so.
    pub(crate) settled: bool,
}

/// The machine's progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    /// Every branch was sent a Prepare. Votes are awaited.
    Voting,
    /// The primary was asked what it knows.
    Polling(Polling),
    /// The primary knows nothing, and this machine may fence. The other branches were asked,
    /// without fencing, whether the primary has forgotten.
    Recovering,
    /// The primary is PREPARED. The other branches were asked for their votes.
    Tallying,
    /// The primary was told the outcome that this machine found (true: COMMITTED).
    Deciding(bool),
    /// The outcome stands at the primary (true: COMMITTED). The other branches were told.
    Notifying(bool),
    /// Every branch has acknowledged. The primary was told that it may forget.
    Forgetting,
    /// Nothing is left to do.
    Done,
}

/// Why the primary was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Polling {
    /// It is the first question.
    First,
    /// No other branch remembers a COMMITTED, so the primary may be fenced.
    Fencing,
    /// Another branch is COMMITTED, so the primary must be final by now.
    Again,
}

/// Who runs the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    /// The transaction's one coordinator. It may answer at the commit point, and fence at any time.
    Coordinator,
    /// Anybody, past the deadline. It may fence.
    Resolver,
    /// Anybody, before the deadline. It may ask for missing votes, but never fence.
    Observer,
}

/// One transaction. See the module's documentation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Transaction {
    pub(crate) places: Vec<Place>,
    pub(crate) phase: Phase,
    role: Role,
    /// The primary knew nothing when asked, and was ABORTED when then asked with a fence.
    pub(crate) primary_was_absent: bool,
    answered: bool,
    pub(crate) last_message_id: MessageId,
    #[cfg(test)]
    pub(crate) without: Option<Rule>,
}

impl Transaction {
    /// Begins a transaction by asking all of its branches for their votes. Only the transaction's
    /// one coordinator may call this.
    pub fn begin(meta: &TxMeta, out: &mut Vec<Output>) -> Self {
        let mut transaction = Self::new(meta, Phase::Voting, Role::Coordinator);
        transaction.send_all(0, &Message::Prepare, out);
        transaction
    }

    /// Finds the outcome of a transaction and completes it if that is allowed. `may_fence` means
    /// that the store's clock has passed the deadline. Before the deadline, branches that have not
    /// voted are only asked.
    pub fn resolve(meta: &TxMeta, may_fence: bool, out: &mut Vec<Output>) -> Self {
        let role = if may_fence { Role::Resolver } else { Role::Observer };
        let mut transaction = Self::new(meta, Phase::Done, role);
        transaction.ask_primary(Polling::First, out);
        transaction
    }

    fn new(meta: &TxMeta, phase: Phase, role: Role) -> Self {
        let place = Place { known: BranchKnowledge::Nothing, pending: None, settled: false };
        Self {
            places: vec![place; meta.branches.len()],
            phase,
            role,
            primary_was_absent: false,
            answered: false,
            last_message_id: MessageId::default(),
            #[cfg(test)]
            without: None,
        }
    }

    /// Advances by one input. Replies to messages that were replaced have no effect.
    pub fn step(&mut self, input: Input, out: &mut Vec<Output>) {
        match input {
            Input::DeadlinePassed => {
                if self.phase == Phase::Voting {
                    self.resolve_own(out);
                }
            }
            Input::Reply { index, message_id, reply } => {
                let Some(place) = self.places.get_mut(index) else { return };
                if self.phase == Phase::Done || place.pending != Some(message_id) {
                    return;
                }
                place.pending = None;
                self.on_reply(index, reply, out);
            }
        }
    }

    /// True once nothing is left to do.
    pub fn is_finished(&self) -> bool {
        self.phase == Phase::Done
    }

    /// True once the outcome was answered.
    pub const fn is_answered(&self) -> bool {
        self.answered
    }

    /// True while the machine waits for votes. Only then does the deadline matter.
    pub fn awaits_votes(&self) -> bool {
        self.phase == Phase::Voting
    }

    fn on_reply(&mut self, index: BranchIndex, reply: Reply, out: &mut Vec<Output>) {
        match (self.phase, reply) {
            (Phase::Voting, Reply::Vote(vote)) => self.on_vote(index, vote, out),
            (Phase::Polling(why), Reply::State(state, vote)) => {
                self.on_primary(why, state, vote, out);
            }
            (Phase::Recovering, Reply::State(state, vote)) => {
                self.on_recovering(index, state, vote, out);
            }
            (Phase::Tallying, Reply::State(state, vote)) => {
                self.on_gathered(index, state, vote, out);
            }
            (Phase::Deciding(commit), Reply::Acked(state)) => self.on_decided(commit, state, out),
            (Phase::Notifying(committed), Reply::Acked(state)) => {
                self.on_acked(index, committed, state, out);
            }
            (Phase::Forgetting, Reply::Forgotten) => self.finish(out),
            // The phase determines the message, and the message determines the kind of its reply.
            (_, Reply::Vote(_) | Reply::State(..) | Reply::Acked(_) | Reply::Forgotten) => {
                self.violate(Violation::Nonsense(index), out);
            }
        }
    }

    fn on_vote(&mut self, index: BranchIndex, vote: Vote, out: &mut Vec<Output>) {
        match vote {
            Vote::Yes { receipt } => self.know(index, BranchKnowledge::Yes(receipt)),
            Vote::No { .. } | Vote::Contended { .. } => {
                self.know(index, BranchKnowledge::Against(vote));
            }
            // A FENCED vote need not be durable, so it is not evidence (P3). Ask the branch for its
            // state.
            Vote::Fenced if self.holds(Rule::FencedVoteIsNoEvidence) => {
                return self.resolve_own(out);
            }
            Vote::Fenced => self.know(index, BranchKnowledge::Fence),
        }
        self.judge_votes(out);
    }

    /// Decides as soon as the votes allow it.
    fn judge_votes(&mut self, out: &mut Vec<Output>) {
        if self.all_yes() {
            self.decide_commit(out);
            self.answer(Outcome::Committed, out);
        } else if let Some(evidence) = self.evidence() {
            // A refusal also needs the primary's vote, which shows that the primary is as it was
            // read.
            let refuses = self.places.iter().any(|place| is_no(&place.known));
            let has_primarys_word = !matches!(self.known(PRIMARY), BranchKnowledge::Nothing)
                || !self.holds(Rule::PrimarysWord);
            if !refuses || has_primarys_word {
                self.decide_abort(evidence, out);
            }
        }
    }

    /// Tells the primary that every branch voted YES.
    pub(crate) fn decide_commit(&mut self, out: &mut Vec<Output>) {
        let receipts = self.places.iter().map(|place| match &place.known {
            BranchKnowledge::Yes(receipt) => receipt.clone(),
            BranchKnowledge::Nothing | BranchKnowledge::Against(_) | BranchKnowledge::Fence => {
                Vec::new()
            }
        });
        let message = Message::Commit { receipts: receipts.collect() };
        self.drop_pending();
        self.phase = Phase::Deciding(true);
        self.send(PRIMARY, message, out);
        if !self.holds(Rule::PrimaryFirst) {
            self.send_all(1, &Message::Commit { receipts: Vec::new() }, out);
        }
    }

    /// Tells the primary that branch `evidence` is against the transaction. If that is the primary
    /// itself, the outcome is already final.
    pub(crate) fn decide_abort(&mut self, evidence: BranchIndex, out: &mut Vec<Output>) {
        self.drop_pending();
        if evidence == PRIMARY {
            return self.adopt(false, out);
        }
        self.phase = Phase::Deciding(false);
        self.send(PRIMARY, Message::Abort { evidence: Some(evidence) }, out);
        if !self.holds(Rule::PrimaryFirst) {
            self.send_all(1, &Message::Abort { evidence: None }, out);
        }
        if !self.holds(Rule::AnswerAfterAborts) {
            let outcome = self.failure();
            self.answer(outcome, out);
        }
    }

    /// Takes the primary's state as the outcome.
    fn on_decided(&mut self, commit: bool, state: BranchState, out: &mut Vec<Output>) {
        let stands = match state {
            _ if !self.holds(Rule::AdoptWhatStands) => commit,
            BranchState::Committed => true,
            BranchState::Aborted => false,
            BranchState::Absent | BranchState::Prepared => {
                return self.violate(Violation::Nonsense(PRIMARY), out);
            }
        };
        if commit && !stands {
            return self.violate(Violation::AbortedAfterYes, out);
        }
        self.adopt(stands, out);
    }

    /// The outcome stands at the primary. Tells the other branches.
    pub(crate) fn adopt(&mut self, committed: bool, out: &mut Vec<Output>) {
        if committed {
            let against = |place: &Place| matches!(place.known, BranchKnowledge::Against(_));
            if let Some(index) = self.places.iter().position(against) {
                return self.violate(Violation::CommittedDespiteNo(index), out);
            }
            if self.role == Role::Coordinator {
                self.answer(Outcome::Committed, out);
            }
        }
        self.drop_pending();
        self.phase = Phase::Notifying(committed);
        for (index, place) in self.places.iter_mut().enumerate() {
            // A branch that voted against it is ABORTED for good. A fence that contradicts a
            // COMMITTED can only be one that was left after the branch had acknowledged and
            // forgotten.
            place.settled = index == PRIMARY
                || matches!(place.known, BranchKnowledge::Against(_) | BranchKnowledge::Fence);
        }
        let message = if committed {
            Message::Commit { receipts: Vec::new() }
        } else {
            Message::Abort { evidence: None }
        };
        let told: Vec<BranchIndex> = self.unsettled().collect();
        for index in told {
            self.send(index, message.clone(), out);
        }
        self.conclude(committed, out);
    }

    fn on_acked(
        &mut self,
        index: BranchIndex,
        committed: bool,
        state: BranchState,
        out: &mut Vec<Output>,
    ) {
        match (committed, state) {
            (true, BranchState::Committed) | (false, BranchState::Aborted) => {
                if let Some(place) = self.places.get_mut(index) {
                    place.settled = true;
                }
                self.conclude(committed, out);
            }
            (true, BranchState::Aborted) => {
                self.violate(Violation::AbortedElsewhere(index), out);
            }
            // The primary had forgotten before it was fenced, so every branch had acknowledged.
            (false, BranchState::Committed) if self.primary_was_absent => {
                self.answer(Outcome::Committed, out);
                self.forget(out);
            }
            (false, BranchState::Committed) => {
                self.violate(Violation::CommittedElsewhere(index), out);
            }
            (_, BranchState::Absent | BranchState::Prepared) => {
                self.violate(Violation::Nonsense(index), out);
            }
        }
    }

    /// Once every branch has acknowledged, answers and lets the primary forget.
    fn conclude(&mut self, committed: bool, out: &mut Vec<Output>) {
        if self.unsettled().next().is_none() {
            let outcome = if committed { Outcome::Committed } else { self.failure() };
            self.answer(outcome, out);
            self.forget(out);
        }
    }

    fn forget(&mut self, out: &mut Vec<Output>) {
        self.drop_pending();
        self.phase = Phase::Forgetting;
        self.send(PRIMARY, Message::Forget, out);
    }

    /// Why the transaction was aborted. A NO counts only together with the primary's own vote, YES
    /// or NO.
    fn failure(&self) -> Outcome {
        let has_primarys_word = match self.known(PRIMARY) {
            BranchKnowledge::Yes(_) => true,
            known @ (BranchKnowledge::Nothing
            | BranchKnowledge::Against(_)
            | BranchKnowledge::Fence) => is_no(known),
        } || !self.holds(Rule::PrimarysWord);
        let mut refused = Vec::new();
        let mut blockers = Vec::new();
        for (index, place) in self.places.iter().enumerate() {
            match &place.known {
                BranchKnowledge::Against(Vote::No { reason, metadata }) => refused.push(Refused {
                    index,
                    reason: reason.clone(),
                    metadata: metadata.clone(),
                }),
                BranchKnowledge::Against(Vote::Contended { blocker }) => {
                    blockers.push((**blocker).clone());
                }
                BranchKnowledge::Nothing
                | BranchKnowledge::Yes(_)
                | BranchKnowledge::Against(_)
                | BranchKnowledge::Fence => {}
            }
        }
        if has_primarys_word && !refused.is_empty() {
            Outcome::Refused(refused)
        } else if blockers.is_empty() {
            Outcome::Fenced
        } else {
            Outcome::Contended(blockers)
        }
    }

    /// Whether this machine may fence branches that have not voted.
    pub(crate) fn may_fence(&self) -> bool {
        self.role != Role::Observer
    }

    pub(crate) fn answer(&mut self, outcome: Outcome, out: &mut Vec<Output>) {
        if !self.answered {
            self.answered = true;
            out.push(Output::Answer(outcome));
        }
    }

    pub(crate) fn finish(&mut self, out: &mut Vec<Output>) {
        self.drop_pending();
        self.phase = Phase::Done;
        out.push(Output::Finished);
    }

    pub(crate) fn violate(&mut self, violation: Violation, out: &mut Vec<Output>) {
        out.push(Output::Violation(violation));
        self.finish(out);
    }

    pub(crate) fn send(&mut self, index: BranchIndex, message: Message, out: &mut Vec<Output>) {
        self.last_message_id = MessageId(self.last_message_id.0.saturating_add(1));
        let message_id = self.last_message_id;
        if let Some(place) = self.places.get_mut(index) {
            place.pending = Some(message_id);
            out.push(Output::Send { index, message_id, message });
        }
    }

    pub(crate) fn send_all(
        &mut self,
        first: BranchIndex,
        message: &Message,
        out: &mut Vec<Output>,
    ) {
        for index in first..self.places.len() {
            self.send(index, message.clone(), out);
        }
    }

    /// Discards the replies to all messages sent so far.
    pub(crate) fn drop_pending(&mut self) {
        for place in &mut self.places {
            place.pending = None;
        }
    }

    pub(crate) fn is_pending(&self) -> bool {
        self.places.iter().any(|place| place.pending.is_some())
    }

    pub(crate) fn know(&mut self, index: BranchIndex, known: BranchKnowledge) {
        if let Some(place) = self.places.get_mut(index) {
            place.known = known;
        }
    }

    pub(crate) fn known(&self, index: BranchIndex) -> &BranchKnowledge {
        self.places.get(index).map_or(&BranchKnowledge::Nothing, |place| &place.known)
    }

    pub(crate) fn all_yes(&self) -> bool {
        let yes = |place: &Place| matches!(place.known, BranchKnowledge::Yes(_));
        let needed = if self.holds(Rule::AllVotes) { self.places.len() } else { 1 };
        self.places.iter().take(needed).all(yes)
    }

    /// A branch that is against the transaction. Prefers the primary, then a vote, then a bare
    /// fence.
    pub(crate) fn evidence(&self) -> Option<BranchIndex> {
        let fenced = |place: &Place| matches!(place.known, BranchKnowledge::Fence);
        let against = |place: &Place| matches!(place.known, BranchKnowledge::Against(_));
        let primary = self.places.first().is_some_and(|place| against(place) || fenced(place));
        primary
            .then_some(PRIMARY)
            .or_else(|| self.places.iter().position(against))
            .or_else(|| self.places.iter().position(fenced))
    }

    fn unsettled(&self) -> impl Iterator<Item = BranchIndex> {
        self.places.iter().enumerate().filter(|(_, place)| !place.settled).map(|(index, _)| index)
    }

    /// Whether a rule is in force: always, unless a test removes it.
    #[cfg(test)]
    pub(crate) fn holds(&self, rule: Rule) -> bool {
        self.without != Some(rule)
    }

    /// Whether a rule is in force: always, unless the simulation removes it.
    #[cfg(not(test))]
    #[allow(clippy::unused_self, reason = "tests look at it")]
    pub(crate) fn holds(&self, rule: Rule) -> bool {
        !rule.broken_by().is_some_and(types::Mutation::is_on)
    }
}

fn is_no(known: &BranchKnowledge) -> bool {
    matches!(known, BranchKnowledge::Against(Vote::No { .. }))
}

#[cfg(test)]
pub(crate) mod tests;
