//! The attempts of one call: transactions begin, one after the other, until one has a definite
//! result.
//!
//! All attempts of a call share one priority, one request id and one end. The end is a time by the
//! store's clock, fixed before the first Prepare; no branch votes after it.

use std::time::Duration;

use bytes::Bytes;
use proto::{
    convert,
    encoded::Encoded,
    participant::v1::{
        RefuseResponse, operation::Operation as Op, operation_result::Result as OpResult,
        refuse_response, vote::No,
    },
};
use rpc::retry::Backoff;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Code;
use twopc::message::{Outcome, Refused};
use types::{
    Branch, CALL_AHEAD_MAX_MS, CALL_LIFE_MAX_MS, ClientCall, Mutation, Priority, Reason, Refusal,
    Timestamp, TxId, TxMeta, UnixMillis,
};

use crate::{
    error::{CheckoutError, refused},
    participant_client::SendError,
    state::Coordinator,
    tx_log::AttemptInfo,
};

/// Shortest and longest pause before a call is tried again.
pub(crate) const AGAIN: (Duration, Duration) =
    (Duration::from_millis(2), Duration::from_millis(200));

/// Upper bound on the time from a vote's deadline until a vote without an outcome is resolved, if a
/// coordinator and the store are up.
const RESOLVED_AFTER: Duration = Duration::from_millis(1_500);

/// The result of one attempt.
pub(crate) enum Attempted {
    /// Everything happened, by this transaction or by an earlier one of the same call.
    Committed(TxId),
    /// A branch refused, so nothing happens.
    Refused(Refusals),
    /// Nothing definite. Wait for these transactions, if any, before the next attempt.
    Again(Vec<TxMeta>),
}

/// Why a transaction was refused.
pub(crate) struct Refusals {
    /// The NO votes that arrived, in the order of the branches.
    pub(crate) votes: Vec<Refused>,
    /// True if the primary remembers that the call is refused.
    stands: bool,
}

/// A primary's answer when it is asked to remember a refusal.
pub(crate) enum Noted {
    /// The call has already succeeded, by this transaction.
    Committed(TxId),
    /// The call stays refused, for this reason or an earlier one.
    Refused(No),
    /// The primary does not remember refusals.
    Nothing,
}

/// The attempts of one call.
pub(crate) struct Attempts<'a> {
    coordinator: &'a Coordinator,
    call: ClientCall,
    info: AttemptInfo,
    /// When the caller stops listening.
    until: Instant,
    /// When this coordinator's attempts end, by the store's clock: at the call's own end, or, if
    /// its caller set none, when the caller stops listening. In the latter case others may attempt
    /// the same call later.
    end: Option<UnixMillis>,
    priority: Option<Priority>,
    backoff: Backoff,
}

impl<'a> Attempts<'a> {
    /// Makes no attempt yet. All attempts end within `time`.
    pub(crate) fn new(
        coordinator: &'a Coordinator,
        call: ClientCall,
        info: AttemptInfo,
        time: Duration,
    ) -> Self {
        let backoff = Backoff::new(coordinator.entropy(), AGAIN.0, AGAIN.1);
        let (until, end) = (Instant::now() + time, call.not_after);
        Self { coordinator, call, info, until, end, priority: None, backoff }
    }

    /// When the caller stops listening.
    pub(crate) const fn until(&self) -> Instant {
        self.until
    }

    /// Checks that the call may still take effect, by a timestamp that was read for this attempt.
    /// If the call has no end, the first attempt fixes one.
    ///
    /// # Errors
    /// [`CheckoutError::Unavailable`] past the end; INVALID_ARGUMENT if the end is too far ahead.
    pub(crate) fn admit(&mut self, read: Timestamp) -> Result<(), CheckoutError> {
        let now = read.physical();
        let left = self.until.saturating_duration_since(Instant::now());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(CALL_LIFE_MAX_MS);
        let fixed = || now.plus_ms(left_ms.min(CALL_LIFE_MAX_MS));
        let end = *self.end.get_or_insert_with(fixed);
        if now >= end && Mutation::EndIgnored.is_on() {
            self.end = Some(now.plus_ms(CALL_LIFE_MAX_MS));
        } else if now >= end {
            // Every attempt so far ended without effect.
            return Err(CheckoutError::Unavailable);
        }
        if now.plus_ms(CALL_AHEAD_MAX_MS) < end {
            let refusal = Refusal::new(Reason::InvalidArgument);
            return Err(refusal
                .with(rpc::call::NOT_AFTER, "must be at most two minutes ahead")
                .into());
        }
        Ok(())
    }

