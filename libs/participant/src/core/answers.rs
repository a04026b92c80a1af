//! Remembers the outcome of calls under their request ids, so that no attempt of a call contradicts
//! another.
//!
//! Operations and transactions follow one rule. A success is remembered under the request id, and
//! every later attempt gets the first answer. A refusal is remembered under the id of this one
//! call: attempts that are still under way are refused too, while a later call under the client's
//! own id is judged anew. A transaction's outcome is remembered at its primary, where it becomes
//! true.
//!
//! Outcomes under a client's own id are separate records. They are read when the id arrives, and
//! stay in memory only as long as their image, which is dropped once the record is written. So
//! client ids take memory only briefly, however many there are, and a start reads only those that
//! the records do not show. Minted ids are repeated only by processes of the shop, and soon, so
//! their outcomes stay in the journal and in memory until the call is over.

use bytes::Bytes;
use prost::Message;
use proto::{InvalidField, convert, participant::v1::Vote as WireVote};
use storage::{
    KvError, codec,
    keys::{Kind, record_key},
    record::{RequestAnswer, request_answer::Outcome},
    tx_meta,
};
use types::{
    CALL_AHEAD_MAX_MS, CALL_LIFE_MAX_MS, ClientCall, Mutation, Reason, Refusal, RequestId,
    Timestamp, TxId, TxMeta, UnixMillis, Vote,
};

use super::{Answer, Core, Domain, rows::RECORD_BYTES};
use crate::records::Row;

/// The remembered outcome of a call under a request id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remembered {
    pub(super) fingerprint: u64,
    outcome: RememberedOutcome,
    pub(super) keep_until: UnixMillis,
    /// Number of the last journal entry that states this.
    pub(super) last_seq: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum RememberedOutcome {
    /// An operation succeeded: its reply as the domain encodes it.
    Done(Bytes),
    /// A transaction has committed.
    Committed(TxId),
    /// An encoded vote. With a timestamp, the refusal binds only attempts that began at or before
    /// it.
    Refused(Bytes, Option<Timestamp>),
}

/// The outcome of an earlier attempt, which decides the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Recalled {
    /// The reply of the operation that succeeded.
    Done(Bytes),
    /// The transaction that has committed.
    Committed(TxId),
    /// The refusal.
    Refused(Refused),
    /// The id was already used for another call.
    Reused,
}

/// A NO. Its reason need not be one of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused(Vote);

impl Refused {
    /// Wraps a NO.
    pub(super) const fn new(vote: Vote) -> Self {
        Self(vote)
    }

    /// The refusal as a vote.
    pub(super) fn vote(self) -> Vote {
        self.0
    }

    /// The refusal as an answer to a Refuse. If its reason is not one of ours, it is passed on
    /// unchanged as a vote.
    pub(super) fn answer<R>(self) -> Answer<R> {
        match &self.0 {
            Vote::No { reason, .. } if Reason::parse(reason).is_none() => Answer::Vote(self.0),
            Vote::No { .. } | Vote::Yes { .. } | Vote::Contended { .. } | Vote::Fenced => {
                Answer::Refused(self.refusal())
            }
        }
    }

    /// The refusal as an answer to an operation. A reason that is not ours becomes INTERNAL.
    pub(super) fn refusal(self) -> Refusal {
        match self.0 {
            Vote::No { reason, metadata } => {
                Refusal { reason: Reason::parse(&reason).unwrap_or(Reason::Internal), metadata }
            }
            Vote::Yes { .. } | Vote::Contended { .. } | Vote::Fenced => {
                Refusal::new(Reason::Internal)
            }
        }
    }
}

impl<D: Domain> Core<D> {
    /// The outcome of another attempt of this call, if it binds this one. `began` is when the
    /// current attempt began, if known.
    pub(super) fn recall(
        &mut self,
        call: &ClientCall,
        began: Option<Timestamp>,
    ) -> Option<Recalled> {
        let began = call.began.or(began);
        if let Some(known) = self.known(&call.id) {
            if known.fingerprint != call.fingerprint {
                return Some(Recalled::Reused);
            }
            match &known.outcome {
                RememberedOutcome::Done(reply) => return Some(Recalled::Done(reply.clone())),
                RememberedOutcome::Committed(tx_id) => return Some(Recalled::Committed(*tx_id)),
                RememberedOutcome::Refused(vote, until) if binds(*until, began) => {
                    return Some(refused(vote));
                }
                RememberedOutcome::Refused(..) => {}
            }
        }
        match &self.known(call.call_id.as_ref()?)?.outcome {
            RememberedOutcome::Refused(vote, None) => Some(refused(vote)),
            // The id of a single call holds no other outcome.
            RememberedOutcome::Refused(..)
            | RememberedOutcome::Done(_)
            | RememberedOutcome::Committed(_) => None,
        }
    }

