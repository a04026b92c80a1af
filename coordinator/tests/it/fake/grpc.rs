//! The calls of a [`Fake`], as gRPC serves them.

use futures::future::join_all;
use proto::{
    order::v1::{
        AddItemRequest, AddItemResponse, BatchInitRequest, BatchInitResponse, CreateOrderRequest,
        CreateOrderResponse, GetOrderRequest, GetOrderResponse, RemoveItemRequest,
        RemoveItemResponse, RemoveOrderRequest, RemoveOrderResponse,
        order_service_server::OrderService,
    },
    participant::v1::{
        Operation, PrepareRequest, PrepareResponse, operation_result::Result as OpResult,
    },
};
use testkit::participant::Participant;
use tokio::time::sleep;
use tonic::{Request, Response, Status, async_trait};

use super::{Fake, lost};

#[async_trait]
impl Participant for Fake {
    fn describe(&self) -> (String, u32) {
        (self.name.to_owned(), self.state().shards.unwrap_or(1))
    }

    async fn prepare(&self, request: PrepareRequest) -> Result<PrepareResponse, Status> {
        let trouble = self.arrive().await?;
        let result = self.vote(request, true).await;
        let OpResult::Prepare(response) = result else { panic!("{result:?}") };
        if trouble.is_none() { Ok(response) } else { Err(lost()) }
    }

    async fn apply(&self, operations: Vec<Operation>) -> Result<Vec<OpResult>, Status> {
        let trouble = self.arrive().await?;
        {
            let mut state = self.state();
            state.applies += 1;
            state.operations += operations.len();
        }
        let results = join_all(operations.into_iter().map(|one| self.apply_one(one))).await;
        if trouble.is_some() { Err(lost()) } else { Ok(results) }
    }
}

macro_rules! orders {
    ($($unused:ident: $request:ident -> $response:ident;)*) => {
        #[async_trait]
        impl OrderService for Fake {
            async fn get_order(
                &self,
                request: Request<GetOrderRequest>,
            ) -> Result<Response<GetOrderResponse>, Status> {
                self.arrive().await?;
                let unreadable = self.state().unreadable;
                sleep(unreadable).await;
                self.read(request.into_inner()).map(Response::new)
            }

            $(async fn $unused(&self, _: Request<$request>) -> Result<Response<$response>, Status> {
                panic!("a coordinator only reads orders")
            })*
        }
    };
}

orders! {
    create_order: CreateOrderRequest -> CreateOrderResponse;
    add_item: AddItemRequest -> AddItemResponse;
    remove_item: RemoveItemRequest -> RemoveItemResponse;
    remove_order: RemoveOrderRequest -> RemoveOrderResponse;
    batch_init: BatchInitRequest -> BatchInitResponse;
}
