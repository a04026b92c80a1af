//! Throughput, latency and outcomes of this replica: the numbers of `/metrics`, summed up.

use std::collections::BTreeMap;

use serde::Serialize;
use telemetry::{
    metrics::{Sample, samples},
    semconv,
};

/// Paths of the shop's calls, as opposed to probes, documents and the console itself.
const SHOP: [&str; 3] = ["/orders/", "/stock/", "/payment/"];
const CHECKOUT: &str = "/orders/checkout/{order_id}";
/// The outcome of a checkout that succeeded.
const PAID: &str = "PAID";

/// Counts since the process began; the page takes the difference of two.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Stats {
    /// Identifies the process; the counts start at zero with each process.
    replica: String,
    /// Requests that are being served now.
    in_flight: usize,
    /// Requests that were answered.
    requests: u64,
    /// Requests that were not served: overload, a part of the shop unavailable, a bug.
    failed: u64,
    /// Upper bounds of the buckets, in seconds, ascending.
    bounds: Vec<f64>,
    /// Requests by duration: one number for each bound, and one for longer durations.
    buckets: Vec<u64>,
    checkouts: Vec<Outcome>,
}

/// Checkouts with the same outcome.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Outcome {
    outcome: String,
    count: u64,
}

impl Stats {
    /// Reads the metrics of this process.
    pub(super) fn now(replica: u64, in_flight: usize) -> Self {
        let [durations, problems] =
            samples([&semconv::HTTP_SERVER_DURATION, &semconv::HTTP_PROBLEMS]);
        let replica = format!("{replica:016x}");
        Self { replica, in_flight, ..Self::of(&durations, &problems) }
    }

    fn of(durations: &[Sample], problems: &[Sample]) -> Self {
        let mut stats = Self::default();
        let mut up_to: BTreeMap<u64, (f64, u64)> = BTreeMap::new();
        let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
        for sample in durations {
            let route = sample.label(semconv::HTTP_ROUTE);
            if !SHOP.iter().any(|prefix| route.starts_with(prefix)) {
                continue;
            }
            let status = sample.label(semconv::HTTP_STATUS);
            stats.requests += sample.count;
            if status.starts_with('5') || status == "429" {
                stats.failed += sample.count;
            }
            if route == CHECKOUT && status == "200" {
                *outcomes.entry(PAID.to_owned()).or_default() += sample.count;
            }
            for &(bound, count) in &sample.buckets {
                // The bits of floats that are not negative sort as the floats do.
                up_to.entry(bound.to_bits()).or_insert((bound, 0)).1 += count;
            }
        }
        for sample in problems {
            if sample.label(semconv::HTTP_ROUTE) == CHECKOUT {
                let outcome = sample.label(semconv::REASON).to_owned();
                *outcomes.entry(outcome).or_default() += sample.count;
            }
        }
        let mut below = 0;
        for (bound, count) in up_to.into_values() {
            stats.bounds.push(bound);
            stats.buckets.push(count.saturating_sub(below));
            below = count;
        }
        stats.buckets.push(stats.requests.saturating_sub(below));
        let outcomes = outcomes.into_iter().map(|(outcome, count)| Outcome { outcome, count });
        stats.checkouts = outcomes.filter(|told| told.count > 0).collect();
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(labels: &[(&str, &str)], count: u64, buckets: &[(f64, u64)]) -> Sample {
        let labels = labels.iter().map(|(name, value)| (semconv::label(name), (*value).to_owned()));
        Sample { labels: labels.collect(), count, buckets: buckets.to_vec() }
    }

    #[test]
    fn the_shops_calls_are_summed_up() {
        let answers = |route, status, count, buckets: &[(f64, u64)]| {
            let labels = [(semconv::HTTP_ROUTE, route), (semconv::HTTP_STATUS, status)];
            sample(&labels, count, buckets)
        };
        let problems = |route, reason, count| {
            sample(&[(semconv::HTTP_ROUTE, route), (semconv::REASON, reason)], count, &[])
        };
        let durations = [
            answers(CHECKOUT, "200", 5, &[(0.001, 1), (0.01, 4)]),
            answers("/stock/find/{item_id}", "503", 2, &[(0.001, 0), (0.01, 0)]),
            answers("/healthz", "200", 99, &[(0.001, 99), (0.01, 99)]),
        ];
        let problems = [
            problems(CHECKOUT, "OUT_OF_STOCK", 3),
            problems("/stock/find/{item_id}", "UNAVAILABLE", 2),
        ];
        let stats = Stats::of(&durations, &problems);
        assert_eq!((stats.requests, stats.failed), (7, 2));
        assert_eq!(stats.bounds, [0.001, 0.01]);
        assert_eq!(stats.buckets, [1, 3, 3]);
        let told: Vec<_> = stats.checkouts.iter().map(|o| (&*o.outcome, o.count)).collect();
        assert_eq!(told, [("OUT_OF_STOCK", 3), (PAID, 5)]);
    }
}
