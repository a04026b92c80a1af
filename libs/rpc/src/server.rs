//! Serving: health, reflection, limits, and a shutdown that finishes the requests in flight.
//!
//! Layers, outermost first: bundles are split into calls; then, per call, the check that the caller
//! may make it, the bound on requests in flight, the request's span, the caller's deadline, and the
//! catch of panics. When the time of `grpc-timeout` is over, the handler is dropped, so a handler
//! must not own work that has to be finished.

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use futures::{StreamExt as _, future};
use prost::Message as _;
use prost_types::FileDescriptorSet;
use tokio::sync::{Semaphore, watch};
use tokio_stream::{StreamMap, wrappers::TcpListenerStream};
use tonic::service::Routes;
use tonic_health::pb::health_server::HealthServer;

mod args;
mod health;
mod readiness;

pub use args::{ServerArgs, StopArgs};
pub use readiness::{Readiness, State};

use tower::{Layer as _, layer::layer_fn};
use types::Entropy as _;

use crate::{
    bundle::Unbundling,
    env::SystemEntropy,
    guard::{self, GuardLayer},
    net::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
    served,
    tls::{self, Conn, Life, Tls},
};

/// Health service name that is SERVING for as long as the process answers at all.
pub const LIVE: &str = "till.live";

/// Upper limit on the bytes of long requests that are held at once.
const HELD_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How long a caller may take to send the rest of a handshake or of a request.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection past its age is cut after this time, even if calls are under way. Clients' calls
/// are over by then; what remains is an unread answer, or a watch, which its client begins again.
const FAREWELL: Duration = Duration::from_mins(5);

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How to serve.
#[derive(Debug, Clone)]
pub struct Options {
    /// Full names of the services (`<T as NamedService>::NAME`), for health and reflection.
    pub services: Vec<&'static str>,
    /// Encoded descriptor set of the services, for reflection.
    pub descriptors: &'static [u8],
    /// Upper limit on the requests in flight over all connections. One more is refused with
    /// RESOURCE_EXHAUSTED before it starts.
    pub in_flight_max: usize,
    /// Upper limit on the requests in flight on one connection. More wait at the client.
    pub streams_max: u32,
    /// Upper limit on open connections. More wait to be accepted.
    pub connections_max: usize,
    /// Upper limit on the bytes of long requests (over 16 KiB) that are held at once.
    pub held_bytes_max: usize,
    /// Upper limit on waiting for the beginning of a connection, and for the body of a request.
    pub patience: Duration,
    /// A connection is cut when its client reads nothing of an answer for this long, or up to twice
    /// as long.
    pub stall: Duration,
    /// How long a connection past its age may take to end before it is cut.
    pub farewell: Duration,
    /// Time between NOT_SERVING and closing the listeners, so that balancers and watchers notice.
    pub lame_duck: Duration,
    /// Upper limit on waiting for requests in flight after the listeners are closed.
    pub drain_timeout: Duration,
    /// How often a quiet connection is pinged.
    pub keep_alive_interval: Duration,
    /// A connection is closed if a ping is not answered within this time.
    pub keep_alive_timeout: Duration,
    /// A connection is ended gracefully at about this age. Clients then reconnect, and so spread
    /// over new replicas and see new certificates. Zero for never.
    pub max_connection_age: Duration,
    /// Certificates; without them connections are plain. With them, [`crate::access`] judges the
    /// callers.
    pub tls: Option<Tls>,
}

impl Options {
    /// The default options for these services.
    pub fn new(services: Vec<&'static str>, descriptors: &'static [u8]) -> Self {
        Self {
            services,
            descriptors,
            in_flight_max: 20_000,
            streams_max: 10_000,
            connections_max: 10_000,
            held_bytes_max: HELD_BYTES_MAX,
            patience: PATIENCE,
            stall: PATIENCE,
            farewell: FAREWELL,
            lame_duck: Duration::from_millis(200),
            drain_timeout: Duration::from_secs(20),
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(5),
            max_connection_age: Duration::from_mins(10),
            tls: None,
        }
    }
}

