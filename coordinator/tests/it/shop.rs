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
    participant::v1::participant_service_server::ParticipantServiceServer,
};
use rpc::{
    net::{Endpoint, Net, NetError, Transport, in_process},
    routing::Target,
    status::Failure,
};
use storage::{
    SharedKv,
    mem::{MemKv, SeededEntropy, TokioClock},
};
use tonic::{Request, body::Body, service::Routes};
use tower::{ServiceExt as _, service_fn};
use types::{
    Branch, Clock, Priority, Reason, Role, Service, ShardId, Timestamp, TxId, TxMeta, UnixMillis,
    Vote,
};

use crate::fake::{Fake, Log, ScriptedVote};

/// The time at which each test begins.
const ORIGIN: UnixMillis = UnixMillis(1_700_000_000_000);

/// The endpoints that were called, and by which path.
type Called = Arc<Mutex<BTreeSet<(Endpoint, String)>>>;

/// A network in this process. Each service has two replicas, which are the same.
#[derive(Debug)]
struct Wires {
    routes: BTreeMap<&'static str, Routes>,
    called: Called,
}

impl Net for Wires {
    fn connect(&self, endpoint: &Endpoint) -> Transport {
        let (service, _) = endpoint.as_str().split_once('-').unwrap();
        let routes = self.routes.get(service).unwrap().clone();
        let (called, endpoint) = (Arc::clone(&self.called), endpoint.clone());
        in_process(service_fn(move |request: http::Request<Body>| {
            let path = request.uri().path().to_owned();
            called.lock().unwrap().insert((endpoint.clone(), path));
            let routes = routes.clone();
            async move { routes.oneshot(request).await.map_err(NetError::new) }
        }))
    }
}

/// Where the replicas of a service are.
fn at(service: &str) -> Target {
    format!("{service}-0:1,{service}-1:1").parse().unwrap()
}

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
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(ORIGIN));
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
        let participant = |fake: &Fake| Routes::new(ParticipantServiceServer::new(fake.clone()));
        let orders = participant(&order).add_service(OrderServiceServer::new(order.clone()));
        let routes = BTreeMap::from([
            ("order", orders),
            ("stock", participant(&stock)),
            ("payment", participant(&payment)),
            ("loyalty", participant(&loyalty)),
        ]);
        let called = Called::default();
        let settings = Settings {
            services: [Role::Order, Role::Stock, Role::Payment]
                .map(|role| (role, at(role.name())))
                .into_iter()
                .collect(),
            request_id_retention_ms: 600_000,
            vote_window_ms: 2_000,
            batch_calls_max: None,
        };
        let net: Arc<dyn Net> = Arc::new(Wires { routes, called: Arc::clone(&called) });
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
        TxMeta {
            tx_id: TxId([7; 16]),
            priority: Priority { begin_ts: Timestamp::from_physical(now).0, nonce: 0 },
            deadline: now.plus_ms(2_000),
            branches: ["order", "stock", "payment"].map(branch).into(),
            call: None,
        }
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

pub(crate) fn branch(service: &str) -> Branch {
    Branch { service: Service::new(service).unwrap(), shard: ShardId(0) }
}

pub(crate) fn no(reason: Reason) -> ScriptedVote {
    let reason = reason.to_string();
    ScriptedVote::Vote(Vote::No { reason, metadata: BTreeMap::new() })
}
