//! Wire to domain: `till.stock.v1`.

use participant::{
    core::RequestKey,
    fill::{Fill, fill},
    role::Parts,
    service::invalid,
    shards::OpError,
};
use proto::{
    InvalidField,
    convert::{self, item_id, money, quantity},
    stock::v1::{self as wire, stock_service_server::StockService},
};
use rpc::status::to_status;
use tonic::{Request, Response, Status};
use types::{ItemId, Timestamp};

use crate::app::{Op, Reply, Stock};

/// The gRPC face of the stock service.
#[derive(Debug, Clone)]
pub struct Grpc {
    parts: Parts<Stock>,
}

impl Grpc {
    /// The face of these parts.
    pub const fn new(parts: Parts<Stock>) -> Self {
        Self { parts }
    }

    async fn execute(
        &self,
        id: &ItemId,
        op: Op,
        request: Option<RequestKey>,
    ) -> Result<(Reply, Timestamp), Status> {
        let run = async {
            let shard = self.parts.shards.shard_of(id.as_str()).map_err(OpError::from)?;
            self.parts.shards.execute(shard, op, request).await
        };
        run.await.map_err(|error| to_status(&error))
    }

    /// Raises or lowers the stock of an item; returns it.
    async fn change(
        &self,
        id: ItemId,
        op: Op,
        request_id: &str,
        call: &str,
    ) -> Result<u64, Status> {
        let request = convert::request_id(request_id).map_err(|error| invalid(&error))?;
        let request = self.parts.retention.key(request, call);
        match self.execute(&id, op, request).await? {
            (Reply::Stock(stock), _) => Ok(stock),
            (Reply::Item(item), _) => Ok(item.stock.available.get()),
        }
    }
}

fn checked<T>(field: Result<T, InvalidField>) -> Result<T, Status> {
    field.map_err(|error| invalid(&error))
}

#[tonic::async_trait]
impl StockService for Grpc {
    async fn create_item(
        &self,
        request: Request<wire::CreateItemRequest>,
    ) -> Result<Response<wire::CreateItemResponse>, Status> {
        let request = request.into_inner();
        let price = checked(money("price", request.price, 0))?;
        let request_id = checked(convert::request_id(&request.request_id))?;
        let id = self.parts.new_id(request_id.as_ref(), ItemId::derived, ItemId::from);
        let call = format!("CreateItem/{price}");
        self.change(id.clone(), Op::Create(id.clone(), price), &request.request_id, &call).await?;
        Ok(Response::new(wire::CreateItemResponse { item_id: id.to_string() }))
    }

    async fn get_item(
        &self,
        request: Request<wire::GetItemRequest>,
    ) -> Result<Response<wire::GetItemResponse>, Status> {
        let id = checked(item_id("item_id", &request.get_ref().item_id))?;
        let (Reply::Item(item), _) = self.execute(&id, Op::Get(id.clone()), None).await? else {
            return Err(to_status(&participant::lane::LaneError::Unavailable));
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
        let request = request.into_inner();
        let id = checked(item_id("item_id", &request.item_id))?;
        let amount = checked(quantity("amount", request.amount, 1))?;
        let call = format!("AddStock/{id}/{amount}");
        let op = Op::Add(id.clone(), amount);
        let stock = self.change(id, op, &request.request_id, &call).await?;
        Ok(Response::new(wire::AddStockResponse { stock }))
    }

    async fn subtract_stock(
        &self,
        request: Request<wire::SubtractStockRequest>,
    ) -> Result<Response<wire::SubtractStockResponse>, Status> {
        let request = request.into_inner();
        let id = checked(item_id("item_id", &request.item_id))?;
        let amount = checked(quantity("amount", request.amount, 1))?;
        let call = format!("SubtractStock/{id}/{amount}");
        let op = Op::Subtract(id.clone(), amount);
        let stock = self.change(id, op, &request.request_id, &call).await?;
        Ok(Response::new(wire::SubtractStockResponse { stock }))
    }

    async fn batch_init(
        &self,
        request: Request<wire::BatchInitRequest>,
    ) -> Result<Response<wire::BatchInitResponse>, Status> {
        let request = request.into_inner();
        let stock = checked(quantity("starting_stock", request.starting_stock, 0))?;
        let price = checked(money("item_price", request.item_price, 0))?;
        let call = format!("BatchInit/{}/{stock}/{price}", request.count);
        let plan = Fill {
            count: checked(convert::batch_count(request.count))?,
            shards: self.parts.wanted_shards(&request.shards)?,
            request: checked(convert::request_id(&request.request_id))?,
            call: &call,
            retention: self.parts.retention,
        };
        let written =
            fill(&self.parts.shards, plan, |numbers| Op::Init { numbers, stock, price }).await;
        let written = written.map_err(|error| to_status(&error))?;
        Ok(Response::new(wire::BatchInitResponse { written }))
    }
}
