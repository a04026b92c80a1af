//! `till.coordinator.v1.TransactionService`: transactions of any plan, and what operators ask.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use proto::{
    convert::{self, BRANCHES_MAX},
    coordinator::v1::{
        BranchRequest, ExplainTransactionRequest, ExplainTransactionResponse, GetAuditRequest,
        GetAuditResponse, ListUnresolvedRequest, ListUnresolvedResponse, Outcome as WireOutcome,
        ResolveByIdRequest, ResolveByIdResponse, RunTransactionRequest, RunTransactionResponse,
        explain_transaction_request::Subject as WireSubject,
        transaction_service_server::TransactionService,
    },
};
use rpc::{
    retry::Backoff,
    status::{invalid_field, to_status},
};
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use twopc::message::Outcome;
use types::{Branch, Priority, Reason, Refusal, RequestId, TxId, TxMeta};

use crate::{
    checkout::CheckoutError,
    operator::Subject,
    service::{ANSWER_MARGIN, CHECKOUT_TIME, CHECKOUT_TIME_MAX, Coordinator, invalid},
    tx_log::Origin,
};

/// Least and greatest pause before a transaction is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));
/// Transactions that are listed when nobody says how many, and at most.
const LIST: (usize, usize) = (100, 1_000);

impl Coordinator {
    /// Runs a plan, within `time`, again and again while it is only in somebody's way.
    ///
    /// # Errors
    /// [`CheckoutError`]: refused by a participant, or nothing definite in time.
    pub async fn run_plan(
        &self,
        branches: Arc<[Branch]>,
        payloads: Vec<Bytes>,
        request_id: Option<RequestId>,
        trace_id: Option<String>,
        time: Duration,
    ) -> Result<TxId, CheckoutError> {
        let until = Instant::now() + time;
        let mut backoff = Backoff::new(self.entropy(), AGAIN.0, AGAIN.1);
        let mut priority = None;
        let mut attempt = 0;
        loop {
            let Ok(began) = self.kv().timestamp().await else {
                return Err(CheckoutError::Unavailable);
            };
            // A retry keeps the place of the first attempt.
            let priority = *priority.get_or_insert_with(|| Priority {
                begin_ts: began.0,
                nonce: self.entropy().next_u64(),
            });
            let meta = TxMeta {
                tx_id: self.new_tx_id(),
                priority,
                deadline: began.physical().plus_ms(self.vote_window_ms()),
                branches: Arc::clone(&branches),
                request_id: request_id.clone(),
            };
            let tx_id = meta.tx_id;
            attempt += 1;
            let origin = Origin { attempt, trace_id: trace_id.clone(), ..Origin::default() };
            let answer = self.begin(meta, payloads.clone(), origin);
            let Ok(Ok(answer)) = tokio::time::timeout_at(until, answer).await else {
                return Err(CheckoutError::OutcomeUnknown);
            };
            let blockers = match answer.map_err(|_| CheckoutError::Broken(tx_id))? {
                Outcome::Committed => return Ok(tx_id),
                Outcome::Refused(refused) => return Err(refusal(refused)),
                Outcome::Contended(blockers) => blockers,
                Outcome::Fenced | Outcome::Undecided(_) => Vec::new(),
            };
            let waits = async {
                for blocker in &blockers {
                    self.wait_for(blocker).await;
                }
            };
            // When time is over nothing of ours is under way.
            let _late = tokio::time::timeout_at(until, waits).await;
            tokio::time::sleep(backoff.pause()).await;
            if Instant::now() >= until {
                return Err(CheckoutError::Unavailable);
            }
        }
    }
}

fn refusal(refused: Vec<twopc::message::Refused>) -> CheckoutError {
    let Some(first) = refused.into_iter().next() else { return CheckoutError::Unavailable };
    match Reason::parse(&first.reason) {
        Some(reason) => Refusal { reason, metadata: first.metadata }.into(),
        None => CheckoutError::RefusedElsewhere { reason: first.reason, metadata: first.metadata },
    }
}

/// Reads the plan of a request.
fn plan(
    coordinator: &Coordinator,
    branches: Vec<BranchRequest>,
) -> Result<(Arc<[Branch]>, Vec<Bytes>), Status> {
    if branches.is_empty() || branches.len() > BRANCHES_MAX {
        return Err(invalid_field("branches", "must be 1 to 256"));
    }
    let mut named: Vec<Branch> = Vec::with_capacity(branches.len());
    let mut payloads = Vec::with_capacity(branches.len());
    for request in branches {
        let branch = convert::branch(request.branch.as_ref()).map_err(|error| invalid(&error))?;
        if !coordinator.mail().knows(&branch.service) {
            return Err(invalid_field("branches.branch.service", "is not registered here"));
        }
        if named.contains(&branch) {
            return Err(invalid_field("branches", "must all be different"));
        }
        named.push(branch);
        payloads.push(request.payload);
    }
    Ok((named.into(), payloads))
}

