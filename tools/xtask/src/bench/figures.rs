//! Figures of reports of `till bench`, and what those of several runs say of a change.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// With fewer rounds, chance alone too often puts every run of one side above every run of the
/// other: with three, for one in ten of the figures that did not change, with four for one in 35,
/// with five for one in 126.
const ROUNDS_MIN: usize = 4;
/// Shown in place of a figure that no report has.
const UNKNOWN: &str = "n/a";

/// One side's values of one figure, over all of its runs.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
    runs: usize,
}

impl Spread {
    /// None if there are no values.
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[half]
        } else {
            f64::midpoint(values[half - 1], values[half])
        };
        Some(Self { median, min, max, runs: values.len() })
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.min <= other.max && other.min <= self.max
    }

    fn json(&self) -> Value {
        json!({"median": self.median, "min": self.min, "max": self.max, "runs": self.runs})
    }

    fn text(&self) -> String {
        format!("{} ({} - {})", shown(self.median), shown(self.min), shown(self.max))
    }
}

/// One figure of both sides.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Compared {
    name: String,
    before: Option<Spread>,
    here: Option<Spread>,
}

impl Compared {
    /// The ratio of the medians, of this tree to the other commit; none if one is missing or 0.
    fn ratio(&self) -> Option<f64> {
        let (before, here) = (self.before?, self.here?);
        (before.median > 0.0).then(|| here.median / before.median)
    }

    /// What the ratio is worth.
    fn verdict(&self) -> &'static str {
        let (Some(before), Some(here)) = (self.before, self.here) else { return UNKNOWN };
        if before.overlaps(&here) {
            "noise"
        } else if before.runs.min(here.runs) < ROUNDS_MIN {
            "too few rounds"
        } else if here.median < before.median {
            "less"
        } else {
            "more"
        }
    }

    fn json(&self) -> Value {
        json!({
            "figure": self.name,
            "before": self.before.map(|spread| spread.json()),
            "here": self.here.map(|spread| spread.json()),
            "ratio": self.ratio(),
            "verdict": self.verdict(),
        })
    }
}

/// Compares the reports of both sides, figure by figure. A figure may be missing in any of them.
pub(super) fn compare(before: &[Value], here: &[Value]) -> Vec<Compared> {
    let read = |reports: &[Value]| reports.iter().map(figures).collect::<Vec<_>>();
    let (before, here) = (read(before), read(here));
    let mut names: Vec<&String> = Vec::new();
    // Those of this tree come first: it knows more figures than an older commit does.
    for (name, _) in here.iter().chain(&before).flatten() {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let spread = |runs: &[Vec<(String, f64)>], wanted: &String| {
        let values = runs.iter().flatten().filter(|(name, _)| name == wanted);
        Spread::of(values.map(|(_, value)| *value).collect())
    };
    let compared = |name: &String| Compared {
        name: name.clone(),
        before: spread(&before, name),
        here: spread(&here, name),
    };
    names.into_iter().map(compared).collect()
}

/// The comparison as JSON.
pub(super) fn json(compared: &[Compared]) -> Value {
    compared.iter().map(Compared::json).collect()
}

/// The comparison as a table for people. `before` names the other commit.
pub(super) fn table(compared: &[Compared], before: &str) -> String {
    let head = ["median (min - max)", before, "here", "ratio", ""].map(str::to_owned);
    let side = |spread: Option<Spread>| spread.map_or(UNKNOWN.to_owned(), |spread| spread.text());
    let rows = compared.iter().map(|figure| {
        [
            figure.name.clone(),
            side(figure.before),
            side(figure.here),
            figure.ratio().map_or(UNKNOWN.to_owned(), |ratio| format!("{ratio:.2}")),
            figure.verdict().to_owned(),
        ]
    });
    let rows: Vec<[String; 5]> = [head].into_iter().chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..5).filter_map(width).collect();
    let mut text = String::new();
    for [name, before, here, ratio, verdict] in &rows {
        let line = format!(
            "{name:<0$}  {before:>1$}  {here:>2$}  {ratio:>3$}  {verdict}",
            widths[0], widths[1], widths[2], widths[3]
        );
        writeln!(text, "{}", line.trim_end()).expect("a String takes all");
    }
    let few = compared.iter().any(|figure| figure.verdict() == "too few rounds");
    text.push_str(
        "\nnoise: the runs of one side are not all above or below those of the other, so the ratio \
         says nothing\n",
    );
    if few {
        writeln!(text, "too few rounds: chance alone may separate fewer than {ROUNDS_MIN} runs")
            .expect("a String takes all");
    }
    text
}

