//! The API's description for tools, and the pages where people read and try it. All answers share
//! the served bytes; none copies a file.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    extract::{Path, Request},
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Redirect, Response},
    routing::get,
};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use utoipa::openapi::OpenApi;
use utoipa_swagger_ui::Config;

use crate::problem::Problem;

const DESCRIPTION: &str = "/openapi.json";
/// Like the console's policy, except that Swagger UI needs inline styles, and images in data URLs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The description, and Swagger UI under `/docs/`.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(document: &OpenApi) -> Router<S> {
    let document = serde_json::to_vec(document).expect("a description serializes");
    let document = Bytes::from(document);
    let config = Arc::new(Config::from(DESCRIPTION));
    let index = Arc::clone(&config);
    let pages = Router::new()
        .route("/docs", get(async || Redirect::to("/docs/")))
        .route("/docs/", get(async move || page("", index)))
        .route("/docs/{*path}", get(async move |Path(path): Path<String>| page(&path, config)))
        .layer(from_fn(harden));
    let json = HeaderValue::from_static("application/json");
    let description = async move || ([(header::CONTENT_TYPE, json)], document);
    Router::new().route(DESCRIPTION, get(description)).merge(pages)
}

/// A file of Swagger UI.
fn page(path: &str, config: Arc<Config<'static>>) -> Response {
    let file = match utoipa_swagger_ui::serve(path, config) {
        Ok(Some(file)) => file,
        Ok(None) => return Problem::no_such_path().into_response(),
        Err(error) => return Problem::bug(&error).into_response(),
    };
    let bytes = match file.bytes {
        Cow::Borrowed(bytes) => Bytes::from_static(bytes),
        Cow::Owned(bytes) => Bytes::from(bytes),
    };
    let mut response = ([(header::CONTENT_TYPE, file.content_type)], bytes).into_response();
    if file.gzpipped {
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert(header::CONTENT_ENCODING, gzip);
    }
    response
}

/// Adds the security headers of every page.
async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    harden_with(&mut response, POLICY);
    response
}

/// Limits what a page may load and do. Forbids framing, MIME sniffing, and telling other sites
/// which page a visitor came from.
pub(crate) fn harden_with(response: &mut Response, policy: &'static str) {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
}
