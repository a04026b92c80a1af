//! The middleware around every request, outermost first: correlation id and span, log line, checks
//! of the head, limit on requests in flight, limit on the body, and the task that outlives the
//! client.

use std::{any::Any, panic::AssertUnwindSafe};

use axum::{
    body::{Body, HttpBody as _},
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use bytes::Bytes;
use futures::FutureExt as _;
use http::{HeaderValue, Method, StatusCode, Version, header};
use http_body_util::BodyExt as _;
use telemetry::{
    semconv,
    trace::{self, CallerSpan},
};
use tokio::time::{Instant, timeout};
use tracing::{Instrument as _, Span, field::Empty};
use types::Reason;

use crate::{
    BODY_BYTES_MAX, HEAD_BYTES_MAX,
    bridge::Bridge,
    headers::X_REQUEST_ID,
    held::Share,
    input::{Arrived, Caller, content_length, is_correlation_id},
    key::changes,
    origin,
    problem::Problem,
};

/// Marks a request that came over a connection rather than from within this process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connected {
    /// Whether the connection's listener is on a loopback address.
    pub(crate) on_loopback: bool,
}

/// Probes, which are answered even under overload.
const EXEMPT: [&str; 2] = ["/healthz", "/readyz"];

/// A head of up to this length is not counted separately: its request's place covers it.
const HEAD_BYTES_FREE: usize = 2 * 1024;
/// Maximum bytes in memory per byte of a head.
const HEAD_FACTOR: usize = 4;

/// The middleware around every endpoint, unknown paths included.
pub(crate) async fn middleware(
    State(bridge): State<Bridge>,
    mut request: Request,
    next: Next,
) -> Response {
    let arrived = Instant::now();
    let _active = telemetry::metrics().http_server_active.enter();
    let correlation = correlation(&bridge, &request);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = method_label(request.method());
    let span = span(method, route.as_ref().map_or("", MatchedPath::as_str), &correlation);
    CallerSpan::of_caller(request.headers()).continue_in(&span);
    request.extensions_mut().insert(Arrived(arrived));
    let version = request.version();
    let line =
        Line { path: request.uri().path().to_owned(), correlation: correlation.clone(), arrived };

    let mut response = answer(&bridge, request, next).instrument(span.clone()).await;
    telemetry::metrics().http_server_duration.record(
        arrived.elapsed(),
        [method, route.as_ref().map_or("", MatchedPath::as_str), response.status().as_str()],
    );
    if let Some(problem) = response.extensions().get::<Problem>() {
        let route = route.as_ref().map_or("", MatchedPath::as_str);
        telemetry::metrics().http_problems.one([route, problem.reason()]);
    }

    span.record(semconv::HTTP_STATUS, response.status().as_u16());
    if response.status().is_server_error() {
        trace::failed(&span);
    }
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        let problem = response.extensions().get::<Problem>();
        bridge.turned_away().count(problem.and_then(Problem::cause).unwrap_or_default());
    }
    span.in_scope(|| line.log(&response));
    let headers = response.headers_mut();
    headers.insert(X_REQUEST_ID, correlation);
    if bridge.is_draining() && version < Version::HTTP_2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The client's correlation id, or a new one.
fn correlation(bridge: &Bridge, request: &Request) -> HeaderValue {
    let told = request.headers().get(X_REQUEST_ID);
    if let Some(value) = told.filter(|value| is_correlation_id(value)) {
        return value.clone();
    }
    HeaderValue::try_from(bridge.mint().simple().to_string())
        .expect("hexadecimal digits are a valid header value")
}

/// The span of a request. Probes have none, as they are not requests of a client.
fn span(method: &str, route: &str, correlation: &HeaderValue) -> Span {
    if EXEMPT.contains(&route) {
        return Span::none();
    }
    tracing::debug_span!(
        target: trace::TARGET,
        "http request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        { semconv::HTTP_METHOD } = method,
        { semconv::HTTP_ROUTE } = route,
        { semconv::URL_SCHEME } = "http",
        { semconv::HTTP_STATUS } = Empty,
        { semconv::CORRELATION_ID } = correlation.to_str().unwrap_or_default(),
    )
}

/// A method as a metric label. Unregistered methods share one label, because clients can invent any
/// number.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => semconv::OTHER,
    }
}

async fn answer(bridge: &Bridge, request: Request, next: Next) -> Response {
    let head_bytes = head_bytes(&request);
    if let Err(problem) = judge(bridge, &request, head_bytes) {
        return problem.into_response();
    }
    // From here on the request counts against the limits, before any of its body is read.
    let head = match hold_head(bridge, &request, head_bytes) {
        Ok(head) => head,
        Err(problem) => return problem.into_response(),
    };
    let probe = EXEMPT.contains(&request.uri().path()) && request.body().is_end_stream();
    let place = if probe { None } else { bridge.take_place() };
    if place.is_none() && !probe {
        return Problem::of(Reason::Overloaded)
            .because(&"too many requests in flight")
            .into_response();
    }
    let mut request = match without_body(bridge, request).await {
        Ok(request) => request,
        Err(problem) => return problem.into_response(),
    };
    if probe {
        return next.run(request).await;
    }
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    let caller = Caller::default();
    let _waits = caller.waits();
    request.extensions_mut().insert(caller);
    let work = async move {
        let response = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        drop((place, head));
        response.unwrap_or_else(|panic| Problem::bug(&message(&*panic)).into_response())
    };
    if reads {
        return work.await;
    }
    // The server drops this future when the client leaves, but the work continues; a batch_init
    // ends with its current part.
    match bridge.work().spawn(work.in_current_span()).await {
        Ok(response) => response,
        Err(error) => Problem::bug(&error).into_response(),
    }
}

