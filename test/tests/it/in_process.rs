//! A whole shop in this process: one replica of each role over the store in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::body::Body;
use coordinator::Coordinator;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use http_bridge::Bridge;
use participant::{core::Domain, lane::LaneOptions, role::Parts};
use rpc::{
    net::{Endpoint, Net, NetError, Transport, in_process},
    routing::{Router, Target},
};
use storage::mem::{MemKv, SeededEntropy};
use tonic::{metadata::MetadataMap, service::Routes};
use tower::{ServiceExt as _, service_fn};
use types::{Clock, Entropy};

/// A network whose endpoints are routes in this process.
#[derive(Debug, Clone, Default)]
struct Wires(Arc<Mutex<BTreeMap<String, Routes>>>);

impl Wires {
    fn serve(&self, role: &str, routes: Routes) {
        self.0.lock().unwrap().insert(format!("{role}:1"), routes);
    }
}

impl Net for Wires {
    fn connect(&self, endpoint: &Endpoint) -> Transport {
        let (wires, endpoint) = (self.clone(), endpoint.to_string());
        in_process(service_fn(move |request: Request<tonic::body::Body>| {
            let routes = wires.0.lock().unwrap().get(&endpoint).cloned();
            async move {
                let routes = routes.ok_or_else(|| NetError::new("connection refused"))?;
                // Gives up when the caller's deadline has passed, like a connection.
                let metadata = MetadataMap::from_headers(request.headers().clone());
                let time = rpc::deadline::of(&metadata).unwrap_or(Duration::from_mins(1));
                let answered = tokio::time::timeout(time, routes.oneshot(request)).await;
                answered.map_err(NetError::new)?.map_err(NetError::new)
            }
        }))
    }
}

fn at(role: &str) -> Target {
    format!("{role}:1").parse().unwrap()
}

/// The shop, by its REST API.
pub(crate) struct Shop {
    rest: axum::Router,
}

impl Shop {
    /// Opens a shop on this store.
    pub(crate) fn open(kv: &MemKv, clock: &Arc<dyn Clock>) -> Self {
        let wires = Wires::default();
        let net: Arc<dyn Net> = Arc::new(wires.clone());
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(7));
        let router = |role: &str| Router::new(at(role), Arc::clone(&net));

        let orders = parts(order::records::Orders, &net, &entropy, kv, clock);
        wires.serve("order", order::routes(&orders, at("stock")));
        let items = parts(stock::records::Stock, &net, &entropy, kv, clock);
        wires.serve("stock", stock::routes(&items));
        let users = parts(payment::records::Payment, &net, &entropy, kv, clock);
        wires.serve("payment", payment::routes(&users));
        let settings = coordinator::Settings {
            order_endpoints: at("order"),
            stock_endpoints: at("stock"),
            payment_endpoints: at("payment"),
            request_id_retention_ms: 600_000,
            vote_window_ms: 2_000,
            batch_calls_max: None,
        };
        let coordinator =
            Coordinator::new(&settings, &net, kv.shared(), Arc::clone(clock), Arc::clone(&entropy));
        wires.serve("coordinator", coordinator::routes(coordinator));
        let shop = http_bridge::Shop {
            order: router("order"),
            stock: router("stock"),
            payment: router("payment"),
            coordinator: router("coordinator"),
        };
        let settings = http_bridge::Settings {
            request_timeout: Duration::from_secs(30),
            batch_init_timeout: Duration::from_mins(1),
            attempt_timeout: Duration::from_secs(8),
            in_flight_max: 1_000,
            trust_request_id: false,
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
        };
        Self { rest: Bridge::new(shop, settings, Arc::clone(clock), entropy).router() }
    }

    /// Calls `METHOD path` with this idempotency key; an empty one means none. Returns the status
    /// and the body.
    pub(crate) async fn call(&self, call: &str, key: &str) -> (StatusCode, String) {
        let (method, path) = call.split_once(' ').unwrap();
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = Request::builder().method(method).uri(path);
        if !key.is_empty() {
            request = request.header("idempotency-key", key);
        }
        let answer = self.rest.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        let status = answer.status();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }
}

fn parts<D: Domain>(
    domain: D,
    net: &Arc<dyn Net>,
    entropy: &Arc<dyn Entropy>,
    kv: &MemKv,
    clock: &Arc<dyn Clock>,
) -> Parts<D> {
    let parts = Parts::new(domain, Arc::clone(net), Arc::clone(entropy)).unwrap();
    let coordinator = Router::new(at("coordinator"), Arc::clone(net));
    let (opening, kv, clock) = (parts.clone(), kv.shared(), Arc::clone(clock));
    tokio::spawn(async move {
        opening.open(kv, None, clock, coordinator, LaneOptions::default()).await.unwrap();
    });
    parts
}
