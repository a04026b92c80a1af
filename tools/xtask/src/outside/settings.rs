//! The executable must know every setting that chart and compose files give it: none is without
//! effect.

use std::{collections::BTreeSet, path::Path, process::Command};

use serde_json::Value;

use super::{chart, compose};
use crate::{
    command,
    report::{Part, Stopped, Tally},
    roles,
    shop::Shop,
    workspace::Workspace,
};

/// Read by libraries, or before the command line is parsed, so that help does not list them as
/// variables.
const UNLISTED: &[&str] = &["TILL_LOG", "TMPDIR"];

/// Prefix of OpenTelemetry's own variables. Every command reads them before its command line. A
/// page lists them.
const TELEMETRY: &str = "OTEL_";
const TELEMETRY_PAGE: &str = "docs/telemetry.md";

/// What `helm test` runs besides the roles.
const TEST: &str = "audit";

/// Checks that each variable that a role is given is in its help, or on the page of those that all
/// roles read.
pub(super) fn check(workspace: &Workspace) -> Part {
    let (objects, project) = (chart::everything(workspace)?, compose::whole(workspace)?);
    let page = workspace.read(Path::new(TELEMETRY_PAGE))?.unwrap_or_default();
    let mut tally = Tally::default();
    for role in roles::NAMES.into_iter().chain([TEST]) {
        let help = command::output(Command::new(workspace.till()).args([role, "--help"]))?;
        tally
            .check(&format!("{role} in the chart"), known(&help, &page, &in_chart(&objects, role)));
        let Some(settings) = project["services"][role]["environment"].as_object() else {
            continue;
        };
        let names = settings.keys().cloned().collect();
        tally.check(&format!("{role} in compose.yaml"), known(&help, &page, &names));
    }
    Ok(tally)
}

fn in_chart(objects: &[Value], role: &str) -> BTreeSet<String> {
    let pods = objects.iter().map(|object| match object["kind"].as_str() {
        Some("Pod") => &object["spec"],
        _ => &object["spec"]["template"]["spec"],
    });
    pods.filter_map(|pod| pod["containers"].as_array())
        .flatten()
        .filter(|container| container["args"][0] == role)
        .filter_map(|container| container["env"].as_array())
        .flatten()
        .filter_map(|variable| variable["name"].as_str().map(str::to_owned))
        .collect()
}

fn known(help: &str, page: &str, names: &BTreeSet<String>) -> Result<(), String> {
    let is_known = |name: &&String| {
        UNLISTED.contains(&name.as_str())
            || help.contains(&format!("[env: {name}="))
            || (name.starts_with(TELEMETRY) && page.contains(&format!("`{name}`")))
    };
    let unknown: Vec<_> = names.iter().filter(|name| !is_known(name)).collect();
    match (names.is_empty(), unknown.is_empty()) {
        (false, true) => Ok(()),
        (true, _) => Err("is given nothing".to_owned()),
        (false, false) => Err(format!("it knows nothing of {unknown:?}")),
    }
}

/// Runs the script of `helm test` against a shop.
pub(super) fn helm_test(workspace: &Workspace, shop: &Shop) -> Part {
    if command::find("curl").is_none() {
        return Err(Stopped::without("curl"));
    }
    let script = workspace.root.join("helm-config/till/files/checkout.sh");
    command::check(Command::new("/bin/sh").arg(script).env("SHOP", shop.rest()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_that_help_does_not_list_is_seen() {
        let help = "--listen <IP:PORT>\n Address [env: TILL_LISTEN=]\n";
        let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
        let page = "| `OTEL_ENDPOINT` | where to |\n`TILL_LIST`";
        assert!(known(help, page, &names(&["TILL_LISTEN", "TILL_LOG", "OTEL_ENDPOINT"])).is_ok());
        assert!(known(help, page, &names(&["TILL_LISTEN", "TILL_LIST"])).is_err());
        assert!(known(help, page, &names(&["OTEL_END"])).is_err());
        assert!(known(help, page, &names(&[])).is_err());
    }
}
