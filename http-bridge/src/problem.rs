//! Refusals and failures as RFC 9457 `application/problem+json`: the only file that writes them.
//!
//! A body contains no ids and no amounts of the request, so that load tools can group failures by
//! it.

use std::{borrow::Cow, fmt::Display, time::Duration};

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use rpc::status::Failure;
use serde::Serialize;
use types::{ErrorKind, Reason};
use utoipa::ToSchema;

#[cfg(test)]
mod tests;

/// Media type of a problem body.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Where the problem types are explained. A type is this path and the reason in kebab case.
pub(crate) const TYPES_PATH: &str = "/problems/";

/// How long to wait before a retry, if the service gives no time.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The HTTP status of a kind (E2). The match is total, so a new kind does not compile until it has
/// one.
///
/// The bridge retries a contended call. The client sees it only at the deadline, as unavailable.
pub const fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Rejected | ErrorKind::AlreadyExists => StatusCode::CONFLICT,
        ErrorKind::Changed => StatusCode::PRECONDITION_FAILED,
        ErrorKind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        ErrorKind::Contended | ErrorKind::Unavailable | ErrorKind::Deadline => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        ErrorKind::RequestIdReused => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// True for statuses that carry Retry-After.
fn says_when(status: StatusCode) -> bool {
    status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS
}

/// A type of problem: the common part of all its bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProblemType {
    /// Stable identifier in upper case, for machines.
    pub reason: &'static str,
    /// HTTP status.
    pub status: StatusCode,
    /// A short sentence for people.
    pub title: &'static str,
    /// What it means and what to do, for people.
    pub detail: &'static str,
}

/// Problems of HTTP itself, which no service reports.
const OF_HTTP: [ProblemType; 7] = [
    ProblemType {
        reason: "NO_SUCH_PATH",
        status: StatusCode::NOT_FOUND,
        title: "There is nothing at this path",
        detail: "No endpoint has this path. /docs lists them all.",
    },
    ProblemType {
        reason: "METHOD_NOT_ALLOWED",
        status: StatusCode::METHOD_NOT_ALLOWED,
        title: "The endpoint does not take this method",
        detail: "The header Allow lists the methods that it takes.",
    },
    ProblemType {
        reason: "BODY_TOO_LARGE",
        status: StatusCode::PAYLOAD_TOO_LARGE,
        title: "The body is too large",
        detail: "No endpoint needs a body; one of up to 64 KiB is ignored.",
    },
    ProblemType {
        reason: "NO_API_KEY",
        status: StatusCode::UNAUTHORIZED,
        title: "The call needs an API key",
        detail: "Calls that change something need a valid API key, as Authorization: Bearer KEY.",
    },
    ProblemType {
        reason: "CROSS_ORIGIN",
        status: StatusCode::FORBIDDEN,
        title: "A page of another origin may not change anything",
        detail: "A browser sent this call for a page of another origin. The bridge's --cors-origin allows \
                 origins by name.",
    },
    ProblemType {
        reason: "UNKNOWN_HOST",
        status: StatusCode::MISDIRECTED_REQUEST,
        title: "The request is for another host",
        detail: "On a loopback address, the bridge answers only to localhost, loopback addresses and \
                 host.docker.internal. Its --allowed-host adds names.",
    },
    ProblemType {
        reason: "HEAD_TOO_LARGE",
        status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        title: "The head of the request is too large",
        detail: "Target and headers together have at most 64 KiB, and at most 100 headers over HTTP/1.1.",
    },
];

impl ProblemType {
    /// The type of a reason that services report.
    pub const fn of(reason: Reason) -> Self {
        Self {
            reason: reason.as_str(),
            status: status(reason.kind()),
            title: reason.title(),
            detail: detail(reason),
        }
    }

    /// Every type, for documentation and tables.
    pub fn all() -> impl Iterator<Item = Self> {
        Reason::ALL.iter().copied().map(Self::of).chain(OF_HTTP)
    }

