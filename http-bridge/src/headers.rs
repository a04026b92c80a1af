//! Headers of the API that are not standard, or not yet.

use http::HeaderName;

/// The request id that makes a call take effect once.
pub(crate) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Asks to keep the log of a checkout.
pub(crate) const KEEP_LOG: HeaderName = HeaderName::from_static("till-keep-log");
/// Correlates logs and traces. Not unique: honest callers reuse it.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
