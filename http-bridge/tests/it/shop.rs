//! A shop in memory, behind the gRPC interfaces that the bridge calls, on a network that loses,
//! delays and refuses on demand. It keeps those rules of the services that the bridge depends on:
//! request ids, refusals, prices.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{Router as AxumRouter, body::Body};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt as _;
use http_bridge::{Bridge, Settings, Shop};
use prost::Message;
use proto::coordinator::v1::CheckoutRequest;
use rpc::{
    call::CallMeta,
    env::{SystemClock, SystemEntropy},
    net::Endpoint,
    routing::Router,
    status::to_status,
    store_time::{self, StoreTime},
};
use serde_json::Value;
use testkit::{
    TokioClock,
    net::{Carried, carried_by, read, replicas, request},
};
use tokio::{sync::Notify, task::JoinHandle};
use tonic::{Status, metadata::MetadataMap};
use tower::ServiceExt as _;
use types::{Clock as _, Reason, Refusal, Role, Timestamp};

use crate::conformance::Contract;

mod coordinator;
mod services;

/// Number of shards of every service.
pub(crate) const SHARDS: u16 = 8;

/// What the network does to a call.
#[derive(Clone, Debug)]
pub(crate) enum Trouble {
    /// The call never arrives.
    LoseRequest,
    /// No connection can be made.
    NoConnection,
    /// The call is carried out, but the answer never arrives.
    LoseReply,
    /// There is never any answer.
    Silence,
    /// The service refuses with this reason.
    Say(Reason),
    /// The call arrives once this notifies.
    Hold(Arc<Notify>),
}

/// What happens to the next calls of one method.
struct Plan {
    /// Beginning of the endpoint's name.
    endpoint: String,
    /// End of the method's path.
    method: &'static str,
    trouble: Trouble,
    left: usize,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Item {
    pub(crate) price: u64,
    pub(crate) stock: u64,
}

#[derive(Clone, Default, Debug)]
pub(crate) struct Order {
    pub(crate) user_id: String,
    pub(crate) paid: bool,
    /// Item, quantity, price.
    pub(crate) lines: Vec<(String, u64, u64)>,
}

impl Order {
    pub(crate) fn cost(&self) -> u64 {
        self.lines.iter().map(|(_, quantity, price)| quantity * price).sum()
    }
}

/// What the shop holds, and what tests set and observe.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) items: BTreeMap<String, Item>,
    pub(crate) users: BTreeMap<String, u64>,
    pub(crate) orders: BTreeMap<String, Order>,
    /// Amounts by user and order.
    pub(crate) payments: BTreeMap<(String, String), u64>,
    /// First answers, by service and request id.
    answers: BTreeMap<(&'static str, String), Vec<u8>>,
    claims: BTreeMap<String, String>,
    /// For each checkout that arrived: whether its log was wanted.
    pub(crate) logs_kept: Vec<bool>,
    /// Each checkout that arrived.
    pub(crate) checkouts: Vec<CheckoutRequest>,
    /// What the coordinator reports to operators.
    pub(crate) reports: Vec<proto::coordinator::v1::TransactionReport>,
    /// The last audit, by the coordinator's endpoint.
    pub(crate) audits: BTreeMap<String, proto::coordinator::v1::GetAuditResponse>,
    /// The ids of transactions that operators had resolved.
    pub(crate) resolved: Vec<Vec<u8>>,
    /// True when no service tells the store's time.
    pub(crate) timeless: bool,
    /// Every call that reached the network.
    pub(crate) calls: Vec<Call>,
    plans: Vec<Plan>,
}

/// One call as the network saw it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) endpoint: String,
    pub(crate) method: String,
    pub(crate) timeout: Option<Duration>,
    /// The metadata that it carries.
    pub(crate) meta: CallMeta,
}

/// The shop and the network to it.
#[derive(Clone, Default)]
pub(crate) struct World {
    state: Arc<Mutex<State>>,
    /// The store's clock.
    clock: TokioClock,
}

