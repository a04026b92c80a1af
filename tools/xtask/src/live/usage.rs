//! CPU and memory of each role by the metrics server: idle, at half of the load that it can take,
//! and at all of it. docs/deploy.md has the table, and the chart's requests follow from it.

use std::{collections::BTreeMap, process::Child, thread, time::Duration};

use serde_json::Value;

use super::{
    chart::{OURS, Release},
    machine::wait,
    steps::Steps,
};

/// Longer than two rounds of the metrics server.
const SETTLE: Duration = Duration::from_secs(25);
const CALLERS: &str = "64";

/// By role: thousandths of a CPU of all its pods, and the most MiB of one of them.
type Usage = BTreeMap<String, (u64, u64)>;

/// Measures a fresh release that has one pod of each role.
pub(crate) fn measure(steps: &mut Steps, release: &Release<'_>) {
    steps.run("usage, idle", || {
        wait("the metrics server tells nothing", Duration::from_secs(90), || {
            if usage(release)?.len() >= 6 {
                Ok(())
            } else {
                Err("no metrics of some pods".to_owned())
            }
        })?;
        thread::sleep(SETTLE);
        Ok(words(&usage(release)?))
    });
    let mut peak = 0;
    steps.run("usage, peak", || {
        let (rate, used) = under(release, &["--concurrency", CALLERS])?;
        peak = rate;
        Ok(format!("{rate} checkouts a second; {}", words(&used)))
    });
    steps.run("usage, half of the peak", || {
        let offered = (peak / 2).max(1).to_string();
        let (rate, used) = under(release, &["--rate", &offered])?;
        Ok(format!("{rate} checkouts a second; {}", words(&used)))
    });
}

/// The bench's checkouts per second at this pace, and the usage meanwhile.
fn under(release: &Release<'_>, pace: &[&str]) -> Result<(u64, Usage), String> {
    let file = release.node.workspace.target.join("live/bench.json");
    let mut bench =
        release.node.machine.command(release.node.workspace.target.join("release/till"));
    bench
        .args([
            "bench",
            "--target",
            &release.url()?,
            "--duration-ms",
            "45000",
            "--orders",
            "100000",
        ])
        .args(pace)
        .arg("--json")
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    let mut bench: Child = bench.spawn().map_err(|error| error.to_string())?;
    // First the bench fills the shop and warms up, then it measures.
    thread::sleep(Duration::from_secs(15) + SETTLE);
    let used = usage(release)?;
    let status = bench.wait().map_err(|error| error.to_string())?;
    let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
    let report: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    let rate = report["points"][0]["fresh_per_s"].as_f64();
    match rate {
        Some(rate) if status.success() => Ok((whole(rate), used)),
        _ => Err(format!("the bench has no figures: {}", report["points"][0]["problems"])),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate is small and positive"
)]
fn whole(rate: f64) -> u64 {
    rate.round() as u64
}

/// Usage by role, and of `store`.
fn usage(release: &Release<'_>) -> Result<Usage, String> {
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", release.namespace);
    let told: Value = serde_json::from_str(&release.node.kubectl(&["get", "--raw", &path])?)
        .map_err(|error| error.to_string())?;
    let mut found = Usage::new();
    for pod in told["items"].as_array().into_iter().flatten() {
        let labels = &pod["metadata"]["labels"];
        let role = labels["app.kubernetes.io/component"].as_str().or(labels["app"].as_str());
        let own = &pod["containers"][0]["usage"];
        let cpu = quantity(own["cpu"].as_str().unwrap_or("0"));
        let memory = quantity(own["memory"].as_str().unwrap_or("0"));
        let Some(role) = role.filter(|role| *role != "test") else {
            continue;
        };
        let entry = found.entry(role.to_owned()).or_default();
        entry.0 += cpu / 1_000_000;
        entry.1 = entry.1.max(memory >> 20);
    }
    if found.is_empty() { Err(format!("no metrics of {OURS}")) } else { Ok(found) }
}

/// Nanocores or bytes, from the metrics server's texts such as `12345n` and `6789Ki`.
fn quantity(text: &str) -> u64 {
    let digits = text.trim_end_matches(|last: char| !last.is_ascii_digit());
    let number: u64 = digits.parse().unwrap_or(0);
    match &text[digits.len()..] {
        "u" => number.saturating_mul(1000),
        "m" => number.saturating_mul(1_000_000),
        "Ki" => number.saturating_mul(1 << 10),
        "Mi" => number.saturating_mul(1 << 20),
        _ => number,
    }
}

fn words(used: &Usage) -> String {
    let each = used.iter().map(|(role, (cpu, memory))| format!("{role} {cpu}m {memory} MiB"));
    each.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read() {
        assert_eq!(quantity("12345n"), 12_345);
        assert_eq!(quantity("3m"), 3_000_000);
        assert_eq!(quantity("2Ki"), 2048);
        assert_eq!(quantity("0"), 0);
    }
}
