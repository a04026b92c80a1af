//! Reads what the instruments of this process have counted.

use std::collections::BTreeMap;

use prometheus::proto::{LabelPair, MetricType};

use super::REGISTRY;
use crate::semconv::{self, Metric};

/// What an instrument has counted with one set of labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// By the labels' names at `/metrics`.
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

/// The samples of a counter or a histogram; empty if no metrics are set up.
pub fn samples(of: &Metric) -> Vec<Sample> {
    let registry = REGISTRY.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let name = of.prometheus();
    let families = registry.map(|registry| registry.gather()).unwrap_or_default();
    let family = families.into_iter().find(|family| family.name() == name);
    let read = |metric: &prometheus::proto::Metric, kind| {
        let pair = |pair: &LabelPair| (pair.name().to_owned(), pair.value().to_owned());
        let labels = metric.get_label().iter().map(pair).collect();
        let histogram = metric.get_histogram();
        let buckets = histogram.get_bucket().iter();
        Sample {
            labels,
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
    let samples = family.map(|family| {
        let kind = family.get_field_type();
        family.get_metric().iter().map(|metric| read(metric, kind)).collect()
    });
    samples.unwrap_or_default()
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are whole, not negative, and below 2^53"
)]
fn whole(count: f64) -> u64 {
    count.round() as u64
}
