//! What each kind of call comes to on the state at hand.

use twopc::participant::{Decision, Event, Gate};
use types::{BranchState, Priority, Reason, Refusal, TxMeta, UnixMillis, Vote};

use super::{Answer, Call, CallId, Core, RequestKey, wait::Waiter};
use crate::domain::{Domain, Executed, Judged, Receipt, Row};

impl<D: Domain> Core<D> {
    pub(super) fn answer(&mut self, id: CallId, answer: Answer<D::Reply>) {
        self.run.answers.push((id, answer));
    }

    /// Answers a call or lets it wait. `waited` is the place it had in the queue, which it keeps.
    pub(super) fn decide(&mut self, id: CallId, call: &Call<D>, waited: Option<&Waiter<D>>) {
        self.run.change += 1;
        match call {
            Call::Op { op, request, may_wait } => {
                self.execute(id, call, op, request.as_ref(), *may_wait, waited);
            }
            Call::Prepare { meta, payload, may_wait } => {
                self.prepare(id, call, meta, payload, *may_wait, waited);
            }
            Call::Commit { meta, receipts } => {
                let decision = self.book.commit(meta);
                self.conclude(id, meta, decision, receipts);
            }
            Call::Abort { meta, evidence, refusal } => {
                let decision = self.book.abort(meta, *evidence);
                if let Some(refusal) = refusal
                    && decision.state == BranchState::Aborted
                {
                    self.note_refusal(meta, refusal);
                }
                self.conclude(id, meta, decision, &[]);
            }
            Call::Query { meta, fence } => {
                let decision = self.book.query(meta, *fence);
                self.conclude(id, meta, decision, &[]);
            }
            Call::Forget { tx_id } => {
                if let Some(event) = self.book.acknowledge(*tx_id) {
                    self.record(event);
                }
                self.answer(id, Answer::Forgotten);
            }
        }
    }

    fn execute(
        &mut self,
        id: CallId,
        call: &Call<D>,
        op: &D::Op,
        request: Option<&RequestKey>,
        may_wait: bool,
        waited: Option<&Waiter<D>>,
    ) {
        if let Some(answer) = request.and_then(|key| self.recall(key)) {
            return self.answer(id, answer);
        }
        let (domain, mut rows) = self.rows();
        let executed = domain.execute(op, &mut rows);
        match executed {
            Executed::Done(reply) => {
                self.take_changes();
                if let Some(key) = request {
                    self.remember_reply(key, &reply);
                }
                let start = self.run.start;
                self.answer(id, Answer::Done(reply, start));
            }
            Executed::Refused(refusal) => {
                if let Some(key) = request {
                    self.remember_refusal(key, &refusal);
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
        if let Gate::Shut(vote) = self.book.gate(meta, self.run.start) {
            return self.answer(id, Answer::Vote(vote));
        }
        if let Some(vote) = self.refused_since(meta) {
            self.record(Event::Fenced { meta: meta.clone(), vote: Some(vote.clone()) });
            return self.answer(id, Answer::Vote(vote));
        }
        let priority = meta.priority;
        if waited.is_none() {
            // Who is younger than a waiter gets neither its place nor the unit.
            let rows = self.domain.payload_rows(payload);
            if let Some(row) = rows.iter().find(|row| self.older_waits_on(row, priority)) {
                return self.contended(id, meta.clone(), row);
            }
        }
        let (domain, mut rows) = self.rows();
        match domain.prepare(payload, &mut rows) {
            Judged::Yes { hold, receipt } => {
                self.take_changes();
                self.record(Event::Prepared { meta: meta.clone(), hold, receipt: receipt.clone() });
                self.answer(id, Answer::Vote(Vote::Yes { receipt }));
            }
            Judged::No(refusal) => {
                let vote = Vote::No {
                    reason: refusal.reason.as_str().to_owned(),
                    metadata: refusal.metadata,
                };
                self.record(Event::Fenced { meta: meta.clone(), vote: Some(vote.clone()) });
                self.answer(id, Answer::Vote(vote));
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

    fn wait(
        &mut self,
        id: CallId,
        call: &Call<D>,
        row: Row,
        priority: Priority,
        waited: Option<&Waiter<D>>,
    ) {
        if waited.is_none() && self.waiters.len() >= self.limits.waiters {
            return match call {
                Call::Prepare { meta, .. } => self.contended(id, meta.clone(), &row),
                Call::Op { .. }
                | Call::Commit { .. }
                | Call::Abort { .. }
                | Call::Query { .. }
                | Call::Forget { .. } => self.answer(id, Answer::Overloaded),
            };
        }
        let since: UnixMillis =
            waited.map_or_else(|| self.run.start.physical(), |waiter| waiter.since);
        self.park(id, Waiter { call: call.clone(), row, priority, since });
    }

    /// Votes CONTENDED, naming the oldest transaction on the row; durable, as a fence.
    pub(super) fn contended(&mut self, id: CallId, meta: TxMeta, row: &[u8]) {
        let Some(blocker) = self.blocker_on(row).cloned() else {
            // Nobody is in the way any more: a new attempt finds its way.
            return self.answer(id, Answer::Vote(Vote::Fenced));
        };
        let vote = Vote::Contended { blocker: Box::new(blocker) };
        self.record(Event::Fenced { meta, vote: Some(vote.clone()) });
        self.answer(id, Answer::Vote(vote));
    }

    /// Carries out what the book decided about a Commit, Abort or Query.
    fn conclude(
        &mut self,
        id: CallId,
        meta: &TxMeta,
        decision: Decision<D::Hold>,
        receipts: &[Receipt],
    ) {
        if let Some(event) = decision.event {
            let entry = self.book.get(meta.tx_id);
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
            self.record(event);
            self.wake_transaction(meta.tx_id);
        }
        let vote = self.book.get(meta.tx_id).and_then(|entry| entry.vote.clone());
        self.answer(id, Answer::State(decision.state, vote));
    }

    /// Rows that the domain changed may serve whoever waits on them.
    fn take_changes(&mut self) {
        let changed = std::mem::take(&mut self.run.changed);
        self.improved.extend(changed);
    }

    /// What a request id was answered before.
    fn recall(&self, key: &RequestKey) -> Option<Answer<D::Reply>> {
        let known = self.requests.get(&key.id)?;
        if known.call == !key.call {
            return Some(Answer::Refused(Self::recall_refusal(known)));
        }
        if known.call != key.call {
            return Some(Answer::Refused(Refusal::new(Reason::RequestIdReused)));
        }
        // A reply that does not decode was written by a newer release: executed again it would take
        // effect twice.
        Some(match self.domain.decode_reply(&known.reply) {
            Ok(reply) => Answer::Done(reply, self.run.start),
            Err(_) => Answer::Refused(Refusal::new(Reason::Internal)),
        })
    }
}
