//! Reads the compose files by `docker compose config`, with every size. `cargo xtask live docker`
//! runs them on an engine. This checks what that cannot: sizes larger than a machine, and screens
//! that only this machine may reach.

use std::{os::unix::process::CommandExt as _, path::Path, process::Command};

use serde_json::Value;

use super::go::Module;
use crate::{
    command,
    report::{Part, Stopped, Tally},
    workspace::Workspace,
};

pub(crate) const COMPOSE: Module = Module {
    linked: "-X github.com/docker/compose/v2/internal.Version=v2.40.3",
    ..Module::new("github.com/docker/compose/v2", "v2.40.3", &["./cmd"])
};

const ONE: &[&str] = &["compose.yaml"];
const SMALLEST: &[&str] = &["compose.yaml", "compose.dev-kv.yaml"];
const ENCRYPTED: &[&str] = &["compose.yaml", "compose.tls.yaml"];
const THREE: &[&str] = &["compose.yaml", "compose.ha.yaml"];

/// Files, a size, and the sum of its limits in CPUs.
const SIZES: &[(&[&str], &str, f64)] = &[
    (ONE, "env/small.env", 2.0),
    (SMALLEST, "env/small.env", 1.9),
    (ENCRYPTED, "env/small.env", 2.0),
    (THREE, "env/medium.env", 20.0),
    (THREE, "env/large.env", 90.0),
];

/// Services that other machines may reach. Everything else that is published has no access control.
const GUARDED: [&str; 2] = ["http-bridge", "locust-master"];

pub(super) fn check(workspace: &Workspace) -> Part {
    let compose = COMPOSE.program(workspace)?;
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
    Ok(tally)
}

/// The project with every profile on.
pub(super) fn whole(workspace: &Workspace) -> Result<Value, Stopped> {
    Ok(everything(workspace, &COMPOSE.program(workspace)?)?)
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

/// Checks that every service has limits, and that those of CPU come to this many.
fn sum(project: &Value, wanted: f64) -> Result<(), String> {
    let mut sum = 0.0;
    for (name, service) in services(project) {
        let limits = &service["deploy"]["resources"]["limits"];
        let each = limits["cpus"].as_f64();
        let each = each.ok_or_else(|| format!("{name} may use any CPU: {limits}"))?;
        if limits["memory"].is_null() {
            return Err(format!("{name} may use any memory"));
        }
        sum += each * service["deploy"]["replicas"].as_f64().unwrap_or(1.0);
    }
    if (sum - wanted).abs() < 1e-6 { Ok(()) } else { Err(format!("comes to {sum}, not {wanted}")) }
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
