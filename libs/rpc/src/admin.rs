//! The admin listener answers operators and their tools on a socket of its own, apart from the
//! role's work: `/metrics` for Prometheus, `/livez` for a supervisor that restarts the process, and
//! `/readyz` for a balancer that sends it requests, with what readiness depends on.
//!
//! By itself it changes nothing, but routes that a role adds ([`Admin::with_routes`]) may. On a
//! loopback address it answers only to loopback names, so that no web page can reach it by a name
//! of its own that resolves to this machine.

mod socket;

use std::{fmt, io, net::TcpListener, sync::Arc};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{StatusCode, header, uri::Authority},
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use types::host::is_for_loopback;

use self::socket::Bounds;
use crate::server::{self, Readiness};

/// Content type of the metrics.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Limit on the body of a request, in bytes. A longer one is refused with 413.
const BODY_BYTES_MAX: usize = 2 * 1024 * 1024;

/// A role's report on itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// Whether requests may be sent.
    pub ready: bool,
    /// Named facts that readiness depends on, for people.
    pub details: Map<String, Value>,
}

/// Reports whether a role is ready.
#[tonic::async_trait]
pub trait ReadinessCheck: Send + Sync + 'static {
    /// Makes a report now.
    async fn report(&self) -> Report;
}

/// A role's readiness, with further details on demand.
pub struct Ready<F> {
    readiness: Readiness,
    details: F,
}

impl<F> Ready<F> {
    /// Makes a check that reports `readiness` with these details.
    pub const fn new(readiness: Readiness, details: F) -> Self {
        Self { readiness, details }
    }
}

impl<F> fmt::Debug for Ready<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ready").field(&self.readiness.state()).finish()
    }
}

#[tonic::async_trait]
impl<F> ReadinessCheck for Ready<F>
where
    F: Fn() -> Map<String, Value> + Send + Sync + 'static,
{
    async fn report(&self) -> Report {
        let state = self.readiness.state();
        let mut details = (self.details)();
        details.insert("state".to_owned(), state.as_str().into());
        Report { ready: state == server::State::Ready, details }
    }
}

/// The admin listener's answers.
#[derive(Clone)]
pub struct Admin {
    check: Arc<dyn ReadinessCheck>,
    more_metrics: Vec<fn() -> String>,
    more_routes: Router,
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").finish_non_exhaustive()
    }
}

impl Admin {
    /// Makes a listener for a role whose readiness `check` reports.
    pub fn new(check: impl ReadinessCheck) -> Self {
        Self { check: Arc::new(check), more_metrics: Vec::new(), more_routes: Router::new() }
    }

    /// Appends metrics to our own, in Prometheus' text format.
    #[must_use]
    pub fn with_metrics(mut self, text: fn() -> String) -> Self {
        self.more_metrics.push(text);
        self
    }

    /// Adds these routes.
    #[must_use]
    pub fn with_routes(mut self, routes: Router) -> Self {
        self.more_routes = self.more_routes.merge(routes);
        self
    }

    /// All routes.
    pub fn router(self) -> Router {
        let more = self.more_routes.clone();
        Router::new()
            .route("/livez", get(async || "alive\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self)
            .merge(more)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
    }

    /// Serves on these sockets for as long as the guard is kept. Keep it until the role has
    /// drained.
    ///
    /// # Errors
    /// If a socket cannot be used; a retry does not help.
    pub fn serve(self, listeners: Vec<TcpListener>) -> io::Result<Serving> {
        let router = self.router();
        let mut serving = JoinSet::new();
        for listener in listeners {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let mut router = router.clone();
            if listener.local_addr()?.ip().is_loopback() {
                router = router.layer(from_fn(loopback_names));
            }
            serving.spawn(socket::serve(listener, router, Bounds::default()));
        }
        Ok(Serving(serving))
    }
}

/// Keeps an admin listener running.
#[must_use = "the listener ends with its guard"]
#[derive(Debug)]
pub struct Serving(#[allow(dead_code, reason = "kept for its end")] JoinSet<()>);

/// Refuses requests for another host. Browsers always send a host, so a request without one does
/// not come from a browser.
async fn loopback_names(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    if is_for_loopback(request.uri().authority().map(Authority::as_str), host) {
        return next.run(request).await;
    }
    let detail = "this listener answers to loopback names only, such as localhost and 127.0.0.1\n";
    (StatusCode::MISDIRECTED_REQUEST, detail).into_response()
}

async fn readyz(State(admin): State<Admin>) -> Response {
    let Report { ready, details } = admin.check.report().await;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "details": details }))).into_response()
}

