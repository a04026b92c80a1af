//! The calls of a [`Fake`], as gRPC serves them.

use futures::future::join_all;
use proto::{
    order::v1::{self as order, order_service_server::OrderService},
    participant::v1::{
        self as wire, operation_result::Result as OpResult,
        participant_service_server::ParticipantService,
    },
};
use rpc::status::to_status;
use tokio::time::sleep;
use tonic::{Request, Response, Status};
use types::{Reason, Refusal};

use super::{Fake, lost};

/// The answer to calls that no test makes.
fn unused<T>() -> Result<Response<T>, Status> {
    Err(to_status(&Refusal::new(Reason::Forbidden)))
}

#[tonic::async_trait]
impl ParticipantService for Fake {
    async fn describe(
        &self,
        _request: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::DescribeResponse>, Status> {
        let shards = self.state().shards.unwrap_or(1);
        Ok(Response::new(wire::DescribeResponse { service: self.name.to_owned(), shards }))
    }

    async fn prepare(
        &self,
        request: Request<wire::PrepareRequest>,
    ) -> Result<Response<wire::PrepareResponse>, Status> {
        let trouble = self.arrive().await?;
        let OpResult::Prepare(response) = self.vote(request.into_inner(), true).await else {
            return unused();
        };
        if trouble.is_some() { Err(lost()) } else { Ok(Response::new(response)) }
    }

    async fn apply(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<wire::ApplyResponse>, Status> {
        let trouble = self.arrive().await?;
        let operations = request.into_inner().operations;
        {
            let mut state = self.state();
            state.applies += 1;
            state.operations += operations.len();
        }
        let results = join_all(operations.into_iter().map(|one| self.apply_one(one))).await;
        if trouble.is_some() {
            return Err(lost());
        }
        let results = results.into_iter().map(|one| wire::OperationResult { result: Some(one) });
        Ok(Response::new(wire::ApplyResponse { results: results.collect() }))
    }

    async fn commit(
        &self,
        _request: Request<wire::CommitRequest>,
    ) -> Result<Response<wire::CommitResponse>, Status> {
        unused()
    }

    async fn abort(
        &self,
        _request: Request<wire::AbortRequest>,
    ) -> Result<Response<wire::AbortResponse>, Status> {
        unused()
    }

    async fn query(
        &self,
        _request: Request<wire::QueryRequest>,
    ) -> Result<Response<wire::QueryResponse>, Status> {
        unused()
    }

    async fn forget(
        &self,
        _request: Request<wire::ForgetRequest>,
    ) -> Result<Response<wire::ForgetResponse>, Status> {
        unused()
    }
}

#[tonic::async_trait]
impl OrderService for Fake {
    async fn get_order(
        &self,
        request: Request<order::GetOrderRequest>,
    ) -> Result<Response<order::GetOrderResponse>, Status> {
        self.arrive().await?;
        let unreadable = self.state().unreadable;
        sleep(unreadable).await;
        self.read(request.into_inner()).map(Response::new)
    }

    async fn create_order(
        &self,
        _request: Request<order::CreateOrderRequest>,
    ) -> Result<Response<order::CreateOrderResponse>, Status> {
        unused()
    }

    async fn add_item(
        &self,
        _request: Request<order::AddItemRequest>,
    ) -> Result<Response<order::AddItemResponse>, Status> {
        unused()
    }

    async fn remove_item(
        &self,
        _request: Request<order::RemoveItemRequest>,
    ) -> Result<Response<order::RemoveItemResponse>, Status> {
        unused()
    }

    async fn remove_order(
        &self,
        _request: Request<order::RemoveOrderRequest>,
    ) -> Result<Response<order::RemoveOrderResponse>, Status> {
        unused()
    }

    async fn batch_init(
        &self,
        _request: Request<order::BatchInitRequest>,
    ) -> Result<Response<order::BatchInitResponse>, Status> {
        unused()
    }
}
