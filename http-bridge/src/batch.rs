//! batch_init over all shards of a service: each replica is sent the shards that it serves, all at once,
//! so that no two replicas write the same shard.
//!
//! A large one is made of parts, one after the other, for as long as the client waits. Each part is a range of
//! numbers with a life of its own, as no call may live longer than a minute. All parts carry the request id of
//! the call: the service tells the records apart, so that a repeated call goes on where it stood although the
//! routes may have changed in between.

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
    upstream::{Effect, Target, UpstreamCall},
};

/// Records of one part. Fixed, as a repeated call must be made of the same parts.
const PART: u64 = 50_000;

/// A part of a batch_init.
pub(crate) struct Part {
    /// Its numbers.
    pub(crate) numbers: Range<u64>,
    /// Of these only those on these shards.
    pub(crate) shards: Vec<u32>,
    /// How many shards there are, as far as is known here.
    pub(crate) shard_count: u32,
}

/// What all parts of a batch_init have in common.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Whole<'a> {
    /// When it is given up.
    pub(crate) deadline: Instant,
    pub(crate) effect: Effect<'a>,
    /// When this one leaves, no further part is begun: nobody would know until when it overwrites.
    pub(crate) caller: &'a Caller,
}

impl Part {
    pub(crate) fn count(&self) -> u64 {
        self.numbers.end.saturating_sub(self.numbers.start)
    }
}

impl Bridge {
    /// Sends every replica of the service its shards, part by part, each again and again until it is done.
    ///
    /// # Errors
    /// The first refusal; UNAVAILABLE or OUTCOME_UNKNOWN at the deadline, at the end of a part or when the caller
    /// has left.
    pub(crate) async fn fill<Req, Res, F, Fut>(
        &self,
        service: &Router,
        count: u64,
        whole: Whole<'_>,
        request: impl Fn(Part) -> Req,
        send: F,
    ) -> Result<(), Problem>
    where
        Req: Clone,
        F: Fn(Transport, tonic::Request<Req>) -> Fut,
        Fut: Future<Output = Result<Response<Res>, Status>>,
    {
        let Whole { deadline, effect, caller } = whole;
        // Even an empty one is asked for, so that it is refused where it must be.
        let mut first = 0;
        loop {
            let part_deadline = end_of_part(deadline);
            let shards = self.shards(service, part_deadline).await?;
            let shard_count = u32::from(shards);
            let numbers = first..count.min(first + PART);
            let parts = group(service, shards).into_values().map(|shards| {
                let ask = UpstreamCall {
                    service,
                    // A part that fails goes to the next best replica of its first shard, whole: whoever
                    // gets it can write all of it.
                    to: shards.first().map_or(Target::Any, |first| Target::Shard(*first)),
                    effect,
                    deadline: part_deadline,
                    // Starting over costs more than waiting: a dead connection is noticed by its pings.
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
                    // The store was made anew with other shards: none of the parts so far counts.
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

/// When a part of a batch_init that begins now is given up.
pub(crate) fn end_of_part(deadline: Instant) -> Instant {
    deadline.min(Instant::now() + Duration::from_millis(CALL_LIFE_MAX_MS))
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
