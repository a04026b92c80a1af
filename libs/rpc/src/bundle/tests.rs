use prost::Message as _;

use super::*;

fn header(name: &str) -> Header {
    Header { name: name.to_owned(), value: Bytes::from_static(b"value") }
}

#[test]
fn what_is_written_down_here_is_the_contract() {
    let body = Bytes::from_static(b"body");
    let call = Call {
        path: "/path".to_owned(),
        headers: vec![header("a"), header("b")],
        body: body.clone(),
    };
    let request = CallRequest { calls: vec![call.clone(), Call::default()] };
    let read = proto::bundle::v1::CallRequest::decode(&*request.encode_to_vec()).unwrap();
    assert_eq!(read.calls.len(), 2);
    assert_eq!(read.calls[0].path, call.path);
    assert_eq!(read.calls[0].headers[1].name, "b");
    assert_eq!(read.calls[0].headers[1].value, header("b").value);
    assert_eq!(read.calls[0].body, body);
    assert_eq!(CallRequest::decode(&*read.encode_to_vec()).unwrap(), request);

    let answer = BundledAnswer {
        index: 7,
        headers: vec![header("c")],
        body: body.clone(),
        trailers: vec![header("d")],
    };
    let response = CallResponse { answers: vec![answer, BundledAnswer::default()] };
    let read = proto::bundle::v1::CallResponse::decode(&*response.encode_to_vec()).unwrap();
    assert_eq!(read.answers.len(), 2);
    assert_eq!(read.answers[0].index, 7);
    assert_eq!(read.answers[0].headers[0].name, "c");
    assert_eq!(read.answers[0].body, body);
    assert_eq!(read.answers[0].trailers[0].name, "d");
    assert_eq!(CallResponse::decode(&*read.encode_to_vec()).unwrap(), response);
}

#[test]
fn headers_are_read_back() {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("grpc-timeout", "5S"),
        ("traceparent", "00-1-2-01"),
        ("twice", "1"),
        ("twice", "2"),
        ("content-type", "application/grpc+json"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    assert_eq!(unpack_head(pack(&headers)).unwrap(), headers);

    headers.insert(CONTENT_TYPE, GRPC);
    let packed = pack(&headers);
    assert!(packed.iter().all(|header| header.name != "content-type"));
    assert_eq!(unpack_head(packed).unwrap(), headers);
}

#[test]
fn what_is_no_header_is_named() {
    assert!(unpack(vec![header("a b")]).unwrap_err().contains("\"a b\""));
    let broken = Header { value: Bytes::from_static(b"a\nb"), ..header("known") };
    assert!(unpack(vec![broken]).unwrap_err().contains("known"));
    // A header map has room for about 24,000 headers, and panics beyond that.
    let many = |count| vec![header("a"); count];
    assert_eq!(unpack(many(HEADERS_MAX)).unwrap().len(), HEADERS_MAX);
    for count in [HEADERS_MAX + 1, 30_000] {
        assert!(unpack(many(count)).unwrap_err().contains("256"), "{count}");
    }
}

#[test]
fn a_share_is_no_larger_than_a_bundle_may_be() {
    let shares = |items: Vec<usize>| -> Vec<Vec<usize>> { split(items, |item| *item).collect() };
    assert!(shares(Vec::new()).is_empty());
    let lengths = shares(vec![1; 600]).iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths, [256, 256, 88]);
    let half = BUNDLE_BYTES_MAX / 2;
    assert_eq!(shares(vec![half, half, 1, half]), [vec![half, half], vec![1, half]]);
    assert_eq!(shares(vec![1, 3 * half, 1]), [vec![1], vec![3 * half], vec![1]]);
}

#[test]
fn the_limits_of_a_bundle_are_those_on_the_page() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/decisions/0006-bundled-calls.md");
    let page = std::fs::read_to_string(page).unwrap();
    let mib = BUNDLE_BYTES_MAX / 1024 / 1024;
    let limits = format!("- **Bounds.** {CALLS_MAX} calls and {mib} MiB for each bundle,");
    assert!(page.lines().any(|line| line.starts_with(&limits)), "{limits}");
    assert_eq!((CALLS_MAX, BUNDLE_BYTES_MAX), (256, 1024 * 1024));
}
