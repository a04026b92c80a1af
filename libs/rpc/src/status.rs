//! Converts errors to `tonic::Status` and back. Only this file builds a status.
//!
//! The content of an error travels as `google.rpc` details: `ErrorInfo` (the stable reason, domain
//! "till", ids and amounts), `BadRequest` (the field), `RetryInfo` (when to retry). The messages
//! below encode them with ordered maps, so that the same error has the same bytes in every run.

use std::{borrow::Cow, collections::BTreeMap, fmt, time::Duration};

use prost::Message as _;
use tonic::{Code, Status};
use types::{Classify, ErrorKind, Reason, Refusal};

mod details;
#[cfg(test)]
mod tests;

use details::{BadRequest, ErrorInfo, FieldViolation, RetryInfo};

/// `ErrorInfo.domain` of every error of this project.
pub const DOMAIN: &str = "till";

/// How long a caller is told to wait before it retries.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The gRPC code of a kind. The match is total, so that a new kind does not compile until it has a
/// code (E2).
pub const fn code(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::InvalidInput => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Rejected | ErrorKind::Changed => Code::FailedPrecondition,
        ErrorKind::AlreadyExists | ErrorKind::RequestIdReused => Code::AlreadyExists,
        ErrorKind::Contended => Code::Aborted,
        ErrorKind::Overloaded => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Deadline => Code::DeadlineExceeded,
        ErrorKind::Forbidden => Code::PermissionDenied,
        ErrorKind::Internal => Code::Internal,
    }
}

/// The name of a code, as the protocol spells it.
pub(crate) const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// The code in the head of a response. It is there at least for every error of a unary call.
pub(crate) fn code_of<B>(response: &http::Response<B>) -> Code {
    response
        .headers()
        .get("grpc-status")
        .map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

/// The kind for a bare code, from a callee that is not ours or that died before it could send
/// details.
const fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidInput,
        Code::NotFound => ErrorKind::NotFound,
        Code::FailedPrecondition => ErrorKind::Rejected,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::Aborted => ErrorKind::Contended,
        Code::ResourceExhausted => ErrorKind::Overloaded,
        Code::Unavailable | Code::Cancelled | Code::Unknown => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::Deadline,
        Code::PermissionDenied | Code::Unauthenticated => ErrorKind::Forbidden,
        Code::Internal | Code::DataLoss | Code::Unimplemented | Code::Ok => ErrorKind::Internal,
    }
}

/// How long the caller is told to wait; `None` if retrying the same request does not help.
const fn retry_after(kind: ErrorKind) -> Option<Duration> {
    match kind {
        ErrorKind::Overloaded | ErrorKind::Unavailable | ErrorKind::Deadline => Some(RETRY_AFTER),
        ErrorKind::InvalidInput
        | ErrorKind::NotFound
        | ErrorKind::Rejected
        | ErrorKind::AlreadyExists
        | ErrorKind::Changed
        | ErrorKind::Contended
        | ErrorKind::RequestIdReused
        | ErrorKind::Forbidden
        | ErrorKind::Internal => None,
    }
}

/// Converts an error for a caller.
///
/// The text of an internal error is not sent: it is logged here, where the error is consumed, and
/// the caller gets a generic text.
pub fn to_status(error: &(impl Classify + fmt::Display + ?Sized)) -> Status {
    let kind = error.kind();
    let message = if kind == ErrorKind::Internal {
        tracing::error!(%error, reason = %error.reason(), "internal error");
        Reason::Internal.title().to_owned()
    } else {
        error.to_string()
    };
    build(kind, message, error.reason(), error.metadata(), Vec::new())
}

/// The error for one malformed field.
pub fn invalid_field(field: impl Into<String>, problem: impl fmt::Display) -> Status {
    let field = field.into();
    let problem = problem.to_string();
    build(
        ErrorKind::InvalidInput,
        format!("{field} {problem}"),
        Cow::Borrowed(Reason::InvalidArgument.as_str()),
        BTreeMap::new(),
        vec![(field, problem)],
    )
}

/// The error for a caller whose time is over. Its handler was dropped, but work that it began may
/// go on.
pub(crate) fn expired() -> Status {
    to_status(&Refusal::new(Reason::OutcomeUnknown))
}

/// The error for a request that exceeds the limits on requests or bytes. Nothing was begun.
pub(crate) fn overloaded() -> Status {
    to_status(&Refusal::new(Reason::Overloaded))
}

/// The error for a request that did not arrive completely in time. Nothing was begun.
pub(crate) fn unfinished() -> Status {
    Status::deadline_exceeded("the request's body did not come in time")
}

/// The error for a service name that health does not know.
pub(crate) fn unknown_service() -> Status {
    Status::not_found("service not registered")
}

/// The replacement for an answer in which tonic reports that it cannot read a request. tonic uses
/// INTERNAL for that, as if the error were ours. `None` for every other answer; our own INTERNAL
/// errors have details.
pub(crate) fn unreadable<B>(answer: &http::Response<B>) -> Option<Status> {
    // Most answers end here.
    if !matches!(code_of(answer), Code::Internal | Code::ResourceExhausted) {
        return None;
    }
    let said = Status::from_header_map(answer.headers())?;
    if !said.details().is_empty() {
        return None;
    }
    if said.code() == Code::ResourceExhausted {
        // tonic uses this code for an uncompressed message that is too large.
        return Some(Status::out_of_range(said.message()));
    }
    let message = format!("the request cannot be read: {}", said.message());
    let reason = Cow::Borrowed(Reason::InvalidArgument.as_str());
    Some(build(ErrorKind::InvalidInput, message, reason, BTreeMap::new(), Vec::new()))
}

