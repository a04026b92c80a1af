//! Parses paths and headers into types: syntactic validation, once, before any service is asked.

use std::{convert::Infallible, str::FromStr};

use axum::extract::{FromRequestParts, MatchedPath};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header, request::Parts};
use percent_encoding::percent_decode_str;
use proto::coordinator::v1::{
    ClaimRequestIdRequest, coordinator_service_client::CoordinatorServiceClient,
};
use rpc::unary;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use types::{
    AMOUNT_MAX, AmountError, IdError, ItemId, OrderId, Quantity, RequestId, Role, Timestamp, UserId,
};

use crate::{
    bridge::Bridge,
    etag,
    headers::{IDEMPOTENCY_KEY, KEEP_LOG, X_REQUEST_ID},
    problem::Problem,
    upstream::{CallKind, Target, UpstreamCall},
};

#[cfg(test)]
mod tests;

/// Maximum length of an Idempotency-Key, in bytes. It is shorter than a request id, so that ids of
/// parts can be derived from it.
pub(crate) const KEY_LEN_MAX: usize = 126;
/// Maximum length of an X-Request-Id that is echoed, in bytes.
pub(crate) const CORRELATION_LEN_MAX: usize = 128;
/// Maximum number of records of a batch_init.
pub(crate) const COUNT_MAX: u64 = 10_000_000;

/// When a request arrived. The edge puts it into the request's extensions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrived(pub(crate) Instant);

/// Whether the client still waits. The edge puts it into the request's extensions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Caller(CancellationToken);

impl Caller {
    /// The client counts as waiting until the guard is dropped.
    pub(crate) fn waits(&self) -> DropGuard {
        self.0.clone().drop_guard()
    }

    pub(crate) fn has_left(&self) -> bool {
        self.0.is_cancelled()
    }
}

/// The input of a handler: the parameters of the path, and what identifies the call.
#[derive(Debug)]
pub(crate) struct Input {
    method: Method,
    template: String,
    /// Name and percent-decoded value of every parameter. The value is None if it does not decode.
    /// Numbers become canonical when they are read.
    parameters: Vec<(String, Option<String>)>,
    key: Option<(HeaderName, HeaderValue)>,
    /// The header of `key` occurs more than once.
    repeated: bool,
    keep_log: Option<HeaderValue>,
    /// None when the header is absent.
    if_match: Option<Result<Vec<String>, etag::Malformed>>,
    arrived: Instant,
    caller: Caller,
}

impl FromRequestParts<Bridge> for Input {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, bridge: &Bridge) -> Result<Self, Infallible> {
        let template = parts
            .extensions
            .get::<MatchedPath>()
            .map(|matched| matched.as_str().to_owned())
            .unwrap_or_default();
        let arrived = parts.extensions.get::<Arrived>();
        let (key, repeated) = key(&parts.headers, bridge.settings().trust_request_id);
        Ok(Self {
            method: parts.method.clone(),
            parameters: parameters(&template, parts.uri.path()),
            template,
            key,
            repeated,
            keep_log: parts.headers.get(KEEP_LOG).cloned(),
            if_match: etag::if_match(&parts.headers),
            arrived: arrived.map_or_else(Instant::now, |arrived| arrived.0),
            caller: parts.extensions.get::<Caller>().cloned().unwrap_or_default(),
        })
    }
}

/// The header that carries the request id, and whether it occurs more than once.
fn key(headers: &HeaderMap, trust: bool) -> (Option<(HeaderName, HeaderValue)>, bool) {
    let mut names = vec![IDEMPOTENCY_KEY];
    if trust {
        names.push(X_REQUEST_ID);
    }
    for name in names {
        let mut values = headers.get_all(&name).iter();
        if let Some(value) = values.next() {
            return (Some((name, value.clone())), values.next().is_some());
        }
    }
    (None, false)
}

/// Matches the segments of the path with those of its template.
fn parameters(template: &str, path: &str) -> Vec<(String, Option<String>)> {
    template
        .split('/')
        .zip(path.split('/'))
        .filter_map(|(name, value)| {
            let name = name.strip_prefix('{')?.strip_suffix('}')?;
            Some((name.to_owned(), decode(value)))
        })
        .collect()
}

