//! The roles behind the bridge.

use std::{collections::BTreeMap, sync::Arc};

use rpc::{access::Identity, net::Net, routing::Router};
use types::Role;

use crate::args::Args;

/// The replicas of each role that the bridge calls.
#[derive(Clone, Debug)]
pub struct Shop(BTreeMap<Role, Router>);

impl Shop {
    /// Makes a shop of the roles at the endpoints in `args`, over this network. Must be called
    /// within a tokio runtime.
    pub fn over(args: &Args, net: &Arc<dyn Net>) -> Self {
        let coordinator = (Role::Coordinator, &args.coordinator.coordinator_endpoints);
        let all = args.services.iter().chain([coordinator]);
        all.map(|(role, target)| {
            (role, Router::to(Identity::of(role), target.clone(), Arc::clone(net)))
        })
        .collect()
    }

    /// The replicas of a role.
    ///
    /// # Panics
    /// If the shop was made without this role.
    pub fn at(&self, role: Role) -> &Router {
        self.0.get(&role).expect("a shop has every role that the bridge calls")
    }

    /// Every role.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Role, &Router)> {
        self.0.iter().map(|(role, router)| (*role, router))
    }
}

impl FromIterator<(Role, Router)> for Shop {
    fn from_iter<T: IntoIterator<Item = (Role, Router)>>(routers: T) -> Self {
        Self(routers.into_iter().collect())
    }
}
