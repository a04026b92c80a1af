//! The report, as JSON and as a table for people.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    books::Books,
    check::Verdict,
    pace::Pace,
    roles::Usage,
    tally::{Kind, Percentiles, Tally, as_float, millis},
};

/// With less than this share of the offered rate, a shop has not kept up.
const KEPT_UP: f64 = 0.95;
/// CPU cores from which on the generator, which has one thread, may be the limit.
const GENERATOR_BUSY: f64 = 0.85;

/// Everything known of one measured window.
#[derive(Debug)]
pub(crate) struct Point {
    /// `till`, `till batch=1`, or `tikv`.
    pub(crate) variant: &'static str,
    pub(crate) pace: Pace,
    pub(crate) tally: Tally,
    /// Usage of the shop's roles and of the generator, at the begin and at the end of the window.
    pub(crate) roles: [Usage; 2],
    pub(crate) own: [Usage; 2],
    /// Growth of the store's counters over the window; null if unknown.
    pub(crate) store: Value,
    /// Outcomes of the roles' KV commits over the window; null if unknown.
    pub(crate) commits: Value,
    /// None if the check was left out, or there is nothing to check.
    pub(crate) verdict: Option<Verdict>,
    /// None if the audit was left out, or the store is unknown.
    pub(crate) books: Option<Books>,
}

impl Point {
    /// A point with a tally, and nothing known about the shop.
    pub(crate) fn of(variant: &'static str, pace: Pace, tally: Tally) -> Self {
        Self {
            variant,
            pace,
            tally,
            roles: [Usage::default(), Usage::default()],
            own: [Usage::default(), Usage::default()],
            store: Value::Null,
            commits: Value::Null,
            verdict: None,
            books: None,
        }
    }

