//! How a role shuts down: it says so first, finishes the calls in flight, and does not wait for
//! ever.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rpc::{
    net::{GrpcNet, Net as _, Transport},
    server::{Options, State},
};
use tokio::net::{TcpListener, TcpStream};
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
    // The listeners are still open, so a caller that does not know yet is served.
    let late = GrpcNet::default().connect(&shop.address.into());
    call(&late, "Echo", PATIENCE).await.unwrap();
    // Then the watch ends, the listeners close, and only the call in flight is waited for.
    let ended = tokio::time::timeout(PATIENCE, watch.next()).await;
    assert!(ended.expect("the watch ends").is_none());
    assert!(!waiting.is_finished());
    assert!(!shop.served.is_finished());
    let later = GrpcNet::default().connect(&shop.address.into());
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

/// A proxy that forwards connections to a server, and counts them.
async fn counted(shop: &Shop) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, server) = (listener.local_addr().unwrap(), shop.address);
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            let mut server = TcpStream::connect(server).await.unwrap();
            tokio::spawn(async move {
                tokio::io::copy_bidirectional(&mut client, &mut server).await.unwrap();
            });
        }
    });
    (address, count)
}

#[tokio::test]
async fn connections_end_when_they_are_old_and_no_call_fails_for_it() {
    let shop = Shop::open(Options { max_connection_age: Duration::from_millis(300), ..options() });
    let (address, connections) = counted(&shop).await;
    let transport = GrpcNet::default().connect(&address.into());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        let calls = (0..20).map(|_| call(&transport, "Echo", PATIENCE));
        for answer in futures::future::join_all(calls).await {
            assert_eq!(answer.unwrap().text, "hello");
        }
    }
    let connections = connections.load(Ordering::Relaxed);
    assert!((4..=12).contains(&connections), "{connections} connections were made");
}

/// Calls without pause from many tasks, as in a shop, so that some calls are always under way when
/// a connection ends.
async fn call_on(transport: &Transport, until: Instant) -> usize {
    let callers = (0..32).map(|_| {
        let transport = transport.clone();
        tokio::spawn(async move {
            let mut calls = 0;
            while Instant::now() < until {
                let answer = call(&transport, "Echo", PATIENCE).await;
                assert_eq!(answer.map(|text| text.text), Ok("hello".to_owned()));
                calls += 1;
            }
            calls
        })
    });
    futures::future::join_all(callers).await.into_iter().map(Result::unwrap).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_meets_the_end_of_a_connection_is_sent_again() {
    let shop = Shop::open(Options { max_connection_age: Duration::from_millis(20), ..options() });
    for net in [GrpcNet::default(), GrpcNet::default().bundling()] {
        let (address, connections) = counted(&shop).await;
        let transport = net.connect(&address.into());
        let calls = call_on(&transport, Instant::now() + Duration::from_millis(1500)).await;
        assert!(calls > 100, "{calls} calls were made");
        let connections = connections.load(Ordering::Relaxed);
        assert!(connections > 10, "{connections} connections were made");
    }
}