#[tonic::async_trait]
impl TransactionService for Coordinator {
    async fn run_transaction(
        &self,
        request: Request<RunTransactionRequest>,
    ) -> Result<Response<RunTransactionResponse>, Status> {
        let time = rpc::deadline::of(request.metadata()).unwrap_or(CHECKOUT_TIME);
        let time = time.min(CHECKOUT_TIME_MAX).saturating_sub(ANSWER_MARGIN);
        let trace_id = trace_id(request.metadata());
        let request = request.into_inner();
        let request_id =
            convert::request_id(&request.request_id).map_err(|error| invalid(&error))?;
        let (branches, payloads) = plan(self, request.branches)?;
        let this = self.clone();
        // In a task of its own: a caller that goes away stops nothing.
        let run = self.spawn(async move {
            this.run_plan(branches, payloads, request_id, trace_id, time).await
        });
        let tx_id = run.await.unwrap_or(Err(CheckoutError::OutcomeUnknown));
        let tx_id = tx_id.map_err(|error| to_status(&error))?;
        Ok(Response::new(RunTransactionResponse { tx_id: tx_id.0.to_vec().into() }))
    }

    async fn explain_transaction(
        &self,
        request: Request<ExplainTransactionRequest>,
    ) -> Result<Response<ExplainTransactionResponse>, Status> {
        let subject = match request.into_inner().subject {
            Some(WireSubject::TxId(tx_id)) => {
                Subject::Transaction(convert::tx_id(&tx_id).map_err(|error| invalid(&error))?)
            }
            Some(WireSubject::OrderId(order_id)) => {
                let order_id = convert::order_id("order_id", &order_id);
                Subject::Order(order_id.map_err(|error| invalid(&error))?)
            }
            None => return Err(invalid_field("subject", "must be a tx_id or an order_id")),
        };
        let transactions = self.explain(&subject).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(ExplainTransactionResponse { transactions }))
    }

    async fn list_unresolved(
        &self,
        request: Request<ListUnresolvedRequest>,
    ) -> Result<Response<ListUnresolvedResponse>, Status> {
        let request = request.into_inner();
        let limit = match usize::try_from(request.limit).unwrap_or(usize::MAX) {
            0 => LIST.0,
            limit if limit <= LIST.1 => limit,
            _ => return Err(invalid_field("limit", "must be at most 1000")),
        };
        let unresolved = self.unresolved(request.overdue_ms, limit).await;
        let (transactions, left_out) = unresolved.map_err(|error| to_status(&error))?;
        Ok(Response::new(ListUnresolvedResponse { transactions, left_out }))
    }

    async fn resolve_by_id(
        &self,
        request: Request<ResolveByIdRequest>,
    ) -> Result<Response<ResolveByIdResponse>, Status> {
        let tx_id = convert::tx_id(&request.get_ref().tx_id).map_err(|error| invalid(&error))?;
        let resolved = Coordinator::resolve_by_id(self, tx_id).await;
        let (meta, outcome) = resolved.map_err(|error| to_status(&error))?;
        let (outcome, missing) = told(&meta, outcome);
        Ok(Response::new(ResolveByIdResponse { outcome: outcome.into(), missing }))
    }

    async fn get_audit(
        &self,
        _: Request<GetAuditRequest>,
    ) -> Result<Response<GetAuditResponse>, Status> {
        let last = self.watch().last().map(Into::into);
        Ok(Response::new(GetAuditResponse { every_s: self.watch().every_s(), last }))
    }
}

/// An outcome on the wire, and which branches have not voted while there is none.
pub(crate) fn told(
    meta: &TxMeta,
    outcome: Outcome,
) -> (WireOutcome, Vec<proto::types::v1::Branch>) {
    match outcome {
        Outcome::Committed => (WireOutcome::Committed, Vec::new()),
        Outcome::Refused(_) | Outcome::Contended(_) | Outcome::Fenced => {
            (WireOutcome::Aborted, Vec::new())
        }
        Outcome::Undecided(seats) => {
            let missing = seats.into_iter().filter_map(|seat| meta.branches.get(seat));
            (WireOutcome::Undecided, missing.map(Into::into).collect())
        }
    }
}

/// The trace id of a call (W3C Trace Context: version-trace id-parent id-flags).
pub(crate) fn trace_id(metadata: &tonic::metadata::MetadataMap) -> Option<String> {
    let mut parts = metadata.get("traceparent")?.to_str().ok()?.split('-');
    let id = parts.nth(1)?;
    let proper = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (proper && id.bytes().any(|byte| byte != b'0')).then(|| id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proper_trace_id_is_taken() {
        let id = |text: &str| {
            let mut metadata = tonic::metadata::MetadataMap::new();
            metadata.insert("traceparent", text.parse().unwrap());
            trace_id(&metadata)
        };
        let proper = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(id(proper).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for wrong in ["", "00", "00-xyz-1-1", "00-00000000000000000000000000000000-1-01"] {
            assert_eq!(id(wrong), None, "{wrong}");
        }
    }
}
