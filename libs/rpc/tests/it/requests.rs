//! What callers are answered: errors, overload, deadlines, health, reflection.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rpc::{
    net::{GrpcNet, Net as _, NetOptions},
    server::{LIVE, Options},
};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::codec::CompressionEncoding;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use types::ErrorKind;

use crate::shop::{
    NAME, NOT_SERVING, PATIENCE, SERVICE_UNKNOWN, SERVING, Shop, call, options, say,
};

#[tokio::test]
async fn health_follows_readiness_and_liveness_does_not() {
    let shop = Shop::open(options());
    for service in ["", NAME] {
        assert_eq!(shop.health(service).await.unwrap(), NOT_SERVING);
    }
    assert_eq!(shop.health(LIVE).await.unwrap(), SERVING);
    shop.readiness.ready();
    shop.until_health("", SERVING).await;
    shop.until_health(NAME, SERVING).await;
    shop.readiness.not_ready();
    shop.until_health("", NOT_SERVING).await;
    assert_eq!(shop.health(LIVE).await.unwrap(), SERVING);
    let unknown = shop.health("test.v1.NobodyService").await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn a_panic_is_an_internal_error_and_no_more() {
    let shop = Shop::open(options());
    let transport = shop.connect();
    let failure = call(&transport, "Panic", PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Internal);
    assert_eq!(failure.reason, "INTERNAL");
    let echoed = call(&transport, "Echo", PATIENCE).await.unwrap();
    assert_eq!(echoed.text, "hello");
}

#[tokio::test]
async fn one_request_too_many_is_refused_before_it_starts_and_probes_are_not() {
    let shop = Shop::open(Options { in_flight_max: 1, ..options() });
    let transport = shop.connect();
    let waiting = shop.begin_waiting(&transport).await;
    let failure = call(&transport, "Echo", PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Overloaded);
    assert!(failure.retry_after.is_some());
    assert_eq!(shop.health(LIVE).await.unwrap(), SERVING);
    shop.go.add_permits(1);
    waiting.await.unwrap().unwrap();
    call(&transport, "Echo", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_call_ends_with_its_deadline() {
    let shop = Shop::open(options());
    let failure = call(&shop.connect(), "Wait", Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Deadline);
}

#[tokio::test]
async fn nobody_there_is_unavailable() {
    let shop = Shop::open(options());
    shop.served.abort();
    let error = shop.served.await.unwrap_err();
    assert!(error.is_cancelled());
    let transport = GrpcNet::default().connect(&shop.address.into());
    let failure = call(&transport, "Echo", PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable);
}

/// A test for each version of reflection. Their messages are alike, but their types differ.
macro_rules! reflection_is_complete {
    ($test:ident, $version:ident) => {
        #[tokio::test]
        async fn $test() {
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };
            let shop = Shop::open(options());
            let transport = shop.connect();
            let ask = async |message| {
                let request =
                    ServerReflectionRequest { host: String::new(), message_request: Some(message) };
                let mut answers = ServerReflectionClient::new(transport.clone())
                    .server_reflection_info(tokio_stream::iter([request]))
                    .await
                    .unwrap()
                    .into_inner();
                answers.next().await.unwrap().unwrap().message_response.unwrap()
            };
            let listed = ask(MessageRequest::ListServices(String::new())).await;
            let MessageResponse::ListServicesResponse(list) = listed else { panic!("{listed:?}") };
            let mut names: Vec<String> = list.service.into_iter().map(|each| each.name).collect();
            names.sort();
            let reflection = ["v1", "v1alpha"]
                .map(|version| format!("grpc.reflection.{version}.ServerReflection"));
            let [v1, v1alpha] = &reflection;
            assert_eq!(names, ["grpc.health.v1.Health", v1, v1alpha, NAME]);
            // A client that lists services asks next for their descriptors. (The kit's own service
            // has none.)
            for name in names.iter().filter(|name| *name != NAME) {
                let described = ask(MessageRequest::FileContainingSymbol(name.clone())).await;
                let found = matches!(described, MessageResponse::FileDescriptorResponse(_));
                assert!(found, "{name}: {described:?}");
            }
        }
    };
}

reflection_is_complete!(reflection_lists_what_is_served, v1);
reflection_is_complete!(reflection_does_so_for_clients_that_know_only_v1alpha, v1alpha);

#[tokio::test]
async fn a_watch_of_an_unknown_service_says_so_and_stays_open() {
    let shop = Shop::open(options());
    let request = HealthCheckRequest { service: "test.v1.NobodyService".to_owned() };
    let mut watch = HealthClient::new(shop.connect()).watch(request).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status, SERVICE_UNKNOWN);
    shop.readiness.ready();
    shop.until_health("", SERVING).await;
    let more = timeout(Duration::from_millis(200), watch.next()).await;
    assert!(more.is_err(), "it goes on and says nothing: {more:?}");
    // The watch does not hold up the shutdown.
    shop.end.send(()).unwrap();
    let ended = timeout(PATIENCE, watch.next()).await.expect("the watch ends");
    assert!(ended.is_none(), "{ended:?}");
    timeout(PATIENCE, shop.served).await.expect("serving ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_watch_tells_changes_alone() {
    let shop = Shop::open(options());
    let request = HealthCheckRequest { service: NAME.to_owned() };
    let mut watch = HealthClient::new(shop.connect()).watch(request).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status, NOT_SERVING);
    shop.readiness.ready();
    assert_eq!(watch.next().await.unwrap().unwrap().status, SERVING);
    shop.readiness.not_ready();
    assert_eq!(watch.next().await.unwrap().unwrap().status, NOT_SERVING);
    // Draining is no news to watchers.
    shop.end.send(()).unwrap();
    let ended = timeout(PATIENCE, watch.next()).await.expect("the watch ends");
    assert!(ended.is_none(), "{ended:?}");
}

#[tokio::test]
async fn compressed_requests_are_taken() {
    let shop = Shop::open(options());
    let request = HealthCheckRequest { service: LIVE.to_owned() };
    let client = HealthClient::new(shop.connect()).send_compressed(CompressionEncoding::Gzip);
    let answer = client.clone().check(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.status, SERVING);
    let mut watch = client.clone().watch(request).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status, SERVING);
}

