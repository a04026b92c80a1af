//! `till.coordinator.v1.CoordinatorService`: checkouts, resolutions for participants, and claims of
//! request ids.

use std::time::Duration;

use bytes::Bytes;
use proto::{
    convert,
    coordinator::v1::{
        CheckoutRequest, CheckoutResponse, ClaimRequestIdRequest, ClaimRequestIdResponse,
        ResolveRequest, ResolveResponse, coordinator_service_server::CoordinatorService,
    },
};
use rpc::status::{invalid_field, to_status};
use storage::claims::{Claim, claim_request_id};
use tonic::{Request, Response, Status};
use types::{Reason, Refusal, UnixMillis};

use crate::{
    checkout::{Checkout, Paid, count},
    error::CheckoutError,
    state::Coordinator,
    tx_log::AttemptInfo,
    wire::{invalid, outcome_on_wire, time_of, trace_id},
};

/// Longest description of a call, in bytes.
const CALL_LEN_MAX: usize = 1024;

impl Coordinator {
    /// Checks out in a separate task, so that it goes on when its client disconnects.
    async fn checkout_to_the_end(
        &self,
        checkout: Checkout,
        info: AttemptInfo,
        time: Duration,
    ) -> Result<Paid, CheckoutError> {
        let this = self.clone();
        let task = self.spawn(async move { this.checkout(&checkout, info, time).await });
        task.await.unwrap_or(Err(CheckoutError::OutcomeUnknown))
    }
}

#[tonic::async_trait]
impl CoordinatorService for Coordinator {
    async fn checkout(
        &self,
        request: Request<CheckoutRequest>,
    ) -> Result<Response<CheckoutResponse>, Status> {
        let time = time_of(&request);
        let trace_id = trace_id(request.metadata());
        let (metadata, _, request) = request.into_parts();
        let info = AttemptInfo { trace_id, keep: request.keep_log, ..AttemptInfo::default() };
        let order_id =
            convert::order_id("order_id", &request.order_id).map_err(|error| invalid(&error))?;
        let what = format!("Checkout/{order_id}");
        let checkout = Checkout {
            call: self.client_call(&metadata, &request.request_id, &what)?,
            order_id,
            if_match: request.if_match,
            unanswered: (request.unanswered_at_ms > 0)
                .then_some(UnixMillis(request.unanswered_at_ms)),
        };
        let paid = self.checkout_to_the_end(checkout, info, time).await;
        count(&paid);
        match paid.map_err(|error| to_status(&error))? {
            Paid::Now(tx_id) => Ok(Response::new(CheckoutResponse {
                already_paid: false,
                tx_id: tx_id.0.to_vec().into(),
            })),
            Paid::Before => {
                Ok(Response::new(CheckoutResponse { already_paid: true, tx_id: Bytes::new() }))
            }
        }
    }

    async fn resolve(
        &self,
        request: Request<ResolveRequest>,
    ) -> Result<Response<ResolveResponse>, Status> {
        let meta =
            convert::tx_meta(request.get_ref().tx.as_ref()).map_err(|error| invalid(&error))?;
        let outcome = self.resolve(meta.clone()).await;
        let outcome = outcome.ok_or_else(|| to_status(&Refusal::new(Reason::Internal)))?;
        let (outcome, missing) = outcome_on_wire(&meta, outcome);
        Ok(Response::new(ResolveResponse { outcome: outcome.into(), missing }))
    }

    async fn claim_request_id(
        &self,
        request: Request<ClaimRequestIdRequest>,
    ) -> Result<Response<ClaimRequestIdResponse>, Status> {
        let request = request.into_inner();
        let id = convert::request_id(&request.request_id).map_err(|error| invalid(&error))?;
        let id = id.ok_or_else(|| invalid_field("request_id", "must not be empty"))?;
        if request.call.is_empty() || request.call.len() > CALL_LEN_MAX {
            return Err(invalid_field("call", "must be 1 to 1024 bytes"));
        }
        let claim = claim_request_id(&**self.kv(), &id, &request.call, self.retention_ms()).await;
        match claim.map_err(|error| to_status(&error))? {
            Claim::Claimed(read) => Ok(Response::new(ClaimRequestIdResponse { read_ts: read.0 })),
            Claim::Reused => Err(to_status(&Refusal::new(Reason::RequestIdReused))),
        }
    }
}
