//! Counts and latencies of the measured window. Counts go by when calls ended, latencies by when
//! they were due.
//!
//! A rate counts the calls that ended within the window. A latency belongs to the window in which
//! its call was *due*, and is measured from then on, whenever the call was sent and however late it
//! ended. So a shop cannot hide a stall by delaying the next calls (no coordinated omission).

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::time::Instant;

/// The kinds of calls that a report tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The checkout that paid an order.
    Fresh,
    /// A checkout of an order that was paid already.
    Repeated,
    /// A checkout that was refused as expected.
    Refused,
    /// A new order.
    Create,
    /// One more item in an order.
    Add,
    /// An order read.
    FindOrder,
    /// An item read.
    FindItem,
    /// A user read.
    FindUser,
    /// A bare KV transaction of a checkout's shape.
    Bare,
}

impl Kind {
    /// The name in tables and JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "checkout",
            Self::Repeated => "repeated_checkout",
            Self::Refused => "refused_checkout",
            Self::Create => "create_order",
            Self::Add => "add_item",
            Self::FindOrder => "find_order",
            Self::FindItem => "find_item",
            Self::FindUser => "find_user",
            Self::Bare => "bare_transaction",
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// As intended.
    Done(Kind),
    /// Refused, for the reason that was expected.
    Expected(String),
    /// Refused, for a reason that was not expected.
    Unexplained(String),
    /// Refused as too much, before anything was done (429, RESOURCE_EXHAUSTED).
    Shed(String),
    /// Failed in any other way.
    Failed(String),
}

/// Counts and latencies of one window.
#[derive(Debug)]
pub(crate) struct Tally {
    begin: Instant,
    end: Instant,
    latencies: BTreeMap<Kind, Histogram<u64>>,
    ended: BTreeMap<Kind, u64>,
    /// Expected refusals that ended in the window, by reason.
    refused: BTreeMap<String, u64>,
    /// Refusals as too much: those that ended in the window by reason, and all of them.
    shed: BTreeMap<String, u64>,
    shed_ever: u64,
    /// Whether refusals as too much are acceptable in this run.
    may_shed: bool,
    /// How many of a kind ended in each slice of the window.
    slices: BTreeMap<Kind, Vec<u64>>,
    /// Unexplained refusals and errors, inside and outside the window.
    unexplained: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
}

/// The longest latency recorded, in microseconds; longer ones count as this.
const LATENCY_MAX_US: u64 = 600_000_000;

impl Tally {
    /// Length of the slices of a window, which show how a rate develops.
    pub(crate) const SLICE: Duration = Duration::from_millis(250);

    /// An empty tally.
    pub(crate) const fn new(begin: Instant, end: Instant) -> Self {
        Self {
            begin,
            end,
            latencies: BTreeMap::new(),
            ended: BTreeMap::new(),
            refused: BTreeMap::new(),
            shed: BTreeMap::new(),
            shed_ever: 0,
            may_shed: false,
            slices: BTreeMap::new(),
            unexplained: BTreeMap::new(),
            errors: BTreeMap::new(),
        }
    }

    /// Accepts refusals as too much from now on.
    pub(crate) const fn let_shed(&mut self) {
        self.may_shed = true;
    }

    /// Ends the window early, because there is nothing left to ask.
    pub(crate) fn close(&mut self, now: Instant) {
        self.end = self.end.min(now).max(self.begin);
    }

    /// The end of the window.
    pub(crate) const fn end(&self) -> Instant {
        self.end
    }

    /// Counts a call that was due at `due` and ended at `now`.
    pub(crate) fn add(&mut self, due: Instant, now: Instant, end: End) {
        let within = |moment: Instant| self.begin <= moment && moment < self.end;
        let kind = match end {
            End::Done(kind) => kind,
            End::Expected(reason) => {
                if within(now) {
                    *self.refused.entry(reason).or_default() += 1;
                }
                Kind::Refused
            }
            End::Unexplained(reason) => {
                *self.unexplained.entry(reason).or_default() += 1;
                return;
            }
            End::Shed(reason) => {
                self.shed_ever += 1;
                if within(now) {
                    *self.shed.entry(reason).or_default() += 1;
                }
                return;
            }
            End::Failed(problem) => {
                *self.errors.entry(problem).or_default() += 1;
                return;
            }
        };
        if within(now) {
            *self.ended.entry(kind).or_default() += 1;
            let slice =
                now.saturating_duration_since(self.begin).as_millis() / Self::SLICE.as_millis();
            let slice = usize::try_from(slice).unwrap_or_default();
            let slices = self.slices.entry(kind).or_default();
            if slices.len() <= slice {
                slices.resize(slice + 1, 0);
            }
            slices[slice] += 1;
        }
        if within(due) {
            let latency = now.saturating_duration_since(due).as_micros();
            let latency = u64::try_from(latency).unwrap_or(u64::MAX).clamp(1, LATENCY_MAX_US);
            self.latencies.entry(kind).or_insert_with(histogram).saturating_record(latency);
        }
    }

