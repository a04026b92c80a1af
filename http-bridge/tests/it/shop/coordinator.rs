//! The coordinator of the in-memory shop.

use std::collections::BTreeMap;

use proto::coordinator::v1::{
    CheckoutRequest, CheckoutResponse, ClaimRequestIdRequest, ClaimRequestIdResponse,
    ExplainTransactionRequest, ExplainTransactionResponse, GetAuditRequest, GetAuditResponse,
    ListUnresolvedRequest, ListUnresolvedResponse, Outcome, ResolveByIdRequest,
    ResolveByIdResponse, ResolveRequest, ResolveResponse, RunTransactionRequest,
    RunTransactionResponse,
    coordinator_service_server::{CoordinatorService, CoordinatorServiceServer},
    explain_transaction_request::Subject,
    transaction_service_server::{TransactionService, TransactionServiceServer},
};
use tonic::{Request, Response, Status, service::Routes};
use types::Reason;

use super::{World, refuse, services::Reply};

/// Adds the services of the replica at an endpoint.
pub(super) fn add_to(routes: Routes, world: World, endpoint: &str) -> Routes {
    let operators = Operators { world: world.clone(), endpoint: endpoint.to_owned() };
    routes
        .add_service(CoordinatorServiceServer::new(world))
        .add_service(TransactionServiceServer::new(operators))
}

#[tonic::async_trait]
impl CoordinatorService for World {
    async fn checkout(&self, request: Request<CheckoutRequest>) -> Reply<CheckoutResponse> {
        let request = request.into_inner();
        self.state().logs_kept.push(request.keep_log);
        self.state().checkouts.push(request.clone());
        self.once("coordinator", &request.request_id, |state| {
            let order = state.orders.get_mut(&request.order_id);
            let order = order.ok_or_else(|| refuse(Reason::OrderNotFound))?;
            if order.paid {
                let tx_id = bytes::Bytes::new();
                return Ok(CheckoutResponse { already_paid: true, tx_id });
            }
            if order.lines.is_empty() {
                return Err(refuse(Reason::EmptyOrder));
            }
            // An item may have several lines, one per price.
            let mut wanted = BTreeMap::new();
            for (item_id, quantity, _) in &order.lines {
                *wanted.entry(item_id).or_insert(0_u64) += quantity;
            }
            for (item_id, quantity) in wanted {
                let item = state.items.get(item_id);
                if item.ok_or_else(|| refuse(Reason::UnknownItem))?.stock < quantity {
                    return Err(refuse(Reason::OutOfStock));
                }
            }
            let credit = state.users.get_mut(&order.user_id);
            let credit = credit.ok_or_else(|| refuse(Reason::UnknownUser))?;
            let left = credit.checked_sub(order.cost());
            *credit = left.ok_or_else(|| refuse(Reason::OutOfCredit))?;
            for (item_id, quantity, _) in &order.lines {
                state.items.get_mut(item_id).unwrap().stock -= quantity;
            }
            order.paid = true;
            let tx_id = bytes::Bytes::from_static(&[7; 16]);
            Ok(CheckoutResponse { already_paid: false, tx_id })
        })
    }

    async fn resolve(&self, _: Request<ResolveRequest>) -> Reply<ResolveResponse> {
        panic!("the bridge asked to resolve a transaction")
    }

    async fn claim_request_id(
        &self,
        request: Request<ClaimRequestIdRequest>,
    ) -> Reply<ClaimRequestIdResponse> {
        let ClaimRequestIdRequest { request_id, call } = request.into_inner();
        let mut state = self.state();
        if *state.claims.entry(request_id).or_insert_with(|| call.clone()) == call {
            Ok(Response::new(ClaimRequestIdResponse { read_ts: 1 }))
        } else {
            Err(refuse(Reason::RequestIdReused))
        }
    }
}

/// The operator calls of a coordinator replica, answered from the shop's reports and audits.
struct Operators {
    world: World,
    endpoint: String,
}

#[tonic::async_trait]
impl TransactionService for Operators {
    async fn run_transaction(
        &self,
        _: Request<RunTransactionRequest>,
    ) -> Reply<RunTransactionResponse> {
        panic!("the bridge runs no transactions of its own")
    }

    async fn explain_transaction(
        &self,
        request: Request<ExplainTransactionRequest>,
    ) -> Reply<ExplainTransactionResponse> {
        let subject = request.into_inner().subject.unwrap();
        let state = self.world.state();
        let known = state.reports.iter().filter(|report| match &subject {
            Subject::TxId(tx_id) => report.tx_id == *tx_id,
            Subject::OrderId(order_id) => report.order_id == *order_id,
        });
        let transactions: Vec<_> = known.cloned().collect();
        match subject {
            Subject::TxId(_) if transactions.is_empty() => Err(unknown_transaction()),
            Subject::TxId(_) | Subject::OrderId(_) => {
                Ok(Response::new(ExplainTransactionResponse { transactions }))
            }
        }
    }

    async fn list_unresolved(
        &self,
        _: Request<ListUnresolvedRequest>,
    ) -> Reply<ListUnresolvedResponse> {
        let transactions = self.world.state().reports.clone();
        Ok(Response::new(ListUnresolvedResponse { transactions, left_out: 0 }))
    }

    async fn resolve_by_id(
        &self,
        request: Request<ResolveByIdRequest>,
    ) -> Reply<ResolveByIdResponse> {
        let tx_id = request.into_inner().tx_id;
        let mut state = self.world.state();
        if state.reports.iter().all(|report| report.tx_id != tx_id) {
            return Err(unknown_transaction());
        }
        state.resolved.push(tx_id.to_vec());
        let outcome = Outcome::Committed.into();
        Ok(Response::new(ResolveByIdResponse { outcome, missing: Vec::new() }))
    }

    async fn get_audit(&self, _: Request<GetAuditRequest>) -> Reply<GetAuditResponse> {
        let audit = self.world.state().audits.get(&self.endpoint).cloned();
        Ok(Response::new(audit.unwrap_or_default()))
    }
}

/// The status with which the coordinator says so.
fn unknown_transaction() -> Status {
    struct Unknown;
    impl types::Classify for Unknown {
        fn kind(&self) -> types::ErrorKind {
            types::ErrorKind::NotFound
        }
        fn reason(&self) -> std::borrow::Cow<'static, str> {
            "TRANSACTION_UNKNOWN".into()
        }
    }
    impl std::fmt::Display for Unknown {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("nobody knows it")
        }
    }
    rpc::status::to_status(&Unknown)
}
