//! The console: a page where people try the shop and watch it, and where operators see and resolve
//! unresolved transactions.
//!
//! Its files are part of the executable. It buys through the REST API like everybody else. Its
//! other calls are here, under `/console/api`; they are for the page alone and not in the API's
//! description.
//!
//! The admin listener, which only operators reach, serves all of it. The public listener serves the
//! operator part to callers with the bridge's API key, or to nobody when no key is configured. A
//! call that changes something needs a header that a page of another site can send only after a
//! preflight, and no preflight allows it.

use std::time::Duration;

use axum::{
    Extension, Json, Router,
    extract::{FromRequestParts, Request, State},
    middleware::{Next, from_fn},
    response::{Redirect, Response},
    routing::{get, post},
};
use futures::future::join_all;
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use proto::coordinator::v1::{
    AuditVerdict, ExplainTransactionRequest, GetAuditRequest, GetAuditResponse,
    ListUnresolvedRequest, ResolveByIdRequest, explain_transaction_request::Subject,
    transaction_service_client::TransactionServiceClient,
};
use rpc::{deadline, net::Transport};
use serde::Serialize;
use tokio::time::timeout;
use types::{OrderId, Reason, Role, TxId};

use crate::{
    bridge::Bridge,
    docs::harden_with,
    input::Input,
    problem::Problem,
    upstream::{CallKind, Target, UpstreamCall},
};

mod assets;
mod report;
mod stats;

use report::{Audience, Outcome, Transaction};
use stats::Stats;

/// Lets the page load only files of this server and call only this server; nothing inline.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";
/// Required by every call here that changes something, because a page of another site cannot send
/// it without a preflight.
const FROM_CONSOLE: HeaderName = HeaderName::from_static("till-console");
/// Maximum number of unresolved transactions that are listed.
const LISTED_MAX: u32 = 200;
/// Longest wait for one replica's last audit.
const AUDIT_PATIENCE: Duration = Duration::from_secs(2);

/// Where a request came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// The REST listener, open to everybody who can reach it.
    Public,
    /// The admin listener.
    Operators,
}

/// The result of a handler here.
type JsonResult<T> = Result<Json<T>, Problem>;

/// The page, its files, and the calls that it makes.
pub(crate) fn router(listener: Listener) -> Router<Bridge> {
    let mut router = Router::new()
        .route("/console/", get(async || Redirect::permanent("/console")))
        .route("/console/api/state", get(state))
        .route("/console/api/stats", get(stats))
        .route("/console/api/orders/{order_id}/transactions", get(of_order))
        .route("/console/api/unresolved", get(unresolved))
        .route("/console/api/audit", get(audit))
        .route("/console/api/transactions/{subject}", get(explain))
        .route("/console/api/transactions/{subject}/resolve", post(resolve));
    for asset in assets::all() {
        let path = asset.path;
        let answer = async move |headers: HeaderMap| asset.answer(&headers);
        router = router.route(path, get(answer));
    }
    router.layer(Extension(listener)).layer(from_fn(harden))
}

impl Bridge {
    /// The console with all that operators may see and do, for a listener that only they reach.
    pub fn operators_console(&self) -> Router {
        router(Listener::Operators)
            .fallback(async || Problem::no_such_path())
            .method_not_allowed_fallback(async || Problem::method_not_allowed())
            .with_state(self.clone())
    }
}

/// Adds the headers of every answer of the console.
async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    harden_with(&mut response, POLICY);
    // Answers to the page's calls change, so they are not cached. Files set their own caching.
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// What the page needs to know first.
#[derive(Debug, Serialize)]
struct Situation {
    version: &'static str,
    /// Whether the REST API is on the same listener.
    shop: bool,
    /// Whether this caller may make the operators' calls.
    operator: bool,
    /// Whether an API key would allow those calls, if the caller has not sent one yet.
    operator_key: bool,
}

async fn state(
    State(bridge): State<Bridge>,
    operator: Result<Operator, Problem>,
    Extension(listener): Extension<Listener>,
) -> Json<Situation> {
    Json(Situation {
        version: env!("CARGO_PKG_VERSION"),
        shop: listener == Listener::Public,
        operator: operator.is_ok(),
        operator_key: listener == Listener::Public && bridge.asks_for_keys(),
    })
}