    /// Length of the window, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        self.end.saturating_duration_since(self.begin).as_secs_f64()
    }

    /// How many of a kind ended within the window.
    pub(crate) fn count(&self, kind: Kind) -> u64 {
        self.ended.get(&kind).copied().unwrap_or_default()
    }

    /// How many of all kinds ended within the window.
    pub(crate) fn total(&self) -> u64 {
        self.ended.values().sum()
    }

    /// A count per second of the window.
    pub(crate) fn rate(&self, count: u64) -> f64 {
        if self.seconds() > 0.0 { as_float(count) / self.seconds() } else { 0.0 }
    }

    /// Errors, unexplained refusals, and unacceptable refusals as too much. With any of them a run
    /// has no figures.
    pub(crate) fn problems(&self) -> Vec<String> {
        let told = |what: &str, counts: &BTreeMap<String, u64>| -> Vec<String> {
            counts.iter().map(|(text, count)| format!("{count} {what}: {text}")).collect()
        };
        let mut problems = told("errors", &self.errors);
        problems.extend(told("unexplained refusals", &self.unexplained));
        if !self.may_shed && self.shed_ever > 0 {
            problems.push(format!("{} refusals as too much", self.shed_ever));
        }
        problems
    }

    /// Expected refusals in the window, by reason.
    pub(crate) const fn refused(&self) -> &BTreeMap<String, u64> {
        &self.refused
    }

    /// Refusals as too much in the window, by status and reason.
    pub(crate) const fn shed(&self) -> &BTreeMap<String, u64> {
        &self.shed
    }

    /// How many of a kind ended in each slice, up to the last one with any.
    pub(crate) fn slices(&self, kind: Kind) -> &[u64] {
        self.slices.get(&kind).map_or(&[], Vec::as_slice)
    }

    /// Latencies by kind.
    pub(crate) fn latencies(&self) -> impl Iterator<Item = (Kind, Percentiles)> {
        self.latencies.iter().map(|(kind, histogram)| (*kind, Percentiles::of(histogram)))
    }
}

/// A histogram with three significant digits that grows as needed.
fn histogram() -> Histogram<u64> {
    let mut histogram =
        Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are constants that fit");
    histogram.auto(true);
    histogram
}

/// Percentiles of a histogram, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Percentiles {
    pub(crate) count: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
    pub(crate) max: u64,
}

impl Percentiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max(),
        }
    }

    /// As a JSON object.
    pub(crate) fn json(self) -> Value {
        json!({
            "count": self.count,
            "p50_us": self.p50,
            "p90_us": self.p90,
            "p99_us": self.p99,
            "p999_us": self.p999,
            "max_us": self.max,
        })
    }
}

/// A count as a float, for rates and ratios. Counts here are far below 2^53.
pub(crate) fn as_float(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts of calls are far below 2^53")]
    let float = count as f64;
    float
}

/// Converts microseconds to milliseconds.
pub(crate) fn millis(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tally() -> (Instant, Tally) {
        let begin = Instant::now() + SECOND;
        (begin, Tally::new(begin, begin + 10 * SECOND))
    }

    #[test]
    fn a_rate_counts_what_ended_and_a_latency_what_was_due() {
        let (begin, mut tally) = tally();
        // Due before the window, ended within it.
        tally.add(begin - SECOND, begin + SECOND, End::Done(Kind::Fresh));
        assert_eq!((tally.count(Kind::Fresh), tally.latencies().count()), (1, 0));
        // Due within it, ended after it.
        tally.add(begin + 9 * SECOND, begin + 12 * SECOND, End::Done(Kind::Fresh));
        assert_eq!(tally.count(Kind::Fresh), 1);
        let (_, percentiles) = tally.latencies().next().unwrap();
        assert_eq!(percentiles.count, 1);
        assert!((2_990_000..=3_010_000).contains(&percentiles.p50), "{percentiles:?}");
        assert!((tally.rate(tally.total()) - 0.1).abs() < 1e-9);
    }

    #[test]
    fn percentiles_are_those_of_what_was_added() {
        let (begin, mut tally) = tally();
        for ms in 1..=1_000 {
            tally.add(begin, begin + Duration::from_millis(ms), End::Done(Kind::FindItem));
        }
        let (_, found) = tally.latencies().next().unwrap();
        let near = |us: u64, ms: u64| us.abs_diff(ms * 1_000) <= ms * 2;
        assert!(near(found.p50, 500) && near(found.p90, 900), "{found:?}");
        assert!(near(found.p99, 990) && near(found.p999, 999), "{found:?}");
        assert!(near(found.max, 1_000), "{found:?}");
    }

    #[test]
    fn an_early_end_makes_the_window_shorter() {
        let (begin, mut tally) = tally();
        tally.close(begin + 2 * SECOND);
        tally.add(begin, begin + 3 * SECOND, End::Done(Kind::Fresh));
        assert_eq!(tally.count(Kind::Fresh), 0);
        assert!((tally.seconds() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn problems_count_whenever_they_happen() {
        let (begin, mut tally) = tally();
        tally.add(begin - SECOND, begin - SECOND, End::Failed("connection lost".to_owned()));
        tally.add(begin, begin + 20 * SECOND, End::Unexplained("OUT_OF_STOCK".to_owned()));
        assert_eq!(tally.problems().len(), 2);
        tally.add(begin, begin, End::Expected("OUT_OF_CREDIT".to_owned()));
        assert_eq!(tally.refused()["OUT_OF_CREDIT"], 1);
        assert_eq!(tally.problems().len(), 2);
        // A refusal as too much is a problem too, unless an overload is measured.
        tally.add(begin, begin, End::Shed("429 OVERLOADED".to_owned()));
        assert_eq!((tally.problems().len(), tally.shed()["429 OVERLOADED"]), (3, 1));
        tally.let_shed();
        assert_eq!(tally.problems().len(), 2);
    }
}
