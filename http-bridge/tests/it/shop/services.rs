//! The services of the in-memory shop.

use std::collections::BTreeMap;

use proto::{
    coordinator::v1::{
        CheckoutRequest, CheckoutResponse, ClaimRequestIdRequest, ClaimRequestIdResponse,
        ExplainTransactionRequest, ExplainTransactionResponse, GetAuditRequest, GetAuditResponse,
        ListUnresolvedRequest, ListUnresolvedResponse, Outcome, ResolveByIdRequest,
        ResolveByIdResponse, ResolveRequest, ResolveResponse, RunTransactionRequest,
        RunTransactionResponse,
        coordinator_service_server::{CoordinatorService, CoordinatorServiceServer},
        explain_transaction_request::Subject,
        transaction_service_server::{TransactionService, TransactionServiceServer},
    },
    order::v1 as order,
    participant::v1 as participant,
    payment::v1 as payment,
    stock::v1 as stock,
};
use tonic::{Request, Response, Status, service::Routes};
use types::{AMOUNT_MAX, ItemId, OrderId, Reason, RequestId, ShardId, UserId, shard_of};

use super::{Item, Order, SHARDS, World, refuse};

type Reply<T> = Result<Response<T>, Status>;

/// The services of the replica at an endpoint.
pub(crate) fn routes(world: &World, endpoint: &str) -> Routes {
    let (_, health) = tonic_health::server::health_reporter();
    let routes = Routes::new(health);
    let (name, _) = endpoint.split_once('-').unwrap();
    let described = participant::participant_service_server::ParticipantServiceServer::new(
        Described(name.to_owned()),
    );
    let world = world.clone();
    match name {
        "order" => routes
            .add_service(described)
            .add_service(order::order_service_server::OrderServiceServer::new(world)),
        "stock" => routes
            .add_service(described)
            .add_service(stock::stock_service_server::StockServiceServer::new(world)),
        "payment" => routes
            .add_service(described)
            .add_service(payment::payment_service_server::PaymentServiceServer::new(world)),
        _ => {
            let operators = Operators { world: world.clone(), endpoint: endpoint.to_owned() };
            routes
                .add_service(CoordinatorServiceServer::new(world))
                .add_service(TransactionServiceServer::new(operators))
        }
    }
}

struct Described(String);

macro_rules! not_asked {
    ($($name:ident: $request:ident -> $response:ident;)*) => {
        #[tonic::async_trait]
        impl participant::participant_service_server::ParticipantService for Described {
            async fn describe(
                &self,
                _: Request<participant::DescribeRequest>,
            ) -> Reply<participant::DescribeResponse> {
                let service = self.0.clone();
                let shards = u32::from(SHARDS);
                Ok(Response::new(participant::DescribeResponse { service, shards }))
            }

            $(async fn $name(
                &self,
                _: Request<participant::$request>,
            ) -> Reply<participant::$response> {
                panic!("the bridge asked a participant for a vote")
            })*
        }
    };
}

