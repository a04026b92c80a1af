//! Wire to domain: `till.order.v1`.

use std::time::Duration;

use participant::{
    core::RequestKey,
    fill::{Fill, fill},
    lane::LaneError,
    role::Parts,
    service::invalid,
    shards::OpError,
};
use proto::{
    InvalidField,
    convert::{self, item_id, money, order_id, quantity, user_id},
    order::v1::{self as wire, order_service_server::OrderService},
    stock::v1::{GetItemRequest, stock_service_client::StockServiceClient},
};
use rpc::{
    routing::Router,
    status::{Failure, to_status},
};
use tonic::{Request, Response, Status};
use types::{ItemId, Money, OrderId, Timestamp, shard_of};

use crate::{
    app::{Op, Orders, Reply},
    domain::Draw,
};

/// Longest that stock is waited for when it is asked for a price.
const PRICE_TIMEOUT: Duration = Duration::from_secs(5);

/// The gRPC face of the order service.
#[derive(Debug, Clone)]
pub struct Grpc {
    parts: Parts<Orders>,
    stock: Router,
}

impl Grpc {
    /// The face of these parts; prices are asked of `stock`.
    pub const fn new(parts: Parts<Orders>, stock: Router) -> Self {
        Self { parts, stock }
    }

    async fn execute(
        &self,
        id: &OrderId,
        op: Op,
        request: Option<RequestKey>,
    ) -> Result<(Reply, Timestamp), Status> {
        let run = async {
            let shard = self.parts.shards.shard_of(id.as_str()).map_err(OpError::from)?;
            self.parts.shards.execute(shard, op, request).await
        };
        run.await.map_err(|error| to_status(&error))
    }

    /// Executes what answers with an order's cost.
    async fn total_cost(
        &self,
        id: &OrderId,
        op: Op,
        request_id: &str,
        call: &str,
    ) -> Result<u64, Status> {
        let request = checked(convert::request_id(request_id))?;
        match self.execute(id, op, self.parts.retention.key(request, call)).await? {
            (Reply::TotalCost(cost), _) => Ok(cost),
            (Reply::Order(_), _) => Err(to_status(&LaneError::Unavailable)),
        }
    }

    /// The price of an item at this moment, found out while the caller has time left.
    async fn price(&self, id: &ItemId, left: Option<Duration>) -> Result<Money, Status> {
        let shards = self.stock.shards().await.map_err(|error| to_status(&error))?;
        let route = self.stock.route(shard_of(id.as_str(), shards));
        let route = route.map_err(|error| to_status(&error))?;
        let mut client = StockServiceClient::new(route.transport);
        let mut request = Request::new(GetItemRequest { item_id: id.to_string() });
        rpc::deadline::set(&mut request, left.unwrap_or(PRICE_TIMEOUT).min(PRICE_TIMEOUT));
        let answer = client.get_item(request).await.map_err(|status| {
            let failure = Failure::from_status(&status);
            self.stock.failed_waiting(&route.endpoint, &failure);
            to_status(&failure)
        })?;
        let price = answer.into_inner().item.map(|item| item.price).unwrap_or_default();
        checked(money("price", price, 0))
    }
}

fn checked<T>(field: Result<T, InvalidField>) -> Result<T, Status> {
    field.map_err(|error| invalid(&error))
}

#[tonic::async_trait]
impl OrderService for Grpc {
    async fn create_order(
        &self,
        request: Request<wire::CreateOrderRequest>,
    ) -> Result<Response<wire::CreateOrderResponse>, Status> {
        let request = request.into_inner();
        let user = checked(user_id("user_id", &request.user_id))?;
        let request_id = checked(convert::request_id(&request.request_id))?;
        let id = self.parts.new_id(request_id.as_ref(), OrderId::derived, OrderId::from);
        let call = format!("CreateOrder/{user}");
        let op = Op::Create(id.clone(), user);
        self.total_cost(&id, op, &request.request_id, &call).await?;
        Ok(Response::new(wire::CreateOrderResponse { order_id: id.to_string() }))
    }

