//! The effect of each kind of call on the current state.

use twopc::participant::{Decision, Event, Gate};
use types::{
    BranchState, CALL_AHEAD_MAX_MS, ClientCall, Mutation, Priority, Reason, Refusal, Timestamp,
    TxMeta, UnixMillis, Vote,
};

use super::{
    Answer, Call, CallId, Core, Domain,
    answers::{Recalled, Refused},
    facts::row_of,
    wait::Waiter,
};
use crate::records::{Executed, Judged, Receipt, Row};

impl<D: Domain> Core<D> {
    pub(super) fn answer(&mut self, id: CallId, answer: Answer<D::Reply>) {
        self.run.answers.push((id, answer));
    }

    /// Answers a call or lets it wait. `waited` is the call's place in the queue, which it keeps.
    pub(super) fn decide(&mut self, id: CallId, call: &Call<D>, waited: Option<&Waiter<D>>) {
        self.run.change += 1;
        match call {
            Call::Op { op, call: client, may_wait } => {
                self.execute(id, call, op, client.as_ref(), *may_wait, waited);
            }
            Call::Prepare { meta, payload, may_wait } => {
                self.prepare(id, call, meta, payload, *may_wait, waited);
            }
            Call::Reject { meta, refusal } => {
                if self.has_no_vote(id, meta) {
                    self.vote_no(id, meta, refusal.into());
                }
            }
            Call::Commit { meta, receipts } => {
                let decision = self.table.commit(meta);
                let (state, vote) = self.conclude(meta, decision, receipts);
                self.answer(id, Answer::State(state, vote));
            }
            Call::Abort { meta, evidence, refusal } => {
                let decision = self.table.abort(meta, *evidence);
                let (state, _) = self.conclude(meta, decision, &[]);
                let refused = state == BranchState::Aborted
                    && matches!((&meta.call, refusal), (Some(client), Some(refusal))
                        if self.refuse(client, Some(began(meta)), refusal).is_none());
                self.answer(id, Answer::Aborted { state, refused });
            }
            Call::Query { meta, fence } => {
                let decision = self.table.query(meta, *fence);
                let (state, vote) = self.conclude(meta, decision, &[]);
                self.answer(id, Answer::State(state, vote));
            }
            Call::Forget { tx_id } => {
                if let Some(event) = self.table.acknowledge(*tx_id) {
                    self.record(event);
                }
                self.answer(id, Answer::Forgotten);
            }
            Call::Refuse { call, began, refusal } => {
                let stands = self.refuse(call, *began, refusal);
                let noted = || Refused::new(refusal.clone()).answer();
                self.answer(id, stands.unwrap_or_else(noted));
            }
        }
    }

    /// Remembers that a call is refused, and returns `None`. Otherwise returns what prevents it: an
    /// outcome that the call already has, or an attempt that is under way, whose outcome is not
    /// known yet.
    fn refuse(
        &mut self,
        call: &ClientCall,
        began: Option<Timestamp>,
        refusal: &Vote,
    ) -> Option<Answer<D::Reply>> {
        match self.recall(call, began) {
            Some(Recalled::Refused(refused)) => return Some(refused.answer()),
            Some(recalled) => return Some(self.recalled(recalled)),
            None => {}
        }
        if let Some(attempt) = self.blocker_on(&row_of(&call.id)).cloned() {
            return Some(Answer::Waiting(Box::new(attempt)));
        }
        self.remember_refusal(call, refusal);
        None
    }

    /// The answer to an operation whose outcome another attempt has determined.
    fn recalled(&self, recalled: Recalled) -> Answer<D::Reply> {
        match recalled {
            // A newer release wrote a reply that does not decode. Executing the operation again
            // would make it take effect twice.
            Recalled::Done(reply) => match self.domain.decode_reply(&reply) {
                Ok(reply) => Answer::Done(reply, self.run.start),
                Err(_) => Answer::Refused(Refusal::new(Reason::Internal)),
            },
            Recalled::Committed(tx_id) => Answer::Committed(tx_id),
            Recalled::Refused(refused) => Answer::Refused(refused.refusal()),
            Recalled::Reused => Answer::Refused(Refusal::new(Reason::RequestIdReused)),
        }
    }

