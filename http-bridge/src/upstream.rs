//! Asking a service until its answer is definite.
//!
//! A business answer ends the asking. Everything else (a lost connection, a replica that is starting, a
//! contended row, a timeout) is asked again with the same request, hence the same request id, after
//! jittered, growing pauses, at the next best replica, until the deadline of the client's request.

use std::{error::Error as StdError, fmt::Display, time::Duration};

use rpc::{
    deadline,
    net::Transport,
    retry::Backoff,
    routing::{Route, Router},
    status::Failure,
};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tonic::{ConnectError, Response, Status};
use types::{ErrorKind, Reason, ShardId, shard_of};

use crate::{bridge::Bridge, problem::Problem};

/// Shortest and longest pause between two attempts; each is drawn from the upper half of its step.
const PAUSE_LEAST: Duration = Duration::from_millis(10);
const PAUSE_MOST: Duration = Duration::from_millis(250);

/// Which replica to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) enum To<'a> {
    /// The one that serves this key.
    Key(&'a str),
    /// The one that serves this shard.
    Shard(ShardId),
    /// Any.
    Any,
}

/// Whether a call that was not answered may have changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It changes nothing that a client can see.
    None,
    /// It does.
    Changes,
}

/// How to ask.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) service: &'a Router,
    pub(crate) to: To<'a>,
    pub(crate) effect: Effect,
    /// When asking ends.
    pub(crate) deadline: Instant,
    /// When another replica is asked.
    pub(crate) attempt_timeout: Duration,
    /// How long after an attempt of unknown fate a refusal is kept back: what that attempt may have set aside
    /// is given back by then, so that who is refused reads what is there.
    pub(crate) settle: Duration,
}

/// Why one attempt brought no success.
enum Trouble {
    /// A definite answer.
    Definite(Problem),
    /// Nothing definite: ask again.
    Again {
        /// The service may have carried the call out.
        maybe_done: bool,
        /// The service was overloaded, and asked for this pause.
        overloaded: Option<Duration>,
        cause: String,
    },
}

impl Trouble {
    fn not_sent(cause: &dyn Display) -> Self {
        Self::Again { maybe_done: false, overloaded: None, cause: cause.to_string() }
    }
}

/// What is known after some attempts.
#[derive(Default)]
struct Sofar {
    maybe_done: bool,
    /// When the last attempt of unknown fate ended.
    uncertain: Option<Instant>,
    overloaded: bool,
    cause: String,
}

impl Sofar {
    /// What is answered when time is over.
    fn give_up(self, effect: Effect) -> Problem {
        let reason = if self.maybe_done && effect == Effect::Changes {
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
    /// The refusal, or at the deadline UNAVAILABLE, OUTCOME_UNKNOWN or OVERLOADED.
    pub(crate) async fn ask<Req, Res, F, Fut>(
        &self,
        ask: Ask<'_>,
        request: Req,
        send: F,
    ) -> Result<Res, Problem>
    where
        Req: Clone,
        F: Fn(Transport, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let mut pauses = Backoff::new(self.entropy(), PAUSE_LEAST, PAUSE_MOST);
        let mut sofar = Sofar::default();
        loop {
            let attempt = attempt(&ask, request.clone(), &send);
            let trouble = match timeout_at(ask.deadline, attempt).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(trouble)) => trouble,
                Err(_) => Trouble::Again {
                    maybe_done: true,
                    overloaded: None,
                    cause: "no answer before the request's deadline".to_owned(),
                },
            };
            let mut pause = pauses.pause();
            match trouble {
                Trouble::Definite(problem) => {
                    if let Some(uncertain) = sofar.uncertain {
                        sleep_until(ask.deadline.min(uncertain + ask.settle)).await;
                    }
                    return Err(problem);
                }
                Trouble::Again { maybe_done, overloaded, cause } => {
                    tracing::debug!(cause, "asking again");
                    let why = match (maybe_done, overloaded) {
                        (_, Some(_)) => "overloaded",
                        (true, None) => "no_answer",
                        (false, None) => "not_done",
                    };
                    telemetry::metrics().retries.one(["call", why]);
                    if maybe_done {
                        sofar.uncertain = Some(Instant::now());
                    }
                    sofar.maybe_done |= maybe_done;
                    sofar.overloaded = overloaded.is_some();
                    sofar.cause = cause;
                    pause = pause.max(overloaded.unwrap_or_default());
                }
            }
            if Instant::now() + pause >= ask.deadline {
                return Err(sofar.give_up(ask.effect));
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
}

async fn attempt<Req, Res, F, Fut>(ask: &Ask<'_>, request: Req, send: &F) -> Result<Res, Trouble>
where
    F: Fn(Transport, tonic::Request<Req>) -> Fut,
    Fut: Future<Output = Result<Response<Res>, Status>>,
{
    let route = route(ask).await?;
    let left = ask.deadline.saturating_duration_since(Instant::now());
    let time = left.min(ask.attempt_timeout);
    let mut request = tonic::Request::new(request);
    deadline::set(&mut request, time);
    match timeout(time, send(route.transport, request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => {
            let failure = Failure::from_status(&status);
            ask.service.failed(&route.endpoint, &failure);
            Err(weigh(&status, failure))
        }
        Err(_) => {
            let cause = format!("{} did not answer in time", route.endpoint);
            let silence = Failure::new(Reason::OutcomeUnknown, cause.clone());
            ask.service.failed(&route.endpoint, &silence);
            Err(Trouble::Again { maybe_done: true, overloaded: None, cause })
        }
    }
}

async fn route(ask: &Ask<'_>) -> Result<Route, Trouble> {
    let shard = match ask.to {
        To::Any => return ask.service.any().map_err(|error| Trouble::not_sent(&error)),
        To::Shard(shard) => shard,
        To::Key(key) => {
            let shards = ask.service.shards().await.map_err(|error| Trouble::not_sent(&error))?;
            shard_of(key, shards)
        }
    };
    ask.service.route(shard).map_err(|error| Trouble::not_sent(&error))
}

/// What a failed call means for the caller; `failure` is what its status says.
fn weigh(status: &Status, failure: Failure) -> Trouble {
    let again =
        |maybe_done, overloaded| Trouble::Again { maybe_done, overloaded, cause: chain(status) };
    match failure.kind {
        ErrorKind::Contended => again(false, None),
        ErrorKind::Overloaded => again(false, Some(failure.retry_after.unwrap_or(PAUSE_MOST))),
        ErrorKind::Unavailable => again(!was_not_sent(status), None),
        ErrorKind::Deadline => again(true, None),
        ErrorKind::InvalidInput
        | ErrorKind::NotFound
        | ErrorKind::Rejected
        | ErrorKind::AlreadyExists
        | ErrorKind::RequestIdReused
        | ErrorKind::Forbidden
        | ErrorKind::Internal => Trouble::Definite(Problem::from_failure(failure)),
    }
}

/// What was said, and what lies beneath.
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

/// True when nothing can have come of the call: no connection could be made. A service that says
/// UNAVAILABLE proves nothing: it may have lost sight of a write that it began.
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
