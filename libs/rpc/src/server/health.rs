//! `grpc.health.v1.Health`: readiness in gRPC's terms.
//!
//! tonic-health's own service refuses to watch an unknown name. The protocol requires
//! SERVICE_UNKNOWN and a stream that stays open, because load-balancing clients take a refusal for
//! a server without health.

use futures::{
    FutureExt as _, StreamExt as _, future,
    stream::{self, BoxStream},
};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_server::Health,
};

use super::{LIVE, Readiness, State};
use crate::status::unknown_service;

/// Reports the health of every service of this process. All of them are as ready as the process.
#[derive(Debug)]
pub(super) struct HealthService {
    services: Vec<&'static str>,
    readiness: Readiness,
    closing: watch::Receiver<bool>,
}

impl HealthService {
    /// Makes a service that knows "", [`LIVE`] and these names. Watches end once `closing` is true,
    /// because they would otherwise delay the shutdown.
    pub(super) const fn new(
        services: Vec<&'static str>,
        readiness: Readiness,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self { services, readiness, closing }
    }

    fn follows_readiness(&self, service: &str) -> bool {
        service.is_empty() || self.services.contains(&service)
    }
}

const fn status(state: State) -> ServingStatus {
    match state {
        State::Ready => ServingStatus::Serving,
        State::NotReady | State::Draining => ServingStatus::NotServing,
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.get_ref().service.as_str();
        let said = match service {
            LIVE => ServingStatus::Serving,
            service if self.follows_readiness(service) => status(self.readiness.state()),
            _ => return Err(unknown_service()),
        };
        Ok(Response::new(response(said)))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.get_ref().service.as_str();
        let said = if self.follows_readiness(service) {
            let mut last = None;
            let states = WatchStream::new(self.readiness.subscribe()).map(status);
            states.filter(move |next| future::ready(last.replace(*next) != Some(*next))).boxed()
        } else {
            let forever = match service {
                LIVE => ServingStatus::Serving,
                _ => ServingStatus::ServiceUnknown,
            };
            stream::once(future::ready(forever)).chain(stream::pending()).boxed()
        };
        let mut closing = self.closing.clone();
        // An error means that the server is gone.
        let closed = async move { closing.wait_for(|closing| *closing).await.is_ok() };
        let said = said.map(|status| Ok(response(status))).take_until(closed.boxed());
        Ok(Response::new(said.boxed()))
    }
}
