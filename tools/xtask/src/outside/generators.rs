//! Client generators: their output for openapi.json must be complete, and each client must be able
//! to call a shop.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{
    command, files,
    python::Venv,
    report::{Part, Stopped, Tally},
    shop::Shop,
    workspace::Workspace,
};

/// Holds the generators' versions, and a call for each client.
const FOLDER: &str = "tools/xtask/generators";
/// Messages of pip and npm when they cannot reach their registry.
const UNREACHED: [&str; 9] = [
    "ENOTFOUND",
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "ENETUNREACH",
    "ETIMEDOUT",
    "NewConnectionError",
    "ConnectTimeoutError",
    "name resolution",
];
const KEY: &str = "Idempotency-Key";

/// A Python client by openapi-python-client.
pub(super) fn python(workspace: &Workspace, shop: &Shop) -> Part {
    let source = workspace.root.join(FOLDER);
    let venv = Venv::ready(workspace, "generators", &source.join("requirements.txt"))
        .map_err(|problem| missing("openapi-python-client", problem))?;
    let folder = fresh(&workspace.scratch("generators")?, "python")?;
    let mut generate = venv.tool("openapi-python-client");
    generate
        .args(["generate", "--meta", "none", "--path"])
        .arg(description(&folder, shop)?)
        .arg("--output-path")
        .arg(folder.join("till_client"))
        // It formats its output with a tool of the same environment.
        .env("PATH", venv.search_path()?);
    command::captured(&mut generate)?;
    let mut call = venv.python();
    call.arg(source.join("call.py")).arg(shop.rest()?).env("PYTHONPATH", &folder);
    command::captured(&mut call)?;
    Ok(Tally::PASSED)
}

/// A TypeScript client by openapi-typescript.
pub(super) fn typescript(workspace: &Workspace, shop: &Shop) -> Part {
    let npm = modules(workspace)?;
    let folder = fresh(&npm, "typescript")?;
    let mut generate = program(&npm, "openapi-typescript");
    generate.arg(description(&folder, shop)?).arg("--output").arg(folder.join("shop.d.ts"));
    command::captured(&mut generate)?;
    let call = folder.join("call.ts");
    files::copy(workspace.root.join(FOLDER).join("call.ts"), &call)?;
    let mut compile = program(&npm, "tsc");
    compile.args(["--strict", "--skipLibCheck", "--module", "nodenext", "--target", "es2022"]);
    command::captured(compile.args(["--lib", "es2022,dom,dom.iterable"]).arg(&call))?;
    command::captured(Command::new("node").arg(call.with_extension("js")).arg(shop.rest()?))?;
    Ok(Tally::PASSED)
}

/// A Postman collection by openapi-to-postmanv2, which newman runs.
pub(super) fn postman(workspace: &Workspace, shop: &Shop) -> Part {
    let npm = modules(workspace)?;
    let folder = fresh(&npm, "postman")?;
    let document = description(&folder, shop)?;
    let convert = |name: &str, options: Option<&Path>| {
        let file = folder.join(name);
        let mut convert = program(&npm, "openapi2postmanv2");
        convert.arg("--spec").arg(&document).arg("--output").arg(&file);
        if let Some(options) = options {
            convert.arg("--options-config").arg(options);
        }
        command::captured(&mut convert)?;
        Ok::<_, String>((files::json(&file)?, file))
    };
    let mut tally = Tally::default();
    let (usual, _) = convert("usual.json", None)?;
    tally.check("what stands for a key", keys(&usual, |key| key["value"] == "<string>"));
    let options = workspace.root.join(FOLDER).join("collection.json");
    let (collection, file) = convert("collection.json", Some(&options))?;
    tally.check("no key is sent", keys(&collection, |key| key["disabled"] == true));
    let report = folder.join("report.json");
    let mut run = program(&npm, "newman");
    run.arg("run")
        .arg(file)
        .args(["--folder", &name_of(&collection, &["stock", "item", "create", ":price"])?])
        .args(["--iteration-count", "2", "--env-var", &format!("baseUrl={}", shop.rest()?)])
        .args(["--reporters", "json", "--reporter-json-export"])
        .arg(&report);
    command::captured(&mut run)?;
    tally.check("a call that is sent twice is two calls", two_items(&files::json(&report)?));
    Ok(tally)
}

/// Not run if a registry could not be reached, else a failure.
fn missing(what: &str, problem: String) -> Stopped {
    if UNREACHED.iter().any(|sign| problem.contains(sign)) {
        return Stopped::NotRun(format!("{what} cannot be fetched here"));
    }
    problem.into()
}

/// The folder with npm's packages.
fn modules(workspace: &Workspace) -> Result<PathBuf, Stopped> {
    if ["node", "npm"].into_iter().any(|name| command::find(name).is_none()) {
        return Err(Stopped::NotRun("node and npm are not installed".to_owned()));
    }
    install(workspace).map_err(|problem| missing("npm's packages", problem))
}

