use std::{collections::BTreeMap, env, fmt::Write as _, fs};

use super::*;

/// One line per kind and per reason: what clients rely on.
fn table() -> String {
    let mut table = String::new();
    for kind in ErrorKind::ALL {
        writeln!(table, "{kind:?} {}", status(kind).as_u16()).unwrap();
    }
    for known in ProblemType::all() {
        let ProblemType { reason, status, title, .. } = known;
        let when = if says_when(status) { " Retry-After" } else { "" };
        let slug = known.slug();
        writeln!(table, "{} {reason} {TYPES_PATH}{slug} {title:?}{when}", status.as_u16()).unwrap();
    }
    table
}

#[test]
fn kinds_and_reasons_map_to_what_clients_were_told() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/problems.txt");
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(path, table()).unwrap();
    }
    assert_eq!(fs::read_to_string(path).unwrap(), table());
}

fn failure(kind: ErrorKind, reason: &str) -> Failure {
    Failure {
        kind,
        reason: reason.to_owned(),
        message: "item 4711 has 3 left".to_owned(),
        metadata: BTreeMap::from([("item_id".to_owned(), "4711".to_owned())]),
        fields: Vec::new(),
        retry_after: None,
    }
}

#[test]
fn a_body_never_tells_what_the_service_said_about_ids_and_amounts() {
    for kind in ErrorKind::ALL {
        for reason in Reason::ALL.iter().map(|reason| reason.as_str()).chain(["NEW", "item 4711"]) {
            let problem = Problem::from_failure(failure(kind, reason));
            let body = serde_json::to_string(&problem.body()).unwrap();
            assert!(!body.contains("4711") && !body.contains(" 3 "), "{body}");
            assert_eq!(problem.cause(), Some("item 4711 has 3 left"));
        }
    }
}

#[test]
fn a_known_reason_is_explained() {
    let body = Problem::from_failure(failure(ErrorKind::Rejected, "OUT_OF_STOCK")).body();
    assert_eq!((body.status, body.uri.as_str()), (409, "/problems/out-of-stock"));
    assert_eq!(body.title, "There is not enough stock");
}

#[test]
fn a_reason_of_a_newer_service_is_said_on() {
    let body = Problem::from_failure(failure(ErrorKind::Rejected, "SHOP_CLOSED")).body();
    assert_eq!((body.status, body.uri.as_str()), (409, "about:blank"));
    assert_eq!((body.title.as_str(), body.reason.as_str()), ("Conflict", "SHOP_CLOSED"));
}

#[test]
fn the_inside_stays_inside() {
    for reason in ["INTERNAL", "ITEM_NOT_FOUND", "SOMETHING"] {
        let body = Problem::from_failure(failure(ErrorKind::Internal, reason)).body();
        assert_eq!((body.status, body.reason.as_str()), (500, "INTERNAL"));
    }
}

#[test]
fn a_malformed_field_is_named() {
    let mut failure = failure(ErrorKind::InvalidInput, "INVALID_ARGUMENT");
    failure.fields = vec![("price".to_owned(), "must be at most 7".to_owned())];
    let body = Problem::from_failure(failure).body();
    assert_eq!((body.status, body.field.as_deref()), (400, Some("price")));
    assert_eq!(body.detail, "price must be at most 7");
}

#[test]
fn a_failure_that_passes_says_when_to_retry() {
    let pause = |milliseconds| {
        let mut failure = failure(ErrorKind::Overloaded, "OVERLOADED");
        failure.retry_after = Some(Duration::from_millis(milliseconds));
        let response = Problem::from_failure(failure).into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
        response.headers()[header::RETRY_AFTER].to_str().unwrap().to_owned()
    };
    assert_eq!([pause(0), pause(1), pause(1000), pause(1001)], ["1", "1", "1", "2"]);
    let refused = Problem::of(Reason::OutOfStock).into_response();
    assert_eq!(refused.headers().get(header::RETRY_AFTER), None);
}