/// Percent-decodes strictly: every `%` must begin a byte in hexadecimal, and the result must be
/// UTF-8.
fn decode(text: &str) -> Option<String> {
    for (at, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(at + 1..at + 3)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
    }
    let decoded = percent_decode_str(text).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

impl Input {
    fn text(&self, name: &'static str) -> Result<&str, Problem> {
        let found = self.parameters.iter().find(|(known, _)| known == name);
        match found {
            Some((_, Some(value))) => Ok(value),
            Some((_, None)) => Err(Problem::invalid(name, &"must be percent-encoded UTF-8")),
            None => Err(Problem::bug(&format!("{} has no parameter {name}", self.template))),
        }
    }

    /// Parses an id, given the name of its parameter.
    pub(crate) fn id<T: FromStr<Err = IdError>>(&self, name: &'static str) -> Result<T, Problem> {
        self.text(name)?.parse().map_err(|error: IdError| Problem::invalid(name, &error))
    }

    /// The order id in the path.
    pub(crate) fn order_id(&self) -> Result<OrderId, Problem> {
        self.id("order_id")
    }

    /// The item id in the path.
    pub(crate) fn item_id(&self) -> Result<ItemId, Problem> {
        self.id("item_id")
    }

    /// The user id in the path.
    pub(crate) fn user_id(&self) -> Result<UserId, Problem> {
        self.id("user_id")
    }

    /// A plain decimal integer from `least` to `most`.
    pub(crate) fn number(
        &mut self,
        name: &'static str,
        least: u64,
        most: u64,
    ) -> Result<u64, Problem> {
        // A quantity has the widest range of all amounts.
        let parsed: Result<Quantity, AmountError> = self.text(name)?.parse();
        let value = match parsed {
            Ok(value) => value.get(),
            Err(AmountError::TooLarge) => {
                return Err(Problem::invalid(name, &format!("must be at most {most}")));
            }
            Err(error @ AmountError::NotAnInteger) => return Err(Problem::invalid(name, &error)),
        };
        if value < least {
            return Err(Problem::invalid(name, &format!("must be at least {least}")));
        }
        if value > most {
            return Err(Problem::invalid(name, &format!("must be at most {most}")));
        }
        if let Some(parameter) = self.parameters.iter_mut().find(|(known, _)| known == name) {
            parameter.1 = Some(value.to_string());
        }
        Ok(value)
    }

    /// An amount or a quantity, at least 1.
    pub(crate) fn amount(&mut self, name: &'static str) -> Result<u64, Problem> {
        self.number(name, 1, AMOUNT_MAX)
    }

    /// A price or a starting value, which may be 0.
    pub(crate) fn start(&mut self, name: &'static str) -> Result<u64, Problem> {
        self.number(name, 0, AMOUNT_MAX)
    }

    /// The number of records of a batch_init.
    pub(crate) fn count(&mut self) -> Result<u64, Problem> {
        self.number("n", 0, COUNT_MAX)
    }

    /// Whether the client wants the log of the checkout to be kept.
    ///
    /// # Errors
    /// The header has a value other than 1.
    pub(crate) fn keep_log(&self) -> Result<bool, Problem> {
        match &self.keep_log {
            None => Ok(false),
            Some(value) if value == "1" => Ok(true),
            Some(_) => Err(Problem::invalid("Till-Keep-Log", &"must be 1 if it is sent")),
        }
    }

    /// The tokens, one of which the order must match; empty if the header is absent.
    ///
    /// # Errors
    /// The header is malformed or names too many tokens.
    pub(crate) fn if_match(&self) -> Result<Vec<String>, Problem> {
        match &self.if_match {
            None => Ok(Vec::new()),
            Some(Ok(tokens)) => Ok(tokens.clone()),
            Some(Err(error)) => Err(Problem::invalid("If-Match", error)),
        }
    }

    pub(crate) fn caller(&self) -> Caller {
        self.caller.clone()
    }

    /// The deadline of any call except batch_init.
    pub(crate) fn deadline(&self, bridge: &Bridge) -> Instant {
        self.arrived + bridge.settings().request_timeout
    }

    /// The deadline of a batch_init.
    pub(crate) fn batch_deadline(&self, bridge: &Bridge) -> Instant {
        self.arrived + bridge.settings().batch_init_timeout
    }

    /// The id that makes the call take effect once: the client's, now bound to this call, or a new
    /// one. The client's id comes with a timestamp of the store that was read after the id was
    /// bound. Call this after all parameters have been read.
    ///
    /// # Errors
    /// A malformed header; REQUEST_ID_REUSED; UNAVAILABLE or OVERLOADED at the deadline.
    pub(crate) async fn request_id(
        &self,
        bridge: &Bridge,
        deadline: Instant,
    ) -> Result<(RequestId, Option<Timestamp>), Problem> {
        let Some((name, value)) = &self.key else {
            return Ok((RequestId::minted(bridge.mint()), None));
        };
        let id = self.explicit(name, value)?;
        let ask = UpstreamCall {
            service: bridge.shop().at(Role::Coordinator),
            to: Target::Any,
            kind: CallKind::Read,
            deadline,
            attempt_timeout: Some(bridge.settings().attempt_timeout),
        };
        let request =
            ClaimRequestIdRequest { request_id: id.as_str().to_owned(), call: self.call() };
        let send = unary!(CoordinatorServiceClient::claim_request_id);
        let claimed = bridge.ask(ask, request, send).await?;
        Ok((id, Some(Timestamp(claimed.read_ts))))
    }

    fn explicit(&self, name: &HeaderName, value: &HeaderValue) -> Result<RequestId, Problem> {
        let field = if *name == IDEMPOTENCY_KEY { "Idempotency-Key" } else { "X-Request-Id" };
        if self.repeated {
            return Err(Problem::invalid(field, &"must occur once"));
        }
        let text = value
            .to_str()
            .ok()
            .filter(|text| text.bytes().all(|byte| byte.is_ascii_graphic()))
            .ok_or_else(|| Problem::invalid(field, &"must be visible ASCII characters"))?;
        if text.is_empty() || text.len() > KEY_LEN_MAX {
            let problem = format!("must be 1 to {KEY_LEN_MAX} bytes");
            return Err(Problem::invalid(field, &problem));
        }
        if text.starts_with(RequestId::MINTED_PREFIX) {
            let problem = format!("must not begin with '{}'", RequestId::MINTED_PREFIX);
            return Err(Problem::invalid(field, &problem));
        }
        RequestId::new(text).map_err(|error| Problem::invalid(field, &error))
    }

    /// The call that an id is bound to: the method and the path with canonical values, so that two
    /// spellings of one path are one call. At most 1024 bytes, because a path has at most four
    /// values of at most 128 bytes.
    fn call(&self) -> String {
        let mut values = self.parameters.iter().map(|(_, value)| value);
        let path: Vec<&str> = self
            .template
            .split('/')
            .map(|segment| {
                let value = if segment.starts_with('{') { values.next() } else { None };
                value.and_then(Option::as_deref).unwrap_or(segment)
            })
            .collect();
        format!("{} {}", self.method, path.join("/"))
    }
}

/// True for a correlation id that is echoed unchanged.
pub(crate) fn is_correlation_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=CORRELATION_LEN_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// The declared length of the body; None when there is none.
pub(crate) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