    /// Rows that hold the outcomes of this call's attempts.
    pub(super) fn answer_rows(call: &ClientCall) -> impl Iterator<Item = Row> {
        let ids = std::iter::once(&call.id).chain(&call.call_id);
        ids.filter(|id| !id.is_minted()).map(answer_row)
    }

    /// Loads a row of answers, as of the batch's start timestamp.
    pub(super) fn load_answer(&mut self, row: Row, value: Option<&[u8]>) -> Result<(), KvError> {
        let known = match value {
            None => None,
            Some(value) => {
                let answer = codec::decode(&row, value)?;
                let known = Remembered::decode(&answer, 0);
                Some(known.map_err(|error| codec::corrupt(&self.space.key(&row), &error))?)
            }
        };
        self.loaded_answers.insert(row, known);
        Ok(())
    }

    /// The unexpired outcome under an id, including what this batch has remembered. If it is not in
    /// memory, the batch is void and begins again once the row is loaded.
    fn known(&mut self, id: &RequestId) -> Option<Remembered> {
        let known = if id.is_minted() {
            self.answers.get(id)
        } else {
            let row = answer_row(id);
            let told = self.run.told.get(&row).or_else(|| self.answers.get(id));
            told.or_else(|| {
                let loaded = self.loaded_answers.get(&row);
                if loaded.is_none() {
                    self.run.missing.insert(row);
                }
                loaded.and_then(Option::as_ref)
            })
        };
        known.filter(|known| self.run.start.physical() <= known.keep_until).cloned()
    }

    /// Remembers the reply of an operation.
    pub(super) fn remember_reply(&mut self, call: &ClientCall, reply: &D::Reply) {
        let reply = self.domain.encode_reply(reply).into();
        self.remember(call, &call.id, RememberedOutcome::Done(reply));
    }

    /// Remembers a refusal. It binds attempts that are still under way: those of this call, and
    /// those of earlier calls under the client's own id.
    pub(super) fn remember_refusal(&mut self, call: &ClientCall, refusal: &Vote) {
        // Nobody waits for an ended call, and no attempt of it takes effect any more.
        if call.is_over(self.run.start.physical()) || Mutation::RefusalForgotten.is_on() {
            return;
        }
        let vote = encode_vote(Some(refusal));
        if let Some(id) = call.own_id() {
            self.remember(call, id, RememberedOutcome::Refused(vote.clone(), None));
        }
        if !call.id.is_minted() {
            let until = Some(self.run.start);
            self.remember(call, &call.id, RememberedOutcome::Refused(vote, until));
        }
    }

    /// Remembers at the primary that a transaction has committed.
    pub(super) fn remember_commit(&mut self, meta: &TxMeta) {
        if let Some(call) = &meta.call
            && meta.is_primary(self.table.branch())
            && !Mutation::SuccessForgotten.is_on()
        {
            self.remember(call, &call.id, RememberedOutcome::Committed(meta.tx_id));
        }
    }

    fn remember(&mut self, call: &ClientCall, id: &RequestId, outcome: RememberedOutcome) {
        let start = self.run.start.physical();
        if matches!(outcome, RememberedOutcome::Refused(..))
            && self
                .known(id)
                .is_some_and(|known| !matches!(known.outcome, RememberedOutcome::Refused(..)))
        {
            // A success is final: every later attempt gets it.
            return;
        }
        // Calls with a later end are refused, so no attempt that has arrived by now takes effect
        // after this.
        let latest = start.plus_ms(CALL_AHEAD_MAX_MS);
        let keep_until = match outcome {
            _ if id.is_minted() => {
                call.not_after.unwrap_or(start.plus_ms(CALL_LIFE_MAX_MS)).min(latest)
            }
            RememberedOutcome::Refused(..) => latest,
            RememberedOutcome::Done(_) | RememberedOutcome::Committed(_) => {
                latest.max(start.plus_ms(self.limits.retention_ms))
            }
        };
        let last_seq = self.run.seq;
        self.store_answer(
            id,
            Remembered { fingerprint: call.fingerprint, outcome, keep_until, last_seq },
        );
    }

    /// Adds an answer to the state and to the batch.
    fn store_answer(&mut self, id: &RequestId, known: Remembered) {
        if !id.is_minted() {
            // Release 0.1 kept such answers in the journal.
            self.answers.remove(id);
            let row = answer_row(id);
            self.run.bytes += row.len() + known.encode(None).encoded_len() + RECORD_BYTES;
            self.run.told.insert(row, known);
            return;
        }
        let answer = known.encode(Some(id));
        self.run.bytes += answer.encoded_len() + 4;
        self.answers.insert(id.clone(), known);
        if !Mutation::RequestIdApart.is_on() {
            self.run.requests.push(answer);
        }
    }

    /// The rows of answers that the current batch writes.
    pub(super) fn told_rows(&self) -> impl Iterator<Item = (Row, Option<storage::Value>)> {
        let told = self.run.told.iter().filter(|_| !Mutation::RequestIdApart.is_on());
        told.map(|(row, known)| (row.clone(), Some(codec::encode(&known.encode(None)))))
    }

