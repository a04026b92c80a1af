//! The compose files: compose-go, the library of `docker compose` itself, reads them with every size, and
//! rules of ours hold what comes out. No engine runs them here.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use serde_json::{Value, json};

use super::{go, objects::CALLS};
use crate::{
    command,
    report::{Outcome, Part, Tally},
    workspace::Workspace,
};

const SOURCE: &str = "tools/xtask/compose";

const ONE: &[&str] = &["compose.yaml"];
const THREE: &[&str] = &["compose.yaml", "compose.ha.yaml"];
const TLS: &str = "compose.tls.yaml";
const ENCRYPTED: &[&str] = &["compose.yaml", TLS];

/// Files, a size, and what its limits come to: hundredths of a CPU.
const SIZES: &[(&[&str], &str, u64)] = &[
    (ONE, "env/small.env", 200),
    (ENCRYPTED, "env/small.env", 200),
    (THREE, "env/medium.env", 2_000),
    (THREE, "env/large.env", 9_000),
];

/// What may be reached from outside, and on which port of its own.
const PUBLISHED: &[(&str, u64)] = &[
    ("dashboard", 18888),
    ("grafana", 3000),
    ("http-bridge", 8000),
    ("locust-master", 8089),
    ("prometheus", 9090),
];
/// Published without asking who comes: to this machine alone.
const UNGUARDED: &[&str] = &["dashboard", "grafana", "prometheus"];

/// Runs to its end, and is healthy by having done so.
const ONCE: &[&str] = &["load-init"];
/// Nobody asks these how they are: the one asks for its work, the other has nothing in its image to be
/// asked by, not even a shell.
const UNASKED: &[&str] = &["locust-worker", "dashboard"];

/// Where telemetry goes: the dashboard's port for OTLP over gRPC.
const TELEMETRY: &str = "http://dashboard:18889";

pub(super) fn check(workspace: &Workspace) -> Part {
    let Some(reader) = go::built(workspace, SOURCE)? else {
        return Ok(Outcome::NotRun("go is not installed".to_owned()));
    };
    let mut tally = Tally::default();
    for (files, size, cpus) in SIZES {
        let project = read(workspace, &reader, files, Some(size))?;
        tally.check(size, sum(&project, *cpus));
        let name = files.join(" and ");
        let mut rule = |what: &str, result: Result<(), String>| {
            tally.check(&format!("{what}, {name} with {size}"), result);
        };
        rule("is restarted, and tells how it is", each(&project, steady));
        rule("roles are locked down", each(&project, locked_down));
        rule("only the bridge and the screens are published", published(&project));
        rule("callers find whom they call", each(&project, finds));
        let proved = if files.contains(&TLS) { certified } else { plain };
        rule("gRPC is plain or proved, as chosen", each(&project, proved));
        rule("roles send their telemetry to the dashboard", each(&project, tells));
        rule("networks are closed, volumes have names", closed(&project));
    }
    // The size that is used when none is named stands in the files themselves.
    let (small, bare) =
        (read(workspace, &reader, ONE, Some(SIZES[0].1))?, read(workspace, &reader, ONE, None)?);
    let same = if small == bare { Ok(()) } else { Err("is not env/small.env".to_owned()) };
    tally.check("the default size", same);
    Ok(Outcome::Ran(tally))
}

/// Everything that there is. None without go.
pub(super) fn whole(workspace: &Workspace) -> Result<Option<Value>, String> {
    let Some(reader) = go::built(workspace, SOURCE)? else {
        return Ok(None);
    };
    read(workspace, &reader, THREE, None).map(Some)
}

fn read(
    workspace: &Workspace,
    reader: &PathBuf,
    files: &[&str],
    size: Option<&str>,
) -> Result<Value, String> {
    let mut command = Command::new(reader);
    if let Some(size) = size {
        command.args(["-env-file", size]);
    }
    command.args(files).current_dir(&workspace.root);
    let (succeeded, text) = command::quietly(&mut command)?;
    if !succeeded {
        return Err(text);
    }
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}

fn services(project: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let services = project["services"].as_object();
    services.into_iter().flatten().map(|(name, service)| (name.as_str(), service))
}

fn each(project: &Value, check: fn(&str, &Value) -> Result<(), String>) -> Result<(), String> {
    for (name, service) in services(project) {
        check(name, service).map_err(|problem| format!("{name}: {problem}"))?;
    }
    Ok(())
}

fn expect(what: &str, holds: bool) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// Everything but the load test and what only looks on.
fn sum(project: &Value, wanted: u64) -> Result<(), String> {
    let mut sum = 0;
    for (name, service) in services(project) {
        if service["profiles"].is_array() {
            continue;
        }
        let cpus = &service["deploy"]["resources"]["limits"]["cpus"];
        let text = cpus.as_str().map_or_else(|| cpus.to_string(), str::to_owned);
        let each = hundredths(&text).ok_or_else(|| format!("{name} may use any CPU: {text}"))?;
        expect("memory", service["deploy"]["resources"]["limits"]["memory"] != Value::Null)?;
        let replicas = service["deploy"]["replicas"].as_u64().unwrap_or(1);
        sum += each.saturating_mul(replicas);
    }
    if sum == wanted { Ok(()) } else { Err(format!("comes to {sum} hundredths, not {wanted}")) }
}

/// Of a CPU, from a decimal such as `0.15`.
fn hundredths(text: &str) -> Option<u64> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let rest: u64 = format!("{rest:0<2}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(rest)
}

fn steady(name: &str, service: &Value) -> Result<(), String> {
    let is_once = ONCE.contains(&name);
    expect("a restart policy", service["restart"] != Value::Null)?;
    expect("a restart policy for ever", is_once || service["restart"] == "unless-stopped")?;
    let is_asked = service["healthcheck"]["test"].is_array();
    expect("a health check", is_once || UNASKED.contains(&name) || is_asked)?;
    let pinned = service["image"].as_str().and_then(|image| image.split_once(':'));
    expect("a version", pinned.is_some_and(|(_, tag)| tag != "latest"))
}

