//! Single records, for people who ask about one order.

use storage::{
    Kv, KvError, codec,
    keys::{Kind, Owner, Space},
    record::OrderRecord,
    schema::{self, SchemaError},
};
use types::{OrderId, shard_of};

/// Why a record cannot be looked up; a retry helps when the store was not there.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The layout cannot be read.
    #[error("cannot read the layout")]
    Schema(#[from] SchemaError),
    /// The record cannot be read.
    #[error("cannot read the record")]
    Kv(#[from] KvError),
}

/// An order's record as it stands now, if there is one.
///
/// # Errors
/// [`LookupError`].
pub async fn order(kv: &dyn Kv, order_id: &OrderId) -> Result<Option<OrderRecord>, LookupError> {
    let Some(schema) = schema::read(kv).await? else { return Ok(None) };
    let space = Space::new(Owner::Order, shard_of(order_id.as_str(), schema.shards));
    let key = space.record(Kind::Order, order_id.as_str().as_bytes());
    let found = kv.snapshot(kv.timestamp().await?).get(&key).await?;
    Ok(found.map(|value| codec::decode(&key, &value)).transpose()?)
}
