//! Serves the socket of an admin listener. The number of connections is limited, and each ends in
//! time, whatever its client does.

use std::{pin::pin, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;

/// Limits for clients.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Upper limit on concurrent connections. More wait to be accepted.
    connections_max: usize,
    /// Upper limit on the time without a complete request head, including idle time.
    patience: Duration,
    /// Upper limit on the time for which a client reads nothing of its answer.
    stall: Duration,
    /// Upper limit on a connection's life. A request under way at its end has `farewell` more.
    age: Duration,
    farewell: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections_max: 256,
            patience: Duration::from_secs(15),
            stall: Duration::from_secs(15),
            age: Duration::from_mins(10),
            farewell: Duration::from_secs(30),
        }
    }
}

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves for as long as it is polled.
pub(super) async fn serve(listener: TcpListener, router: Router, bounds: Bounds) {
    let places = Arc::new(Semaphore::new(bounds.connections_max));
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the admin listener could not accept a connection");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        let router = router.clone();
        connections.spawn(async move {
            connection(stream, router, bounds).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, router: Router, bounds: Bounds) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(bounds.patience);
    let service = TowerToHyperService::new(router);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(bounds.stall));
    let io = TokioIo::new(Box::pin(stream));
    let mut connection = pin!(builder.serve_connection(io, service));
    if timeout(bounds.age, &mut connection).await.is_err() {
        connection.as_mut().graceful_shutdown();
        // The rest is cut: a body that does not arrive, or an answer that is read slowly.
        let _cut = timeout(bounds.farewell, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_mins(1);

    /// Few places, and times that no test exhausts.
    fn bounds() -> Bounds {
        Bounds { connections_max: 9, patience: LONG, stall: LONG, age: LONG, farewell: LONG }
    }

    async fn open(bounds: Bounds) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let large = || async { "x".repeat(64 << 20) };
        let router = Router::new()
            .route("/", get(|| async { "here" }))
            .route("/large", get(large))
            .route("/body", post(|body: String| async { body }));
        tokio::spawn(serve(listener, router, bounds));
        address
    }

    async fn send(address: SocketAddr, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(bytes.as_bytes()).await.unwrap();
        stream
    }

    /// Whether the connection ends within two seconds while everything is read from it.
    async fn ends(mut stream: TcpStream) -> bool {
        let mut answer = Vec::new();
        timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await.is_ok()
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_ends_its_connection() {
        let bounds = Bounds { patience: SHORT, ..bounds() };
        let address = open(bounds).await;
        for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /"] {
            assert!(ends(send(address, begun).await).await, "{begun:?}");
        }
    }

    #[tokio::test]
    async fn whatever_a_connection_is_at_it_ends_with_its_age() {
        let bounds = Bounds { age: SHORT, farewell: SHORT, ..bounds() };
        let address = open(bounds).await;
        let unfinished = "POST /body HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n1";
        assert!(ends(send(address, unfinished).await).await);
        let mut untaken = send(address, "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        sleep(SHORT * 4).await;
        let mut taken = Vec::new();
        drop(untaken.read_to_end(&mut taken).await);
        assert!(taken.len() < 64 << 20, "it was cut while nobody took it");
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_gives_its_place_back() {
        let address = open(Bounds { connections_max: 1, stall: SHORT, ..bounds() }).await;
        let untaken = send(address, "GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let get = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        assert!(ends(send(address, get).await).await);
        drop(untaken);
    }

    #[tokio::test]
    async fn one_connection_too_many_waits_for_a_place() {
        let bounds = Bounds { connections_max: 1, ..bounds() };
        let address = open(bounds).await;
        let first = send(address, "").await;
        let get = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut second = send(address, get).await;
        let mut answer = String::new();
        assert!(timeout(SHORT, second.read_to_string(&mut answer)).await.is_err());
        drop(first);
        second.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("here"), "{answer}");
    }
}
