//! HTTP on the wire: malformed requests are refused with a problem, all others are served.

use axum::body::Body;
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::timeout,
};

use crate::sockets::{LONG, Server, connection_timeouts, is_closed, receive, send};

/// The answer to these bytes on a new connection.
async fn answer(server: &Server, bytes: &[u8]) -> String {
    let mut stream = server.connect().await;
    // The write may fail: the bridge may close the connection before it has read the rest.
    drop(stream.write_all(bytes).await);
    receive(&mut stream).await
}

fn is_problem(answer: &str, status: u16, reason: &str) -> bool {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_default();
    head.starts_with(&format!("HTTP/1.1 {status} "))
        && head.contains("content-type: application/problem+json")
        && body["status"] == status
        && body["reason"] == reason
}

#[tokio::test]
async fn what_is_no_request_is_refused_with_a_problem() {
    let server = Server::start(connection_timeouts());
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..],
        b"GET /healthz HTTP/9.9\r\nHost: t\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: t\r\nNo colon\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: t\r\nA: \0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost : t\r\n\r\n",
        b"GET /heal thz HTTP/1.1\r\nHost: t\r\n\r\n",
        b"PRI * HTTP/2.1\r\nHost: t\r\n\r\n",
    ] {
        let answer = answer(&server, bytes).await;
        assert!(is_problem(&answer, 400, "INVALID_ARGUMENT"), "{bytes:?}: {answer}");
        assert!(answer.contains("connection: close"), "{answer}");
    }
    // The same after an answer. Nothing more is answered then.
    let mut stream = server.connect().await;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: t\r\n\r\n").await.unwrap();
    assert!(receive(&mut stream).await.starts_with("HTTP/1.1 200 "));
    stream.write_all(b"G\0T / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(is_problem(&receive(&mut stream).await, 400, "INVALID_ARGUMENT"));
    assert!(is_closed(&mut stream).await);
    server.stop().await;
}

#[tokio::test]
async fn http1_names_its_host_once_and_its_body_one_way() {
    let server = Server::start(connection_timeouts());
    for (headers, field) in [
        ("", "Host"),
        ("Host: a\r\nHost: b\r\n", "Host"),
        ("Host: a\r\nTransfer-Encoding: gzip, chunked\r\n", "Transfer-Encoding"),
        (
            "Host: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding",
        ),
    ] {
        let body = if headers.contains("chunked") { "0\r\n\r\n" } else { "" };
        let request = format!("POST /stock/add/1/1 HTTP/1.1\r\n{headers}\r\n{body}");
        let answer = answer(&server, request.as_bytes()).await;
        assert!(is_problem(&answer, 400, "INVALID_ARGUMENT"), "{headers}: {answer}");
        assert!(answer.contains(&format!("\"field\":\"{field}\"")), "{answer}");
    }
    assert_eq!(server.front.world.state().items["1"].stock, 10);
    // HTTP/1.0 has no Host header.
    let answer = answer(&server, b"GET /healthz HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains(" 200 OK\r\n"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_head_of_64_kib_is_served_and_a_longer_one_refused_over_both_versions() {
    let server = Server::start(connection_timeouts());
    let stream = TokioIo::new(server.connect().await);
    let (mut http2, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let driven = tokio::spawn(connection);
    for (length, status) in [(20_000, 200), (63_000, 200), (66_000, 431), (100_000, 431)] {
        let long = "a".repeat(length);
        let request = format!("GET /healthz HTTP/1.1\r\nHost: t\r\nX-Long: {long}\r\n\r\n");
        let over_http1 = answer(&server, request.as_bytes()).await;
        let request = Request::get("http://t/healthz").header("x-long", long);
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let response = timeout(LONG, http2.send_request(request)).await.unwrap().unwrap();
        assert_eq!(response.status(), status, "{length}");
        let kind = response.headers()["content-type"].clone();
        if status == 431 {
            assert!(is_problem(&over_http1, 431, "HEAD_TOO_LARGE"), "{length}: {over_http1}");
            assert_eq!(kind, "application/problem+json");
        } else {
            assert!(over_http1.starts_with("HTTP/1.1 200 "), "{length}: {over_http1}");
        }
    }
    // The HTTP/2 library refuses a list of over 128 KiB by itself.
    let request = Request::get("http://t/healthz").header("x-long", "a".repeat(132_000));
    let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    let response = timeout(LONG, http2.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.status(), 431);
    assert!(response.headers().get("content-type").is_none(), "{response:?}");
    drop(http2);
    driven.await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_its_side_gets_its_answer() {
    let server = Server::start(connection_timeouts());
    let held = server.front.world.hold("/Checkout");
    let mut stream = server.connect().await;
    send(&mut stream, "POST /orders/checkout/1 HTTP/1.1").await;
    stream.shutdown().await.unwrap();
    server.front.world.arrival("/Checkout").await;
    // By then the bridge has noticed the closed side.
    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    held.notify_one();
    let mut answer = String::new();
    timeout(LONG, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn every_refusal_is_a_problem() {
    let server = Server::start(connection_timeouts());
    for (call, status) in [
        ("GET /docs/nothing.js", 404),
        ("GET /console/nothing.js", 404),
        ("GET /problems/nothing", 404),
        ("POST /docs/", 405),
        ("POST /openapi.json", 405),
        ("GET /stock/find/%zz", 400),
        ("OPTIONS * HTTP/1.1", 404),
    ] {
        let mut stream = server.connect().await;
        let line = call.strip_suffix(" HTTP/1.1").unwrap_or(call);
        send(&mut stream, &format!("{line} HTTP/1.1")).await;
        let answer = receive(&mut stream).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{call}: {answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{call}: {answer}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_long_answer_arrives_whole_over_http2() {
    let server = Server::start(connection_timeouts());
    let stream = TokioIo::new(server.connect().await);
    let (mut http2, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let driven = tokio::spawn(connection);
    for path in ["/openapi.json", "/docs/swagger-ui-bundle.js", "/healthz", "/docs"] {
        let direct = server.front.bridge.router();
        let request = Request::get(path).body(Body::empty()).unwrap();
        let direct = tower::ServiceExt::oneshot(direct, request).await.unwrap();
        let direct = axum::body::to_bytes(direct.into_body(), usize::MAX).await.unwrap();
        let request = Request::get(format!("http://t{path}"));
        let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
        let response = timeout(LONG, http2.send_request(request)).await.unwrap().unwrap();
        let body = http_body_util::BodyExt::collect(response.into_body());
        let body = timeout(LONG, body).await.unwrap().unwrap().to_bytes();
        assert!(body == direct, "{path}: {} of {} bytes", body.len(), direct.len());
    }
    drop(http2);
    driven.await.unwrap().unwrap();
    server.stop().await;
}
