//! The alerts, and the configuration of compose's Prometheus. Prometheus' own promtool reads both,
//! and evaluates the alerts on made-up series.

use std::process::Command;

use super::go::Module;
use crate::{
    command, files,
    report::{Part, Tally},
    workspace::Workspace,
};

/// Of all service discoveries the tags keep only those that we use: the others are clients of every
/// cloud.
const PROMTOOL: Module = Module {
    tags: "remove_all_sd,enable_dns_sd",
    ..Module::new("github.com/prometheus/prometheus", "v0.313.5", &["./cmd/promtool"])
};
const ALERTS: &str = "helm-config/till/files/alerts.yaml";
const TESTS: &str = "tools/xtask/alerts-test.yaml";
const CONFIG: &str = "env/observability/prometheus.yml";

pub(super) fn check(workspace: &Workspace) -> Part {
    let program = PROMTOOL.program(workspace)?;
    // Side by side, as in compose, as both refer to the alerts by their file name.
    let folder = workspace.scratch("promtool")?;
    for file in [ALERTS, TESTS, CONFIG] {
        let from = workspace.root.join(file);
        let name = from.file_name().ok_or("a file without a name")?;
        files::copy(&from, folder.join(name))?;
    }
    let mut tally = Tally::default();
    for (what, args) in [
        (ALERTS, ["check", "rules", "--lint=all", "alerts.yaml"].as_slice()),
        (CONFIG, &["check", "config", "prometheus.yml"]),
        (TESTS, &["test", "rules", "alerts-test.yaml"]),
    ] {
        let mut promtool = Command::new(&program);
        promtool.args(args).current_dir(&folder);
        tally.check(what, command::heard(&mut promtool).map(drop));
    }
    Ok(tally)
}