/// The three figures that matter most, for progress.
pub(super) fn brief(report: &Value) -> String {
    let figures = figures(report);
    let parts: Vec<String> =
        figures.iter().take(3).map(|(name, value)| format!("{name} {}", shown(*value))).collect();
    parts.join(", ")
}

/// What the runs of a report found wrong; empty if it has figures.
pub(super) fn problems(report: &Value) -> Vec<String> {
    let points = list(&report["points"]);
    points.flat_map(|point| list(&point["problems"])).map(said).collect()
}

/// All figures of a report, with their names, in the order in which they are shown. A figure that
/// the report does not have is left out.
fn figures(report: &Value) -> Vec<(String, f64)> {
    let points: Vec<&Value> = list(&report["points"]).collect();
    let mut all = Vec::new();
    for point in &points {
        // With one load, all figures are of that.
        let load = format!("{}, {}: ", said(&point["variant"]), said(&point["pace"]));
        let load = if points.len() > 1 { load } else { String::new() };
        all.extend(of_point(point).into_iter().map(|(name, value)| (load.clone() + &name, value)));
    }
    let disk = report["machine"]["disk_sync_us"].as_f64();
    all.extend(disk.map(|us| ("a disk's sync before, us".to_owned(), us)));
    all
}

fn of_point(point: &Value) -> Vec<(String, f64)> {
    let number = |value: &Value| value.as_f64();
    let fresh = number(&point["fresh_per_s"]).filter(|rate| *rate > 0.0);
    let calls = number(&point["calls_per_s"]);
    let each = if fresh.is_some() { "fresh checkout" } else { "call" };
    let done = fresh.or(calls).zip(number(&point["seconds"])).map(|(rate, time)| rate * time);
    let cpu_each = |costs: &Value| {
        let done = done.filter(|done| *done > 0.0)?;
        Some(number(&costs["cpu_s"])? * 1e6 / done)
    };
    let mut all: Vec<(String, Option<f64>)> = vec![
        ("fresh checkouts/s".to_owned(), fresh),
        ("CPU of all roles, us each".to_owned(), number(&point["cpu_us_per_fresh_checkout"])),
    ];
    for (kind, latency) in map(&point["latency"]) {
        for (name, key) in [("p50", "p50_us"), ("p90", "p90_us"), ("p99", "p99_us")] {
            let ms = number(&latency[key]).map(|us| us / 1e3);
            all.push((format!("{kind} {name}, ms"), ms));
        }
    }
    // In most workloads a call is a fresh checkout.
    all.push(("calls/s".to_owned(), calls.filter(|calls| fresh != Some(*calls))));
    let generator = ("generator".to_owned(), point["generator"].clone());
    let costs: Vec<(String, Value)> =
        map(&point["roles"]).map(|(role, costs)| (role.clone(), costs.clone())).collect();
    for (who, costs) in costs.iter().chain([&generator]) {
        all.push((format!("CPU of {who}, us each {each}"), cpu_each(costs)));
    }
    for (who, costs) in costs.iter().chain([&generator]) {
        all.push((format!("RSS of {who}, MiB"), number(&costs["rss_mib"])));
    }
    for (name, value) in map(&point["store"]["per_fresh_checkout"]) {
        all.push((format!("store, {name} each"), number(value)));
    }
    let conflicts = number(&point["commits"]["conflicts_per_1000"]);
    all.push(("conflicts in 1,000 KV transactions".to_owned(), conflicts));
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn map(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

fn said(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned)
}

/// A number with about three digits, and commas between thousands.
fn shown(value: f64) -> String {
    let decimals = match value.abs() {
        large if large >= 100.0 || large == 0.0 => 0,
        medium if medium >= 10.0 => 1,
        _ => 3,
    };
    let text = format!("{value:.decimals$}");
    let (whole, rest) = text.split_once('.').map_or((&*text, ""), |(whole, rest)| (whole, rest));
    let mut with_commas = String::new();
    for (index, digit) in whole.char_indices() {
        let left = whole.len() - index;
        if index > 0 && left.is_multiple_of(3) && !with_commas.ends_with('-') {
            with_commas.push(',');
        }
        with_commas.push(digit);
    }
    if rest.is_empty() { with_commas } else { format!("{with_commas}.{rest}") }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// A raw result that docs/performance.md refers to.
    fn sample(name: &str) -> Value {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/figures");
        let text = fs::read_to_string(folder.join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// Reports with these rates and nothing else.
    fn rates(rates: &[f64]) -> Vec<Value> {
        rates.iter().map(|rate| json!({"points": [{"fresh_per_s": rate}]})).collect()
    }

    fn compared(before: &[f64], here: &[f64]) -> Compared {
        let all = compare(&rates(before), &rates(here));
        assert_eq!(all.len(), 1);
        all[0].clone()
    }

    #[test]
    fn a_median_is_the_middle_or_between_the_two_in_the_middle() {
        let median = |values: &[f64]| Spread::of(values.to_vec()).map(|spread| spread.median);
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 9.0, 2.0]), Some(3.0));
        let spread = Spread::of(vec![4.0, 1.0, 9.0]).unwrap();
        assert_eq!((spread.min, spread.max, spread.runs), (1.0, 9.0, 3));
    }

    #[test]
    fn a_change_within_the_spread_is_noise() {
        let noisy = compared(&[90.0, 100.0, 110.0, 100.0], &[105.0, 120.0, 130.0, 125.0]);
        assert_eq!(noisy.ratio(), Some(1.225));
        assert_eq!(noisy.verdict(), "noise");
        let more = compared(&[90.0, 100.0, 104.0, 100.0], &[105.0, 120.0, 130.0, 125.0]);
        assert_eq!(more.verdict(), "more");
        let less = compared(&[105.0, 120.0, 130.0, 125.0], &[90.0, 100.0, 104.0, 100.0]);
        assert_eq!(less.verdict(), "less");
    }

    #[test]
    fn a_few_rounds_prove_nothing() {
        let few = compared(&[100.0, 101.0, 102.0], &[200.0, 201.0, 202.0]);
        assert_eq!(few.verdict(), "too few rounds");
        assert_eq!(few.ratio(), Some(201.0 / 101.0));
        assert!(table(&[few], "abc").contains("chance alone"));
        assert_eq!(compared(&[100.0], &[100.0]).verdict(), "noise");
    }

    #[test]
    fn a_figure_may_be_missing() {
        let older = json!({"points": [{"seconds": 6.0, "latency": {}}]});
        let all = compare(&[older.clone(), older], &[sample("waits-256.json")]);
        let rate = &all[0];
        assert_eq!(rate.name, "fresh checkouts/s");
        assert_eq!((rate.before, rate.ratio(), rate.verdict()), (None, None, UNKNOWN));
        assert!(table(&all, "abc").contains("n/a"));
        assert!(compare(&[Value::Null], &[Value::Null]).is_empty());
        // Without a median to divide by there is no ratio.
        let zero = Spread::of(vec![0.0]);
        let none = Compared { name: String::new(), before: zero, here: zero };
        assert_eq!((none.ratio(), none.verdict()), (None, "noise"));
    }

    #[test]
    fn a_report_of_till_bench_is_read() {
        let found = figures(&sample("waits-256.json"));
        let figure = |wanted: &str| {
            let found = found.iter().find(|(name, _)| name == wanted);
            found.map_or_else(|| format!("no {wanted}"), |(_, value)| shown(*value))
        };
        for (name, value) in [
            ("fresh checkouts/s", "5,744"),
            ("CPU of all roles, us each", "282"),
            ("checkout p50, ms", "42.6"),
            ("checkout p99, ms", "91.6"),
            ("CPU of dev-kv, us each fresh checkout", "74.9"),
            ("CPU of generator, us each fresh checkout", "17.4"),
            ("RSS of order, MiB", "140"),
            ("store, mutations each", "3.891"),
            ("conflicts in 1,000 KV transactions", "0"),
            ("a disk's sync before, us", "237"),
        ] {
            assert_eq!(figure(name), value, "{name}");
        }
        assert!(found.iter().all(|(name, _)| name != "calls/s"), "the same as fresh checkouts");
    }

    #[test]
    fn figures_of_several_loads_are_told_apart() {
        let series = figures(&sample("fresh.json"));
        let rates: Vec<&String> =
            series.iter().map(|(name, _)| name).filter(|name| name.ends_with("ts/s")).collect();
        assert_eq!(rates.len(), 6);
        assert_eq!(rates[1], "till, closed loop, 16 callers: fresh checkouts/s");
        // A find costs CPU, although nothing is bought.
        let finds = figures(&sample("find.json"));
        assert!(
            finds.iter().any(|(name, value)| name == "CPU of order, us each call" && *value > 1.0)
        );
    }

    #[test]
    fn a_report_without_figures_says_why() {
        assert!(problems(&sample("waits-256.json")).is_empty());
        let failed = json!({"points": [{"problems": ["an order was paid twice"]}]});
        assert_eq!(problems(&failed), ["an order was paid twice"]);
    }

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.0746, 9.5, 42.559, 281.75, 5743.83, 1_234_567.0, -1234.0];
        let texts = ["0", "0.075", "9.500", "42.6", "282", "5,744", "1,234,567", "-1,234"];
        assert_eq!(all.map(shown), texts);
    }
}
