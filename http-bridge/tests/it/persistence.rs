//! Conflicts, lost messages, dead and silent replicas: the bridge asks again until the answer is
//! definite, and answers 503 only at the deadline. Time is paused, so 30 s pass at once.

use std::{sync::Arc, time::Duration};

use http_bridge::Settings;
use rpc::{
    net::{Endpoint, GrpcNet, Net},
    routing::{Router, Target},
};
use tokio::time::Instant;
use types::{Reason, Role, ShardId};

use crate::shop::{CALLEES, Front, SHARDS, Trouble, World, settings};

#[tokio::test(start_paused = true)]
async fn what_is_not_definite_is_asked_again() {
    for trouble in [
        Trouble::Say(Reason::Unavailable),
        Trouble::Say(Reason::OutcomeUnknown),
        Trouble::Say(Reason::OrderChanged),
        Trouble::Say(Reason::Overloaded),
        Trouble::LoseRequest,
        Trouble::LoseReply,
        Trouble::NoConnection,
        Trouble::Silence,
    ] {
        let front = Front::filled();
        front.world.plan("stock", "/SubtractStock", trouble.clone(), 2);
        let answer = front.call("POST /stock/subtract/1/4").await;
        assert_eq!(answer.text(), "Item: 1 stock updated to: 6", "{trouble:?}");
        assert_eq!(front.world.calls("/SubtractStock").len(), 3, "{trouble:?}");
        assert_eq!(front.world.state().items["1"].stock, 6, "{trouble:?}: once");
    }
}

