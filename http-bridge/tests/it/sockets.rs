//! The server over real sockets.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use http_bridge::{ConnectionTimeouts, Error, server};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};

use crate::shop::{Front, Trouble};

pub(crate) const LONG: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    pub(crate) front: Front,
    pub(crate) address: SocketAddr,
    addresses: Vec<SocketAddr>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), Error>>,
}

pub(crate) fn connection_timeouts() -> ConnectionTimeouts {
    ConnectionTimeouts {
        header_read: Duration::from_secs(30),
        keep_alive_idle: Duration::from_mins(10),
        max_age: Duration::ZERO,
        grace: Duration::from_secs(90),
        connections_max: 1_000,
        lame_duck: Duration::from_millis(200),
        drain: LONG,
    }
}

impl Server {
    pub(crate) fn start(patience: ConnectionTimeouts) -> Self {
        Self::of(Front::filled(), &rpc::listen::everywhere(0), patience)
    }

    pub(crate) fn of(front: Front, addresses: &[SocketAddr], patience: ConnectionTimeouts) -> Self {
        let listeners = rpc::listen::tcp(addresses).unwrap();
        let addresses: Vec<SocketAddr> =
            listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
        let port = addresses[0].port();
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            stopped.await.unwrap();
        };
        let bridge = front.bridge.clone();
        let running = tokio::spawn(server::serve(bridge, listeners, patience, shutdown));
        let address = (Ipv4Addr::LOCALHOST, port).into();
        Self { front, address, addresses, stop, running }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    pub(crate) async fn stop(self) {
        self.stop.send(()).unwrap();
        timeout(LONG, self.running).await.unwrap().unwrap().unwrap();
    }
}

pub(crate) async fn send(stream: &mut TcpStream, head: &str) {
    stream.write_all(format!("{head}\r\nHost: till\r\n\r\n").as_bytes()).await.unwrap();
}

/// Reads one answer with a Content-Length.
pub(crate) async fn receive(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0; 1];
    let read = async {
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .map_or(0, |length| length.parse().unwrap());
                if body.len() >= length {
                    return text;
                }
            }
            let read = stream.read(&mut byte).await.unwrap();
            assert!(read > 0, "closed after {text:?}");
            bytes.extend_from_slice(&byte);
        }
    };
    timeout(LONG, read).await.unwrap()
}

pub(crate) async fn call(stream: &mut TcpStream, call: &str) -> String {
    send(stream, &format!("{call} HTTP/1.1")).await;
    receive(stream).await
}

/// True when the other side has closed the connection.
pub(crate) async fn is_closed(stream: &mut TcpStream) -> bool {
    let mut byte = [0; 1];
    matches!(timeout(LONG, stream.read(&mut byte)).await, Ok(Ok(0) | Err(_)))
}

