//! The memory that clients can make the bridge hold is bounded, as docs/security.md says. Each test
//! drives one bound against a bridge in a process of its own, and reads how much that process has
//! grown.

use std::{
    any::Any,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt as _;
use http_bridge::ConnectionTimeouts;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{
    shop::Front,
    sockets::{Server, connection_timeouts},
};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Set in the process whose memory is measured.
const MEASURED: &str = "BRIDGE_OF_ITS_OWN";

#[tokio::test]
#[allow(clippy::print_stdout, reason = "the parent process reads its address")]
async fn a_bridge_of_its_own() {
    if !std::env::vars_os().any(|(name, _)| name == MEASURED) {
        return;
    }
    let server =
        Server::start(ConnectionTimeouts { connections_max: 50_000, ..connection_timeouts() });
    println!("at {}", server.address);
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    ended.await.unwrap().unwrap();
}

struct Bridge {
    process: Child,
    _output: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Bridge {
    fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "memory::a_bridge_of_its_own", "--nocapture"])
            .env(MEASURED, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert!(output.read_line(&mut line).unwrap() > 0, "the bridge did not start");
            if let Some((_, address)) = line.split_once("at ") {
                break address.trim().parse().unwrap();
            }
        };
        Self { process, _output: output, address }
    }

    /// Its resident memory, in bytes.
    fn memory(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * KIB
    }

    /// How much its memory has grown, once it no longer changes.
    async fn growth(&self, since: usize) -> usize {
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let now = self.memory();
            if now.abs_diff(before) < 256 * KIB {
                return now.saturating_sub(since);
            }
            before = now;
        }
    }

    async fn http2(&self, window: u32) -> h2::client::SendRequest<Bytes> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_max_send_streams(256);
        let (sender, connection) = builder.handshake(stream).await.unwrap();
        tokio::spawn(connection);
        sender.ready().await.unwrap()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[allow(clippy::print_stdout, reason = "the output has the figures")]
fn report(what: &str, count: usize, growth: usize) {
    println!("{what}: {count} of them, {} KiB in all, {} bytes each", growth / KIB, growth / count);
}

/// Opens 256 requests on each of `connections`, each on a stream of its own: with a piece of a body
/// that never ends, or without a body and with an answer that is never taken. They go on until they
/// are dropped.
async fn streams(
    bridge: &Bridge,
    connections: usize,
    request: impl Fn() -> Request<()>,
    body: Option<usize>,
) -> Vec<Box<dyn Any>> {
    let mut kept: Vec<Box<dyn Any>> = Vec::new();
    for _ in 0..connections {
        let mut client = bridge.http2(if body.is_some() { 65_535 } else { 0 }).await;
        for _ in 0..256 {
            client = client.ready().await.unwrap();
            let (response, mut stream) = client.send_request(request(), body.is_none()).unwrap();
            if let Some(bytes) = body {
                stream.send_data(Bytes::from(vec![b'x'; bytes]), false).unwrap();
            }
            kept.push(Box::new((response, stream)));
        }
        kept.push(Box::new(client));
    }
    kept
}

fn asking(method: &str, path: &str) -> Request<()> {
    let uri = format!("http://till{path}");
    Request::builder().method(method).uri(uri).body(()).unwrap()
}

#[tokio::test]
async fn answers_that_are_not_taken_share_their_bytes() {
    let bridge = Bridge::start();
    let before = bridge.memory();
    let kept = streams(&bridge, 8, || asking("GET", "/openapi.json"), None).await;
    let growth = bridge.growth(before).await;
    report("streams whose answer waits", kept.len(), growth);
    assert!(growth < 8 * 256 * 20 * KIB, "{} MiB", growth / MIB);
}

/// The first part of a file's answer.
async fn first_part(router: &axum::Router, path: &str) -> Bytes {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let response = tower::ServiceExt::oneshot(router.clone(), request).await.unwrap();
    assert_eq!(response.status(), 200, "{path}");
    let part = response.into_body().frame().await.unwrap().unwrap();
    part.into_data().unwrap()
}

#[tokio::test]
async fn all_answers_share_the_bytes_of_a_file() {
    let bridge = Front::filled().bridge;
    let rest = bridge.router();
    let operators = bridge.operators_console();
    for (router, path) in [
        (&rest, "/openapi.json"),
        (&rest, "/docs/swagger-ui-bundle.js"),
        (&rest, "/docs/swagger-ui.css"),
        (&rest, "/console"),
        (&rest, "/console/console.css"),
        (&operators, "/console/operate.js"),
    ] {
        let (one, other) = (first_part(router, path).await, first_part(router, path).await);
        assert!(!one.is_empty(), "{path}");
        assert_eq!(one.as_ptr(), other.as_ptr(), "{path} is copied");
    }
}

#[tokio::test]
async fn bodies_are_not_kept() {
    let bridge = Bridge::start();
    let before = bridge.memory();
    // 60 KiB for each would be 120 MiB.
    let kept = streams(&bridge, 8, || asking("POST", "/stock/add/1/1"), Some(60 * KIB)).await;
    let growth = bridge.growth(before).await;
    report("unfinished bodies", kept.len(), growth);
    assert!(growth < 8 * 256 * 20 * KIB, "{} MiB", growth / MIB);
}

#[tokio::test]
async fn long_heads_over_http2_are_bounded_for_all_connections_together() {
    let bridge = Bridge::start();
    let before = bridge.memory();
    let request = || {
        let long = "a".repeat(60 * KIB);
        let uri = "http://till/stock/add/1/1";
        Request::post(uri).header("x-long", long).body(()).unwrap()
    };
    // It would be 240 MiB without a bound.
    let kept = streams(&bridge, 16, request, Some(1)).await;
    let growth = bridge.growth(before).await;
    report("long heads over HTTP/2", kept.len(), growth);
    assert!(growth < 110 * MIB, "{} MiB", growth / MIB);
}

#[tokio::test]
async fn long_heads_over_http1_are_bounded_for_all_connections_together() {
    let bridge = Bridge::start();
    let before = bridge.memory();
    let mut kept = Vec::new();
    let head = format!("GET / HTTP/1.1\r\nHost: t\r\nX-Long: {}", "a".repeat(60 * KIB));
    // It would be 180 MiB without a bound.
    for _ in 0..3_000 {
        let mut stream = TcpStream::connect(bridge.address).await.unwrap();
        // Connections beyond the bound are cut.
        drop(stream.write_all(head.as_bytes()).await);
        kept.push(stream);
    }
    let growth = bridge.growth(before).await;
    report("long heads over HTTP/1.1", kept.len(), growth);
    assert!(growth < 110 * MIB, "{} MiB", growth / MIB);
}

#[tokio::test]
async fn a_connection_costs_little() {
    for (name, bytes) in [
        ("fresh connections", &b""[..]),
        ("heads that have begun", b"GET / HTTP/1.1\r\nHost: t\r\nA: "),
        ("answered connections", b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n"),
        ("connections over HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"),
    ] {
        let bridge = Bridge::start();
        let before = bridge.memory();
        let mut kept = Vec::new();
        for _ in 0..2_000 {
            let mut stream = TcpStream::connect(bridge.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            kept.push(stream);
        }
        let growth = bridge.growth(before).await;
        report(name, kept.len(), growth);
        let most = if name.ends_with('2') { 48 * KIB } else { 24 * KIB };
        assert!(growth < kept.len() * most, "{name}: {} bytes each", growth / kept.len());
    }
}
