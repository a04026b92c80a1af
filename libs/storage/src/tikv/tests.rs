use std::sync::atomic::AtomicU64;

use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{pace::Interrupted, *};

#[tokio::test(start_paused = true)]
async fn a_hung_and_a_panicking_call_both_end() {
    let deadline = Instant::now() + Duration::from_secs(1);
    assert_eq!(bounded(deadline, std::future::pending::<()>()).await, Err(Interrupted::TimedOut));
    let deadline = Instant::now() + Duration::from_secs(1);
    let panics = async { assert!(deadline < Instant::now(), "no leader") };
    assert_eq!(bounded(deadline, panics).await, Err(Interrupted::Panicked));
    assert_eq!(bounded(deadline, async { 7 }).await, Ok(7));
}

/// Issues rising numbers. Each request waits for a permit.
struct Oracle {
    permits: Semaphore,
    requests: AtomicU64,
}

async fn ask(oracle: Arc<Oracle>) -> u64 {
    let number = oracle.requests.fetch_add(1, Ordering::SeqCst);
    oracle.permits.acquire().await.unwrap().forget();
    number
}

#[tokio::test(start_paused = true)]
async fn callers_share_a_request_that_is_sent_after_they_called() {
    let oracle = Arc::new(Oracle { permits: Semaphore::new(0), requests: AtomicU64::new(0) });
    let flight = Arc::new(NextFlight::default());
    let call = || {
        let (oracle, flight) = (Arc::clone(&oracle), Arc::clone(&flight));
        async move { flight.share(move || ask(Arc::clone(&oracle))).await }
    };
    let first = tokio::spawn(call());
    sleep(Duration::from_millis(1)).await;
    assert_eq!(oracle.requests.load(Ordering::SeqCst), 1, "the first request is under way");
    let mut others = JoinSet::new();
    for _ in 0..50 {
        others.spawn(call());
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(oracle.requests.load(Ordering::SeqCst), 1, "the others gather");
    oracle.permits.add_permits(2);
    assert_eq!(first.await.unwrap(), Some(0));
    let answers = others.join_all().await;
    assert_eq!(answers, vec![Some(1); 50], "not the answer of the request sent before they called");
    assert_eq!(oracle.requests.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_does_not_take_the_request_with_it() {
    let oracle = Arc::new(Oracle { permits: Semaphore::new(0), requests: AtomicU64::new(0) });
    let flight = Arc::new(NextFlight::default());
    let call = || {
        let (oracle, flight) = (Arc::clone(&oracle), Arc::clone(&flight));
        async move { flight.share(move || ask(Arc::clone(&oracle))).await }
    };
    let gone = timeout(Duration::from_millis(1), call()).await;
    assert!(gone.is_err());
    let stays = tokio::spawn(call());
    sleep(Duration::from_millis(1)).await;
    oracle.permits.add_permits(2);
    assert_eq!(stays.await.unwrap(), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_panics_hangs_nobody() {
    let flight: NextFlight<u64> = NextFlight::default();
    assert_eq!(flight.share(|| async { "".parse::<u64>().expect("a header") }).await, None);
    assert_eq!(flight.share(|| async { 7 }).await, Some(7));
}

#[tokio::test]
async fn what_cannot_work_is_refused_at_once() {
    let none = TikvKv::connect(TikvConfig::new(vec![" ".to_owned()])).await;
    assert!(matches!(none, Err(KvError::Refused(_))));
    let mut config = TikvConfig::new(vec!["127.0.0.1:1".to_owned()]);
    let missing = PathBuf::from("/nowhere/ca.pem");
    config.tls = Some(TikvTls { ca: missing.clone(), cert: missing.clone(), key: missing });
    assert!(matches!(TikvKv::connect(config).await, Err(KvError::Refused(_))));
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_wait_long_for_a_store_that_is_not_there() {
    let config = TikvConfig::new(vec!["127.0.0.1:1".to_owned()]);
    let kv = TikvKv::connect(config).await.unwrap();
    let call = timeout(Duration::from_secs(3), kv.timestamp());
    assert!(matches!(call.await, Ok(Err(KvError::Unavailable(_)))));
}

#[test]
fn a_span_holds_its_keys() {
    let keys = [b"b".to_vec(), b"a".to_vec(), b"c".to_vec()];
    let span = query::span(&keys);
    assert_eq!(span, b"a".to_vec()..b"c\0".to_vec());
    assert!(keys.iter().all(|key| span.contains(key)));
}

#[tokio::test(start_paused = true)]
async fn trouble_is_told_at_most_once_in_five_seconds() {
    let throttle = Throttle::default();
    assert!(throttle.ready());
    assert!(!throttle.ready());
    sleep(Duration::from_secs(5)).await;
    assert!(throttle.ready());
}
