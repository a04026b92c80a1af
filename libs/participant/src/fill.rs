//! batch_init: many records, shard by shard, in chunks that fit a batch.

use futures::{StreamExt, TryStreamExt, stream};
use types::{RequestId, ShardId, shard_of};

use crate::{
    domain::Domain,
    shards::{OpError, Retention, Shards},
};

/// Records in one operation.
const CHUNK: usize = 64;
/// Operations in flight on one shard: what fits a batch, while the next ones are ready.
const IN_FLIGHT: usize = 8;

/// What to fill.
#[derive(Debug, Clone)]
pub struct Fill<'a> {
    /// Records "0" to `count - 1`.
    pub count: u64,
    /// Only those of these shards.
    pub shards: Vec<ShardId>,
    /// The call's request id; each chunk takes effect once under a part of it.
    pub request: Option<RequestId>,
    /// Describes the call with all its fields.
    pub call: &'a str,
    /// How long request ids are kept.
    pub retention: Retention,
}

/// Executes `op` for every chunk of numbers. Returns how many records were written.
///
/// # Errors
/// [`OpError`]: some chunks may have been written; repeat it with the same request id.
pub async fn fill<D: Domain>(
    lanes: &Shards<D>,
    fill: Fill<'_>,
    op: impl Fn(Vec<u64>) -> D::Op + Sync,
) -> Result<u64, OpError> {
    let all = lanes.count()?;
    let fill = &fill;
    let op = &op;
    let shards = stream::iter(fill.shards.clone());
    let written = shards.map(|shard| async move {
        let chunks = stream::iter(Chunks { next: 0, count: fill.count, shard, all }.enumerate());
        let written = chunks.map(|(index, numbers)| async move {
            let len = numbers.len();
            let part = fill.request.as_ref().map(|id| id.part(&format!("{shard}/{index}")));
            let key = fill.retention.key(part, fill.call);
            lanes.execute(shard, op(numbers), key).await.map(|_| len)
        });
        written
            .buffer_unordered(IN_FLIGHT)
            .try_fold(0, |sum, len| async move { Ok(sum + len) })
            .await
    });
    let written = written.buffer_unordered(usize::from(all).max(1));
    let sum: usize = written.try_fold(0, |sum, len| async move { Ok(sum + len) }).await?;
    Ok(u64::try_from(sum).unwrap_or(u64::MAX))
}

/// The numbers of one shard, in chunks.
struct Chunks {
    next: u64,
    count: u64,
    shard: ShardId,
    all: u16,
}

impl Iterator for Chunks {
    type Item = Vec<u64>;

    fn next(&mut self) -> Option<Vec<u64>> {
        let mut numbers = Vec::with_capacity(CHUNK);
        let mut text = String::new();
        while self.next < self.count && numbers.len() < CHUNK {
            text.clear();
            // Writing to a String cannot fail.
            let _written = std::fmt::Write::write_fmt(&mut text, format_args!("{}", self.next));
            if shard_of(&text, self.all) == self.shard {
                numbers.push(self.next);
            }
            self.next += 1;
        }
        (!numbers.is_empty()).then_some(numbers)
    }
}
