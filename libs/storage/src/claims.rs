//! Binds a client's request id to one call, so that another call with the same id is detected.

use std::time::Duration;

use tokio::time::sleep;
use types::{Classify, ErrorKind, RequestId, Role, ShardId, Timestamp};

use crate::{
    codec,
    keys::{Kind, Space},
    kv::{CommitError, Key, Kv, KvError},
    record,
};

/// Attempts before the error is returned.
const TRIES: u32 = 20;
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Outcome of claiming a request id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// The id is bound to this call, by this claim or an earlier one. The timestamp was read after
    /// the claim arrived.
    Claimed(Timestamp),
    /// The id is bound to another call.
    Reused,
}

/// Where all claims are stored.
pub(crate) const SPACE: Space = Space::of(Role::Coordinator, ShardId(0));

fn key(id: &RequestId) -> Key {
    SPACE.record(Kind::RequestClaim, id.as_str().as_bytes())
}

/// Binds `id` to `call` for `keep_ms` milliseconds from now, by the store's clock, unless it is
/// already bound. May be repeated. If several calls race for the id, the first to bind it keeps it.
///
/// # Errors
/// [`KvError`]; if a retry helps, the id may or may not have been bound to this call.
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
            // The next attempt reads what was written, or writes the key again, so that this
            // attempt can no longer land after it.
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
