//! What browsers send for pages of other sites, and what the bridge allows them.

use axum::body::Body;
use http::{Method, Request};
use http_bridge::Settings;

use crate::{
    shop::{Front, settings},
    sockets::{Server, call, connection_timeouts, receive, send},
};

#[tokio::test]
async fn a_page_of_another_site_changes_nothing() {
    let front = Front::filled();
    for headers in [
        &[("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")][..],
        &[("sec-fetch-site", "same-site"), ("origin", "http://till:3000")],
        &[("host", "till:8000"), ("origin", "https://evil.example")],
        &[("host", "till:8000"), ("origin", "null")],
    ] {
        for change in ["POST /payment/add_funds/1/5", "DELETE /orders/remove/1", "POST /nowhere"] {
            let answer = front.call_with(change, headers).await;
            assert_eq!(answer.outcome(), (403, "CROSS_ORIGIN".to_owned()), "{change} {headers:?}");
        }
        assert_eq!(front.call_with("GET /payment/find_user/1", headers).await.status, 200);
        assert_eq!(front.call_with("OPTIONS /payment/add_funds/1/5", headers).await.status, 405);
    }
    assert_eq!(front.world.state().users["1"], 100);
}

#[tokio::test]
async fn the_console_and_clients_that_are_no_browsers_notice_nothing() {
    let front = Front::filled();
    for headers in [
        &[][..],
        &[("host", "till:8000"), ("content-type", "application/octet-stream")],
        &[("host", "till:8000"), ("origin", "http://till:8000"), ("sec-fetch-site", "same-origin")],
        &[("host", "till:8000"), ("sec-fetch-site", "none")],
        &[("host", "till:8000"), ("origin", "http://till:8000")],
    ] {
        let answer = front.call_with("POST /payment/add_funds/1/5", headers).await;
        assert_eq!(answer.status, 200, "{headers:?}");
        // Without allowed origins the answer has no CORS headers.
        assert_eq!(answer.header("vary"), "");
        assert_eq!(answer.header("access-control-allow-origin"), "");
    }
}

fn allowing() -> Front {
    let cors_origins = vec!["https://shop.example".parse().unwrap()];
    let front = Front::with(Settings { cors_origins, ..settings() });
    front.fill();
    front
}

#[tokio::test]
async fn an_allowed_origin_calls_and_reads_what_it_is_answered() {
    let front = allowing();
    let ours = [("origin", "https://shop.example"), ("sec-fetch-site", "cross-site")];
    for (method, status) in [("add_funds", 200), ("pay", 200), ("nothing", 404)] {
        let answer = front.call_with(&format!("POST /payment/{method}/1/5"), &ours).await;
        assert_eq!(answer.status, status);
        assert_eq!(answer.header("access-control-allow-origin"), "https://shop.example");
        assert!(answer.header("access-control-expose-headers").contains("x-request-id"));
    }
    let theirs = [("origin", "https://evil.example"), ("sec-fetch-site", "cross-site")];
    let answer = front.call_with("POST /payment/add_funds/1/5", &theirs).await;
    assert_eq!(answer.outcome(), (403, "CROSS_ORIGIN".to_owned()));
    assert_eq!(answer.header("access-control-allow-origin"), "");
    assert_eq!(front.call("POST /payment/add_funds/1/5").await.status, 200);
}

#[tokio::test]
async fn a_preflight_is_answered_to_an_allowed_origin_alone() {
    let front = allowing();
    let ask = |origin: &str, header: &str| {
        let request = Request::builder()
            .method(Method::OPTIONS)
            .uri("/orders/checkout/1")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", header);
        let front = front.clone();
        async move { front.send(request.body(Body::empty()).unwrap()).await }
    };
    let answer = ask("https://shop.example", "idempotency-key").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), "https://shop.example");
    for (name, part) in [
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-methods", "DELETE"),
        ("access-control-allow-headers", "idempotency-key"),
        ("access-control-allow-headers", "if-match"),
        ("access-control-max-age", "3600"),
    ] {
        assert!(answer.header(name).contains(part), "{name}: {}", answer.header(name));
    }
    // The console's own header is not allowed to other pages.
    assert!(!answer.header("access-control-allow-headers").contains("till-console"));
    let answer = ask("https://evil.example", "idempotency-key").await;
    assert_eq!(answer.header("access-control-allow-origin"), "");
}

#[tokio::test]
async fn on_loopback_a_name_that_is_not_ours_is_not_answered_to() {
    let allowed_hosts = vec!["till.lan".parse().unwrap()];
    let front = Front::with(Settings { allowed_hosts, ..settings() });
    front.fill();
    let server = Server::of(front, &rpc::listen::loopback(0), connection_timeouts());
    let mut stream = server.connect().await;
    for (host, status) in [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("host.docker.internal:8000", 200),
        ("till.lan:8000", 200),
        ("evil.example:8000", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ] {
        for call in ["GET /stock/find/1", "GET /console", "GET /healthz"] {
            let request = format!("{call} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
            let answer = receive(&mut stream).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
            assert_eq!(answer.contains("UNKNOWN_HOST"), status == 421, "{answer}");
        }
    }
    // The target counts, not the Host header beside it.
    let request = "GET http://evil.example/healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    assert!(receive(&mut stream).await.starts_with("HTTP/1.1 421 "));
    server.stop().await;
}

#[tokio::test]
async fn elsewhere_every_host_is_answered_to() {
    let server = Server::start(connection_timeouts());
    let mut stream = server.connect().await;
    // `send` names the host "till".
    assert!(call(&mut stream, "GET /healthz").await.starts_with("HTTP/1.1 200 "));
    send(&mut stream, "GET http://shop.example/healthz HTTP/1.1").await;
    assert!(receive(&mut stream).await.starts_with("HTTP/1.1 200 "));
    server.stop().await;
}
