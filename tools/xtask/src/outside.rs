//! Tools of other projects, which know nothing of our intentions.

use std::process::Command;

use serde_json::Value;

use crate::{
    command, files,
    python::Venv,
    report::{Part, Report, Stopped, Tally},
    roles::{self, Role},
    shop::Shop,
    tour,
    workspace::Workspace,
};

pub(crate) mod chart;
pub(crate) mod compose;
mod console;
mod generators;
pub(crate) mod go;
pub(crate) mod grpcurl;
mod image;
mod policies;
mod promtool;
mod settings;
mod shell;
pub(crate) mod values;

/// Runs cargo-deny by `deny.toml`.
pub(crate) fn deny(workspace: &Workspace, report: &mut Report) {
    report.part("cargo-deny", || deny_tree(workspace));
    report.part("cargo-deny advisories", || deny_advisories(workspace));
}

fn deny_tree(workspace: &Workspace) -> Part {
    let mut deny = tools(workspace)?.tool("cargo-deny");
    deny.args(["--log-level", "warn", "--locked", "check", "bans", "licenses", "sources"])
        .current_dir(&workspace.root);
    command::check(&mut deny)
}

/// The advisory database comes from GitHub, which not every machine can reach.
fn deny_advisories(workspace: &Workspace) -> Part {
    let mut deny = tools(workspace)?.tool("cargo-deny");
    deny.args(["--locked", "check", "advisories"]).current_dir(&workspace.root);
    let (succeeded, text) = command::quietly(&mut deny)?;
    if succeeded {
        return Ok(Tally::PASSED);
    }
    if text.contains("failed to fetch advisory database") {
        return Err(Stopped::NotRun("the RustSec database cannot be fetched here".to_owned()));
    }
    println!("{text}");
    Err("there are advisories".into())
}

fn tools(workspace: &Workspace) -> Result<Venv, String> {
    Venv::ready(workspace, "tools", &workspace.root.join("tools/xtask/requirements.txt"))
}

/// Checks what deploys the shop: chart, plain objects, scripts.
pub(crate) fn deployment(workspace: &Workspace, report: &mut Report) {
    report.part("helm", || chart::helm(workspace));
    report.part("kubernetes-validate", || chart::schemas(workspace));
    report.part("values", || values::check(workspace));
    report.part("policies", || policies::check(workspace));
    report.part("k8s", || chart::plain(workspace));
    report.part("compose", || compose::check(workspace));
    report.part("promtool", || promtool::check(workspace));
    report.part("hadolint", || image::lint(workspace));
    report.part("shellcheck", || shell::check(workspace));
    report.part("deploy scripts", || shell::deploy(workspace));
}

/// Parses the documents of a YAML text.
fn yaml(workspace: &Workspace, text: &str) -> Result<Vec<Value>, String> {
    const READ: &str = "\
import json, sys, yaml
with open(sys.argv[1]) as text:
    print(json.dumps([document for document in yaml.safe_load_all(text) if document]))
";
    let file = workspace.scratch("rendered")?.join("read.yaml");
    files::write(&file, text)?;
    let json = command::output(tools(workspace)?.python().args(["-c", READ]).arg(&file))?;
    serde_json::from_str(&json).map_err(|error| error.to_string())
}

/// Runs the tools that look at a running shop.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) {
    report.part("settings", || settings::check(workspace));
    let mut started = None;
    report.part("shop", || {
        started = Some(Shop::start(workspace)?);
        Ok(Tally::PASSED)
    });
    let Some(shop) = started else {
        return;
    };
    report.part("README", || readme(workspace, &shop));
    report.part("grpcurl", || grpcurl::check(workspace, &shop));
    report.part("helm test", || settings::helm_test(workspace, &shop));
    report.part("openapi-spec-validator", || openapi(workspace, &shop));
    report.part("openapi-python-client", || generators::python(workspace, &shop));
    report.part("openapi-typescript", || generators::typescript(workspace, &shop));
    report.part("openapi-to-postmanv2", || generators::postman(workspace, &shop));
    report.part("console", || console::check(workspace, &shop));
    report.part("shop stops", || Ok(shop.stop().map(|()| Tally::PASSED)?));
}

/// Runs README's tours in a shell, at the addresses of this shop.
fn readme(workspace: &Workspace, shop: &Shop) -> Part {
    if command::find("curl").is_none() {
        return Err(Stopped::without("curl"));
    }
    let grpcurl = grpcurl::GRPCURL.folder(workspace)?;
    let mut places = Vec::new();
    for Role { name, port, .. } in &roles::ROLES {
        places.push((format!("localhost:{port}"), shop.address(name)?.to_owned()));
    }
    let mut tally = Tally::default();
    // gRPC refusals are part of the tour, and grpcurl prints them to standard error and exits with
    // an error.
    for (heading, all) in [("A tour by REST", ""), ("A tour by gRPC", "2>&1 || true")] {
        let ended = tour::run(workspace, heading, &places, |line| {
            let script = format!("PATH={}:$PATH; {line} {all}", grpcurl.display());
            command::captured(Command::new("sh").args(["-c", &script]))
        });
        tally.check(heading, ended.map(drop));
    }
    Ok(tally)
}

/// Checks that the document which the shop serves about itself is valid OpenAPI.
fn openapi(workspace: &Workspace, shop: &Shop) -> Part {
    const VALIDATE: &str = "\
import json, sys, urllib.request
from openapi_spec_validator import validate
with urllib.request.urlopen(sys.argv[1], timeout=10) as answer:
    document = json.load(answer)
validate(document)
assert len(document['paths']) > 10, 'a document without the calls'
print(len(document['paths']), 'paths, OpenAPI', document['openapi'])
";
    let url = format!("{}/openapi.json", shop.rest()?);
    command::check(tools(workspace)?.python().args(["-c", VALIDATE, &url]))
}
