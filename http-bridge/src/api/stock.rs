//! Items.

use axum::{Json, extract::State};
use proto::stock::v1::{
    AddStockRequest, BatchInitRequest, CreateItemRequest, GetItemRequest, SubtractStockRequest,
    stock_service_client::StockServiceClient,
};
use rpc::unary;
use serde::Serialize;
use types::{ItemId, Role};
use utoipa::ToSchema;

use super::{
    Change, HandlerResult, Text, incomplete,
    parameters::{CountIn, ItemIdIn, ItemPriceIn, PriceIn, StartingStockIn, UnitsIn},
    read,
};
use crate::{batch::Part, bridge::Bridge, input::Input, upstream::Target};

/// A batch_init is done.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// A message for people.
    msg: String,
}

impl Done {
    pub(super) fn of(what: &str) -> Self {
        Self { msg: format!("Batch init for {what} successful") }
    }
}

/// A new item.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ItemCreated {
    /// Id of the new item.
    #[schema(min_length = 1, max_length = 128, example = "6a2c8a52-5a5e-5bb4-a3a6-0c8c6a7a1e5b")]
    item_id: String,
}

/// An item.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ItemFound {
    /// Units that can be bought now.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64, example = 98)]
    stock: u64,
    /// Minor units of money for one unit.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64, example = 5)]
    price: u64,
}

/// Makes an item without stock.
#[utoipa::path(post, path = "/stock/item/create/{price}", tag = "stock", operation_id = "createItem",
    params(PriceIn),
    responses((status = 200, description = "The item was made.", body = ItemCreated)))]
pub(super) async fn create(
    State(bridge): State<Bridge>,
    mut input: Input,
) -> HandlerResult<Json<ItemCreated>> {
    let price = input.start("price")?;
    let change = Change::begin(&bridge, &input).await?;
    // The service derives the same id, so this is the shard where the item will be.
    let place = ItemId::derived(&change.request_id);
    let request = CreateItemRequest { price, request_id: change.id() };
    let ask = change.ask(bridge.shop().at(Role::Stock), Target::Key(place.as_str()));
    let created = bridge.ask(ask, request, unary!(StockServiceClient::create_item)).await?;
    Ok(Json(ItemCreated { item_id: created.item_id }))
}

/// Reads an item.
#[utoipa::path(get, path = "/stock/find/{item_id}", tag = "stock", operation_id = "findItem",
    params(ItemIdIn),
    responses((status = 200, description = "The item as it is now.", body = ItemFound),
              (status = 404, description = "There is no such item.")))]
pub(super) async fn find(
    State(bridge): State<Bridge>,
    input: Input,
) -> HandlerResult<Json<ItemFound>> {
    let item_id = input.item_id()?;
    let ask = read(&bridge, &input, bridge.shop().at(Role::Stock), item_id.as_str());
    let request = GetItemRequest { item_id: item_id.to_string() };
    let found = bridge.ask(ask, request, unary!(StockServiceClient::get_item)).await?;
    let item = found.item.ok_or_else(|| incomplete("GetItem"))?;
    Ok(Json(ItemFound { stock: item.stock, price: item.price }))
}

fn updated(item_id: &ItemId, stock: u64) -> Text {
    Text(format!("Item: {item_id} stock updated to: {stock}"))
}

/// Adds units to an item's stock.
#[utoipa::path(post, path = "/stock/add/{item_id}/{amount}", tag = "stock", operation_id = "addStock",
    params(ItemIdIn, UnitsIn),
    responses((status = 200, description = "The units were added; the text has the new stock.",
               body = String, content_type = "text/plain", example = "Item: 4 stock updated to: 110"),
              (status = 404, description = "There is no such item."),
              (status = 409, description = "OVERFLOW; nothing was changed.")))]
pub(super) async fn add(State(bridge): State<Bridge>, mut input: Input) -> HandlerResult<Text> {
    let item_id = input.item_id()?;
    let amount = input.amount("amount")?;
    let change = Change::begin(&bridge, &input).await?;
    let request = AddStockRequest { item_id: item_id.to_string(), amount, request_id: change.id() };
    let ask = change.ask(bridge.shop().at(Role::Stock), Target::Key(item_id.as_str()));
    let added = bridge.ask(ask, request, unary!(StockServiceClient::add_stock)).await?;
    Ok(updated(&item_id, added.stock))
}

/// Removes units from an item's stock.
#[utoipa::path(post, path = "/stock/subtract/{item_id}/{amount}", tag = "stock",
    operation_id = "subtractStock", params(ItemIdIn, UnitsIn),
    responses((status = 200, description = "The units were removed; the text has the new stock.",
               body = String, content_type = "text/plain", example = "Item: 4 stock updated to: 90"),
              (status = 404, description = "There is no such item."),
              (status = 409, description = "OUT_OF_STOCK; nothing was changed.")))]
pub(super) async fn subtract(
    State(bridge): State<Bridge>,
    mut input: Input,
) -> HandlerResult<Text> {
    let item_id = input.item_id()?;
    let amount = input.amount("amount")?;
    let change = Change::begin(&bridge, &input).await?;
    let request =
        SubtractStockRequest { item_id: item_id.to_string(), amount, request_id: change.id() };
    let ask = change.ask(bridge.shop().at(Role::Stock), Target::Key(item_id.as_str()));
    let left = bridge.ask(ask, request, unary!(StockServiceClient::subtract_stock)).await?;
    Ok(updated(&item_id, left.stock))
}

/// Overwrites the items "0" to "n - 1".
#[utoipa::path(post, path = "/stock/batch_init/{n}/{starting_stock}/{item_price}", tag = "stock",
    operation_id = "initItems", params(CountIn, StartingStockIn, ItemPriceIn),
    responses((status = 200, description = "The items were made.", body = Done,
               example = json!({"msg": "Batch init for stock successful"}))))]
pub(super) async fn batch_init(
    State(bridge): State<Bridge>,
    mut input: Input,
) -> HandlerResult<Json<Done>> {
    let count = input.count()?;
    let starting_stock = input.start("starting_stock")?;
    let item_price = input.start("item_price")?;
    let change = Change::until(&bridge, &input, input.batch_deadline(&bridge)).await?;
    let request = |part: Part| BatchInitRequest {
        count: part.count(),
        starting_stock,
        item_price,
        request_id: change.id(),
        shards: part.shards,
        first: part.numbers.start,
        shard_count: part.shard_count,
    };
    let send = unary!(StockServiceClient::batch_init);
    bridge.fill(bridge.shop().at(Role::Stock), count, change.batch_init(), request, send).await?;
    Ok(Json(Done::of("stock")))
}
