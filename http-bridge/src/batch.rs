//! batch_init over all shards of a service: each replica is sent the shards that it serves, all at once,
//! so that no two replicas write the same shard.
//!
//! All parts carry the request id of the call: the service tells the shards apart, so that a repeated call
//! takes effect once although the routes may have changed in between.

use std::{collections::BTreeMap, time::Duration};

use futures::future::try_join_all;
use rpc::{
    net::{Endpoint, Transport},
    routing::Router,
};
use tokio::time::Instant;
use tonic::{Response, Status};
use types::ShardId;

use crate::{
    bridge::Bridge,
    problem::Problem,
    upstream::{Ask, Effect, To},
};

impl Bridge {
    /// Sends every replica of the service its shards, again and again until the deadline. Returns what the
    /// parts returned.
    ///
    /// # Errors
    /// The first refusal, or UNAVAILABLE or OUTCOME_UNKNOWN at the deadline.
    pub(crate) async fn fill<Req, Res, F, Fut>(
        &self,
        service: &Router,
        deadline: Instant,
        part: impl Fn(Vec<u32>) -> Req,
        send: F,
    ) -> Result<Vec<Res>, Problem>
    where
        Req: Clone,
        F: Fn(Transport, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let shards = self.shards(service, deadline).await?;
        let parts = group(service, shards).into_values().map(|shards| {
            let ask = Ask {
                service,
                // A part that fails goes to the next best replica of its first shard, whole: whoever
                // gets it can write all of it.
                to: shards.first().map_or(To::Any, |first| To::Shard(*first)),
                effect: Effect::Changes,
                deadline,
                // Starting over costs more than waiting: a dead connection is noticed by its pings.
                attempt_timeout: self.settings().batch_init_timeout,
                settle: Duration::ZERO,
            };
            let shards = shards.iter().map(|shard| u32::from(shard.0)).collect();
            self.ask(ask, part(shards), &send)
        });
        try_join_all(parts).await
    }
}

/// The shards of every replica; those without a replica, while none is known, form one part.
fn group(service: &Router, shards: u16) -> BTreeMap<Option<Endpoint>, Vec<ShardId>> {
    let mut groups: BTreeMap<_, Vec<ShardId>> = BTreeMap::new();
    for shard in (0..shards).map(ShardId) {
        let endpoint = service.route(shard).ok().map(|route| route.endpoint);
        groups.entry(endpoint).or_default().push(shard);
    }
    groups
}
