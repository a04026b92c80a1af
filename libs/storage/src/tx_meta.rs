//! Converts transactions to their stored form and back.

use bytes::Bytes;
use types::{
    Branch, ClientCall, IdError, Priority, RequestId, Service, ShardId, Timestamp, TxId, TxMeta,
    UnixMillis,
};

use uuid::Uuid;

use crate::record;

/// Why a stored transaction cannot be read. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {problem}")]
pub struct MalformedMeta {
    field: &'static str,
    problem: String,
}

fn malformed(field: &'static str, problem: &(impl ToString + ?Sized)) -> MalformedMeta {
    MalformedMeta { field, problem: problem.to_string() }
}

impl From<&TxMeta> for record::TxMeta {
    fn from(meta: &TxMeta) -> Self {
        let branch = |branch: &Branch| record::Branch {
            service: branch.service.as_str().to_owned(),
            shard: u32::from(branch.shard.0),
        };
        let call = meta.call.as_ref();
        let (request_id, minted_id) = call.map(|call| encode_id(&call.id)).unwrap_or_default();
        let call_id = call.and_then(|call| call.call_id.as_ref());
        Self {
            tx_id: meta.tx_id.0.to_vec().into(),
            begin_ts: meta.priority.begin_ts,
            nonce: meta.priority.nonce,
            deadline_ms: meta.deadline.0,
            branches: meta.branches.iter().map(branch).collect(),
            request_id,
            minted_id,
            request_fingerprint: call.map_or(0, |call| call.fingerprint),
            not_after_ms: call.and_then(|call| call.not_after).map_or(0, |at| at.0),
            call_id: call_id.map(ToString::to_string).unwrap_or_default(),
            call_began_ts: call.and_then(|call| call.began).map_or(0, |at| at.0),
        }
    }
}

/// Decodes a stored transaction, which must be present.
///
/// # Errors
/// [`MalformedMeta`]; a retry does not help.
pub fn decode(meta: Option<&record::TxMeta>) -> Result<TxMeta, MalformedMeta> {
    let meta = meta.ok_or_else(|| malformed("tx", "is missing"))?;
    let branch = |branch: &record::Branch| {
        let service =
            Service::new(&branch.service).map_err(|error| malformed("branch.service", &error))?;
        let shard =
            u16::try_from(branch.shard).map_err(|_| malformed("branch.shard", "is too large"))?;
        Ok(Branch { service, shard: ShardId(shard) })
    };
    Ok(TxMeta {
        tx_id: TxId::from_slice(&meta.tx_id).map_err(|error| malformed("tx_id", &error))?,
        priority: Priority { begin_ts: meta.begin_ts, nonce: meta.nonce },
        deadline: UnixMillis(meta.deadline_ms),
        branches: meta.branches.iter().map(branch).collect::<Result<_, MalformedMeta>>()?,
        call: call(meta)?,
    })
}

/// The client call of a transaction. `None` without a request id, and in transactions of release
/// 0.1, which does not hash calls.
fn call(meta: &record::TxMeta) -> Result<Option<ClientCall>, MalformedMeta> {
    let Some(request_id) = decode_id(&meta.request_id, &meta.minted_id)? else { return Ok(None) };
    let call = ClientCall {
        id: request_id,
        fingerprint: meta.request_fingerprint,
        not_after: (meta.not_after_ms > 0).then_some(UnixMillis(meta.not_after_ms)),
        call_id: decode_id(&meta.call_id, &[])?,
        began: (meta.call_began_ts > 0).then_some(Timestamp(meta.call_began_ts)),
    };
    Ok((call.fingerprint != 0).then_some(call))
}

/// The stored form of a request id: its text, or the UUID of a minted one.
pub fn encode_id(id: &RequestId) -> (String, Bytes) {
    match id.uuid() {
        Some(uuid) => (String::new(), Bytes::copy_from_slice(uuid.as_bytes())),
        None => (id.to_string(), Bytes::new()),
    }
}

/// Decodes a stored request id. `None` if there is none.
///
/// # Errors
/// [`MalformedMeta`]; a retry does not help.
pub fn decode_id(text: &str, minted: &[u8]) -> Result<Option<RequestId>, MalformedMeta> {
    if !minted.is_empty() {
        let uuid = Uuid::from_slice(minted).map_err(|error| malformed("minted_id", &error))?;
        return Ok(Some(RequestId::minted(uuid)));
    }
    match text {
        "" => Ok(None),
        text => {
            RequestId::new(text).map(Some).map_err(|error: IdError| malformed("request_id", &error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_as_they_were() {
        let minted = RequestId::minted(Uuid::from_u128(7));
        let part = minted.part("stock/3");
        for text in [minted.as_str(), part.as_str(), "a-key", "~0AF7651916CD43DD8448EB211C80319C"] {
            let id = RequestId::new(text).unwrap();
            let (text, uuid) = encode_id(&id);
            assert_eq!(decode_id(&text, &uuid), Ok(Some(id)), "{text}");
        }
        assert_eq!(
            encode_id(&minted),
            (String::new(), vec![0; 15].into_iter().chain([7]).collect())
        );
        assert_eq!(decode_id("", &[]), Ok(None));
        assert!(decode_id("", &[7; 15]).is_err());
    }
}
