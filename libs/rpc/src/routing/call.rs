//! One call to one replica, and what the result implies about that replica.

use std::time::Duration;

use tokio::time::timeout;
use tonic::{Request, Response, Status};
use types::{ErrorKind, Reason, ShardId};

use super::{Route, Router};
use crate::{
    deadline,
    net::Transport,
    status::{Failure, to_status},
};

/// The time limit of a call, and what the replica may spend the time on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedWait {
    /// The replica should answer at once. If it does not within this time, it is gone or hangs, and
    /// is passed over.
    Answer(Duration),
    /// The replica may spend this time on waiting for something else, such as another transaction.
    /// Then its silence says nothing about it.
    Wait(Duration),
}

impl ExpectedWait {
    const fn time(self) -> Duration {
        match self {
            Self::Answer(time) | Self::Wait(time) => time,
        }
    }

    /// Why a replica may be gone after this failure of a call. `None` if it must be alive, or if
    /// the failure says nothing about it. A lane that is not open yet and a draining replica answer
    /// UNAVAILABLE themselves, in order to be passed over.
    fn judge(self, failure: &Failure) -> Option<&'static str> {
        match (failure.kind, self) {
            (ErrorKind::Unavailable, _) => Some("unavailable"),
            // Only a live replica can say that the call came too late.
            (ErrorKind::Deadline, _) if failure.reason == Reason::Expired.as_str() => None,
            (ErrorKind::Deadline, Self::Answer(_)) => Some("no_answer"),
            (ErrorKind::Deadline, Self::Wait(_))
            | (
                ErrorKind::InvalidInput
                | ErrorKind::NotFound
                | ErrorKind::Rejected
                | ErrorKind::AlreadyExists
                | ErrorKind::RequestIdReused
                | ErrorKind::Changed
                | ErrorKind::Contended
                | ErrorKind::Overloaded
                | ErrorKind::Forbidden
                | ErrorKind::Internal,
                _,
            ) => None,
        }
    }
}

impl Route {
    /// Makes one call. A replica that seems to be gone or to hang is passed over for about a
    /// second, and others serve its shards meanwhile. After any other failure the replica keeps its
    /// shards: moving them would only make two replicas write them.
    ///
    /// # Errors
    /// The status of the answer. At the time limit, the connection reports it, or this function
    /// does if the connection hangs; [`Failure`] reads both as `Deadline`. The call may have
    /// arrived nevertheless.
    pub async fn call<Req, Res, Fut>(
        &self,
        wait: ExpectedWait,
        mut request: Request<Req>,
        send: impl FnOnce(Transport, Request<Req>) -> Fut,
    ) -> Result<Response<Res>, Status>
    where
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        deadline::set(&mut request, wait.time());
        let answer = timeout(wait.time(), send(self.transport.clone(), request)).await;
        let answer = answer.unwrap_or_else(|_| {
            tracing::debug!(replica = %self.endpoint, "no answer in time");
            Err(to_status(&Failure::new(
                Reason::OutcomeUnknown,
                "a replica did not answer in time",
            )))
        });
        if let Err(status) = &answer {
            let failure = Failure::from_status(status);
            if let Some(why) = wait.judge(&failure) {
                self.router.pass_over(&self.endpoint, why, &failure);
            }
        }
        answer
    }
}

impl Router {
    /// Makes one call to the replica that serves a shard, as [`Route::call`] does.
    ///
    /// # Errors
    /// The status of the answer; UNAVAILABLE if no replica is known. The call may have arrived
    /// nevertheless.
    pub async fn call<Req, Res, Fut>(
        &self,
        shard: ShardId,
        wait: ExpectedWait,
        message: Req,
        send: impl FnOnce(Transport, Request<Req>) -> Fut,
    ) -> Result<Res, Failure>
    where
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let route = self.route(shard).map_err(|error| to_status(&error))?;
        let answer = route.call(wait, Request::new(message), send).await;
        Ok(answer?.into_inner())
    }
}
