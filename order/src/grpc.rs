//! The gRPC service `till.order.v1`.

use std::time::Duration;

use participant::{
    fill::{Fill, fill},
    lane::LaneError,
    role::Parts,
    service::{checked, invalid},
    shards::OpError,
};
use proto::{
    InvalidField,
    convert::{batch_numbers, item_id, money, order_id, pool, quantity, user_id},
    order::v1::{self as wire, order_service_server::OrderService},
    stock::v1::{GetItemRequest, stock_service_client::StockServiceClient},
};
use rpc::{
    routing::{ExpectedWait, Router},
    status::{Failure, to_status},
    unary,
};
use tonic::{Request, Response, Status};
use types::{ClientCall, ItemId, Money, OrderId, Reason, Refusal, shard_of};

use crate::records::{Draw, Op, Orders, Reply};

/// Upper limit on waiting for stock when asking for a price.
const PRICE_TIMEOUT: Duration = Duration::from_secs(5);

/// The order service over gRPC.
#[derive(Debug, Clone)]
pub struct Grpc {
    parts: Parts<Orders>,
    stock: Router,
}

impl Grpc {
    /// Makes the service. It asks `stock` for prices.
    pub const fn new(parts: Parts<Orders>, stock: Router) -> Self {
        Self { parts, stock }
    }

    /// Changes an order and returns its cost.
    async fn change(&self, id: &OrderId, op: Op, call: ClientCall) -> Result<u64, Status> {
        total_cost(&self.parts.execute(id.as_str(), op, Some(call)).await?.0)
    }

    /// Makes the order's shard remember that a call is refused, so that no other attempt of it
    /// takes effect once this one is answered. Returns the order's cost if the call has already
    /// succeeded.
    async fn refuse(&self, id: &OrderId, call: ClientCall, why: Refusal) -> Result<u64, Status> {
        let refused = async {
            let shard = self.parts.shards.shard_of(id.as_str()).map_err(OpError::from)?;
            self.parts.shards.refuse(shard, call, why).await
        };
        let (reply, _) = refused.await.map_err(|error| to_status(&error))?;
        total_cost(&reply)
    }

    /// Asks stock for an item's price. `left` is the time that the caller has left.
    async fn price(&self, id: &ItemId, left: Option<Duration>) -> Result<Money, Failure> {
        let from_status = |status: Status| Failure::from_status(&status);
        let shards = self.stock.shards().await.map_err(|error| from_status(to_status(&error)))?;
        let request = GetItemRequest { item_id: id.to_string() };
        let send = unary!(StockServiceClient::get_item);
        // Stock waits while a transaction is about to change the item.
        let wait = ExpectedWait::Wait(left.unwrap_or(PRICE_TIMEOUT).min(PRICE_TIMEOUT));
        let shard = shard_of(id.as_str(), shards);
        let answer = self.stock.call(shard, wait, request, send).await?;
        let price = answer.item.map(|item| item.price).unwrap_or_default();
        checked(money("price", price, 0)).map_err(from_status)
    }
}

fn total_cost(reply: &Reply) -> Result<u64, Status> {
    match reply {
        Reply::TotalCost(cost) => Ok(*cost),
        Reply::Order(_) => Err(to_status(&LaneError::Unavailable)),
    }
}

#[tonic::async_trait]
impl OrderService for Grpc {
    async fn create_order(
        &self,
        request: Request<wire::CreateOrderRequest>,
    ) -> Result<Response<wire::CreateOrderResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let user = checked(user_id("user_id", &request.user_id))?;
        let what = format!("CreateOrder/{user}");
        let call = self.parts.client_call(&metadata, &request.request_id, &what)?;
        let id = OrderId::derived(&call.id);
        self.change(&id, Op::Create(id.clone(), user), call).await?;
        Ok(Response::new(wire::CreateOrderResponse { order_id: id.to_string() }))
    }

    async fn get_order(
        &self,
        request: Request<wire::GetOrderRequest>,
    ) -> Result<Response<wire::GetOrderResponse>, Status> {
        let id = checked(order_id("order_id", &request.get_ref().order_id))?;
        match self.parts.execute(id.as_str(), Op::Get(id.clone()), None).await? {
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
        let (metadata, _, request) = request.into_parts();
        let id = checked(order_id("order_id", &request.order_id))?;
        let item = checked(item_id("item_id", &request.item_id))?;
        let units = checked(quantity("quantity", request.quantity, 1))?;
        // The price is not part of the call: a repeated call gets its first answer even if the
        // price has changed.
        let what = format!("AddItem/{id}/{item}/{units}");
        let call = self.parts.client_call(&metadata, &request.request_id, &what)?;
        let total_cost = match self.price(&item, left).await {
            Ok(price) => self.change(&id, Op::Add(id.clone(), item, units, price), call).await?,
            Err(failure) => match Reason::parse(&failure.reason) {
                Some(reason @ Reason::ItemNotFound) => {
                    let refusal = Refusal { reason, metadata: failure.metadata };
                    self.refuse(&id, call, refusal).await?
                }
                _ => return Err(to_status(&failure)),
            },
        };
        Ok(Response::new(wire::AddItemResponse { total_cost }))
    }

    async fn remove_item(
        &self,
        request: Request<wire::RemoveItemRequest>,
    ) -> Result<Response<wire::RemoveItemResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = checked(order_id("order_id", &request.order_id))?;
        let item = checked(item_id("item_id", &request.item_id))?;
        let what = format!("RemoveItem/{id}/{item}");
        let call = self.parts.client_call(&metadata, &request.request_id, &what)?;
        let total_cost = self.change(&id, Op::RemoveItem(id.clone(), item), call).await?;
        Ok(Response::new(wire::RemoveItemResponse { total_cost }))
    }

    async fn remove_order(
        &self,
        request: Request<wire::RemoveOrderRequest>,
    ) -> Result<Response<wire::RemoveOrderResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = checked(order_id("order_id", &request.order_id))?;
        let what = format!("RemoveOrder/{id}");
        let call = self.parts.client_call(&metadata, &request.request_id, &what)?;
        self.change(&id, Op::Remove(id.clone()), call).await?;
        Ok(Response::new(wire::RemoveOrderResponse {}))
    }

    async fn batch_init(
        &self,
        request: Request<wire::BatchInitRequest>,
    ) -> Result<Response<wire::BatchInitResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let draw = Draw {
            seed: self.parts.entropy.next_u64(),
            item_count: checked(pool("item_count", request.item_count))?,
            user_count: checked(pool("user_count", request.user_count))?,
            item_price: checked(money("item_price", request.item_price, 0))?,
        };
        if draw.item_price.checked_mul(2).is_none() {
            let error = InvalidField::new("item_price", "must be at most half the greatest amount");
            return Err(invalid(&error));
        }
        let what = format!(
            "BatchInit/{}/{}/{}/{}/{}",
            request.first, request.count, draw.item_count, draw.user_count, draw.item_price
        );
        let plan = Fill {
            numbers: checked(batch_numbers(request.first, request.count))?,
            shards: self.parts.wanted_shards(&request.shards, request.shard_count)?,
            call: self.parts.client_call(&metadata, &request.request_id, &what)?,
        };
        let written = fill(&self.parts.shards, plan, |numbers| Op::Init { numbers, draw }).await;
        let written = written.map_err(|error| to_status(&error))?;
        Ok(Response::new(wire::BatchInitResponse { written }))
    }
}
