//! Asks a service until its answer is definite.
//!
//! A business answer ends the call. Everything else (a lost connection, a replica that is starting,
//! a contended row, a timeout) is retried with the same request, hence the same request id. Retries
//! go to the next best replica after jittered, growing pauses, until the deadline of the client's
//! request.

use std::{error::Error as StdError, fmt::Display, time::Duration};

use proto::participant::v1::{
    DescribeRequest, participant_service_client::ParticipantServiceClient,
};
use rpc::{
    call::CallMeta,
    net::Transport,
    retry::Backoff,
    routing::{ExpectedWait, Route, Router},
    status::Failure,
    unary,
};
use tokio::time::{Instant, timeout_at};
use tonic::{ConnectError, Response, Status};
use types::{ErrorKind, Reason, Role, ShardId, UnixMillis, shard_of};

use crate::{bridge::Bridge, problem::Problem};

/// Shortest and longest pause between two attempts. Each pause is drawn from the upper half of its
/// step.
const PAUSE_LEAST: Duration = Duration::from_millis(10);
const PAUSE_MOST: Duration = Duration::from_millis(250);

/// Which replica to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// The replica that serves this key.
    Key(&'a str),
    /// The replica that serves this shard.
    Shard(ShardId),
    /// Any replica.
    Any,
}

/// Whether a call changes something, so that an unanswered one may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind<'a> {
    /// The call changes nothing that a client can see.
    Read,
    /// The call changes something. All attempts have the same end by the store's clock, no later
    /// than the deadline.
    Write {
        /// Distinguishes this call from others when its request id is the client's own.
        call: Option<&'a CallMeta>,
    },
}

/// When the latest unanswered attempt ended, by the store's clock. It is in the extensions of the
/// attempts after it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Unanswered(pub(crate) UnixMillis);

/// Which service to ask, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpstreamCall<'a> {
    pub(crate) service: &'a Router,
    pub(crate) to: Target<'a>,
    pub(crate) kind: CallKind<'a>,
    /// The deadline of the call.
    pub(crate) deadline: Instant,
    /// How long to wait for one replica before another one is asked. None for work that may take
    /// any time, because then silence is not a sign of a dead replica.
    pub(crate) attempt_timeout: Option<Duration>,
}

/// Why one attempt did not succeed.
enum AttemptError {
    /// A definite answer.
    Definite(Problem),
    /// Nothing definite: ask again.
    Again {
        /// The service may have carried out the call.
        maybe_done: bool,
        /// The service was overloaded and asked for this pause.
        overloaded: Option<Duration>,
        cause: String,
    },
}

impl AttemptError {
    fn not_sent(cause: &dyn Display) -> Self {
        Self::Again { maybe_done: false, overloaded: None, cause: cause.to_string() }
    }
}

/// What is known after some attempts.
#[derive(Default)]
struct Attempts {
    maybe_done: bool,
    unanswered: Option<Unanswered>,
    overloaded: bool,
    cause: String,
}

impl Attempts {
    /// The problem to answer with at the deadline.
    fn give_up(self, kind: CallKind<'_>) -> Problem {
        let reason = if self.maybe_done && kind != CallKind::Read {
            Reason::OutcomeUnknown
        } else if self.overloaded && !self.maybe_done {
            Reason::Overloaded
        } else {
            Reason::Unavailable
        };
        Problem::of(reason).because(&self.cause)
    }
}

