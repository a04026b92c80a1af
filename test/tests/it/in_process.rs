//! A whole shop in this process: one replica of each role over the store in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body;
use coordinator::{Coordinator, Extras};
use http::StatusCode;
use http_bridge::Bridge;
use participant::{core::Domain, lane::LaneOptions, role::Parts};
use rpc::{
    net::{Endpoint, Net},
    routing::Router,
};
use testkit::{
    MemKv, SeededEntropy,
    net::{carried_by, read, replicas, request, service_of},
};
use tonic::service::Routes;
use tower::ServiceExt as _;
use types::{Clock, Entropy, Role};

/// The service that answers at the replicas of each role.
type Serving = Arc<Mutex<BTreeMap<&'static str, Routes>>>;

/// A method that is never answered, and the endpoints at which it was called.
type Hanging = Arc<Mutex<Option<(&'static str, BTreeSet<Endpoint>)>>>;

/// A network on which each role has two replicas, which are the same.
fn network(serving: Serving, hanging: Hanging) -> Arc<dyn Net> {
    carried_by(move |endpoint, request| {
        let routes = serving.lock().unwrap().get(service_of(&endpoint)).cloned();
        let mut hanging = hanging.lock().unwrap();
        let hanging = hanging.as_mut().filter(|(method, _)| request.uri().path() == *method);
        let hangs = hanging.map(|(_, called)| called.insert(endpoint)).is_some();
        async move {
            if hangs {
                return std::future::pending().await;
            }
            Ok(routes.ok_or("connection refused")?.oneshot(request).await?)
        }
    })
}

/// The shop, by its REST API.
pub(crate) struct Shop {
    rest: axum::Router,
    hanging: Hanging,
}

impl Shop {
    /// Opens a shop on this store.
    pub(crate) fn open(kv: &MemKv, clock: &Arc<dyn Clock>) -> Self {
        let (serving, hanging) = (Serving::default(), Hanging::default());
        let net = network(Arc::clone(&serving), Arc::clone(&hanging));
        let serve = |role: Role, routes| serving.lock().unwrap().insert(role.name(), routes);
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(7));

        let orders = parts(order::records::Orders, &net, &entropy, kv, clock);
        serve(Role::Order, order::routes(&orders, replicas("stock")));
        let items = parts(stock::records::Stock, &net, &entropy, kv, clock);
        serve(Role::Stock, stock::routes(&items));
        let users = parts(payment::records::Payment, &net, &entropy, kv, clock);
        serve(Role::Payment, payment::routes(&users));
        let settings = coordinator::Settings {
            services: Role::SERVICES
                .map(|role| (role, replicas(role.name())))
                .into_iter()
                .collect(),
            request_id_retention_ms: 600_000,
            vote_window_ms: 2_000,
            batch_calls_max: None,
        };
        let coordinator = Coordinator::new(
            &settings,
            &Extras::default(),
            &net,
            kv.shared(),
            Arc::clone(clock),
            Arc::clone(&entropy),
        );
        serve(Role::Coordinator, coordinator::routes(coordinator));
        let shop = [Role::Order, Role::Stock, Role::Payment, Role::Coordinator]
            .map(|role| (role, Router::new(replicas(role.name()), Arc::clone(&net))))
            .into_iter()
            .collect();
        let settings = http_bridge::Settings {
            request_timeout: Duration::from_secs(30),
            batch_init_timeout: Duration::from_mins(1),
            attempt_timeout: Duration::from_secs(8),
            in_flight_max: 1_000,
            trust_request_id: false,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
        };
        let rest = Bridge::new(shop, settings, Arc::clone(clock), entropy).router();
        Self { rest, hanging }
    }

    /// Makes a method of a service hang, given by its path.
    pub(crate) fn hang(&self, method: &'static str) {
        *self.hanging.lock().unwrap() = Some((method, BTreeSet::new()));
    }

    /// How many replicas were called by the method that hangs.
    pub(crate) fn replicas_that_hung(&self) -> usize {
        self.hanging.lock().unwrap().as_ref().map_or(0, |(_, called)| called.len())
    }

    /// Calls `METHOD path` with this idempotency key; an empty one means none. Returns the status
    /// and the body.
    pub(crate) async fn call(&self, call: &str, key: &str) -> (StatusCode, String) {
        let keyed = [("idempotency-key", key)];
        let headers = if key.is_empty() { &[][..] } else { &keyed };
        let answer = self.rest.clone().oneshot(request::<Body>(call, headers)).await.unwrap();
        let (parts, body) = read(answer).await;
        (parts.status, String::from_utf8(body.to_vec()).unwrap())
    }
}

fn parts<D: Domain>(
    domain: D,
    net: &Arc<dyn Net>,
    entropy: &Arc<dyn Entropy>,
    kv: &MemKv,
    clock: &Arc<dyn Clock>,
) -> Parts<D> {
    let parts = Parts::new(domain, Arc::clone(net), Arc::clone(entropy));
    let coordinator = Router::new(replicas("coordinator"), Arc::clone(net));
    let (opening, kv, clock) = (parts.clone(), kv.shared(), Arc::clone(clock));
    tokio::spawn(async move {
        opening.open(kv, None, clock, coordinator, LaneOptions::default()).await.unwrap();
    });
    parts
}
