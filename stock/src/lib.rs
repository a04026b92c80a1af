//! The stock service.
//!
//! It does not know the other services, the coordinator, or which store it uses.
//!
//! Modules: [`rules`] decides, and is pure ([`participant::balance`] decides whether an amount
//! suffices); [`records`] converts records, requests and answers from and to bytes; [`grpc`] is the
//! wire.
//!
//! Invariants: see ARCHITECTURE.md. What is available, held and sold always adds up to what was
//! supplied.

pub mod grpc;
pub mod records;
pub mod rules;

use participant::role::{self, Parts, RoleArgs, RoleError};
use proto::stock::v1::stock_service_server::{SERVICE_NAME, StockServiceServer};
use rpc::{listen::Listeners, served};
use tonic::service::Routes;

/// Settings of the stock service.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What all participants share.
    #[command(flatten)]
    pub role: RoleArgs,
}

/// The gRPC services of a replica.
pub fn routes(parts: &Parts<records::Stock>) -> Routes {
    let service = served!(StockServiceServer::new(grpc::Grpc::new(parts.clone())));
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
    role::run(records::Stock, SERVICE_NAME, args.role, listeners, routes, shutdown).await
}