pub(crate) fn refuse(reason: Reason) -> Status {
    to_status(&Refusal::new(reason).with("item_id", "4711").with("available", 3))
}

impl World {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Makes the next `times` calls of a method fail.
    pub(crate) fn plan(
        &self,
        endpoint: &str,
        method: &'static str,
        trouble: Trouble,
        times: usize,
    ) {
        let endpoint = endpoint.to_owned();
        self.state().plans.push(Plan { endpoint, method, trouble, left: times });
    }

    /// Holds the next call of a method until the result notifies.
    pub(crate) fn hold(&self, method: &'static str) -> Arc<Notify> {
        let held = Arc::new(Notify::new());
        self.plan("", method, Trouble::Hold(Arc::clone(&held)), 1);
        held
    }

    /// Returns once a call of this method has reached the network.
    pub(crate) async fn arrival(&self, method: &str) {
        while self.calls(method).is_empty() {
            tokio::task::yield_now().await;
        }
    }

    /// Calls that reached the network, by the end of their path.
    pub(crate) fn calls(&self, method: &str) -> Vec<Call> {
        self.state().calls.iter().filter(|call| call.method.ends_with(method)).cloned().collect()
    }

    /// Runs a change once for each request id; a refusal is not remembered.
    pub(crate) fn once<T: Message + Default>(
        &self,
        service: &'static str,
        request_id: &str,
        change: impl FnOnce(&mut State) -> Result<T, Status>,
    ) -> Result<tonic::Response<T>, Status> {
        assert!(!request_id.is_empty(), "the bridge sends a request id with every change");
        let mut state = self.state();
        let key = (service, request_id.to_owned());
        if let Some(answer) = state.answers.get(&key) {
            return Ok(tonic::Response::new(T::decode(answer.as_slice()).unwrap()));
        }
        let answer = change(&mut state)?;
        state.answers.insert(key, answer.encode_to_vec());
        Ok(tonic::Response::new(answer))
    }

    /// The time by the store's clock.
    pub(crate) fn store_ms(&self) -> u64 {
        self.clock.now().0
    }

    fn trouble(&self, endpoint: &Endpoint, path: &str) -> Option<Trouble> {
        let mut state = self.state();
        let plan = state.plans.iter_mut().find(|plan| {
            plan.left > 0
                && path.ends_with(plan.method)
                && endpoint.as_str().starts_with(&plan.endpoint)
        })?;
        plan.left -= 1;
        Some(plan.trouble.clone())
    }

    async fn deliver(self, endpoint: Endpoint, request: Request<tonic::body::Body>) -> Carried {
        let path = request.uri().path().to_owned();
        let metadata = MetadataMap::from_headers(request.headers().clone());
        let timeout = rpc::deadline::of(&metadata);
        let meta = CallMeta::of(&metadata).unwrap();
        let call = Call { endpoint: endpoint.to_string(), method: path.clone(), timeout, meta };
        self.state().calls.push(call);
        let time = StoreTime::default();
        if !self.state().timeless {
            time.hear(Timestamp::from_physical(self.clock.now()));
        }
        let routes = store_time::telling(services::routes(&self, endpoint.as_str()), &time);
        match self.trouble(&endpoint, &path) {
            None => {}
            Some(Trouble::LoseRequest) => return Err("connection reset".into()),
            Some(Trouble::NoConnection) => {
                return Err(Box::new(tonic::ConnectError("connection refused".into())));
            }
            Some(Trouble::LoseReply) => {
                routes.oneshot(request).await?.into_body().collect().await?;
                return Err("connection reset".into());
            }
            Some(Trouble::Silence) => std::future::pending().await,
            Some(Trouble::Say(reason)) => return Ok(refuse(reason).into_http()),
            Some(Trouble::Hold(until)) => until.notified().await,
        }
        Ok(routes.oneshot(request).await?)
    }
}

