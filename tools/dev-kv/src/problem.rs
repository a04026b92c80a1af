//! What a request is told that has no success: over HTTP a problem (RFC 9457), over gRPC a status.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde_json::json;
use tonic::Status;

/// A problem document.
pub(crate) fn problem(status: StatusCode, error: &dyn std::fmt::Display) -> Response {
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    let body = Json(json!({ "status": status.as_u16(), "detail": error.to_string() }));
    (status, kind, body).into_response()
}

/// The refusal of a call that is not here, by its name.
pub(crate) fn unimplemented(path: &str) -> axum::http::Response<tonic::body::Body> {
    Status::unimplemented(format!("dev-kv does not implement {path}")).into_http()
}
