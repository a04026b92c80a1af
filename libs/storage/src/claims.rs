//! Binds a client's request id to one call, so that the same id with another call is told apart.

#[cfg(test)]
mod tests;

use std::time::Duration;

use tokio::time::sleep;
use types::{Classify, ErrorKind, RequestId, ShardId, Timestamp};

use crate::{
    codec,
    keys::{Kind, Owner, Space},
    kv::{CommitError, Key, Kv, KvError},
    record,
};

/// Tries before the trouble is reported.
const TRIES: u32 = 20;
/// The longest pause between two of them.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Whose a request id is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// This call's; whether since now or since before makes no difference. As of a timestamp that was read after
    /// the claim came in.
    Claimed(Timestamp),
    /// Another call's.
    Reused,
}

/// Where all claims are.
pub(crate) const SPACE: Space = Space::new(Owner::Coordinator, ShardId(0));

fn key(id: &RequestId) -> Key {
    SPACE.record(Kind::RequestClaim, id.as_str().as_bytes())
}

/// Binds `id` to `call` for `keep_ms` milliseconds from now, by the store's clock, unless it is bound
/// already. May be repeated: the first call to bind it keeps it, however many race for it.
///
/// # Errors
/// [`KvError`]; when a retry helps, the id may or may not have been bound to this call.
pub async fn claim_request_id(
    kv: &dyn Kv,
    id: &RequestId,
    call: &str,
    keep_ms: u64,
) -> Result<Claim, KvError> {
    let key = key(id);
    let mut last = KvError::Unavailable("the request id is contended".to_owned());
    for attempt in 0..TRIES {
        sleep((Duration::from_millis(5) * attempt).min(PAUSE_MAX)).await;
        let mut txn = kv.begin().await?;
        let now = txn.read_ts().physical();
        if let Some(found) = txn.get(&key).await? {
            let found: record::RequestClaim = codec::decode(&key, &found)?;
            if found.keep_until_ms > now.0 {
                return Ok(if found.call == call {
                    Claim::Claimed(txn.read_ts())
                } else {
                    Claim::Reused
                });
            }
        }
        let keep_until_ms = now.plus_ms(keep_ms).0;
        let claim = record::RequestClaim { call: call.to_owned(), keep_until_ms };
        txn.put(key.clone(), codec::encode(&claim));
        let read = txn.read_ts();
        match txn.commit().await {
            Ok(_) => return Ok(Claim::Claimed(read)),
            // Whoever was first, and whatever landed: the next try reads it, or writes the key again,
            // so that nothing of this try can land after it.
            Err(CommitError::Conflict) => {}
            Err(CommitError::Undetermined(problem)) => last = KvError::Unavailable(problem),
            Err(CommitError::Failed(error)) if error.kind() == ErrorKind::Unavailable => {
                last = error;
            }
            Err(CommitError::Failed(error)) => return Err(error),
        }
    }
    Err(last)
}
