//! The services behind the bridge.

use std::sync::Arc;

use rpc::{
    access::{Identity, Role},
    net::Net,
    routing::Router,
};

use crate::args::Args;

/// The services behind the bridge.
#[derive(Clone, Debug)]
pub struct Shop {
    /// Replicas of the order service.
    pub order: Router,
    /// Replicas of the stock service.
    pub stock: Router,
    /// Replicas of the payment service.
    pub payment: Router,
    /// Replicas of the coordinator.
    pub coordinator: Router,
}

impl Shop {
    /// The services at the endpoints in `args`, over this network. Must be called within a tokio
    /// runtime.
    pub fn over(args: &Args, net: &Arc<dyn Net>) -> Self {
        let router = |role, target: &rpc::routing::Target| {
            Router::to(Identity::of(role), target.clone(), Arc::clone(net))
        };
        Self {
            order: router(Role::Order, &args.shop.order_endpoints),
            stock: router(Role::Stock, &args.shop.stock.stock_endpoints),
            payment: router(Role::Payment, &args.shop.payment_endpoints),
            coordinator: router(Role::Coordinator, &args.coordinator.coordinator_endpoints),
        }
    }

    /// Every service and its name.
    pub(crate) fn all(&self) -> [(&'static str, &Router); 4] {
        [
            ("order", &self.order),
            ("stock", &self.stock),
            ("payment", &self.payment),
            ("coordinator", &self.coordinator),
        ]
    }
}