/// Lets operators in: through their own listener, or with the bridge's API key through the public
/// one. Everybody else gets NO_API_KEY if the bridge has keys, and FORBIDDEN if it has none.
struct Operator;

impl FromRequestParts<Bridge> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, bridge: &Bridge) -> Result<Self, Problem> {
        match parts.extensions.get::<Listener>() {
            Some(Listener::Operators) => Ok(Self),
            Some(Listener::Public) if bridge.asks_for_keys() => {
                bridge.admit(&parts.headers).map(|()| Self)
            }
            Some(Listener::Public) | None => Err(Problem::operators_only()),
        }
    }
}

async fn stats(
    State(bridge): State<Bridge>,
    Extension(listener): Extension<Listener>,
) -> Json<Stats> {
    // A request through the public listener counts as in flight itself.
    let own = usize::from(listener == Listener::Public);
    let in_flight = bridge.in_flight_now().saturating_sub(own);
    Json(Stats::now(bridge.replica(), in_flight))
}

/// A call to any replica of the coordinator.
fn coordinator<'a>(bridge: &'a Bridge, input: &Input, kind: CallKind<'a>) -> UpstreamCall<'a> {
    UpstreamCall {
        service: bridge.shop().at(Role::Coordinator),
        to: Target::Any,
        kind,
        deadline: input.deadline(bridge),
        attempt_timeout: Some(bridge.settings().attempt_timeout),
    }
}

/// A client for the coordinator's operator calls.
fn operator(transport: Transport) -> TransactionServiceClient<Transport> {
    TransactionServiceClient::new(transport).max_decoding_message_size(rpc::MESSAGE_BYTES_MAX)
}

/// The transactions of a subject, oldest first; empty when nobody knows it.
async fn explanation(
    bridge: &Bridge,
    input: &Input,
    subject: Subject,
    audience: Audience,
) -> Result<Vec<Transaction>, Problem> {
    let request = ExplainTransactionRequest { subject: Some(subject) };
    let ask = coordinator(bridge, input, CallKind::Read);
    let answer = bridge.ask(ask, request, |transport, request| async move {
        operator(transport).explain_transaction(request).await
    });
    match answer.await {
        Ok(known) => {
            Ok(known.transactions.iter().map(|one| Transaction::of(one, audience)).collect())
        }
        Err(problem) if problem.reason() == "TRANSACTION_UNKNOWN" => Ok(Vec::new()),
        Err(problem) => Err(problem),
    }
}

/// Transactions, for the page.
#[derive(Debug, Serialize)]
struct Transactions {
    transactions: Vec<Transaction>,
    /// Number of further transactions that are not listed.
    left_out: u64,
}

/// The transactions of an order. Everybody may see them, so internal details are left out.
async fn of_order(State(bridge): State<Bridge>, input: Input) -> JsonResult<Transactions> {
    let order_id = input.order_id()?;
    let Some(_place) = bridge.explanation_permit() else {
        return Err(Problem::of(Reason::Overloaded).because(&"too many explanations at once"));
    };
    let subject = Subject::OrderId(order_id.to_string());
    let transactions = explanation(&bridge, &input, subject, Audience::Public).await?;
    Ok(Json(Transactions { transactions, left_out: 0 }))
}

async fn explain(
    State(bridge): State<Bridge>,
    _: Operator,
    input: Input,
) -> JsonResult<Transactions> {
    let subject: OrderId = input.id("subject")?;
    let mut transactions = Vec::new();
    // Ids that the order service mints look like a TxId.
    if let Ok(tx_id) = subject.as_str().parse::<TxId>() {
        let subject = Subject::TxId(tx_id.0.to_vec().into());
        transactions = explanation(&bridge, &input, subject, Audience::Operator).await?;
    }
    if transactions.is_empty() {
        let subject = Subject::OrderId(subject.to_string());
        transactions = explanation(&bridge, &input, subject, Audience::Operator).await?;
    }
    Ok(Json(Transactions { transactions, left_out: 0 }))
}

