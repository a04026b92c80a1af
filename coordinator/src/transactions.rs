//! `till.coordinator.v1.TransactionService`: runs plans supplied by callers, and answers operators.

use proto::{
    convert::{self, BRANCHES_MAX},
    coordinator::v1::{
        BranchRequest, ExplainTransactionRequest, ExplainTransactionResponse, GetAuditRequest,
        GetAuditResponse, ListUnresolvedRequest, ListUnresolvedResponse, ResolveByIdRequest,
        ResolveByIdResponse, RunTransactionRequest, RunTransactionResponse,
        explain_transaction_request::Subject as WireSubject,
        transaction_service_server::TransactionService,
    },
};
use rpc::status::{invalid_field, to_status};
use tonic::{Request, Response, Status};
use types::Branch;

use crate::{
    error::CheckoutError,
    operator::Subject,
    run_plan::Planned,
    state::Coordinator,
    wire::{invalid, outcome_on_wire, time_of, trace_id},
};

/// Number of transactions that are listed: default and maximum.
const LIST: (usize, usize) = (100, 1_000);

/// Reads the plan of a request.
fn plan(coordinator: &Coordinator, branches: Vec<BranchRequest>) -> Result<Planned, Status> {
    if branches.is_empty() || branches.len() > BRANCHES_MAX {
        return Err(invalid_field("branches", "must be 1 to 256"));
    }
    let mut named: Vec<Branch> = Vec::with_capacity(branches.len());
    let mut payloads = Vec::with_capacity(branches.len());
    for request in branches {
        let branch = convert::branch(request.branch.as_ref()).map_err(|error| invalid(&error))?;
        if !coordinator.participants().knows(&branch.service) {
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
        let call = self.client_call(&metadata, &request.request_id, &plan.call_description())?;
        let this = self.clone();
        // A separate task, so that the plan goes on when its client disconnects.
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
        let (outcome, missing) = outcome_on_wire(&meta, outcome);
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
