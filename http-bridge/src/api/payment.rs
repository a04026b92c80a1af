//! Users and their credit.

use axum::{Json, extract::State};
use proto::payment::v1::{
    AddFundsRequest, BatchInitRequest, CancelPaymentRequest, CreateUserRequest,
    GetPaymentStatusRequest, GetUserRequest, PayRequest,
    payment_service_client::PaymentServiceClient,
};
use rpc::unary;
use serde::Serialize;
use types::{OrderId, Role, UserId};
use utoipa::ToSchema;

use super::{
    Change, HandlerResult, Text, incomplete,
    parameters::{CountIn, MoneyIn, OrderIdIn, StartingMoneyIn, UserIdIn},
    read,
    stock::Done,
};
use crate::{batch::Part, bridge::Bridge, input::Input, upstream::Target};

/// A new user.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UserCreated {
    /// Id of the new user.
    #[schema(min_length = 1, max_length = 128, example = "f2a9d8c4-9f0e-5c06-8e7d-6b1f6b0c2c11")]
    user_id: String,
}

/// A user.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UserFound {
    /// Id of the user.
    #[schema(min_length = 1, max_length = 128, example = "23")]
    user_id: String,
    /// Minor units of money that can be spent now.
    #[schema(minimum = 0, maximum = 9_007_199_254_740_991_i64, example = 985)]
    credit: u64,
}

/// Whether a payment is in effect.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PaymentStatus {
    /// False if no such payment was made, or if it was cancelled.
    #[schema(example = true)]
    paid: bool,
}

/// Makes a user without credit.
#[utoipa::path(post, path = "/payment/create_user", tag = "payment", operation_id = "createUser",
    responses((status = 200, description = "The user was made.", body = UserCreated)))]
pub(super) async fn create_user(
    State(bridge): State<Bridge>,
    input: Input,
) -> HandlerResult<Json<UserCreated>> {
    let change = Change::begin(&bridge, &input).await?;
    // The service derives the same id, so this is the shard where the user will be.
    let place = UserId::derived(&change.request_id);
    let request = CreateUserRequest { request_id: change.id() };
    let ask = change.ask(bridge.shop().at(Role::Payment), Target::Key(place.as_str()));
    let created = bridge.ask(ask, request, unary!(PaymentServiceClient::create_user)).await?;
    Ok(Json(UserCreated { user_id: created.user_id }))
}

/// Reads a user.
#[utoipa::path(get, path = "/payment/find_user/{user_id}", tag = "payment", operation_id = "findUser",
    params(UserIdIn),
    responses((status = 200, description = "The user as it is now.", body = UserFound),
              (status = 404, description = "There is no such user.")))]
pub(super) async fn find_user(
    State(bridge): State<Bridge>,
    input: Input,
) -> HandlerResult<Json<UserFound>> {
    let user_id = input.user_id()?;
    let ask = read(&bridge, &input, bridge.shop().at(Role::Payment), user_id.as_str());
    let request = GetUserRequest { user_id: user_id.to_string() };
    let found = bridge.ask(ask, request, unary!(PaymentServiceClient::get_user)).await?;
    let user = found.user.ok_or_else(|| incomplete("GetUser"))?;
    Ok(Json(UserFound { user_id: user.user_id, credit: user.credit }))
}

fn updated(user_id: &UserId, credit: u64) -> Text {
    Text(format!("User: {user_id} credit updated to: {credit}"))
}

/// Raises a user's credit.
#[utoipa::path(post, path = "/payment/add_funds/{user_id}/{amount}", tag = "payment",
    operation_id = "addFunds", params(UserIdIn, MoneyIn),
    responses((status = 200, description = "The credit was raised; the text has the new one.",
               body = String, content_type = "text/plain", example = "User: 23 credit updated to: 1500"),
              (status = 404, description = "There is no such user."),
              (status = 409, description = "OVERFLOW; nothing was changed.")))]
pub(super) async fn add_funds(
    State(bridge): State<Bridge>,
    mut input: Input,
) -> HandlerResult<Text> {
    let user_id = input.user_id()?;
    let amount = input.amount("amount")?;
    let change = Change::begin(&bridge, &input).await?;
    let request = AddFundsRequest { user_id: user_id.to_string(), amount, request_id: change.id() };
    let ask = change.ask(bridge.shop().at(Role::Payment), Target::Key(user_id.as_str()));
    let added = bridge.ask(ask, request, unary!(PaymentServiceClient::add_funds)).await?;
    Ok(updated(&user_id, added.credit))
}

/// Lowers a user's credit.
#[utoipa::path(post, path = "/payment/pay/{user_id}/{amount}", tag = "payment", operation_id = "pay",
    params(UserIdIn, MoneyIn),
    responses((status = 200, description = "The credit was lowered; the text has the new one.",
               body = String, content_type = "text/plain", example = "User: 23 credit updated to: 500"),
              (status = 404, description = "There is no such user."),
              (status = 409, description = "OUT_OF_CREDIT; nothing was changed.")))]
pub(super) async fn pay(State(bridge): State<Bridge>, mut input: Input) -> HandlerResult<Text> {
    let user_id = input.user_id()?;
    let amount = input.amount("amount")?;
    spend(&bridge, &input, &user_id, None, amount).await
}

