//! How a role ends: it says so first, finishes what it began, and does not wait for ever.

use std::time::{Duration, Instant};

use rpc::server::{Options, State};
use tokio_stream::StreamExt as _;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use types::ErrorKind;

use crate::shop::{NOT_SERVING, PATIENCE, SERVING, Shop, call, options};

#[tokio::test]
async fn a_role_says_not_serving_first_and_finishes_what_is_in_flight() {
    let shop = Shop::open(options());
    shop.readiness.ready();
    shop.until_health("", SERVING).await;
    let request = HealthCheckRequest { service: String::new() };
    let mut watch = HealthClient::new(shop.connect()).watch(request).await.unwrap().into_inner();
    assert_eq!(watch.next().await.unwrap().unwrap().status, SERVING);
    let waiting = shop.begin_waiting(&shop.connect()).await;

    shop.end.send(()).unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().status, NOT_SERVING);
    assert_eq!(shop.readiness.state(), State::Draining);
    // The door is still open: who has not heard of it yet is served.
    let late = rpc::net::Net::connect(&rpc::net::GrpcNet::default(), &shop.address.into());
    call(&late, "Echo", PATIENCE).await.unwrap();
    // Then the watch ends, the door closes, and only the call in flight is waited for.
    let ended = tokio::time::timeout(PATIENCE, watch.next()).await;
    assert!(ended.expect("the watch ends").is_none());
    assert!(!waiting.is_finished());
    assert!(!shop.served.is_finished());
    let later = rpc::net::Net::connect(&rpc::net::GrpcNet::default(), &shop.address.into());
    let failure = call(&later, "Echo", PATIENCE).await.unwrap_err();
    assert_eq!(failure.kind, ErrorKind::Unavailable);

    shop.go.add_permits(1);
    assert_eq!(waiting.await.unwrap().unwrap().text, "hello");
    let served = tokio::time::timeout(PATIENCE, shop.served).await;
    served.expect("serving ends").unwrap().unwrap();
}

#[tokio::test]
async fn what_never_ends_is_waited_for_no_longer_than_the_drain_timeout() {
    let shop = Shop::open(Options {
        lame_duck: Duration::from_millis(10),
        drain_timeout: Duration::from_millis(300),
        ..options()
    });
    let _waiting = shop.begin_waiting(&shop.connect()).await;
    let began = Instant::now();
    shop.end.send(()).unwrap();
    let served = tokio::time::timeout(PATIENCE, shop.served).await;
    served.expect("serving ends").unwrap().unwrap();
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(310), "{took:?}");
}