    /// The last segment of the type's URI.
    pub fn slug(&self) -> String {
        self.reason.to_ascii_lowercase().replace('_', "-")
    }
}

const fn detail(reason: Reason) -> &'static str {
    match reason {
        Reason::OutOfStock => {
            "Fewer units are left than were asked for. Nothing was changed; the same call may succeed \
             once there is stock."
        }
        Reason::OutOfCredit => {
            "The user has less credit than this costs. Nothing was changed; the same call may succeed \
             once there is credit."
        }
        Reason::EmptyOrder => "An order needs at least one item to be checked out.",
        Reason::AlreadyPaid => "A paid order is final and cannot be changed.",
        Reason::UnknownUser => {
            "The order belongs to a user who does not exist. Nothing was changed."
        }
        Reason::UnknownItem => {
            "The order contains an item that does not exist any more. Nothing was changed."
        }
        Reason::Overflow => {
            "A sum would exceed 9007199254740991, the greatest amount. Nothing was changed."
        }
        Reason::NotInOrder => "The order contains no unit of this item. Nothing was changed.",
        Reason::NotPaid => {
            "The user has not paid for this order this way, or already got the money back."
        }
        Reason::OrderTooLarge => {
            "The order has more different items than one checkout can buy. Nothing was changed."
        }
        Reason::OrderChanged => "The order changed while it was being checked out. Try again.",
        Reason::OrderModified => {
            "The order does not match the If-Match header: somebody changed it, or it was sold with other \
             content. Nothing was tried; read the order again."
        }
        Reason::WrongShard => "The number of shards has changed. Try again.",
        Reason::AlreadyDone => "An earlier attempt of this call has succeeded.",
        Reason::Expired => {
            "The call's time was over before it could take effect. Repeat it with the same \
             Idempotency-Key."
        }
        Reason::OrderNotFound => "The order id in the path is unknown.",
        Reason::ItemNotFound => "The item id in the path is unknown.",
        Reason::UserNotFound => "The user id in the path is unknown.",
        Reason::InvalidArgument => "A part of the request is malformed; the member field names it.",
        Reason::RequestIdReused => {
            "An Idempotency-Key belongs to one call; this one was used for another method or path. Use \
             a new key."
        }
        Reason::Overloaded => "The shop is overloaded. Nothing was begun; try again later.",
        Reason::Unavailable => {
            "A part of the shop did not answer in time. Try again with the same Idempotency-Key."
        }
        Reason::OutcomeUnknown => {
            "The call may or may not have taken effect. Repeat it with the same Idempotency-Key to learn \
             which, or read what it would have changed."
        }
        Reason::Forbidden => "The shop's own services refused this call.",
        Reason::Internal => {
            "This is a bug or damaged data. The log has an entry under X-Request-Id."
        }
    }
}

/// Why a call did not succeed. A retry helps only for 429 and 503, with the same request id. A 409
/// may succeed later, when the facts have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(Box<Content>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Content {
    status: StatusCode,
    reason: Cow<'static, str>,
    /// None when this version has no explanation of the reason.
    slug: Option<String>,
    title: &'static str,
    detail: Cow<'static, str>,
    field: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    /// For the log alone; never sent.
    cause: Option<String>,
}

impl Problem {
    fn new(kind: ProblemType) -> Self {
        Self(Box::new(Content {
            status: kind.status,
            reason: Cow::Borrowed(kind.reason),
            slug: Some(kind.slug()),
            title: kind.title,
            detail: Cow::Borrowed(kind.detail),
            field: None,
            retry_after: says_when(kind.status).then_some(RETRY_AFTER),
            cause: None,
        }))
    }

    /// The problem for a reason, without details.
    pub(crate) fn of(reason: Reason) -> Self {
        Self::new(ProblemType::of(reason))
    }