#[tokio::test]
async fn one_connection_serves_many_requests_of_every_outcome() {
    let server = Server::start(connection_timeouts());
    let mut stream = server.connect().await;
    for (line, status) in [
        ("GET /stock/find/1", "200"),
        ("POST /stock/subtract/1/99", "409"),
        ("GET /stock/find/none", "404"),
        ("POST /stock/add/1/x", "400"),
        ("PUT /stock/add/1/1", "405"),
        ("POST /orders/checkout/1", "200"),
    ] {
        let answer = call(&mut stream, line).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        assert!(!answer.to_lowercase().contains("connection: close"), "{answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_small_body_is_taken_off_the_connection() {
    let server = Server::start(connection_timeouts());
    let mut stream = server.connect().await;
    for (headers, body) in [
        ("Content-Length: 5\r\nContent-Type: application/octet-stream", "hello"),
        ("Content-Length: 0", ""),
        ("Transfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n"),
    ] {
        let request = format!("POST /stock/add/1/1 HTTP/1.1\r\nHost: t\r\n{headers}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert!(receive(&mut stream).await.starts_with("HTTP/1.1 200 "), "{headers}");
    }
    assert_eq!(server.front.world.state().items["1"].stock, 13);
    server.stop().await;
}

#[tokio::test]
async fn a_huge_body_is_refused_without_being_read() {
    let server = Server::start(connection_timeouts());
    let mut stream = server.connect().await;
    send(&mut stream, "POST /stock/add/1/1 HTTP/1.1\r\nContent-Length: 10000000000").await;
    assert!(receive(&mut stream).await.starts_with("HTTP/1.1 413 "));
    server.stop().await;
}

#[tokio::test]
async fn both_families_are_served() {
    let server = Server::start(connection_timeouts());
    for address in &server.addresses {
        let host = if address.is_ipv6() { "::1" } else { "127.0.0.1" };
        let mut stream = TcpStream::connect((host, address.port())).await.unwrap();
        assert!(call(&mut stream, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
    }
    server.stop().await;
}

#[tokio::test]
async fn http2_is_served_without_tls() {
    let server = Server::start(connection_timeouts());
    let stream = server.connect().await;
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    let driven = tokio::spawn(connection);
    let request = http::Request::post("http://till/orders/checkout/1")
        .body(http_body_util::Empty::<bytes::Bytes>::new())
        .unwrap();
    let response = timeout(LONG, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.version(), http::Version::HTTP_2);
    drop((sender, response));
    driven.await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn idle_connections_outlive_the_patience_for_heads() {
    let header_read = Duration::from_millis(100);
    let server = Server::start(ConnectionTimeouts { header_read, ..connection_timeouts() });
    let mut fresh = server.connect().await;
    let mut used = server.connect().await;
    call(&mut used, "GET /healthz").await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    for stream in [&mut fresh, &mut used] {
        assert!(call(stream, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
    }
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_never_ends_loses_its_connection() {
    let header_read = Duration::from_millis(100);
    let server = Server::start(ConnectionTimeouts { header_read, ..connection_timeouts() });
    let mut stream = server.connect().await;
    call(&mut stream, "GET /healthz").await;
    stream.write_all(b"GET /healthz HT").await.unwrap();
    assert!(is_closed(&mut stream).await);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_stays_idle_is_closed_in_the_end() {
    let keep_alive_idle = Duration::from_millis(200);
    let server = Server::start(ConnectionTimeouts { keep_alive_idle, ..connection_timeouts() });
    let mut stream = server.connect().await;
    call(&mut stream, "GET /healthz").await;
    assert!(is_closed(&mut stream).await);
    server.stop().await;
}

#[tokio::test]
async fn what_is_in_flight_is_answered_before_the_end() {
    let server = Server::start(connection_timeouts());
    let held = server.front.world.hold("/Checkout");
    let mut busy = server.connect().await;
    let mut idle = server.connect().await;
    call(&mut idle, "GET /healthz").await;
    send(&mut busy, "POST /orders/checkout/1 HTTP/1.1").await;
    server.front.world.arrival("/Checkout").await;
    let Server { address, stop, running, front, .. } = server;
    stop.send(()).unwrap();
    while !front.bridge.is_draining() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Open connections are told, not cut. New ones are still accepted for a moment.
    let told = call(&mut idle, "GET /stock/find/1").await;
    assert!(told.starts_with("HTTP/1.1 200 ") && told.contains("connection: close"), "{told}");
    assert!(is_closed(&mut idle).await);
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, refused).await.unwrap();
    assert!(!running.is_finished(), "it waits for what is in flight");
    held.notify_one();
    let answer = receive(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    timeout(LONG, running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn the_end_comes_although_something_hangs() {
    let drain = Duration::from_millis(300);
    let server = Server::start(ConnectionTimeouts { drain, ..connection_timeouts() });
    server.front.world.plan("", "/Checkout", Trouble::Silence, usize::MAX);
    let mut busy = server.connect().await;
    send(&mut busy, "POST /orders/checkout/1 HTTP/1.1").await;
    server.front.world.arrival("/Checkout").await;
    server.stop().await;
}

#[tokio::test]
async fn work_outlives_a_connection_that_breaks() {
    let server = Server::start(connection_timeouts());
    let held = server.front.world.hold("/Checkout");
    let mut stream = server.connect().await;
    send(&mut stream, "POST /orders/checkout/1 HTTP/1.1").await;
    server.front.world.arrival("/Checkout").await;
    drop(stream);
    tokio::time::sleep(Duration::from_millis(50)).await;
    held.notify_one();
    let world = server.front.world.clone();
    server.stop().await;
    assert!(world.state().orders["1"].paid);
}

#[tokio::test]
async fn an_old_connection_ends_with_its_next_answer() {
    let server = Server::start(ConnectionTimeouts {
        max_age: Duration::from_millis(300),
        ..connection_timeouts()
    });
    let mut stream = server.connect().await;
    assert!(!call(&mut stream, "GET /healthz").await.contains("connection: close"));
    tokio::time::sleep(Duration::from_millis(400)).await;
    let answer = call(&mut stream, "GET /healthz").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"),
        "{answer}"
    );
    assert!(is_closed(&mut stream).await);
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_long_is_refused() {
    let server = Server::start(connection_timeouts());
    let mut stream = server.connect().await;
    let long = format!("GET /healthz HTTP/1.1\r\nHost: till\r\nX-Long: {}", "a".repeat(70_000));
    // The write may fail: the bridge may close the connection before it has read the rest.
    drop(stream.write_all(long.as_bytes()).await);
    let answer = receive(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_waits_for_another_to_end() {
    let server = Server::start(ConnectionTimeouts { connections_max: 1, ..connection_timeouts() });
    let mut first = server.connect().await;
    call(&mut first, "GET /healthz").await;
    let mut second = server.connect().await;
    let mut answer = std::pin::pin!(call(&mut second, "GET /healthz"));
    let early = timeout(Duration::from_millis(300), answer.as_mut()).await;
    assert!(early.is_err(), "{early:?}");
    drop(first);
    assert!(answer.await.starts_with("HTTP/1.1 200 "));
    server.stop().await;
}

#[tokio::test]
async fn operators_see_how_many_connections_are_open() {
    // More than all other tests of this process open together.
    const MANY: i64 = 300;
    let server = Server::start(connection_timeouts());
    let is_seen = || telemetry::metrics().http_connections.get() >= MANY;
    let until = async |seen: bool| {
        while is_seen() != seen {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let mut connections = Vec::new();
    for _ in 0..MANY {
        connections.push(server.connect().await);
    }
    timeout(LONG, until(true)).await.expect("they are counted");
    drop(connections);
    timeout(LONG, until(false)).await.expect("their end is counted");
    server.stop().await;
}