fn build(
    kind: ErrorKind,
    message: String,
    reason: Cow<'static, str>,
    metadata: BTreeMap<String, String>,
    fields: Vec<(String, String)>,
) -> Status {
    let code = code(kind);
    let info = ErrorInfo { reason: reason.into_owned(), domain: DOMAIN.to_owned(), metadata };
    let mut packed = vec![details::pack(&info)];
    if !fields.is_empty() {
        let field_violations = fields
            .into_iter()
            .map(|(field, description)| FieldViolation { field, description })
            .collect();
        packed.push(details::pack(&BadRequest { field_violations }));
    }
    if let Some(pause) = retry_after(kind) {
        packed.push(details::pack(&RetryInfo::of(pause)));
    }
    let body = details::Status { code: code.into(), message: message.clone(), details: packed };
    Status::with_details(code, message, body.encode_to_vec().into())
}

/// An error that a callee sent, or a failure of the call itself. It can be passed on like any other
/// error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Decides what the caller does.
    pub kind: ErrorKind,
    /// Stable, upper case. For a callee that is not ours it is the general reason of the kind.
    pub reason: String,
    /// A text for people.
    pub message: String,
    /// Ids and amounts, for people.
    pub metadata: BTreeMap<String, String>,
    /// Malformed fields, and what is wrong with each.
    pub fields: Vec<(String, String)>,
    /// How long the callee asked to wait.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that no callee sent.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            kind: reason.kind(),
            reason: reason.as_str().to_owned(),
            message: message.into(),
            metadata: BTreeMap::new(),
            fields: Vec::new(),
            retry_after: None,
        }
    }

    /// Reads a status. A broken connection becomes `Unavailable`, an expired call `Deadline`.
    pub fn from_status(status: &Status) -> Self {
        let packed =
            details::Status::decode(status.details()).map(|body| body.details).unwrap_or_default();
        let info = packed
            .iter()
            .find_map(details::unpack::<ErrorInfo>)
            .filter(|info| info.domain == DOMAIN);
        let fields = packed
            .iter()
            .find_map(details::unpack::<BadRequest>)
            .map(|bad| bad.field_violations)
            .unwrap_or_default()
            .into_iter()
            .map(|violation| (violation.field, violation.description))
            .collect();
        let retry_after =
            packed.iter().find_map(details::unpack::<RetryInfo>).and_then(|info| info.duration());
        let kind = match &info {
            Some(info) => kind_of_ours(status.code(), &info.reason),
            None => kind_of_bare(status),
        };
        let (reason, metadata) = match info {
            Some(info) => (info.reason, info.metadata),
            None => (general_reason(kind).as_str().to_owned(), BTreeMap::new()),
        };
        Self { kind, reason, message: status.message().to_owned(), metadata, fields, retry_after }
    }

    /// True if the answer is not definite, so that the same request may be sent again, at once or
    /// after a pause.
    pub const fn is_transient(&self) -> bool {
        match self.kind {
            ErrorKind::Contended
            | ErrorKind::Overloaded
            | ErrorKind::Unavailable
            | ErrorKind::Deadline => true,
            ErrorKind::InvalidInput
            | ErrorKind::NotFound
            | ErrorKind::Rejected
            | ErrorKind::AlreadyExists
            | ErrorKind::Changed
            | ErrorKind::RequestIdReused
            | ErrorKind::Forbidden
            | ErrorKind::Internal => false,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::from_status(&status)
    }
}

impl Classify for Failure {
    fn kind(&self) -> ErrorKind {
        self.kind
    }

    fn reason(&self) -> Cow<'static, str> {
        Cow::Owned(self.reason.clone())
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        self.metadata.clone()
    }
}

/// The code determines the kind. If several kinds share a code, a known reason decides.
fn kind_of_ours(status: Code, reason: &str) -> ErrorKind {
    let known = Reason::parse(reason).map(Reason::kind);
    known.filter(|kind| code(*kind) == status).unwrap_or_else(|| kind_of(status))
}

fn kind_of_bare(status: &Status) -> ErrorKind {
    // tonic reports CANCELLED on the caller's side when the time that the caller set is over.
    if status.code() == Code::Cancelled && status.message() == EXPIRED {
        return ErrorKind::Deadline;
    }
    // A source means that no callee sent this, but the connection broke.
    if std::error::Error::source(status).is_some() {
        return ErrorKind::Unavailable;
    }
    kind_of(status.code())
}

/// The text of `tonic::TimeoutExpired`.
const EXPIRED: &str = "Timeout expired";

const fn general_reason(kind: ErrorKind) -> Reason {
    match kind {
        ErrorKind::InvalidInput => Reason::InvalidArgument,
        ErrorKind::RequestIdReused => Reason::RequestIdReused,
        ErrorKind::Overloaded => Reason::Overloaded,
        ErrorKind::Unavailable | ErrorKind::Contended => Reason::Unavailable,
        ErrorKind::Deadline => Reason::OutcomeUnknown,
        ErrorKind::Forbidden => Reason::Forbidden,
        // A callee that is not ours refused, without a reason that we know.
        ErrorKind::NotFound
        | ErrorKind::Rejected
        | ErrorKind::AlreadyExists
        | ErrorKind::Changed
        | ErrorKind::Internal => Reason::Internal,
    }
}