not_asked! {
    prepare: PrepareRequest -> PrepareResponse;
    commit: CommitRequest -> CommitResponse;
    abort: AbortRequest -> AbortResponse;
    query: QueryRequest -> QueryResponse;
    forget: ForgetRequest -> ForgetResponse;
    apply: ApplyRequest -> ApplyResponse;
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

#[tonic::async_trait]
impl order::order_service_server::OrderService for World {
    async fn create_order(
        &self,
        request: Request<order::CreateOrderRequest>,
    ) -> Reply<order::CreateOrderResponse> {
        let request = request.into_inner();
        self.once("order", &request.request_id, |state| {
            let order_id = derived(&request.request_id, OrderId::derived).to_string();
            let made = Order { user_id: request.user_id, ..Order::default() };
            state.orders.insert(order_id.clone(), made);
            Ok(order::CreateOrderResponse { order_id })
        })
    }

    async fn get_order(
        &self,
        request: Request<order::GetOrderRequest>,
    ) -> Reply<order::GetOrderResponse> {
        let order_id = request.into_inner().order_id;
        let state = self.state();
        let found = state.orders.get(&order_id).ok_or_else(|| refuse(Reason::OrderNotFound))?;
        let lines = found.lines.iter().map(|(item_id, quantity, price)| order::order::Line {
            item_id: item_id.clone(),
            quantity: *quantity,
            price: *price,
        });
        let order = order::Order {
            order_id,
            user_id: found.user_id.clone(),
            paid: found.paid,
            lines: lines.collect(),
            total_cost: found.cost(),
            version: 1,
            etag: format!("{:x}-{:x}", found.lines.len(), u8::from(found.paid)),
            sold_etag: String::new(),
        };
        Ok(Response::new(order::GetOrderResponse { order: Some(order), read_ts: 1 }))
    }

    async fn add_item(
        &self,
        request: Request<order::AddItemRequest>,
    ) -> Reply<order::AddItemResponse> {
        let request = request.into_inner();
        self.once("order", &request.request_id, |state| {
            let price = state.items.get(&request.item_id).map(|item| item.price);
            let order = state.orders.get_mut(&request.order_id);
            let order = order.ok_or_else(|| refuse(Reason::OrderNotFound))?;
            let price = price.ok_or_else(|| refuse(Reason::ItemNotFound))?;
            if order.paid {
                return Err(refuse(Reason::AlreadyPaid));
            }
            if request.quantity > AMOUNT_MAX / price.max(1) {
                return Err(refuse(Reason::Overflow));
            }
            order.lines.push((request.item_id, request.quantity, price));
            Ok(order::AddItemResponse { total_cost: order.cost() })
        })
    }

    async fn remove_item(
        &self,
        request: Request<order::RemoveItemRequest>,
    ) -> Reply<order::RemoveItemResponse> {
        let request = request.into_inner();
        self.once("order", &request.request_id, |state| {
            let order = state.orders.get_mut(&request.order_id);
            let order = order.ok_or_else(|| refuse(Reason::OrderNotFound))?;
            if order.paid {
                return Err(refuse(Reason::AlreadyPaid));
            }
            let line = order.lines.iter_mut().rev().find(|line| line.0 == request.item_id);
            line.ok_or_else(|| refuse(Reason::NotInOrder))?.1 -= 1;
            order.lines.retain(|line| line.1 > 0);
            Ok(order::RemoveItemResponse { total_cost: order.cost() })
        })
    }

    async fn remove_order(
        &self,
        request: Request<order::RemoveOrderRequest>,
    ) -> Reply<order::RemoveOrderResponse> {
        let request = request.into_inner();
        self.once("order", &request.request_id, |state| {
            let order = state.orders.get(&request.order_id);
            if order.ok_or_else(|| refuse(Reason::OrderNotFound))?.paid {
                return Err(refuse(Reason::AlreadyPaid));
            }
            state.orders.remove(&request.order_id);
            Ok(order::RemoveOrderResponse {})
        })
    }

    async fn batch_init(
        &self,
        request: Request<order::BatchInitRequest>,
    ) -> Reply<order::BatchInitResponse> {
        let request = request.into_inner();
        let part = format!("{}{}{:?}", request.request_id, request.first, request.shards);
        self.once("order", &part, |state| {
            let mut written = 0;
            for id in numbers(request.first, request.count, &request.shards) {
                let line = || ("0".to_owned(), 1, request.item_price);
                let user_id = (request.user_count - 1).to_string();
                let order = Order { user_id, paid: false, lines: vec![line(), line()] };
                state.orders.insert(id, order);
                written += 1;
            }
            Ok(order::BatchInitResponse { written })
        })
    }
}

#[tonic::async_trait]
impl stock::stock_service_server::StockService for World {
    async fn create_item(
        &self,
        request: Request<stock::CreateItemRequest>,
    ) -> Reply<stock::CreateItemResponse> {
        let request = request.into_inner();
        self.once("stock", &request.request_id, |state| {
            let item_id = derived(&request.request_id, ItemId::derived).to_string();
            state.items.insert(item_id.clone(), Item { price: request.price, stock: 0 });
            Ok(stock::CreateItemResponse { item_id })
        })
    }

    async fn get_item(
        &self,
        request: Request<stock::GetItemRequest>,
    ) -> Reply<stock::GetItemResponse> {
        let item_id = request.into_inner().item_id;
        let state = self.state();
        let found = state.items.get(&item_id).ok_or_else(|| refuse(Reason::ItemNotFound))?;
        let item = stock::Item { item_id, stock: found.stock, price: found.price };
        Ok(Response::new(stock::GetItemResponse { item: Some(item) }))
    }

    async fn add_stock(
        &self,
        request: Request<stock::AddStockRequest>,
    ) -> Reply<stock::AddStockResponse> {
        let request = request.into_inner();
        self.once("stock", &request.request_id, |state| {
            let item = state.items.get_mut(&request.item_id);
            let item = item.ok_or_else(|| refuse(Reason::ItemNotFound))?;
            if item.stock + request.amount > AMOUNT_MAX {
                return Err(refuse(Reason::Overflow));
            }
            item.stock += request.amount;
            Ok(stock::AddStockResponse { stock: item.stock })
        })
    }

    async fn subtract_stock(
        &self,
        request: Request<stock::SubtractStockRequest>,
    ) -> Reply<stock::SubtractStockResponse> {
        let request = request.into_inner();
        self.once("stock", &request.request_id, |state| {
            let item = state.items.get_mut(&request.item_id);
            let item = item.ok_or_else(|| refuse(Reason::ItemNotFound))?;
            let left = item.stock.checked_sub(request.amount);
            item.stock = left.ok_or_else(|| refuse(Reason::OutOfStock))?;
            Ok(stock::SubtractStockResponse { stock: item.stock })
        })
    }

    async fn batch_init(
        &self,
        request: Request<stock::BatchInitRequest>,
    ) -> Reply<stock::BatchInitResponse> {
        let request = request.into_inner();
        let part = format!("{}{}{:?}", request.request_id, request.first, request.shards);
        self.once("stock", &part, |state| {
            let mut written = 0;
            for id in numbers(request.first, request.count, &request.shards) {
                let item = Item { price: request.item_price, stock: request.starting_stock };
                state.items.insert(id, item);
                written += 1;
            }
            Ok(stock::BatchInitResponse { written })
        })
    }
}

#[tonic::async_trait]
impl payment::payment_service_server::PaymentService for World {
    async fn create_user(
        &self,
        request: Request<payment::CreateUserRequest>,
    ) -> Reply<payment::CreateUserResponse> {
        let request = request.into_inner();
        self.once("payment", &request.request_id, |state| {
            let user_id = derived(&request.request_id, UserId::derived).to_string();
            state.users.insert(user_id.clone(), 0);
            Ok(payment::CreateUserResponse { user_id })
        })
    }

    async fn get_user(
        &self,
        request: Request<payment::GetUserRequest>,
    ) -> Reply<payment::GetUserResponse> {
        let user_id = request.into_inner().user_id;
        let state = self.state();
        let credit = *state.users.get(&user_id).ok_or_else(|| refuse(Reason::UserNotFound))?;
        let user = payment::User { user_id, credit };
        Ok(Response::new(payment::GetUserResponse { user: Some(user) }))
    }

    async fn add_funds(
        &self,
        request: Request<payment::AddFundsRequest>,
    ) -> Reply<payment::AddFundsResponse> {
        let request = request.into_inner();
        self.once("payment", &request.request_id, |state| {
            let credit = state.users.get_mut(&request.user_id);
            let credit = credit.ok_or_else(|| refuse(Reason::UserNotFound))?;
            if *credit + request.amount > AMOUNT_MAX {
                return Err(refuse(Reason::Overflow));
            }
            *credit += request.amount;
            Ok(payment::AddFundsResponse { credit: *credit })
        })
    }

    async fn pay(&self, request: Request<payment::PayRequest>) -> Reply<payment::PayResponse> {
        let request = request.into_inner();
        self.once("payment", &request.request_id, |state| {
            let key = (request.user_id.clone(), request.order_id);
            let credit = state.users.get_mut(&request.user_id);
            let credit = credit.ok_or_else(|| refuse(Reason::UserNotFound))?;
            if state.payments.contains_key(&key) {
                return Err(refuse(Reason::AlreadyPaid));
            }
            let left = credit.checked_sub(request.amount);
            *credit = left.ok_or_else(|| refuse(Reason::OutOfCredit))?;
            let credit = *credit;
            if !key.1.is_empty() {
                state.payments.insert(key, request.amount);
            }
            Ok(payment::PayResponse { credit })
        })
    }

    async fn cancel_payment(
        &self,
        request: Request<payment::CancelPaymentRequest>,
    ) -> Reply<payment::CancelPaymentResponse> {
        let request = request.into_inner();
        self.once("payment", &request.request_id, |state| {
            let credit = state.users.get_mut(&request.user_id);
            let credit = credit.ok_or_else(|| refuse(Reason::UserNotFound))?;
            let paid = state.payments.remove(&(request.user_id, request.order_id));
            *credit += paid.ok_or_else(|| refuse(Reason::NotPaid))?;
            Ok(payment::CancelPaymentResponse { credit: *credit })
        })
    }

    async fn get_payment_status(
        &self,
        request: Request<payment::GetPaymentStatusRequest>,
    ) -> Reply<payment::GetPaymentStatusResponse> {
        let request = request.into_inner();
        let state = self.state();
        if !state.users.contains_key(&request.user_id) {
            return Err(refuse(Reason::UserNotFound));
        }
        let paid = state.payments.contains_key(&(request.user_id, request.order_id));
        Ok(Response::new(payment::GetPaymentStatusResponse { paid }))
    }

    async fn batch_init(
        &self,
        request: Request<payment::BatchInitRequest>,
    ) -> Reply<payment::BatchInitResponse> {
        let request = request.into_inner();
        let part = format!("{}{}{:?}", request.request_id, request.first, request.shards);
        self.once("payment", &part, |state| {
            let mut written = 0;
            for id in numbers(request.first, request.count, &request.shards) {
                state.users.insert(id, request.starting_money);
                written += 1;
            }
            Ok(payment::BatchInitResponse { written })
        })
    }
}

#[tonic::async_trait]
impl CoordinatorService for World {
    async fn checkout(&self, request: Request<CheckoutRequest>) -> Reply<CheckoutResponse> {
        let request = request.into_inner();
        self.state().logs_kept.push(request.keep_log);
        self.state().checkouts.push(request.clone());
        self.once("coordinator", &request.request_id, |state| {
            let order = state.orders.get_mut(&request.order_id);
            let order = order.ok_or_else(|| refuse(Reason::OrderNotFound))?;
            if order.paid {
                let tx_id = bytes::Bytes::new();
                return Ok(CheckoutResponse { already_paid: true, tx_id });
            }
            if order.lines.is_empty() {
                return Err(refuse(Reason::EmptyOrder));
            }
            // An item may have several lines, one per price.
            let mut wanted = BTreeMap::new();
            for (item_id, quantity, _) in &order.lines {
                *wanted.entry(item_id).or_insert(0_u64) += quantity;
            }
            for (item_id, quantity) in wanted {
                let item = state.items.get(item_id);
                if item.ok_or_else(|| refuse(Reason::UnknownItem))?.stock < quantity {
                    return Err(refuse(Reason::OutOfStock));
                }
            }
            let credit = state.users.get_mut(&order.user_id);
            let credit = credit.ok_or_else(|| refuse(Reason::UnknownUser))?;
            let left = credit.checked_sub(order.cost());
            *credit = left.ok_or_else(|| refuse(Reason::OutOfCredit))?;
            for (item_id, quantity, _) in &order.lines {
                state.items.get_mut(item_id).unwrap().stock -= quantity;
            }
            order.paid = true;
            let tx_id = bytes::Bytes::from_static(&[7; 16]);
            Ok(CheckoutResponse { already_paid: false, tx_id })
        })
    }

    async fn resolve(&self, _: Request<ResolveRequest>) -> Reply<ResolveResponse> {
        panic!("the bridge asked to resolve a transaction")
    }

    async fn claim_request_id(
        &self,
        request: Request<ClaimRequestIdRequest>,
    ) -> Reply<ClaimRequestIdResponse> {
        let ClaimRequestIdRequest { request_id, call } = request.into_inner();
        let mut state = self.state();
        if *state.claims.entry(request_id).or_insert_with(|| call.clone()) == call {
            Ok(Response::new(ClaimRequestIdResponse { read_ts: 1 }))
        } else {
            Err(refuse(Reason::RequestIdReused))
        }
    }
}

/// The operator calls of a coordinator replica, answered from the shop's reports and audits.
struct Operators {
    world: World,
    endpoint: String,
}

#[tonic::async_trait]
impl TransactionService for Operators {
    async fn run_transaction(
        &self,
        _: Request<RunTransactionRequest>,
    ) -> Reply<RunTransactionResponse> {
        panic!("the bridge runs no transactions of its own")
    }

    async fn explain_transaction(
        &self,
        request: Request<ExplainTransactionRequest>,
    ) -> Reply<ExplainTransactionResponse> {
        let subject = request.into_inner().subject.unwrap();
        let state = self.world.state();
        let known = state.reports.iter().filter(|report| match &subject {
            Subject::TxId(tx_id) => report.tx_id == *tx_id,
            Subject::OrderId(order_id) => report.order_id == *order_id,
        });
        let transactions: Vec<_> = known.cloned().collect();
        match subject {
            Subject::TxId(_) if transactions.is_empty() => Err(unknown_transaction()),
            Subject::TxId(_) | Subject::OrderId(_) => {
                Ok(Response::new(ExplainTransactionResponse { transactions }))
            }
        }
    }

    async fn list_unresolved(
        &self,
        _: Request<ListUnresolvedRequest>,
    ) -> Reply<ListUnresolvedResponse> {
        let transactions = self.world.state().reports.clone();
        Ok(Response::new(ListUnresolvedResponse { transactions, left_out: 0 }))
    }

    async fn resolve_by_id(
        &self,
        request: Request<ResolveByIdRequest>,
    ) -> Reply<ResolveByIdResponse> {
        let tx_id = request.into_inner().tx_id;
        let mut state = self.world.state();
        if state.reports.iter().all(|report| report.tx_id != tx_id) {
            return Err(unknown_transaction());
        }
        state.resolved.push(tx_id.to_vec());
        let outcome = Outcome::Committed.into();
        Ok(Response::new(ResolveByIdResponse { outcome, missing: Vec::new() }))
    }

    async fn get_audit(&self, _: Request<GetAuditRequest>) -> Reply<GetAuditResponse> {
        let audit = self.world.state().audits.get(&self.endpoint).cloned();
        Ok(Response::new(audit.unwrap_or_default()))
    }
}

/// The status with which the coordinator says so.
fn unknown_transaction() -> Status {
    struct Unknown;
    impl types::Classify for Unknown {
        fn kind(&self) -> types::ErrorKind {
            types::ErrorKind::NotFound
        }
        fn reason(&self) -> std::borrow::Cow<'static, str> {
            "TRANSACTION_UNKNOWN".into()
        }
    }
    impl std::fmt::Display for Unknown {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("nobody knows it")
        }
    }
    rpc::status::to_status(&Unknown)
}
