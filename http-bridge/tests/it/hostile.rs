//! Clients that try to keep a connection or a stream open for ever.

use std::time::Duration;

use http::Request;
use http_bridge::ConnectionTimeouts;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, timeout},
};

use crate::sockets::{LONG, Server, call, connection_timeouts, is_closed, receive};

const SOON: Duration = Duration::from_millis(300);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// HEADERS of stream 1 with an indexed ":method: GET", to be continued.
const OPEN_HEADERS: &[u8] = &[0, 0, 1, 1, 1, 0, 0, 0, 1, 0x82];

fn hasty() -> ConnectionTimeouts {
    ConnectionTimeouts { header_read: SOON, ..connection_timeouts() }
}

/// An HTTP/2 client that takes at most `bytes` bytes of each answer.
pub(crate) async fn taking(server: &Server, bytes: u32) -> h2::client::SendRequest<bytes::Bytes> {
    let stream = server.connect().await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(bytes).initial_max_send_streams(1_000);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(crate) fn get(path: &str) -> Request<()> {
    Request::get(format!("http://till{path}")).body(()).unwrap()
}

#[tokio::test]
async fn what_only_begins_loses_its_connection() {
    let server = Server::start(hasty());
    let whole = b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n";
    let posted = b"POST /stock/add/1/1 HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello";
    let chunked =
        b"POST /stock/add/1/1 HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for (answered, begun) in [
        (&b""[..], &b"G"[..]),
        (b"", &PREFACE[..20]),
        (b"", PREFACE),
        (b"", &[PREFACE, &SETTINGS[..5]].concat()),
        (b"", &[PREFACE, SETTINGS, OPEN_HEADERS].concat()),
        (whole, b"GET /hea"),
        (posted, b"GET /hea"),
        (chunked, b"GET /hea"),
    ] {
        let mut stream = server.connect().await;
        stream.write_all(&[answered, begun].concat()).await.unwrap();
        if !answered.is_empty() {
            assert!(receive(&mut stream).await.starts_with("HTTP/1.1 200 "));
        }
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        assert!(timeout(LONG, ended).await.is_ok(), "{answered:?} {begun:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn what_is_whole_keeps_its_connection() {
    let server = Server::start(hasty());
    let posted = "POST /stock/add/1/1 HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhello";
    let chunked = "POST /stock/add/1/1 HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n";
    let whole = "GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n";
    for requests in
        [&[whole][..], &[posted], &[chunked], &[whole, whole, whole], &[posted, chunked]]
    {
        let mut stream = server.connect().await;
        stream.write_all(requests.concat().as_bytes()).await.unwrap();
        for _ in requests {
            assert!(receive(&mut stream).await.starts_with("HTTP/1.1 200 "), "{requests:?}");
        }
        tokio::time::sleep(SOON * 3).await;
        assert!(
            call(&mut stream, "GET /healthz").await.starts_with("HTTP/1.1 200 "),
            "{requests:?}"
        );
    }
    server.stop().await;
}

#[tokio::test]
async fn a_stream_whose_answer_is_not_taken_is_reset_and_the_others_go_on() {
    let server = Server::start(hasty());
    // Windows of no bytes, of a few, and of several of an answer's pieces.
    for window in [0, 1, 100, 40_000] {
        let mut client = taking(&server, window).await;
        let mut stalled = Vec::new();
        for path in ["/openapi.json", "/docs/swagger-ui-bundle.js", "/openapi.json"] {
            client = client.ready().await.unwrap();
            let (response, _) = client.send_request(get(path), true).unwrap();
            let mut body = timeout(LONG, response).await.unwrap().unwrap().into_body();
            stalled.push(async move {
                // Read what fits into the window, and do not give the room back.
                while let Some(read) = body.data().await {
                    if let Err(error) = read {
                        return error;
                    }
                }
                panic!("the answer of {path} came whole")
            });
        }
        let errors = timeout(LONG, futures::future::join_all(stalled)).await.unwrap();
        for error in errors {
            assert!(error.is_reset(), "{window}: {error}");
        }
        // The answer to a probe fits into the window.
        if window >= 100 {
            let mut client = client.ready().await.unwrap();
            let (response, _) = client.send_request(get("/healthz"), true).unwrap();
            assert_eq!(timeout(LONG, response).await.unwrap().unwrap().status(), 200);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_small_answer_that_is_taken_in_part_ends_its_connection() {
    let server = Server::start(hasty());
    let client = taking(&server, 1).await;
    let mut client = client.ready().await.unwrap();
    let (response, _) = client.send_request(get("/stock/find/1"), true).unwrap();
    let mut body = timeout(LONG, response).await.unwrap().unwrap().into_body();
    assert_eq!(timeout(LONG, body.data()).await.unwrap().unwrap().unwrap().len(), 1);
    let ended = timeout(LONG, body.data()).await.unwrap();
    assert!(!matches!(ended, Some(Ok(_))), "{ended:?}");
    assert!(client.ready().await.is_err(), "the connection goes on");
    server.stop().await;
}

#[tokio::test]
async fn a_slow_client_that_takes_something_gets_all_of_it() {
    let patience = Duration::from_secs(2);
    let server =
        Server::start(ConnectionTimeouts { header_read: patience, ..connection_timeouts() });
    let client = taking(&server, 20_000).await;
    let mut client = client.ready().await.unwrap();
    let (response, _) = client.send_request(get("/openapi.json"), true).unwrap();
    let response = timeout(LONG, response).await.unwrap().unwrap();
    let length: usize = response.headers()["content-length"].to_str().unwrap().parse().unwrap();
    let mut body = response.into_body();
    let mut taken = 0;
    // The whole takes longer than a client may take nothing.
    while let Some(part) = timeout(LONG, body.data()).await.unwrap() {
        let part = part.unwrap().len();
        taken += part;
        tokio::time::sleep(patience / 10).await;
        body.flow_control().release_capacity(part).unwrap();
    }
    assert_eq!(taken, length);
    server.stop().await;
}

#[tokio::test]
async fn an_old_connection_is_closed_after_its_grace_whatever_waits_on_it() {
    let max_age = Duration::from_millis(300);
    let grace = Duration::from_millis(700);
    let server = Server::start(ConnectionTimeouts { max_age, grace, ..connection_timeouts() });
    let mut client = taking(&server, 0).await.ready().await.unwrap();
    let (response, _) = client.send_request(get("/openapi.json"), true).unwrap();
    let mut body = timeout(LONG, response).await.unwrap().unwrap().into_body();
    let ended = timeout(LONG, body.data()).await.unwrap();
    assert!(matches!(ended, Some(Err(_)) | None), "{ended:?}");
    let mut busy = server.connect().await;
    // The same over HTTP/1.1: a request whose body never comes.
    busy.write_all(b"POST /stock/add/1/1 HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\n")
        .await
        .unwrap();
    assert!(is_closed(&mut busy).await);
    server.stop().await;
}

#[tokio::test]
async fn one_connection_has_so_many_streams_at_once_and_no_more() {
    let server = Server::start(connection_timeouts());
    let mut client = taking(&server, 0).await;
    client = client.ready().await.unwrap();
    let (response, _) = client.send_request(get("/healthz"), true).unwrap();
    timeout(LONG, response).await.unwrap().unwrap();
    assert_eq!(client.current_max_send_streams(), 256);
    server.stop().await;
}

#[tokio::test]
async fn so_much_of_a_body_is_read_ahead_and_no_more() {
    let server = Server::start(connection_timeouts());
    let mut stream = server.connect().await;
    stream.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    // A client may send as many bytes as the windows allow before anything is read.
    let (mut of_stream, mut of_connection) = (None, None);
    while of_stream.is_none() || of_connection.is_none() {
        let mut head = [0; 9];
        timeout(LONG, stream.read_exact(&mut head)).await.unwrap().unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length.try_into().unwrap()];
        timeout(LONG, stream.read_exact(&mut payload)).await.unwrap().unwrap();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        match (head[3], number(&head[5..])) {
            // SETTINGS, unless it acknowledges ours. INITIAL_WINDOW_SIZE is the fourth.
            (4, 0) if head[4] == 0 => {
                let window = payload.chunks(6).find(|setting| setting[..2] == [0, 4]);
                of_stream = window.map(|setting| number(&setting[2..]));
                assert!(of_stream.is_some(), "{payload:?}");
            }
            // WINDOW_UPDATE of the connection, which begins with 65,535.
            (8, 0) => of_connection = Some(65_535 + number(&payload)),
            _ => {}
        }
    }
    assert_eq!((of_stream, of_connection), (Some(64 * 1024), Some(256 * 1024)));
    drop(stream);
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_was_asked_to_end_does_not_stay_open() {
    let keep_alive_idle = Duration::from_millis(200);
    let server = Server::start(ConnectionTimeouts { keep_alive_idle, ..connection_timeouts() });
    let mut stream = server.connect().await;
    stream.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
    timeout(LONG, stream.read_exact(&mut [0; 9])).await.unwrap().unwrap();
    // From here on time passes at once.
    tokio::time::pause();
    let began = Instant::now();
    // The client is asked to end the connection, and does nothing. It does not answer pings either,
    // but these would close the connection only after 50 s.
    let mut said = Vec::new();
    let ended = timeout(Duration::from_mins(5), stream.read_to_end(&mut said)).await;
    tokio::time::resume();
    assert!(ended.is_ok(), "it is still open");
    let took = began.elapsed();
    assert!((Duration::from_secs(8)..Duration::from_secs(25)).contains(&took), "{took:?}");
    server.stop().await;
}
