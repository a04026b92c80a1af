//! The REST face of the shop: the course's HTTP API in front of the order, stock and payment services and
//! the coordinator.
//!
//! Must not know: the store, the commit protocol, what a call means beyond its limits. It keeps nothing
//! between requests but connections, so that any number of replicas may run and each may be killed.
//!
//! Modules: [`args`] settings; `shop` the services behind it; [`bridge`] the shared state and its seams; [`api`] one
//! handler for each endpoint, registered and documented in one place; [`input`] paths and `headers` into types;
//! [`key`] who may change anything, where that is not everybody; [`load`] whether one more request could be answered
//! in time; `held` what clients have it hold; `turned_away` the log of those that could not; [`upstream`] asking a
//! service until the answer is definite; [`batch`] batch_init over all shards; [`problem`] the only writer of
//! `application/problem+json`; [`edge`] what surrounds every request; [`origin`] what browsers send for pages of other
//! sites; `etag` which content of an order was seen; [`ready`] readiness; [`server`] sockets, HTTP/1.1 and HTTP/2,
//! drain; `console` the page for people; `docs` the description of the API; `conformance` (feature) checks answers
//! against openapi.json.
//!
//! Invariants: a 4xx is a definite answer, never a conflict, a timeout or a lost message; an outcome that is
//! not known is asked for again, with the same request id, until the request's deadline, and only then a
//! 503; work that was begun for a call that changes something goes on when its client leaves; routes and
//! documentation are one registration (tests/it hold each of these).

use std::{future::Future, sync::Arc};

use rpc::{
    access::Role,
    admin::Admin,
    env::{SystemClock, SystemEntropy},
    listen::Listeners,
    net::GrpcNet,
};

pub mod api;
pub mod args;
mod batch;
pub mod bridge;
#[cfg(feature = "conformance")]
pub mod conformance;
mod console;
mod docs;
mod edge;
mod etag;
mod headers;
mod held;
mod input;
pub mod key;
mod load;
pub mod origin;
pub mod problem;
mod ready;
pub mod server;
mod shop;
mod turned_away;
mod upstream;

pub use args::{Args, ConnectionTimeouts, Settings};
pub use bridge::Bridge;
use key::Keys;
pub use server::Error;
pub use shop::Shop;

/// Greatest length of a request's body, in bytes; no endpoint reads any.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Greatest length of a request's head, in bytes.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

impl Bridge {
    /// Every endpoint, ready to be served or called in-process.
    pub fn router(&self) -> axum::Router {
        api::router(self.clone())
    }
}

/// Runs the bridge over the real network until `shutdown` is done and what was in flight has been answered.
///
/// # Errors
/// [`Error`]: the certificates, the keys or the sockets cannot be used; a retry does not help.
pub async fn run(
    args: Args,
    listeners: Listeners,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let net = GrpcNet::with_tls(args.tls.acting_as(Role::HttpBridge).load()?).bundling();
    let shop = Shop::over(&args, &(Arc::new(net) as _));
    let bridge = Bridge::new(shop, args.settings(), Arc::new(SystemClock), Arc::new(SystemEntropy));
    if let Some(path) = &args.api_key_file {
        bridge.guard(Keys::load(path)?);
    }
    let admin = Admin::new(bridge.clone()).with_routes(bridge.operators_console());
    let _admin = admin.serve(listeners.admin).map_err(Error::Listener)?;
    server::serve(bridge, listeners.work, args.connection_timeouts(), shutdown).await
}
