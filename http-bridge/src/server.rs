//! Sockets: HTTP/1.1 and HTTP/2 on every listener, timeouts of connections, and a shutdown that
//! finishes the work in flight.

use std::{convert::Infallible, io, net::TcpListener, sync::Arc, time::Duration};

use axum::body::Body;
use http::{HeaderValue, Request, Response, Version, header};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, timeout_at},
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;
use types::Entropy;

use crate::{
    HEAD_BYTES_MAX, args::ConnectionTimeouts, bridge::Bridge, edge::Connected, held::Held,
    input::content_length,
};

mod activity;
mod answers;
mod framing;

use activity::{Activity, ConnectionAction, Watched};
use answers::{Paced, Streams};
use framing::Body as Framing;

/// An idle HTTP/2 connection is pinged this often. It counts as broken when a ping is not answered
/// within `PING_TIMEOUT`.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Maximum number of concurrent HTTP/2 streams on one connection.
const STREAMS_MAX: u32 = 256;
/// Bytes of bodies that a client may send before they are read, per stream and per connection. No
/// endpoint reads a body.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 256 * 1024;
/// Longest list of headers accepted over HTTP/2, as HTTP/2 counts it. A list longer than
/// [`HEAD_BYTES_MAX`] is refused with a problem, one longer than this without.
const HEADER_LIST_BYTES_MAX: u32 = 128 * 1024;
/// Bytes of answers buffered for sending, per stream.
const SEND_BUFFER_BYTES: usize = 32 * 1024;
/// How long a connection that was asked to end may stay open while nothing is served on it.
const FAREWELL: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Pause after a failed accept, for example when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why serving failed. A retry does not help.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificates are not usable.
    #[error("cannot use the certificates")]
    Tls(#[from] rpc::tls::TlsError),
    /// The API keys are not usable.
    #[error("cannot use the API keys")]
    Keys(#[from] crate::key::KeyError),
    /// The sockets cannot be used.
    #[error("cannot use a listening socket")]
    Listener(#[source] io::Error),
}

/// Whether new connections are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepting {
    Yes,
    /// No new connections; each connection ends after its current work.
    No,
}

/// Serves until `shutdown` completes, then stops in order: reports "not ready" and asks clients to
/// close their connections, pauses, closes the listeners, and waits for the work in flight.
///
/// # Errors
/// [`Error`]; a retry does not help.
pub async fn serve(
    bridge: Bridge,
    listeners: Vec<TcpListener>,
    timeouts: ConnectionTimeouts,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let (close, accepting) = watch::channel(Accepting::Yes);
    let connections = TaskTracker::new();
    let router = bridge.router();
    let most = usize::try_from(timeouts.connections_max).unwrap_or(usize::MAX);
    let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    let mut acceptors = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true).map_err(Error::Listener)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Listener)?;
        let on_loopback = listener.local_addr().map_err(Error::Listener)?.ip().is_loopback();
        let acceptor = Acceptor {
            router: router.clone(),
            connected: Connected { on_loopback },
            held: bridge.held().clone(),
            accepting: accepting.clone(),
            connections: connections.clone(),
            timeouts: timeouts.clone(),
            places: Arc::clone(&places),
            entropy: bridge.entropy(),
        };
        acceptors.push(tokio::spawn(acceptor.accept(listener)));
    }

    shutdown.await;
    tracing::info!("draining");
    bridge.drain();
    tokio::time::sleep(timeouts.lame_duck).await;
    close.send_replace(Accepting::No);
    let end = Instant::now() + timeouts.drain;
    for acceptor in acceptors {
        // The task ends as soon as nothing more is accepted. The panic hook has logged any panic in
        // it.
        let _ended = acceptor.await;
    }
    connections.close();
    bridge.work().close();
    let drained = async {
        connections.wait().await;
        bridge.work().wait().await;
    };
    if timeout_at(end, drained).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "requests were still in flight when the drain timeout was over"
        );
    }
    Ok(())
}

#[derive(Clone)]
struct Acceptor {
    router: axum::Router,
    connected: Connected,
    held: Held,
    accepting: watch::Receiver<Accepting>,
    connections: TaskTracker,
    timeouts: ConnectionTimeouts,
    places: Arc<Semaphore>,
    entropy: Arc<dyn Entropy>,
}

