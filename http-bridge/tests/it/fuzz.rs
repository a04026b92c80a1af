//! Random paths and headers. Each request is answered as its description says (the front checks
//! that). No answer reports a bug, and nothing malformed is accepted.

use axum::body::Body;
use http::{HeaderValue, Request, Uri};
use proptest::prelude::*;

use crate::shop::Front;

/// Every endpoint; `#` stands for a number, `@` for an id.
const ENDPOINTS: [&str; 24] = [
    "POST /orders/create/@",
    "GET /orders/find/@",
    "POST /orders/addItem/@/@/#",
    "POST /orders/addItem/@/@",
    "DELETE /orders/removeItem/@/@",
    "DELETE /orders/remove/@",
    "POST /orders/checkout/@",
    "POST /orders/batch_init/#/#/#/#",
    "POST /stock/item/create/#",
    "GET /stock/find/@",
    "POST /stock/add/@/#",
    "POST /stock/subtract/@/#",
    "POST /stock/batch_init/#/#/#",
    "POST /payment/create_user",
    "GET /payment/find_user/@",
    "POST /payment/add_funds/@/#",
    "POST /payment/pay/@/#",
    "POST /payment/pay/@/@/#",
    "POST /payment/cancel/@/@",
    "GET /payment/status/@/@",
    "POST /payment/batch_init/#/#",
    "GET /healthz",
    "GET /problems/@",
    "GET /@/@/@",
];

type Headers = Vec<(&'static str, Vec<u8>)>;

/// A segment of a path as a request contains it.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => Just("1".to_owned()),
        2 => (0_u64..3).prop_map(|number| number.to_string()),
        1 => any::<u64>().prop_map(|number| number.to_string()),
        1 => "[+-]?[0-9]{1,30}(\\.0|e3)?",
        1 => "[!-~&&[^/?#]]{0,12}",
        1 => "(%[0-9A-Fa-f]{2}){1,6}",
        1 => "%([0-9A-G]?[g-z]?|25)",
        1 => "[a-z0-9]{100,200}",
    ]
}

fn headers() -> impl Strategy<Value = Headers> {
    let names = prop::sample::select(vec![
        "idempotency-key",
        "x-request-id",
        "authorization",
        "content-length",
        "accept",
        "traceparent",
    ]);
    let value = prop_oneof![
        Just(b"a-key".to_vec()),
        "[ -~]{0,140}".prop_map(String::into_bytes),
        prop::collection::vec(prop_oneof![Just(b'\t'), 0x20_u8..0x7f, 0x80_u8..], 0..200),
    ];
    prop::collection::vec((names, value), 0..4)
}

fn request() -> impl Strategy<Value = (&'static str, Vec<String>, Headers)> {
    (prop::sample::select(ENDPOINTS.to_vec()), prop::collection::vec(segment(), 4), headers())
}

/// The request, and the numbers in its path; None when it is not valid HTTP.
fn built(
    endpoint: &str,
    segments: &[String],
    headers: &[(&str, Vec<u8>)],
) -> Option<(Request<Body>, Vec<String>)> {
    let (method, template) = endpoint.split_once(' ')?;
    let mut segments = segments.iter();
    let mut numbers = Vec::new();
    let path: Vec<&str> = template
        .split('/')
        .map(|each| match each {
            "@" => segments.next().map_or("", String::as_str),
            "#" => {
                let number = segments.next().map_or("", String::as_str);
                numbers.push(number.to_owned());
                number
            }
            each => each,
        })
        .collect();
    let uri: Uri = path.join("/").parse().ok()?;
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, HeaderValue::from_bytes(value).ok()?);
    }
    Some((request.body(Body::empty()).ok()?, numbers))
}

/// Digits without sign or point, at most the maximum amount.
fn is_amount(text: &str) -> bool {
    const MOST: u64 = (1 << 53) - 1;
    text.bytes().all(|byte| byte.is_ascii_digit())
        && text.parse().is_ok_and(|number: u64| number <= MOST)
}

#[test]
fn requests_at_random_are_answered_and_nothing_wrong_is_accepted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let entered = runtime.enter();
    let front = Front::filled();
    proptest!(|((endpoint, segments, headers) in request())| {
        let Some((request, numbers)) = built(endpoint, &segments, &headers) else { return Ok(()) };
        let said = format!("{request:?}");
        // Other tests cover large fills.
        let fills = endpoint.contains("batch_init");
        if fills && numbers.first().and_then(|n| n.parse().ok()).is_some_and(|n: u64| n > 1_000) {
            return Ok(());
        }
        let answer = runtime.block_on(front.send(request));
        let status = answer.status.as_u16();
        prop_assert!(status < 500, "{said}: {status}");
        if status >= 400 {
            prop_assert_eq!(answer.header("content-type"), "application/problem+json", "{}", said);
        } else {
            prop_assert!(numbers.iter().all(|number| is_amount(number)), "{said}: {status}");
        }
        prop_assert!(!answer.header("x-request-id").is_empty());
    });
    drop(entered);
}
