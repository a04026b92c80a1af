//! The order, stock and payment services of the in-memory shop.

#![expect(
    clippy::needless_pass_by_value,
    clippy::unnecessary_wraps,
    reason = "every call takes its request and may be refused"
)]

use proto::{
    order::v1::{self as order, order_service_server::OrderServiceServer},
    participant::v1::{Operation, operation_result::Result as OpResult},
    payment::v1::{self as payment, payment_service_server::PaymentServiceServer},
    stock::v1::{self as stock, stock_service_server::StockServiceServer},
};
use testkit::participant::{Participant, serve};
use tonic::{Request, Response, Status, service::Routes};
use types::{AMOUNT_MAX, ItemId, OrderId, Reason, RequestId, ShardId, UserId, shard_of};

use super::{Item, Order, SHARDS, State, World, coordinator, refuse};

pub(super) type Reply<T> = Result<Response<T>, Status>;

/// The services of the replica at an endpoint.
pub(crate) fn routes(world: &World, endpoint: &str) -> Routes {
    let (_, health) = tonic_health::server::health_reporter();
    let routes = Routes::new(health);
    let (name, _) = endpoint.split_once('-').unwrap();
    let world = world.clone();
    if name == "coordinator" {
        return coordinator::add_to(routes, world, endpoint);
    }
    let routes = routes.add_service(serve(Described(name.to_owned())));
    match name {
        "order" => routes.add_service(OrderServiceServer::new(world)),
        "stock" => routes.add_service(StockServiceServer::new(world)),
        _ => routes.add_service(PaymentServiceServer::new(world)),
    }
}

/// A participant that is asked for no vote.
struct Described(String);

#[tonic::async_trait]
impl Participant for Described {
    fn describe(&self) -> (String, u32) {
        (self.0.clone(), SHARDS.into())
    }

    async fn apply(&self, _: Vec<Operation>) -> Result<Vec<OpResult>, Status> {
        panic!("the bridge asked a participant for a vote")
    }
}

fn derived<T>(request_id: &str, derive: impl Fn(&RequestId) -> T) -> T {
    derive(&RequestId::new(request_id).unwrap())
}

/// The `count` ids from `first` on, without those that are not on the requested shards. No shards
/// means all.
fn numbers(first: u64, count: u64, shards: &[u32]) -> impl Iterator<Item = String> {
    let shards: Vec<ShardId> =
        shards.iter().map(|shard| ShardId(u16::try_from(*shard).unwrap())).collect();
    (first..first + count).map(|number| number.to_string()).filter(move |id| {
        let shard = shard_of(id, SHARDS);
        shards.is_empty() || shards.contains(&shard)
    })
}

/// Implements a service by methods of the state. A change is made once for each request id.
macro_rules! serve {
    (
        $package:ident::$server:ident::$service:ident,
        reads { $($read:ident: $question:ident -> $answer:ident;)* }
        changes { $($change:ident: $order:ident -> $outcome:ident;)* }
        batch_init { $fill:ident }
    ) => {
        #[tonic::async_trait]
        impl $package::$server::$service for World {
            $(async fn $read(
                &self,
                request: Request<$package::$question>,
            ) -> Reply<$package::$answer> {
                self.state().$read(request.into_inner()).map(Response::new)
            })*

            $(async fn $change(
                &self,
                request: Request<$package::$order>,
            ) -> Reply<$package::$outcome> {
                let request = request.into_inner();
                let id = request.request_id.clone();
                self.once(stringify!($package), &id, |state| state.$change(request))
            })*

            async fn batch_init(
                &self,
                request: Request<$package::BatchInitRequest>,
            ) -> Reply<$package::BatchInitResponse> {
                let request = request.into_inner();
                let part = format!("{}{}{:?}", request.request_id, request.first, request.shards);
                self.once(stringify!($package), &part, |state| {
                    let mut written = 0;
                    for id in numbers(request.first, request.count, &request.shards) {
                        state.$fill(id, &request);
                        written += 1;
                    }
                    Ok($package::BatchInitResponse { written })
                })
            }
        }
    };
}

serve! {
    order::order_service_server::OrderService,
    reads { get_order: GetOrderRequest -> GetOrderResponse; }
    changes {
        create_order: CreateOrderRequest -> CreateOrderResponse;
        add_item: AddItemRequest -> AddItemResponse;
        remove_item: RemoveItemRequest -> RemoveItemResponse;
        remove_order: RemoveOrderRequest -> RemoveOrderResponse;
    }
    batch_init { fill_order }
}

