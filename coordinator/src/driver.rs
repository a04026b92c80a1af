//! Drives one `twopc` machine: sends each message until it is answered, and feeds the answers back.
//! The transaction runs to its end even if its listener is gone.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use proto::{
    InvalidField, convert,
    encoded::{Encoded, Operations},
    participant::v1::{operation_result::Result as OpResult, vote::No},
};
use rpc::retry::Backoff;
use telemetry::{semconv, trace};
use tokio::{sync::oneshot, time::Instant};
use tracing::Instrument as _;
use twopc::{
    coordinator::Transaction,
    message::{BranchIndex, Input, Message, MessageId, Outcome, Output, PRIMARY, Reply, Violation},
};
use types::{Branch, Entropy, Reason, TxMeta, Vote};

use crate::{
    participant_client::{ParticipantClient, SendError},
    tx_log::{LogEntryHandle, LogStep},
};

/// Shortest and longest pause before a message is sent again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// The result for a listener: how the transaction ended, or the violation that stopped it.
pub type DriverResult = Result<Ended, Violation>;

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The outcome.
    pub outcome: Outcome,
    /// True if the primary remembers that the call is refused, so that no other attempt of it takes
    /// effect.
    pub refusal_stands: bool,
}

/// A branch's reply, and whether the primary remembers the refusal that came with the message.
type Heard = (Reply, bool);

/// A message under way, including its retries.
type PendingSend = Pin<Box<dyn Future<Output = Heard> + Send>>;

/// Drives a transaction to its end.
pub struct Driver {
    participants: ParticipantClient,
    entropy: Arc<dyn Entropy>,
    meta: TxMeta,
    operations: Operations,
    /// The payload of each branch; empty for a resolution, which sends no Prepare.
    payloads: Vec<Bytes>,
    /// The message under way to each branch.
    pending: Vec<Option<(MessageId, PendingSend)>>,
    listener: Option<oneshot::Sender<DriverResult>>,
    /// The first business NO from a branch other than the primary. It goes to the primary with the
    /// abort, because no other attempt of the call may succeed once the client was refused.
    refusal: Option<No>,
    refusal_stands: bool,
    log_entry: LogEntryHandle,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Driver {
    /// Makes a driver for this transaction, and the receiver of its result.
    pub fn new(
        participants: ParticipantClient,
        entropy: Arc<dyn Entropy>,
        meta: TxMeta,
        payloads: Vec<Bytes>,
        log_entry: LogEntryHandle,
    ) -> (Self, oneshot::Receiver<DriverResult>) {
        let (listener, answer) = oneshot::channel();
        let pending = meta.branches.iter().map(|_| None).collect();
        let operations = Operations::new(&meta);
        let listener = Some(listener);
        let driver = Self {
            participants,
            entropy,
            meta,
            operations,
            payloads,
            pending,
            listener,
            refusal: None,
            refusal_stands: false,
            log_entry,
        };
        (driver, answer)
    }

    /// Runs a new transaction, whose branches must vote within `window` from now.
    pub async fn begin(mut self, window: Duration) {
        let mut outputs = Vec::new();
        let machine = Transaction::begin(&self.meta, &mut outputs);
        self.drive(machine, outputs, Some(Instant::now() + window)).await;
    }

    /// Finds the outcome of a transaction. `may_fence` means that its deadline has passed by the
    /// store's clock.
    pub async fn resolve(mut self, may_fence: bool) {
        let mut outputs = Vec::new();
        let machine = Transaction::resolve(&self.meta, may_fence, &mut outputs);
        self.drive(machine, outputs, None).await;
    }

    async fn drive(
        &mut self,
        mut machine: Transaction,
        mut outputs: Vec<Output>,
        mut deadline: Option<Instant>,
    ) {
        loop {
            for output in outputs.drain(..) {
                self.carry_out(output);
            }
            if machine.is_finished() {
                return;
            }
            if !machine.awaits_votes() {
                deadline = None;
            }
            let input = tokio::select! {
                biased;
                (input, refusal_stands) = next_reply(&mut self.pending) => {
                    self.refusal_stands |= refusal_stands;
                    input
                }
                () = sleep_until(deadline) => {
                    deadline = None;
                    Input::DeadlinePassed
                }
            };
            self.hear(&input);
            machine.step(input, &mut outputs);
        }
    }

    /// Keeps a refusal for the primary, unless the call is retried after it.
    fn hear(&mut self, input: &Input) {
        let Input::Reply { index, reply, .. } = input else { return };
        self.log_entry.step(*index, || LogStep::heard(reply));
        if let Reply::Vote(Vote::No { reason, metadata })
        | Reply::State(_, Some(Vote::No { reason, metadata })) = reply
            && *index != PRIMARY
            && !is_outdated(reason)
        {
            let no = No { reason: reason.clone(), metadata: metadata.clone() };
            self.refusal.get_or_insert(no);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { index, message_id, message } => {
                self.log_entry.step(index, || LogStep::sent(&message));
                let send = self.send(index, message);
                if let Some(place) = self.pending.get_mut(index) {
                    *place = send.map(|send| (message_id, send));
                }
            }
            Output::Answer(outcome) => {
                let origin = if self.payloads.is_empty() { "resolved" } else { "begun" };
                telemetry::metrics().transactions.one([outcome_label(&outcome), origin]);
                tracing::Span::current().record(semconv::TX_OUTCOME, outcome_label(&outcome));
                self.log_entry.step(PRIMARY, || LogStep::answered(&outcome));
                self.answer(Ok(Ended { outcome, refusal_stands: self.refusal_stands }));
            }
            Output::Violation(violation) => {
                tracing::error!(tx = %self.meta.tx_id, %violation, "the protocol was broken");
                self.log_entry.step(PRIMARY, || LogStep::Broken(violation.to_string()));
                self.answer(Err(violation));
            }
            Output::Finished => {}
        }
    }

    fn answer(&mut self, answer: DriverResult) {
        if let Some(listener) = self.listener.take() {
            // The listener may be gone; the transaction goes on.
            let _gone = listener.send(answer);
        }
    }

    /// Sends a message repeatedly until it is answered.
    fn send(&self, index: BranchIndex, message: Message) -> Option<PendingSend> {
        let branch = self.meta.branches.get(index)?.clone();
        let patient = match &message {
            Message::Commit { .. } => index != PRIMARY,
            Message::Forget => true,
            Message::Prepare | Message::Abort { .. } | Message::Query { .. } => false,
        };
        let span = trace::below(|| {
            tracing::debug_span!(
                target: trace::TARGET,
                "message",
                otel.name = label(&message),
                { semconv::TX_PHASE } = label(&message),
                { semconv::BRANCH } = %branch,
            )
        });
        let operation = self.operation(index, message)?;
        let participants = self.participants.clone();
        let tx_id = self.meta.tx_id;
        let log_entry = self.log_entry.clone();
        let mut backoff = Backoff::new(Arc::clone(&self.entropy), AGAIN.0, AGAIN.1);
        let send = async move {
            loop {
                match attempt(&participants, &branch, &operation, patient, (&log_entry, index))
                    .await
                {
                    Ok(reply) => return reply,
                    Err(error) => {
                        tracing::debug!(tx = %tx_id, %branch, %error, "message will be sent again");
                        telemetry::metrics().retries.one(["message", error.label()]);
                        log_entry.step(index, || LogStep::Again(error.to_string()));
                    }
                }
                tokio::time::sleep(backoff.pause()).await;
            }
        };
        Some(Box::pin(send.instrument(span)))
    }

    fn operation(&self, index: BranchIndex, message: Message) -> Option<Encoded> {
        match message {
            Message::Prepare => {
                let payload = self.payloads.get(index).cloned().unwrap_or_default();
                self.operations.prepare(index, payload)
            }
            Message::Commit { receipts } => self.operations.commit(index, receipts),
            Message::Abort { evidence } => {
                let refusal = self.refusal.clone().filter(|_| index == PRIMARY);
                self.operations.abort(index, evidence, refusal)
            }
            Message::Query { fence } => self.operations.query(index, fence),
            Message::Forget => self.operations.forget(index),
        }
    }
}

/// Whether a refusal means that the order, or the number of shards, has changed since it was read.
/// The order is then read again.
pub(crate) fn is_outdated(reason: &str) -> bool {
    matches!(
        Reason::parse(reason),
        Some(Reason::OrderChanged | Reason::AlreadyPaid | Reason::WrongShard)
    )
}

/// The metric label of an outcome.
const fn outcome_label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::Refused(_) => "refused",
        Outcome::Contended(_) => "contended",
        Outcome::Fenced => "fenced",
        Outcome::Undecided(_) => "undecided",
    }
}