/// Sends bytes over a bare connection. Returns what comes back within a second, or `None` if the
/// connection is still open then.
async fn raw(shop: &Shop, bytes: &[u8]) -> Option<Vec<u8>> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(shop.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
    read.is_ok().then_some(answer)
}

#[tokio::test]
async fn a_connection_that_does_not_begin_is_cut() {
    let shop = Shop::open(Options {
        patience: Duration::from_millis(200),
        keep_alive_interval: Duration::from_secs(2),
        keep_alive_timeout: Duration::from_millis(100),
        ..options()
    });
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for bytes in [&preface[..0], &preface[..20]] {
        assert!(raw(&shop, bytes).await.is_some(), "{} bytes", bytes.len());
    }
    assert!(raw(&shop, preface).await.is_none(), "it has begun");
}

#[tokio::test]
async fn a_caller_that_answers_no_ping_is_cut() {
    let short = Duration::from_millis(100);
    let shop =
        Shop::open(Options { keep_alive_interval: short, keep_alive_timeout: short, ..options() });
    // The preface and empty SETTINGS.
    let begun = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    assert!(raw(&shop, begun).await.is_some(), "it is still open");
}

#[tokio::test]
async fn a_callee_that_answers_no_ping_is_given_up_before_the_deadline() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let short = Duration::from_millis(100);
    let net = GrpcNet::new(NetOptions {
        keep_alive_interval: short,
        keep_alive_timeout: short,
        ..NetOptions::default()
    });
    let transport = net.connect(&silent.local_addr().unwrap().into());
    let failure = call(&transport, "Echo", Duration::from_secs(5)).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable, "{failure}");
}