serve! {
    stock::stock_service_server::StockService,
    reads { get_item: GetItemRequest -> GetItemResponse; }
    changes {
        create_item: CreateItemRequest -> CreateItemResponse;
        add_stock: AddStockRequest -> AddStockResponse;
        subtract_stock: SubtractStockRequest -> SubtractStockResponse;
    }
    batch_init { fill_item }
}

serve! {
    payment::payment_service_server::PaymentService,
    reads {
        get_user: GetUserRequest -> GetUserResponse;
        get_payment_status: GetPaymentStatusRequest -> GetPaymentStatusResponse;
    }
    changes {
        create_user: CreateUserRequest -> CreateUserResponse;
        add_funds: AddFundsRequest -> AddFundsResponse;
        pay: PayRequest -> PayResponse;
        cancel_payment: CancelPaymentRequest -> CancelPaymentResponse;
    }
    batch_init { fill_user }
}

fn found<T>(entry: Option<T>, reason: Reason) -> Result<T, Status> {
    entry.ok_or_else(|| refuse(reason))
}

/// The sum, unless it is too large.
fn sum(left: u64, right: u64) -> Result<u64, Status> {
    Some(left + right).filter(|sum| *sum <= AMOUNT_MAX).ok_or_else(|| refuse(Reason::Overflow))
}

/// What the order service does.
impl State {
    /// An order that may still be changed.
    fn unpaid(&mut self, order_id: &str) -> Result<&mut Order, Status> {
        let order = found(self.orders.get_mut(order_id), Reason::OrderNotFound)?;
        if order.paid { Err(refuse(Reason::AlreadyPaid)) } else { Ok(order) }
    }

    fn create_order(
        &mut self,
        request: order::CreateOrderRequest,
    ) -> Result<order::CreateOrderResponse, Status> {
        let order_id = derived(&request.request_id, OrderId::derived).to_string();
        let made = Order { user_id: request.user_id, ..Order::default() };
        self.orders.insert(order_id.clone(), made);
        Ok(order::CreateOrderResponse { order_id })
    }

    fn get_order(
        &mut self,
        request: order::GetOrderRequest,
    ) -> Result<order::GetOrderResponse, Status> {
        let order_id = request.order_id;
        let order = found(self.orders.get(&order_id), Reason::OrderNotFound)?;
        let lines = order.lines.iter().map(|(item_id, quantity, price)| order::order::Line {
            item_id: item_id.clone(),
            quantity: *quantity,
            price: *price,
        });
        let order = order::Order {
            order_id,
            user_id: order.user_id.clone(),
            paid: order.paid,
            lines: lines.collect(),
            total_cost: order.cost(),
            version: 1,
            etag: format!("{:x}-{:x}", order.lines.len(), u8::from(order.paid)),
            sold_etag: String::new(),
        };
        Ok(order::GetOrderResponse { order: Some(order), read_ts: 1 })
    }

    fn add_item(
        &mut self,
        request: order::AddItemRequest,
    ) -> Result<order::AddItemResponse, Status> {
        let price = self.items.get(&request.item_id).map(|item| item.price);
        found(self.orders.get(&request.order_id), Reason::OrderNotFound)?;
        let price = found(price, Reason::ItemNotFound)?;
        let order = self.unpaid(&request.order_id)?;
        if request.quantity > AMOUNT_MAX / price.max(1) {
            return Err(refuse(Reason::Overflow));
        }
        order.lines.push((request.item_id, request.quantity, price));
        Ok(order::AddItemResponse { total_cost: order.cost() })
    }

    fn remove_item(
        &mut self,
        request: order::RemoveItemRequest,
    ) -> Result<order::RemoveItemResponse, Status> {
        let order = self.unpaid(&request.order_id)?;
        let line = order.lines.iter_mut().rev().find(|line| line.0 == request.item_id);
        found(line, Reason::NotInOrder)?.1 -= 1;
        order.lines.retain(|line| line.1 > 0);
        Ok(order::RemoveItemResponse { total_cost: order.cost() })
    }

    fn remove_order(
        &mut self,
        request: order::RemoveOrderRequest,
    ) -> Result<order::RemoveOrderResponse, Status> {
        self.unpaid(&request.order_id)?;
        self.orders.remove(&request.order_id);
        Ok(order::RemoveOrderResponse {})
    }

    fn fill_order(&mut self, id: String, request: &order::BatchInitRequest) {
        let line = || ("0".to_owned(), 1, request.item_price);
        let user_id = (request.user_count - 1).to_string();
        self.orders.insert(id, Order { user_id, paid: false, lines: vec![line(), line()] });
    }
}

