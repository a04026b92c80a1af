//! The files of the page, and the headers with which they are served.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};

/// One file of the page.
#[derive(Debug, Clone)]
pub(super) struct Asset {
    /// Path at which it is served.
    pub(super) path: &'static str,
    kind: &'static str,
    bytes: &'static [u8],
    /// Entity tag, which changes with the content.
    tag: HeaderValue,
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

macro_rules! file {
    ($name:literal) => {
        include_bytes!(concat!("../../console/", $name))
    };
}

const FILES: [(&str, &str, &[u8]); 10] = [
    ("/console", HTML, file!("index.html")),
    ("/console/console.css", CSS, file!("console.css")),
    ("/console/icon.svg", IMAGE, file!("icon.svg")),
    ("/console/app.js", SCRIPT, file!("app.js")),
    ("/console/api.js", SCRIPT, file!("api.js")),
    ("/console/dom.js", SCRIPT, file!("dom.js")),
    ("/console/shop.js", SCRIPT, file!("shop.js")),
    ("/console/transaction.js", SCRIPT, file!("transaction.js")),
    ("/console/live.js", SCRIPT, file!("live.js")),
    ("/console/operate.js", SCRIPT, file!("operate.js")),
];

/// All files of the page.
pub(super) fn all() -> impl Iterator<Item = Asset> {
    FILES.into_iter().map(|(path, kind, bytes)| {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let tag = format!("\"{:016x}\"", hasher.finish());
        let tag = HeaderValue::try_from(tag).expect("hexadecimal digits in quotes are a header");
        Asset { path, kind, bytes, tag }
    })
}

impl Asset {
    /// The file, or 304 when the caller already has it.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response {
        let known = headers.get_all(header::IF_NONE_MATCH).iter();
        let known = known.filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(','));
        let mut fresh = known.map(|tag| tag.trim().trim_start_matches("W/"));
        let mut response = if fresh.any(|tag| tag == "*" || tag.as_bytes() == self.tag.as_bytes()) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            let mut response = self.bytes.into_response();
            let kind = HeaderValue::from_static(self.kind);
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.tag.clone());
        // Browsers ask again each time and mostly get a 304.
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        response
    }
}
