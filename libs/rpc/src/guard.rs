//! The middleware around every request: it checks that the caller may make it, limits requests in
//! flight, makes a span, keeps the caller's deadline, and catches panics.

use std::{
    collections::HashSet,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use admission::{Bound, Held, Limits, Messages};
use futures::{FutureExt as _, future::BoxFuture};
use telemetry::{metrics::Entered, semconv, trace::CallerSpan};
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::{Instrument as _, Span};
use types::{Reason, Refusal};

use crate::{
    BUNDLE_BYTES_MAX, MESSAGE_BYTES_MAX, access, deadline,
    spans::{answered, span},
    status::{code_name, code_of, expired, overloaded, to_status, unfinished, unreadable},
    tls::Connection,
};

/// Upper limits on the calls of health and reflection in flight, separately for streams that stay
/// open and for other calls, so that open streams never block probes; and on the bytes of all of
/// them.
const FREE_MAX: usize = 2_048;
const FREE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Upper limit on the size of a message of health and reflection in bytes, compressed or not. Each
/// holds a name or two.
pub(crate) const FREE_MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// How much earlier than tonic the guard ends a handler whose caller's time is over, because tonic
/// would answer CANCELLED.
const BEFORE_TONIC: Duration = Duration::from_millis(1);

/// Makes [`Guard`]s that share their bounds.
#[derive(Debug, Clone)]
pub(crate) struct GuardLayer {
    /// Whether callers are identified, so that they can be checked.
    judges: bool,
    /// `package.Service/Method` of everything that is served.
    methods: Arc<HashSet<Arc<str>>>,
    requests: Bound,
    /// Calls that anybody may make have separate limits, so that nobody can use them to keep the
    /// role's callers out.
    free: Bound,
    /// The same for streams that stay open.
    streams: Bound,
    /// Bundles have as many places as requests. Their calls take separate places.
    bundles: Bound,
}

impl GuardLayer {
    /// Allows at most `in_flight_max` requests and `bytes_max` bytes of them at once; each must
    /// arrive within `patience`. If `judges`, allows only the callers that [`access`] does.
    pub(crate) fn new(
        in_flight_max: usize,
        bytes_max: usize,
        patience: Duration,
        judges: bool,
    ) -> Self {
        let held = |bytes_max| Held::new(Limits { bytes_max, patience, overloaded, unfinished });
        let (of_requests, of_free) = (held(bytes_max), held(FREE_BYTES_MAX));
        let free = |held| Bound::new(FREE_MAX, FREE_MESSAGE_BYTES_MAX, held);
        Self {
            judges,
            methods: Arc::default(),
            requests: Bound::new(in_flight_max, MESSAGE_BYTES_MAX, of_requests.clone()),
            free: free(of_free.clone()),
            streams: free(of_free),
            bundles: Bound::new(in_flight_max, BUNDLE_BYTES_MAX, of_requests),
        }
    }

    /// Counts calls of these methods by name; each is given as `package.Service/Method`.
    #[must_use]
    pub(crate) fn counting(mut self, methods: impl IntoIterator<Item = String>) -> Self {
        self.methods = Arc::new(methods.into_iter().map(Arc::from).collect());
        self
    }
}

impl<S> Guard<S> {
    /// The bound on bundles.
    pub(crate) const fn bundles(&self) -> &Bound {
        &self.layer.bundles
    }

    /// The answer to a caller that may not call this; `None` if it may.
    pub(crate) fn refusal(&self, request: &http::Request<Body>) -> Option<http::Response<Body>> {
        if !self.layer.judges {
            return None;
        }
        let path = request.uri().path();
        let connection: Option<&Connection> = request.extensions().get();
        let refused = access::check(connection.map(|of| &of.peer), path).err()?;
        tracing::warn!(caller = refused.caller(), path, "refused a call");
        Some(to_status(&refused).into_http())
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, layer: self.clone() }
    }
}

/// A service whose requests are checked and bounded, and have a span, a deadline and a catch of
/// panics.
#[derive(Debug, Clone)]
pub(crate) struct Guard<S> {
    inner: S,
    layer: GuardLayer,
}

impl<S> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let call = Call::begin(self.layer.methods.get(path.trim_start_matches('/')).cloned());
        if let Some(refused) = self.refusal(&request) {
            call.answered(&refused);
            return futures::future::ok(refused).boxed();
        }
        let is_free = access::is_free(path);
        let bound = match (is_free, access::stays_open(path)) {
            (true, true) => &self.layer.streams,
            (true, false) => &self.layer.free,
            (false, _) => &self.layer.requests,
        };
        let connection: Option<&Connection> = request.extensions().get();
        let untaken = connection.map(|of| of.untaken.clone()).unwrap_or_default();
        // Reflection is a stream of questions, with any time between them.
        let messages = if access::is_reflection(path) { Messages::Many } else { Messages::One };
        let Some((request, kept)) = bound.admit(request, messages) else {
            let refused = overloaded().into_http();
            call.answered(&refused);
            return futures::future::ok(refused).boxed();
        };
        // At debug level, like all logs of single requests, because a span costs more than a small
        // request.
        let span = if is_free {
            Span::none()
        } else {
            // A caller may invent any name, so an unknown one is not used.
            span(call.method.as_deref().unwrap_or(semconv::OTHER), "server")
        };
        CallerSpan::of_caller(request.headers()).continue_in(&span);
        let left = deadline::of_headers(request.headers());
        let inner = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        async move {
            let answered = match left {
                Some(left) => timeout(left.saturating_sub(BEFORE_TONIC), inner)
                    .await
                    .unwrap_or_else(|_| Ok(Ok(expired().into_http()))),
                None => inner.await,
            };
            // The panic hook has logged where and why.
            let response = answered.unwrap_or_else(|_| {
                let refusal = Refusal::new(Reason::Internal);
                Ok(to_status(&refusal).into_http())
            })?;
            let response = match unreadable(&response) {
                Some(status) => status.into_http(),
                None => response,
            };
            record(&response);
            call.answered(&response);
            Ok(response.map(|body| kept.until_taken(body, untaken)))
        }
        .instrument(span)
        .boxed()
    }
}

