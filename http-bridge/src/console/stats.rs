//! How the shop does, as counted by this replica: the numbers of `/metrics`, summed up.

use std::collections::BTreeMap;

use serde::Serialize;
use telemetry::semconv;

/// Paths of the shop's calls, as opposed to probes, documents and the console itself.
const SHOP: [&str; 3] = ["/orders/", "/stock/", "/payment/"];
const CHECKOUT: &str = "/orders/checkout/{order_id}";
/// The outcome of a checkout that succeeded.
const PAID: &str = "PAID";

/// Counts since the process began; the page takes the difference of two.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Stats {
    /// Changes with the process, whose counts begin anew.
    replica: String,
    /// Requests that are being served now.
    in_flight: usize,
    /// Requests that were answered.
    requests: u64,
    /// Those that were not served: overload, a part of the shop unavailable, a bug.
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

/// One line of Prometheus' text format.
#[derive(Debug, PartialEq)]
struct Sample<'a> {
    name: &'a str,
    labels: BTreeMap<&'a str, String>,
    value: f64,
}

impl Stats {
    /// Parses exported metrics.
    pub(super) fn of(exported: &str, replica: u64, in_flight: usize) -> Self {
        let replica = format!("{replica:016x}");
        let mut stats = Self { replica, in_flight, ..Self::default() };
        let mut up_to: BTreeMap<u64, (f64, u64)> = BTreeMap::new();
        let mut outcomes: BTreeMap<String, u64> = BTreeMap::new();
        let durations = semconv::HTTP_SERVER_DURATION.prometheus();
        let problems = semconv::HTTP_PROBLEMS.prometheus();
        for sample in exported.lines().filter_map(Sample::parse) {
            let count = count(sample.value);
            let route = sample.label(semconv::HTTP_ROUTE);
            if sample.name == problems && route == CHECKOUT {
                let outcome = sample.label(semconv::REASON).to_owned();
                *outcomes.entry(outcome).or_default() += count;
            }
            let Some(part) = sample.name.strip_prefix(&durations) else { continue };
            if !SHOP.iter().any(|prefix| route.starts_with(prefix)) {
                continue;
            }
            let status = sample.label(semconv::HTTP_STATUS);
            match part {
                "_count" => {
                    stats.requests += count;
                    if status.starts_with('5') || status == "429" {
                        stats.failed += count;
                    }
                    if route == CHECKOUT && status == "200" {
                        *outcomes.entry(PAID.to_owned()).or_default() += count;
                    }
                }
                "_bucket" => {
                    let bound = sample.label("le").parse().unwrap_or(f64::INFINITY);
                    // The bits of floats that are not negative sort as the floats do.
                    up_to.entry(bound.to_bits()).or_insert((bound, 0)).1 += count;
                }
                _ => {}
            }
        }
        let mut below = 0;
        for (bound, count) in up_to.into_values() {
            if bound.is_finite() {
                stats.bounds.push(bound);
            }
            stats.buckets.push(count.saturating_sub(below));
            below = count;
        }
        let outcomes = outcomes.into_iter().map(|(outcome, count)| Outcome { outcome, count });
        stats.checkouts = outcomes.filter(|told| told.count > 0).collect();
        stats
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole, not negative, and below 2^53"
)]
fn count(value: f64) -> u64 {
    value.round() as u64
}

impl<'a> Sample<'a> {
    fn label(&self, name: &str) -> &str {
        self.labels.get(semconv::label(name).as_str()).map_or("", String::as_str)
    }

    /// Parses `name{label="value",...} value`. None for comments, and for samples without labels.
    fn parse(line: &'a str) -> Option<Self> {
        let (name, mut rest) = line.split_once('{')?;
        if name.starts_with('#') {
            return None;
        }
        let mut labels = BTreeMap::new();
        while let Some((label, after)) = rest.split_once("=\"") {
            let (value, after) = quoted(after)?;
            labels.insert(label.trim_start_matches(','), value);
            rest = after;
            if let Some(number) = rest.strip_prefix('}') {
                return Some(Self { name, labels, value: number.trim().parse().ok()? });
            }
        }
        None
    }
}

/// The text up to its closing quote, without escapes, and the rest.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORTED: &str = r#"
# HELP http_server_request_duration_seconds How long {it} took
# TYPE http_server_request_duration_seconds histogram
http_server_request_duration_seconds_bucket{http_request_method="POST",http_response_status_code="200",http_route="/orders/checkout/{order_id}",url_scheme="http",le="0.001"} 1
http_server_request_duration_seconds_bucket{http_request_method="POST",http_response_status_code="200",http_route="/orders/checkout/{order_id}",url_scheme="http",le="0.01"} 4
http_server_request_duration_seconds_bucket{http_request_method="POST",http_response_status_code="200",http_route="/orders/checkout/{order_id}",url_scheme="http",le="+Inf"} 5
http_server_request_duration_seconds_count{http_request_method="POST",http_response_status_code="200",http_route="/orders/checkout/{order_id}",url_scheme="http"} 5
http_server_request_duration_seconds_bucket{http_request_method="GET",http_response_status_code="503",http_route="/stock/find/{item_id}",le="0.001"} 0
http_server_request_duration_seconds_bucket{http_request_method="GET",http_response_status_code="503",http_route="/stock/find/{item_id}",le="0.01"} 0
http_server_request_duration_seconds_bucket{http_request_method="GET",http_response_status_code="503",http_route="/stock/find/{item_id}",le="+Inf"} 2
http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="503",http_route="/stock/find/{item_id}"} 2
http_server_request_duration_seconds_count{http_request_method="GET",http_response_status_code="200",http_route="/healthz"} 99
till_http_problems_total{http_route="/orders/checkout/{order_id}",till_reason="OUT_OF_STOCK"} 3
till_http_problems_total{http_route="/stock/find/{item_id}",till_reason="UNAVAILABLE"} 2
http_server_active_requests 1
"#;

    #[test]
    fn what_prometheus_reads_is_what_the_page_shows() {
        let stats = Stats::of(EXPORTED, 7, 1);
        assert_eq!((stats.replica.as_str(), stats.in_flight), ("0000000000000007", 1));
        assert_eq!((stats.requests, stats.failed), (7, 2));
        assert_eq!(stats.bounds, [0.001, 0.01]);
        assert_eq!(stats.buckets, [1, 3, 3]);
        let told: Vec<_> = stats.checkouts.iter().map(|o| (&*o.outcome, o.count)).collect();
        assert_eq!(told, [("OUT_OF_STOCK", 3), (PAID, 5)]);
    }

    #[test]
    fn labels_are_read_without_their_escapes() {
        let sample = Sample::parse(r#"a{b="x\"}\\y",c="z"} 2"#).unwrap();
        assert_eq!((sample.label("b"), sample.label("c")), ("x\"}\\y", "z"));
        for nothing in ["", "# HELP a {b=\"c\"} 1", "a 1", "a{b=\"c", "a{b=\"c\"} x"] {
            assert_eq!(Sample::parse(nothing), None, "{nothing}");
        }
    }
}
