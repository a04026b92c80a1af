//! Bundles: each call succeeds or fails on its own, and is unaffected by the others in its bundle.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, future::join_all, stream};
use prost::Message as _;
use proto::bundle::v1::{
    Answer, BundledCall, CallRequest, CallResponse, Header,
    bundle_service_client::BundleServiceClient,
    bundle_service_server::{BundleService, BundleServiceServer},
};
use rpc::{
    net::{GrpcNet, Net as _, Transport},
    server::Options,
    status::{Failure, invalid_field},
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, timeout},
};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, transport::Server};
use types::ErrorKind;

use crate::{
    requests::take_nothing,
    shop::{Echo, NAME, PATIENCE, Shop, Text, call, call_path, options, say},
};

const BUNDLE: &str = "/till.bundle.v1.BundleService/Call";

fn open(options: Options) -> Shop {
    let shop = Shop::open(options);
    shop.readiness.ready();
    shop
}

fn path(method: &str) -> String {
    format!("/{NAME}/{method}")
}

/// Makes concurrent calls of these methods.
async fn calls(transport: &Transport, methods: &[&str]) -> Vec<Result<Text, Failure>> {
    join_all(methods.iter().map(|method| call(transport, method, PATIENCE))).await
}

fn kinds(told: Vec<Result<Text, Failure>>) -> Vec<Option<ErrorKind>> {
    told.into_iter().map(|told| told.err().map(|failure| failure.kind)).collect()
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn connect(address: SocketAddr) -> Transport {
    GrpcNet::default().bundling().connect(&address.into())
}

#[tokio::test]
async fn answers_belong_to_their_calls() {
    let shop = open(options());
    let transport = shop.connect_bundling();
    let path = path("Way");
    // More calls, and more bytes, than one bundle may have.
    for padding in [0, 10_000] {
        let texts: Vec<_> =
            (0..600).map(|number| format!("{number}{}", "x".repeat(padding))).collect();
        let told = texts.iter().map(|text| say(&transport, &path, text, PATIENCE));
        for (text, told) in texts.iter().zip(join_all(told).await) {
            assert_eq!(told.unwrap().text, format!("{text} bundled"));
        }
    }
}

#[tokio::test]
async fn a_lone_call_goes_plainly() {
    let shop = open(options());
    let transport = shop.connect_bundling();
    for _ in 0..3 {
        assert_eq!(call(&transport, "Way", PATIENCE).await.unwrap().text, "hello alone");
    }
}

#[tokio::test]
async fn a_large_call_goes_plainly() {
    let shop = open(options());
    let transport = shop.connect_bundling();
    let (path, large) = (path("Way"), "x".repeat(20_000));
    let told = ["small", "little", &large].map(|text| say(&transport, &path, text, PATIENCE));
    let told = join_all(told).await.into_iter().map(|told| told.unwrap().text);
    let ways: Vec<_> = told.map(|text| text.rsplit(' ').next().unwrap().to_owned()).collect();
    assert_eq!(ways, ["bundled", "bundled", "alone"]);
}

#[tokio::test]
async fn a_slow_call_holds_up_no_other() {
    let shop = open(options());
    let transport = shop.connect_bundling();
    let slow = transport.clone();
    let slow = tokio::spawn(async move { call(&slow, "Wait", PATIENCE).await });
    let told = calls(&transport, &["Way", "Way"]).await;
    assert_eq!(
        told.iter().flatten().map(|told| &told.text).collect::<Vec<_>>(),
        ["hello bundled", "hello bundled"]
    );
    // The slow call was bundled with one or both of them, and still waits.
    assert!(!slow.is_finished());
    shop.go.add_permits(1);
    slow.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_befalls_one_call_befalls_no_other() {
    let shop = open(options());
    let transport = shop.connect_bundling();
    let told = calls(&transport, &["Echo", "Panic", "Echo"]).await;
    assert_eq!(kinds(told), [None, Some(ErrorKind::Internal), None]);
    let unknown = [path("Way"), "/test.v1.Nobody/Way".to_owned(), BUNDLE.to_owned()];
    let told = join_all(unknown.iter().map(|path| call_path(&transport, path, PATIENCE))).await;
    let nested = told[2].clone().unwrap_err();
    assert_eq!(nested.fields[0].0, "calls[2].path", "bundles do not nest");
    let refused = [None, Some(ErrorKind::Internal), Some(ErrorKind::InvalidInput)];
    assert_eq!(kinds(told), refused);
}

#[tokio::test]
async fn the_bound_on_what_is_in_flight_counts_each_call_and_no_bundle() {
    let shop = open(Options { in_flight_max: 2, ..options() });
    let transport = shop.connect_bundling();
    let waiting = transport.clone();
    let waiting = tokio::spawn(async move { calls(&waiting, &["Wait", "Wait"]).await });
    shop.until_begun(2).await;
    let refused = kinds(calls(&transport, &["Echo", "Echo", "Echo"]).await);
    assert_eq!(refused, [Some(ErrorKind::Overloaded); 3]);
    shop.go.add_permits(2);
    assert_eq!(kinds(waiting.await.unwrap()), [None, None]);
    // The places of the ended calls are free again.
    assert_eq!(kinds(calls(&transport, &["Echo", "Echo"]).await), [None, None]);
}

#[tokio::test]
async fn so_many_bundles_are_in_flight_and_no_more() {
    let shop = open(Options { in_flight_max: 1, ..options() });
    let first = bundle(&shop, vec![bundled("Wait", "10S")]);
    let second = async {
        shop.until_begun(1).await;
        let refused = bundle(&shop, Vec::new()).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        shop.go.add_permits(1);
    };
    let (first, ()) = futures::future::join(first, second).await;
    assert_eq!(first.unwrap().len(), 1);
    let freed = async {
        while bundle(&shop, Vec::new()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, freed).await.expect("its place is free again");
}

#[tokio::test]
async fn a_bundle_whose_answers_nobody_takes_is_in_flight() {
    let shop = open(Options { in_flight_max: 1, ..options() });
    let calls = CallRequest { calls: vec![bundled("Echo", "10S")] }.encode_to_vec();
    let length = u32::try_from(calls.len()).unwrap().to_be_bytes();
    let message = [&[0][..], &length[..], &calls[..]].concat();
    let _untaken = take_nothing(&shop, BUNDLE, message).await;
    let refused = bundle(&shop, Vec::new()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn each_call_ends_at_its_own_deadline() {
    let shop = open(Options { in_flight_max: 2, ..options() });
    let transport = shop.connect_bundling();
    let patient = transport.clone();
    let patient = tokio::spawn(async move { call(&patient, "Wait", PATIENCE).await });
    let begun = Instant::now();
    let hasty = call(&transport, "Wait", Duration::from_millis(100)).await.unwrap_err();
    assert_eq!(hasty.kind, ErrorKind::Deadline, "{hasty}");
    // The callee answers slightly before the connection gives up.
    assert!(begun.elapsed() >= Duration::from_millis(98));
    assert!(!patient.is_finished());
    // The callee may not have ended the hasty call yet, so there is a permit for each.
    shop.go.add_permits(2);
    patient.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_callee_that_says_nothing_is_given_up_at_the_deadline() {
    let (listener, address) = listen().await;
    let transport = connect(address);
    let silent = [1, 2].map(|_| call(&transport, "Echo", Duration::from_millis(200)));
    let told = timeout(PATIENCE, join_all(silent)).await.expect("they end in time");
    assert_eq!(kinds(told), [Some(ErrorKind::Deadline); 2]);
    drop(listener);
}

fn bundled(method: &str, timeout: &str) -> BundledCall {
    let header = Header { name: "grpc-timeout".to_owned(), value: timeout.to_owned().into() };
    // The prefix of an empty message.
    BundledCall { path: path(method), headers: vec![header], body: vec![0; 5].into() }
}

/// Sends a bundle directly, as a bundling caller would.
async fn bundle(shop: &Shop, calls: Vec<BundledCall>) -> Result<Vec<Answer>, Status> {
    let mut client = BundleServiceClient::new(shop.connect());
    let told = async {
        let mut told = client.call(CallRequest { calls }).await?.into_inner();
        let mut answers = Vec::new();
        while let Some(response) = told.message().await? {
            answers.extend(response.answers);
        }
        Ok(answers)
    };
    timeout(PATIENCE, told).await.expect("it ends in time")
}

#[tokio::test]
async fn the_callee_ends_a_call_at_its_deadline() {
    let shop = open(options());
    let answers = bundle(&shop, vec![bundled("Wait", "50m"), bundled("Echo", "1S")]).await;
    let status = |answer: &Answer| {
        let said = answer.headers.iter().find(|header| header.name == "grpc-status");
        said.map(|header| header.value.to_vec())
    };
    let told: Vec<_> = answers.unwrap().iter().map(|told| (told.index, status(told))).collect();
    assert_eq!(told, [(1, None), (0, Some(b"4".to_vec()))], "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn a_bundle_has_bounds() {
    let shop = open(options());
    assert_eq!(bundle(&shop, vec![bundled("Echo", "1S"); 256]).await.unwrap().len(), 256);
    let many = bundle(&shop, vec![bundled("Echo", "1S"); 257]).await.unwrap_err();
    assert_eq!(many.code(), Code::InvalidArgument);
    assert_eq!(many.message(), "calls must be at most 256, not 257");
    let mut large = bundled("Echo", "1S");
    large.body = vec![0; 1024 * 1024].into();
    assert_eq!(bundle(&shop, vec![large]).await.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(bundle(&shop, Vec::new()).await.unwrap(), Vec::new());
}

#[tokio::test]
async fn a_drain_finishes_the_calls_of_bundles() {
    let shop = open(options());
    let transport = shop.connect_bundling();
    let waiting = tokio::spawn(async move { calls(&transport, &["Wait", "Wait"]).await });
    shop.until_begun(2).await;
    shop.end.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    shop.go.add_permits(2);
    assert_eq!(kinds(waiting.await.unwrap()), [None, None]);
    shop.served.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_broken_connection_fails_what_was_not_answered() {
    let shop = open(options());
    let (listener, address) = listen().await;
    let shops = shop.address;
    let between = tokio::spawn(async move {
        let (mut here, _) = listener.accept().await.unwrap();
        let mut there = TcpStream::connect(shops).await.unwrap();
        tokio::io::copy_bidirectional(&mut here, &mut there).await.unwrap();
    });
    let transport = connect(address);
    let waiting = transport.clone();
    let waiting = tokio::spawn(async move { calls(&waiting, &["Wait", "Wait"]).await });
    shop.until_begun(2).await;
    shop.go.add_permits(1);
    // Long enough for the answer to pass through the proxy.
    tokio::time::sleep(Duration::from_millis(200)).await;
    between.abort();
    let told = kinds(waiting.await.unwrap());
    assert_eq!(told, [None, Some(ErrorKind::Unavailable)]);
}

#[tokio::test]
async fn calls_to_nobody_were_not_sent() {
    let (listener, address) = listen().await;
    drop(listener);
    let transport = connect(address);
    let mut clients = [1, 2].map(|_| tonic::client::Grpc::new(transport.clone()));
    let told = join_all(clients.iter_mut().map(async |client| {
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<Text, Text>::default();
        let path = path("Echo").try_into().unwrap();
        client.unary(Request::new(Text::default()), path, codec).await.unwrap_err()
    }));
    for status in told.await {
        let causes =
            std::iter::successors(std::error::Error::source(&status), |cause| cause.source());
        let mut causes = causes.filter(|cause| cause.is::<tonic::ConnectError>());
        assert!(causes.next().is_some(), "{status:?}");
    }
}

/// Answers the first call of each bundle, then ends with this status.
struct Half(Option<Status>);

#[tonic::async_trait]
impl BundleService for Half {
    type CallStream = stream::BoxStream<'static, Result<CallResponse, Status>>;

    async fn call(&self, _: Request<CallRequest>) -> Result<Response<Self::CallStream>, Status> {
        let answers = vec![Answer { body: vec![0; 5].into(), ..Answer::default() }];
        let told = stream::iter([Ok(CallResponse { answers })]);
        let end = stream::iter(self.0.clone().map(Err));
        Ok(Response::new(told.chain(end).boxed()))
    }
}

#[tokio::test]
async fn a_stream_that_ends_early_fails_what_was_not_answered() {
    // The status that ends the stream is not an answer to any call.
    for end in [None, Some(invalid_field("calls", "were too much"))] {
        let (listener, address) = listen().await;
        let server = Server::builder().add_service(BundleServiceServer::new(Half(end)));
        let served = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let told = kinds(calls(&connect(address), &["Echo", "Echo", "Echo"]).await);
        let unknown = Some(ErrorKind::Unavailable);
        assert_eq!(told, [None, unknown, unknown]);
        served.abort();
    }
}

#[tokio::test]
async fn a_callee_that_knows_no_bundles_gets_its_calls_one_by_one() {
    let (listener, address) = listen().await;
    let offered = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&offered);
    let server = Server::builder()
        .layer(tower::util::MapRequestLayer::new(move |request: http::Request<_>| {
            counter.fetch_add(usize::from(request.uri().path() == BUNDLE), Ordering::Relaxed);
            request
        }))
        .add_service(Echo::default());
    let served = tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let transport = connect(address);
    let ways = async || {
        let told = calls(&transport, &["Way", "Way"]).await;
        told.into_iter().map(|told| told.unwrap().text).collect::<Vec<_>>()
    };
    for _ in 0..3 {
        assert_eq!(ways().await, ["hello alone", "hello alone"]);
        assert_eq!(offered.load(Ordering::Relaxed), 1);
    }
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    assert_eq!(ways().await, ["hello alone", "hello alone"]);
    assert_eq!(offered.load(Ordering::Relaxed), 2, "it may have been replaced");
    served.abort();
}