    /// Drops what is known of a row that another writer changed. Returns false if it is not a row
    /// of answers.
    pub(super) fn forget_answer(&mut self, row: &[u8]) -> bool {
        let Some(id) = id_in(row) else { return false };
        self.loaded_answers.remove(row);
        self.answers.remove(&id);
        true
    }

    /// Takes an answer from an earlier entry into the state.
    pub(super) fn take_answer(
        &mut self,
        answer: &RequestAnswer,
        seq: u64,
    ) -> Result<(), InvalidField> {
        if let Some(id) = id_of(answer)? {
            self.answers.insert(id, Remembered::decode(answer, seq)?);
        }
        Ok(())
    }

    /// Repeats the answer under an id in the current batch, so that an older entry can be trimmed.
    pub(super) fn carry_answer(&mut self, id: &RequestId) {
        if let Some(known) = self.answers.get(id).cloned() {
            self.store_answer(id, Remembered { last_seq: self.run.seq, ..known });
        }
    }
}

impl Remembered {
    /// Encodes the answer; `id` is left out where the record's key contains it.
    fn encode(&self, id: Option<&RequestId>) -> RequestAnswer {
        let (outcome, reply, told_ts) = match &self.outcome {
            RememberedOutcome::Done(reply) => (Outcome::Unspecified, reply.clone(), 0),
            RememberedOutcome::Committed(tx_id) => (Outcome::Committed, tx_id.0.to_vec().into(), 0),
            RememberedOutcome::Refused(vote, None) => (Outcome::Refused, vote.clone(), 0),
            RememberedOutcome::Refused(vote, Some(until)) => {
                (Outcome::RefusedUntil, vote.clone(), until.0)
            }
        };
        let (request_id, minted_id) = id.map(tx_meta::encode_id).unwrap_or_default();
        RequestAnswer {
            request_id,
            minted_id,
            call: self.fingerprint,
            reply,
            keep_until_ms: self.keep_until.0,
            outcome: outcome.into(),
            told_ts,
        }
    }

    fn decode(answer: &RequestAnswer, seq: u64) -> Result<Self, InvalidField> {
        let outcome = match Outcome::try_from(answer.outcome) {
            Ok(Outcome::Unspecified) => RememberedOutcome::Done(answer.reply.clone()),
            Ok(Outcome::Committed) => RememberedOutcome::Committed(convert::tx_id(&answer.reply)?),
            Ok(Outcome::Refused) => RememberedOutcome::Refused(answer.reply.clone(), None),
            Ok(Outcome::RefusedUntil) => {
                RememberedOutcome::Refused(answer.reply.clone(), Some(Timestamp(answer.told_ts)))
            }
            Err(error) => return Err(InvalidField::new("outcome", error)),
        };
        Ok(Self {
            fingerprint: answer.call,
            outcome,
            keep_until: UnixMillis(answer.keep_until_ms),
            last_seq: seq,
        })
    }
}

/// The row that holds the outcomes under a client's own id.
fn answer_row(id: &RequestId) -> Row {
    record_key(Kind::Answer, id.as_str().as_bytes())
}

/// The client's own id whose outcomes a row holds. `None` for other kinds of rows.
pub(super) fn id_in(row: &[u8]) -> Option<RequestId> {
    let id = row.strip_prefix(&[Kind::Answer.byte()])?;
    RequestId::new(std::str::from_utf8(id).ok()?).ok()
}

/// The id under which an answer in the journal is remembered.
pub(super) fn id_of(answer: &RequestAnswer) -> Result<Option<RequestId>, InvalidField> {
    tx_meta::decode_id(&answer.request_id, &answer.minted_id)
        .map_err(|error| InvalidField::new("request_id", error))
}

/// Whether a refusal binds an attempt. An attempt that began at or before `until` began before its
/// client learned of the refusal: answers go out once their batch is durable, and a later call
/// under the client's own id begins at a later timestamp.
fn binds(until: Option<Timestamp>, began: Option<Timestamp>) -> bool {
    until.is_none_or(|until| began.is_some_and(|began| began <= until))
}

fn refused(vote: &[u8]) -> Recalled {
    // A newer release wrote a vote that does not decode. It is a refusal nevertheless.
    let vote = decode_vote(vote).ok().flatten().filter(|vote| matches!(vote, Vote::No { .. }));
    Recalled::Refused(Refused(vote.unwrap_or_else(|| (&Refusal::new(Reason::Internal)).into())))
}

pub(super) fn encode_vote(vote: Option<&Vote>) -> Bytes {
    vote.map(|vote| WireVote::from(vote).encode_to_vec()).unwrap_or_default().into()
}

pub(super) fn decode_vote(bytes: &[u8]) -> Result<Option<Vote>, InvalidField> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let vote: WireVote = convert::message("vote", bytes)?;
    convert::vote(Some(&vote)).map(Some)
}