    /// Why there are no figures; empty if there are.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.tally.problems();
        problems.extend(self.verdict.iter().flat_map(Verdict::problems));
        problems.extend(self.books.iter().flat_map(Books::problems));
        if problems.is_empty() && self.tally.total() == 0 {
            problems.push("nothing ended within the window".to_owned());
        }
        problems
    }

    /// Calls per second. A purchase of `mixed` is several calls.
    pub(crate) fn rate(&self) -> f64 {
        self.tally.rate(self.tally.total())
    }

    /// Fresh checkouts, or bare transactions, per second.
    pub(crate) fn fresh_rate(&self) -> f64 {
        self.tally.rate(self.tally.count(Kind::Fresh) + self.tally.count(Kind::Bare))
    }

    /// CPU microseconds per fresh checkout, over all roles.
    fn cpu_each_us(&self) -> Option<f64> {
        let fresh = self.tally.count(Kind::Fresh);
        let cpu = self.roles[1].cpu_since(&self.roles[0]);
        (fresh > 0 && cpu > 0.0).then(|| cpu * 1e6 / as_float(fresh))
    }

    /// Remarks that a reader needs to compare this with other figures.
    fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Pace::Open { rate, .. } = self.pace
            && self.rate() < rate * KEPT_UP
        {
            remarks.push("the shop did not keep up with what was offered".to_owned());
        }
        let [before, after] = &self.own;
        let busy = after.cpu_since(before) / self.tally.seconds().max(f64::MIN_POSITIVE);
        if busy > GENERATOR_BUSY {
            remarks.push(format!("the generator was busy ({busy:.2} cores): it may be the limit"));
        }
        remarks
    }

    /// Latency of the most important kind of call: the first one that there is.
    pub(crate) fn latency(&self) -> Option<Percentiles> {
        self.tally.latencies().next().map(|(_, percentiles)| percentiles)
    }

    /// The point as JSON. It has no figures if there are problems.
    pub(crate) fn json(&self) -> Value {
        let problems = self.problems();
        if !problems.is_empty() {
            return json!({
                "variant": self.variant,
                "pace": self.pace.name(),
                "problems": problems,
            });
        }
        let rate = |kind| self.tally.rate(self.tally.count(kind));
        let latencies: serde_json::Map<String, Value> = self
            .tally
            .latencies()
            .map(|(kind, percentiles)| (kind.name().to_owned(), percentiles.json()))
            .collect();
        let [roles_before, roles] = &self.roles;
        let [own_before, own] = &self.own;
        json!({
            "variant": self.variant,
            "pace": self.pace.name(),
            "callers": self.pace.callers(),
            "offered_per_s": match self.pace {
                Pace::Open { rate, .. } => json!(rate),
                Pace::Closed { .. } | Pace::Thinking { .. } => Value::Null,
            },
            "seconds": self.tally.seconds(),
            "calls_per_s": self.rate(),
            "fresh_per_s": rate(Kind::Fresh),
            "repeated_per_s": rate(Kind::Repeated),
            "refused": self.tally.refused(),
            "shed": self.tally.shed(),
            "latency": latencies,
            "roles": roles.json(roles_before),
            "cpu_us_per_fresh_checkout": self.cpu_each_us(),
            "generator": own.json(own_before)["generator"],
            "store": self.store,
            "commits": self.commits,
            "remarks": self.remarks(),
            "check": self.verdict.as_ref().map(|verdict| json!({
                "orders_read": verdict.orders,
                "paid": verdict.paid,
                "items_and_users_compared": verdict.compared,
                "of": verdict.comparable,
                "units": verdict.units,
                "money": verdict.money,
            })),
            "audit": self.books.as_ref().map(Books::json),
        })
    }

    /// The point as a table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!("\n{}: {}\n", self.variant, self.pace.name());
        let problems = self.problems();
        if !problems.is_empty() {
            text.push_str("  no figures:\n");
            for problem in problems {
                line(&mut text, &format!("    {problem}"));
            }
            return text;
        }
        let count = |kind| self.tally.count(kind);
        let rate = |kind| self.tally.rate(count(kind));
        line(
            &mut text,
            &format!("  window {:.2} s, {:.0} calls/s", self.tally.seconds(), self.rate()),
        );
        let bought = [(Kind::Fresh, "fresh checkouts"), (Kind::Repeated, "repeated checkouts")];
        for (kind, name) in bought.into_iter().filter(|(kind, _)| count(*kind) > 0) {
            line(&mut text, &format!("  {name}: {} in all, {:.0}/s", count(kind), rate(kind)));
        }
        for remark in self.remarks() {
            line(&mut text, &format!("  note: {remark}"));
        }
        for (reason, count) in self.tally.refused() {
            let rate = self.tally.rate(*count);
            line(&mut text, &format!("  refused as expected, {reason}: {count}, {rate:.0}/s"));
        }
        for (said, count) in self.tally.shed() {
            let rate = self.tally.rate(*count);
            line(&mut text, &format!("  refused as too much, {said}: {count}, {rate:.0}/s"));
        }
        self.latency_table(&mut text);
        if self.tally.count(Kind::Bare) > 0 {
            // No shop took part, so there is nothing more to tell.
            return text;
        }
        self.cost_table(&mut text);
        if let Some(cpu) = self.cpu_each_us() {
            line(&mut text, &format!("  CPU of all roles for each fresh checkout: {cpu:.0} us"));
        }
        self.store_lines(&mut text);
        match &self.verdict {
            Some(verdict) => line(
                &mut text,
                &format!(
                    "  check: {} of {} touched orders paid, {} of {} items and users compared: \
                     all as sold",
                    verdict.paid, verdict.orders, verdict.compared, verdict.comparable
                ),
            ),
            None => line(&mut text, "  check: not run"),
        }
        line(&mut text, &self.books.as_ref().map_or("  audit: not run".to_owned(), Books::line));
        text
    }

    fn latency_table(&self, text: &mut String) {
        let head = ["latency, ms", "count", "p50", "p90", "p99", "p99.9", "max"];
        line(text, &row(&head.map(str::to_owned)));
        for (kind, found) in self.tally.latencies() {
            let ms = |us| format!("{:.2}", millis(us));
            let cells = [
                kind.name().to_owned(),
                found.count.to_string(),
                ms(found.p50),
                ms(found.p90),
                ms(found.p99),
                ms(found.p999),
                ms(found.max),
            ];
            line(text, &row(&cells));
        }
    }

    fn cost_table(&self, text: &mut String) {
        let [roles_before, roles] = &self.roles;
        let [own_before, own] = &self.own;
        let head = ["role", "procs", "CPU s", "cores", "RSS MiB", "peak MiB"];
        line(text, &row(&head.map(str::to_owned)));
        for value in [roles.json(roles_before), own.json(own_before)] {
            for (role, costs) in value.as_object().into_iter().flatten() {
                let cpu = costs["cpu_s"].as_f64().unwrap_or_default();
                let whole = |name: &str| costs[name].as_u64().unwrap_or_default().to_string();
                let cells = [
                    role.clone(),
                    whole("processes"),
                    format!("{cpu:.2}"),
                    format!("{:.2}", cpu / self.tally.seconds().max(f64::MIN_POSITIVE)),
                    whole("rss_mib"),
                    whole("rss_peak_mib"),
                ];
                line(text, &row(&cells));
            }
            if value.is_null() {
                line(text, "  CPU and memory of the roles are not known (--up or --pid tells)");
            }
        }
    }

    fn store_lines(&self, text: &mut String) {
        if self.store.is_null() {
            line(text, "  the store's counters are not known");
            return;
        }
        let each = &self.store["per_fresh_checkout"];
        let shown =
            |value: &Value| value.as_f64().map_or("-".to_owned(), |each| format!("{each:.2}"));
        line(
            text,
            &format!(
                "  store, for each fresh checkout: {} mutations, {} KV transactions, {} keys read, \
                 {} syncs",
                shown(&each["mutations"]),
                shown(&each["transactions"]),
                shown(&each["keys_read"]),
                shown(&each["syncs"]),
            ),
        );
        line(
            text,
            &format!(
                "  fresh checkouts for each KV transaction: {}; {} of {} in one phase",
                shown(&self.store["fresh_checkouts_per_transaction"]),
                self.store["one_phase_commits"],
                self.store["transactions"],
            ),
        );
        line(
            text,
            &format!(
                "  conflicts for a thousand KV transactions: {}",
                shown(&self.commits["conflicts_per_1000"]),
            ),
        );
    }
}

fn line(text: &mut String, content: &str) {
    writeln!(text, "{content}").expect("a String takes all");
}

fn row(cells: &[String]) -> String {
    let mut cells = cells.iter();
    let mut text = format!("  {:<18}", cells.next().map_or("", String::as_str));
    for cell in cells {
        write!(text, "{cell:>10}").expect("a String takes all");
    }
    text
}

/// The ratios of fresh checkouts per second, of the first variant to each other one, load by load.
/// Only where both have figures.
pub(crate) fn ratios(points: &[Point]) -> Vec<Value> {
    let clean = |point: &&Point| point.problems().is_empty();
    let (firsts, others): (Vec<&Point>, Vec<&Point>) = points
        .iter()
        .filter(clean)
        .partition(|point| points.first().is_some_and(|first| first.variant == point.variant));
    let mut all = Vec::new();
    for other in others {
        let first = firsts.iter().find(|first| first.pace == other.pace);
        if let Some(first) = first
            && other.fresh_rate() > 0.0
        {
            all.push(json!({
                "pace": other.pace.name(),
                "of": first.variant,
                "to": other.variant,
                "ratio": first.fresh_rate() / other.fresh_rate(),
            }));
        }
    }
    all
}

#[cfg(test)]
mod tests;
