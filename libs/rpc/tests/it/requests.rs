//! What a caller is told: errors, overload, deadlines, health, reflection.

use std::time::Duration;

use rpc::server::{LIVE, Options};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::codec::CompressionEncoding;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use types::ErrorKind;

use crate::shop::{NAME, NOT_SERVING, PATIENCE, SERVICE_UNKNOWN, SERVING, Shop, call, options};

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

/// A test for each version of reflection: their messages are alike, and their types are not.
macro_rules! reflection_is_complete {
    ($test:ident, $version:ident) => {
        #[tokio::test]
        async fn $test() {
            use tonic_reflection::pb::$version::{
                ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
                server_reflection_request::MessageRequest,
                server_reflection_response::MessageResponse,
            };
            let shop = Shop::open(options());
            let transport = shop.connect();
            let ask = async |message| {
                let request =
                    ServerReflectionRequest { host: String::new(), message_request: Some(message) };
                let mut answers = ServerReflectionClient::new(transport.clone())
                    .server_reflection_info(tokio_stream::iter([request]))
                    .await
                    .unwrap()
                    .into_inner();
                answers.next().await.unwrap().unwrap().message_response.unwrap()
            };
            let listed = ask(MessageRequest::ListServices(String::new())).await;
            let MessageResponse::ListServicesResponse(list) = listed else { panic!("{listed:?}") };
            let mut names: Vec<String> = list.service.into_iter().map(|each| each.name).collect();
            names.sort();
            let reflection = ["v1", "v1alpha"]
                .map(|version| format!("grpc.reflection.{version}.ServerReflection"));
            let [v1, v1alpha] = &reflection;
            assert_eq!(names, ["grpc.health.v1.Health", v1, v1alpha, NAME]);
            // Whoever lists services asks next what they are. (Nothing describes the kit's own.)
            for name in names.iter().filter(|name| *name != NAME) {
                let described = ask(MessageRequest::FileContainingSymbol(name.clone())).await;
                let found = matches!(described, MessageResponse::FileDescriptorResponse(_));
                assert!(found, "{name}: {described:?}");
            }
        }
    };
}

reflection_is_complete!(reflection_lists_what_is_served, v1);
reflection_is_complete!(reflection_does_so_for_clients_that_know_only_v1alpha, v1alpha);

#[tokio::test]
async fn who_watches_an_unknown_service_is_told_so_and_stays() {
    let shop = Shop::open(options());
    let request = HealthCheckRequest { service: "test.v1.NobodyService".to_owned() };
    let mut watch = HealthClient::new(shop.connect()).watch(request).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status, SERVICE_UNKNOWN);
    shop.readiness.ready();
    shop.until_health("", SERVING).await;
    let more = timeout(Duration::from_millis(200), watch.next()).await;
    assert!(more.is_err(), "it goes on and says nothing: {more:?}");
    // It holds nothing up.
    shop.end.send(()).unwrap();
    let ended = timeout(PATIENCE, watch.next()).await.expect("the watch ends");
    assert!(ended.is_none(), "{ended:?}");
    timeout(PATIENCE, shop.served).await.expect("serving ends").unwrap().unwrap();
}

#[tokio::test]
async fn a_watch_tells_changes_alone() {
    let shop = Shop::open(options());
    let request = HealthCheckRequest { service: NAME.to_owned() };
    let mut watch = HealthClient::new(shop.connect()).watch(request).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status, NOT_SERVING);
    shop.readiness.ready();
    assert_eq!(watch.next().await.unwrap().unwrap().status, SERVING);
    shop.readiness.not_ready();
    assert_eq!(watch.next().await.unwrap().unwrap().status, NOT_SERVING);
    // To watchers, draining is more of the same.
    shop.end.send(()).unwrap();
    let ended = timeout(PATIENCE, watch.next()).await.expect("the watch ends");
    assert!(ended.is_none(), "{ended:?}");
}

#[tokio::test]
async fn compressed_requests_are_taken() {
    let shop = Shop::open(options());
    let request = HealthCheckRequest { service: LIVE.to_owned() };
    let client = HealthClient::new(shop.connect()).send_compressed(CompressionEncoding::Gzip);
    let answer = client.clone().check(request.clone()).await.unwrap().into_inner();
    assert_eq!(answer.status, SERVING);
    let mut watch = client.clone().watch(request).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status, SERVING);
}