    /// A part of the request is malformed. `problem` continues a sentence that begins with the
    /// field.
    pub(crate) fn invalid(field: impl Into<Cow<'static, str>>, problem: &dyn Display) -> Self {
        let field = field.into();
        let mut invalid = Self::of(Reason::InvalidArgument);
        invalid.0.detail = Cow::Owned(format!("{field} {problem}"));
        invalid.0.field = Some(field);
        invalid
    }

    /// No endpoint has this path.
    pub(crate) fn no_such_path() -> Self {
        Self::new(OF_HTTP[0])
    }

    /// The endpoint does not take this method.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(OF_HTTP[1])
    }

    /// The body is longer than [`crate::BODY_BYTES_MAX`].
    pub(crate) fn body_too_large() -> Self {
        Self::new(OF_HTTP[2])
    }

    /// The request carries no valid key.
    pub(crate) fn no_api_key() -> Self {
        Self::new(OF_HTTP[3])
    }

    /// A browser sent this for a page of another origin.
    pub(crate) fn cross_origin() -> Self {
        Self::new(OF_HTTP[4])
    }

    /// The request is for a host that is not this machine.
    pub(crate) fn unknown_host() -> Self {
        Self::new(OF_HTTP[5])
    }

    /// The head is longer than [`crate::HEAD_BYTES_MAX`].
    pub(crate) fn head_too_large() -> Self {
        Self::new(OF_HTTP[6])
    }

    /// Not ready. `detail` says why, for people who look at readiness.
    pub(crate) fn not_ready(detail: String) -> Self {
        let mut not_ready = Self::of(Reason::Unavailable);
        not_ready.0.detail = Cow::Owned(detail);
        not_ready
    }

    /// Only operators may ask this, and the caller is not one.
    pub(crate) fn operators_only() -> Self {
        let mut closed = Self::of(Reason::Forbidden);
        closed.0.detail = Cow::Borrowed(
            "This is for operators: it is served on the admin listener, which they reach.",
        );
        closed
    }

    /// Neither the journals nor the log know the transaction.
    pub(crate) fn unknown_transaction() -> Self {
        let mut unknown = Self::unexplained(ErrorKind::NotFound, "TRANSACTION_UNKNOWN".to_owned());
        unknown.0.detail = Cow::Borrowed("Nobody knows this transaction, so it holds nothing.");
        unknown
    }

    /// A bug of this process; `cause` is logged, never sent.
    pub(crate) fn bug(cause: &dyn Display) -> Self {
        Self::of(Reason::Internal).because(cause)
    }

    /// The problem for a service's definite refusal.
    pub(crate) fn from_failure(failure: Failure) -> Self {
        if let Some((field, problem)) = failure.fields.into_iter().next()
            && failure.kind == ErrorKind::InvalidInput
        {
            return Self::invalid(field, &problem).because(&failure.message);
        }
        let mut problem = match Reason::parse(&failure.reason) {
            Some(reason) if status(reason.kind()) == status(failure.kind) => Self::of(reason),
            _ => Self::unexplained(failure.kind, failure.reason),
        };
        if let (Some(told), true) = (failure.retry_after, says_when(problem.0.status)) {
            problem.0.retry_after = Some(told);
        }
        problem.because(&failure.message)
    }

    /// The problem for a newer service's reason that this version does not know. The reason is
    /// passed on, and explained by its kind.
    fn unexplained(kind: ErrorKind, reason: String) -> Self {
        let status = status(kind);
        if kind == ErrorKind::Internal || !is_stable(&reason) {
            return match kind {
                ErrorKind::InvalidInput => Self::of(Reason::InvalidArgument),
                ErrorKind::Overloaded => Self::of(Reason::Overloaded),
                ErrorKind::Unavailable | ErrorKind::Contended | ErrorKind::Deadline => {
                    Self::of(Reason::Unavailable)
                }
                ErrorKind::RequestIdReused => Self::of(Reason::RequestIdReused),
                ErrorKind::Forbidden => Self::of(Reason::Forbidden),
                ErrorKind::NotFound
                | ErrorKind::Rejected
                | ErrorKind::AlreadyExists
                | ErrorKind::Changed
                | ErrorKind::Internal => Self::of(Reason::Internal),
            };
        }
        Self(Box::new(Content {
            status,
            reason: Cow::Owned(reason),
            slug: None,
            // RFC 9457, section 4.2.1: the title of the type about:blank is the status phrase.
            title: status.canonical_reason().unwrap_or("Refused"),
            detail: Cow::Borrowed("The shop refused this call. Nothing was changed."),
            field: None,
            retry_after: says_when(status).then_some(RETRY_AFTER),
            cause: None,
        }))
    }

    /// Adds a cause for the log.
    #[must_use]
    pub(crate) fn because(mut self, cause: &dyn Display) -> Self {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// Stable identifier in upper case, for machines.
    pub fn reason(&self) -> &str {
        &self.0.reason
    }

    /// What went wrong inside, for the log.
    pub(crate) fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// What the body says.
    pub fn body(&self) -> ProblemBody {
        let uri = match &self.0.slug {
            Some(slug) => format!("{TYPES_PATH}{slug}"),
            None => "about:blank".to_owned(),
        };
        ProblemBody {
            uri,
            title: self.0.title.to_owned(),
            status: self.0.status.as_u16(),
            detail: self.0.detail.clone().into_owned(),
            reason: self.0.reason.clone().into_owned(),
            field: self.0.field.clone().map(Cow::into_owned),
        }
    }
}

