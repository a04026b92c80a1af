//! What a caller is answered that writes its bytes without a gRPC library: the codes that the
//! protocol requires.

use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::bundle::v1::{
    BundledCall, CallRequest, Header, bundle_service_client::BundleServiceClient,
};
use rpc::{COMPRESSION, MESSAGE_BYTES_MAX, status::Failure};
use tokio::{net::TcpStream, time::timeout};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request, Status, codegen::http::uri::PathAndQuery};
use tonic_prost::ProstCodec;
use types::ErrorKind;

use crate::shop::{NAME, PATIENCE, Shop, Text, options};

/// A message frame: a flag (1: compressed), the claimed length, and the bytes.
fn frame(flag: u8, length: usize, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(flag);
    frame.put_u32(length.try_into().unwrap());
    frame.put_slice(message);
    frame.freeze()
}

/// Field 1, a text of two bytes of which only one is present.
const TORN: &[u8] = &[0x0a, 2, b'x'];

/// The answer to an HTTP/2 client that knows nothing of gRPC, and so ends no call by itself.
async fn told(shop: &Shop, method: &str, headers: &[(&str, &str)], body: Bytes) -> Status {
    let stream = TcpStream::connect(shop.address).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let connection = tokio::spawn(connection);
    let mut request = http::Request::post(format!("http://{}/{NAME}/{method}", shop.address))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let answer = client.send_request(request.body(Full::new(body)).unwrap());
    let answer = timeout(PATIENCE, answer).await.expect("an answer in time").unwrap();
    let (head, body) = answer.into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
    connection.abort();
    Status::from_header_map(&head.headers)
        .or_else(|| Status::from_header_map(&trailers))
        .expect("a status in the head or at the end")
}

#[tokio::test]
async fn a_request_that_does_not_decode_is_the_callers_mistake() {
    let shop = Shop::open(options());
    let gzip = [("grpc-encoding", "gzip")];
    for (what, headers, body) in [
        ("a torn message", &[][..], frame(0, TORN.len(), TORN)),
        ("a wrong wire type", &[], frame(0, 2, &[0x08, 1])),
        ("no message", &[], Bytes::new()),
        ("half a frame", &[], frame(0, 10, TORN)),
        ("a strange flag", &[], frame(7, 0, &[])),
        ("no gzip", &gzip, frame(1, TORN.len(), TORN)),
    ] {
        let status = told(&shop, "Echo", headers, body).await;
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
        let failure = Failure::from_status(&status);
        assert_eq!(failure.reason, "INVALID_ARGUMENT", "{what}");
        assert_eq!(failure.kind, ErrorKind::InvalidInput, "{what}");
    }
    let status = told(&shop, "Echo", &[], frame(0, 0, &[])).await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    // A handler's own status is unchanged.
    let status = told(&shop, "Panic", &[], frame(0, 0, &[])).await;
    assert_eq!(status.code(), Code::Internal, "{status:?}");
}

#[tokio::test]
async fn a_call_of_a_bundle_that_does_not_decode_is_told_so_as_well() {
    let shop = Shop::open(options());
    let bodies = [frame(0, TORN.len(), TORN), frame(0, 0, &[])];
    let calls = bodies.map(|body| BundledCall {
        path: format!("/{NAME}/Echo"),
        headers: vec![Header { name: "te".to_owned(), value: "trailers".into() }],
        body,
    });
    let mut client = BundleServiceClient::new(shop.connect());
    let answers = client.call(CallRequest { calls: calls.to_vec() }).await.unwrap().into_inner();
    let answers: Vec<_> = answers.collect::<Vec<_>>().await;
    let said = |index: u32| {
        let mut all = answers.iter().flat_map(|answers| &answers.as_ref().unwrap().answers);
        let answer = all.find(|answer| answer.index == index).unwrap();
        let status = answer.headers.iter().find(|header| header.name == "grpc-status");
        status.map(|status| status.value.clone())
    };
    assert_eq!((said(0), said(1)), (Some("3".into()), None));
}

#[tokio::test]
async fn one_number_is_the_greatest_message() {
    let shop = Shop::open(options());
    let status = told(&shop, "Echo", &[], frame(0, MESSAGE_BYTES_MAX + 1, &[])).await;
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(status.message().contains(&MESSAGE_BYTES_MAX.to_string()), "{status:?}");
    // This length is allowed; only the bytes are missing.
    let status = told(&shop, "Echo", &[], frame(0, MESSAGE_BYTES_MAX, &[])).await;
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
}

#[tokio::test]
async fn a_message_that_grows_too_large_is_told_so_like_any_that_is() {
    let shop = Shop::open(options());
    let mut client = tonic::client::Grpc::new(shop.connect()).send_compressed(COMPRESSION);
    client.ready().await.unwrap();
    // Its text alone has the greatest length.
    let request = Request::new(Text { text: "x".repeat(MESSAGE_BYTES_MAX) });
    let path = PathAndQuery::try_from(format!("/{NAME}/Echo")).unwrap();
    let codec = ProstCodec::<Text, Text>::default();
    let status = client.unary(request, path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    assert!(status.message().contains(&MESSAGE_BYTES_MAX.to_string()), "{status:?}");
}

#[tokio::test]
async fn a_call_beyond_its_deadline_is_answered_deadline_exceeded() {
    let shop = Shop::open(options());
    for left in ["50m", "1m", "0S"] {
        let status = told(&shop, "Wait", &[("grpc-timeout", left)], frame(0, 0, &[])).await;
        assert_eq!(status.code(), Code::DeadlineExceeded, "{left}: {status:?}");
        assert_eq!(Failure::from_status(&status).kind, ErrorKind::Deadline);
    }
    // A long deadline delays no answer.
    let status = timeout(
        Duration::from_secs(5),
        told(&shop, "Echo", &[("grpc-timeout", "1H")], frame(0, 0, &[])),
    );
    assert_eq!(status.await.unwrap().code(), Code::Ok);
}