/// Why serving failed. An operator must look into it.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The sockets cannot be used.
    #[error("cannot use a listening socket")]
    Listener(#[source] io::Error),
    /// The descriptors do not decode, or lack a service.
    #[error("cannot set up reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// tonic's server failed.
    #[error("the gRPC server failed")]
    Transport(#[source] tonic::transport::Error),
}

/// Serves until `shutdown` completes, then shuts down gracefully: says NOT_SERVING, pauses, closes
/// the listeners, and waits for requests in flight, at most for the drain timeout.
///
/// Health answers for "", for every service name (both follow `readiness`) and for [`LIVE`].
/// Reflection speaks v1, and v1alpha for clients that know no other version.
///
/// # Errors
/// [`ServeError`]; a retry does not help.
pub async fn serve(
    routes: Routes,
    listeners: Vec<TcpListener>,
    options: Options,
    readiness: Readiness,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let incoming = incoming(listeners, &options)?;
    let judges = options.tls.as_ref().is_some_and(Tls::asks_callers);
    let (close, mut closed) = watch::channel(false);
    let health =
        health::HealthService::new(options.services.clone(), readiness.clone(), closed.clone());
    let routes =
        routes.add_service(served!(HealthServer::new(health), guard::FREE_MESSAGE_BYTES_MAX));
    let routes = reflect(routes, &options).map_err(ServeError::Reflection)?;

    let Options { in_flight_max, held_bytes_max, patience, .. } = options;
    let guard = GuardLayer::new(in_flight_max, held_bytes_max, patience, judges)
        .counting(methods(&options));
    let mut builder = tonic::transport::Server::builder();
    if !options.max_connection_age.is_zero() {
        // Up to a tenth less, so that processes that started together do not close their
        // connections together.
        let step = u32::try_from(SystemEntropy.next_u64() % 256).unwrap_or_default();
        let most = options.max_connection_age;
        let age = most.saturating_sub(most / 10 / 256 * step);
        builder = builder.max_connection_age(age);
    }
    let server = builder
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(options.streams_max)
        .http2_keepalive_interval(Some(options.keep_alive_interval))
        .http2_keepalive_timeout(Some(options.keep_alive_timeout))
        .layer(layer_fn(move |routes| Unbundling::new(guard.layer(routes))))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move {
            // An error means that `close` was dropped, so nobody waits for this server any more.
            let _gone = closed.wait_for(|closed| *closed).await;
        });

    let lifecycle = async {
        shutdown.await;
        // Health says NOT_SERVING from here on.
        readiness.drain();
        tracing::info!("draining");
        tokio::time::sleep(options.lame_duck).await;
        close.send_replace(true);
        tokio::time::sleep(options.drain_timeout).await;
    };
    tokio::select! {
        biased;
        served = server => {
            readiness.drain();
            served.map_err(ServeError::Transport)
        }
        () = lifecycle => {
            tracing::warn!("requests were still in flight when the drain timeout was over");
            Ok(())
        }
    }
}

/// Adds both versions of reflection for these services.
fn reflect(routes: Routes, options: &Options) -> Result<Routes, tonic_reflection::server::Error> {
    let builder = || {
        let sets = sets(options).into_iter();
        let builder = sets.fold(
            tonic_reflection::server::Builder::configure()
                // So that clients can show the details of an error.
                .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET),
            tonic_reflection::server::Builder::register_encoded_file_descriptor_set,
        );
        let known = options.services.iter().chain(&KNOWN_EVERYWHERE);
        known.fold(builder, |builder, service| builder.with_service_name(*service))
    };
    let (v1, v1alpha) = (builder().build_v1()?, builder().build_v1alpha()?);
    let longest = guard::FREE_MESSAGE_BYTES_MAX;
    Ok(routes.add_service(served!(v1, longest)).add_service(served!(v1alpha, longest)))
}

/// The services that every role serves beside its own.
const KNOWN_EVERYWHERE: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Descriptors of everything that is served.
const fn sets(options: &Options) -> [&'static [u8]; 4] {
    [
        options.descriptors,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ]
}

/// `package.Service/Method` of everything that is served, from the descriptors.
fn methods(options: &Options) -> Vec<String> {
    let mut methods = Vec::new();
    let decoded = |set| FileDescriptorSet::decode(set).unwrap_or_default().file;
    for file in sets(options).into_iter().flat_map(decoded) {
        for service in &file.service {
            let full = format!("{}.{}", file.package(), service.name());
            methods.extend(service.method.iter().map(|one| format!("{full}/{}", one.name())));
        }
    }
    methods
}

type Incoming = std::pin::Pin<Box<dyn tokio_stream::Stream<Item = io::Result<Conn>> + Send>>;

/// Connections of all listeners, with Nagle's algorithm off, after their handshakes.
fn incoming(listeners: Vec<TcpListener>, options: &Options) -> Result<Incoming, ServeError> {
    let mut all = StreamMap::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        listener.set_nonblocking(true).map_err(ServeError::Listener)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(ServeError::Listener)?;
        all.insert(index, TcpListenerStream::new(listener));
    }
    let places = Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS)));
    let accepted = all.then(move |(_, accepted)| {
        let places = Arc::clone(&places);
        async move {
            match accepted {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    // The semaphore is never closed.
                    let place = places.acquire_owned().await.map_err(io::Error::other)?;
                    Ok((stream, place))
                }
                Err(error) => {
                    // Most likely no file descriptor is left. Without a pause this would be a busy
                    // loop.
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    Err(error)
                }
            }
        }
    });
    let tls = options.tls.clone();
    let age = options.max_connection_age;
    let life = Life {
        beginning: options.patience,
        stall: options.stall,
        whole: (!age.is_zero()).then(|| age + options.farewell),
    };
    // Handshakes run concurrently, so that a slow caller keeps nobody else waiting.
    let shaken = accepted.map(move |accepted| {
        let tls = tls.clone();
        async move {
            match accepted {
                Ok((stream, place)) => tls::accept(tls.as_ref(), stream, place, life).await.map(Ok),
                Err(error) => Some(Err(error)),
            }
        }
    });
    Ok(Box::pin(shaken.buffer_unordered(tls::HANDSHAKES_MAX).filter_map(future::ready)))
}