async fn unresolved(
    State(bridge): State<Bridge>,
    _: Operator,
    input: Input,
) -> JsonResult<Transactions> {
    let request = ListUnresolvedRequest { overdue_ms: 0, limit: LISTED_MAX };
    let ask = coordinator(&bridge, &input, CallKind::Read);
    let listed = bridge
        .ask(ask, request, |transport, request| async move {
            operator(transport).list_unresolved(request).await
        })
        .await?;
    let transactions =
        listed.transactions.iter().map(|one| Transaction::of(one, Audience::Operator));
    Ok(Json(Transactions { transactions: transactions.collect(), left_out: listed.left_out }))
}

/// The result of resolving a transaction.
#[derive(Debug, Serialize)]
struct Resolved {
    outcome: Outcome,
    /// While undecided: branches that have not voted and still may.
    missing: Vec<String>,
}

async fn resolve(
    State(bridge): State<Bridge>,
    _: Operator,
    headers: HeaderMap,
    input: Input,
) -> JsonResult<Resolved> {
    if headers.get(FROM_CONSOLE).is_none_or(|value| value != "1") {
        return Err(Problem::invalid("Till-Console", &"must be 1"));
    }
    let tx_id: TxId = input.id::<OrderId>("subject")?.as_str().parse().map_err(|_| {
        Problem::invalid("subject", &"must be the id of a transaction, as logs show it")
    })?;
    let request = ResolveByIdRequest { tx_id: tx_id.0.to_vec().into() };
    let ask = coordinator(&bridge, &input, CallKind::Write { call: None });
    let answer = bridge.ask(ask, request, |transport, request| async move {
        operator(transport).resolve_by_id(request).await
    });
    let resolved = answer.await.map_err(|problem| match problem.reason() {
        "TRANSACTION_UNKNOWN" => Problem::unknown_transaction(),
        _ => problem,
    })?;
    tracing::info!(%tx_id, outcome = resolved.outcome().as_str_name(), "resolved by an operator");
    let missing = resolved.missing.iter().map(report::branch_name).collect();
    Ok(Json(Resolved { outcome: resolved.outcome().into(), missing }))
}

/// The latest audit of the books over all replicas of the coordinator.
#[derive(Debug, Serialize)]
struct Audit {
    /// Seconds between two audits; 0 when they are not repeated.
    every_s: u64,
    last: Option<Verdict>,
    /// Number of replicas that did not answer.
    silent: usize,
}

#[derive(Debug, Serialize)]
struct Verdict {
    at_ms: u64,
    took_ms: u64,
    unresolved: u64,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    invariant: String,
    count: u64,
}

impl From<AuditVerdict> for Verdict {
    fn from(verdict: AuditVerdict) -> Self {
        let findings = verdict
            .findings
            .into_iter()
            .map(|finding| Finding { invariant: finding.invariant, count: finding.count });
        Self {
            at_ms: verdict.at_ms,
            took_ms: verdict.took_ms,
            unresolved: verdict.unresolved,
            findings: findings.collect(),
        }
    }
}

async fn audit(State(bridge): State<Bridge>, _: Operator) -> JsonResult<Audit> {
    let service = bridge.shop().at(Role::Coordinator);
    // Each call of `any` takes the next replica in turn.
    let routes = (0..service.endpoints().len().max(1)).map(|_| service.any());
    let asked = join_all(routes.map(|route| async move {
        let transport = route.ok()?.transport;
        let mut request = tonic::Request::new(GetAuditRequest {});
        deadline::set(&mut request, AUDIT_PATIENCE);
        let answer = async { operator(transport).get_audit(request).await };
        Some(timeout(AUDIT_PATIENCE, answer).await.ok()?.ok()?.into_inner())
    }));
    let said = asked.await;
    let silent = said.iter().filter(|answer| answer.is_none()).count();
    let said: Vec<GetAuditResponse> = said.into_iter().flatten().collect();
    if said.is_empty() {
        return Err(Problem::of(Reason::Unavailable).because(&"no coordinator reported its audit"));
    }
    let every_s = said.iter().map(|answer| answer.every_s).max().unwrap_or_default();
    let last = said.into_iter().filter_map(|answer| answer.last).max_by_key(|last| last.at_ms);
    Ok(Json(Audit { every_s, last: last.map(Into::into), silent }))
}
