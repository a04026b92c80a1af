//! What a checkout costs in the store, by the store's counters. dev-kv has such counters; those of
//! a TiKV cluster are not read.

use http::Method;
use rpc::net::Endpoint;
use serde_json::{Value, json};
use tokio::time::{Duration, timeout};

use crate::{
    rest::Rest,
    roles::{self, Process},
    tally::as_float,
};

/// The page of the counters.
const PAGE: &str = "/dev-kv/v1/stats";
const PATIENCE: Duration = Duration::from_secs(5);

/// Address of the store of a shop on this machine, if it is its own.
pub(crate) fn place(processes: &[Process]) -> Option<Endpoint> {
    roles::listening(processes, "dev-kv").into_iter().next()
}

/// The current counters; none if they are unknown.
pub(crate) async fn counters(store: Option<&Endpoint>) -> Option<Value> {
    let mut rest = Rest::new(store?.clone());
    let (status, body) = timeout(PATIENCE, rest.send(Method::GET, PAGE)).await.ok()?.ok()?;
    if !status.is_success() {
        return None;
    }
    serde_json::from_slice(&body).ok()
}

/// Growth between two readings, in all and per fresh checkout; null if unknown.
pub(crate) fn difference(before: Option<&Value>, after: Option<&Value>, fresh: u64) -> Value {
    let (Some(before), Some(after)) = (before, after) else { return Value::Null };
    let grown = |path: &str| {
        let read = |page: &Value| page.pointer(path).and_then(Value::as_u64);
        Some(read(after)?.saturating_sub(read(before)?))
    };
    let each = |path: &str| (fresh > 0).then(|| Some(as_float(grown(path)?) / as_float(fresh)));
    let each = |path: &str| each(path).flatten();
    let transactions = grown("/traffic/transactions");
    let per_transaction = transactions
        .filter(|count| *count > 0 && fresh > 0)
        .map(|count| as_float(fresh) / as_float(count));
    let written = transactions
        .filter(|count| *count > 0)
        .and_then(|count| Some(as_float(grown("/traffic/mutations")?) / as_float(count)));
    json!({
        "mutations_per_transaction": written,
        "transactions": transactions,
        "one_phase_commits": grown("/traffic/one_phase_commits"),
        "mutations": grown("/traffic/mutations"),
        "keys_read": grown("/keys_read"),
        "syncs": grown("/syncs"),
        "requests": {
            "prewrite": grown("/traffic/requests/KvPrewrite"),
            "commit": grown("/traffic/requests/KvCommit"),
            "get": grown("/traffic/requests/KvGet"),
            "batch_get": grown("/traffic/requests/KvBatchGet"),
            "tso": grown("/traffic/requests/Tso"),
        },
        "per_fresh_checkout": {
            "transactions": each("/traffic/transactions"),
            "mutations": each("/traffic/mutations"),
            "keys_read": each("/keys_read"),
            "syncs": each("/syncs"),
            "tso": each("/traffic/requests/Tso"),
        },
        "fresh_checkouts_per_transaction": per_transaction,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_of_what_grew_meanwhile() {
        let page = |transactions: u64, mutations: u64| json!({ "syncs": 7, "traffic": { "transactions": transactions, "mutations": mutations } });
        let grown = difference(Some(&page(10, 100)), Some(&page(20, 600)), 100);
        assert_eq!(grown["mutations"], 500);
        assert_eq!(grown["per_fresh_checkout"]["mutations"], 5.0);
        assert_eq!(grown["fresh_checkouts_per_transaction"], 10.0);
        assert_eq!(grown["keys_read"], Value::Null);
    }

    #[test]
    fn what_is_not_known_is_null() {
        assert_eq!(difference(None, Some(&json!({})), 1), Value::Null);
        let idle = difference(Some(&json!({})), Some(&json!({})), 0);
        assert_eq!(idle["per_fresh_checkout"]["mutations"], Value::Null);
    }
}
