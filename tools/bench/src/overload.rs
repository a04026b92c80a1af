//! Overload: how much a shop still sells when more is offered than it can serve, what that costs,
//! and how soon it recovers.
//!
//! Three loads follow each other. A closed loop finds the peak. An open loop offers a multiple of
//! it, however much is refused. The first load again shows when the shop is back near its peak.
//! Refusals as too much (429, RESOURCE_EXHAUSTED) are counted apart. A shop should refuse this way,
//! and an order so refused must not be paid.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    pace::Pace,
    report::Point,
    roles::Usage,
    tally::{Kind, Tally, as_float},
};

/// The role whose memory is reported, because it is the one that clients reach.
const FACE: &str = "http-bridge";
/// The share of the peak at which a shop counts as recovered.
const RECOVERED: f64 = 0.9;

/// The overload to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OverloadPlan {
    /// The multiple of the peak to offer.
    pub(crate) factor: u32,
    /// Calls that may be open at once.
    pub(crate) callers: usize,
}

impl OverloadPlan {
    /// The load that is too much for a shop with this peak, in checkouts per second.
    pub(crate) fn pace(self, peak: f64) -> Pace {
        Pace::Open { rate: (peak * f64::from(self.factor)).max(1.0), callers: self.callers }
    }
}

/// The effects of an overload.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Findings {
    factor: u32,
    peak: f64,
    offered: f64,
    goodput: f64,
    shed: f64,
    /// RSS of the REST face in MiB: before, at the end of the overload, its maximum, at the end.
    rss: [Value; 4],
    /// Time from the end of the overload until the shop recovered; none if it did not.
    recovery: Option<Duration>,
}

/// The three loads: the peak, the overload, and the load after it.
#[derive(Debug)]
pub(crate) struct Phases<'a> {
    pub(crate) plan: OverloadPlan,
    pub(crate) peak: &'a Point,
    pub(crate) over: &'a Point,
    /// Tally of the load after the overload, which is that of the peak, and memory at its end.
    pub(crate) after: (&'a Tally, &'a Usage),
    /// When the load after the overload began.
    pub(crate) resumed: Instant,
}

impl Findings {
    /// Evaluates the three loads.
    pub(crate) fn of(phases: &Phases<'_>) -> Self {
        let Phases { plan, peak, over, after, resumed } = phases;
        let (tally, usage) = after;
        let rss = |usage: &Usage, which: &str| usage.json(usage)[FACE][which].clone();
        let waited = resumed.saturating_duration_since(over.tally.end());
        let recovery = tally.reaches(Kind::Fresh, peak.fresh_rate() * RECOVERED);
        Self {
            factor: plan.factor,
            peak: peak.fresh_rate(),
            offered: match over.pace {
                Pace::Open { rate, .. } => rate,
                Pace::Closed { .. } | Pace::Thinking { .. } => 0.0,
            },
            goodput: over.fresh_rate(),
            shed: over.tally.rate(over.tally.shed().values().sum()),
            rss: [
                rss(&peak.roles[1], "rss_mib"),
                rss(&over.roles[1], "rss_mib"),
                rss(usage, "rss_peak_mib"),
                rss(usage, "rss_mib"),
            ],
            recovery: recovery.map(|more| waited + more),
        }
    }

    /// Goodput as a share of the peak.
    fn ratio(&self) -> f64 {
        if self.peak > 0.0 { self.goodput / self.peak } else { 0.0 }
    }

    /// The findings as JSON, for the report.
    pub(crate) fn json(&self) -> Value {
        let [before, under, peak, after] = &self.rss;
        json!({
            "factor": self.factor,
            "peak_per_s": self.peak,
            "offered_per_s": self.offered,
            "goodput_per_s": self.goodput,
            "goodput_of_peak": self.ratio(),
            "shed_per_s": self.shed,
            "bridge_rss_mib": { "before": before, "under": under, "peak": peak, "after": after },
            "recovery_s": self.recovery.map(|time| time.as_secs_f64()),
        })
    }

    /// The findings as text for people.
    pub(crate) fn table(&self) -> String {
        let recovery = self.recovery.map_or_else(
            || "not within the window".to_owned(),
            |time| format!("{:.2} s", time.as_secs_f64()),
        );
        let [before, under, peak, after] = &self.rss;
        format!(
            "\noverload: {} times the peak\n  peak {:.0}/s, offered {:.0}/s, goodput {:.0}/s: {:.0} % \
             of the peak\n  refused as too much: {:.0}/s\n  RSS of {FACE}, MiB: {before} before, \
             {under} at the end of it, {peak} at most, {after} afterwards\n  back at {:.0} % of the \
             peak after: {recovery}\n",
            self.factor,
            self.peak,
            self.offered,
            self.goodput,
            self.ratio() * 100.0,
            self.shed,
            RECOVERED * 100.0,
        )
    }
}

impl Tally {
    /// Time from the begin of the window to the end of the first slice with at least this rate of a
    /// kind, per second.
    fn reaches(&self, kind: Kind, rate: f64) -> Option<Duration> {
        let slice = Self::SLICE;
        let whole = self
            .slices(kind)
            .iter()
            .position(|count| as_float(*count) / slice.as_secs_f64() >= rate)?;
        Some(slice * u32::try_from(whole + 1).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::End;

    fn point(pace: Pace, fresh: u64, shed: u64) -> Point {
        let begin = Instant::now();
        let mut tally = Tally::new(begin, begin + Duration::from_secs(1));
        for _ in 0..fresh {
            tally.add(begin, begin, End::Done(Kind::Fresh));
        }
        for _ in 0..shed {
            tally.add(begin, begin, End::Shed("429 OVERLOADED".to_owned()));
        }
        Point::of("till", pace, tally)
    }

    #[test]
    fn goodput_is_what_was_bought_and_recovery_counts_from_the_end_of_the_load() {
        let plan = OverloadPlan { factor: 5, callers: 9_000 };
        let peak = point(Pace::Closed { callers: 8 }, 100, 0);
        let pace = plan.pace(peak.fresh_rate());
        assert_eq!(pace, Pace::Open { rate: 500.0, callers: 9_000 });
        let mut over = point(pace, 60, 440);
        over.tally.let_shed();
        assert!(over.problems().is_empty(), "what is refused as too much is no error");
        let resumed = over.tally.end() + Duration::from_secs(2);
        let mut after = Tally::new(resumed, resumed + Duration::from_secs(4));
        for (slice, fresh) in [(0, 5), (1, 21), (2, 23), (3, 40)] {
            for _ in 0..fresh {
                after.add(resumed, resumed + Tally::SLICE * slice, End::Done(Kind::Fresh));
            }
        }
        let usage = Usage::default();
        let phases = Phases { plan, peak: &peak, over: &over, after: (&after, &usage), resumed };
        let found = Findings::of(&phases);
        let told = found.json();
        assert_eq!((&told["peak_per_s"], &told["offered_per_s"]), (&json!(100.0), &json!(500.0)));
        assert_eq!((&told["goodput_of_peak"], &told["shed_per_s"]), (&json!(0.6), &json!(440.0)));
        // The third quarter of a second has 23, and 22.5 are needed.
        assert_eq!(told["recovery_s"], json!(2.75));
        assert!(found.table().contains("60 % of the peak"), "{}", found.table());

        let silent = Tally::new(resumed, resumed + Duration::from_secs(4));
        let never = Phases { after: (&silent, &usage), ..phases };
        assert_eq!(Findings::of(&never).json()["recovery_s"], Value::Null);
    }
}
