//! What the coordinator's machine does when votes are missing: it asks, and past the deadline it fences.
//!
//! The primary first. Final: that is the outcome. PREPARED: the outcome is that of all the votes, so the
//! others are asked for theirs. Absent: it never voted, or it forgot, and it may only forget when every
//! branch has acknowledged the outcome. So before an absent primary is fenced the others are looked at:
//! a COMMITTED among them says that it forgot and that nothing is left to do; a PREPARED says that it did
//! not forget. If all of them know nothing, a fence at the primary hurts nobody: had there been a
//! COMMITTED, every branch would have made it final before.

use types::{BranchState, Vote};

use crate::{
    coordinator::{Asking, Known, Phase, Transaction},
    message::{Message, Outcome, Output, PRIMARY, Seat, Violation},
    rules::Rule,
};

impl Transaction {
    /// The coordinator's own transaction lacks votes: resolve it, fencing whoever has not voted.
    pub(crate) fn resolve_own(&mut self, out: &mut Vec<Output>) {
        self.drop_pending();
        if !self.holds(Rule::TimeoutDecidesNothing) {
            return self.decide_abort(self.places.len().saturating_sub(1), out);
        }
        match self.known(PRIMARY) {
            Known::Yes(_) => self.gather(out),
            Known::Nothing | Known::Against(_) | Known::Fence => {
                self.ask_primary(Asking::First, out);
            }
        }
    }

    pub(crate) fn ask_primary(&mut self, why: Asking, out: &mut Vec<Output>) {
        self.drop_pending();
        self.phase = Phase::Asking(why);
        self.send(PRIMARY, Message::Query { fence: why == Asking::Fencing }, out);
    }

    pub(crate) fn on_primary(
        &mut self,
        why: Asking,
        state: BranchState,
        vote: Option<Vote>,
        out: &mut Vec<Output>,
    ) {
        match (why, state) {
            (_, BranchState::Committed) => self.adopt(true, out),
            (Asking::Again, BranchState::Prepared | BranchState::Aborted) => {
                let first = self.places.iter().skip(1).position(|place| place.settled);
                let seat = first.map_or(PRIMARY, |index| index.saturating_add(1));
                self.violate(Violation::CommittedElsewhere(seat), out);
            }
            (Asking::First | Asking::Fencing, BranchState::Aborted) => {
                self.learn(PRIMARY, BranchState::Aborted, vote);
                self.primary_was_absent |= why == Asking::Fencing;
                self.adopt(false, out);
            }
            (Asking::First | Asking::Fencing, BranchState::Prepared) => {
                self.learn(PRIMARY, BranchState::Prepared, vote);
                self.gather(out);
            }
            (Asking::First, BranchState::Absent) if self.may_fence() => self.look(out),
            (Asking::First, BranchState::Absent) => self.give_up(out),
            // It forgot meanwhile, which it may only when all have acknowledged.
            (Asking::Again, BranchState::Absent) => {
                self.answer(Outcome::Committed, out);
                self.finish(out);
            }
            (Asking::Fencing, BranchState::Absent) => {
                self.violate(Violation::Nonsense(PRIMARY), out);
            }
        }
    }

    /// The primary knows nothing: sees whether it forgot.
    fn look(&mut self, out: &mut Vec<Output>) {
        self.drop_pending();
        self.phase = Phase::Looking;
        self.send_all(1, &Message::Query { fence: false }, out);
        if !self.is_pending() {
            self.ask_primary(Asking::Fencing, out);
        }
    }

    pub(crate) fn on_look(
        &mut self,
        seat: Seat,
        state: BranchState,
        vote: Option<Vote>,
        out: &mut Vec<Output>,
    ) {
        if state == BranchState::Committed {
            self.answer(Outcome::Committed, out);
            return self.finish(out);
        }
        self.learn(seat, state, vote);
        if !self.is_pending() {
            self.ask_primary(Asking::Fencing, out);
        }
    }

    /// The primary is PREPARED: asks everybody else whose vote is not known.
    fn gather(&mut self, out: &mut Vec<Output>) {
        self.drop_pending();
        self.phase = Phase::Gathering;
        if let Some(evidence) = self.evidence() {
            return self.decide_abort(evidence, out);
        }
        let fence = self.may_fence();
        for seat in 1..self.places.len() {
            if *self.known(seat) == Known::Nothing {
                self.send(seat, Message::Query { fence }, out);
            }
        }
        self.judge_gathered(out);
    }

    pub(crate) fn on_gathered(
        &mut self,
        seat: Seat,
        state: BranchState,
        vote: Option<Vote>,
        out: &mut Vec<Output>,
    ) {
        match state {
            // Then the primary is COMMITTED by now: its word is what counts.
            BranchState::Committed => {
                if let Some(place) = self.places.get_mut(seat) {
                    place.settled = true;
                }
                return self.ask_primary(Asking::Again, out);
            }
            BranchState::Absent if self.may_fence() => {
                return self.violate(Violation::Nonsense(seat), out);
            }
            BranchState::Absent | BranchState::Prepared | BranchState::Aborted => {
                self.learn(seat, state, vote);
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

    /// It is not for us to decide yet.
    fn give_up(&mut self, out: &mut Vec<Output>) {
        let missing = self.places.iter().enumerate();
        let missing = missing.filter(|(_, place)| place.known == Known::Nothing);
        let missing = missing.map(|(seat, _)| seat).collect();
        self.answer(Outcome::Undecided(missing), out);
        self.finish(out);
    }

    /// Takes a branch's word on its vote.
    fn learn(&mut self, seat: Seat, state: BranchState, vote: Option<Vote>) {
        let known = match (state, vote) {
            (BranchState::Prepared, Some(Vote::Yes { receipt })) => Known::Yes(receipt),
            (BranchState::Prepared, _) => Known::Yes(Vec::new()),
            (BranchState::Aborted, Some(vote @ (Vote::No { .. } | Vote::Contended { .. }))) => {
                Known::Against(vote)
            }
            (BranchState::Aborted, _) => Known::Fence,
            (BranchState::Absent | BranchState::Committed, _) => return,
        };
        self.know(seat, known);
    }
}