    /// Runs one transaction, begun at an [admitted](Self::admit) timestamp.
    ///
    /// # Errors
    /// [`CheckoutError::OutcomeUnknown`] if the caller stops listening first; the transaction goes
    /// on.
    pub(crate) async fn run(
        &mut self,
        began: Timestamp,
        branches: impl Into<std::sync::Arc<[Branch]>>,
        payloads: Vec<Bytes>,
    ) -> Result<Attempted, CheckoutError> {
        let coordinator = self.coordinator;
        // A retry keeps the priority of the first attempt.
        let priority = *self.priority.get_or_insert_with(|| Priority {
            begin_ts: began.0,
            nonce: coordinator.entropy().next_u64(),
        });
        let window_ms = coordinator.vote_window().get();
        let window_ends = began.physical().plus_ms(window_ms);
        let meta = TxMeta {
            tx_id: coordinator.new_tx_id(),
            priority,
            deadline: self.end.map_or(window_ends, |end| end.min(window_ends)),
            branches: branches.into(),
            call: Some(self.call.clone()),
        };
        let tx_id = meta.tx_id;
        self.info.attempt += 1;
        tracing::debug!(tx = %tx_id, order_id = ?self.info.order_id, "begin");
        let begun = Instant::now();
        let window = Duration::from_millis(meta.deadline.since(began.physical()));
        let answer = coordinator.begin(meta, payloads, self.info.clone(), window);
        let Ok(Ok(answer)) = timeout_at(self.until, answer).await else {
            return Err(CheckoutError::OutcomeUnknown);
        };
        let took = begun.elapsed();
        let ended = answer.map_err(|_| CheckoutError::Broken(tx_id))?;
        let (outcome, stands) = (ended.outcome, ended.refusal_stands);
        if matches!(outcome, Outcome::Fenced) && took >= Duration::from_millis(window_ms) {
            coordinator.vote_window().missed();
        } else {
            coordinator.vote_window().kept(took);
        }
        Ok(match outcome {
            Outcome::Committed => Attempted::Committed(tx_id),
            Outcome::Refused(votes) => match done_before(&votes) {
                Some(tx_id) => Attempted::Committed(tx_id),
                None => Attempted::Refused(Refusals { votes, stands }),
            },
            Outcome::Contended(blockers) => Attempted::Again(blockers),
            Outcome::Fenced | Outcome::Undecided(_) => Attempted::Again(Vec::new()),
        })
    }

    /// Ends a refused call: returns the first refusal as the error, or the transaction by which
    /// another attempt has succeeded meanwhile. Usually the Abort has told the primary of the
    /// refusal. If not, because the primary itself refused or another attempt was in the way, this
    /// does.
    ///
    /// # Errors
    /// The refusal; [`CheckoutError::Unavailable`] if there is none; otherwise as
    /// [`Self::note_refusal`].
    pub(crate) async fn refuse(
        &self,
        primary: &Branch,
        began: Timestamp,
        refusals: Refusals,
    ) -> Result<TxId, CheckoutError> {
        let Some(first) = refusals.votes.into_iter().next() else {
            return Err(CheckoutError::Unavailable);
        };
        let Refused { reason, metadata, .. } = first;
        if !refusals.stands {
            let no = No { reason: reason.clone(), metadata: metadata.clone() };
            match self.note_refusal(primary, began, no).await? {
                Noted::Committed(tx_id) => return Ok(tx_id),
                Noted::Refused(no) => return Err(refused(no.reason, no.metadata)),
                Noted::Nothing => {}
            }
        }
        Err(refused(reason, metadata))
    }

