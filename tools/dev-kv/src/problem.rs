//! Error responses: a problem document (RFC 9457) over HTTP, a status over gRPC.

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

/// Refuses a call that dev-kv lacks, and names it.
pub(crate) fn unimplemented(path: &str) -> axum::http::Response<tonic::body::Body> {
    Status::unimplemented(format!("dev-kv does not implement {path}")).into_http()
}
