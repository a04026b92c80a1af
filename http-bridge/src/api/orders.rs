//! Orders, and their checkout.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use proto::{
    coordinator::v1::{CheckoutRequest, coordinator_service_client::CoordinatorServiceClient},
    order::v1::{
        AddItemRequest, BatchInitRequest, CreateOrderRequest, GetOrderRequest, Order,
        RemoveItemRequest, RemoveOrderRequest, order::Line,
        order_service_client::OrderServiceClient,
    },
};
use rpc::unary;
use serde::Serialize;
use serde_json::json;
use types::{AMOUNT_MAX, Money, OrderId, Reason, Role};
use utoipa::{
    ToSchema,
    openapi::{
        Array, ArrayBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat, Type,
    },
};

use super::{
    Change, HandlerResult, Text, incomplete,
    parameters::{
        CountIn, IfMatchIn, ItemCountIn, ItemIdIn, ItemPriceIn, KeepLogIn, OrderIdIn, QuantityIn,
        UserCountIn, UserIdIn,
    },
    read,
    stock::Done,
};
use crate::{
    batch::Part,
    bridge::Bridge,
    etag,
    input::Input,
    problem::Problem,
    upstream::{Target, Unanswered},
};

#[cfg(test)]
mod tests;

/// A new order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrderCreated {
    /// Id of the new order.
    #[schema(min_length = 1, max_length = 128, example = "0b1a2f6e-52c1-5d0f-8f1c-0d3a0b3f5e11")]
    order_id: String,
}

/// An order.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OrderFound {
    /// Id of the order.
    #[schema(min_length = 1, max_length = 128, example = "17")]
    order_id: String,
    /// True once a checkout succeeded, for good.
    #[schema(example = false)]
    paid: bool,
    /// Item ids and quantities, in the order in which the items were first added.
    #[schema(schema_with = pairs)]
    items: Vec<(String, u64)>,
    /// Id of the user who buys.
    #[schema(min_length = 1, max_length = 128, example = "23")]
    user_id: String,
    /// Total cost in minor units of money, at the prices at which the items were added.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64, example = 15)]
    total_cost: u64,
}

/// The schema of pairs of an item's id and its units. The length closes the tuple. `items: false`
/// would too, but some client generators do not accept it as a schema.
fn pairs() -> Array {
    let id: Schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(128))
        .into();
    let units: Schema = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(1))
        .maximum(Some(AMOUNT_MAX))
        .into();
    let pair = ArrayBuilder::new()
        .prefix_items([id.clone(), units.clone()])
        .items(OneOfBuilder::new().item(id).item(units))
        .min_items(Some(2))
        .max_items(Some(2));
    ArrayBuilder::new()
        .items(pair)
        .description(Some(
            "Item ids and quantities, in the order in which the items were first added.",
        ))
        .examples([json!([["4", 2], ["9", 1]])])
        .build()
}

impl From<Order> for OrderFound {
    fn from(order: Order) -> Self {
        Self {
            order_id: order.order_id,
            paid: order.paid,
            items: merged(order.lines),
            user_id: order.user_id,
            total_cost: order.total_cost,
        }
    }
}

/// Units per item, in the order of first addition. Lines of one item differ only in price, and
/// clients count units.
fn merged(lines: Vec<Line>) -> Vec<(String, u64)> {
    let mut items: Vec<(String, u64)> = Vec::with_capacity(lines.len());
    for line in lines {
        let known = items.iter_mut().find(|(id, _)| *id == line.item_id);
        let sum = known.and_then(|(_, quantity)| {
            let sum = quantity.checked_add(line.quantity)?;
            (sum <= AMOUNT_MAX).then(|| *quantity = sum)
        });
        // Clients could not read a sum beyond the greatest amount, so it stays in two parts.
        if sum.is_none() {
            items.push((line.item_id, line.quantity));
        }
    }
    items
}

/// Makes an empty order.
///
/// The user need not exist yet.
#[utoipa::path(post, path = "/orders/create/{user_id}", tag = "orders", operation_id = "createOrder",
    params(UserIdIn),
    responses((status = 200, description = "The order was made.", body = OrderCreated)))]
pub(super) async fn create(
    State(bridge): State<Bridge>,
    input: Input,
) -> HandlerResult<Json<OrderCreated>> {
    let user_id = input.user_id()?;
    let change = Change::begin(&bridge, &input).await?;
    // The service derives the same id, so this is the shard where the order will be.
    let place = OrderId::derived(&change.request_id);
    let request = CreateOrderRequest { user_id: user_id.to_string(), request_id: change.id() };
    let ask = change.ask(bridge.shop().at(Role::Order), Target::Key(place.as_str()));
    let created = bridge.ask(ask, request, unary!(OrderServiceClient::create_order)).await?;
    Ok(Json(OrderCreated { order_id: created.order_id }))
}

