//! Counters of what clients ask for, since the start; shown on `/dev-kv/v1/stats`.

use crate::wire::kvrpcpb::{Op, PrewriteRequest};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

/// The calls that are counted by name; all others count as `other`.
const NAMED: [&str; 10] = [
    "KvGet",
    "KvBatchGet",
    "KvScan",
    "KvPrewrite",
    "KvCommit",
    "KvBatchRollback",
    "KvPessimisticLock",
    "KvCheckTxnStatus",
    "KvResolveLock",
    "KvScanLock",
];

/// Counters that only grow.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    named: [AtomicU64; NAMED.len()],
    other: AtomicU64,
    refused: AtomicU64,
    timestamp_requests: AtomicU64,
    timestamps: AtomicU64,
    transactions: AtomicU64,
    one_phase: AtomicU64,
    mutations: AtomicU64,
}

/// What a prewrite asks for. Taken before the prewrite, which consumes the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    mutations: u64,
    holds_primary: bool,
}

impl Asked {
    pub(crate) fn by(request: &PrewriteRequest) -> Self {
        let changes = |op: Op| matches!(op, Op::Put | Op::Del | Op::Insert);
        let mutations = request.mutations.iter().filter(|mutation| changes(mutation.op()));
        Self {
            mutations: mutations.count() as u64,
            holds_primary: request.mutations.iter().any(|each| each.key == request.primary_lock),
        }
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}

impl Traffic {
    /// Counts a call that arrived, whatever its outcome.
    pub(crate) fn called(&self, rpc: &str) {
        let place = NAMED.iter().position(|name| *name == rpc);
        add(place.map_or(&self.other, |place| &self.named[place]), 1);
    }

    /// Counts a request that found no place.
    pub(crate) fn refused(&self) {
        add(&self.refused, 1);
    }

    /// Counts one answered request on a timestamp stream, and its `count` timestamps.
    pub(crate) fn gave_timestamps(&self, count: u32) {
        add(&self.timestamp_requests, 1);
        add(&self.timestamps, count.into());
    }

    /// Counts a successful prewrite. A transaction is counted with its primary, so only once,
    /// however many requests its keys need.
    pub(crate) fn prewritten(&self, asked: Asked, one_phase: bool) {
        add(&self.mutations, asked.mutations);
        add(&self.transactions, u64::from(asked.holds_primary));
        add(&self.one_phase, u64::from(one_phase));
    }

    /// All counters, for people and load tools.
    pub(crate) fn page(&self) -> Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut requests: Map<String, Value> = NAMED
            .iter()
            .zip(&self.named)
            .map(|(name, count)| ((*name).to_owned(), read(count).into()))
            .collect();
        requests.insert("Tso".to_owned(), read(&self.timestamp_requests).into());
        requests.insert("other".to_owned(), read(&self.other).into());
        json!({
            "requests": requests,
            "refused": read(&self.refused),
            "timestamps": read(&self.timestamps),
            "transactions": read(&self.transactions),
            "one_phase_commits": read(&self.one_phase),
            "mutations": read(&self.mutations),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::kvrpcpb::Mutation;

    fn prewrite(keys: &[&'static str], primary: &'static str) -> PrewriteRequest {
        let mutation = |key: &&'static str| Mutation { key: (*key).into(), ..Mutation::default() };
        PrewriteRequest {
            mutations: keys.iter().map(mutation).collect(),
            primary_lock: primary.into(),
            ..PrewriteRequest::default()
        }
    }

    #[test]
    fn a_transaction_is_counted_once_however_many_requests_it_needs() {
        let traffic = Traffic::default();
        traffic.prewritten(Asked::by(&prewrite(&["a", "b"], "a")), false);
        traffic.prewritten(Asked::by(&prewrite(&["c"], "a")), false);
        let page = traffic.page();
        assert_eq!((&page["transactions"], &page["mutations"]), (&json!(1), &json!(3)));
        assert_eq!(page["one_phase_commits"], 0);
    }

    #[test]
    fn a_lock_alone_is_no_mutation() {
        let mut request = prewrite(&["a"], "a");
        request.mutations[0].op = Op::Lock.into();
        assert_eq!(Asked::by(&request).mutations, 0);
    }

    #[test]
    fn calls_are_counted_by_name() {
        let traffic = Traffic::default();
        traffic.called("KvGet");
        traffic.called("Tso");
        traffic.gave_timestamps(7);
        let page = traffic.page();
        assert_eq!(page["requests"]["KvGet"], 1);
        assert_eq!(page["requests"]["Tso"], 1);
        assert_eq!(page["timestamps"], 7);
    }
}
