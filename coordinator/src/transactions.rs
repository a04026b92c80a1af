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
use types::{Branch, ClientCall, Mutation, Reason, Refusal, TxId, TxMeta, fnv1a};

use crate::{
    attempts::{AGAIN, Attempted, Attempts},
    checkout::CheckoutError,
    operator::Subject,
    service::{Coordinator, invalid, time_of},
    tx_log::Origin,
};

/// Transactions that are listed when nobody says how many, and at most.
const LIST: (usize, usize) = (100, 1_000);

/// A transaction as its caller plans it.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The primary first.
    pub branches: Arc<[Branch]>,
    /// What each is asked for, in the same order.
    pub payloads: Vec<Bytes>,
}

impl Planned {
    /// The plan as a call's content.
    fn what(&self) -> String {
        let mut bytes = Vec::new();
        for (branch, payload) in self.branches.iter().zip(&self.payloads) {
            bytes.extend_from_slice(format!("{branch} {} ", payload.len()).as_bytes());
            bytes.extend_from_slice(payload);
        }
        format!("RunTransaction/{:x}", fnv1a(&bytes))
    }
}

impl Coordinator {
    /// Runs a plan, within `time`, again and again while it is only in somebody's way.
    ///
    /// # Errors
    /// [`CheckoutError`]: refused by a participant, or nothing definite in time; INVALID_ARGUMENT for a branch
    /// that does not exist.
    pub async fn run_plan(
        &self,
        plan: &Planned,
        call: ClientCall,
        trace_id: Option<String>,
        time: Duration,
    ) -> Result<TxId, CheckoutError> {
        let origin = Origin { trace_id, ..Origin::default() };
        let mut attempts = Attempts::new(self, call, origin, time);
        self.check_branches(&plan.branches, attempts.until()).await?;
        loop {
            let began = self.timestamp().await?;
            attempts.admit(began)?;
            let branches = Arc::clone(&plan.branches);
            match attempts.run(began, branches, plan.payloads.clone()).await? {
                Attempted::Committed(tx_id) => return Ok(tx_id),
                Attempted::Refused(refusals) => {
                    let Some(primary) = plan.branches.first() else {
                        return Err(CheckoutError::Unavailable);
                    };
                    return attempts.refuse(primary, began, refusals).await;
                }
                Attempted::Again(blockers) => attempts.pause("transaction", &blockers).await?,
            }
        }
    }

    /// Refuses a plan with a branch that does not exist, before anything is held: it would never vote.
    async fn check_branches(
        &self,
        branches: &[Branch],
        until: Instant,
    ) -> Result<(), CheckoutError> {
        let mut backoff = Backoff::new(self.entropy(), AGAIN.0, AGAIN.1);
        for branch in branches {
            let shards = loop {
                match self.mail().shards(&branch.service).await {
                    Ok(shards) => break shards,
                    Err(error) => tracing::debug!(%error, %branch, "not described yet"),
                }
                let pause = backoff.pause();
                if Instant::now() + pause >= until {
                    return Err(CheckoutError::Unavailable);
                }
                tokio::time::sleep(pause).await;
            };
            if branch.shard.0 >= shards && !Mutation::ShardsUnchecked.is_on() {
                let problem = format!("{} has no shard {}", branch.service, branch.shard);
                let refusal = Refusal::new(Reason::InvalidArgument);
                return Err(refusal.with("branches.branch.shard", problem).into());
            }
        }
        Ok(())
    }
}

/// Reads the plan of a request.
fn plan(coordinator: &Coordinator, branches: Vec<BranchRequest>) -> Result<Planned, Status> {
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
    Ok(Planned { branches: named.into(), payloads })
}

#[tonic::async_trait]
impl TransactionService for Coordinator {
    async fn run_transaction(
        &self,
        request: Request<RunTransactionRequest>,
    ) -> Result<Response<RunTransactionResponse>, Status> {
        let time = time_of(&request);
        let trace_id = trace_id(request.metadata());
        let (metadata, _, request) = request.into_parts();
        let plan = plan(self, request.branches)?;
        let call = self.client_call(&metadata, &request.request_id, &plan.what())?;
        let this = self.clone();
        // In a task of its own: a caller that goes away stops nothing.
        let run = self.spawn(async move { this.run_plan(&plan, call, trace_id, time).await });
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
