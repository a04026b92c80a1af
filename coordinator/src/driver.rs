//! Drives one machine of `twopc`: sends what it wants sent until it is answered, and feeds it the
//! answers. The transaction goes on until nothing is left to do, whoever listens.

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
    message::{Input, Message, Outcome, Output, PRIMARY, Reply, Seat, Serial, Violation},
};
use types::{Branch, Entropy, Reason, TxMeta, Vote};

use crate::{
    mail::{Mail, MailError},
    tx_log::{Trace, What},
};

/// Least and greatest pause before a message is sent again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// What came of a transaction, as far as its listener is concerned.
pub type Answer = Result<Ended, Violation>;

/// What a listener is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The outcome.
    pub outcome: Outcome,
    /// The primary remembers that the call is refused: no other attempt of it takes effect.
    pub refusal_stands: bool,
}

/// What a branch answers: the reply, and whether a refusal that came along is remembered.
type Heard = (Reply, bool);

/// A message on its way, with its retries.
type Errand = Pin<Box<dyn Future<Output = Heard> + Send>>;

/// Drives a transaction to its end.
pub struct Driver {
    mail: Mail,
    entropy: Arc<dyn Entropy>,
    meta: TxMeta,
    operations: Operations,
    /// The payload of each branch; empty when no Prepare will be sent.
    payloads: Vec<Bytes>,
    /// What is on its way to each branch.
    errands: Vec<Option<(Serial, Errand)>>,
    listener: Option<oneshot::Sender<Answer>>,
    /// A business NO that came in from elsewhere than the primary. The primary is told of it together with
    /// the abort, as no other attempt of the call must succeed after the client was refused.
    refusal: Option<No>,
    refusal_stands: bool,
    trace: Trace,
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Driver {
    /// A driver for this transaction, and where its answer arrives.
    pub fn new(
        mail: Mail,
        entropy: Arc<dyn Entropy>,
        meta: TxMeta,
        payloads: Vec<Bytes>,
        trace: Trace,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (listener, answer) = oneshot::channel();
        let errands = meta.branches.iter().map(|_| None).collect();
        let operations = Operations::new(&meta);
        let listener = Some(listener);
        let driver = Self {
            mail,
            entropy,
            meta,
            operations,
            payloads,
            errands,
            listener,
            refusal: None,
            refusal_stands: false,
            trace,
        };
        (driver, answer)
    }

    /// Runs a new transaction; its branches have until `window` from now to vote.
    pub async fn begin(mut self, window: Duration) {
        let mut outputs = Vec::new();
        let machine = Transaction::begin(&self.meta, &mut outputs);
        self.drive(machine, outputs, Some(Instant::now() + window)).await;
    }

    /// Finds out what became of a transaction. `may_fence` says that its deadline has passed by the
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
                (input, refusal_stands) = next_reply(&mut self.errands) => {
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

    /// Remembers a refusal, so that the primary can be told of it; but none after which the call is tried again.
    fn hear(&mut self, input: &Input) {
        let Input::Reply { seat, reply, .. } = input else { return };
        self.trace.step(*seat, || What::heard(reply));
        if let Reply::Vote(Vote::No { reason, metadata })
        | Reply::State(_, Some(Vote::No { reason, metadata })) = reply
            && *seat != PRIMARY
            && !is_outdated(reason)
        {
            let no = No { reason: reason.clone(), metadata: metadata.clone() };
            self.refusal.get_or_insert(no);
        }
    }

    fn carry_out(&mut self, output: Output) {
        match output {
            Output::Send { seat, serial, message } => {
                self.trace.step(seat, || What::sent(&message));
                let errand = self.errand(seat, message);
                if let Some(place) = self.errands.get_mut(seat) {
                    *place = errand.map(|errand| (serial, errand));
                }
            }
            Output::Answer(outcome) => {
                let origin = if self.payloads.is_empty() { "resolved" } else { "begun" };
                telemetry::metrics().transactions.one([outcome_label(&outcome), origin]);
                tracing::Span::current().record(semconv::TX_OUTCOME, outcome_label(&outcome));
                self.trace.step(PRIMARY, || What::answered(&outcome));
                self.answer(Ok(Ended { outcome, refusal_stands: self.refusal_stands }));
            }
            Output::Violation(violation) => {
                tracing::error!(tx = %self.meta.tx_id, %violation, "the protocol was broken");
                self.trace.step(PRIMARY, || What::Broken(violation.to_string()));
                self.answer(Err(violation));
            }
            Output::Finished => {}
        }
    }

    fn answer(&mut self, answer: Answer) {
        if let Some(listener) = self.listener.take() {
            // Nobody need be listening: the transaction goes on all the same.
            let _gone = listener.send(answer);
        }
    }

    /// A message that is sent until it is answered.
    fn errand(&self, seat: Seat, message: Message) -> Option<Errand> {
        let branch = self.meta.branches.get(seat)?.clone();
        let patient = match &message {
            Message::Commit { .. } => seat != PRIMARY,
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
        let operation = self.operation(seat, message)?;
        let mail = self.mail.clone();
        let tx_id = self.meta.tx_id;
        let trace = self.trace.clone();
        let mut backoff = Backoff::new(Arc::clone(&self.entropy), AGAIN.0, AGAIN.1);
        let errand = async move {
            loop {
                match attempt(&mail, &branch, &operation, patient, (&trace, seat)).await {
                    Ok(reply) => return reply,
                    Err(error) => {
                        tracing::debug!(tx = %tx_id, %branch, %error, "message will be sent again");
                        telemetry::metrics().retries.one(["message", error.label()]);
                        trace.step(seat, || What::Again(error.to_string()));
                    }
                }
                tokio::time::sleep(backoff.pause()).await;
            }
        };
        Some(Box::pin(errand.instrument(span)))
    }

    fn operation(&self, seat: Seat, message: Message) -> Option<Encoded> {
        match message {
            Message::Prepare => {
                let payload = self.payloads.get(seat).cloned().unwrap_or_default();
                self.operations.prepare(seat, payload)
            }
            Message::Commit { receipts } => self.operations.commit(seat, receipts),
            Message::Abort { evidence } => {
                let refusal = self.refusal.clone().filter(|_| seat == PRIMARY);
                self.operations.abort(seat, evidence, refusal)
            }
            Message::Query { fence } => self.operations.query(seat, fence),
            Message::Forget => self.operations.forget(seat),
        }
    }
}

/// Whether a refusal says that the order, or where something lies, is not as it was read: then it is read again.
pub(crate) fn is_outdated(reason: &str) -> bool {
    matches!(
        Reason::parse(reason),
        Some(Reason::OrderChanged | Reason::AlreadyPaid | Reason::WrongShard)
    )
}

/// An outcome, as a label.
const fn outcome_label(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Committed => "committed",
        Outcome::Refused(_) => "refused",
        Outcome::Contended(_) => "contended",
        Outcome::Fenced => "fenced",
        Outcome::Undecided(_) => "undecided",
    }
}

/// A message, as the name of a span.
const fn label(message: &Message) -> &'static str {
    match message {
        Message::Prepare => "prepare",
        Message::Commit { .. } => "commit",
        Message::Abort { .. } => "abort",
        Message::Query { .. } => "query",
        Message::Forget => "forget",
    }
}

/// Waits for the next answer of any branch.
async fn next_reply(errands: &mut [Option<(Serial, Errand)>]) -> (Input, bool) {
    poll_fn(|context: &mut Context<'_>| {
        for (seat, place) in errands.iter_mut().enumerate() {
            if let Some((serial, errand)) = place
                && let Poll::Ready((reply, refusal_stands)) = errand.as_mut().poll(context)
            {
                let serial = *serial;
                *place = None;
                return Poll::Ready((Input::Reply { seat, serial, reply }, refusal_stands));
            }
        }
        Poll::Pending
    })
    .await
}

/// Sends a message once.
async fn attempt(
    mail: &Mail,
    branch: &Branch,
    operation: &Encoded,
    patient: bool,
    (trace, seat): (&Trace, Seat),
) -> Result<Heard, MailError> {
    let mut result = mail.send(branch, operation.clone(), patient).await?;
    if let OpResult::Waiting(waiting) = &result {
        trace.step(seat, || What::waits(waiting));
        // Rare, and large: it must not make every errand as large.
        result = Box::pin(mail.prepare_and_wait(branch, operation)).await?;
    }
    let refusal_stands = matches!(&result, OpResult::Abort(response) if response.refused);
    match reply_of(&result) {
        Ok(reply) => Ok((reply, refusal_stands)),
        Err(error) => Err(MailError::Refused { code: 13, message: error.to_string() }),
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