impl Acceptor {
    async fn accept(self, listener: tokio::net::TcpListener) {
        let mut failing = false;
        let mut accepting = self.accepting.clone();
        loop {
            // Take the place only after the connection, because other listeners would lack a place
            // that is held while waiting.
            let next = async {
                let (stream, _) = listener.accept().await?;
                let place = Arc::clone(&self.places).acquire_owned().await;
                // The semaphore is never closed.
                Ok::<_, io::Error>((stream, place.map_err(io::Error::other)?))
            };
            let accepted = tokio::select! {
                biased;
                () = stopped_accepting(&mut accepting) => return,
                accepted = next => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    failing = false;
                    self.connections.spawn(self.clone().connection(stream, place));
                }
                Err(error) => {
                    // Log once per outage, during which every accept fails.
                    if !failing {
                        tracing::warn!(%error, "cannot accept connections");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Maximum age of one connection. None when connections may grow old.
    fn age(&self) -> Option<Duration> {
        let most = self.timeouts.max_age;
        if most.is_zero() {
            return None;
        }
        // Shorten the age by up to a tenth, in 256 steps, so that connections do not end together.
        let step = u32::try_from(self.entropy.next_u64() % 256).unwrap_or_default();
        Some(most.saturating_sub(most / 10 / 256 * step))
    }

    async fn connection(mut self, stream: TcpStream, _place: OwnedSemaphorePermit) {
        let _counted = telemetry::metrics().http_connections.enter();
        // This fails if the connection is already gone; serving it then fails as well.
        let _gone = stream.set_nodelay(true);
        let born = Instant::now();
        let until = self.age().map(|age| born + age);
        let activity = Arc::new(Activity::new(born, until, self.held.clone()));
        let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
        let streams = Streams {
            activity: Arc::clone(&activity),
            held: self.held.clone(),
            patience: self.timeouts.header_read,
        };
        let builder = builder(streams);
        let service = self.service(&activity);
        let connection = builder.serve_connection(io, TowerToHyperService::new(service));
        tokio::pin!(connection);
        let mut leaving = None;
        loop {
            let mut wake = activity.next_check(&self.timeouts);
            if leaving.is_some() {
                wake = wake.max(Instant::now() + LOOK_AGAIN);
            }
            tokio::select! {
                biased;
                _ended = connection.as_mut() => return,
                () = stopped_accepting(&mut self.accepting), if leaving.is_none() => {
                    leaving = Some(Instant::now());
                    connection.as_mut().graceful_shutdown();
                }
                () = activity.cutting() => return,
                () = tokio::time::sleep_until(wake) => {
                    match (activity.action(&self.timeouts), leaving) {
                        (ConnectionAction::Keep, _) => {}
                        (ConnectionAction::Cut, _) => return,
                        (ConnectionAction::Leave, None) => {
                            leaving = Some(Instant::now());
                            connection.as_mut().graceful_shutdown();
                        }
                        (ConnectionAction::Leave, Some(since)) => {
                            if activity.is_idle() && since.elapsed() >= FAREWELL {
                                return;
                            }
                        }
                    }
                }
            }
        }
    }

    /// Answers the requests of one connection.
    fn service(
        &self,
        activity: &Arc<Activity>,
    ) -> impl tower::Service<
        Request<Incoming>,
        Response = Response<Body>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static {
        let (router, connected, held) = (self.router.clone(), self.connected, self.held.clone());
        let activity = Arc::clone(activity);
        tower::service_fn(move |mut request: Request<Incoming>| {
            let is_http2 = request.version() == Version::HTTP_2;
            // HTTP/2 streams are counted by `Streams`.
            let busy = (!is_http2).then(|| activity.begin(framing(&request)));
            let ends = !is_http2 && activity.is_old(Instant::now());
            request.extensions_mut().insert(connected);
            let answer = router.clone().oneshot(request);
            let held = is_http2.then(|| held.clone());
            async move {
                let mut response = answer.await?;
                if ends {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                drop(busy);
                Ok::<_, Infallible>(match held {
                    Some(held) => response.map(|body| Paced::body(body, &held)),
                    None => response,
                })
            }
        })
    }
}

/// Length of an HTTP/1.1 request's body.
fn framing(request: &Request<Incoming>) -> Framing {
    if request.headers().contains_key(header::TRANSFER_ENCODING) {
        return Framing::Chunked;
    }
    Framing::Length(content_length(request.headers()).unwrap_or_default())
}

/// hyper's own header timeout also counts idle time, so it is off; [`activity`] distinguishes the
/// two. A client may close its sending side after a request and still gets the answer.
fn builder(streams: Streams) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .keep_alive(true)
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PING_EVERY))
        .keep_alive_timeout(PING_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(Some(STREAMS_MAX));
    builder
}

async fn stopped_accepting(accepting: &mut watch::Receiver<Accepting>) {
    // An error means that the server is gone, which ends accepting as well.
    let _gone = accepting.wait_for(|accepting| *accepting == Accepting::No).await;
}
