//! batch_init over all shards of a service. It asks all replicas at once, each for the shards that
//! it serves, so that no two replicas write the same shard.
//!
//! A large batch_init consists of parts, one after the other, for as long as the client waits. Each
//! part is a range of numbers with its own deadline, because no call may live longer than a minute.
//! All parts carry the request id of the call, and the service tells the records apart. A repeated
//! call therefore continues where the last one stopped, even if the routes have changed in between.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use futures::future::try_join_all;
use rpc::{
    net::{Endpoint, Transport},
    routing::Router,
};
use tokio::time::Instant;
use tonic::{Response, Status};
use types::{CALL_LIFE_MAX_MS, Reason, ShardId};

use crate::{
    bridge::Bridge,
    input::Caller,
    problem::Problem,
    upstream::{CallKind, Target, UpstreamCall},
};

/// Records per part. Fixed, because a repeated call must consist of the same parts.
const PART: u64 = 50_000;

/// A part of a batch_init.
pub(crate) struct Part {
    /// Numbers of its records.
    pub(crate) numbers: Range<u64>,
    /// Only records on these shards are written.
    pub(crate) shards: Vec<u32>,
    /// Number of shards of the service, as known here.
    pub(crate) shard_count: u32,
}

/// The values that all parts of a batch_init share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchInitCall<'a> {
    /// When the batch_init is given up.
    pub(crate) deadline: Instant,
    pub(crate) kind: CallKind<'a>,
    /// No further part begins once this caller has left. Otherwise nobody would know how long
    /// records are still being overwritten.
    pub(crate) caller: &'a Caller,
}

impl Part {
    pub(crate) fn count(&self) -> u64 {
        self.numbers.end.saturating_sub(self.numbers.start)
    }
}

impl Bridge {
    /// Sends every replica of the service its shards, part by part. Each part is repeated until it
    /// is done.
    ///
    /// # Errors
    /// The first refusal. UNAVAILABLE, OUTCOME_UNKNOWN or OVERLOADED at the deadline or at the end
    /// of a part; UNAVAILABLE when the caller has left.
    pub(crate) async fn fill<Req, Res, F, Fut>(
        &self,
        service: &Router,
        count: u64,
        call: BatchInitCall<'_>,
        request: impl Fn(Part) -> Req,
        send: F,
    ) -> Result<(), Problem>
    where
        Req: Clone,
        F: Fn(Transport, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let BatchInitCall { deadline, kind, caller } = call;
        // An empty batch_init is sent too, so that the service can refuse it.
        let mut first = 0;
        loop {
            let part_deadline = end_of_part(deadline);
            let shards = self.shards(service, part_deadline).await?;
            let shard_count = u32::from(shards);
            let numbers = first..count.min(first + PART);
            let parts = group(service, shards).into_values().map(|shards| {
                let ask = UpstreamCall {
                    service,
                    // A part that fails goes as a whole to the next best replica of its first
                    // shard. That is correct, because any replica can write all of it.
                    to: shards.first().map_or(Target::Any, |first| Target::Shard(*first)),
                    kind,
                    deadline: part_deadline,
                    // Starting over costs more than waiting. Pings detect a dead connection.
                    attempt_timeout: None,
                };
                let shards = shards.iter().map(|shard| u32::from(shard.0)).collect();
                self.ask(
                    ask,
                    request(Part { numbers: numbers.clone(), shards, shard_count }),
                    &send,
                )
            });
            match try_join_all(parts).await {
                Ok(_) if numbers.end >= count => return Ok(()),
                Ok(_) if caller.has_left() => {
                    return Err(Problem::of(Reason::Unavailable).because(&"its caller left"));
                }
                Ok(_) => first = numbers.end,
                Err(problem) if problem.reason() == Reason::WrongShard.as_str() => {
                    // The store was recreated with other shards, so none of the parts so far
                    // counts.
                    service.forget_description();
                    first = 0;
                    let pause = Duration::from_millis(100);
                    if Instant::now() + pause >= deadline {
                        return Err(Problem::of(Reason::Unavailable));
                    }
                    tokio::time::sleep(pause).await;
                }
                Err(problem) => return Err(problem),
            }
        }
    }
}

/// The deadline of a part of a batch_init that begins now.
pub(crate) fn end_of_part(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + Duration::from_millis(CALL_LIFE_MAX_MS))
}

/// The shards of every replica. Shards without a known replica form one group.
fn group(service: &Router, shards: u16) -> BTreeMap<Option<Endpoint>, Vec<ShardId>> {
    let mut groups: BTreeMap<_, Vec<ShardId>> = BTreeMap::new();
    for shard in (0..shards).map(ShardId) {
        let endpoint = service.route(shard).ok().map(|route| route.endpoint);
        groups.entry(endpoint).or_default().push(shard);
    }
    groups
}
