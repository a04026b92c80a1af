//! The payment service.
//!
//! It does not know the other services, the coordinator, or which store it uses.
//!
//! Modules: [`rules`] decides, and is pure; [`records`] converts records, requests and answers from
//! and to bytes; [`grpc`] is the wire.
//!
//! Invariants: see ARCHITECTURE.md. What is available, held and sold always adds up to what was
//! supplied.

pub mod grpc;
pub mod records;
pub mod rules;

use participant::role::{self, Parts, RoleArgs, RoleError};
use proto::payment::v1::payment_service_server::{PaymentServiceServer, SERVICE_NAME};
use rpc::{listen::Listeners, served};
use tonic::service::Routes;

/// Settings of the payment service.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What all participants share.
    #[command(flatten)]
    pub role: RoleArgs,
}

/// The gRPC services of a replica.
pub fn routes(parts: &Parts<records::Payment>) -> Routes {
    let service = served!(PaymentServiceServer::new(grpc::Grpc::new(parts.clone())));
    parts.with_participant(Routes::new(service))
}

/// Serves until `shutdown` completes, then drains.
///
/// # Errors
/// [`RoleError`]; an operator must look into it.
pub async fn run(
    args: Args,
    listeners: Listeners,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RoleError> {
    role::run(records::Payment, SERVICE_NAME, args.role, listeners, routes, shutdown).await
}