async fn metrics(State(admin): State<Admin>) -> Response {
    telemetry::metrics().ready.set(admin.check.report().await.ready);
    let mut text = telemetry::metrics::text();
    for more in &admin.more_metrics {
        text.push_str(&more());
    }
    ([(header::CONTENT_TYPE, PROMETHEUS)], text).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use tower::ServiceExt as _;

    use super::*;

    async fn get(router: &Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(axum::body::Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readiness_is_told_with_its_details_and_life_without() {
        let readiness = Readiness::new();
        let details = || Map::from_iter([("unresolved".to_owned(), 3.into())]);
        let router = Admin::new(Ready::new(readiness.clone(), details)).router();
        let (status, body) = get(&router, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let said: Value = serde_json::from_str(&body).unwrap();
        let details = json!({ "state": "not ready", "unresolved": 3 });
        assert_eq!(said, json!({ "ready": false, "details": details }));
        assert_eq!(get(&router, "/livez").await.0, StatusCode::OK);
        readiness.ready();
        assert_eq!(get(&router, "/readyz").await.0, StatusCode::OK);
        readiness.drain();
        let (status, body) = get(&router, "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body.contains("draining"), "{body}");
        assert_eq!(get(&router, "/livez").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn what_others_count_stands_behind_our_own() {
        let admin = Admin::new(Ready::new(Readiness::new(), Map::new))
            .with_metrics(|| "others 1\n".to_owned())
            .with_routes(Router::new().route("/more", axum::routing::get(async || "more")));
        let router = admin.router();
        let (status, body) = get(&router, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(body.ends_with("others 1\n"), "{body}");
        assert_eq!(get(&router, "/more").await.1, "more");
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_is_refused() {
        let echo = Router::new().route("/echo", axum::routing::post(async |body: String| body));
        let router = Admin::new(Ready::new(Readiness::new(), Map::new)).with_routes(echo).router();
        for (length, status) in [
            (2 * 1024 * 1024, StatusCode::OK),
            (2 * 1024 * 1024 + 1, StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            let body = axum::body::Body::from("x".repeat(length));
            let request = Request::post("/echo").body(body).unwrap();
            let response = router.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), status, "{length}");
        }
    }

    #[tokio::test]
    async fn on_loopback_another_name_is_not_answered_to() {
        for (addresses, other) in [
            (crate::listen::loopback(0).to_vec(), StatusCode::MISDIRECTED_REQUEST),
            (crate::listen::everywhere(0).to_vec(), StatusCode::OK),
        ] {
            let listeners = crate::listen::tcp(&addresses).unwrap();
            let port = listeners.last().unwrap().local_addr().unwrap().port();
            let admin = Admin::new(Ready::new(Readiness::new(), Map::new))
                .with_routes(Router::new().route("/more", axum::routing::post(async || "more")));
            let _serving = admin.serve(listeners).unwrap();
            for (host, status) in [
                (format!("127.0.0.1:{port}"), StatusCode::OK),
                ("localhost".to_owned(), StatusCode::OK),
                ("evil.example".to_owned(), other),
                ("127.0.0.1.evil.example".to_owned(), other),
            ] {
                for call in ["GET /livez", "GET /metrics", "POST /more"] {
                    let answer = ask(port, &format!("{call} HTTP/1.1\r\nHost: {host}\r\n")).await;
                    let expected = format!("HTTP/1.1 {} ", status.as_u16());
                    assert!(answer.starts_with(&expected), "{call} {host}: {answer}");
                }
            }
        }
    }

    async fn ask(port: u16, head: &str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let address = (std::net::Ipv4Addr::LOCALHOST, port);
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("{head}Content-Length: 0\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}