/// Lowers a user's credit and remembers the order, for older clients.
///
/// It does not check the order out: the order need not exist, and does not become paid.
#[utoipa::path(post, path = "/payment/pay/{user_id}/{order_id}/{amount}", tag = "payment",
    operation_id = "payForOrder", params(UserIdIn, OrderIdIn, MoneyIn),
    responses((status = 200, description = "The credit was lowered; the text has the new one.",
               body = String, content_type = "text/plain", example = "User: 23 credit updated to: 500"),
              (status = 404, description = "There is no such user."),
              (status = 409, description = "OUT_OF_CREDIT, or ALREADY_PAID where this order was paid this \
                way already; nothing was changed.")))]
pub(super) async fn pay_for_order(
    State(bridge): State<Bridge>,
    mut input: Input,
) -> HandlerResult<Text> {
    let user_id = input.user_id()?;
    let order_id = input.order_id()?;
    let amount = input.amount("amount")?;
    spend(&bridge, &input, &user_id, Some(&order_id), amount).await
}

async fn spend(
    bridge: &Bridge,
    input: &Input,
    user_id: &UserId,
    order_id: Option<&OrderId>,
    amount: u64,
) -> HandlerResult<Text> {
    let change = Change::begin(bridge, input).await?;
    let request = PayRequest {
        user_id: user_id.to_string(),
        amount,
        order_id: order_id.map(ToString::to_string).unwrap_or_default(),
        request_id: change.id(),
    };
    let ask = change.ask(bridge.shop().at(Role::Payment), Target::Key(user_id.as_str()));
    let left = bridge.ask(ask, request, unary!(PaymentServiceClient::pay)).await?;
    Ok(updated(user_id, left.credit))
}

/// Gives back, once, what `payForOrder` took for an order; for older clients.
#[utoipa::path(post, path = "/payment/cancel/{user_id}/{order_id}", tag = "payment",
    operation_id = "cancelPayment", params(UserIdIn, OrderIdIn),
    responses((status = 200, description = "The credit was raised; the text has the new one.",
               body = String, content_type = "text/plain", example = "User: 23 credit updated to: 1000"),
              (status = 404, description = "There is no such user."),
              (status = 409, description = "NOT_PAID or OVERFLOW; nothing was changed.")))]
pub(super) async fn cancel(State(bridge): State<Bridge>, input: Input) -> HandlerResult<Text> {
    let user_id = input.user_id()?;
    let order_id = input.order_id()?;
    let change = Change::begin(&bridge, &input).await?;
    let request = CancelPaymentRequest {
        user_id: user_id.to_string(),
        order_id: order_id.to_string(),
        request_id: change.id(),
    };
    let ask = change.ask(bridge.shop().at(Role::Payment), Target::Key(user_id.as_str()));
    let cancelled = bridge.ask(ask, request, unary!(PaymentServiceClient::cancel_payment)).await?;
    Ok(updated(&user_id, cancelled.credit))
}

/// Tells whether a payment for an order was made and not cancelled, for older clients.
///
/// It knows only payments made by `payForOrder`, not checkouts.
#[utoipa::path(get, path = "/payment/status/{user_id}/{order_id}", tag = "payment",
    operation_id = "paymentStatus", params(UserIdIn, OrderIdIn),
    responses((status = 200, description = "Whether it stands.", body = PaymentStatus),
              (status = 404, description = "There is no such user.")))]
pub(super) async fn status(
    State(bridge): State<Bridge>,
    input: Input,
) -> HandlerResult<Json<PaymentStatus>> {
    let user_id = input.user_id()?;
    let order_id = input.order_id()?;
    let ask = read(&bridge, &input, bridge.shop().at(Role::Payment), user_id.as_str());
    let request =
        GetPaymentStatusRequest { user_id: user_id.to_string(), order_id: order_id.to_string() };
    let status = bridge.ask(ask, request, unary!(PaymentServiceClient::get_payment_status)).await?;
    Ok(Json(PaymentStatus { paid: status.paid }))
}

/// Overwrites the users "0" to "n - 1".
#[utoipa::path(post, path = "/payment/batch_init/{n}/{starting_money}", tag = "payment",
    operation_id = "initUsers", params(CountIn, StartingMoneyIn),
    responses((status = 200, description = "The users were made.", body = Done,
               example = json!({"msg": "Batch init for users successful"}))))]
pub(super) async fn batch_init(
    State(bridge): State<Bridge>,
    mut input: Input,
) -> HandlerResult<Json<Done>> {
    let count = input.count()?;
    let starting_money = input.start("starting_money")?;
    let change = Change::until(&bridge, &input, input.batch_deadline(&bridge)).await?;
    let request = |part: Part| BatchInitRequest {
        count: part.count(),
        starting_money,
        request_id: change.id(),
        shards: part.shards,
        first: part.numbers.start,
        shard_count: part.shard_count,
    };
    let send = unary!(PaymentServiceClient::batch_init);
    bridge.fill(bridge.shop().at(Role::Payment), count, change.batch_init(), request, send).await?;
    Ok(Json(Done::of("users")))
}
