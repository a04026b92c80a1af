//! The gRPC service `till.payment.v1`.

use participant::{
    fill::{Fill, fill},
    lane::LaneError,
    role::Parts,
    service::checked,
};
use proto::{
    convert::{batch_numbers, money, order_id, user_id},
    payment::v1::{self as wire, payment_service_server::PaymentService},
};
use rpc::status::to_status;
use tonic::{Request, Response, Status};
use types::{ClientCall, UserId};

use crate::records::{Op, Payment, Reply};

/// The payment service over gRPC.
#[derive(Debug, Clone)]
pub struct Grpc {
    parts: Parts<Payment>,
}

impl Grpc {
    /// Makes the service.
    pub const fn new(parts: Parts<Payment>) -> Self {
        Self { parts }
    }

    /// Executes an operation and returns the user's credit.
    async fn credit(&self, id: &UserId, op: Op, call: Option<ClientCall>) -> Result<u64, Status> {
        match self.parts.execute(id.as_str(), op, call).await? {
            (Reply::Credit(credit), _) => Ok(credit),
            (Reply::Paid(_), _) => Err(to_status(&LaneError::Unavailable)),
        }
    }
}

#[tonic::async_trait]
impl PaymentService for Grpc {
    async fn create_user(
        &self,
        request: Request<wire::CreateUserRequest>,
    ) -> Result<Response<wire::CreateUserResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let call = self.parts.client_call(&metadata, &request.request_id, "CreateUser")?;
        let id = UserId::derived(&call.id);
        self.credit(&id, Op::Create(id.clone()), Some(call)).await?;
        Ok(Response::new(wire::CreateUserResponse { user_id: id.to_string() }))
    }

    async fn get_user(
        &self,
        request: Request<wire::GetUserRequest>,
    ) -> Result<Response<wire::GetUserResponse>, Status> {
        let id = checked(user_id("user_id", &request.get_ref().user_id))?;
        let credit = self.credit(&id, Op::Get(id.clone()), None).await?;
        let user = wire::User { user_id: id.to_string(), credit };
        Ok(Response::new(wire::GetUserResponse { user: Some(user) }))
    }

    async fn add_funds(
        &self,
        request: Request<wire::AddFundsRequest>,
    ) -> Result<Response<wire::AddFundsResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = checked(user_id("user_id", &request.user_id))?;
        let amount = checked(money("amount", request.amount, 1))?;
        let what = format!("AddFunds/{id}/{amount}");
        let call = self.parts.client_call(&metadata, &request.request_id, &what)?;
        let credit = self.credit(&id, Op::Add(id.clone(), amount), Some(call)).await?;
        Ok(Response::new(wire::AddFundsResponse { credit }))
    }

    async fn pay(
        &self,
        request: Request<wire::PayRequest>,
    ) -> Result<Response<wire::PayResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = checked(user_id("user_id", &request.user_id))?;
        let amount = checked(money("amount", request.amount, 1))?;
        let order = match request.order_id.as_str() {
            "" => None,
            text => Some(checked(order_id("order_id", text))?),
        };
        let what = format!("Pay/{id}/{}/{amount}", request.order_id);
        let call = self.parts.client_call(&metadata, &request.request_id, &what)?;
        let credit = self.credit(&id, Op::Pay(id.clone(), amount, order), Some(call)).await?;
        Ok(Response::new(wire::PayResponse { credit }))
    }

    async fn cancel_payment(
        &self,
        request: Request<wire::CancelPaymentRequest>,
    ) -> Result<Response<wire::CancelPaymentResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let id = checked(user_id("user_id", &request.user_id))?;
        let order = checked(order_id("order_id", &request.order_id))?;
        let what = format!("CancelPayment/{id}/{order}");
        let call = self.parts.client_call(&metadata, &request.request_id, &what)?;
        let credit = self.credit(&id, Op::Cancel(id.clone(), order), Some(call)).await?;
        Ok(Response::new(wire::CancelPaymentResponse { credit }))
    }

    async fn get_payment_status(
        &self,
        request: Request<wire::GetPaymentStatusRequest>,
    ) -> Result<Response<wire::GetPaymentStatusResponse>, Status> {
        let request = request.get_ref();
        let id = checked(user_id("user_id", &request.user_id))?;
        let order = checked(order_id("order_id", &request.order_id))?;
        let status = self.parts.execute(id.as_str(), Op::Status(id.clone(), order), None);
        match status.await? {
            (Reply::Paid(paid), _) => Ok(Response::new(wire::GetPaymentStatusResponse { paid })),
            (Reply::Credit(_), _) => Err(to_status(&LaneError::Unavailable)),
        }
    }

    async fn batch_init(
        &self,
        request: Request<wire::BatchInitRequest>,
    ) -> Result<Response<wire::BatchInitResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let credit = checked(money("starting_money", request.starting_money, 0))?;
        let what = format!("BatchInit/{}/{}/{credit}", request.first, request.count);
        let plan = Fill {
            numbers: checked(batch_numbers(request.first, request.count))?,
            shards: self.parts.wanted_shards(&request.shards, request.shard_count)?,
            call: self.parts.client_call(&metadata, &request.request_id, &what)?,
        };
        let written = fill(&self.parts.shards, plan, |numbers| Op::Init { numbers, credit }).await;
        let written = written.map_err(|error| to_status(&error))?;
        Ok(Response::new(wire::BatchInitResponse { written }))
    }
}