/// Reads an order.
///
/// While a checkout of it is in flight, the answer waits for its outcome.
#[utoipa::path(get, path = "/orders/find/{order_id}", tag = "orders", operation_id = "findOrder",
    params(OrderIdIn),
    responses((status = 200, description = "The order as it is now.", body = OrderFound,
               headers(("ETag" = String, description = "Names the order's content: what a checkout \
                 takes as If-Match."))),
              (status = 404, description = "There is no such order.")))]
pub(super) async fn find(State(bridge): State<Bridge>, input: Input) -> HandlerResult<Response> {
    let order_id = input.order_id()?;
    let ask = read(&bridge, &input, bridge.shop().at(Role::Order), order_id.as_str());
    let request = GetOrderRequest { order_id: order_id.to_string() };
    let found = bridge.ask(ask, request, unary!(OrderServiceClient::get_order)).await?;
    let order = found.order.ok_or_else(|| incomplete("GetOrder"))?;
    let etag = HeaderValue::from_str(&etag::quoted(&order.etag)).ok();
    let mut response = Json(OrderFound::from(order)).into_response();
    if let Some(etag) = etag {
        response.headers_mut().insert(header::ETAG, etag);
    }
    Ok(response)
}

/// Adds units of an item, at the item's price of this moment.
#[utoipa::path(post, path = "/orders/addItem/{order_id}/{item_id}/{quantity}", tag = "orders",
    operation_id = "addItem", params(OrderIdIn, ItemIdIn, QuantityIn),
    responses((status = 200, description = "The units were added; the text has the new total cost.",
               body = String, content_type = "text/plain",
               example = "Item: 4 added to: 17 price updated to: 15"),
              (status = 404, description = "There is no such order or item."),
              (status = 409, description = "ALREADY_PAID, ORDER_TOO_LARGE or OVERFLOW; nothing was changed.")))]
pub(super) async fn add_item(
    State(bridge): State<Bridge>,
    mut input: Input,
) -> HandlerResult<Text> {
    add(&bridge, &mut input, Quantity::InPath).await
}

/// Adds one unit of an item, for older clients.
#[utoipa::path(post, path = "/orders/addItem/{order_id}/{item_id}", tag = "orders",
    operation_id = "addOneItem", params(OrderIdIn, ItemIdIn),
    responses((status = 200, description = "The unit was added; the text has the new total cost.",
               body = String, content_type = "text/plain",
               example = "Item: 4 added to: 17 price updated to: 10"),
              (status = 404, description = "There is no such order or item."),
              (status = 409, description = "ALREADY_PAID, ORDER_TOO_LARGE or OVERFLOW; nothing was changed.")))]
pub(super) async fn add_one_item(
    State(bridge): State<Bridge>,
    mut input: Input,
) -> HandlerResult<Text> {
    add(&bridge, &mut input, Quantity::One).await
}

/// Where the quantity of an addition comes from.
enum Quantity {
    InPath,
    One,
}

async fn add(bridge: &Bridge, input: &mut Input, quantity: Quantity) -> HandlerResult<Text> {
    let order_id = input.order_id()?;
    let item_id = input.item_id()?;
    let quantity = match quantity {
        Quantity::InPath => input.amount("quantity")?,
        Quantity::One => 1,
    };
    let change = Change::begin(bridge, input).await?;
    let request = AddItemRequest {
        order_id: order_id.to_string(),
        item_id: item_id.to_string(),
        quantity,
        request_id: change.id(),
    };
    let ask = change.ask(bridge.shop().at(Role::Order), Target::Key(order_id.as_str()));
    let added = bridge.ask(ask, request, unary!(OrderServiceClient::add_item)).await?;
    let total = added.total_cost;
    Ok(Text(format!("Item: {item_id} added to: {order_id} price updated to: {total}")))
}

/// Removes one unit of an item, at the price at which it was added.
#[utoipa::path(delete, path = "/orders/removeItem/{order_id}/{item_id}", tag = "orders",
    operation_id = "removeItem", params(OrderIdIn, ItemIdIn),
    responses((status = 200, description = "The unit was removed; the text has the new total cost.",
               body = String, content_type = "text/plain",
               example = "Item: 4 removed from: 17 price updated to: 5"),
              (status = 404, description = "There is no such order."),
              (status = 409, description = "NOT_IN_ORDER or ALREADY_PAID; nothing was changed.")))]
pub(super) async fn remove_item(State(bridge): State<Bridge>, input: Input) -> HandlerResult<Text> {
    let order_id = input.order_id()?;
    let item_id = input.item_id()?;
    let change = Change::begin(&bridge, &input).await?;
    let request = RemoveItemRequest {
        order_id: order_id.to_string(),
        item_id: item_id.to_string(),
        request_id: change.id(),
    };
    let ask = change.ask(bridge.shop().at(Role::Order), Target::Key(order_id.as_str()));
    let removed = bridge.ask(ask, request, unary!(OrderServiceClient::remove_item)).await?;
    let total = removed.total_cost;
    Ok(Text(format!("Item: {item_id} removed from: {order_id} price updated to: {total}")))
}

