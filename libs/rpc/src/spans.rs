//! Spans of gRPC calls, at both ends, following OpenTelemetry's conventions.

use telemetry::{semconv, trace};
use tonic::Code;
use tracing::{Span, field::Empty};

use crate::status::code_name;

/// The span of a call to `method`, which is `package.Service/Method`. `kind` is client or server.
pub(crate) fn span(method: &str, kind: &'static str) -> Span {
    tracing::debug_span!(
        target: trace::TARGET,
        "rpc",
        otel.name = method,
        otel.kind = kind,
        otel.status_code = Empty,
        { semconv::RPC_SYSTEM_NAME } = "grpc",
        { semconv::RPC_METHOD } = method,
        { semconv::RPC_STATUS } = Empty,
    )
}

/// Records the answer's code. A refusal does not mark the span as failed.
pub(crate) fn answered(span: &Span, code: Code) {
    span.record(semconv::RPC_STATUS, code_name(code));
    if matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    ) {
        trace::failed(span);
    }
}
