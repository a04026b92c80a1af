//! What a caller is told: errors, overload, deadlines, health, reflection.

use std::time::Duration;

use rpc::server::{LIVE, Options};
use tokio_stream::StreamExt as _;
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use types::ErrorKind;

use crate::shop::{NAME, NOT_SERVING, PATIENCE, SERVING, Shop, call, options};

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
    let transport = rpc::net::Net::connect(&rpc::net::GrpcNet::default(), &shop.address.into());
    let failure = call(&transport, "Echo", PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn reflection_lists_what_is_served() {
    let shop = Shop::open(options());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(shop.connect())
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else {
        panic!("{answer:?}");
    };
    let mut names: Vec<String> = list.service.into_iter().map(|each| each.name).collect();
    names.sort();
    assert_eq!(names, ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", NAME]);
}
