//! Reads the values of this process's instruments.

use std::collections::BTreeMap;

use prometheus::proto::{self, LabelPair, MetricFamily, MetricType};

use super::gathered;
use crate::semconv::{self, Metric};

/// The value of an instrument for one set of labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Label values by the labels' names at `/metrics`.
    pub labels: BTreeMap<String, String>,
    /// A counter's value, or the number of a histogram's observations.
    pub count: u64,
    /// A histogram's upper bounds, ascending, and the number of observations up to each.
    pub buckets: Vec<(f64, u64)>,
}

impl Sample {
    /// The value of a label, given by its name in [`semconv`]. Empty if it is missing.
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(&semconv::label(name)).map_or("", String::as_str)
    }
}

/// The samples of these counters and histograms; none if no metrics are set up.
pub fn samples<const N: usize>(of: [&Metric; N]) -> [Vec<Sample>; N] {
    let families = gathered();
    of.map(|metric| {
        let name = metric.prometheus();
        let family = families.iter().find(|family| family.name() == name);
        family.map(samples_of).unwrap_or_default()
    })
}

fn samples_of(family: &MetricFamily) -> Vec<Sample> {
    let kind = family.get_field_type();
    let read = |metric: &proto::Metric| {
        let pair = |pair: &LabelPair| (pair.name().to_owned(), pair.value().to_owned());
        let histogram = metric.get_histogram();
        let buckets = histogram.get_bucket().iter();
        Sample {
            labels: metric.get_label().iter().map(pair).collect(),
            count: match kind {
                MetricType::HISTOGRAM => histogram.get_sample_count(),
                MetricType::COUNTER
                | MetricType::GAUGE
                | MetricType::SUMMARY
                | MetricType::UNTYPED => whole(metric.get_counter().get_value()),
            },
            buckets: buckets.map(|one| (one.upper_bound(), one.cumulative_count())).collect(),
        }
    };
    family.get_metric().iter().map(read).collect()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole, not negative, and below 2^53"
)]
fn whole(count: f64) -> u64 {
    count.round() as u64
}