    /// The answer to a call that can no longer take effect in the current batch, or whose end is
    /// too far ahead. `None` if it may take effect.
    fn over(&self, call: &ClientCall) -> Option<Answer<D::Reply>> {
        let (start, not_after) = (self.run.start.physical(), call.not_after?);
        if call.is_over(start) {
            return (!Mutation::EndIgnored.is_on()).then_some(Answer::Expired);
        }
        // The outcome of the call would be forgotten before the call is over.
        (start.plus_ms(CALL_AHEAD_MAX_MS) < not_after).then(|| {
            let refusal = Refusal::new(Reason::InvalidArgument);
            Answer::Refused(refusal.with("till-not-after-ms", not_after.0))
        })
    }

    /// Answers a read from the state, outside any batch. `at` is the start of the look that showed
    /// the state to be current. `None` if only a batch can answer the call: rows are not in memory,
    /// the call must wait for others, or it would write.
    pub fn read(&mut self, call: &Call<D>, at: Timestamp) -> Option<Answer<D::Reply>> {
        let Call::Op { op, call: None, .. } = call else { return None };
        if !self.missing_for(call).is_empty() {
            return None;
        }
        let (domain, mut rows) = self.rows();
        let executed = domain.execute(op, &mut rows);
        let has_read = self.run.dirty.is_empty() && self.run.missing.is_empty();
        self.run = super::Run::default();
        match executed {
            Executed::Done(reply) if has_read => Some(Answer::Done(reply, at)),
            Executed::Refused(refusal) if has_read => Some(Answer::Refused(refusal)),
            Executed::Done(_) | Executed::Refused(_) | Executed::Wait(_) => None,
        }
    }

    fn execute(
        &mut self,
        id: CallId,
        call: &Call<D>,
        op: &D::Op,
        client: Option<&ClientCall>,
        may_wait: bool,
        waited: Option<&Waiter<D>>,
    ) {
        if let Some(client) = client {
            if let Some(recalled) = self.recall(client, None) {
                let answer = self.recalled(recalled);
                return self.answer(id, answer);
            }
            if let Some(answer) = self.over(client) {
                return self.answer(id, answer);
            }
        }
        let (domain, mut rows) = self.rows();
        let executed = domain.execute(op, &mut rows);
        match executed {
            Executed::Done(reply) => {
                self.take_changes();
                if let Some(client) = client {
                    self.remember_reply(client, &reply);
                }
                let start = self.run.start;
                self.answer(id, Answer::Done(reply, start));
            }
            Executed::Refused(refusal) => {
                // Refused attempts stay refused, but a later call under the client's own id may
                // succeed.
                if let Some(client) = client {
                    self.remember_refusal(client, &(&refusal).into());
                }
                self.answer(id, Answer::Refused(refusal));
            }
            Executed::Wait(row) if !may_wait => match self.blocker_on(&row).cloned() {
                Some(blocker) => self.answer(id, Answer::Waiting(Box::new(blocker))),
                None => self.answer(id, Answer::Overloaded),
            },
            Executed::Wait(row) => {
                let now = Priority { begin_ts: self.run.start.0, nonce: id };
                let priority = waited.map_or(now, |waiter| waiter.priority);
                self.wait(id, call, row, priority, waited);
            }
        }
    }

    fn prepare(
        &mut self,
        id: CallId,
        call: &Call<D>,
        meta: &TxMeta,
        payload: &D::Payload,
        may_wait: bool,
        waited: Option<&Waiter<D>>,
    ) {
        if !self.has_no_vote(id, meta) {
            return;
        }
        let priority = meta.priority;
        if waited.is_none() {
            // A younger transaction never overtakes an older waiter.
            let rows = self.domain.payload_rows(payload);
            if let Some(row) = rows.iter().find(|row| self.older_waits_on(row, priority)) {
                return self.contended(id, meta.clone(), row);
            }
        }
        let of_the_call = self.call_row(meta).filter(|row| self.blocker_on(row).is_some());
        let judged = if let Some(row) = of_the_call.filter(|_| !Mutation::CallsTogether.is_on()) {
            Judged::Short(row)
        } else {
            let (domain, mut rows) = self.rows();
            domain.prepare(payload, &mut rows)
        };
        match judged {
            Judged::Yes { hold, receipt } => {
                self.take_changes();
                self.record(Event::Prepared { meta: meta.clone(), hold, receipt: receipt.clone() });
                self.answer(id, Answer::Vote(Vote::Yes { receipt }));
            }
            Judged::No(refusal) => {
                self.vote_no(id, meta, (&refusal).into());
            }
            Judged::Short(row) if !self.may_wait_on(&row, priority) => {
                self.contended(id, meta.clone(), &row);
            }
            Judged::Short(row) if !may_wait => match self.blocker_on(&row).cloned() {
                Some(blocker) => self.answer(id, Answer::Waiting(Box::new(blocker))),
                None => self.answer(id, Answer::Vote(Vote::Fenced)),
            },
            Judged::Short(row) => self.wait(id, call, row, priority, waited),
        }
    }

