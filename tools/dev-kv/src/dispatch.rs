//! Routes each call to its service, and applies the faults that hit it.
//!
//! Every request passes here, so known services are recognised without a router's search;
//! everything else goes to the HTTP pages.

use crate::args::Bounds;
use crate::engine::Engine;
use crate::faults::{Fault, Faults, Loss};
use crate::http;
use crate::kv::Kv;
use crate::members::Members;
use crate::pd::Pd;
use crate::problem::{problem, unimplemented};
use crate::wire::keyspacepb::keyspace_server::KeyspaceServer;
use crate::wire::pdpb::pd_server::PdServer;
use crate::wire::tikvpb::tikv_server::TikvServer;
use admission::{Bound, Held, Kept, Limits, Messages, PREFIX_BYTES, Untaken};
use axum::Router;
use axum::http::{Request, Response, StatusCode};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use std::convert::Infallible;
use std::sync::Arc;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service as _;

/// Longest request to the store, in bytes. A prewrite lists all keys of its transaction.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Longest request to a placement driver, in bytes. The largest has a key or two.
const PD_MESSAGE_BYTES_MAX: usize = 32 << 10;
/// Requests to placement drivers in flight at once. Each client has a stream for timestamps open.
const PD_IN_FLIGHT_MAX: usize = 4_096;
/// Requests for pages in flight at once. They have separate places, because a page ends faults that
/// keep calls waiting.
const PAGES_IN_FLIGHT_MAX: usize = 256;
/// Bytes of all requests of either kind, over 16 KiB of each.
const HELD_BYTES_MAX: usize = 16 << 20;
/// The call of a placement driver whose requests are a stream.
const TIMESTAMPS: &str = "Tso";

/// Limits on the requests of all connections, for each kind of request.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    store: Bound,
    pd: Bound,
    pages: Bound,
}

impl Places {
    pub(crate) fn new(bounds: &Bounds) -> Self {
        let bound = |most, bytes_max, message_bytes_max| {
            let limits = Limits {
                bytes_max,
                patience: bounds.patience,
                overloaded,
                unfinished: || Status::deadline_exceeded("the request's body did not come in time"),
            };
            Bound::new(most, message_bytes_max, Held::new(limits))
        };
        Self {
            store: bound(bounds.in_flight_max, bounds.held_bytes_max, MESSAGE_BYTES_MAX),
            pd: bound(PD_IN_FLIGHT_MAX, HELD_BYTES_MAX, PD_MESSAGE_BYTES_MAX),
            pages: bound(PAGES_IN_FLIGHT_MAX, HELD_BYTES_MAX, 0),
        }
    }

    fn admit(
        &self,
        known: Option<(Known, &str)>,
        request: Request<Body>,
    ) -> Option<(Request<Body>, Kept)> {
        match known {
            None => self.pages.admit(request, Messages::None),
            Some((Known::Tikv, _)) => self.store.admit(request, Messages::One),
            Some((Known::Pd, TIMESTAMPS)) => self.pd.admit(request, Messages::Many),
            Some((Known::Pd | Known::Keyspace, _)) => self.pd.admit(request, Messages::One),
        }
    }
}

type Answer = BoxFuture<'static, Result<Response<Body>, Infallible>>;

/// The gRPC services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    Tikv,
    Pd,
    Keyspace,
}

impl Known {
    /// The service and the call named by a path; none if it names neither.
    fn of(path: &str) -> Option<(Self, &str)> {
        let (service, rpc) = path.strip_prefix('/')?.split_once('/')?;
        let service = match service {
            "tikvpb.Tikv" => Self::Tikv,
            "pdpb.PD" => Self::Pd,
            "keyspacepb.Keyspace" => Self::Keyspace,
            _ => return None,
        };
        Some((service, rpc))
    }

    /// Longest request in bytes.
    const fn message_bytes_max(self) -> usize {
        match self {
            Self::Tikv => MESSAGE_BYTES_MAX,
            Self::Pd | Self::Keyspace => PD_MESSAGE_BYTES_MAX,
        }
    }
}

/// Handles the requests of a connection.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    kv: TikvServer<Kv>,
    pd: PdServer<Pd>,
    keyspaces: KeyspaceServer<Pd>,
    pages: Router,
    members: Arc<Members>,
    /// Id of the placement driver at this listener.
    member: u64,
    faults: Arc<Faults>,
    engine: Arc<Engine>,
    places: Places,
}

impl Dispatch {
    /// With `on_loopback` the pages answer to loopback names only.
    pub(crate) fn new(pd: Pd, kv: Kv, places: Places, on_loopback: bool) -> Self {
        Self {
            faults: Arc::clone(&kv.faults),
            engine: Arc::clone(&kv.engine),
            places,
            pages: http::pages(pd.clone(), kv.clone(), on_loopback),
            members: Arc::clone(&pd.members),
            member: pd.member,
            keyspaces: KeyspaceServer::new(pd.clone())
                .max_decoding_message_size(PD_MESSAGE_BYTES_MAX),
            pd: PdServer::new(pd).max_decoding_message_size(PD_MESSAGE_BYTES_MAX),
            kv: TikvServer::new(kv)
                .max_decoding_message_size(MESSAGE_BYTES_MAX)
                .max_encoding_message_size(usize::MAX),
        }
    }

