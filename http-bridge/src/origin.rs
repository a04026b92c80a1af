//! Requests that browsers send for pages of other sites: those that change something are refused.
//! On loopback the bridge answers only to its own hosts, not to a foreign name that resolves to
//! this machine.
//!
//! Browsers mark their requests with Sec-Fetch-Site, before 2023 only with Origin. Other clients
//! send neither header and pass. The rules are those of Go's `http.CrossOriginProtection`.

use std::{str::FromStr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::CorsLayer;
use types::host::{host_of, is_loopback};

use crate::{
    headers::{IDEMPOTENCY_KEY, KEEP_LOG, X_REQUEST_ID},
    key::changes,
};

#[cfg(test)]
mod tests;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The name by which a container reaches its host.
const DOCKER_HOST: &str = "host.docker.internal";
/// How long a browser may cache a preflight.
const PREFLIGHT_AGE: Duration = Duration::from_hours(1);

/// An origin as browsers send it: `scheme://host` or `scheme://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin(HeaderValue);

/// Why a text is not an origin.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0:?} is not an origin: write it as browsers send it, http://host or https://host:port, in lower case and \
     without a path"
)]
pub struct OriginError(String);

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let wrong = || OriginError(text.to_owned());
        let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let host = bare.and_then(host_of).ok_or_else(wrong)?;
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase());
        if !plain || host.contains(['*', '?', '#']) || text.ends_with(':') {
            return Err(wrong());
        }
        HeaderValue::from_str(text).map(Self).map_err(|_| wrong())
    }
}

/// A host by which this machine is called, in addition to its loopback names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host(String);

/// Why a text is not a host.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a host: give a name or an address, without scheme and port")]
pub struct HostError(String);

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        let bare = host_of(text).filter(|host| host.len() == text.len());
        let address = text.parse::<std::net::IpAddr>().ok().map(|_| text);
        let known = bare.filter(|host| !host.contains('*')).or(address);
        known.map(|host| Self(host.to_owned())).ok_or_else(|| HostError(text.to_owned()))
    }
}

/// The host that a request is for: that of its target, else that of its Host header.
pub(crate) fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let named = || Some(headers.get(header::HOST)?.to_str().unwrap_or_default());
    uri.authority().map(http::uri::Authority::as_str).or_else(named)
}

/// True when a listener on loopback may answer to this authority.
pub(crate) fn is_own(authority: &str, allowed: &[Host]) -> bool {
    let Some(host) = host_of(authority) else { return false };
    let is_allowed = |Host(name): &Host| name.eq_ignore_ascii_case(host);
    is_loopback(host) || host.eq_ignore_ascii_case(DOCKER_HOST) || allowed.iter().any(is_allowed)
}

/// True for a call that changes something and that a browser sends for a page of another origin,
/// unless that origin is allowed.
pub(crate) fn is_foreign(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    allowed: &[Origin],
) -> bool {
    if !changes(method) {
        return false;
    }
    let text = |name| headers.get(name).map_or("", |value| value.to_str().unwrap_or("malformed"));
    let origin = text(header::ORIGIN);
    let foreign = match text(SEC_FETCH_SITE) {
        "same-origin" | "none" => false,
        "" if origin.is_empty() => false,
        // For old browsers only the host is compared, because the scheme is unknown here.
        "" => {
            let own = authority(uri, headers);
            origin.split_once("://").map(|(_, host)| host) != own || own.is_none()
        }
        _ => true,
    };
    foreign && !allowed.iter().any(|known| known.0 == origin)
}

/// Lets pages of these origins call and read the answers. Answers their browsers' preflights.
pub(crate) fn cors(origins: &[Origin]) -> CorsLayer {
    let allowed: Vec<HeaderValue> = origins.iter().map(|origin| origin.0.clone()).collect();
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            header::IF_MATCH,
            IDEMPOTENCY_KEY,
            KEEP_LOG,
            X_REQUEST_ID,
        ])
        .expose_headers([header::ETAG, header::RETRY_AFTER, X_REQUEST_ID])
        .max_age(PREFLIGHT_AGE)
}
