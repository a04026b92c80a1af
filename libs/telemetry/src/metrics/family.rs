//! One instrument and its series. Each set of label values is bound to the instrument once, so that
//! a measurement costs a look-up and an addition, and no allocation.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasher as _, BuildHasherDefault, Hash as _, Hasher as _},
    sync::{OnceLock, PoisonError, RwLock},
};

use opentelemetry::{
    KeyValue,
    metrics::{BoundCounter, BoundHistogram, Counter, Histogram},
};
use rustc_hash::FxHasher;

/// Limit on the series of one instrument. Labels are closed sets, so this is a safeguard. Beyond
/// it, one overflow series counts everything, as OpenTelemetry specifies.
const SERIES_MAX: usize = 1_000;
const OVERFLOW: &str = "otel.metric.overflow";

type Buckets<B, const N: usize> =
    HashMap<u64, Vec<([Box<str>; N], B)>, BuildHasherDefault<FxHasher>>;

/// Makes the series that has these attributes.
type Bind<B> = Box<dyn Fn(&[KeyValue]) -> B + Send + Sync>;

/// An instrument whose series differ by `N` labels.
pub(super) struct Family<B, const N: usize> {
    labels: [&'static str; N],
    always: Vec<KeyValue>,
    bind: Bind<B>,
    bound: RwLock<(usize, Buckets<B, N>)>,
    overflow: OnceLock<B>,
}

impl<B, const N: usize> fmt::Debug for Family<B, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Family").field("labels", &self.labels).finish_non_exhaustive()
    }
}

impl<B, const N: usize> Family<B, N> {
    pub(super) fn new(
        labels: [&'static str; N],
        always: &[(&'static str, &'static str)],
        bind: impl Fn(&[KeyValue]) -> B + Send + Sync + 'static,
    ) -> Self {
        Self {
            labels,
            always: always.iter().map(|(name, value)| KeyValue::new(*name, *value)).collect(),
            bind: Box::new(bind),
            bound: RwLock::default(),
            overflow: OnceLock::new(),
        }
    }

    /// Calls `measure` with the series of these values. An empty value leaves its label out.
    pub(super) fn with(&self, values: [&str; N], measure: impl FnOnce(&B)) {
        let hash = hash(&values);
        {
            let bound = self.bound.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(series) = find(&bound.1, hash, &values) {
                return measure(series);
            }
            if bound.0 >= SERIES_MAX {
                drop(bound);
                return measure(
                    self.overflow.get_or_init(|| (self.bind)(&[KeyValue::new(OVERFLOW, true)])),
                );
            }
        }
        let mut bound = self.bound.write().unwrap_or_else(PoisonError::into_inner);
        if find(&bound.1, hash, &values).is_none() {
            let series = (self.bind)(&self.attributes(values));
            bound.0 += 1;
            bound.1.entry(hash).or_default().push((values.map(Box::from), series));
        }
        if let Some(series) = find(&bound.1, hash, &values) {
            measure(series);
        }
    }

    fn attributes(&self, values: [&str; N]) -> Vec<KeyValue> {
        let own = self.labels.iter().zip(values).filter(|(_, value)| !value.is_empty());
        let own = own.map(|(name, value)| KeyValue::new(*name, value.to_owned()));
        self.always.iter().cloned().chain(own).collect()
    }
}

fn hash<const N: usize>(values: &[&str; N]) -> u64 {
    let mut hasher = BuildHasherDefault::<FxHasher>::default().build_hasher();
    for value in values {
        value.hash(&mut hasher);
    }
    hasher.finish()
}

fn find<'a, B, const N: usize>(
    bound: &'a Buckets<B, N>,
    hash: u64,
    values: &[&str; N],
) -> Option<&'a B> {
    let same = |known: &[Box<str>; N]| known.iter().zip(values).all(|(a, b)| **a == **b);
    bound.get(&hash)?.iter().find(|(known, _)| same(known)).map(|(_, series)| series)
}

/// Durations, in seconds, by `N` labels.
#[derive(Debug)]
pub struct Durations<const N: usize>(pub(super) Family<BoundHistogram<f64>, N>);

impl<const N: usize> Durations<N> {
    pub(super) fn over(
        histogram: Histogram<f64>,
        labels: [&'static str; N],
        always: &[(&'static str, &'static str)],
    ) -> Self {
        Self(Family::new(labels, always, move |attributes| histogram.bind(attributes)))
    }

    /// Records one duration. `values` are the label values in the metric's order; an empty one
    /// leaves its label out. They must come from closed sets: never ids or texts from clients.
    pub fn record(&self, took: std::time::Duration, values: [&str; N]) {
        self.0.with(values, |series| series.record(took.as_secs_f64()));
    }
}

/// Sizes, by `N` labels.
#[derive(Debug)]
pub struct Sizes<const N: usize>(pub(super) Family<BoundHistogram<u64>, N>);

impl<const N: usize> Sizes<N> {
    pub(super) fn over(histogram: Histogram<u64>, labels: [&'static str; N]) -> Self {
        Self(Family::new(labels, &[], move |attributes| histogram.bind(attributes)))
    }

    /// Records one size; `values` as in [`Durations::record`].
    pub fn record(&self, size: usize, values: [&str; N]) {
        let size = u64::try_from(size).unwrap_or(u64::MAX);
        self.0.with(values, |series| series.record(size));
    }
}

/// Counts, by `N` labels.
#[derive(Debug)]
pub struct Counts<const N: usize>(pub(super) Family<BoundCounter<u64>, N>);

impl<const N: usize> Counts<N> {
    pub(super) fn over(counter: Counter<u64>, labels: [&'static str; N]) -> Self {
        Self(Family::new(labels, &[], move |attributes| counter.bind(attributes)))
    }

    /// Adds `number`; `values` as in [`Durations::record`]. Adding 0 makes a series appear.
    pub fn add(&self, number: u64, values: [&str; N]) {
        self.0.with(values, |series| series.add(number));
    }

    /// Adds one; `values` as in [`Durations::record`].
    pub fn one(&self, values: [&str; N]) {
        self.add(1, values);
    }
}