impl Bridge {
    /// Asks until the answer is definite or the deadline has passed.
    ///
    /// # Errors
    /// The refusal; UNAVAILABLE, OUTCOME_UNKNOWN or OVERLOADED at the deadline.
    pub(crate) async fn ask<Req, Res, F, Fut>(
        &self,
        ask: UpstreamCall<'_>,
        request: Req,
        send: F,
    ) -> Result<Res, Problem>
    where
        Req: Clone,
        F: Fn(Transport, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let mut pauses = Backoff::new(self.entropy(), PAUSE_LEAST, PAUSE_MOST);
        let mut sofar = Attempts::default();
        let meta = match ask.kind {
            CallKind::Read => CallMeta::default(),
            CallKind::Write { call } => CallMeta {
                not_after: Some(self.not_after(ask.deadline).await?),
                ..call.cloned().unwrap_or_default()
            },
        };
        loop {
            let attempt = self.attempt(&ask, &meta, sofar.unanswered, request.clone(), &send);
            let trouble = match timeout_at(ask.deadline, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(trouble)) => trouble,
                Err(_) => AttemptError::Again {
                    maybe_done: true,
                    overloaded: None,
                    cause: "no answer before the request's deadline".to_owned(),
                },
            };
            let mut pause = pauses.pause();
            match trouble {
                AttemptError::Definite(problem) => return Err(problem),
                AttemptError::Again { maybe_done, overloaded, cause } => {
                    tracing::debug!(cause, "asking again");
                    let why = match (maybe_done, overloaded) {
                        (_, Some(_)) => "overloaded",
                        (true, None) => "no_answer",
                        (false, None) => "not_done",
                    };
                    telemetry::metrics().retries.one(["call", why]);
                    if maybe_done {
                        let now = self.store_time().now().map(Unanswered);
                        sofar.unanswered = now.or(sofar.unanswered);
                    }
                    sofar.maybe_done |= maybe_done;
                    sofar.overloaded = overloaded.is_some();
                    sofar.cause = cause;
                    pause = pause.max(overloaded.unwrap_or_default());
                }
            }
            if Instant::now() + pause >= ask.deadline {
                return Err(sofar.give_up(ask.kind));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The number of shards of a service, asked for until the deadline.
    ///
    /// # Errors
    /// UNAVAILABLE at the deadline.
    pub(crate) async fn shards(&self, service: &Router, until: Instant) -> Result<u16, Problem> {
        let mut pauses = Backoff::new(self.entropy(), PAUSE_LEAST, PAUSE_MOST);
        loop {
            let cause = match timeout_at(until, service.shards()).await {
                Ok(Ok(shards)) => return Ok(shards),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer before the request's deadline".to_owned(),
            };
            let pause = pauses.pause();
            if Instant::now() + pause >= until {
                return Err(Problem::of(Reason::Unavailable).because(&cause));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Makes one attempt.
    async fn attempt<Req, Res, F, Fut>(
        &self,
        ask: &UpstreamCall<'_>,
        meta: &CallMeta,
        unanswered: Option<Unanswered>,
        request: Req,
        send: &F,
    ) -> Result<Res, AttemptError>
    where
        F: Fn(Transport, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let route = route(ask).await?;
        let left = ask.deadline.saturating_duration_since(Instant::now());
        let time = ask.attempt_timeout.map_or(left, |most| left.min(most));
        let wait = if self.is_silence(ask, time) {
            ExpectedWait::Answer(time)
        } else {
            ExpectedWait::Wait(time)
        };
        let mut request = tonic::Request::new(request);
        meta.set(&mut request);
        if let Some(unanswered) = unanswered {
            request.extensions_mut().insert(unanswered);
        }
        let answer = self.heard(route.call(wait, request, send).await);
        answer.map_err(|status| classify(&status))
    }

    /// Notes the store's time from an answer.
    fn heard<T>(&self, answer: Result<Response<T>, Status>) -> Result<T, Status> {
        let metadata = match &answer {
            Ok(response) => response.metadata(),
            Err(status) => status.metadata(),
        };
        self.store_time().hear_answer(metadata);
        answer.map(Response::into_inner)
    }

    /// Whether a replica that does not answer within `time` counts as silent. Close to the
    /// deadline, a call leaves a replica less time than an answer may take.
    fn is_silence(&self, ask: &UpstreamCall<'_>, time: Duration) -> bool {
        let least = self.settings().request_timeout / 2;
        ask.attempt_timeout.is_some_and(|most| time >= most.min(least))
    }

    /// The end of a call with this deadline, by the store's clock. Asks a service if no recent
    /// answer has brought the store's time.
    async fn not_after(&self, deadline: Instant) -> Result<UnixMillis, Problem> {
        let mut pauses = Backoff::new(self.entropy(), PAUSE_LEAST, PAUSE_MOST);
        loop {
            if let Some(now) = self.store_time().now() {
                let left = deadline.saturating_duration_since(Instant::now());
                return Ok(now.plus_ms(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)));
            }
            let cause = match timeout_at(deadline, self.ask_time()).await {
                Ok(Ok(())) if self.store_time().now().is_some() => continue,
                Ok(Ok(())) => "no service knows the store's time yet".to_owned(),
                Ok(Err(cause)) => cause,
                Err(_) => "no answer before the request's deadline".to_owned(),
            };
            let pause = pauses.pause();
            if Instant::now() + pause >= deadline {
                return Err(Problem::of(Reason::Unavailable).because(&cause));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// Asks any replica of the order service for the store's time.
    async fn ask_time(&self) -> Result<(), String> {
        // Concurrent calls share one answer.
        let _asking = self.asking_time().await;
        if self.store_time().now().is_some() {
            return Ok(());
        }
        let route = self.shop().at(Role::Order).any().map_err(|error| error.to_string())?;
        let send = unary!(ParticipantServiceClient::describe);
        let wait = ExpectedWait::Answer(self.settings().attempt_timeout);
        let answer = route.call(wait, tonic::Request::new(DescribeRequest {}), send).await;
        self.heard(answer).map(drop).map_err(|status| chain(&status))
    }
}

async fn route(ask: &UpstreamCall<'_>) -> Result<Route, AttemptError> {
    let shard = match ask.to {
        Target::Any => return ask.service.any().map_err(|error| AttemptError::not_sent(&error)),
        Target::Shard(shard) => shard,
        Target::Key(key) => {
            let shards =
                ask.service.shards().await.map_err(|error| AttemptError::not_sent(&error))?;
            shard_of(key, shards)
        }
    };
    ask.service.route(shard).map_err(|error| AttemptError::not_sent(&error))
}

/// What a failed call means for the caller.
fn classify(status: &Status) -> AttemptError {
    let failure = Failure::from_status(status);
    let again = |maybe_done, overloaded| AttemptError::Again {
        maybe_done,
        overloaded,
        cause: chain(status),
    };
    match failure.kind {
        // The same request would be refused again: the caller must count the shards anew.
        ErrorKind::Contended if failure.reason == Reason::WrongShard.as_str() => {
            AttemptError::Definite(Problem::of(Reason::WrongShard))
        }
        ErrorKind::Contended => again(false, None),
        ErrorKind::Overloaded => again(false, Some(failure.retry_after.unwrap_or(PAUSE_MOST))),
        ErrorKind::Unavailable => again(!was_not_sent(status), None),
        // This attempt did nothing; an earlier one may have.
        ErrorKind::Deadline if failure.reason == Reason::Expired.as_str() => again(false, None),
        ErrorKind::Deadline => again(true, None),
        ErrorKind::InvalidInput
        | ErrorKind::NotFound
        | ErrorKind::Rejected
        | ErrorKind::AlreadyExists
        | ErrorKind::Changed
        | ErrorKind::RequestIdReused
        | ErrorKind::Forbidden
        | ErrorKind::Internal => AttemptError::Definite(Problem::from_failure(failure)),
    }
}

/// The message of the status, and those of its causes.
fn chain(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = StdError::source(status);
    while let Some(error) = source {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = error.source();
    }
    text
}

/// True if the call cannot have taken effect, because no connection could be made. UNAVAILABLE from
/// a service proves nothing: the service may not know the fate of a write that it began.
fn was_not_sent(status: &Status) -> bool {
    let mut source = StdError::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