/// Refuses requests by their head alone: those that HTTP forbids, heads that are too large, other
/// hosts, browsers' calls for pages of another origin, and calls without a required API key.
fn judge(bridge: &Bridge, request: &Request, head_bytes: usize) -> Result<(), Problem> {
    let (uri, headers, settings) = (request.uri(), request.headers(), bridge.settings());
    let connected = request.extensions().get::<Connected>();
    if connected.is_some() && request.version() == Version::HTTP_11 {
        // RFC 9112, sections 3.2 and 6.1.
        if headers.get_all(header::HOST).iter().count() != 1 {
            return Err(Problem::invalid("Host", &"must occur once"));
        }
        let coding = headers.get_all(header::TRANSFER_ENCODING);
        if coding.iter().any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
            return Err(Problem::invalid("Transfer-Encoding", &"must be chunked"));
        }
    }
    if head_bytes > HEAD_BYTES_MAX {
        return Err(Problem::head_too_large());
    }
    if connected.is_some_and(|connected| connected.on_loopback)
        && origin::authority(uri, headers)
            .is_some_and(|meant| !origin::is_own(meant, &settings.allowed_hosts))
    {
        return Err(Problem::unknown_host());
    }
    if origin::is_foreign(request.method(), uri, headers, &settings.cors_origins) {
        return Err(Problem::cross_origin());
    }
    if changes(request.method()) { bridge.admit(headers) } else { Ok(()) }
}

/// Approximate length of the head as HTTP/1.1 would send it, in bytes.
fn head_bytes(request: &Request) -> usize {
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter();
    headers.fold(target, |sum, (name, value)| sum + name.as_str().len() + value.len() + 4)
}

/// Counts a long HTTP/2 head as held memory. An HTTP/1.1 head lies in its connection's buffer,
/// which is counted there. OVERLOADED when no more may be held.
fn hold_head(
    bridge: &Bridge,
    request: &Request,
    head_bytes: usize,
) -> Result<Option<Share>, Problem> {
    if request.version() != Version::HTTP_2 || head_bytes <= HEAD_BYTES_FREE {
        return Ok(None);
    }
    // Short headers take several times their length in a header map.
    let held = bridge.held().take(head_bytes.saturating_mul(HEAD_FACTOR));
    let full = || Problem::of(Reason::Overloaded).because(&"too many bytes of long heads are held");
    held.map(Some).ok_or_else(full)
}

/// Reads and discards the body piece by piece, so that none of it is left on the connection.
async fn without_body(bridge: &Bridge, request: Request) -> Result<Request, Problem> {
    let most = u64::try_from(BODY_BYTES_MAX).unwrap_or(u64::MAX);
    if content_length(request.headers()).is_some_and(|length| length > most) {
        return Err(Problem::body_too_large());
    }
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let (parts, mut body) = request.into_parts();
    let thrown_away = async {
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Problem::invalid("body", &"must be complete and well-formed").because(&error)
            })?;
            bytes += frame.data_ref().map_or(0, Bytes::len);
            if bytes > BODY_BYTES_MAX {
                return Err(Problem::body_too_large());
            }
        }
        Ok(())
    };
    match timeout(bridge.settings().request_timeout, thrown_away).await {
        Ok(thrown_away) => thrown_away.map(|()| Request::from_parts(parts, Body::empty())),
        Err(_) => Err(Problem::invalid("body", &"must arrive in time")),
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panic: {}", text.unwrap_or("without a message"))
}

/// The log line of one request.
struct Line {
    path: String,
    correlation: HeaderValue,
    arrived: Instant,
}

impl Line {
    /// Logs one line: an error or a warning for a failure; debug for answers, refusals and
    /// overload, because there are many.
    fn log(&self, response: &Response) {
        let status = response.status();
        let problem = response.extensions().get::<Problem>();
        let elapsed_ms = self.arrived.elapsed().as_millis();
        macro_rules! line {
            ($level:ident, $text:literal) => {
                tracing::$level!(
                    { semconv::HTTP_STATUS } = status.as_u16(),
                    path = self.path,
                    { semconv::CORRELATION_ID } = self.correlation.to_str().unwrap_or_default(),
                    reason = problem.map(Problem::reason),
                    cause = problem.and_then(Problem::cause),
                    elapsed_ms,
                    $text
                )
            };
        }
        if EXEMPT.contains(&self.path.as_str()) {
            // A probe that is told "not ready" is not a failed request.
            line!(debug, "probe answered");
        } else if status == StatusCode::INTERNAL_SERVER_ERROR {
            line!(error, "request failed inside");
        } else if status.is_server_error() {
            line!(warn, "request not served");
        } else if status.is_client_error() {
            line!(debug, "request refused");
        } else {
            line!(debug, "request served");
        }
    }
}
