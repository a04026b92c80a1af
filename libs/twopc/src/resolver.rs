//! The part of the coordinator's machine for missing votes: it asks, and fences if it may. The
//! transaction's own coordinator may fence at any time, anybody else only past the deadline.
//!
//! It asks the primary first. A final state there is the outcome. If the primary is PREPARED, the
//! outcome is that of all the votes, so the other branches are asked for theirs. If the primary is
//! ABSENT, it never voted or it has forgotten, and it may forget only after every branch has
//! acknowledged the outcome. So the other branches are asked before an ABSENT primary is fenced. A
//! COMMITTED among them means that the primary has forgotten and nothing is left to do. A PREPARED
//! means that it has not forgotten. If all of them know nothing, a fence at the primary is
//! harmless: had the outcome been COMMITTED, every branch would have made it final before.

use types::{BranchState, Vote};

use crate::{
    coordinator::{BranchKnowledge, Phase, Polling, Transaction},
    message::{BranchIndex, Message, Outcome, Output, PRIMARY, Violation},
    rules::Rule,
};

impl Transaction {
    /// Resolves the coordinator's own transaction when it lacks votes, and fences branches that
    /// have not voted.
    pub(crate) fn resolve_own(&mut self, out: &mut Vec<Output>) {
        self.drop_pending();
        if !self.holds(Rule::TimeoutDecidesNothing) {
            return self.decide_abort(self.places.len().saturating_sub(1), out);
        }
        match self.known(PRIMARY) {
            BranchKnowledge::Yes(_) => self.tally(out),
            BranchKnowledge::Nothing | BranchKnowledge::Against(_) | BranchKnowledge::Fence => {
                self.ask_primary(Polling::First, out);
            }
        }
    }

    pub(crate) fn ask_primary(&mut self, why: Polling, out: &mut Vec<Output>) {
        self.drop_pending();
        self.phase = Phase::Polling(why);
        self.send(PRIMARY, Message::Query { fence: why == Polling::Fencing }, out);
    }

    pub(crate) fn on_primary(
        &mut self,
        why: Polling,
        state: BranchState,
        vote: Option<Vote>,
        out: &mut Vec<Output>,
    ) {
        match (why, state) {
            (_, BranchState::Committed) => self.adopt(true, out),
            (Polling::Again, BranchState::Prepared | BranchState::Aborted) => {
                let first = self.places.iter().skip(1).position(|place| place.settled);
                let index = first.map_or(PRIMARY, |index| index.saturating_add(1));
                self.violate(Violation::CommittedElsewhere(index), out);
            }
            (Polling::First | Polling::Fencing, BranchState::Aborted) => {
                self.learn(PRIMARY, BranchState::Aborted, vote);
                self.primary_was_absent |= why == Polling::Fencing;
                self.adopt(false, out);
            }
            (Polling::First | Polling::Fencing, BranchState::Prepared) => {
                self.learn(PRIMARY, BranchState::Prepared, vote);
                self.tally(out);
            }
            (Polling::First, BranchState::Absent) if self.may_fence() => {
                self.ask_whether_forgotten(out);
            }
            (Polling::First, BranchState::Absent) => self.give_up(out),
            // It has forgotten since, which it may do only after every branch has acknowledged.
            (Polling::Again, BranchState::Absent) => {
                self.answer(Outcome::Committed, out);
                self.finish(out);
            }
            (Polling::Fencing, BranchState::Absent) => {
                self.violate(Violation::Nonsense(PRIMARY), out);
            }
        }
    }

    /// The primary knows nothing. Asks the other branches, to see whether it has forgotten.
    fn ask_whether_forgotten(&mut self, out: &mut Vec<Output>) {
        self.drop_pending();
        self.phase = Phase::Recovering;
        self.send_all(1, &Message::Query { fence: false }, out);
        if !self.is_pending() {
            self.ask_primary(Polling::Fencing, out);
        }
    }

    pub(crate) fn on_recovering(
        &mut self,
        index: BranchIndex,
        state: BranchState,
        vote: Option<Vote>,
        out: &mut Vec<Output>,
    ) {
        if state == BranchState::Committed {
            self.answer(Outcome::Committed, out);
            return self.finish(out);
        }
        self.learn(index, state, vote);
        if !self.is_pending() {
            self.ask_primary(Polling::Fencing, out);
        }
    }

    /// The primary is PREPARED. Asks every other branch whose vote is not known.
    fn tally(&mut self, out: &mut Vec<Output>) {
        self.drop_pending();
        self.phase = Phase::Tallying;
        if let Some(evidence) = self.evidence() {
            return self.decide_abort(evidence, out);
        }
        let fence = self.may_fence();
        for index in 1..self.places.len() {
            if *self.known(index) == BranchKnowledge::Nothing {
                self.send(index, Message::Query { fence }, out);
            }
        }
        self.judge_gathered(out);
    }

    pub(crate) fn on_gathered(
        &mut self,
        index: BranchIndex,
        state: BranchState,
        vote: Option<Vote>,
        out: &mut Vec<Output>,
    ) {
        match state {
            // The primary must be COMMITTED by now. Ask it, because only its state counts.
            BranchState::Committed => {
                if let Some(place) = self.places.get_mut(index) {
                    place.settled = true;
                }
                return self.ask_primary(Polling::Again, out);
            }
            BranchState::Absent if self.may_fence() => {
                return self.violate(Violation::Nonsense(index), out);
            }
            BranchState::Absent | BranchState::Prepared | BranchState::Aborted => {
                self.learn(index, state, vote);
            }
        }
        match self.evidence() {
            Some(evidence) => self.decide_abort(evidence, out),
            None => self.judge_gathered(out),
        }
    }

    fn judge_gathered(&mut self, out: &mut Vec<Output>) {
        if self.all_yes() {
            self.decide_commit(out);
        } else if !self.is_pending() {
            self.give_up(out);
        }
    }

    /// Finishes undecided: this machine may not decide yet.
    fn give_up(&mut self, out: &mut Vec<Output>) {
        let missing = self.places.iter().enumerate();
        let missing = missing.filter(|(_, place)| place.known == BranchKnowledge::Nothing);
        let missing = missing.map(|(index, _)| index).collect();
        self.answer(Outcome::Undecided(missing), out);
        self.finish(out);
    }

    /// Records what a branch says of its vote.
    fn learn(&mut self, index: BranchIndex, state: BranchState, vote: Option<Vote>) {
        let known = match (state, vote) {
            (BranchState::Prepared, Some(Vote::Yes { receipt })) => BranchKnowledge::Yes(receipt),
            (BranchState::Prepared, _) => BranchKnowledge::Yes(Vec::new()),
            (BranchState::Aborted, Some(vote @ (Vote::No { .. } | Vote::Contended { .. }))) => {
                BranchKnowledge::Against(vote)
            }
            (BranchState::Aborted, _) => BranchKnowledge::Fence,
            (BranchState::Absent | BranchState::Committed, _) => return,
        };
        self.know(index, known);
    }
}
