//! Measures and traces every call that this process makes.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use telemetry::trace;
use tonic::Code;
use tower::Service;
use tracing::{Instrument as _, Span};

use crate::{
    spans::{answered, span},
    status::{code_name, code_of},
};

/// A connection whose calls are counted and measured.
#[derive(Debug, Clone)]
pub(super) struct Measured<S>(pub(super) S);

impl<S, B, R> Service<http::Request<B>> for Measured<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        let begun = Instant::now();
        // Probes belong to no request, so they get no span.
        let method = request.uri().path().trim_start_matches('/');
        let asks = !method.starts_with("grpc.");
        let span = if asks { span(method, "client") } else { Span::none() };
        trace::inject(&span, request.headers_mut());
        // Paths come from generated code, so this label has a bounded set of values.
        let path = request.uri().path_and_query().cloned();
        let answer = self.0.call(request);
        Box::pin(async move {
            let answer = answer.instrument(span.clone()).await;
            let code = answer.as_ref().map_or(Code::Unavailable, code_of);
            answered(&span, code);
            let method = path.as_ref().map_or("", |path| path.path().trim_start_matches('/'));
            telemetry::metrics()
                .rpc_client_duration
                .record(begun.elapsed(), [method, code_name(code)]);
            answer
        })
    }
}
