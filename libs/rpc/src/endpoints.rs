//! The settings that say where the services are.

use crate::routing::Target;

/// The stock service.
#[derive(clap::Args, Clone, Debug)]
pub struct StockEndpoints {
    /// Address of the stock service: host:port[,host:port...] or dns:host:port.
    #[arg(
        long,
        env = "TILL_STOCK_ENDPOINTS",
        default_value = "127.0.0.1:7200",
        value_name = "ENDPOINTS"
    )]
    pub stock_endpoints: Target,
}

/// The coordinator.
#[derive(clap::Args, Clone, Debug)]
pub struct CoordinatorEndpoints {
    /// Address of the coordinator: host:port[,host:port...] or dns:host:port.
    #[arg(
        long,
        env = "TILL_COORDINATOR_ENDPOINTS",
        default_value = "127.0.0.1:7000",
        value_name = "ENDPOINTS"
    )]
    pub coordinator_endpoints: Target,
}

/// The three participants of a checkout.
#[derive(clap::Args, Clone, Debug)]
pub struct ShopEndpoints {
    /// Address of the order service: host:port[,host:port...] or dns:host:port.
    #[arg(
        long,
        env = "TILL_ORDER_ENDPOINTS",
        default_value = "127.0.0.1:7100",
        value_name = "ENDPOINTS"
    )]
    pub order_endpoints: Target,

    /// The stock service.
    #[command(flatten)]
    pub stock: StockEndpoints,

    /// Address of the payment service: host:port[,host:port...] or dns:host:port.
    #[arg(
        long,
        env = "TILL_PAYMENT_ENDPOINTS",
        default_value = "127.0.0.1:7300",
        value_name = "ENDPOINTS"
    )]
    pub payment_endpoints: Target,
}
