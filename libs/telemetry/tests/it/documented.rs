//! The table of metrics in docs/telemetry.md matches the declarations.

use std::{env, fmt::Write as _, fs, path::Path};

use telemetry::semconv::{METRICS, label};

fn table() -> String {
    let mut table = String::from("| at `/metrics` | labels | what |\n|---|---|---|\n");
    for metric in METRICS {
        let labels: Vec<String> =
            metric.labels.iter().map(|name| format!("`{}`", label(name))).collect();
        let (name, labels) = (metric.prometheus(), labels.join(", "));
        writeln!(table, "| `{name}` | {labels} | {} |", metric.help).unwrap();
    }
    table
}

#[test]
fn the_documented_metrics_are_the_declared_ones() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/telemetry.md");
    let text = fs::read_to_string(&path).unwrap();
    let begin = text.find("| at `/metrics`").expect("docs/telemetry.md has no table of metrics");
    let end = begin + text[begin..].find("\n\n").unwrap() + 1;
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, [&text[..begin], &table(), &text[end..]].concat()).unwrap();
        return;
    }
    assert_eq!(text[begin..end], table(), "UPDATE_GOLDEN=1 writes it anew");
}
