//! What clients can make the server hold: connections, requests and their bytes.

use crate::support::Server;
use bytes::Bytes;
use dev_kv::wire::{kvrpcpb, pdpb};
use futures::{SinkExt as _, StreamExt as _, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use serde_json::json;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::codegen::Service as _;

/// Nothing should take longer than this.
const LONG: Duration = Duration::from_secs(20);
/// Slow operations may take longer than this.
const SHORT: Duration = Duration::from_millis(300);

/// Asks for the version over HTTP/1.1 and leaves the connection open.
async fn version_over(stream: &mut TcpStream) -> std::io::Result<usize> {
    stream.write_all(b"GET /pd/api/v1/version HTTP/1.1\r\nHost: localhost\r\n\r\n").await?;
    stream.read(&mut [0; 1024]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_asks_for_nothing_is_cut_and_one_that_has_asked_is_not() {
    let server = Server::start_with(|config| config.bounds.first_request = SHORT).await;
    for begun in [&b""[..], b"PRI * HTTP/2.0\r\n\r\nSM", b"GET /pd/api/v1/version HTT"] {
        let mut stream = TcpStream::connect(&server.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let cut = timeout(LONG, stream.read(&mut [0; 64])).await.expect("it stays open");
        assert!(matches!(cut, Ok(0) | Err(_)), "{begun:?}: {cut:?}");
    }
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    assert!(version_over(&mut stream).await.unwrap() > 0);
    tokio::time::sleep(3 * SHORT).await;
    assert!(version_over(&mut stream).await.unwrap() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_connections_than_there_may_be_wait_until_one_ends() {
    let server = Server::start_with(|config| config.bounds.connections_max = 1).await;
    let mut first = TcpStream::connect(&server.address).await.unwrap();
    assert!(version_over(&mut first).await.unwrap() > 0);
    let mut second = TcpStream::connect(&server.address).await.unwrap();
    assert!(timeout(SHORT, version_over(&mut second)).await.is_err(), "one too many");
    drop(first);
    let answered = timeout(LONG, second.read(&mut [0; 1024])).await.expect("its turn has come");
    assert!(answered.unwrap() > 0);
}

/// A call to the store whose body has these frames, and then stays open.
fn open_call(frames: Vec<Bytes>) -> axum::http::Request<tonic::body::Body> {
    open_call_of("/tikvpb.Tikv/KvPrewrite", frames)
}

fn open_call_of(path: &str, frames: Vec<Bytes>) -> axum::http::Request<tonic::body::Body> {
    let frames = frames.into_iter().map(|data| Ok::<_, tonic::Status>(Frame::data(data)));
    let body = StreamBody::new(stream::iter(frames).chain(stream::pending()));
    axum::http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(body))
        .unwrap()
}

/// The first five bytes of a gRPC message, which tell the length of the rest.
fn announced(length: u32) -> Bytes {
    Bytes::from([&[0][..], &length.to_be_bytes()].concat())
}

/// The status in the head of an answer; none if no answer comes.
async fn status_of(
    channel: &tonic::transport::Channel,
    request: axum::http::Request<tonic::body::Body>,
    patience: Duration,
) -> Option<tonic::Status> {
    let mut channel = channel.clone();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let answer = timeout(patience, channel.call(request)).await.ok()?.unwrap();
    Some(tonic::Status::from_header_map(answer.headers()).expect("a refusal"))
}

/// Nothing of the message has to be sent for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_beyond_256_mib_is_refused_by_its_header() {
    let server = Server::start().await;
    let channel = server.channel().await;
    let too_long = open_call(vec![announced((256 << 20) + 1)]);
    let status = status_of(&channel, too_long, LONG).await.expect("no answer");
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status:?}");
    server.stop().await;
}

/// Bytes of this process. `VmSize:` has what is reserved and not written to, too.
fn bytes_of(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// A decoder reserves what is announced: here, 50 GiB.
#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_announced_and_do_not_come_take_no_memory() {
    let server = Server::start_with(|config| config.bounds.patience = 10 * SHORT).await;
    let channel = server.channel().await;
    let before = bytes_of("VmSize:");
    let calls = (0..200).map(|_| {
        let body = vec![announced(256 << 20), Bytes::from(vec![7; 1_000])];
        status_of(&channel, open_call(body), LONG)
    });
    let mut answered = futures::future::join_all(calls);
    assert!(timeout(3 * SHORT, &mut answered).await.is_err(), "they wait for their bodies");
    let grown = bytes_of("VmSize:").saturating_sub(before);
    assert!(grown < 4 << 30, "{grown} bytes");
    for status in answered.await {
        assert_eq!(status.expect("no answer").code(), tonic::Code::DeadlineExceeded);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placement_driver_takes_no_long_message() {
    let server = Server::start().await;
    let channel = server.channel().await;
    for path in ["/pdpb.PD/GetStore", "/keyspacepb.Keyspace/LoadKeyspace"] {
        let too_long = open_call_of(path, vec![announced((32 << 10) + 1)]);
        let status = status_of(&channel, too_long, LONG).await.expect("no answer");
        assert_eq!(status.code(), tonic::Code::OutOfRange, "{path}: {status:?}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_there_may_be_in_flight_are_refused() {
    let server = Server::start_with(|config| config.bounds.in_flight_max = 2).await;
    let channel = server.channel().await;
    let open = || status_of(&channel, open_call(vec![]), LONG);
    let mut in_flight = futures::future::join(Box::pin(open()), Box::pin(open()));
    assert!(timeout(SHORT, &mut in_flight).await.is_err(), "they wait for their bodies");
    let refused = status_of(&channel, open_call(vec![]), LONG).await.expect("no answer");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted, "{refused:?}");
    assert_eq!(server.page("/dev-kv/v1/stats").await["traffic"]["refused"], 1);
    drop(in_flight);
    crate::support::eventually("their places are free", || async {
        server.kv().await.kv_get(kvrpcpb::GetRequest::default()).await.is_ok()
    })
    .await;
    server.stop().await;
}

/// A call that waits for a fault is in flight, and the page that ends the fault has a place.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_a_fault_delays_have_places_and_pages_have_their_own() {
    let server = Server::start_with(|config| config.bounds.in_flight_max = 1).await;
    let delay = json!({ "kind": "latency", "delay": { "fixed": 60_000 } });
    server.fault(json!({ "rpc": "KvGet", "fault": delay })).await;
    let mut kv = server.kv().await;
    let slow = tokio::spawn(async move { kv.kv_get(kvrpcpb::GetRequest::default()).await });
    let mut kv = server.kv().await;
    crate::support::eventually("it is refused", || {
        let mut kv = kv.clone();
        async move {
            let refused = kv.kv_scan(kvrpcpb::ScanRequest::default()).await;
            refused.is_err_and(|status| status.code() == tonic::Code::ResourceExhausted)
        }
    })
    .await;
    server.no_faults().await;
    slow.abort();
    crate::support::eventually("its place is free", || {
        let mut kv = kv.clone();
        async move { kv.kv_scan(kvrpcpb::ScanRequest::default()).await.is_ok() }
    })
    .await;
    drop(kv.kv_scan(kvrpcpb::ScanRequest::default()).await.unwrap());
    server.stop().await;
}

/// Opens a page with a body that does not come.
async fn page_without_its_body(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let head = "POST /dev-kv/v1/faults HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nContent-Length: 9\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn more_pages_than_there_may_be_at_once_are_unavailable() {
    let server = Server::start_with(|config| config.bounds.patience = 20 * SHORT).await;
    let mut open = Vec::new();
    for _ in 0..256 {
        open.push(page_without_its_body(&server).await);
    }
    let mut answer = String::new();
    let asked = async {
        loop {
            let mut stream = TcpStream::connect(&server.address).await.unwrap();
            let get =
                b"GET /pd/api/v1/version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            stream.write_all(get).await.unwrap();
            answer.clear();
            stream.read_to_string(&mut answer).await.unwrap();
            if answer.starts_with("HTTP/1.1 503") {
                break;
            }
        }
    };
    timeout(LONG, asked).await.expect("they have places");
    assert!(answer.contains("application/problem+json"), "{answer}");
    let given_up = timeout(LONG, open[0].read(&mut [0; 64])).await.expect("it waits for ever");
    assert!(given_up.unwrap() > 0);
    server.stop().await;
}

/// A page's body has no messages, so nothing in it announces a length.
#[tokio::test(flavor = "multi_thread")]
async fn a_page_reads_no_more_of_a_long_body_than_it_may() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let head = "POST /dev-kv/v1/faults HTTP/1.1\r\nHost: localhost\r\n\
                Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("{:x}\r\n{}\r\n", 64 << 10, "{\n  \"x ".repeat((64 << 10) / 8));
    let mut sent = 0;
    // It answers, and closes a connection whose body nobody reads.
    while sent < 64 << 20 && stream.write_all(chunk.as_bytes()).await.is_ok() {
        sent += chunk.len();
    }
    assert!(sent < 16 << 20, "{sent} bytes were taken");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_requests_are_counted_together_and_a_stream_has_those_of_one_message() {
    let server = Server::start_with(|config| config.bounds.held_bytes_max = 40 << 10).await;
    let channel = server.channel().await;
    let body = |bytes| vec![announced(1 << 20), Bytes::from(vec![7; bytes])];
    let mut first = Box::pin(status_of(&channel, open_call(body(50 << 10)), LONG));
    assert!(timeout(SHORT, &mut first).await.is_err(), "there is room for one");
    let second = status_of(&channel, open_call(body(50 << 10)), LONG).await.expect("no answer");
    assert_eq!(second.code(), tonic::Code::ResourceExhausted, "{second:?}");
    drop(first);
    // More in all than calls of a placement driver may hold.
    let dc_location = "x".repeat(30 << 10);
    let long = pdpb::TsoRequest { count: 1, dc_location, ..pdpb::TsoRequest::default() };
    let requests = stream::iter(std::iter::repeat_n(long, 800));
    let answers = server.pd().await.tso(requests).await.unwrap().into_inner();
    assert_eq!(answers.filter(|answer| std::future::ready(answer.is_ok())).count().await, 800);
    server.stop().await;
}

/// Requests for timestamps wait while their answers are not taken.
#[tokio::test(flavor = "multi_thread")]
async fn requests_whose_answers_nobody_takes_hold_no_more_than_their_numbers() {
    let server = Server::start().await;
    let dc_location = "x".repeat(30 << 10);
    let long = pdpb::TsoRequest { count: 1, dc_location, ..pdpb::TsoRequest::default() };
    let before = bytes_of("VmRSS:");
    let mut streams = Vec::new();
    for _ in 0..8 {
        let (sender, requests) = futures::channel::mpsc::channel(1);
        streams.push((server.pd().await.tso(requests).await.unwrap(), sender));
    }
    let delay = json!({ "kind": "latency", "delay": { "fixed": 60_000 } });
    server.fault(json!({ "rpc": "Tso", "fault": delay })).await;
    for (_, sender) in &mut streams {
        for _ in 0..1_000 {
            sender.send(long.clone()).await.unwrap();
        }
    }
    let grown = bytes_of("VmRSS:").saturating_sub(before);
    drop(streams);
    assert!(grown < 128 << 20, "{grown} bytes");
    server.stop().await;
}

/// A client that grants no window for answers, and answers pings.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_of_an_answer_is_cut() {
    let server = Server::start_with(|config| config.bounds.stall = SHORT).await;
    let mut pd = server.pd().await;
    let (_sender, requests) = futures::channel::mpsc::unbounded();
    let mut open = pd.tso(requests).await.unwrap().into_inner();
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let mut client = h2::client::Builder::new();
    client.initial_window_size(0);
    let (mut client, connection) = client.handshake::<_, Bytes>(stream).await.unwrap();
    let driven = tokio::spawn(connection);
    let request =
        axum::http::Request::post(format!("http://{}/pdpb.PD/GetMembers", server.address))
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data(announced(0), true).unwrap();
    let _answer = answer.await.unwrap();
    drop(timeout(LONG, driven).await.expect("it stays").unwrap());
    let ended = timeout(SHORT, open.next()).await;
    assert!(ended.is_err(), "a stream with nothing to take stays: {ended:?}");
    server.stop().await;
}

/// Over HTTP/1.1, where a small answer is handed to the socket as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_its_socket_is_cut() {
    let server = Server::start_with(|config| config.bounds.stall = SHORT).await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    let asked = async {
        let ask = b"GET /dev-kv/v1/stats HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(100);
        while stream.write_all(&ask).await.is_ok() {}
    };
    timeout(LONG, asked).await.expect("it stays");
    server.stop().await;
}

/// The server announces the bound in the first HTTP/2 frame, SETTINGS, and its HTTP/2 library
/// enforces it.
#[tokio::test(flavor = "multi_thread")]
async fn one_connection_is_told_how_many_calls_it_may_have_open() {
    const SETTINGS: u8 = 4;
    const STREAMS_MAX: u16 = 3;
    let server = Server::start().await;
    let mut stream = TcpStream::connect(&server.address).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    // Our own SETTINGS, without any.
    stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
    let mut head = [0; 9];
    timeout(LONG, stream.read_exact(&mut head)).await.expect("no frame").unwrap();
    assert_eq!(head[3], SETTINGS);
    let mut told = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    timeout(LONG, stream.read_exact(&mut told)).await.expect("no settings").unwrap();
    let streams = told
        .chunks_exact(6)
        .find(|setting| u16::from_be_bytes([setting[0], setting[1]]) == STREAMS_MAX)
        .map(|setting| u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]));
    assert_eq!(streams, Some(4_096));
}