/// Counts one call and measures how long it takes.
struct Call {
    /// `None` if no service has the method. A caller may invent any name, so that name is not used
    /// as a label.
    method: Option<Arc<str>>,
    begun: Instant,
    _active: Entered,
}

impl Call {
    fn begin(method: Option<Arc<str>>) -> Self {
        Self {
            method,
            begun: Instant::now(),
            _active: telemetry::metrics().rpc_server_active.enter(),
        }
    }

    fn answered(&self, response: &http::Response<Body>) {
        let method = self.method.as_deref().unwrap_or(semconv::OTHER);
        let code = code_name(code_of(response));
        telemetry::metrics().rpc_server_duration.record(self.begun.elapsed(), [method, code]);
    }
}

/// Records the status in the span. It is in the head of the response at least for every error of a
/// unary call.
fn record(response: &http::Response<Body>) {
    let span = Span::current();
    if !span.is_disabled() {
        answered(&span, code_of(response));
        tracing::debug!("request answered");
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full};
    use tonic::{Code, Status};

    use super::*;

    const HEALTH: &str = "/grpc.health.v1.Health/Watch";
    const PATIENCE: Duration = Duration::from_secs(30);

    fn request(path: &str, bytes: usize) -> http::Request<Body> {
        let body = Body::new(Full::new(Bytes::from(vec![0; bytes])));
        http::Request::post(format!("http://till{path}")).body(body).unwrap()
    }

    #[tokio::test]
    async fn so_many_calls_that_anybody_may_make_are_in_flight_and_no_more() {
        let silent = tower::service_fn(|_: http::Request<Body>| {
            std::future::pending::<Result<http::Response<Body>, Infallible>>()
        });
        let mut guard = GuardLayer::new(1, usize::MAX, PATIENCE, false).layer(silent);
        let mut asked: Vec<_> = (0..2_048).map(|_| guard.call(request(HEALTH, 0))).collect();
        let refused = guard.call(request(HEALTH, 0)).now_or_never().expect("an answer at once");
        let Ok(refused) = refused;
        assert_eq!(code_of(&refused), Code::ResourceExhausted);
        drop(asked.pop());
        assert!(guard.call(request(HEALTH, 0)).now_or_never().is_none(), "there is a place");
        let probe = guard.call(request("/grpc.health.v1.Health/Check", 0));
        assert!(probe.now_or_never().is_none(), "watches keep no probe out");
    }

    /// A decoder reserves the length that the first five bytes of a message announce.
    #[tokio::test]
    async fn a_message_reaches_its_decoder_when_all_of_it_has_come() {
        let reading = tower::service_fn(|request: http::Request<Body>| async {
            let first = request.into_body().frame().await;
            Ok::<_, Infallible>(http::Response::new(Body::empty())).inspect(|_| drop(first))
        });
        let mut guard = GuardLayer::new(9, usize::MAX, PATIENCE, false).layer(reading);
        for (path, bytes, reads) in [
            (HEALTH, &[0, 0, 0, 64, 0][..], false),
            (HEALTH, &[0, 0, 0, 64, 1], true),
            ("/test.v1.EchoService/Echo", &[0, 4, 0, 0, 0][..], false),
            ("/test.v1.EchoService/Echo", &[0, 0, 0, 0, 1, 7][..], true),
        ] {
            let frame = http_body::Frame::data(Bytes::copy_from_slice(bytes));
            let frames = futures::stream::iter([Ok::<_, Status>(frame)]);
            let open = futures::StreamExt::chain(frames, futures::stream::pending());
            let body = Body::new(http_body_util::StreamBody::new(open));
            let request = http::Request::post(format!("http://till{path}")).body(body).unwrap();
            assert_eq!(guard.call(request).now_or_never().is_some(), reads, "{path} {bytes:?}");
        }
    }

    #[tokio::test]
    async fn calls_that_anybody_may_make_hold_so_many_bytes_and_no_more() {
        let reading = tower::service_fn(|request: http::Request<Body>| async {
            let read = request.into_body().collect().await;
            let answer: http::Response<Body> =
                read.map_or_else(Status::into_http, |_| http::Response::default());
            Ok::<_, Infallible>(answer)
        });
        let mut guard = GuardLayer::new(1, usize::MAX, PATIENCE, false).layer(reading);
        // The first 16 KiB of each do not count.
        let most = 16 * 1024 * 1024 + 16 * 1024;
        for (path, bytes, code) in [
            (HEALTH, most, Code::Ok),
            (HEALTH, most + 1, Code::ResourceExhausted),
            ("/test.v1.EchoService/Echo", most + 1, Code::Ok),
        ] {
            let Ok(answer) = guard.call(request(path, bytes)).await;
            assert_eq!(code_of(&answer), code, "{path}: {bytes} bytes");
        }
    }
}
