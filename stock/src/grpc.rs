//! The gRPC service `till.stock.v1`.

use participant::{
    fill::{Fill, fill},
    lane::LaneError,
    role::Parts,
    service::checked,
};
use proto::{
    convert::{batch_numbers, item_id, money, quantity},
    stock::v1::{self as wire, stock_service_server::StockService},
};
use rpc::status::to_status;
use tonic::{Request, Response, Status};
use types::{ClientCall, ItemId};

use crate::records::{Op, Reply, Stock};

/// The stock service over gRPC.
#[derive(Debug, Clone)]
pub struct Grpc {
    parts: Parts<Stock>,
}

impl Grpc {
    /// Makes the service.
    pub const fn new(parts: Parts<Stock>) -> Self {
        Self { parts }
    }

    /// Changes an item and returns its available units.
    async fn change(&self, id: &ItemId, op: Op, call: ClientCall) -> Result<u64, Status> {
        match self.parts.execute(id.as_str(), op, Some(call)).await? {
            (Reply::Stock(stock), _) => Ok(stock),
            (Reply::Item(item), _) => Ok(item.stock.available.get()),
        }
    }
}

#[tonic::async_trait]
impl StockService for Grpc {
    async fn create_item(
        &self,
        request: Request<wire::CreateItemRequest>,
    ) -> Result<Response<wire::CreateItemResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let price = checked(money("price", request.price, 0))?;
        let what = format!("CreateItem/{price}");
        let call = self.parts.client_call(&metadata, &request.request_id, &what)?;
        let id = ItemId::derived(&call.id);
        self.change(&id, Op::Create(id.clone(), price), call).await?;
        Ok(Response::new(wire::CreateItemResponse { item_id: id.to_string() }))
    }

    async fn get_item(
        &self,
        request: Request<wire::GetItemRequest>,
    ) -> Result<Response<wire::GetItemResponse>, Status> {
        let id = checked(item_id("item_id", &request.get_ref().item_id))?;
        let get = self.parts.execute(id.as_str(), Op::Get(id.clone()), None);
        let (Reply::Item(item), _) = get.await? else {
            return Err(to_status(&LaneError::Unavailable));
        };
        let item = wire::Item {
            item_id: id.to_string(),
            stock: item.stock.available.get(),
            price: item.price.get(),
        };
        Ok(Response::new(wire::GetItemResponse { item: Some(item) }))
    }

    async fn add_stock(
        &self,
        request: Request<wire::AddStockRequest>,
    ) -> Result<Response<wire::AddStockResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = checked(item_id("item_id", &request.item_id))?;
        let amount = checked(quantity("amount", request.amount, 1))?;
        let what = format!("AddStock/{id}/{amount}");
        let call = self.parts.client_call(&metadata, &request.request_id, &what)?;
        let stock = self.change(&id, Op::Add(id.clone(), amount), call).await?;
        Ok(Response::new(wire::AddStockResponse { stock }))
    }

    async fn subtract_stock(
        &self,
        request: Request<wire::SubtractStockRequest>,
    ) -> Result<Response<wire::SubtractStockResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = checked(item_id("item_id", &request.item_id))?;
        let amount = checked(quantity("amount", request.amount, 1))?;
        let what = format!("SubtractStock/{id}/{amount}");
        let call = self.parts.client_call(&metadata, &request.request_id, &what)?;
        let stock = self.change(&id, Op::Subtract(id.clone(), amount), call).await?;
        Ok(Response::new(wire::SubtractStockResponse { stock }))
    }

    async fn batch_init(
        &self,
        request: Request<wire::BatchInitRequest>,
    ) -> Result<Response<wire::BatchInitResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let stock = checked(quantity("starting_stock", request.starting_stock, 0))?;
        let price = checked(money("item_price", request.item_price, 0))?;
        let what = format!("BatchInit/{}/{}/{stock}/{price}", request.first, request.count);
        let plan = Fill {
            numbers: checked(batch_numbers(request.first, request.count))?,
            shards: self.parts.wanted_shards(&request.shards, request.shard_count)?,
            call: self.parts.client_call(&metadata, &request.request_id, &what)?,
        };
        let op = |numbers| Op::Init { numbers, stock, price };
        let written = fill(&self.parts.shards, plan, op).await;
        let written = written.map_err(|error| to_status(&error))?;
        Ok(Response::new(wire::BatchInitResponse { written }))
    }
}