/// True for a text that can be a stable reason: short, upper case, no digits that might be an id.
fn is_stable(reason: &str) -> bool {
    (1..=64).contains(&reason.len())
        && reason.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.body()).expect("plain strings and a number serialize");
        let mut response = (self.0.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if let Some(pause) = self.0.retry_after {
            // Whole seconds, rounded up: 0 would mean "at once".
            let seconds = pause.as_millis().div_ceil(1000).max(1);
            headers.insert(
                header::RETRY_AFTER,
                HeaderValue::from(u64::try_from(seconds).unwrap_or(u64::MAX)),
            );
        }
        if self.0.status == StatusCode::UNAUTHORIZED {
            // RFC 9110, section 15.5.2: a 401 says how to authenticate.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// The problem to send instead of a refusal that hyper writes by itself. None if `written` is not
/// such a refusal: the bridge's own answers carry X-Request-Id.
pub(crate) fn in_place_of(written: &[u8]) -> Option<Bytes> {
    const OURS: &[u8] = b"x-request-id";
    let problem = match written.strip_prefix(b"HTTP/1.1 ")?.get(..4)? {
        b"400 " => Problem::invalid("head", &"must be a valid head of an HTTP/1.1 request"),
        b"414 " | b"431 " => Problem::head_too_large(),
        _ => return None,
    };
    if written.windows(OURS.len()).any(|window| window.eq_ignore_ascii_case(OURS)) {
        return None;
    }
    let body =
        serde_json::to_string(&problem.body()).expect("plain strings and a number serialize");
    let head = format!(
        "HTTP/1.1 {}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        problem.status(),
        body.len()
    );
    Some(Bytes::from(head + &body))
}

/// Why a call was not answered with success (RFC 9457). Contains no ids and no amounts of the
/// request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Identifies the kind of problem; it never changes. A path on this server that explains the
    /// problem.
    #[serde(rename = "type")]
    #[schema(format = "uri-reference", example = "/problems/out-of-stock")]
    pub uri: String,
    /// A short sentence for people.
    #[schema(example = "There is not enough stock")]
    pub title: String,
    /// The HTTP status again.
    #[schema(minimum = 400, maximum = 599, example = 409)]
    pub status: u16,
    /// What it means and what to do, for people.
    pub detail: String,
    /// Stable, for machines.
    #[schema(pattern = "^[A-Z_]+$", example = "OUT_OF_STOCK")]
    pub reason: String,
    /// With status 400: the path parameter or header that is malformed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "quantity", nullable = false)]
    pub field: Option<String>,
}
