//! A whole shop in this process: one replica of each role over the store in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::body::Body;
use coordinator::{Coordinator, Extras};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use http_bridge::Bridge;
use participant::{core::Domain, lane::LaneOptions, role::Parts};
use rpc::{
    net::{Endpoint, Net, NetError, Transport, in_process},
    routing::{Router, Target},
};
use storage::mem::{MemKv, SeededEntropy};
use tonic::service::Routes;
use tower::{ServiceExt as _, service_fn};
use types::{Clock, Entropy, Role};

/// A network in this process. Each role has two replicas, which are the same.
#[derive(Debug, Clone, Default)]
struct Wires(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    routes: BTreeMap<&'static str, Routes>,
    /// The method that is never answered, if there is one.
    hangs: Option<&'static str>,
    /// The endpoints at which it was called.
    hung: BTreeSet<Endpoint>,
}

impl Wires {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn serve(&self, role: &'static str, routes: Routes) {
        self.state().routes.insert(role, routes);
    }
}

impl Net for Wires {
    fn connect(&self, endpoint: &Endpoint) -> Transport {
        let (wires, endpoint) = (self.clone(), endpoint.clone());
        in_process(service_fn(move |request: Request<tonic::body::Body>| {
            let mut state = wires.state();
            let hangs = state.hangs == Some(request.uri().path());
            if hangs {
                state.hung.insert(endpoint.clone());
            }
            let (role, _) = endpoint.as_str().split_once('-').unwrap();
            let routes = state.routes.get(role).cloned();
            async move {
                if hangs {
                    return std::future::pending().await;
                }
                let routes = routes.ok_or_else(|| NetError::new("connection refused"))?;
                routes.oneshot(request).await.map_err(NetError::new)
            }
        }))
    }
}

fn at(role: &str) -> Target {
    format!("{role}-0:1,{role}-1:1").parse().unwrap()
}

/// The shop, by its REST API.
pub(crate) struct Shop {
    rest: axum::Router,
    wires: Wires,
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
            services: [Role::Order, Role::Stock, Role::Payment]
                .map(|role| (role, at(role.name())))
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
        wires.serve("coordinator", coordinator::routes(coordinator));
        let shop = [Role::Order, Role::Stock, Role::Payment, Role::Coordinator]
            .map(|role| (role, router(role.name())))
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
        Self { rest, wires }
    }

    /// Makes a method of a service hang, given by its path.
    pub(crate) fn hang(&self, method: &'static str) {
        self.wires.state().hangs = Some(method);
    }

    /// How many replicas were called by the method that hangs.
    pub(crate) fn replicas_that_hung(&self) -> usize {
        self.wires.state().hung.len()
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
    let parts = Parts::new(domain, Arc::clone(net), Arc::clone(entropy));
    let coordinator = Router::new(at("coordinator"), Arc::clone(net));
    let (opening, kv, clock) = (parts.clone(), kv.shared(), Arc::clone(clock));
    tokio::spawn(async move {
        opening.open(kv, None, clock, coordinator, LaneOptions::default()).await.unwrap();
    });
    parts
}
