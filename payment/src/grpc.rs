//! Wire to domain: `till.payment.v1`.

use participant::{
    core::RequestKey,
    fill::{Fill, fill},
    lane::LaneError,
    role::Parts,
    service::invalid,
    shards::OpError,
};
use proto::{
    InvalidField,
    convert::{self, money, order_id, user_id},
    payment::v1::{self as wire, payment_service_server::PaymentService},
};
use rpc::status::to_status;
use tonic::{Request, Response, Status};
use types::UserId;

use crate::app::{Op, Payment, Reply};

/// The gRPC face of the payment service.
#[derive(Debug, Clone)]
pub struct Grpc {
    parts: Parts<Payment>,
}

impl Grpc {
    /// The face of these parts.
    pub const fn new(parts: Parts<Payment>) -> Self {
        Self { parts }
    }

    async fn execute(
        &self,
        id: &UserId,
        op: Op,
        request: Option<RequestKey>,
    ) -> Result<Reply, Status> {
        let run = async {
            let shard = self.parts.shards.shard_of(id.as_str()).map_err(OpError::from)?;
            self.parts.shards.execute(shard, op, request).await
        };
        run.await.map(|(reply, _)| reply).map_err(|error| to_status(&error))
    }

    /// Executes what answers with a user's credit.
    async fn credit(
        &self,
        id: &UserId,
        op: Op,
        request_id: &str,
        call: &str,
    ) -> Result<u64, Status> {
        let request = checked(convert::request_id(request_id))?;
        match self.execute(id, op, self.parts.retention.key(request, call)).await? {
            Reply::Credit(credit) => Ok(credit),
            Reply::Paid(_) => Err(to_status(&LaneError::Unavailable)),
        }
    }
}

fn checked<T>(field: Result<T, InvalidField>) -> Result<T, Status> {
    field.map_err(|error| invalid(&error))
}

#[tonic::async_trait]
impl PaymentService for Grpc {
    async fn create_user(
        &self,
        request: Request<wire::CreateUserRequest>,
    ) -> Result<Response<wire::CreateUserResponse>, Status> {
        let request = request.into_inner();
        let request_id = checked(convert::request_id(&request.request_id))?;
        let id = self.parts.new_id(request_id.as_ref(), UserId::derived, UserId::from);
        self.credit(&id, Op::Create(id.clone()), &request.request_id, "CreateUser").await?;
        Ok(Response::new(wire::CreateUserResponse { user_id: id.to_string() }))
    }

    async fn get_user(
        &self,
        request: Request<wire::GetUserRequest>,
    ) -> Result<Response<wire::GetUserResponse>, Status> {
        let id = checked(user_id("user_id", &request.get_ref().user_id))?;
        let credit = self.credit(&id, Op::Get(id.clone()), "", "").await?;
        let user = wire::User { user_id: id.to_string(), credit };
        Ok(Response::new(wire::GetUserResponse { user: Some(user) }))
    }

    async fn add_funds(
        &self,
        request: Request<wire::AddFundsRequest>,
    ) -> Result<Response<wire::AddFundsResponse>, Status> {
        let request = request.into_inner();
        let id = checked(user_id("user_id", &request.user_id))?;
        let amount = checked(money("amount", request.amount, 1))?;
        let call = format!("AddFunds/{id}/{amount}");
        let op = Op::Add(id.clone(), amount);
        let credit = self.credit(&id, op, &request.request_id, &call).await?;
        Ok(Response::new(wire::AddFundsResponse { credit }))
    }

    async fn pay(
        &self,
        request: Request<wire::PayRequest>,
    ) -> Result<Response<wire::PayResponse>, Status> {
        let request = request.into_inner();
        let id = checked(user_id("user_id", &request.user_id))?;
        let amount = checked(money("amount", request.amount, 1))?;
        let order = match request.order_id.as_str() {
            "" => None,
            text => Some(checked(order_id("order_id", text))?),
        };
        let call = format!("Pay/{id}/{}/{amount}", request.order_id);
        let op = Op::Pay(id.clone(), amount, order);
        let credit = self.credit(&id, op, &request.request_id, &call).await?;
        Ok(Response::new(wire::PayResponse { credit }))
    }

    async fn cancel_payment(
        &self,
        request: Request<wire::CancelPaymentRequest>,
    ) -> Result<Response<wire::CancelPaymentResponse>, Status> {
        let request = request.into_inner();
        let id = checked(user_id("user_id", &request.user_id))?;
        let order = checked(order_id("order_id", &request.order_id))?;
        let call = format!("CancelPayment/{id}/{order}");
        let op = Op::Cancel(id.clone(), order);
        let credit = self.credit(&id, op, &request.request_id, &call).await?;
        Ok(Response::new(wire::CancelPaymentResponse { credit }))
    }

    async fn get_payment_status(
        &self,
        request: Request<wire::GetPaymentStatusRequest>,
    ) -> Result<Response<wire::GetPaymentStatusResponse>, Status> {
        let request = request.get_ref();
        let id = checked(user_id("user_id", &request.user_id))?;
        let order = checked(order_id("order_id", &request.order_id))?;
        match self.execute(&id, Op::Status(id.clone(), order), None).await? {
            Reply::Paid(paid) => Ok(Response::new(wire::GetPaymentStatusResponse { paid })),
            Reply::Credit(_) => Err(to_status(&LaneError::Unavailable)),
        }
    }

    async fn batch_init(
        &self,
        request: Request<wire::BatchInitRequest>,
    ) -> Result<Response<wire::BatchInitResponse>, Status> {
        let request = request.into_inner();
        let credit = checked(money("starting_money", request.starting_money, 0))?;
        let call = format!("BatchInit/{}/{credit}", request.count);
        let plan = Fill {
            count: checked(convert::batch_count(request.count))?,
            shards: self.parts.wanted_shards(&request.shards)?,
            request: checked(convert::request_id(&request.request_id))?,
            call: &call,
            retention: self.parts.retention,
        };
        let written = fill(&self.parts.shards, plan, |numbers| Op::Init { numbers, credit }).await;
        let written = written.map_err(|error| to_status(&error))?;
        Ok(Response::new(wire::BatchInitResponse { written }))
    }
}