#[tokio::test]
async fn one_connection_has_so_many_streams_at_once_and_no_more() {
    for (options, streams) in [(options(), 10_000), (Options { streams_max: 3, ..options() }, 3)] {
        let shop = Shop::open(options);
        let stream = tokio::net::TcpStream::connect(shop.address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        let mut client = client.ready().await.unwrap();
        let request = http::Request::post(format!("http://{}/{NAME}/Echo", shop.address));
        let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(client.current_max_send_streams(), streams);
    }
}

#[tokio::test]
async fn one_connection_too_many_waits_for_a_place() {
    let shop = Shop::open(Options { connections_max: 1, ..options() });
    let (first, second) = (shop.connect(), shop.connect());
    call(&first, "Echo", PATIENCE).await.unwrap();
    let waiting = call(&second, "Echo", Duration::from_millis(300)).await;
    assert!(waiting.is_err());
    drop(first);
    call(&second, "Echo", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn requests_hold_so_many_bytes_together() {
    let shop = Shop::open(Options { held_bytes_max: 100_000, ..options() });
    let transport = shop.connect();
    let long = "x".repeat(80_000);
    let path = |method| format!("/{NAME}/{method}");
    let waits = {
        let (transport, long, path) = (transport.clone(), long.clone(), path("Wait"));
        tokio::spawn(async move { say(&transport, &path, &long, PATIENCE).await })
    };
    shop.until_begun(1).await;
    let failure = say(&transport, &path("Echo"), &long, PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Overloaded);
    call(&transport, "Echo", PATIENCE).await.unwrap();
    shop.go.add_permits(1);
    waits.await.unwrap().unwrap();
    say(&transport, &path("Echo"), &long, PATIENCE).await.unwrap();
}

/// Opens a stream over HTTP/2 whose client grants no window for the answer. Returns the connection,
/// while the answer is kept.
pub(crate) async fn take_nothing(
    shop: &Shop,
    path: &str,
    message: impl Into<bytes::Bytes>,
) -> Untaken {
    take(shop, path, message, 0).await
}

/// The same with so many bytes of window.
async fn take(shop: &Shop, path: &str, message: impl Into<bytes::Bytes>, window: u32) -> Untaken {
    let stream = tokio::net::TcpStream::connect(shop.address).await.unwrap();
    let mut client = h2::client::Builder::new();
    client.initial_window_size(window);
    let (mut client, connection) = client.handshake::<_, bytes::Bytes>(stream).await.unwrap();
    let driven = tokio::spawn(async move { drop(connection.await) });
    let request = http::Request::post(format!("http://{}{path}", shop.address))
        .header("content-type", "application/grpc")
        .body(())
        .unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data(message.into(), true).unwrap();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 200);
    Untaken { driven, _kept: (answer, client) }
}

pub(crate) struct Untaken {
    driven: tokio::task::JoinHandle<()>,
    _kept: (http::Response<h2::RecvStream>, h2::client::SendRequest<bytes::Bytes>),
}

/// A message with a text of five bytes.
const HELLO: &[u8] = b"\0\0\0\0\x07\x0a\x05hello";

#[tokio::test]
async fn an_answer_that_nobody_takes_is_in_flight() {
    let shop = Shop::open(Options { in_flight_max: 1, ..options() });
    let untaken = take_nothing(&shop, &format!("/{NAME}/Echo"), HELLO).await;
    let transport = shop.connect();
    let failure = call(&transport, "Echo", PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Overloaded);
    untaken.driven.abort();
    drop(untaken);
    let freed = async {
        while call(&transport, "Echo", PATIENCE).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, freed).await.unwrap();
}

#[tokio::test]
async fn what_everybody_may_ask_takes_no_place_of_a_caller() {
    let shop = Shop::open(Options { in_flight_max: 1, ..options() });
    let watch = "/grpc.health.v1.Health/Watch";
    let _untaken = take_nothing(&shop, watch, &b"\0\0\0\0\0"[..]).await;
    call(&shop.connect(), "Echo", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn an_old_connection_is_cut_whatever_it_is_at() {
    let age = Duration::from_millis(100);
    let shop = Shop::open(Options { max_connection_age: age, farewell: age, ..options() });
    let mut untaken = take_nothing(&shop, &format!("/{NAME}/Echo"), HELLO).await;
    timeout(PATIENCE, &mut untaken.driven).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_an_answer_is_cut() {
    let shop = Shop::open(Options { stall: Duration::from_millis(100), ..options() });
    let echo = format!("/{NAME}/Echo");
    let check = "/grpc.health.v1.Health/Check";
    for (path, message, window) in [
        (&*echo, HELLO, 0),
        (&*echo, HELLO, 1),
        (check, b"\0\0\0\0\0", 0),
        (check, b"\0\0\0\0\0", 1),
    ] {
        let mut untaken = take(&shop, path, message, window).await;
        timeout(PATIENCE, &mut untaken.driven).await.expect(path).unwrap();
    }
}

/// A socket from which nothing is read once this is set.
struct Deaf(tokio::net::TcpStream, std::sync::Arc<std::sync::atomic::AtomicBool>);

impl tokio::io::AsyncRead for Deaf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.1.load(std::sync::atomic::Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl tokio::io::AsyncWrite for Deaf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// It grants all of the window, so HTTP/2 has handed everything to the socket.
#[tokio::test]
async fn a_client_that_does_not_read_its_socket_is_cut() {
    const CALLS: usize = 64;
    let stall = Duration::from_millis(300);
    let shop = Shop::open(Options { stall, in_flight_max: CALLS, ..options() });
    let stream = tokio::net::TcpStream::connect(shop.address).await.unwrap();
    let deaf = std::sync::Arc::default();
    let stream = Deaf(stream, std::sync::Arc::clone(&deaf));
    let mut client = h2::client::Builder::new();
    client.initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
    let (mut client, connection) = client.handshake::<_, bytes::Bytes>(stream).await.unwrap();
    tokio::spawn(async move { drop(connection.await) });
    tokio::time::sleep(Duration::from_millis(200)).await;
    deaf.store(true, std::sync::atomic::Ordering::Relaxed);
    let text = vec![b'x'; 100_000];
    let field = [&b"\x0a\xa0\x8d\x06"[..], &text].concat();
    let length = u32::try_from(field.len()).unwrap().to_be_bytes();
    let message = bytes::Bytes::from([&[0], &length[..], &field].concat());
    let mut kept = Vec::new();
    for _ in 0..CALLS {
        let request = http::Request::post(format!("http://{}/{NAME}/Echo", shop.address))
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let (answer, mut body) = client.send_request(request, false).unwrap();
        body.send_data(message.clone(), true).unwrap();
        kept.push(answer);
    }
    let transport = shop.connect();
    let refused = async { while call(&transport, "Echo", PATIENCE).await.is_ok() {} };
    timeout(PATIENCE, refused).await.expect("its calls have no places");
    let free = async { while call(&transport, "Echo", PATIENCE).await.is_err() {} };
    timeout(PATIENCE, free).await.expect("they keep their places");
}

/// Its client has taken everything, and is not to blame.
#[tokio::test]
async fn a_stream_with_nothing_to_say_stays() {
    let shop = Shop::open(Options { stall: Duration::from_millis(50), ..options() });
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", shop.address));
    let mut health = HealthClient::new(endpoint.unwrap().connect().await.unwrap());
    let watch = health.watch(HealthCheckRequest { service: String::new() }).await.unwrap();
    let mut watch = watch.into_inner();
    watch.next().await.unwrap().unwrap();
    assert!(timeout(Duration::from_millis(400), watch.next()).await.is_err(), "it has ended");
}

#[tokio::test]
async fn a_stream_of_reflection_may_take_its_time() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest,
    };
    let shop = Shop::open(Options { patience: Duration::from_millis(100), ..options() });
    let list = || ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let (questions, asked) = tokio::sync::mpsc::channel(1);
    questions.send(list()).await.unwrap();
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    // Our own transport would read the stream to its end first.
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", shop.address));
    let mut client = ServerReflectionClient::new(endpoint.unwrap().connect().await.unwrap());
    let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
    answers.next().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    questions.send(list()).await.unwrap();
    answers.next().await.unwrap().unwrap();
}
