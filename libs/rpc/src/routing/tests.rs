use std::collections::BTreeSet;

use tonic::body::Body;
use tower::util::BoxCloneSyncService;

use super::*;
use crate::{deadline, status::to_status};

/// A network on which every call fails.
#[derive(Debug)]
struct Nowhere;

impl Net for Nowhere {
    fn connect(&self, _: &Endpoint) -> Transport {
        BoxCloneSyncService::new(tower::service_fn(|_: http::Request<Body>| async {
            Err(NetError::new("nobody is there"))
        }))
    }
}

/// A service that answers Describe with this many shards.
struct Stock(u32);

impl tonic::server::UnaryService<DescribeRequest> for Stock {
    type Response = DescribeResponse;
    type Future = std::future::Ready<Result<tonic::Response<DescribeResponse>, Status>>;

    fn call(&mut self, _: Request<DescribeRequest>) -> Self::Future {
        std::future::ready(Ok(tonic::Response::new(DescribeResponse {
            service: "stock".to_owned(),
            shards: self.0,
        })))
    }
}

/// A network on which every replica but one answers Describe.
#[derive(Debug)]
struct Describing {
    deaf: Endpoint,
    asked: Arc<AtomicUsize>,
    shards: u32,
}

impl Net for Describing {
    fn connect(&self, endpoint: &Endpoint) -> Transport {
        let deaf = *endpoint == self.deaf;
        let (asked, shards) = (Arc::clone(&self.asked), self.shards);
        BoxCloneSyncService::new(tower::service_fn(move |request: http::Request<Body>| {
            assert_eq!(request.uri().path(), DESCRIBE);
            asked.fetch_add(1, Ordering::Relaxed);
            async move {
                if deaf {
                    return Ok(Status::unavailable("starting").into_http());
                }
                let codec = tonic_prost::ProstCodec::<DescribeResponse, DescribeRequest>::default();
                Ok(tonic::server::Grpc::new(codec).unary(Stock(shards), request).await)
            }
        }))
    }
}

fn target(replicas: usize) -> Target {
    let list: Vec<String> =
        (0..replicas).map(|number| format!("127.0.0.1:{}", 7200 + number)).collect();
    list.join(",").parse().unwrap()
}

fn router(replicas: usize) -> Router {
    Router::new(target(replicas), Arc::new(Nowhere))
}

fn routes(router: &Router, shards: u16) -> Vec<Endpoint> {
    (0..shards).map(|shard| router.route(ShardId(shard)).unwrap().endpoint).collect()
}

/// Passes a replica over, as a call to it does if it is gone.
fn down(router: &Router, endpoint: &Endpoint) {
    let gone = Failure::new(Reason::Unavailable, "nobody is there");
    router.pass_over(endpoint, "unavailable", &gone);
}

/// The time that a call is given in these tests.
const TIME: Duration = Duration::from_millis(300);

/// Calls a replica that answers like this, or never, and returns whether it keeps its shards.
async fn keeps(wait: ExpectedWait, answer: Option<Status>) -> bool {
    let (router, shard) = (router(3), ShardId(5));
    let first = router.route(shard).unwrap().endpoint;
    let (begun, is_silent) = (Instant::now(), answer.is_none());
    let send = async |_: Transport, request: Request<()>| {
        assert_eq!(deadline::of(request.metadata()), Some(TIME), "the callee is told");
        match answer {
            Some(status) => Err::<tonic::Response<()>, _>(status),
            None => std::future::pending().await,
        }
    };
    router.call(shard, wait, (), send).await.unwrap_err();
    assert_eq!(begun.elapsed(), if is_silent { TIME } else { Duration::ZERO });
    router.route(shard).unwrap().endpoint == first
}