/// Deletes an order that is not paid.
#[utoipa::path(delete, path = "/orders/remove/{order_id}", tag = "orders", operation_id = "removeOrder",
    params(OrderIdIn),
    responses((status = 200, description = "The order is gone.", body = String,
               content_type = "text/plain", example = "Order: 17 removed"),
              (status = 404, description = "There is no such order."),
              (status = 409, description = "ALREADY_PAID; nothing was changed.")))]
pub(super) async fn remove(State(bridge): State<Bridge>, input: Input) -> HandlerResult<Text> {
    let order_id = input.order_id()?;
    let change = Change::begin(&bridge, &input).await?;
    let request = RemoveOrderRequest { order_id: order_id.to_string(), request_id: change.id() };
    let ask = change.ask(bridge.shop().at(Role::Order), Target::Key(order_id.as_str()));
    bridge.ask(ask, request, unary!(OrderServiceClient::remove_order)).await?;
    Ok(Text(format!("Order: {order_id} removed")))
}

/// Buys an order: takes its items from stock and its cost from the user's credit, all or nothing.
///
/// A refusal is not final: the same order may be checked out again. A success is final: a repeated
/// checkout gets the same answer and charges nothing.
///
/// With If-Match, the order is bought only if its content still matches the ETag; otherwise nothing
/// is tried. For an order that is already paid, the content that was sold counts.
#[utoipa::path(post, path = "/orders/checkout/{order_id}", tag = "orders", operation_id = "checkout",
    params(OrderIdIn, IfMatchIn, KeepLogIn),
    responses((status = 200, description = "The order is paid.", body = String,
               content_type = "text/plain", example = "Checkout successful"),
              (status = 404, description = "There is no such order."),
              (status = 409, description = "EMPTY_ORDER, OUT_OF_STOCK, OUT_OF_CREDIT, UNKNOWN_USER, \
                UNKNOWN_ITEM, ORDER_TOO_LARGE or OVERFLOW; nothing was changed."),
              (status = 412, description = "ORDER_MODIFIED: the order is not as If-Match says; nothing \
                was tried.")))]
pub(super) async fn checkout(State(bridge): State<Bridge>, input: Input) -> HandlerResult<Text> {
    let order_id = input.order_id()?;
    let keep_log = input.keep_log()?;
    let if_match = input.if_match()?;
    let change = Change::begin(&bridge, &input).await?;
    let request = CheckoutRequest {
        order_id: order_id.to_string(),
        request_id: change.id(),
        keep_log,
        if_match,
        unanswered_at_ms: 0,
    };
    let ask = change.ask(bridge.shop().at(Role::Coordinator), Target::Any);
    bridge
        .ask(ask, request, |transport, mut request| async move {
            if let Some(Unanswered(at)) = request.extensions().get().copied() {
                request.get_mut().unanswered_at_ms = at.0;
            }
            CoordinatorServiceClient::new(transport).checkout(request).await
        })
        .await?;
    Ok(Text("Checkout successful".to_owned()))
}

/// Overwrites the orders "0" to "n - 1".
///
/// Each is unpaid, of a random user, with one unit each of two random items, which may be the same.
#[utoipa::path(post, path = "/orders/batch_init/{n}/{n_items}/{n_users}/{item_price}", tag = "orders",
    operation_id = "initOrders", params(CountIn, ItemCountIn, UserCountIn, ItemPriceIn),
    responses((status = 200, description = "The orders were made.", body = Done,
               example = json!({"msg": "Batch init for orders successful"})),
              (status = 409, description = "OVERFLOW: two items would cost too much; nothing was changed.")))]
pub(super) async fn batch_init(
    State(bridge): State<Bridge>,
    mut input: Input,
) -> HandlerResult<Json<Done>> {
    let count = input.count()?;
    let item_count = input.amount("n_items")?;
    let user_count = input.amount("n_users")?;
    let item_price = input.start("item_price")?;
    let cost = Money::new(item_price).ok().and_then(|price| price.checked_mul(2));
    if cost.is_none() {
        return Err(Problem::of(Reason::Overflow));
    }
    let change = Change::until(&bridge, &input, input.batch_deadline(&bridge)).await?;
    let request = |part: Part| BatchInitRequest {
        count: part.count(),
        item_count,
        user_count,
        item_price,
        request_id: change.id(),
        shards: part.shards,
        first: part.numbers.start,
        shard_count: part.shard_count,
    };
    let send = unary!(OrderServiceClient::batch_init);
    bridge.fill(bridge.shop().at(Role::Order), count, change.batch_init(), request, send).await?;
    Ok(Json(Done::of("orders")))
}
