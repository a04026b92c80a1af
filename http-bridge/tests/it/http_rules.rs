//! What HTTP itself asks for.

use axum::body::Body;
use http::Request;

use crate::shop::Front;

#[tokio::test]
async fn an_unknown_path_is_a_problem() {
    let front = Front::filled();
    for call in [
        "GET /",
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
    // Announced, or found out.
    for length in [Some(most + 1), None] {
        let body = Body::from(vec![b'x'; most + 1]);
        let answer = front.send(with_body(body, length)).await;
        assert_eq!(answer.outcome(), (413, "BODY_TOO_LARGE".to_owned()));
    }
    // An announced body need not come.
    let never =
        Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    assert_eq!(front.send(with_body(never, Some(most + 1))).await.status, 413);
    assert_eq!(front.world.state().items["1"].stock, 10);
    let answer = front.send(with_body(Body::from(vec![b'x'; most]), Some(most))).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_given_up() {
    let front = Front::filled();
    let never =
        Body::from_stream(futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>());
    let answer = front.send(with_body(never, Some(5))).await;
    assert_eq!(answer.outcome(), (400, "INVALID_ARGUMENT".to_owned()));
    assert_eq!(front.world.state().items["1"].stock, 10);
}
