//! Tools of others: they know nothing of how we meant it.

use crate::{
    command,
    python::Venv,
    report::{Outcome, Part, Report, Tally},
    shop::Shop,
    workspace::Workspace,
};

mod grpcurl;

/// cargo-deny, by `deny.toml`.
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

/// The database of advisories comes from GitHub, which not every machine reaches.
fn deny_advisories(workspace: &Workspace) -> Part {
    let mut deny = tools(workspace)?.tool("cargo-deny");
    deny.args(["--locked", "check", "advisories"]).current_dir(&workspace.root);
    let (succeeded, text) = command::quietly(&mut deny)?;
    if succeeded {
        return Ok(Outcome::Ran(Tally::PASSED));
    }
    if text.contains("failed to fetch advisory database") {
        return Ok(Outcome::NotRun("the RustSec database cannot be fetched here".to_owned()));
    }
    println!("{text}");
    Err("there are advisories".to_owned())
}

fn tools(workspace: &Workspace) -> Result<Venv, String> {
    Venv::ready(workspace, "tools", &workspace.root.join("tools/xtask/requirements.txt"))
}

/// What looks at a running shop.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) {
    let mut started = None;
    report.part("shop", || {
        started = Some(Shop::start(workspace)?);
        Ok(Outcome::Ran(Tally::PASSED))
    });
    let Some(shop) = started else {
        return;
    };
    report.part("grpcurl", || grpcurl::check(workspace, &shop));
    report.part("openapi-spec-validator", || openapi(workspace, &shop));
    report.part("shop stops", || shop.stop().map(|()| Outcome::Ran(Tally::PASSED)));
}

/// The document that the shop serves about itself must be valid OpenAPI.
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
