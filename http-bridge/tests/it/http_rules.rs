//! What HTTP itself demands.

use axum::body::Body;
use futures::{future::poll_immediate, stream::pending};
use http::Request;
use http_bridge::Settings;

use crate::shop::{Front, settings};

#[tokio::test]
async fn an_unknown_path_is_a_problem() {
    let front = Front::filled();
    for call in [
        "GET /orders",
        "GET /orders/find/",
        "GET /orders/find/1/",
        "POST /orders/find/1/2",
        "GET /orders/FIND/1",
        "GET //orders/find/1",
        "DELETE /nowhere",
        "GET /orders/find/a/b",
    ] {
        let answer = front.call(call).await;
        assert_eq!(answer.outcome(), (404, "NO_SUCH_PATH".to_owned()), "{call}");
        assert!(!answer.header("x-request-id").is_empty());
    }
}

#[tokio::test]
async fn the_root_leads_to_the_console_which_leads_to_the_docs() {
    let front = Front::new();
    let root = front.call("GET /").await;
    assert_eq!((root.status.as_u16(), root.header("location")), (303, "/console"));
    let console = front.call("GET /console").await;
    assert!(console.text().contains("href=\"/docs\""), "{}", console.text());
    assert_eq!(front.call("GET /docs").await.header("location"), "/docs/");
}

#[tokio::test]
async fn the_docs_are_whole_hardened_and_of_this_server_alone() {
    let front = Front::new();
    let page = front.call("GET /docs/").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, "text/html"));
    let quoted = page.text().split('"').filter_map(|text| text.strip_prefix("./"));
    let mut files: Vec<_> = quoted.map(|name| format!("/docs/{name}")).collect();
    assert!(files.len() > 3, "{files:?}");
    files.extend(["/docs", "/docs/", "/docs/nothing.js", "/docs/a/b"].map(str::to_owned));
    for path in files {
        let answer = front.call(&format!("GET {path}")).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.header(name), value, "{path}");
        }
        if path.contains("nothing") || path.ends_with("/b") {
            assert_eq!(answer.outcome(), (404, "NO_SUCH_PATH".to_owned()), "{path}");
        } else {
            assert!(answer.status.as_u16() < 400, "{path}");
        }
    }
    let setup = front.call("GET /docs/swagger-initializer.js").await;
    assert!(setup.text().contains("/openapi.json"), "{}", setup.text());
    let document = front.call("GET /openapi.json").await;
    assert_eq!(document.header("content-type"), "application/json");
    assert_eq!(document.json()["openapi"], "3.1.0");
}

#[tokio::test]
async fn a_wrong_method_is_a_problem_that_tells_the_right_ones() {
    let front = Front::filled();
    for (call, allow) in [
        ("GET /orders/checkout/1", "POST"),
        ("PUT /orders/checkout/1", "POST"),
        ("POST /orders/find/1", "GET,HEAD"),
        ("POST /orders/remove/1", "DELETE"),
        ("OPTIONS /orders/find/1", "GET,HEAD"),
        ("HEAD /orders/checkout/1", "POST"),
        ("BREW /orders/checkout/1", "POST"),
    ] {
        let answer = front.call(call).await;
        assert_eq!(answer.status, 405, "{call}");
        assert_eq!(answer.header("allow"), allow, "{call}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
    }
    assert!(!front.world.state().orders["1"].paid);
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let front = Front::filled();
    let (get, head) =
        (front.call("GET /stock/find/1").await, front.call("HEAD /stock/find/1").await);
    assert_eq!((head.status.as_u16(), head.body.len()), (200, 0));
    assert_eq!(head.header("content-type"), get.header("content-type"));
    assert_eq!(head.header("content-length"), get.body.len().to_string());
}

fn with_body(body: Body, length: Option<usize>) -> Request<Body> {
    let mut request = Request::builder().method("POST").uri("/stock/add/1/1");
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    request.body(body).unwrap()
}

#[tokio::test]
async fn a_body_over_64_kib_is_refused_and_nothing_is_done() {
    let front = Front::filled();
    let most = 64 * 1024;
    // The length is announced, or found out while reading.
    for length in [Some(most + 1), None] {
        let body = Body::from(vec![b'x'; most + 1]);
        let answer = front.send(with_body(body, length)).await;
        assert_eq!(answer.outcome(), (413, "BODY_TOO_LARGE".to_owned()));
    }
    // An announced body is refused before it comes.
    let never = Body::from_stream(pending::<Result<bytes::Bytes, std::io::Error>>());
    assert_eq!(front.send(with_body(never, Some(most + 1))).await.status, 413);
    assert_eq!(front.world.state().items["1"].stock, 10);
    let answer = front.send(with_body(Body::from(vec![b'x'; most]), Some(most))).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_request_is_in_flight_from_the_first_byte_of_its_body() {
    let front = Front::with(Settings { in_flight_max: 1, ..settings() });
    front.fill();
    let never = || Body::from_stream(pending::<Result<bytes::Bytes, std::io::Error>>());
    let mut waiting = Box::pin(front.send(with_body(never(), Some(5))));
    assert!(poll_immediate(&mut waiting).await.is_none());
    let refused = front.call("POST /stock/add/1/1").await;
    assert_eq!(refused.outcome(), (429, "OVERLOADED".to_owned()));
    // A probe is still answered, unless the bridge would have to wait for its body.
    assert_eq!(front.call("GET /healthz").await.status, 200);
    let mut probe = with_body(never(), Some(5));
    *probe.uri_mut() = "/healthz".parse().unwrap();
    *probe.method_mut() = http::Method::GET;
    let answer = tower::ServiceExt::oneshot(front.bridge.router(), probe).await.unwrap();
    assert_eq!(answer.status(), 429);
    drop(waiting);
    assert_eq!(front.call("POST /stock/add/1/1").await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let front = Front::filled();
    let never = Body::from_stream(pending::<Result<bytes::Bytes, std::io::Error>>());
    let answer = front.send(with_body(never, Some(5))).await;
    assert_eq!(answer.outcome(), (400, "INVALID_ARGUMENT".to_owned()));
    assert_eq!(front.world.state().items["1"].stock, 10);
}
