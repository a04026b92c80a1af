//! The headers of a mutating call: until when it may take effect, and which client call it is an
//! attempt of.
//!
//! A relative time-out (`grpc-timeout`) restarts wherever a message is delayed, for instance in the
//! socket of a stopped replica. The end of a call is therefore a point in time of the store's
//! clock, `till-not-after-ms`, which is fixed once and carried by every attempt.

use tonic::{Status, metadata::MetadataMap};
use types::{ClientCall, Entropy, RequestId, Timestamp, UnixMillis};
use uuid::Builder;

use crate::status::invalid_field;

/// The call takes no effect at or after this time: Unix milliseconds by the store's clock.
pub const NOT_AFTER: &str = "till-not-after-ms";
/// An id minted for one call of a client, the same in all attempts of it.
pub const CALL_ID: &str = "till-call-id";

/// A timestamp of the store that was read after the call arrived. Set if its request id is the
/// client's own.
pub const BEGAN: &str = "till-call-began-ts";

/// The headers of a call. Each may be missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CallMeta {
    /// The call takes effect only before this time of the store's clock.
    pub not_after: Option<UnixMillis>,
    /// The id of the client's call that this is an attempt of.
    pub call_id: Option<RequestId>,
    /// A timestamp read after that call had arrived.
    pub began: Option<Timestamp>,
}

impl CallMeta {
    /// Reads the headers that the caller sent.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if a header is malformed; a retry does not help.
    pub fn of(metadata: &MetadataMap) -> Result<Self, Status> {
        let text = |name: &'static str| match metadata.get(name) {
            None => Ok(None),
            Some(value) => {
                value.to_str().map(Some).map_err(|_| invalid_field(name, "must be text"))
            }
        };
        let number = |name: &'static str, problem: &'static str| match text(name)? {
            None => Ok(None),
            Some(digits) => {
                digits.parse::<u64>().map(Some).map_err(|_| invalid_field(name, problem))
            }
        };
        let ms = number(NOT_AFTER, "must be Unix milliseconds, a decimal integer")?;
        let began = number(BEGAN, "must be a timestamp of the store, a decimal integer")?;
        let call_id = match text(CALL_ID)? {
            None => None,
            Some(id) => match RequestId::new(id) {
                Ok(id) if id.is_minted() => Some(id),
                Ok(_) => return Err(invalid_field(CALL_ID, "must begin with '~'")),
                Err(error) => return Err(invalid_field(CALL_ID, error)),
            },
        };
        Ok(Self { not_after: ms.map(UnixMillis), call_id, began: began.map(Timestamp) })
    }

    /// Adds the headers to a request.
    pub fn set<T>(&self, request: &mut tonic::Request<T>) {
        let metadata = request.metadata_mut();
        if let Some(not_after) = self.not_after {
            metadata.insert(NOT_AFTER, not_after.0.into());
        }
        if let Some(began) = self.began {
            metadata.insert(BEGAN, began.0.into());
        }
        // Ids are visible ASCII wherever they are minted.
        if let Some(Ok(id)) = self.call_id.as_ref().map(|id| id.as_str().parse()) {
            metadata.insert(CALL_ID, id);
        }
    }
}

/// The client call that a changing request belongs to. `what` describes the call with all its
/// content. A request without an id gets an id of its own, so that all calls are treated alike.
///
/// # Errors
/// INVALID_ARGUMENT, with the malformed field; a retry does not help.
pub fn client_call(
    metadata: &MetadataMap,
    request_id: &str,
    what: &str,
    entropy: &dyn Entropy,
) -> Result<ClientCall, Status> {
    let CallMeta { not_after, call_id, began } = CallMeta::of(metadata)?;
    let id = match request_id {
        "" => RequestId::minted(Builder::from_random_bytes(entropy.next_bytes()).into_uuid()),
        text => RequestId::new(text).map_err(|error| invalid_field("request_id", error))?,
    };
    Ok(ClientCall { not_after, call_id, began, ..ClientCall::new(id, what) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::SystemEntropy;

    fn call(
        request_id: &str,
        headers: &[(&'static str, &'static str)],
    ) -> Result<ClientCall, Status> {
        let mut metadata = MetadataMap::new();
        for (name, value) in headers {
            metadata.insert(*name, value.parse().unwrap());
        }
        client_call(&metadata, request_id, "what", &SystemEntropy)
    }

    #[test]
    fn what_was_said_is_read_back() {
        let meta = CallMeta {
            not_after: Some(UnixMillis(1_700_000_000_000)),
            call_id: Some(RequestId::new("~0af7651916cd43dd8448eb211c80319c").unwrap()),
            began: Some(Timestamp(445_644_800_000_000_001)),
        };
        let mut request = tonic::Request::new(());
        assert_eq!(CallMeta::of(request.metadata()).unwrap(), CallMeta::default());
        meta.set(&mut request);
        assert_eq!(CallMeta::of(request.metadata()).unwrap(), meta);
    }

    #[test]
    fn a_request_without_an_id_gets_one_of_its_own() {
        let (one, other) = (call("", &[]).unwrap(), call("", &[]).unwrap());
        assert!(one.id.is_minted() && other.id.is_minted() && one.id != other.id);
        assert_eq!(
            call("mine", &[]).unwrap(),
            ClientCall::new(RequestId::new("mine").unwrap(), "what")
        );
    }

    #[test]
    fn what_is_malformed_is_named() {
        for (request_id, headers, field) in [
            ("a\u{7}", vec![], "request_id"),
            ("", vec![(NOT_AFTER, "soon")], NOT_AFTER),
            ("", vec![(NOT_AFTER, "-1")], NOT_AFTER),
            ("", vec![(CALL_ID, "not-minted")], CALL_ID),
        ] {
            let status = call(request_id, &headers).unwrap_err();
            assert_eq!(status.code(), tonic::Code::InvalidArgument);
            assert!(status.message().starts_with(field), "{status:?}");
        }
    }
}
