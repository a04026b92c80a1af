//! Probes, and the explanation of problems.

use axum::{extract::State, response::IntoResponse as _, response::Response};
use http::Uri;
use percent_encoding::percent_decode_str;

use super::{HandlerResult, Text, parameters::SlugIn};
use crate::{
    bridge::Bridge,
    problem::{Problem, ProblemType, TYPES_PATH},
};

/// Tells that the process answers.
#[utoipa::path(get, path = "/healthz", tag = "operations", operation_id = "alive",
    responses((status = 200, description = "It does.", body = String, content_type = "text/plain",
               example = "alive")))]
pub(super) async fn alive() -> Text {
    Text("alive".to_owned())
}

/// Tells whether the services behind the bridge would answer.
#[utoipa::path(get, path = "/readyz", tag = "operations", operation_id = "ready",
    responses((status = 200, description = "They would.", body = String, content_type = "text/plain",
               example = "ready")))]
pub(super) async fn ready(State(bridge): State<Bridge>) -> HandlerResult<Text> {
    bridge.ready().await?;
    Ok(Text("ready".to_owned()))
}

/// Explains a problem.
#[utoipa::path(get, path = "/problems/{slug}", tag = "operations", operation_id = "explainProblem",
    params(SlugIn),
    responses((status = 200, description = "What it means and what to do.", body = String,
               content_type = "text/plain"),
              (status = 404, description = "There is no such problem.")))]
pub(super) async fn explain(uri: Uri) -> Response {
    let slug = uri.path().strip_prefix(TYPES_PATH).unwrap_or_default();
    let slug = percent_decode_str(slug).decode_utf8_lossy();
    match ProblemType::all().find(|known| known.slug() == slug) {
        Some(known) => Text(page(&known)).into_response(),
        None => Problem::no_such_path().into_response(),
    }
}

fn page(known: &ProblemType) -> String {
    let ProblemType { reason, status, title, detail } = known;
    format!("{title}\n\n{detail}\n\nreason: {reason}\nstatus: {status}\n")
}
