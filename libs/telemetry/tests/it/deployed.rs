//! Dashboard and alerts ask for what is exported. Goal: a metric or label that is renamed in the
//! code must be renamed there, or a panel is empty and an alert silent. Method: look up every name
//! of every expression in the declarations.

use std::{collections::BTreeSet, fs, path::Path};

use serde_json::Value;
use telemetry::semconv::{Kind, METRICS, Metric, label};

/// Labels that the exporter or Prometheus itself adds.
const ALWAYS: [&str; 4] = ["service_name", "instance", "job", "le"];
/// PromQL keywords that can stand where a metric could.
const WORDS: [&str; 9] =
    ["by", "on", "and", "or", "unless", "without", "ignoring", "group_left", "group_right"];

fn deployed(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../helm-config/till/files");
    fs::read_to_string(folder.join(name)).unwrap()
}

/// Every expression of the dashboard.
fn panels(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Array(list) => list.iter().for_each(|one| panels(one, found)),
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|one| panels(one, found));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn alerts() -> Vec<String> {
    let text = deployed("alerts.yaml");
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("expr: "));
    lines.map(str::to_owned).collect()
}

/// The metrics and labels that an expression names.
#[derive(Debug, Default, PartialEq)]
struct Named {
    metrics: BTreeSet<String>,
    labels: BTreeSet<String>,
}

fn named(expression: &str) -> Named {
    let mut named = Named::default();
    // Quoted texts are label values.
    let bare: String = expression.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    let (mut in_braces, mut in_list, mut in_brackets) = (false, false, false);
    let mut last = String::new();
    let mut rest = bare.as_str();
    while let Some(first) = rest.chars().next() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':' || c == '.';
        let length = rest.find(|c| !is_name(c)).unwrap_or(rest.len()).max(1);
        let (token, after) = rest.split_at(length);
        rest = after.trim_start();
        match first {
            '{' => in_braces = true,
            '}' => in_braces = false,
            '[' => in_brackets = true,
            ']' => in_brackets = false,
            '(' => in_list = matches!(last.as_str(), "by" | "on" | "without" | "ignoring"),
            ')' => in_list = false,
            'a'..='z' | 'A'..='Z' | '_' if !in_brackets => {
                if in_braces || in_list {
                    named.labels.insert(token.to_owned());
                } else if !rest.starts_with('(') && !WORDS.contains(&token) {
                    // `sum by (x) (...)`: the function stands before `by`.
                    if !rest.starts_with("by ") {
                        named.metrics.insert(token.to_owned());
                    }
                }
            }
            _ => {}
        }
        token.clone_into(&mut last);
    }
    named
}

fn declared(series: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| {
        let name = metric.prometheus();
        match metric.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"]
                .iter()
                .any(|suffix| series.strip_suffix(suffix) == Some(&name)),
            Kind::Counter | Kind::Gauge => series == name,
        }
    })
}

fn check(expression: &str) -> Result<(), String> {
    let named = named(expression);
    if named.metrics.is_empty() {
        return Err(format!("asks for nothing: {expression}"));
    }
    let mut labels: BTreeSet<String> = ALWAYS.iter().map(|name| (*name).to_owned()).collect();
    for series in &named.metrics {
        let metric = declared(series).ok_or(format!("{series} is not exported: {expression}"))?;
        labels.extend(metric.labels.iter().map(|name| label(name)));
    }
    match named.labels.difference(&labels).next() {
        Some(label) => Err(format!("{label} is no label of it: {expression}")),
        None => Ok(()),
    }
}

#[test]
fn every_panel_asks_for_what_is_exported() {
    let mut expressions = Vec::new();
    panels(&serde_json::from_str(&deployed("dashboard.json")).unwrap(), &mut expressions);
    assert!(expressions.len() > 20, "{}", expressions.len());
    for expression in expressions {
        check(&expression).unwrap();
    }
}

#[test]
fn every_alert_asks_for_what_is_exported() {
    let expressions = alerts();
    assert!(expressions.len() > 5, "{}", expressions.len());
    for expression in expressions {
        check(&expression).unwrap();
    }
}

#[test]
fn every_alert_has_a_runbook() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/telemetry.md");
    let docs = fs::read_to_string(docs).unwrap();
    let text = deployed("alerts.yaml");
    for line in text.lines() {
        if let Some(alert) = line.trim().strip_prefix("- alert: ") {
            assert!(docs.contains(&format!("### {alert}\n")), "{alert} has no runbook");
            let link = format!("docs/telemetry.md#{}\n", alert.to_lowercase());
            assert!(text.contains(&link), "{alert} does not name its runbook");
        }
    }
}

#[test]
fn what_is_not_exported_is_seen() {
    let sound =
        "sum by (till_kv_outcome) (rate(till_kv_commits_total{till_kv_outcome=\"a b\"}[5m])) > 0.5";
    check(sound).unwrap();
    let names = named(sound);
    assert_eq!(names.metrics, BTreeSet::from(["till_kv_commits_total".to_owned()]));
    assert_eq!(names.labels, BTreeSet::from(["till_kv_outcome".to_owned()]));
    assert!(check("rate(till_kv_commits[5m])").is_err());
    assert!(check("sum by (till_outcome) (till_kv_commits_total)").is_err());
    assert!(check("till_kv_commits_total{outcome=\"x\"}").is_err());
    assert!(check("rate(till_lane_batch_size[5m])").is_err(), "a histogram by its bare name");
    assert!(check("1 + 2").is_err());
}
