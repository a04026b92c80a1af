//! How both coordinator services read a request and report an outcome.

use std::time::Duration;

use proto::{InvalidField, coordinator::v1::Outcome as WireOutcome};
use rpc::status::invalid_field;
use tonic::{Request, Status};
use twopc::message::Outcome;
use types::{CALL_LIFE_MAX_MS, TxMeta};

/// The time limit of a call whose caller set none.
const TIME: Duration = Duration::from_secs(30);
/// Subtracted from the caller's time, so that the answer arrives before the caller gives up.
const ANSWER_MARGIN: Duration = Duration::from_millis(50);

/// How long a call may take to answer.
pub(crate) fn time_of<T>(request: &Request<T>) -> Duration {
    let time = rpc::deadline::of(request.metadata()).unwrap_or(TIME);
    time.min(Duration::from_millis(CALL_LIFE_MAX_MS)).saturating_sub(ANSWER_MARGIN)
}

/// The status for a field that does not convert.
pub(crate) fn invalid(error: &InvalidField) -> Status {
    invalid_field(error.field, &error.problem)
}

/// Converts an outcome for the wire. If undecided, also returns the branches that have not voted.
pub(crate) fn outcome_on_wire(
    meta: &TxMeta,
    outcome: Outcome,
) -> (WireOutcome, Vec<proto::types::v1::Branch>) {
    match outcome {
        Outcome::Committed => (WireOutcome::Committed, Vec::new()),
        Outcome::Refused(_) | Outcome::Contended(_) | Outcome::Fenced => {
            (WireOutcome::Aborted, Vec::new())
        }
        Outcome::Undecided(indexes) => {
            let missing = indexes.into_iter().filter_map(|index| meta.branches.get(index));
            (WireOutcome::Undecided, missing.map(Into::into).collect())
        }
    }
}

/// The trace id of a call, from `traceparent` (W3C Trace Context: version-trace id-parent
/// id-flags).
pub(crate) fn trace_id(metadata: &tonic::metadata::MetadataMap) -> Option<String> {
    let mut parts = metadata.get("traceparent")?.to_str().ok()?.split('-');
    let id = parts.nth(1)?;
    let proper = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    (proper && id.bytes().any(|byte| byte != b'0')).then(|| id.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proper_trace_id_is_taken() {
        let id = |text: &str| {
            let mut metadata = tonic::metadata::MetadataMap::new();
            metadata.insert("traceparent", text.parse().unwrap());
            trace_id(&metadata)
        };
        let proper = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(id(proper).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for wrong in ["", "00", "00-xyz-1-1", "00-00000000000000000000000000000000-1-01"] {
            assert_eq!(id(wrong), None, "{wrong}");
        }
    }
}