/// What the stock service does.
impl State {
    fn item(&mut self, item_id: &str) -> Result<&mut Item, Status> {
        found(self.items.get_mut(item_id), Reason::ItemNotFound)
    }

    fn create_item(
        &mut self,
        request: stock::CreateItemRequest,
    ) -> Result<stock::CreateItemResponse, Status> {
        let item_id = derived(&request.request_id, ItemId::derived).to_string();
        self.items.insert(item_id.clone(), Item { price: request.price, stock: 0 });
        Ok(stock::CreateItemResponse { item_id })
    }

    fn get_item(
        &mut self,
        request: stock::GetItemRequest,
    ) -> Result<stock::GetItemResponse, Status> {
        let &mut Item { price, stock } = self.item(&request.item_id)?;
        let item = stock::Item { item_id: request.item_id, stock, price };
        Ok(stock::GetItemResponse { item: Some(item) })
    }

    fn add_stock(
        &mut self,
        request: stock::AddStockRequest,
    ) -> Result<stock::AddStockResponse, Status> {
        let item = self.item(&request.item_id)?;
        item.stock = sum(item.stock, request.amount)?;
        Ok(stock::AddStockResponse { stock: item.stock })
    }

    fn subtract_stock(
        &mut self,
        request: stock::SubtractStockRequest,
    ) -> Result<stock::SubtractStockResponse, Status> {
        let item = self.item(&request.item_id)?;
        item.stock = found(item.stock.checked_sub(request.amount), Reason::OutOfStock)?;
        Ok(stock::SubtractStockResponse { stock: item.stock })
    }

    fn fill_item(&mut self, id: String, request: &stock::BatchInitRequest) {
        let item = Item { price: request.item_price, stock: request.starting_stock };
        self.items.insert(id, item);
    }
}

/// What the payment service does.
impl State {
    fn credit(&mut self, user_id: &str) -> Result<&mut u64, Status> {
        found(self.users.get_mut(user_id), Reason::UserNotFound)
    }

    fn create_user(
        &mut self,
        request: payment::CreateUserRequest,
    ) -> Result<payment::CreateUserResponse, Status> {
        let user_id = derived(&request.request_id, UserId::derived).to_string();
        self.users.insert(user_id.clone(), 0);
        Ok(payment::CreateUserResponse { user_id })
    }

    fn get_user(
        &mut self,
        request: payment::GetUserRequest,
    ) -> Result<payment::GetUserResponse, Status> {
        let credit = *self.credit(&request.user_id)?;
        let user = payment::User { user_id: request.user_id, credit };
        Ok(payment::GetUserResponse { user: Some(user) })
    }

    fn add_funds(
        &mut self,
        request: payment::AddFundsRequest,
    ) -> Result<payment::AddFundsResponse, Status> {
        let credit = self.credit(&request.user_id)?;
        *credit = sum(*credit, request.amount)?;
        Ok(payment::AddFundsResponse { credit: *credit })
    }

    fn pay(&mut self, request: payment::PayRequest) -> Result<payment::PayResponse, Status> {
        let credit = *self.credit(&request.user_id)?;
        let key = (request.user_id, request.order_id);
        if self.payments.contains_key(&key) {
            return Err(refuse(Reason::AlreadyPaid));
        }
        let credit = found(credit.checked_sub(request.amount), Reason::OutOfCredit)?;
        self.users.insert(key.0.clone(), credit);
        if !key.1.is_empty() {
            self.payments.insert(key, request.amount);
        }
        Ok(payment::PayResponse { credit })
    }

    fn cancel_payment(
        &mut self,
        request: payment::CancelPaymentRequest,
    ) -> Result<payment::CancelPaymentResponse, Status> {
        let credit = *self.credit(&request.user_id)?;
        let key = (request.user_id, request.order_id);
        let credit = credit + found(self.payments.remove(&key), Reason::NotPaid)?;
        self.users.insert(key.0, credit);
        Ok(payment::CancelPaymentResponse { credit })
    }

    fn get_payment_status(
        &mut self,
        request: payment::GetPaymentStatusRequest,
    ) -> Result<payment::GetPaymentStatusResponse, Status> {
        self.credit(&request.user_id)?;
        let paid = self.payments.contains_key(&(request.user_id, request.order_id));
        Ok(payment::GetPaymentStatusResponse { paid })
    }

    fn fill_user(&mut self, id: String, request: &payment::BatchInitRequest) {
        self.users.insert(id, request.starting_money);
    }
}
