//! Outcomes of the roles' KV commits, by the roles' own counters. They count conflicts whatever the
//! store is.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};
use telemetry::semconv;
use tokio::time::{Duration, timeout};

use crate::{rest::Rest, roles::Process, tally::as_float};

/// The page of a role's metrics, in Prometheus' text format.
const PAGE: &str = "/metrics";
const PATIENCE: Duration = Duration::from_secs(5);

/// Commits so far by outcome, over all roles. Roles that do not answer are left out.
pub(crate) async fn counted(processes: &[Process]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for admin in processes.iter().filter_map(|process| process.admin.clone()) {
        let mut rest = Rest::new(admin);
        let Ok(Ok((status, page))) = timeout(PATIENCE, rest.send(Method::GET, PAGE)).await else {
            continue;
        };
        if status.is_success() {
            add(&mut counts, &String::from_utf8_lossy(&page));
        }
    }
    counts
}

fn add(counts: &mut BTreeMap<String, u64>, page: &str) {
    let counter = format!("{}{{", semconv::KV_COMMITS.prometheus());
    let label = format!("{}=\"", semconv::label(semconv::KV_OUTCOME));
    for line in page.lines().filter_map(|line| line.strip_prefix(&counter)) {
        let outcome = line.split_once(&label).and_then(|(_, rest)| rest.split_once('"'));
        let count = line.rsplit_once(' ').and_then(|(_, count)| count.parse::<u64>().ok());
        if let (Some((outcome, _)), Some(count)) = (outcome, count) {
            *counts.entry(outcome.to_owned()).or_default() += count;
        }
    }
}

/// Growth between two readings, and conflicts per thousand commits; null if there were none.
pub(crate) fn difference(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> Value {
    let grown: BTreeMap<&str, u64> = after
        .iter()
        .map(|(outcome, count)| {
            let earlier = before.get(outcome).copied().unwrap_or_default();
            (outcome.as_str(), count.saturating_sub(earlier))
        })
        .collect();
    let all: u64 = grown.values().sum();
    if all == 0 {
        return Value::Null;
    }
    let conflicts = grown.get("conflict").copied().unwrap_or_default();
    json!({ "by_outcome": grown, "conflicts_per_1000": 1000.0 * as_float(conflicts) / as_float(all) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_of_several_roles_are_added_up() {
        let mut counts = BTreeMap::new();
        for page in [
            "# HELP till_kv_commits_total x\ntill_kv_commits_total{service_name=\"a\",till_kv_outcome=\"conflict\"} 2",
            "till_kv_commits_total{till_kv_outcome=\"conflict\"} 1\ntill_kv_commits_total{till_kv_outcome=\"committed\"} 1997",
        ] {
            add(&mut counts, page);
        }
        let grown = difference(&BTreeMap::new(), &counts);
        assert_eq!(grown["by_outcome"], json!({ "conflict": 3, "committed": 1997 }));
        assert_eq!(grown["conflicts_per_1000"], 1.5);
        assert_eq!(difference(&counts, &counts), Value::Null);
    }
}
