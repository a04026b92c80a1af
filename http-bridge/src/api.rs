//! Every endpoint, registered and documented in one place.

use axum::{
    Router,
    middleware::from_fn_with_state,
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use http::{HeaderValue, header};
use rpc::call::CallMeta;
use types::RequestId;
use utoipa::openapi::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    batch::{BatchInitCall, end_of_part},
    bridge::Bridge,
    console::{self, Listener},
    docs, edge,
    input::{Caller, Input},
    origin,
    problem::Problem,
    upstream::{CallKind, Target, UpstreamCall},
};

mod describe;
mod operations;
mod orders;
mod parameters;
mod payment;
mod stock;

/// The result of a handler.
type HandlerResult<T> = Result<T, Problem>;

/// A plain-text answer for people.
#[derive(Debug)]
struct Text(String);

impl IntoResponse for Text {
    fn into_response(self) -> Response {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        let mut response = self.0.into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, plain);
        response
    }
}

/// A call that changes something, with the request id that makes it take effect once.
struct Change<'a> {
    bridge: &'a Bridge,
    request_id: RequestId,
    /// Distinguishes this call from others when the request id is the client's own.
    call: Option<CallMeta>,
    deadline: tokio::time::Instant,
    caller: Caller,
}

impl<'a> Change<'a> {
    /// Begins the call, after all parameters have been read.
    ///
    /// # Errors
    /// As [`Input::request_id`].
    async fn begin(bridge: &'a Bridge, input: &Input) -> HandlerResult<Self> {
        Self::until(bridge, input, input.deadline(bridge)).await
    }

    async fn until(
        bridge: &'a Bridge,
        input: &Input,
        deadline: tokio::time::Instant,
    ) -> HandlerResult<Self> {
        let (request_id, began) = input.request_id(bridge, end_of_part(deadline)).await?;
        let call = began.map(|began| CallMeta {
            call_id: Some(RequestId::minted(bridge.mint())),
            began: Some(began),
            ..CallMeta::default()
        });
        Ok(Self { bridge, request_id, call, deadline, caller: input.caller() })
    }

    const fn kind(&self) -> CallKind<'_> {
        CallKind::Write { call: self.call.as_ref() }
    }

    /// The values that all parts of a batch_init share.
    const fn batch_init(&self) -> BatchInitCall<'_> {
        BatchInitCall { deadline: self.deadline, kind: self.kind(), caller: &self.caller }
    }

    fn id(&self) -> String {
        self.request_id.as_str().to_owned()
    }

    fn ask<'b>(&'b self, service: &'b rpc::routing::Router, to: Target<'b>) -> UpstreamCall<'b> {
        UpstreamCall {
            service,
            to,
            kind: self.kind(),
            deadline: self.deadline,
            attempt_timeout: Some(self.bridge.settings().attempt_timeout),
        }
    }
}

/// A call that only reads, to the replica that serves `key`.
fn read<'a>(
    bridge: &'a Bridge,
    input: &Input,
    service: &'a rpc::routing::Router,
    key: &'a str,
) -> UpstreamCall<'a> {
    UpstreamCall {
        service,
        to: Target::Key(key),
        kind: CallKind::Read,
        deadline: input.deadline(bridge),
        attempt_timeout: Some(bridge.settings().attempt_timeout),
    }
}

/// The problem for an answer of a service that lacks its content.
fn incomplete(call: &str) -> Problem {
    Problem::bug(&format!("{call} was answered without its content"))
}

fn endpoints() -> OpenApiRouter<Bridge> {
    OpenApiRouter::with_openapi(describe::head())
        .routes(routes!(orders::create))
        .routes(routes!(orders::find))
        .routes(routes!(orders::add_item))
        .routes(routes!(orders::add_one_item))
        .routes(routes!(orders::remove_item))
        .routes(routes!(orders::remove))
        .routes(routes!(orders::checkout))
        .routes(routes!(orders::batch_init))
        .routes(routes!(stock::create))
        .routes(routes!(stock::find))
        .routes(routes!(stock::add))
        .routes(routes!(stock::subtract))
        .routes(routes!(stock::batch_init))
        .routes(routes!(payment::create_user))
        .routes(routes!(payment::find_user))
        .routes(routes!(payment::add_funds))
        .routes(routes!(payment::pay))
        .routes(routes!(payment::pay_for_order))
        .routes(routes!(payment::cancel))
        .routes(routes!(payment::status))
        .routes(routes!(payment::batch_init))
        .routes(routes!(operations::alive))
        .routes(routes!(operations::ready))
        .routes(routes!(operations::explain))
}

/// The description of every endpoint, as `/openapi.json` serves it.
pub fn openapi() -> OpenApi {
    let (_, openapi) = endpoints().split_for_parts();
    describe::complete(openapi)
}

/// Every endpoint of this bridge.
pub(crate) fn router(bridge: Bridge) -> Router {
    let (router, openapi) = endpoints().split_for_parts();
    let mut router = router
        .route("/", get(async || Redirect::to("/console")))
        .merge(console::router(Listener::Public))
        .merge(docs::router(&describe::complete(openapi)))
        .fallback(async || Problem::no_such_path())
        .method_not_allowed_fallback(async || Problem::method_not_allowed())
        .layer(from_fn_with_state(bridge.clone(), edge::middleware));
    let origins = &bridge.settings().cors_origins;
    if !origins.is_empty() {
        router = router.layer(origin::cors(origins));
    }
    router.with_state(bridge)
}
