//! HTTP pages beside the gRPC services: PD's status, and administration.

use crate::args::parse_hex;
use crate::faults::Rule;
use crate::kv::Kv;
use crate::members;
use crate::pd::Pd;
use crate::problem::{problem, unimplemented};
use crate::regions::Region;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use types::host::is_for_loopback;

#[derive(Debug, Clone)]
struct Parts {
    pd: Pd,
    kv: Kv,
}

/// All pages. With `on_loopback` they answer to loopback names only.
pub(crate) fn pages(pd: Pd, kv: Kv, on_loopback: bool) -> Router {
    let members = members::pages(std::sync::Arc::clone(&pd.members));
    let mut pages = Router::new()
        .route("/pd/api/v1/version", get(version))
        .route("/pd/api/v1/stores", get(stores))
        .route("/pd/api/v1/regions", get(regions))
        .route("/dev-kv/v1/faults", get(list_faults).post(add_fault).delete(clear_faults))
        .route("/dev-kv/v1/split", post(split))
        .route("/dev-kv/v1/keyspaces", post(add_keyspace))
        .route("/dev-kv/v1/freeze-tso", post(freeze))
        .route("/dev-kv/v1/jump-clock", post(jump))
        .route("/dev-kv/v1/stats", get(stats))
        .fallback(unknown)
        .with_state(Parts { pd, kv })
        .merge(members);
    if on_loopback {
        pages = pages.layer(from_fn(loopback_names));
    }
    pages
}

/// Refuses a request for another host, because a website can make its name resolve to this machine.
/// A request without a host does not come from a browser.
async fn loopback_names(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    if is_for_loopback(request.uri().authority().map(Authority::as_str), host) {
        return next.run(request).await;
    }
    let detail = "on a loopback address dev-kv answers to loopback names only: ask for localhost or \
                  127.0.0.1, or let it listen on another address";
    problem(StatusCode::MISDIRECTED_REQUEST, &detail)
}

/// Answers any other path, which most likely names a call of a service that dev-kv lacks.
async fn unknown(uri: Uri) -> Response {
    unimplemented(uri.path()).map(Body::new)
}

async fn version(State(parts): State<Parts>) -> Json<Value> {
    Json(json!({ "branch": "dev-kv", "version": parts.pd.cluster.version().text() }))
}

async fn stores(State(parts): State<Parts>) -> Json<Value> {
    let store = parts.pd.store();
    Json(json!({
        "count": 1,
        "stores": [{
            "store": {
                "id": store.id,
                "address": store.address,
                "version": store.version,
                "state_name": "Up",
            },
            "status": { "leader_count": parts.pd.cluster.regions().now().all().len() },
        }],
    }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02X}").ok();
        text
    })
}

fn region_json(region: &Region) -> Value {
    let wire = region.to_wire();
    json!({
        "id": wire.id,
        "start_key": hex(&wire.start_key),
        "end_key": hex(&wire.end_key),
        "epoch": { "conf_ver": 1, "version": region.version },
        "leader": { "id": region.peer().id, "store_id": region.peer().store_id },
    })
}

async fn regions(State(parts): State<Parts>) -> Json<Value> {
    let table = parts.pd.cluster.regions().now();
    let regions: Vec<_> = table.all().iter().map(region_json).collect();
    Json(json!({ "count": regions.len(), "regions": regions }))
}

async fn list_faults(State(parts): State<Parts>) -> Json<Value> {
    let (rules, hits) = parts.kv.faults.list();
    Json(json!({ "rules": rules, "hits": hits }))
}

async fn add_fault(State(parts): State<Parts>, Json(rule): Json<Rule>) -> StatusCode {
    parts.kv.faults.add(rule);
    StatusCode::NO_CONTENT
}

async fn clear_faults(State(parts): State<Parts>) -> StatusCode {
    parts.kv.faults.clear();
    StatusCode::NO_CONTENT
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SplitAt {
    /// Plain keys, hexadecimal.
    keys: Vec<String>,
}

async fn split(State(parts): State<Parts>, Json(at): Json<SplitAt>) -> Response {
    let keys: Result<Vec<Bytes>, _> =
        at.keys.iter().map(|key| parse_hex(key).map(Bytes::from)).collect();
    let keys = match keys {
        Ok(keys) => keys,
        Err(error) => return problem(StatusCode::BAD_REQUEST, &error),
    };
    match parts.pd.cluster.split_all(&keys).await {
        Ok(new) => Json(json!({ "new": new })).into_response(),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Name {
    name: String,
}

async fn add_keyspace(State(parts): State<Parts>, Json(keyspace): Json<Name>) -> Response {
    match parts.pd.cluster.add_keyspace(&keyspace.name).await {
        Ok(id) => Json(json!({ "id": id })).into_response(),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Freeze {
    for_ms: u64,
}

async fn freeze(State(parts): State<Parts>, Json(freeze): Json<Freeze>) -> StatusCode {
    parts.kv.faults.freeze(freeze.for_ms);
    StatusCode::NO_CONTENT
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Jump {
    by_ms: i64,
}

async fn jump(State(parts): State<Parts>, Json(jump): Json<Jump>) -> StatusCode {
    parts.kv.faults.jump_clock(jump.by_ms);
    StatusCode::NO_CONTENT
}

async fn stats(State(parts): State<Parts>) -> Response {
    let counters = parts.kv.engine.counters();
    let read = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    match parts.kv.engine.sizes() {
        Ok(sizes) => Json(json!({
            "syncs": read(&counters.groups),
            "rows_changed": read(&counters.rows),
            "versions_committed": read(&counters.commits),
            "keys_read": read(&counters.reads),
            "keys_read_from_disk": read(&counters.misses),
            "locks": sizes.locks,
            "live_rows": sizes.live,
            "cache_bytes": sizes.cache_bytes,
            "disk_bytes": sizes.store.disk_bytes,
            "table_bytes": sizes.store.table_bytes,
            "history_rows": sizes.store.history_rows,
            "traffic": counters.traffic.page(),
        }))
        .into_response(),
        Err(error) => problem(StatusCode::SERVICE_UNAVAILABLE, &error),
    }
}
