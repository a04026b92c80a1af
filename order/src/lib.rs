//! The order service.
//!
//! It does not know the coordinator, payment, or which store it uses. It calls stock only to get a
//! price.
//!
//! Modules: [`rules`] decides, and is pure; [`records`] converts records, requests and answers from
//! and to bytes; [`grpc`] is the wire.
//!
//! Invariants: see ARCHITECTURE.md. An order is paid once, for good, and a locked order does not
//! change.

pub mod grpc;
pub mod records;
pub mod rules;

use std::sync::Arc;

use participant::role::{self, Parts, RoleArgs, RoleError};
use proto::order::v1::order_service_server::{OrderServiceServer, SERVICE_NAME};
use rpc::{
    access::Identity,
    endpoints::StockEndpoints,
    listen::Listeners,
    routing::{Router, Target},
    served,
};
use tonic::service::Routes;
use types::Role;

/// Settings of the order service.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// What all participants share.
    #[command(flatten)]
    pub role: RoleArgs,

    /// The stock service.
    #[command(flatten)]
    pub stock: StockEndpoints,
}

/// The gRPC services of a replica.
pub fn routes(parts: &Parts<records::Orders>, stock: Target) -> Routes {
    let stock = Router::to(Identity::of(Role::Stock), stock, Arc::clone(&parts.net));
    let service = served!(OrderServiceServer::new(grpc::Grpc::new(parts.clone(), stock)));
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
    let stock = args.stock.stock_endpoints;
    let routes = |parts: &Parts<records::Orders>| routes(parts, stock);
    role::run(records::Orders, SERVICE_NAME, args.role, listeners, routes, shutdown).await
}