#[tokio::test(start_paused = true)]
async fn every_endpoint_persists() {
    for (call, method) in [
        ("POST /orders/create/1", "/CreateOrder"),
        ("GET /orders/find/1", "/GetOrder"),
        ("POST /orders/addItem/1/1/1", "/AddItem"),
        ("DELETE /orders/removeItem/1/0", "/RemoveItem"),
        ("DELETE /orders/remove/1", "/RemoveOrder"),
        ("POST /orders/checkout/1", "/Checkout"),
        ("POST /orders/batch_init/9/1/1/1", "OrderService/BatchInit"),
        ("POST /stock/item/create/1", "/CreateItem"),
        ("GET /stock/find/1", "/GetItem"),
        ("POST /stock/add/1/1", "/AddStock"),
        ("POST /stock/batch_init/9/1/1", "StockService/BatchInit"),
        ("POST /payment/create_user", "/CreateUser"),
        ("GET /payment/find_user/1", "/GetUser"),
        ("POST /payment/add_funds/1/1", "/AddFunds"),
        ("POST /payment/pay/1/1", "/Pay"),
        ("POST /payment/pay/1/1/1", "/Pay"),
        ("GET /payment/status/1/1", "/GetPaymentStatus"),
        ("POST /payment/batch_init/9/1", "PaymentService/BatchInit"),
    ] {
        let front = Front::filled();
        front.world.plan("", method, Trouble::LoseReply, 1);
        front.world.plan("", method, Trouble::Say(Reason::Unavailable), 1);
        front.world.plan("", "/Describe", Trouble::LoseRequest, 3);
        assert_eq!(front.call(call).await.status, 200, "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_definite_also_after_a_stumble() {
    let front = Front::filled();
    front.world.plan("stock", "/SubtractStock", Trouble::LoseReply, 1);
    let answer = front.call("POST /stock/subtract/1/11").await;
    assert_eq!(answer.outcome(), (409, "OUT_OF_STOCK".to_owned()));
}

/// The coordinator that was asked first may have died half way, and its votes may hold something
/// until their deadline. The next coordinator knows the length of that time, and is told when the
/// unanswered attempt ended.
#[tokio::test(start_paused = true)]
async fn a_coordinator_is_told_of_an_attempt_before_it_that_was_not_answered() {
    for (trouble, is_told) in [(Trouble::LoseReply, true), (Trouble::NoConnection, false)] {
        let front = Front::filled();
        front.world.plan("", "/Checkout", trouble.clone(), 1);
        assert_eq!(front.call("POST /orders/checkout/1").await.status, 200);
        let last = front.world.state().checkouts.last().unwrap().unanswered_at_ms;
        let told = front.world.store_ms().saturating_sub(1_000) < last;
        assert_eq!(told, is_told, "{trouble:?}: {last}");
    }
}

/// An attempt takes effect before the client is told that the outcome is unknown, or never.
#[tokio::test(start_paused = true)]
async fn all_attempts_of_a_call_have_one_end_that_is_no_later_than_its_answer() {
    for (call, method, times) in [
        ("POST /stock/add/1/1", "/AddStock", 3),
        ("POST /orders/checkout/1", "/Checkout", 2),
        ("DELETE /orders/removeItem/1/0", "/RemoveItem", 2),
    ] {
        let front = Front::filled();
        tokio::time::sleep(Duration::from_mins(1)).await;
        front.world.plan("", method, Trouble::LoseReply, times);
        let answered_by = front.world.store_ms() + 30_000;
        assert_eq!(front.call(call).await.status, 200, "{call}");
        let ends: Vec<_> = front
            .world
            .calls(method)
            .into_iter()
            .map(|call| call.meta.not_after.unwrap().0)
            .collect();
        assert_eq!(ends.len(), times + 1);
        assert!(ends.iter().all(|end| *end == ends[0]), "{call}: {ends:?}");
        assert!(ends[0] <= answered_by && ends[0] > answered_by - 1_000, "{call}: {ends:?}");
        assert!(front.world.calls("/GetItem").iter().all(|call| call.meta.not_after.is_none()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_under_a_clients_own_key_has_a_name_of_its_own_besides() {
    let front = Front::filled();
    front.world.plan("", "/AddStock", Trouble::LoseReply, 1);
    for _ in 0..2 {
        front.call_with("POST /stock/add/1/1", &[("idempotency-key", "mine")]).await;
    }
    front.call("POST /stock/add/1/1").await;
    let names: Vec<_> =
        front.world.calls("/AddStock").into_iter().map(|call| call.meta.call_id).collect();
    let [first, again, second, bare] = &names[..] else { panic!("{names:?}") };
    assert!(first.is_some() && first == again, "two attempts of one call: {names:?}");
    assert!(second.is_some() && second != first, "another call: {names:?}");
    assert_eq!(*bare, None, "its request id is its own");
}

/// Without the store's time the bridge cannot fix the end of a call, so nothing is begun.
#[tokio::test(start_paused = true)]
async fn nothing_is_changed_while_nobody_knows_the_stores_time() {
    let front = Front::filled();
    front.world.state().timeless = true;
    let answer = front.call("POST /stock/add/1/1").await;
    assert_eq!(answer.outcome(), (503, "UNAVAILABLE".to_owned()));
    assert!(front.world.calls("/AddStock").is_empty());
    assert_eq!(front.call("GET /stock/find/1").await.status, 200, "reading needs none");
    let (answer, ()) = tokio::join!(front.call("POST /stock/add/1/1"), async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        front.world.state().timeless = false;
    });
    assert_eq!(answer.status, 200);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_came_too_late_did_nothing() {
    let front = Front::filled();
    front.world.plan("", "/AddStock", Trouble::Say(Reason::Expired), usize::MAX);
    let answer = front.call("POST /stock/add/1/1").await;
    assert_eq!(answer.outcome(), (503, "UNAVAILABLE".to_owned()), "its outcome is known");
}

#[tokio::test(start_paused = true)]
async fn the_next_best_replica_is_asked() {
    let front = Front::filled();
    let served = {
        front.call("GET /stock/find/1").await;
        front.world.calls("/GetItem").pop().unwrap().endpoint
    };
    front.world.plan(&served, "/GetItem", Trouble::NoConnection, usize::MAX);
    let began = Instant::now();
    assert_eq!(front.call("GET /stock/find/1").await.status, 200);
    assert!(began.elapsed() < Duration::from_millis(20), "{:?}", began.elapsed());
    assert_ne!(front.world.calls("/GetItem").pop().unwrap().endpoint, served);
}

#[tokio::test(start_paused = true)]
async fn a_silent_replica_is_left_before_the_deadline() {
    let front = Front::filled();
    front.world.plan("coordinator-0", "/Checkout", Trouble::Silence, usize::MAX);
    for order in 0..4 {
        let began = Instant::now();
        let answer = front.call(&format!("POST /orders/checkout/{order}")).await;
        assert_eq!(answer.status, 200);
        assert!(began.elapsed() < Duration::from_secs(9));
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_a_change_that_may_have_happened_is_unknown() {
    for trouble in [
        Trouble::LoseReply,
        Trouble::LoseRequest,
        Trouble::Silence,
        Trouble::Say(Reason::OutcomeUnknown),
        Trouble::Say(Reason::Unavailable),
    ] {
        let front = Front::filled();
        front.world.plan("", "/Checkout", trouble.clone(), usize::MAX);
        let began = Instant::now();
        let answer = front.call("POST /orders/checkout/1").await;
        assert_eq!(answer.outcome(), (503, "OUTCOME_UNKNOWN".to_owned()), "{trouble:?}");
        assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
        let elapsed = began.elapsed();
        assert!(elapsed > Duration::from_secs(29), "gave up after {elapsed:?}");
        assert!(elapsed <= Duration::from_secs(30), "answered after {elapsed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_what_cannot_have_happened_is_unavailable() {
    for (call, method, trouble) in [
        ("POST /orders/checkout/1", "/Checkout", Trouble::NoConnection),
        ("POST /orders/checkout/1", "/Checkout", Trouble::Say(Reason::OrderChanged)),
        ("GET /stock/find/1", "/GetItem", Trouble::LoseReply),
        ("GET /stock/find/1", "/GetItem", Trouble::Silence),
        ("POST /stock/add/1/1", "/Describe", Trouble::LoseRequest),
        ("POST /stock/batch_init/1/1/1", "/Describe", Trouble::LoseRequest),
    ] {
        let front = Front::filled();
        front.world.plan("", method, trouble.clone(), usize::MAX);
        let answer = front.call(call).await;
        assert_eq!(answer.outcome(), (503, "UNAVAILABLE".to_owned()), "{call} {trouble:?}");
        assert_eq!(answer.header("retry-after"), "1");
    }
}

#[tokio::test(start_paused = true)]
async fn one_attempt_that_may_have_worked_makes_the_outcome_unknown() {
    let front = Front::filled();
    front.world.plan("", "/AddStock", Trouble::LoseReply, 1);
    front.world.plan("", "/AddStock", Trouble::NoConnection, usize::MAX);
    let answer = front.call("POST /stock/add/1/1").await;
    assert_eq!(answer.outcome(), (503, "OUTCOME_UNKNOWN".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_stays_overloaded_is_a_429_unless_something_may_have_happened() {
    let front = Front::filled();
    front.world.plan("", "/AddStock", Trouble::Say(Reason::Overloaded), usize::MAX);
    let answer = front.call("POST /stock/add/1/1").await;
    assert_eq!(answer.outcome(), (429, "OVERLOADED".to_owned()));
    assert_eq!(answer.header("retry-after"), "1");

    let front = Front::filled();
    front.world.plan("", "/AddStock", Trouble::LoseReply, 1);
    front.world.plan("", "/AddStock", Trouble::Say(Reason::Overloaded), usize::MAX);
    let answer = front.call("POST /stock/add/1/1").await;
    assert_eq!(answer.outcome(), (503, "OUTCOME_UNKNOWN".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_cannot_be_bound_leaves_nothing_behind() {
    let front = Front::filled();
    front.world.plan("", "/ClaimRequestId", Trouble::LoseReply, usize::MAX);
    let answer = front.call_with("POST /stock/add/1/1", &[("Idempotency-Key", "a")]).await;
    assert_eq!(answer.outcome(), (503, "UNAVAILABLE".to_owned()));
    assert!(front.world.calls("/AddStock").is_empty());
}

#[tokio::test(start_paused = true)]
async fn services_are_told_how_much_time_is_left() {
    let front = Front::filled();
    front.world.plan("", "/GetItem", Trouble::Silence, 3);
    front.call("GET /stock/find/1").await;
    let given: Vec<u64> =
        front.world.calls("/GetItem").iter().map(|call| call.timeout.unwrap().as_secs()).collect();
    assert_eq!(given, [8, 8, 8, 5], "of 30 s, less the pauses");
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_but_stay_short() {
    let front = Front::filled();
    front.world.plan("", "/GetItem", Trouble::LoseRequest, usize::MAX);
    front.call("GET /stock/find/1").await;
    let asked = front.world.calls("/GetItem").len();
    // 30 s in pauses of 125 to 250 ms, the first few of them shorter.
    assert!((120..=250).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn batch_init_has_its_own_deadline() {
    let front = Front::with(Settings { request_timeout: Duration::from_secs(1), ..settings() });
    front.world.plan("stock-0", "/BatchInit", Trouble::LoseReply, usize::MAX);
    front.world.plan("stock-1", "/BatchInit", Trouble::Silence, usize::MAX);
    let began = Instant::now();
    let answer = front.call("POST /stock/batch_init/100/1/1").await;
    assert_eq!(answer.outcome(), (503, "OUTCOME_UNKNOWN".to_owned()));
    assert!(began.elapsed() > Duration::from_secs(59), "{:?}", began.elapsed());
}

/// The replica that serves each shard of a service.
fn routes(service: &Router) -> Vec<Endpoint> {
    (0..SHARDS).map(|shard| service.route(ShardId(shard)).unwrap().endpoint).collect()
}

#[tokio::test(start_paused = true)]
async fn a_batch_init_that_takes_long_leaves_its_replica_its_shards() {
    let front = Front::new();
    let before = routes(front.bridge.shop().at(Role::Stock));
    front.world.plan("stock-1", "/BatchInit", Trouble::Silence, usize::MAX);
    let answer = front.call("POST /stock/batch_init/100/1/1").await;
    assert_eq!(answer.outcome(), (503, "OUTCOME_UNKNOWN".to_owned()));
    assert_eq!(routes(front.bridge.shop().at(Role::Stock)), before);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_had_less_time_than_an_attempt_keeps_its_shards() {
    let front = Front::filled();
    let before = routes(front.bridge.shop().at(Role::Stock));
    front.world.plan("", "/GetItem", Trouble::Silence, usize::MAX);
    front.call("GET /stock/find/1").await;
    // The last of four attempts had five seconds instead of eight.
    assert_eq!(routes(front.bridge.shop().at(Role::Stock)), before);
    assert_eq!(front.world.calls("/GetItem").len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_batch_init_is_given_up_a_minute_after_its_service_fell_silent() {
    let batch_init_timeout = Duration::from_hours(1);
    for method in ["/ClaimRequestId", "/Describe", "/BatchInit"] {
        let front = Front::with(Settings { batch_init_timeout, ..settings() });
        front.call("GET /stock/find/1").await;
        front.bridge.shop().at(Role::Stock).forget_description();
        front.world.plan("", method, Trouble::LoseRequest, usize::MAX);
        let began = Instant::now();
        let key = [("Idempotency-Key", "a")];
        assert_eq!(front.call_with("POST /stock/batch_init/100/1/1", &key).await.status, 503);
        let took = began.elapsed();
        assert!(took <= Duration::from_mins(1), "{method} {took:?}");
    }
}

#[tokio::test]
async fn a_batch_init_ends_with_the_part_at_which_its_client_left() {
    let front = Front::new();
    let (held, call) = front.held("/BatchInit", "POST /payment/batch_init/120000/1").await;
    call.abort();
    assert!(call.await.is_err());
    held.notify_one();
    front.bridge.work().close();
    let ended = tokio::time::timeout(Duration::from_secs(5), front.bridge.work().wait()).await;
    ended.expect("the work ends");
    assert_eq!(front.world.state().users.len(), 50_000);
}

#[tokio::test(start_paused = true)]
async fn a_part_of_a_batch_init_moves_to_the_replica_that_is_left() {
    let front = Front::new();
    front.world.plan("stock-0", "/BatchInit", Trouble::NoConnection, usize::MAX);
    assert_eq!(front.call("POST /stock/batch_init/100/1/1").await.status, 200);
    assert_eq!(front.world.state().items.len(), 100);
}

#[tokio::test]
async fn work_goes_on_when_its_client_leaves() {
    let front = Front::filled();
    let (held, call) = front.held("/Checkout", "POST /orders/checkout/1").await;
    call.abort();
    assert!(call.await.is_err());
    held.notify_one();
    front.bridge.work().close();
    let ended = tokio::time::timeout(Duration::from_secs(5), front.bridge.work().wait()).await;
    ended.expect("the work ends");
    assert!(front.world.state().orders["1"].paid);
}

#[tokio::test]
async fn one_request_too_many_is_shed_before_it_starts() {
    let (front, held, first) = Front::full().await;
    let shed = front.call("POST /stock/add/2/1").await;
    assert_eq!(shed.outcome(), (429, "OVERLOADED".to_owned()));
    assert_eq!(shed.header("retry-after"), "1");
    assert_eq!(front.call("GET /healthz").await.status, 200);
    assert_eq!(front.world.calls("/AddStock").len(), 1);
    held.notify_one();
    assert_eq!(first.await.unwrap(), 200);
    assert_eq!(front.call("POST /stock/add/2/1").await.status, 200);
}

#[tokio::test]
async fn over_the_real_network_a_refused_connection_is_known_to_have_done_nothing() {
    // Bound and closed again, so nobody listens there.
    let unused = rpc::listen::tcp(&rpc::listen::loopback(0)).unwrap()[0].local_addr().unwrap();
    let target = Target::Static(vec![Endpoint::from(unused)]);
    let net: Arc<dyn Net> = Arc::new(GrpcNet::default());
    let router = Router::new(target, net);
    let shop = CALLEES.into_iter().map(|role| (role, router.clone())).collect();
    let settings = Settings { request_timeout: Duration::from_millis(300), ..settings() };
    let front = Front::of(World::default(), shop, settings);
    let answer = front.call("POST /orders/checkout/1").await;
    assert_eq!(answer.outcome(), (503, "UNAVAILABLE".to_owned()));
}