/// Installs the listed packages if they are missing or the list has changed.
fn install(workspace: &Workspace) -> Result<PathBuf, String> {
    let list = Path::new(FOLDER).join("package.json");
    let list = workspace.read(&list)?.ok_or_else(|| format!("no {}", list.display()))?;
    let folder = workspace.scratch("npm")?;
    let stamp = folder.join("made-for");
    if files::read(&stamp).is_ok_and(|made_for| made_for == list) {
        return Ok(folder);
    }
    files::write(folder.join("package.json"), &list)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"])
        .arg("--cache")
        .arg(workspace.scratch("npm-cache")?)
        .current_dir(&folder);
    command::captured(&mut npm)?;
    files::write(&stamp, &list)?;
    Ok(folder)
}

fn program(npm: &Path, name: &str) -> Command {
    Command::new(npm.join("node_modules/.bin").join(name))
}

/// Makes an empty folder of this name.
fn fresh(parent: &Path, name: &str) -> Result<PathBuf, String> {
    let folder = parent.join(name);
    files::empty_folder(&folder)?;
    Ok(folder)
}

/// Saves the shop's own openapi.json to a file.
fn description(folder: &Path, shop: &Shop) -> Result<PathBuf, String> {
    const FETCH: &str = "import sys, urllib.request; urllib.request.urlretrieve(*sys.argv[1:])";
    let file = folder.join("openapi.json");
    let url = format!("{}/openapi.json", shop.rest()?);
    command::captured(Command::new("python3").args(["-c", FETCH, &url]).arg(&file))?;
    Ok(file)
}

/// Collects all requests of a collection.
fn requests<'a>(item: &'a Value, found: &mut Vec<&'a Value>) {
    if item["request"].is_object() {
        found.push(item);
    }
    for below in item["item"].as_array().into_iter().flatten() {
        requests(below, found);
    }
}

/// Checks every idempotency key of a collection.
fn keys(collection: &Value, holds: impl Fn(&Value) -> bool) -> Result<(), String> {
    let mut found = Vec::new();
    requests(collection, &mut found);
    let headers = found.iter().filter_map(|item| item["request"]["header"].as_array()).flatten();
    let keys: Vec<&Value> = headers.filter(|header| header["key"] == KEY).collect();
    match keys.iter().find(|key| !holds(key)) {
        _ if keys.is_empty() => Err(format!("no request has an {KEY}")),
        None => Ok(()),
        Some(key) => Err(key.to_string()),
    }
}

/// The collection's name for the request to this path.
fn name_of(collection: &Value, path: &[&str]) -> Result<String, String> {
    let mut found = Vec::new();
    requests(collection, &mut found);
    let is_it = |item: &&&Value| {
        let segments = item["request"]["url"]["path"].as_array();
        segments.is_some_and(|segments| segments.iter().eq(path))
    };
    let name = found.iter().find(is_it).and_then(|item| item["name"].as_str());
    name.map(str::to_owned).ok_or_else(|| format!("no request to {path:?}"))
}

/// newman must report two different items.
fn two_items(report: &Value) -> Result<(), String> {
    let ends = report["run"]["executions"].as_array().into_iter().flatten();
    let ids: Vec<Value> = ends
        .map(|end| {
            let bytes = end["response"]["stream"]["data"].as_array().into_iter().flatten();
            let bytes: Vec<u8> =
                bytes.filter_map(|byte| u8::try_from(byte.as_u64()?).ok()).collect();
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            body["item_id"].clone()
        })
        .collect();
    match ids.as_slice() {
        [Value::String(first), Value::String(second)] if first != second => Ok(()),
        _ => Err(format!("the items are {ids:?}")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn collection(key: &Value) -> Value {
        let request = json!({"url": {"path": ["a", ":b"]}, "header": [key]});
        json!({"item": [{"name": "folder", "item": [{"name": "it", "request": request}]}]})
    }

    #[test]
    fn a_key_that_a_collection_carries_is_seen() {
        let is_off = |key: &Value| key["disabled"] == true;
        let off = collection(&json!({"key": KEY, "value": "1", "disabled": true}));
        assert_eq!(keys(&off, is_off), Ok(()));
        let on = collection(&json!({"key": KEY, "value": "1", "disabled": false}));
        assert!(keys(&on, is_off).is_err());
        assert!(keys(&collection(&json!({"key": "Accept"})), is_off).is_err(), "no key at all");
        assert_eq!(name_of(&on, &["a", ":b"]).as_deref(), Ok("it"));
        assert!(name_of(&on, &["a"]).is_err());
    }

    #[test]
    fn one_item_told_twice_is_seen() {
        let end = |id: &str| {
            let body = json!({"item_id": id}).to_string();
            json!({"response": {"stream": {"data": body.as_bytes()}}})
        };
        let report = |ends: &[Value]| json!({"run": {"executions": ends}});
        assert_eq!(two_items(&report(&[end("a"), end("b")])), Ok(()));
        assert!(two_items(&report(&[end("a"), end("a")])).is_err());
        assert!(two_items(&report(&[end("a")])).is_err());
        assert!(two_items(&report(&[json!({}), end("a")])).is_err());
    }

    #[test]
    fn a_registry_that_is_away_is_told_from_a_list_that_is_wrong() {
        let away = "npm error code ENOTFOUND\nnpm error errno ENOTFOUND".to_owned();
        assert!(matches!(missing("it", away), Stopped::NotRun(_)));
        let wrong = "No matching version found for newman@99".to_owned();
        assert!(matches!(missing("it", wrong), Stopped::Failed(_)));
    }
}