    async fn get_order(
        &self,
        request: Request<wire::GetOrderRequest>,
    ) -> Result<Response<wire::GetOrderResponse>, Status> {
        let id = checked(order_id("order_id", &request.get_ref().order_id))?;
        match self.execute(&id, Op::Get(id.clone()), None).await? {
            (Reply::Order(order), at) => Ok(Response::new(wire::GetOrderResponse {
                order: Some(order.to_wire(&id)),
                read_ts: at.0,
            })),
            (Reply::TotalCost(_), _) => Err(to_status(&LaneError::Unavailable)),
        }
    }

    async fn add_item(
        &self,
        request: Request<wire::AddItemRequest>,
    ) -> Result<Response<wire::AddItemResponse>, Status> {
        let left = rpc::deadline::of(request.metadata());
        let request = request.into_inner();
        let id = checked(order_id("order_id", &request.order_id))?;
        let item = checked(item_id("item_id", &request.item_id))?;
        let units = checked(quantity("quantity", request.quantity, 1))?;
        // The price is no part of the call: repeated, it gets its first answer, whatever the price is now.
        let call = format!("AddItem/{id}/{item}/{units}");
        let price = self.price(&item, left).await?;
        let op = Op::Add(id.clone(), item, units, price);
        let total_cost = self.total_cost(&id, op, &request.request_id, &call).await?;
        Ok(Response::new(wire::AddItemResponse { total_cost }))
    }

    async fn remove_item(
        &self,
        request: Request<wire::RemoveItemRequest>,
    ) -> Result<Response<wire::RemoveItemResponse>, Status> {
        let request = request.into_inner();
        let id = checked(order_id("order_id", &request.order_id))?;
        let item = checked(item_id("item_id", &request.item_id))?;
        let call = format!("RemoveItem/{id}/{item}");
        let op = Op::RemoveItem(id.clone(), item);
        let total_cost = self.total_cost(&id, op, &request.request_id, &call).await?;
        Ok(Response::new(wire::RemoveItemResponse { total_cost }))
    }

    async fn remove_order(
        &self,
        request: Request<wire::RemoveOrderRequest>,
    ) -> Result<Response<wire::RemoveOrderResponse>, Status> {
        let request = request.into_inner();
        let id = checked(order_id("order_id", &request.order_id))?;
        let call = format!("RemoveOrder/{id}");
        self.total_cost(&id, Op::Remove(id.clone()), &request.request_id, &call).await?;
        Ok(Response::new(wire::RemoveOrderResponse {}))
    }

    async fn batch_init(
        &self,
        request: Request<wire::BatchInitRequest>,
    ) -> Result<Response<wire::BatchInitResponse>, Status> {
        let request = request.into_inner();
        let draw = Draw {
            seed: self.parts.entropy.next_u64(),
            item_count: checked(convert::pool("item_count", request.item_count))?,
            user_count: checked(convert::pool("user_count", request.user_count))?,
            item_price: checked(money("item_price", request.item_price, 0))?,
        };
        if draw.item_price.checked_mul(2).is_none() {
            let error = InvalidField::new("item_price", "must be at most half the greatest amount");
            return Err(invalid(&error));
        }
        let call = format!(
            "BatchInit/{}/{}/{}/{}",
            request.count, draw.item_count, draw.user_count, draw.item_price
        );
        let plan = Fill {
            count: checked(convert::batch_count(request.count))?,
            shards: self.parts.wanted_shards(&request.shards)?,
            request: checked(convert::request_id(&request.request_id))?,
            call: &call,
            retention: self.parts.retention,
        };
        let written = fill(&self.parts.shards, plan, |numbers| Op::Init { numbers, draw }).await;
        let written = written.map_err(|error| to_status(&error))?;
        Ok(Response::new(wire::BatchInitResponse { written }))
    }
}