fn role(name: &str) -> Option<&'static (&'static str, u64, &'static [&'static str])> {
    CALLS.iter().find(|(role, _, _)| *role == name)
}

fn locked_down(name: &str, service: &Value) -> Result<(), String> {
    let Some((_, port, _)) = role(name) else {
        return Ok(());
    };
    expect("read-only root", service["read_only"] == true)?;
    expect("drops ALL", service["cap_drop"] == json!(["ALL"]))?;
    expect("no new privileges", service["security_opt"] == json!(["no-new-privileges:true"]))?;
    let test = service["healthcheck"]["test"].to_string();
    let asks = test.contains("/usr/local/bin/till") && test.contains(&format!("127.0.0.1:{port}"));
    expect("asks itself by till health", asks)
}

/// Plain text is chosen by name.
fn plain(name: &str, service: &Value) -> Result<(), String> {
    let settings = &service["environment"];
    let listens_by_grpc = role(name).is_some() && name != "http-bridge";
    expect("certificates", settings["TILL_TLS_CA_FILE"].is_null())?;
    expect("says so", (settings["TILL_INSECURE"] == "true") == listens_by_grpc)
}

/// A role sees its own key, the authority's certificate, and nobody else's.
fn certified(name: &str, service: &Value) -> Result<(), String> {
    if role(name).is_none() {
        return expect("has secrets", service["secrets"].is_null());
    }
    let settings = &service["environment"];
    expect("is not plain", settings["TILL_INSECURE"] == "false")?;
    let secrets: BTreeSet<(String, String)> = service["secrets"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|secret| {
            let word = |what: &str| secret[what].as_str().unwrap_or_default().to_owned();
            let target = word("target");
            let file = target.strip_prefix("/run/secrets/").unwrap_or(&target);
            (word("source"), format!("/run/secrets/{file}"))
        })
        .collect();
    let wanted = [
        ("tls-ca".to_owned(), "TILL_TLS_CA_FILE"),
        (format!("{name}-certificate"), "TILL_TLS_CERT_FILE"),
        (format!("{name}-key"), "TILL_TLS_KEY_FILE"),
    ];
    let wanted: BTreeSet<(String, String)> = wanted
        .into_iter()
        .map(|(source, setting)| (source, settings[setting].as_str().unwrap_or("-").to_owned()))
        .collect();
    expect(&format!("sees {secrets:?}"), secrets == wanted)
}

fn published(project: &Value) -> Result<(), String> {
    let mut found = BTreeSet::new();
    for (name, service) in services(project) {
        for port in service["ports"].as_array().into_iter().flatten() {
            found.insert((name, port["target"].as_u64().unwrap_or(0)));
            let is_local = port["host_ip"] == "127.0.0.1";
            expect(&format!("{name} is for this machine"), is_local || !UNGUARDED.contains(&name))?;
        }
    }
    let wanted: BTreeSet<_> = PUBLISHED.iter().copied().collect();
    expect(&format!("it is {found:?}"), found == wanted)
}

/// Who calls whom is the chart's table; a caller and whom it calls share a network.
fn finds(name: &str, service: &Value) -> Result<(), String> {
    let Some((_, port, calls)) = role(name) else {
        return Ok(());
    };
    let settings = &service["environment"];
    let listens = settings["TILL_LISTEN"].as_str().unwrap_or_default();
    expect("its port", listens.ends_with(&format!(":{port}")))?;
    let mut wanted = BTreeSet::new();
    for (callee, port, _) in CALLS.iter().filter(|(callee, _, _)| calls.contains(callee)) {
        wanted.insert((
            format!("TILL_{}_ENDPOINTS", callee.to_uppercase()),
            format!("dns:{callee}:{port}"),
        ));
    }
    let found: BTreeSet<_> = settings
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| name.starts_with("TILL_") && name.ends_with("_ENDPOINTS"))
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    expect(&format!("it is {found:?}"), found == wanted)?;
    expect("where callers are", service["networks"].get("calls").is_some())
}

/// Every role sends what it tells to the dashboard, which is where they are.
fn tells(name: &str, service: &Value) -> Result<(), String> {
    if name == "dashboard" {
        return expect("where roles are", service["networks"].get("calls").is_some());
    }
    if role(name).is_none() {
        return Ok(());
    }
    let settings = &service["environment"];
    expect("its endpoint", settings["OTEL_EXPORTER_OTLP_ENDPOINT"] == TELEMETRY)?;
    expect("its protocol", settings["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc")
}

fn closed(project: &Value) -> Result<(), String> {
    for (name, network) in project["networks"].as_object().into_iter().flatten() {
        expect(name, (name == "edge") != (network["internal"] == true))?;
    }
    for (name, service) in services(project) {
        let has_network = service["networks"].as_object().is_some_and(|list| !list.is_empty());
        expect(&format!("{name} has a network"), has_network)?;
        let is_store = name.starts_with("pd") || name.starts_with("tikv");
        let only = service["networks"]
            .as_object()
            .is_some_and(|list| list.contains_key("store") && list.len() == 1);
        expect(&format!("{name} is reached by the roles alone"), !is_store || only)?;
        for volume in service["volumes"].as_array().into_iter().flatten() {
            expect(
                &format!("{name} keeps data under a name"),
                volume["type"] == "volume" && volume["source"].is_string(),
            )?;
        }
        let keeps = service["volumes"].as_array().is_some_and(|list| !list.is_empty());
        expect(&format!("{name} keeps its data"), keeps || !is_store)?;
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