    /// Makes the primary remember that the call is refused, if no Abort has told it. Returns what
    /// the primary knows of the call.
    ///
    /// # Errors
    /// [`CheckoutError::OutcomeUnknown`] if the caller stops listening first, because a refusal is
    /// certain only once it is durable; [`CheckoutError::Unavailable`] if the shard no longer
    /// exists.
    pub(crate) async fn note_refusal(
        &self,
        primary: &Branch,
        began: Timestamp,
        refusal: No,
    ) -> Result<Noted, CheckoutError> {
        let refuse = convert::refuse_request(primary, &self.call, began, refusal);
        let refuse = Encoded::from(Op::Refuse(refuse));
        let mut backoff = Backoff::new(self.coordinator.entropy(), AGAIN.0, AGAIN.1);
        let asked = async {
            loop {
                match self.coordinator.participants().send(primary, refuse.clone(), false).await {
                    Ok(OpResult::Refuse(response)) => return noted(response),
                    Err(SendError::Refused { code, .. }) if code == Code::Unimplemented as i32 => {
                        return Ok(Noted::Nothing);
                    }
                    // The service does not have this shard: its number of shards has changed.
                    Err(SendError::Refused { code, .. })
                        if code == Code::InvalidArgument as i32 =>
                    {
                        self.coordinator.participants().forget_descriptions();
                        return Err(CheckoutError::Unavailable);
                    }
                    Ok(other) => tracing::debug!(?other, "a refusal was not noted"),
                    Err(error) => tracing::debug!(%error, "a refusal could not be noted yet"),
                }
                sleep(backoff.pause()).await;
            }
        };
        timeout_at(self.until, asked).await.map_err(|_| CheckoutError::OutcomeUnknown)?
    }

    /// Waits for the blockers, if any, and then for the back-off, before another attempt.
    ///
    /// # Errors
    /// [`CheckoutError::Unavailable`] if the caller's time is over; every attempt ended without
    /// effect.
    pub(crate) async fn pause(
        &mut self,
        kind: &'static str,
        blockers: &[TxMeta],
    ) -> Result<(), CheckoutError> {
        let why = if blockers.is_empty() { "changed" } else { "contended" };
        telemetry::metrics().retries.one([kind, why]);
        let waits = async {
            for blocker in blockers {
                self.coordinator.wait_for(blocker).await;
            }
        };
        // If time runs out here, no transaction of this call is under way.
        let _late = timeout_at(self.until, waits).await;
        sleep(self.backoff.pause()).await;
        if Instant::now() >= self.until { Err(CheckoutError::Unavailable) } else { Ok(()) }
    }

    /// Waits until the holds of an earlier attempt have been released. That attempt ended without
    /// an answer at `unanswered`.
    pub(crate) async fn settle(&self, unanswered: Option<UnixMillis>) {
        let Some(unanswered) = unanswered else { return };
        let window_ends = unanswered.plus_ms(self.coordinator.vote_window().get());
        let deadline = self.call.not_after.map_or(window_ends, |end| end.min(window_ends));
        let Some(now) = self.coordinator.store_time().now() else { return };
        let settled = Duration::from_millis(deadline.since(now)) + RESOLVED_AFTER;
        tokio::time::sleep_until(self.until.min(Instant::now() + settled)).await;
    }
}

fn noted(response: RefuseResponse) -> Result<Noted, CheckoutError> {
    Ok(match response.outcome {
        Some(refuse_response::Outcome::Committed(tx_id)) => {
            Noted::Committed(TxId::from_slice(&tx_id).map_err(|_| Refusal::new(Reason::Internal))?)
        }
        Some(refuse_response::Outcome::Refusal(no)) => Noted::Refused(no),
        None => Noted::Nothing,
    })
}

/// The transaction by which an earlier attempt of the call succeeded, if the primary says so.
fn done_before(refused: &[Refused]) -> Option<TxId> {
    // Only the primary, which is the first branch, knows this.
    let done = |refused: &&Refused| {
        refused.index == 0 && Reason::parse(&refused.reason) == Some(Reason::AlreadyDone)
    };
    refused.iter().find(done)?.metadata.get("tx_id")?.parse().ok()
}