#[test]
fn shards_spread_over_all_replicas() {
    let router = router(4);
    let mut counts: BTreeMap<Endpoint, u32> = BTreeMap::new();
    for endpoint in routes(&router, 4096) {
        *counts.entry(endpoint).or_default() += 1;
    }
    assert_eq!(counts.len(), 4);
    assert!(counts.values().all(|count| (900..1150).contains(count)), "{counts:?}");
}

#[test]
fn callers_agree_whatever_the_order_of_their_lists() {
    let one = Router::new("a:1,b:2,c:3".parse().unwrap(), Arc::new(Nowhere));
    let other = Router::new("c:3,a:1,b:2,a:1".parse().unwrap(), Arc::new(Nowhere));
    assert_eq!(routes(&one, 64), routes(&other, 64));
}

#[test]
fn only_the_shards_of_a_replica_that_left_move() {
    let (before, after) = (routes(&router(4), 4096), routes(&router(3), 4096));
    let gone: Endpoint = "127.0.0.1:7203".parse().unwrap();
    for (old, new) in before.iter().zip(&after) {
        assert!(old == new || *old == gone);
    }
    assert!(!after.contains(&gone));
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_left_is_not_asked_and_the_others_stay_passed_over() {
    let router = router(3);
    let [gone, failed, other] = router.endpoints().try_into().unwrap();
    down(&router, &failed);
    let new: Endpoint = "127.0.0.1:7300".parse().unwrap();
    router.shared.replace(vec![failed.clone(), other.clone(), new.clone()]);
    let asked: BTreeSet<_> = (0..9).map(|_| router.any().unwrap().endpoint).collect();
    assert_eq!(asked, BTreeSet::from([other.clone(), new.clone()]));
    assert!(!routes(&router, 64).contains(&gone));
    // What comes back begins anew.
    router.shared.replace(vec![other.clone(), new.clone()]);
    router.shared.replace(vec![failed.clone(), other, new]);
    assert!((0..9).any(|_| router.any().unwrap().endpoint == failed));
}

#[tokio::test(start_paused = true)]
async fn a_failed_replica_is_passed_over_for_a_second() {
    let router = router(3);
    let shard = ShardId(5);
    let first = router.route(shard).unwrap().endpoint;
    down(&router, &first);
    let second = router.route(shard).unwrap().endpoint;
    assert_ne!(second, first);
    tokio::time::advance(DOWN_FOR).await;
    assert_eq!(router.route(shard).unwrap().endpoint, first);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_refuses_a_call_keeps_its_shards() {
    for reason in Reason::ALL.iter().copied() {
        let said = || Some(to_status(&Failure::new(reason, "said so")));
        let is_late = reason.kind() == ErrorKind::Deadline && reason != Reason::Expired;
        let is_gone = reason.kind() == ErrorKind::Unavailable;
        let kept = keeps(ExpectedWait::Answer(TIME), said()).await;
        assert_eq!(kept, !is_gone && !is_late, "{reason:?}");
        let kept = keeps(ExpectedWait::Wait(TIME), said()).await;
        assert_eq!(kept, !is_gone, "{reason:?}, and it may have waited");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_replica_keeps_its_shards_only_if_it_may_wait() {
    assert!(!keeps(ExpectedWait::Answer(TIME), None).await);
    assert!(keeps(ExpectedWait::Wait(TIME), None).await);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_does_not_describe_itself_is_passed_over() {
    /// A network on which nobody ever answers.
    #[derive(Debug)]
    struct Silent;

    impl Net for Silent {
        fn connect(&self, _: &Endpoint) -> Transport {
            BoxCloneSyncService::new(tower::service_fn(async |_: http::Request<Body>| {
                std::future::pending().await
            }))
        }
    }

    let router = Router::new(target(2), Arc::new(Silent));
    router.describe().await.unwrap_err();
    let replicas = router.shared.replicas();
    assert!(replicas.values().all(|replica| replica.outage.is_some()));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_over_when_no_call_has_failed_for_a_while() {
    let router = router(3);
    let shard = ShardId(5);
    let first = router.route(shard).unwrap().endpoint;
    let calls = || {
        let replicas = router.shared.replicas();
        replicas.get(&first).unwrap().outage.as_ref().map(|outage| outage.calls)
    };
    for failed in 1..=3 {
        down(&router, &first);
        assert_eq!(calls(), Some(failed), "one outage");
        tokio::time::advance(DOWN_FOR * 2).await;
        assert_eq!(router.route(shard).unwrap().endpoint, first, "it is tried again meanwhile");
    }
    assert_eq!(calls(), Some(3));
    tokio::time::advance(OUTAGE_OVER).await;
    router.route(shard).unwrap();
    assert_eq!(calls(), None, "taken back");
}

#[tokio::test(start_paused = true)]
async fn when_all_are_down_the_first_to_recover_is_tried() {
    let router = router(2);
    let shard = ShardId(5);
    let first = router.route(shard).unwrap().endpoint;
    down(&router, &first);
    let second = router.route(shard).unwrap().endpoint;
    tokio::time::advance(DOWN_FOR / 10).await;
    down(&router, &second);
    assert_eq!(router.route(shard).unwrap().endpoint, first);
    down(&router, &first);
    down(&router, &first);
    tokio::time::advance(DOWN_FOR / 10).await;
    down(&router, &first);
    assert_eq!(router.route(shard).unwrap().endpoint, second);
}

#[tokio::test(start_paused = true)]
async fn replicas_that_are_alike_take_turns() {
    let router = router(3);
    let turn = || router.any().unwrap().endpoint;
    let seen: BTreeSet<Endpoint> = (0..3).map(|_| turn()).collect();
    assert_eq!(seen.len(), 3);
    let turned_down = turn();
    down(&router, &turned_down);
    assert!((0..6).all(|_| turn() != turned_down));
}

#[tokio::test(start_paused = true)]
async fn shards_are_asked_for_until_somebody_answers_and_then_remembered() {
    let asked = Arc::new(AtomicUsize::new(0));
    let deaf = "127.0.0.1:7200".parse().unwrap();
    let net = Describing { deaf, asked: Arc::clone(&asked), shards: 16 };
    let router = Router::new(target(2), Arc::new(net));
    for _ in 0..3 {
        assert_eq!(router.shards().await, Ok(16));
    }
    assert_eq!(router.describe().await.unwrap().service, "stock");
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_has_as_many_shards_as_there_can_be_and_no_more() {
    for (shards, expected) in [(0, None), (4_096, Some(4_096)), (4_097, None), (65_536, None)] {
        let deaf = "127.0.0.1:1".parse().unwrap();
        let net = Describing { deaf, asked: Arc::default(), shards };
        let router = Router::new(target(1), Arc::new(net));
        assert_eq!(router.shards().await.ok(), expected, "{shards}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_an_error_that_a_retry_may_heal() {
    let error = router(2).shards().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(matches!(error, RouteError::NotDescribed { .. }));
}

#[tokio::test]
async fn a_name_is_resolved_to_every_address() {
    let router = Router::new("dns:localhost:7200".parse().unwrap(), Arc::new(Nowhere));
    let deadline = Instant::now() + Duration::from_secs(5);
    while router.endpoints().is_empty() {
        assert!(Instant::now() < deadline, "localhost did not resolve");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        router
            .endpoints()
            .iter()
            .all(|endpoint| ["127.0.0.1:7200", "[::1]:7200"].contains(&endpoint.as_str()))
    );
    assert!(router.route(ShardId(0)).is_ok());
}

#[tokio::test]
async fn a_name_without_an_address_yet_is_unavailable() {
    let router = Router::new("dns:nowhere.invalid:1".parse().unwrap(), Arc::new(Nowhere));
    assert!(matches!(router.route(ShardId(0)), Err(RouteError::NoReplica(_))));
    assert!(router.any().is_err());
}