    /// Whether the vote on this transaction is still open. If not, answers the Prepare with the
    /// first vote, with FENCED, or with the vote that another attempt of the same call implies.
    fn has_no_vote(&mut self, id: CallId, meta: &TxMeta) -> bool {
        if let Gate::Reject(vote) = self.table.gate(meta, self.run.start) {
            self.answer(id, Answer::Vote(vote));
            return false;
        }
        if let Some(vote) = self.vote_of_the_call(meta) {
            self.vote_no(id, meta, vote);
            return false;
        }
        true
    }

    fn vote_no(&mut self, id: CallId, meta: &TxMeta, vote: Vote) {
        self.record(Event::Fenced { meta: meta.clone(), vote: Some(vote.clone()) });
        self.answer(id, Answer::Vote(vote));
    }

    /// The vote that an earlier attempt of the same call implies. `None` if the call has no outcome
    /// yet. Only the primary knows.
    fn vote_of_the_call(&mut self, meta: &TxMeta) -> Option<Vote> {
        let call = self.call_of(meta)?;
        let refusal = match self.recall(call, Some(began(meta)))? {
            Recalled::Refused(refused) => return Some(refused.vote()),
            Recalled::Committed(tx_id) => Refusal::new(Reason::AlreadyDone).with("tx_id", tx_id),
            // An operation used the same request id, so that was another call.
            Recalled::Reused | Recalled::Done(_) => Refusal::new(Reason::RequestIdReused),
        };
        Some((&refusal).into())
    }

    fn wait(
        &mut self,
        id: CallId,
        call: &Call<D>,
        row: Row,
        priority: Priority,
        waited: Option<&Waiter<D>>,
    ) {
        if waited.is_none() && self.waiters.len() >= self.limits.waiters {
            if let Call::Prepare { meta, .. } = call {
                return self.contended(id, meta.clone(), &row);
            }
            return self.answer(id, Answer::Overloaded);
        }
        let since: UnixMillis =
            waited.map_or_else(|| self.run.start.physical(), |waiter| waiter.since);
        self.park(id, Waiter { call: call.clone(), row, priority, since });
    }

    /// Votes CONTENDED and names the oldest transaction on the row. The vote is durable, as a
    /// fence.
    pub(super) fn contended(&mut self, id: CallId, meta: TxMeta, row: &[u8]) {
        let Some(blocker) = self.blocker_on(row).cloned() else {
            // The blocker is gone, so a new attempt can succeed.
            return self.answer(id, Answer::Vote(Vote::Fenced));
        };
        let vote = Vote::Contended { blocker: Box::new(blocker) };
        self.record(Event::Fenced { meta, vote: Some(vote.clone()) });
        self.answer(id, Answer::Vote(vote));
    }

    /// Carries out the table's decision on a Commit, Abort or Query. Returns the state of the
    /// branch, and the vote that it gave.
    fn conclude(
        &mut self,
        meta: &TxMeta,
        decision: Decision<D::Hold>,
        receipts: &[Receipt],
    ) -> (BranchState, Option<Vote>) {
        if let Some(event) = decision.event {
            let entry = self.table.get(meta.tx_id);
            if let (Event::Decided { committed, .. }, Some(hold)) =
                (&event, entry.and_then(|entry| entry.hold.clone()))
            {
                let (domain, mut rows) = self.rows();
                if *committed {
                    domain.commit(meta.tx_id, &hold, receipts, &mut rows);
                } else {
                    domain.abort(&hold, &mut rows);
                }
                self.take_changes();
            }
            if matches!(&event, Event::Decided { committed: true, .. })
                && let Some(prepared) = self.table.get(meta.tx_id).map(|entry| entry.meta.clone())
            {
                self.remember_commit(&prepared);
            }
            self.record(event);
            self.wake_transaction(meta.tx_id);
        }
        let vote = self.table.get(meta.tx_id).and_then(|entry| entry.vote.clone());
        (decision.state, vote)
    }

    /// Marks the rows that the domain changed, as their waiters may go on now.
    fn take_changes(&mut self) {
        let changed = std::mem::take(&mut self.run.changed);
        self.rows_to_recheck.extend(changed);
    }
}

/// Timestamp at which the transaction's first attempt read.
const fn began(meta: &TxMeta) -> Timestamp {
    Timestamp(meta.priority.begin_ts)
}