/// The span name of a message.
const fn label(message: &Message) -> &'static str {
    match message {
        Message::Prepare => "prepare",
        Message::Commit { .. } => "commit",
        Message::Abort { .. } => "abort",
        Message::Query { .. } => "query",
        Message::Forget => "forget",
    }
}

/// Waits for the next reply of any branch.
async fn next_reply(pending: &mut [Option<(MessageId, PendingSend)>]) -> (Input, bool) {
    poll_fn(|context: &mut Context<'_>| {
        for (index, place) in pending.iter_mut().enumerate() {
            if let Some((message_id, send)) = place
                && let Poll::Ready((reply, refusal_stands)) = send.as_mut().poll(context)
            {
                let message_id = *message_id;
                *place = None;
                return Poll::Ready((Input::Reply { index, message_id, reply }, refusal_stands));
            }
        }
        Poll::Pending
    })
    .await
}

/// Sends a message once.
async fn attempt(
    participants: &ParticipantClient,
    branch: &Branch,
    operation: &Encoded,
    patient: bool,
    (log_entry, index): (&LogEntryHandle, BranchIndex),
) -> Result<Heard, SendError> {
    let mut result = participants.send(branch, operation.clone(), patient).await?;
    if let OpResult::Waiting(waiting) = &result {
        log_entry.step(index, || LogStep::waits(waiting));
        // Boxed, because this rare future is large and would make the future of every send as
        // large.
        result = Box::pin(participants.prepare_and_wait(branch, operation)).await?;
    }
    let refusal_stands = matches!(&result, OpResult::Abort(response) if response.refused);
    match reply_of(&result) {
        Ok(reply) => Ok((reply, refusal_stands)),
        Err(error) => Err(SendError::Refused { code: 13, message: error.to_string() }),
    }
}

fn reply_of(result: &OpResult) -> Result<Reply, InvalidField> {
    Ok(match result {
        OpResult::Prepare(response) => Reply::Vote(convert::vote(response.vote.as_ref())?),
        OpResult::Commit(response) => Reply::Acked(convert::branch_state(response.state)?),
        OpResult::Abort(response) => Reply::Acked(convert::branch_state(response.state)?),
        OpResult::Query(response) => {
            let vote = response.vote.as_ref().map(|vote| convert::vote(Some(vote))).transpose()?;
            Reply::State(convert::branch_state(response.state)?, vote)
        }
        OpResult::Forget(_) => Reply::Forgotten,
        OpResult::Read(_) | OpResult::Refuse(_) | OpResult::Waiting(_) | OpResult::Error(_) => {
            return Err(InvalidField::new("result", "does not answer the operation"));
        }
    })
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
