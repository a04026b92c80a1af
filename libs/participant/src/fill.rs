//! Executes batch_init: writes many records, shard by shard, in chunks that fit a batch.

use std::ops::Range;

use futures::{StreamExt, TryStreamExt, stream};
use types::{ClientCall, ShardId, shard_of};

use crate::{
    core::Domain,
    shards::{OpError, Shards},
};

/// Records in one operation.
const CHUNK: usize = 64;
/// Operations in flight on one shard. Some are in the current batch while others gather for the
/// next.
const IN_FLIGHT: usize = 8;

/// The records to create.
#[derive(Debug, Clone)]
pub struct Fill {
    /// Numbers of the records.
    pub numbers: Range<u64>,
    /// Only records of these shards are created.
    pub shards: Vec<ShardId>,
    /// The call. Each chunk takes effect once, under a part of it.
    pub call: ClientCall,
}

/// Executes `op` for every chunk of numbers. Returns how many records were written.
///
/// # Errors
/// [`OpError`]: some chunks may have been written. A repetition with the same request id and range
/// writes only the others.
pub async fn fill<D: Domain>(
    lanes: &Shards<D>,
    fill: Fill,
    op: impl Fn(Vec<u64>) -> D::Op + Sync,
) -> Result<u64, OpError> {
    let all = lanes.count()?;
    let fill = &fill;
    let op = &op;
    let shards = stream::iter(fill.shards.clone());
    let written = shards.map(|shard| async move {
        let chunks = stream::iter(Chunks { numbers: fill.numbers.clone(), shard, all });
        let written = chunks.map(|numbers| async move {
            let len = numbers.len();
            let first = numbers.first().copied().unwrap_or_default();
            let part = fill.call.part(&format!("{shard}/{first}"));
            lanes.execute(shard, op(numbers), Some(part)).await.map(|_| len)
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
    numbers: Range<u64>,
    shard: ShardId,
    all: u16,
}

impl Iterator for Chunks {
    type Item = Vec<u64>;

    fn next(&mut self) -> Option<Vec<u64>> {
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut text = String::new();
        for number in self.numbers.by_ref() {
            text.clear();
            // Writing to a String cannot fail.
            let _written = std::fmt::Write::write_fmt(&mut text, format_args!("{number}"));
            if shard_of(&text, self.all) == self.shard {
                chunk.push(number);
            }
            if chunk.len() == CHUNK {
                break;
            }
        }
        (!chunk.is_empty()).then_some(chunk)
    }
}
