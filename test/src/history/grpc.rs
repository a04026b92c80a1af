//! Makes the calls over gRPC, at the services themselves.

use std::time::Duration;

use prost::Message;
use proto::{
    coordinator::v1::{
        BranchRequest, CheckoutRequest, RunTransactionRequest,
        coordinator_service_client::CoordinatorServiceClient,
        transaction_service_client::TransactionServiceClient,
    },
    order::v1::{self as order, order_service_client::OrderServiceClient},
    payment::v1::{self as payment, payment_service_client::PaymentServiceClient},
    stock::v1::{self as stock, stock_service_client::StockServiceClient},
};
use rpc::{net::Transport, status::Failure};
use tonic::{Response, Status};
use types::shard_of;

use super::{
    calls::{Ask, Attempt, DRAWN, FOREIGN, ITEMS, PAYMENT, Said, USERS},
    models::{Order, PRICE},
};

/// A shard that no service has.
const NO_SHARD: u32 = 4_000;

/// What a caller of [`Ask::grpc`] knows of the shop.
#[derive(Debug, Clone, Copy)]
pub struct World {
    /// Shards of every service of the shop's own.
    pub shards: u16,
    /// Whether [`FOREIGN`] takes part in transactions.
    pub foreign: bool,
}

impl Ask {
    /// Makes one attempt at a service, within `time`.
    pub async fn grpc(&self, to: Transport, id: &str, time: Duration, world: World) -> Attempt {
        let outcome = match (self.role(), self) {
            ("stock", _) => self.ask_stock(to, id, time).await,
            ("payment", _) => self.ask_payment(to, id, time).await,
            ("order", _) => self.ask_order(to, id, time).await,
            (_, Self::Checkout(..)) => self.ask_coordinator(to, id, time).await,
            _ => self.ask_transaction(to, id, time, world).await,
        };
        let status = match outcome {
            Ok(said) => return Attempt::Said(said),
            Err(status) => status,
        };
        let failure = Failure::from_status(&status);
        if failure.is_transient() {
            return Attempt::Unknown;
        }
        let number = |name: &str| failure.metadata.get(name)?.parse().ok();
        let short = number("item_id").or_else(|| number("user_id")).zip(number("wanted"));
        Attempt::Said(Said::Refused(failure.reason, short))
    }

    async fn ask_stock(&self, to: Transport, id: &str, time: Duration) -> Result<Said, Status> {
        let mut to = StockServiceClient::new(to);
        let request_id = id.to_owned();
        match self {
            Self::AddStock(item, amount) => {
                let item_id = item.to_string();
                let request = stock::AddStockRequest { item_id, amount: *amount, request_id };
                said(to.add_stock(within(request, time)).await, |said| Said::Amount(said.stock))
            }
            Self::Subtract(item, amount) => {
                let item_id = item.to_string();
                let request = stock::SubtractStockRequest { item_id, amount: *amount, request_id };
                let answer = to.subtract_stock(within(request, time)).await;
                said(answer, |said| Said::Amount(said.stock))
            }
            Self::FindItem(item) => {
                let request = stock::GetItemRequest { item_id: item.to_string() };
                let answer = to.get_item(within(request, time)).await;
                said(answer, |said| Said::Amount(said.item.unwrap().stock))
            }
            _ => {
                let Self::InitStock(starting_stock) = self else { unreachable!("{self:?}") };
                let request = stock::BatchInitRequest {
                    count: ITEMS,
                    starting_stock: *starting_stock,
                    item_price: PRICE,
                    request_id,
                    ..stock::BatchInitRequest::default()
                };
                said(to.batch_init(within(request, time)).await, |_| Said::Done)
            }
        }
    }

    async fn ask_payment(&self, to: Transport, id: &str, time: Duration) -> Result<Said, Status> {
        let mut to = PaymentServiceClient::new(to);
        let request_id = id.to_owned();
        match self {
            Self::AddFunds(user, amount) => {
                let user_id = user.to_string();
                let request = payment::AddFundsRequest { user_id, amount: *amount, request_id };
                said(to.add_funds(within(request, time)).await, |said| Said::Amount(said.credit))
            }
            Self::Pay(user, amount) => {
                let request = payment::PayRequest {
                    user_id: user.to_string(),
                    amount: *amount,
                    order_id: String::new(),
                    request_id,
                };
                said(to.pay(within(request, time)).await, |said| Said::Amount(said.credit))
            }
            Self::PayFor(user, what) => {
                let request = payment::PayRequest {
                    user_id: user.to_string(),
                    amount: PAYMENT,
                    order_id: format!("for-{what}"),
                    request_id,
                };
                said(to.pay(within(request, time)).await, |said| Said::Amount(said.credit))
            }
            Self::Cancel(user, what) => {
                let request = payment::CancelPaymentRequest {
                    user_id: user.to_string(),
                    order_id: format!("for-{what}"),
                    request_id,
                };
                let answer = to.cancel_payment(within(request, time)).await;
                said(answer, |said| Said::Amount(said.credit))
            }
            Self::FindPayment(user, what) => {
                let request = payment::GetPaymentStatusRequest {
                    user_id: user.to_string(),
                    order_id: format!("for-{what}"),
                };
                let answer = to.get_payment_status(within(request, time)).await;
                said(answer, |said| Said::Paid(said.paid))
            }
            Self::FindUser(user) => {
                let request = payment::GetUserRequest { user_id: user.to_string() };
                let answer = to.get_user(within(request, time)).await;
                said(answer, |said| Said::Amount(said.user.unwrap().credit))
            }
            _ => {
                let Self::InitUsers(starting_money) = self else { unreachable!("{self:?}") };
                let request = payment::BatchInitRequest {
                    count: USERS,
                    starting_money: *starting_money,
                    request_id,
                    ..payment::BatchInitRequest::default()
                };
                said(to.batch_init(within(request, time)).await, |_| Said::Done)
            }
        }
    }