/// Settings with the defaults of the command line.
pub(crate) fn settings() -> Settings {
    Settings {
        request_timeout: Duration::from_secs(30),
        batch_init_timeout: Duration::from_mins(1),
        attempt_timeout: Duration::from_secs(8),
        in_flight_max: 20_000,
        trust_request_id: false,
        cors_origins: Vec::new(),
        allowed_hosts: Vec::new(),
    }
}

/// A bridge to a shop, called in-process.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) world: World,
    pub(crate) bridge: Bridge,
    router: AxumRouter,
    contract: Arc<Contract>,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) async fn of(response: http::Response<Body>) -> Self {
        let (parts, body) = read(response).await;
        Self { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The status and, for a problem, its reason.
    pub(crate) fn outcome(&self) -> (u16, String) {
        let reason = match self.header("content-type") {
            "application/problem+json" => self.json()["reason"].as_str().unwrap().to_owned(),
            _ => String::new(),
        };
        (self.status.as_u16(), reason)
    }
}

/// The roles that the bridge calls.
pub(crate) const CALLEES: [Role; 4] = [Role::Order, Role::Stock, Role::Payment, Role::Coordinator];

impl Front {
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let world = World::default();
        let net = carried_by({
            let world = world.clone();
            move |endpoint, request| world.clone().deliver(endpoint, request)
        });
        let router = |role: Role| (role, Router::new(replicas(role.name()), Arc::clone(&net)));
        Self::of(world, CALLEES.into_iter().map(router).collect(), settings)
    }

    /// A front for any shop.
    pub(crate) fn of(world: World, shop: Shop, settings: Settings) -> Self {
        let bridge = Bridge::new(shop, settings, Arc::new(SystemClock), Arc::new(SystemEntropy));
        let router = bridge.router();
        let contract = Arc::new(Contract::of_this_version());
        Self { world, bridge, router, contract }
    }

    /// A shop with the items, users and orders "0" to "9": ten units at 5 each, credit 100, one
    /// unit of item "0" in each order. Order and user have the same number.
    pub(crate) fn filled() -> Self {
        let front = Self::new();
        front.fill();
        front
    }

    pub(crate) fn fill(&self) {
        let mut state = self.world.state();
        for number in 0..10 {
            let id = number.to_string();
            state.items.insert(id.clone(), Item { price: 5, stock: 10 });
            state.users.insert(id.clone(), 100);
            let lines = vec![("0".to_owned(), 1, 5)];
            state.orders.insert(id.clone(), Order { user_id: id, paid: false, lines });
        }
    }

    /// A filled shop with one place, which a call holds until it is told to continue.
    pub(crate) async fn full() -> (Self, Arc<Notify>, JoinHandle<StatusCode>) {
        let front = Self::with(Settings { in_flight_max: 1, ..settings() });
        front.fill();
        let (held, first) = front.held("/AddStock", "POST /stock/add/1/1").await;
        (front, held, first)
    }

    /// Starts a call, which this method of a service holds until it is told to continue.
    pub(crate) async fn held(
        &self,
        method: &'static str,
        call: &'static str,
    ) -> (Arc<Notify>, JoinHandle<StatusCode>) {
        let held = self.world.hold(method);
        let client = self.clone();
        let call = tokio::spawn(async move { client.call(call).await.status });
        self.world.arrival(method).await;
        (held, call)
    }

    /// Sends a request. The answer is checked against the description.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = Answer::of(self.router.clone().oneshot(request).await.unwrap()).await;
        let documented = self
            .contract
            .template(&path)
            .and_then(|template| self.contract.operation(&method, template));
        if documented.is_some() {
            let checked =
                self.contract.check(&method, &path, answer.status, &answer.headers, &answer.body);
            assert_eq!(checked, Ok(()));
        }
        answer
    }

    /// Sends a request with headers, in the form `METHOD path`.
    pub(crate) async fn call_with(&self, call: &str, headers: &[(&str, &str)]) -> Answer {
        self.send(request(call, headers)).await
    }

    /// Sends a request in the form `METHOD path`.
    pub(crate) async fn call(&self, call: &str) -> Answer {
        self.call_with(call, &[]).await
    }
}
