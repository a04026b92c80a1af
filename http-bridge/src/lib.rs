//! The REST face of the shop: the course's HTTP API in front of the order, stock and payment
//! services and the coordinator.
//!
//! Must not know: the store, the commit protocol, what a call means beyond its limits. Apart from
//! connections, a kill loses no state, so any number of replicas may run and any of them may be
//! killed.
//!
//! Modules: [`args`] settings; `shop` the services behind the bridge; [`bridge`] the shared state
//! and its seams; [`api`] one handler for each endpoint, registered and documented in one place;
//! [`input`] parses paths and `headers` into types; [`key`] the optional API key that changes need;
//! [`load`] tells whether one more request can be answered in time; `held` the memory held for
//! clients; `turned_away` the log of requests refused for overload; [`upstream`] asks a service
//! until the answer is definite; [`batch`] batch_init over all shards; [`problem`] the only writer
//! of `application/problem+json`; [`edge`] the middleware around every request; [`origin`] what
//! browsers send for pages of other sites; `etag` which content of an order the client has seen;
//! [`ready`] readiness; [`server`] sockets, HTTP/1.1 and HTTP/2, drain; `console` the page for
//! people; `docs` the description of the API.
//!
//! Invariants: a 4xx is a definite answer, never a write conflict, a timeout or a lost message. An
//! unknown outcome is asked for again with the same request id until the request's deadline; only
//! then is it answered with 503. Work begun for a call that changes something continues when its
//! client leaves; a batch_init ends with its current part. Routes and documentation are one
//! registration. tests/it checks each of these.

use std::{future::Future, sync::Arc};

use rpc::{
    admin::Admin,
    env::{SystemClock, SystemEntropy},
    listen::Listeners,
    net::GrpcNet,
};
use types::Role;

pub mod api;
pub mod args;
mod batch;
pub mod bridge;
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

/// Maximum length of a request's body, in bytes. No endpoint reads the body.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Maximum length of a request's head (target and headers), in bytes.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

impl Bridge {
    /// Every endpoint, ready to be served or called in-process.
    pub fn router(&self) -> axum::Router {
        api::router(self.clone())
    }
}

/// Runs the bridge over the real network until `shutdown` completes. Then answers the requests in
/// flight, for at most the drain timeout.
///
/// # Errors
/// [`Error`] when the certificates, the keys or the sockets cannot be used. A retry does not help.
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