    async fn ask_order(&self, to: Transport, id: &str, time: Duration) -> Result<Said, Status> {
        let mut to = OrderServiceClient::new(to);
        let request_id = id.to_owned();
        match self {
            Self::CreateOrder(user) => {
                let request = order::CreateOrderRequest { user_id: user.to_string(), request_id };
                said(to.create_order(within(request, time)).await, |said| Said::Id(said.order_id))
            }
            Self::AddItem(order_id, item, units) => {
                let request = order::AddItemRequest {
                    order_id: order_id.clone(),
                    item_id: item.to_string(),
                    quantity: *units,
                    request_id,
                };
                let answer = to.add_item(within(request, time)).await;
                said(answer, |said| Said::Amount(said.total_cost))
            }
            Self::RemoveItem(order_id, item) => {
                let request = order::RemoveItemRequest {
                    order_id: order_id.clone(),
                    item_id: item.to_string(),
                    request_id,
                };
                let answer = to.remove_item(within(request, time)).await;
                said(answer, |said| Said::Amount(said.total_cost))
            }
            Self::RemoveOrder(order_id) => {
                let request = order::RemoveOrderRequest { order_id: order_id.clone(), request_id };
                said(to.remove_order(within(request, time)).await, |_| Said::Done)
            }
            Self::FindOrder(order_id) => {
                let request = order::GetOrderRequest { order_id: order_id.clone() };
                let answer = to.get_order(within(request, time)).await;
                said(answer, |said| order_of(said.order.unwrap()))
            }
            _ => {
                let request = order::BatchInitRequest {
                    count: DRAWN,
                    item_count: 1,
                    user_count: 1,
                    item_price: PRICE,
                    request_id,
                    ..order::BatchInitRequest::default()
                };
                said(to.batch_init(within(request, time)).await, |_| Said::Done)
            }
        }
    }

    async fn ask_coordinator(
        &self,
        to: Transport,
        id: &str,
        time: Duration,
    ) -> Result<Said, Status> {
        let Self::Checkout(order_id, token) = self else { unreachable!("{self:?}") };
        let token = token.as_ref().map(|token| token.trim_matches('"').to_owned());
        let request = CheckoutRequest {
            order_id: order_id.clone(),
            request_id: id.to_owned(),
            if_match: token.into_iter().collect(),
            ..CheckoutRequest::default()
        };
        let answer = CoordinatorServiceClient::new(to).checkout(within(request, time)).await;
        said(answer, |_| Said::Done)
    }

    async fn ask_transaction(
        &self,
        to: Transport,
        id: &str,
        time: Duration,
        world: World,
    ) -> Result<Said, Status> {
        let World { shards, foreign } = world;
        let (Self::Sell(user, item, units) | Self::Misplan(user, item, units)) = self else {
            unreachable!("{self:?}")
        };
        let (user, item) = (user.to_string(), item.to_string());
        let line = stock::hold_stock::Line { item_id: item.clone(), quantity: *units };
        let units_held = stock::HoldStock { lines: vec![line] };
        let money = payment::HoldCredit { user_id: user.clone(), amount: units * PRICE };
        let mut branches = vec![
            branch("stock", &item, shards, &units_held),
            branch("payment", &user, shards, &money),
        ];
        if foreign {
            branches.push(branch(FOREIGN, "0", 1, &units_held));
        }
        if let Self::Misplan(..) = self {
            let nowhere = proto::types::v1::Branch { service: "stock".into(), shard: NO_SHARD };
            branches.push(BranchRequest { branch: Some(nowhere), payload: bytes::Bytes::new() });
        }
        let request = RunTransactionRequest { branches, request_id: id.to_owned() };
        let mut to = TransactionServiceClient::new(to);
        said(to.run_transaction(within(request, time)).await, |_| Said::Done)
    }
}

/// The branch of `service` that holds `id`.
fn branch(service: &str, id: &str, shards: u16, payload: &impl Message) -> BranchRequest {
    let shard = u32::from(shard_of(id, shards).0);
    let branch = proto::types::v1::Branch { service: service.to_owned(), shard };
    BranchRequest { branch: Some(branch), payload: payload.encode_to_vec().into() }
}

fn within<T>(request: T, time: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    rpc::deadline::set(&mut request, time);
    request
}

fn said<T>(
    answer: Result<Response<T>, Status>,
    read: impl FnOnce(T) -> Said,
) -> Result<Said, Status> {
    answer.map(|answer| read(answer.into_inner()))
}

fn order_of(order: order::Order) -> Said {
    let mut lines: Vec<(u64, u64)> = Vec::new();
    for line in order.lines {
        let item = line.item_id.parse().unwrap();
        match lines.iter_mut().find(|(known, _)| *known == item) {
            Some((_, units)) => *units += line.quantity,
            None => lines.push((item, line.quantity)),
        }
    }
    // Quoted, as the bridge writes it.
    let token = format!("\"{}\"", order.etag);
    Said::Order(Order { lines, paid: order.paid }, order.user_id.parse().unwrap(), token)
}
