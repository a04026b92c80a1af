//! Reads the compose files by `docker compose config`, with every size. `cargo xtask live docker`
//! runs them on an engine. This checks what that cannot: sizes larger than a machine, and screens
//! that only this machine may reach.

use std::{os::unix::process::CommandExt as _, path::Path, process::Command};

use serde_json::Value;

use super::go::Module;
use crate::{
    command,
    report::{Outcome, Part, Tally},
    workspace::Workspace,
};

pub(crate) const COMPOSE: Module =
    Module::new("github.com/docker/compose/v2", "v2.40.3", &["./cmd"])
        .linked("-X github.com/docker/compose/v2/internal.Version=v2.40.3");

const ONE: &[&str] = &["compose.yaml"];
const SMALLEST: &[&str] = &["compose.yaml", "compose.dev-kv.yaml"];
const ENCRYPTED: &[&str] = &["compose.yaml", "compose.tls.yaml"];
const THREE: &[&str] = &["compose.yaml", "compose.ha.yaml"];

/// Files, a size, and the sum of its limits in hundredths of a CPU.
const SIZES: &[(&[&str], &str, u64)] = &[
    (ONE, "env/small.env", 200),
    (SMALLEST, "env/small.env", 190),
    (ENCRYPTED, "env/small.env", 200),
    (THREE, "env/medium.env", 2_000),
    (THREE, "env/large.env", 9_000),
];

/// Services that other machines may reach. Everything else that is published has no access control.
const GUARDED: [&str; 2] = ["http-bridge", "locust-master"];

pub(super) fn check(workspace: &Workspace) -> Part {
    let Some(compose) = COMPOSE.program(workspace)? else {
        return Ok(Outcome::NotRun("go is not installed".to_owned()));
    };
    let mut tally = Tally::default();
    for (files, size, cpus) in SIZES {
        let what = format!("{} with {size}", files.join(" and "));
        let result = config(workspace, &compose, files, &["--env-file", size])
            .and_then(|project| sum(&project, *cpus));
        tally.check(&what, result);
    }
    // The defaults, without a size, come from the files themselves and from .env.
    let small = config(workspace, &compose, ONE, &["--env-file", SIZES[0].1])?;
    let same = config(workspace, &compose, ONE, &[])? == small;
    tally.check(
        "the default size",
        if same { Ok(()) } else { Err("is not env/small.env".to_owned()) },
    );
    tally.check("screens are for this machine", published(&everything(workspace, &compose)?));
    Ok(Outcome::Ran(tally))
}

/// The project with every profile on; none without go.
pub(super) fn whole(workspace: &Workspace) -> Result<Option<Value>, String> {
    let compose = COMPOSE.program(workspace)?;
    compose.map(|compose| everything(workspace, &compose)).transpose()
}

fn everything(workspace: &Workspace, compose: &Path) -> Result<Value, String> {
    config(workspace, compose, THREE, &["--profile", "*"])
}

/// The project that these files make.
fn config(
    workspace: &Workspace,
    compose: &Path,
    files: &[&str],
    options: &[&str],
) -> Result<Value, String> {
    let mut command = Command::new(compose);
    command.arg0("docker-compose").args(options).current_dir(&workspace.root);
    for file in files {
        command.args(["--file", file]);
    }
    let text = command::captured(command.args(["config", "--format", "json"]))?;
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}

fn services(project: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let services = project["services"].as_object();
    services.into_iter().flatten().map(|(name, service)| (name.as_str(), service))
}

fn sum(project: &Value, wanted: u64) -> Result<(), String> {
    let mut sum = 0;
    for (name, service) in services(project) {
        let limits = &service["deploy"]["resources"]["limits"];
        let each = hundredths(&limits["cpus"].to_string())
            .ok_or_else(|| format!("{name} may use any CPU: {limits}"))?;
        if limits["memory"].is_null() {
            return Err(format!("{name} may use any memory"));
        }
        let replicas = service["deploy"]["replicas"].as_u64().unwrap_or(1);
        sum += each.saturating_mul(replicas);
    }
    if sum == wanted { Ok(()) } else { Err(format!("comes to {sum} hundredths, not {wanted}")) }
}

/// Parses hundredths of a CPU from a decimal such as `0.15`.
fn hundredths(text: &str) -> Option<u64> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let rest: u64 = format!("{rest:0<2}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(rest)
}

fn published(project: &Value) -> Result<(), String> {
    for (name, service) in services(project) {
        for port in service["ports"].as_array().into_iter().flatten() {
            if port["host_ip"] != "127.0.0.1" && !GUARDED.contains(&name) {
                return Err(format!("{name} is published to everybody: {port}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_exactly() {
        assert_eq!(hundredths("0.15"), Some(15));
        assert_eq!(hundredths("3"), Some(300));
        assert_eq!(hundredths("2.5"), Some(250));
        assert_eq!(hundredths("0.123"), Some(123), "too fine: counts as too much");
        assert_eq!(hundredths("null"), None);
    }
}
