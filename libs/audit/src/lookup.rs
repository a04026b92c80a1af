//! Looks up single records, for people who ask about one order.

use storage::{
    Kv, KvError, codec,
    keys::{Kind, Space},
    record::OrderRecord,
    schema::{self, SchemaError},
    shard::{read_head, read_journal},
};
use types::{OrderId, Role, shard_of};

use crate::overlay::Overlay;

/// Why a record cannot be looked up. A retry helps if the store did not answer.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The store's layout cannot be read.
    #[error("cannot read the layout")]
    Schema(#[from] SchemaError),
    /// The record cannot be read.
    #[error("cannot read the record")]
    Kv(#[from] KvError),
}

/// An order's record as of now, if it exists.
///
/// # Errors
/// [`LookupError`].
pub async fn order(kv: &dyn Kv, order_id: &OrderId) -> Result<Option<OrderRecord>, LookupError> {
    let Some(schema) = schema::read(kv).await? else { return Ok(None) };
    let space = Space::of(Role::Order, shard_of(order_id.as_str(), schema.shards));
    let key = space.record(Kind::Order, order_id.as_str().as_bytes());
    let mut snapshot = kv.snapshot(kv.timestamp().await?);
    let head = read_head(&mut *snapshot, space).await?.head;
    let mut overlay = Overlay::default();
    for (seq, entry) in
        read_journal(&mut *snapshot, space, head.oldest.max(head.flushed + 1)).await?
    {
        overlay.take(space, head.flushed, seq, &entry);
    }
    let found = overlay.lay_over_one(&key, snapshot.get(&key).await?);
    Ok(found.map(|value| codec::decode(&key, &value)).transpose()?)
}
