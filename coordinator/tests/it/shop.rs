//! A coordinator, its participants, and the calls that clients make.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use coordinator::{Coordinator, Extras, Settings};
use proto::{
    coordinator::v1::{
        CheckoutRequest, CheckoutResponse, Outcome, ResolveRequest,
        coordinator_service_server::CoordinatorService,
    },
    order::v1::{Order, order::Line, order_service_server::OrderServiceServer},
};
use rpc::{net::Endpoint, status::Failure};
use storage::SharedKv;
use testkit::{
    MemKv, SeededEntropy, TokioClock, branch,
    net::{carried_by, replicas, service_of},
    participant::serve,
};
use tonic::{Request, service::Routes};
use tower::ServiceExt as _;
use types::{Branch, Clock, Priority, Role, Timestamp, TxMeta, Vote};

use crate::fake::{Fake, Log, ScriptedVote};

/// The endpoints that were called, and by which path.
type Called = Arc<Mutex<BTreeSet<(Endpoint, String)>>>;

/// A coordinator with all its participants.
pub(crate) struct Shop {
    pub(crate) coordinator: Coordinator,
    pub(crate) order: Fake,
    pub(crate) stock: Fake,
    pub(crate) payment: Fake,
    /// Takes part only if the coordinator's settings name it.
    pub(crate) loyalty: Fake,
    pub(crate) kv: SharedKv,
    pub(crate) clock: Arc<dyn Clock>,
    log: Log,
    called: Called,
}

/// The checkout of order "o" with item "a". Every service has one shard, so every branch is shard
/// 0.
impl Shop {
    pub(crate) fn open() -> Self {
        Self::open_with(&Extras::default())
    }

    /// Like [`Shop::open`], with these extras.
    pub(crate) fn open_with(extras: &Extras) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let log = Log::default();
        let fake = |name| Fake::new(name, Arc::clone(&clock), Arc::clone(&log));
        let (order, stock, payment) = (fake("order"), fake("stock"), fake("payment"));
        let loyalty = fake("loyalty");
        let line = Line { item_id: "a".to_owned(), quantity: 1, price: 5 };
        order.set_order(Order {
            user_id: "u".to_owned(),
            lines: vec![line],
            total_cost: 5,
            etag: "as read".to_owned(),
            ..Order::default()
        });
        let participant = |fake: &Fake| Routes::new(serve(fake.clone()));
        let orders = participant(&order).add_service(OrderServiceServer::new(order.clone()));
        let routes = BTreeMap::from([
            ("order", orders),
            ("stock", participant(&stock)),
            ("payment", participant(&payment)),
            ("loyalty", participant(&loyalty)),
        ]);
        let called = Called::default();
        let settings = Settings {
            services: Role::SERVICES
                .map(|role| (role, replicas(role.name())))
                .into_iter()
                .collect(),
            request_id_retention_ms: 600_000,
            vote_window_ms: 2_000,
            batch_calls_max: None,
        };
        let calls = Arc::clone(&called);
        // The two replicas of a service are the same.
        let net = carried_by(move |endpoint, request| {
            let routes = routes[service_of(&endpoint)].clone();
            calls.lock().unwrap().insert((endpoint, request.uri().path().to_owned()));
            async move { Ok(routes.oneshot(request).await?) }
        });
        let kv = MemKv::new(Arc::clone(&clock)).shared();
        let entropy = Arc::new(SeededEntropy::new(1));
        let store = Arc::clone(&kv);
        let coordinator =
            Coordinator::new(&settings, extras, &net, store, Arc::clone(&clock), entropy);
        Self { coordinator, order, stock, payment, loyalty, kv, clock, log, called }
    }

    /// Checks out order "o" within this time.
    pub(crate) async fn checkout(&self, time: Duration) -> Result<CheckoutResponse, Failure> {
        self.checkout_as(CheckoutRequest { request_id: "r".to_owned(), ..Default::default() }, time)
            .await
    }

    /// Checks out order "o", with the other fields of the request as given.
    pub(crate) async fn checkout_as(
        &self,
        request: CheckoutRequest,
        time: Duration,
    ) -> Result<CheckoutResponse, Failure> {
        let request = CheckoutRequest { order_id: "o".to_owned(), ..request };
        self.send_checkout(Request::new(request), time).await
    }

    /// Sends a checkout with its metadata.
    pub(crate) async fn send_checkout(
        &self,
        mut request: Request<CheckoutRequest>,
        time: Duration,
    ) -> Result<CheckoutResponse, Failure> {
        rpc::deadline::set(&mut request, time);
        match CoordinatorService::checkout(&self.coordinator, request).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => Err(Failure::from_status(&status)),
        }
    }

    pub(crate) async fn resolve_tx(&self, meta: &TxMeta) -> (Outcome, Vec<Branch>) {
        let request = ResolveRequest { tx: Some(meta.into()) };
        let response =
            CoordinatorService::resolve(&self.coordinator, Request::new(request)).await.unwrap();
        let response = response.into_inner();
        let missing = response.missing.iter().map(|branch| branch.try_into().unwrap());
        (response.outcome(), missing.collect())
    }

    /// A transaction that another process began, with a branch at each participant.
    pub(crate) fn foreign(&self) -> TxMeta {
        let now = self.clock.now();
        let priority = Priority { begin_ts: Timestamp::from_physical(now).0, nonce: 0 };
        let branches = ["order", "stock", "payment"].map(branch);
        TxMeta { priority, ..testkit::tx(7, now.plus_ms(2_000), branches) }
    }

    /// How many replicas a method was called at, given by its path.
    pub(crate) fn replicas_called(&self, method: &str) -> usize {
        let called = self.called.lock().unwrap();
        called.iter().filter(|(_, path)| path == method).count()
    }

    /// The operations so far, as `service kind answer`.
    pub(crate) fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The position of an event in the log.
    pub(crate) fn when(&self, event: &str) -> usize {
        let log = self.log();
        log.iter().position(|line| line == event).unwrap_or_else(|| panic!("no {event}: {log:?}"))
    }

    /// The number of times that an event happened.
    pub(crate) fn count(&self, event: &str) -> usize {
        self.log().iter().filter(|line| *line == event).count()
    }

    /// Waits until all background work has ended.
    pub(crate) async fn quiet(&self) {
        assert_eq!(self.coordinator.drain(Duration::from_mins(1)).await, 0, "still busy");
        assert_eq!(self.order.prepared() + self.stock.prepared() + self.payment.prepared(), 0);
    }
}

/// A vote NO for this reason.
#[expect(clippy::needless_pass_by_value, reason = "callers pass a reason of ours or any text")]
pub(crate) fn no(reason: impl ToString) -> ScriptedVote {
    ScriptedVote::Vote(Vote::No { reason: reason.to_string(), metadata: BTreeMap::new() })
}