    fn carry_out(&self, service: Known, request: Request<Body>) -> Answer {
        match service {
            Known::Tikv => self.kv.clone().call(request),
            Known::Pd => self.pd.clone().call(request),
            Known::Keyspace => self.keyspaces.clone().call(request),
        }
    }

    fn answer(&self, service: Known, rpc: &str, request: Request<Body>, kept: &Kept) -> Answer {
        self.engine.counters().traffic.called(rpc);
        if let Some(fault) = self.faults.transport(rpc) {
            return Box::pin(self.clone().disturb(service, request, fault, kept.clone()));
        }
        if service != Known::Tikv && self.members.hangs(self.member) {
            return Box::pin(self.clone().wait(service, request));
        }
        self.carry_out(service, request)
    }

    /// Carries out a call once the placement driver no longer hangs.
    async fn wait(
        self,
        service: Known,
        request: Request<Body>,
    ) -> Result<Response<Body>, Infallible> {
        self.members.while_hanging(self.member).await;
        self.carry_out(service, request).await
    }

    /// Carries out a call that a fault hits. It is in flight until then, even if its caller is gone.
    async fn disturb(
        self,
        service: Known,
        request: Request<Body>,
        fault: Fault,
        kept: Kept,
    ) -> Result<Response<Body>, Infallible> {
        match fault {
            Fault::Refuse => lost(Loss::Unavailable).await,
            Fault::Latency { delay } => {
                tokio::time::sleep(self.faults.draw(delay)).await;
                self.carry_out(service, request).await
            }
            Fault::LoseReply { then } => {
                // Detached, because the caller may give up earlier.
                let answer = self.carry_out(service, request);
                let call = tokio::spawn(answer.inspect(|_| drop(kept)));
                if let Err(error) = call.await {
                    tracing::warn!(error = %error, "call failed whose reply was to be lost");
                }
                lost(then).await
            }
            Fault::LandLate { delay, then } => {
                let delay = self.faults.draw(delay);
                // Read the whole request first: its sender is told that the call failed.
                let (head, body) = request.into_parts();
                let body = axum::body::Body::new(body);
                let longest = service.message_bytes_max() + PREFIX_BYTES;
                let Ok(body) = axum::body::to_bytes(body, longest).await else {
                    drop(kept);
                    return lost(then).await;
                };
                let body = Body::new(axum::body::Body::from(body));
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    let answer = self.carry_out(service, Request::from_parts(head, body)).await;
                    drop(kept);
                    answer
                });
                lost(then).await
            }
            Fault::NotLeader { .. }
            | Fault::Split
            | Fault::ServerIsBusy
            | Fault::StaleCommand
            | Fault::MaxTimestampNotSynced
            | Fault::FallBack
            | Fault::CommitTsExpired => self.carry_out(service, request).await,
        }
    }

    /// Answers a request; `untaken` counts the answers of its connection.
    pub(crate) fn call(&self, request: Request<Incoming>, untaken: Untaken) -> Answer {
        let request = request.map(Body::new);
        let uri = request.uri().clone();
        let known = Known::of(uri.path());
        let Some((request, kept)) = self.places.admit(known, request) else {
            self.engine.counters().traffic.refused();
            let refused = match known {
                Some(_) => overloaded().into_http(),
                None => problem(StatusCode::SERVICE_UNAVAILABLE, &TOO_MANY).map(Body::new),
            };
            return Box::pin(std::future::ready(Ok(refused)));
        };
        let answer: Answer = if let Some((service, rpc)) = known {
            self.answer(service, rpc, request, &kept)
        } else {
            let page = self.pages.clone().call(request);
            Box::pin(async move { Ok(page.await?.map(Body::new)) })
        };
        Box::pin(async move {
            let response = answer.await?;
            let response =
                if is_bare_unimplemented(&response) { unimplemented(uri.path()) } else { response };
            Ok(response.map(|body| kept.until_taken(body, untaken)))
        })
    }
}

const TOO_MANY: &str = "too many requests are in flight, or too many bytes of them";

fn overloaded() -> Status {
    Status::resource_exhausted(TOO_MANY)
}

async fn lost(then: Loss) -> Result<Response<Body>, Infallible> {
    match then {
        Loss::Unavailable => {
            Ok(Status::unavailable("injected: the connection was lost").into_http())
        }
        Loss::Silence => std::future::pending().await,
    }
}

/// Whether a service answers that it does not know the call, without naming it.
fn is_bare_unimplemented(response: &Response<Body>) -> bool {
    let headers = response.headers();
    headers.get(Status::GRPC_STATUS).is_some_and(|status| status == "12")
        && !headers.contains_key(Status::GRPC_MESSAGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_service_and_a_call_or_is_not_ours() {
        assert_eq!(Known::of("/tikvpb.Tikv/KvGet"), Some((Known::Tikv, "KvGet")));
        assert_eq!(Known::of("/pdpb.PD/Tso"), Some((Known::Pd, "Tso")));
        let load = Known::of("/keyspacepb.Keyspace/LoadKeyspace");
        assert_eq!(load, Some((Known::Keyspace, "LoadKeyspace")));
        for other in ["", "/", "/tikvpb.Tikv", "tikvpb.Tikv/KvGet", "/pd/api/v1/stores", "/x.Y/Z"] {
            assert_eq!(Known::of(other), None, "{other}");
        }
    }
}
