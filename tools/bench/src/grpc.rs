//! The same calls by gRPC, past the REST face.

use proto::{
    coordinator::v1::{CheckoutRequest, coordinator_service_client::CoordinatorServiceClient},
    order::v1::{
        AddItemRequest, CreateOrderRequest, GetOrderRequest,
        order_service_client::OrderServiceClient,
    },
    payment::v1::{
        CreateUserRequest, GetUserRequest, payment_service_client::PaymentServiceClient,
    },
    stock::v1::{CreateItemRequest, GetItemRequest, stock_service_client::StockServiceClient},
};
use rpc::{access::Identity, net::GrpcNet, status::Failure};
use tonic::{Status, transport::Channel};
use types::{ErrorKind, Role};

use crate::{
    call::{Call, Order, Outcome, Reply, Trouble},
    roles::{Process, listening},
};

/// A channel to one replica of each role.
#[derive(Debug, Clone)]
pub(crate) struct Grpc {
    coordinator: CoordinatorServiceClient<Channel>,
    order: OrderServiceClient<Channel>,
    stock: StockServiceClient<Channel>,
    payment: PaymentServiceClient<Channel>,
}

impl Grpc {
    /// Channels to replica `number` of each role, modulo how many there are. None when a role is
    /// missing.
    pub(crate) fn new(net: &GrpcNet, processes: &[Process], number: usize) -> Option<Self> {
        let channel = |role: Role| {
            let replicas = listening(processes, role.name());
            let place = number.checked_rem(replicas.len())?;
            Some(net.channel(Some(&Identity::of(role)), replicas.get(place)?))
        };
        Some(Self {
            coordinator: CoordinatorServiceClient::new(channel(Role::Coordinator)?),
            order: OrderServiceClient::new(channel(Role::Order)?),
            stock: StockServiceClient::new(channel(Role::Stock)?),
            payment: PaymentServiceClient::new(channel(Role::Payment)?),
        })
    }

    /// Makes one call. Fill calls do nothing here: they go by REST, where one call fills all
    /// shards.
    pub(crate) async fn call(&mut self, call: &Call) -> Outcome {
        match tokio::time::timeout(call.patience(), self.send(call)).await {
            Ok(answer) => answer.map_err(|status| trouble(&status)),
            Err(_) => Err(Trouble::Failed("no answer in time".to_owned())),
        }
    }

    async fn send(&mut self, call: &Call) -> Result<Reply, Status> {
        // The shop generates a request id if it is empty.
        let request_id = String::new;
        Ok(match call.clone() {
            Call::Checkout { order } => {
                let request = CheckoutRequest { order_id: order, ..CheckoutRequest::default() };
                self.coordinator.checkout(request).await?;
                Reply::Nothing
            }
            Call::CreateOrder { user } => {
                let request = CreateOrderRequest { user_id: user, request_id: request_id() };
                Reply::Id(self.order.create_order(request).await?.into_inner().order_id)
            }
            Call::AddItem { order, item } => {
                let request = AddItemRequest {
                    order_id: order,
                    item_id: item,
                    quantity: 1,
                    request_id: request_id(),
                };
                self.order.add_item(request).await?;
                Reply::Nothing
            }
            Call::FindOrder { order } => {
                let request = GetOrderRequest { order_id: order };
                let found = self.order.get_order(request).await?.into_inner().order;
                Reply::Order(found.map(Order::from).unwrap_or_default())
            }
            Call::FindItem { item } => {
                let request = GetItemRequest { item_id: item };
                let found = self.stock.get_item(request).await?.into_inner().item;
                Reply::Amount(found.unwrap_or_default().stock)
            }
            Call::FindUser { user } => {
                let request = GetUserRequest { user_id: user };
                let found = self.payment.get_user(request).await?.into_inner().user;
                Reply::Amount(found.unwrap_or_default().credit)
            }
            Call::CreateItem { price } => {
                let request = CreateItemRequest { price, request_id: request_id() };
                Reply::Id(self.stock.create_item(request).await?.into_inner().item_id)
            }
            Call::CreateUser => {
                let request = CreateUserRequest { request_id: request_id() };
                Reply::Id(self.payment.create_user(request).await?.into_inner().user_id)
            }
            Call::FillStock { .. } | Call::FillUsers { .. } | Call::FillOrders { .. } => {
                Reply::Nothing
            }
        })
    }
}

impl From<proto::order::v1::Order> for Order {
    fn from(order: proto::order::v1::Order) -> Self {
        Self {
            paid: order.paid,
            user: order.user_id,
            lines: order.lines.into_iter().map(|line| (line.item_id, line.quantity)).collect(),
            cost: order.total_cost,
        }
    }
}

fn trouble(status: &Status) -> Trouble {
    let failure = Failure::from_status(status);
    match failure.kind {
        ErrorKind::Rejected
        | ErrorKind::NotFound
        | ErrorKind::InvalidInput
        | ErrorKind::AlreadyExists
        | ErrorKind::Changed
        | ErrorKind::Forbidden
        | ErrorKind::RequestIdReused => Trouble::Refused(failure.reason),
        ErrorKind::Overloaded => Trouble::Shed(failure.reason),
        ErrorKind::Contended
        | ErrorKind::Unavailable
        | ErrorKind::Deadline
        | ErrorKind::Internal => {
            Trouble::Failed(format!("{}: {}", failure.reason, failure.message))
        }
    }
}
