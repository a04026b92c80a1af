//! Sockets: HTTP/1.1 and HTTP/2 on every listener, patient with idle connections, and an end that finishes
//! what was begun.

use std::{io, net::TcpListener, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Version, header};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
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

use crate::{args::Patience, bridge::Bridge};

mod activity;

use activity::{Activity, Verdict, Watched};

/// An idle HTTP/2 connection is pinged this often, and is broken when a ping is not answered within this.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// HTTP/2 streams at once on one connection.
const STREAMS_MAX: u32 = 2_000;
/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Pause after accepting failed, as it does when no file descriptor is left.
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

/// How far the end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    Open,
    /// No new connections; each connection ends after what it is at.
    Closed,
}

/// Serves until `shutdown` is done, then ends well: says "not ready" and asks clients to close their
/// connections, pauses, closes the door, and waits for what is in flight.
///
/// # Errors
/// [`Error`]; a retry does not help.
pub async fn serve(
    bridge: Bridge,
    listeners: Vec<TcpListener>,
    patience: Patience,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let (close, door) = watch::channel(Door::Open);
    let connections = TaskTracker::new();
    let router = bridge.router();
    let most = usize::try_from(patience.connections_max).unwrap_or(usize::MAX);
    let places = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
    let mut doors = Vec::new();
    for listener in listeners {
        listener.set_nonblocking(true).map_err(Error::Listener)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(Error::Listener)?;
        let acceptor = Acceptor {
            router: router.clone(),
            door: door.clone(),
            connections: connections.clone(),
            patience: patience.clone(),
            places: Arc::clone(&places),
            entropy: bridge.entropy(),
        };
        doors.push(tokio::spawn(acceptor.accept(listener)));
    }

    shutdown.await;
    tracing::info!("draining");
    bridge.drain();
    tokio::time::sleep(patience.lame_duck).await;
    close.send_replace(Door::Closed);
    let end = Instant::now() + patience.drain;
    for door in doors {
        // It ends as soon as the door is closed; a panic in it has been logged by the hook.
        let _ended = door.await;
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
    door: watch::Receiver<Door>,
    connections: TaskTracker,
    patience: Patience,
    places: Arc<Semaphore>,
    entropy: Arc<dyn Entropy>,
}

impl Acceptor {
    async fn accept(self, listener: tokio::net::TcpListener) {
        let mut failing = false;
        let mut door = self.door.clone();
        loop {
            // The place is taken after the connection: one that waits for a connection would be kept from
            // other listeners.
            let next = async {
                let (stream, _) = listener.accept().await?;
                let place = Arc::clone(&self.places).acquire_owned().await;
                // The semaphore is never closed.
                Ok::<_, io::Error>((stream, place.map_err(io::Error::other)?))
            };
            let accepted = tokio::select! {
                biased;
                () = closed(&mut door) => return,
                accepted = next => accepted,
            };
            match accepted {
                Ok((stream, place)) => {
                    failing = false;
                    self.connections.spawn(self.clone().connection(stream, place));
                }
                Err(error) => {
                    // Once for each bad spell: while it lasts, every try fails.
                    if !failing {
                        tracing::warn!(%error, "cannot accept connections");
                    }
                    failing = true;
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// How old one connection may become.
    fn age(&self) -> Option<Duration> {
        let most = self.patience.max_age;
        if most.is_zero() {
            return None;
        }
        // One of 256 steps up to a tenth.
        let step = u32::try_from(self.entropy.next_u64() % 256).unwrap_or_default();
        Some(most.saturating_sub(most / 10 / 256 * step))
    }

    async fn connection(mut self, stream: TcpStream, _place: OwnedSemaphorePermit) {
        // It fails on a connection that is gone already, and that shows soon enough.
        let _gone = stream.set_nodelay(true);
        let born = Instant::now();
        let activity = Arc::new(Activity::new(born, self.age().map(|age| born + age)));
        let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
        let router = self.router.clone();
        let counted = Arc::clone(&activity);
        let service = tower::service_fn(move |request: Request<Incoming>| {
            let busy = counted.begin(request.version());
            let ends = request.version() < Version::HTTP_2 && counted.is_old(Instant::now());
            let answer = router.clone().oneshot(request);
            async move {
                let mut response = answer.await;
                if let (true, Ok(response)) = (ends, response.as_mut()) {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(header::CONNECTION, close);
                }
                drop(busy);
                response
            }
        });
        let builder = builder();
        let connection = builder.serve_connection(io, TowerToHyperService::new(service));
        tokio::pin!(connection);
        let mut leaving = false;
        loop {
            let wake = activity.next_check(&self.patience);
            tokio::select! {
                biased;
                _ended = connection.as_mut() => return,
                () = closed(&mut self.door), if !leaving => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = tokio::time::sleep_until(wake) => {
                    match activity.verdict(&self.patience) {
                        Verdict::Keep => {}
                        // Streams over HTTP/2 end by themselves; there is nothing else to end.
                        Verdict::Leave if leaving && activity.is_old(Instant::now()) => {}
                        Verdict::Leave if leaving => return,
                        Verdict::Leave => {
                            leaving = true;
                            connection.as_mut().graceful_shutdown();
                        }
                        Verdict::Cut => return,
                    }
                }
            }
        }
    }
}

/// hyper's own header timeout counts idle time, too, so it is off; [`activity`] tells them apart.
fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .keep_alive(true)
        .max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(PING_EVERY))
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(Some(STREAMS_MAX));
    builder
}

async fn closed(door: &mut watch::Receiver<Door>) {
    // An error means that the server is gone, and with it the door.
    let _gone = door.wait_for(|door| *door == Door::Closed).await;
}
