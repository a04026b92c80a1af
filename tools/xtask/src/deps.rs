//! Which crate may depend on which, and which sources may name what. The table is the architecture:
//! a new edge changes it, and is rare.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{
    modules,
    report::{Part, Tally},
    roles,
    workspace::Workspace,
};

/// Stands for every service in the tables.
const SERVICE: &str = "SERVICE";

/// A name, and the names that go with it, separated by blanks.
type Table = &'static [(&'static str, &'static str)];

/// The crates of the workspace that each crate's own code may use. Tests may use any.
const EDGES: Table = &[
    ("types", ""),
    ("admission", ""),
    ("telemetry", ""),
    ("twopc", "types"),
    ("journal", ""),
    ("proto", "types"),
    // For metrics of the store, which every role has.
    ("storage", "types telemetry journal"),
    ("rpc", "types telemetry admission"),
    ("participant", "types twopc journal proto storage rpc telemetry"),
    // What the tests of several crates share. It stands in no other row, so only tests use it.
    ("testkit", "types journal proto storage rpc participant"),
    // It judges the store from outside, so it must share no code with the writers.
    ("audit", "types proto storage"),
    // A service depends on `participant` and on its dependencies, but never on another service.
    (SERVICE, "participant types twopc journal proto storage rpc telemetry"),
    ("coordinator", "audit types twopc proto storage rpc telemetry"),
    ("http-bridge", "types proto rpc telemetry"),
    ("dev-kv", "types admission"),
    // A client of the shop. It uses the store only for its baseline of bare transactions.
    ("bench", "types proto storage rpc telemetry"),
    (
        "till",
        "audit types proto storage rpc telemetry SERVICE coordinator http-bridge dev-kv bench",
    ),
    ("system-test", "types proto rpc"),
    ("xtask", ""),
];

/// External dependencies that only these crates may use directly in their own code.
const RESERVED: Table = &[
    ("tikv-client", "storage"),
    ("axum", "http-bridge rpc dev-kv"),
    ("utoipa", "http-bridge"),
    ("fjall", "dev-kv"),
    // dev-kv can be run alone, for other projects.
    ("tracing-subscriber", "telemetry dev-kv"),
    ("opentelemetry", "telemetry"),
    ("opentelemetry_sdk", "telemetry"),
    ("opentelemetry-otlp", "telemetry"),
    ("opentelemetry-http", "telemetry"),
    ("opentelemetry-appender-tracing", "telemetry"),
    ("tracing-opentelemetry", "telemetry"),
    ("hyper-rustls", "telemetry"),
    ("prometheus", "telemetry storage"),
    ("clap", "storage rpc participant SERVICE coordinator http-bridge dev-kv bench till xtask"),
];

/// The only external dependencies that these crates may use in their own code: nothing that waits,
/// reads or writes.
const PURE: Table = &[
    ("types", "thiserror uuid"),
    ("twopc", "bytes thiserror"),
    ("journal", "bytes rustc-hash thiserror"),
];

/// Words that pure sources must not contain.
const IMPURE_WORDS: &[&str] = &[
    "async fn",
    ".await",
    "tokio::",
    "futures::",
    "std::fs",
    "std::net",
    "std::io",
    "std::env",
    "std::thread",
    "std::process",
    "SystemTime",
    "Instant",
    "rand::",
    "println!",
    "HashMap",
    "HashSet",
];

/// Words that own code may contain only in certain places. Tests may contain them anywhere.
struct Reserved {
    /// The words.
    words: &'static [&'static str],
    /// Beginnings of the paths of files that may contain them.
    below: &'static [&'static str],
    /// Why the words are not allowed elsewhere, and what to do instead.
    reason: &'static str,
}

const RESERVED_WORDS: &[Reserved] = &[
    Reserved {
        words: &["tikv_client::"],
        below: &["libs/storage/src/tikv"],
        reason: "only the store's backend names the client",
    },
    Reserved {
        words: &[
            "Status::new(",
            "Status::with_details(",
            "Status::internal(",
            "Status::unavailable(",
            "Status::unknown(",
            "Status::aborted(",
            "Status::cancelled(",
            "Status::not_found(",
            "Status::invalid_argument(",
            "Status::failed_precondition(",
            "Status::resource_exhausted(",
            "Status::permission_denied(",
            "Status::deadline_exceeded(",
        ],
        below: &["libs/rpc/src/status", "tools/dev-kv/src/"],
        reason: "only rpc::status makes a gRPC status",
    },
    Reserved {
        words: &["\"application/problem+json"],
        below: &["http-bridge/src/problem", "tools/dev-kv/src/"],
        reason: "only the bridge's problem module writes a problem document",
    },
    Reserved {
        words: &["dev_kv", "dev-kv", "DevKv"],
        // The load generator reads dev-kv's counters, if there are any.
        below: &["tools/dev-kv/src/", "till/src/", "tools/bench/src/store"],
        reason: "no service can tell which store it runs on",
    },
    Reserved {
        words: &["SystemTime::now("],
        below: &["libs/rpc/src/env", "tools/dev-kv/src/", "till/src/"],
        reason: "take a types::Clock, so that a simulation can turn it",
    },
];

/// The feature with which rules can be broken.
const MUTATIONS: &str = "mutations";

/// Checks all packages and sources.
pub(crate) fn check(workspace: &Workspace) -> Part {
    let mut checks = Tally::default();
    for package in &workspace.packages {
        let name = package["name"].as_str().unwrap_or_default();
        checks.check(name, check_package(workspace, package, name));
        checks.check(name, check_mutations(package, name));
    }
    let mut sources = Vec::new();
    for file in workspace.files()? {
        if file.extension().is_some_and(|extension| extension == "rs")
            && let Some(text) = workspace.read(&file)?
        {
            sources.push((file, text));
        }
    }
    let of_tests: Vec<PathBuf> =
        sources.iter().flat_map(|(file, text)| test_modules(file, text)).collect();
    let is_of_tests = |file: &Path| {
        of_tests
            .iter()
            .any(|module| file.starts_with(module) || *file == module.with_extension("rs"))
    };
    let own = || sources.iter().filter(|(file, _)| !is_of_tests(file));
    for (file, text) in own() {
        checks.check(&file.display().to_string(), check_source(file, text));
    }
    for package in &workspace.packages {
        let manifest = Path::new(package["manifest_path"].as_str().unwrap_or_default());
        let folder =
            manifest.strip_prefix(&workspace.root).unwrap_or(manifest).with_file_name("src");
        let sources: Vec<_> = own()
            .filter_map(|(file, text)| {
                Some((file.strip_prefix(&folder).ok()?, without_tests(text)))
            })
            .collect();
        let name = package["name"].as_str().unwrap_or_default();
        checks.check(name, check_circles(sources));
    }
    Ok(checks.as_one())
}

fn check_circles(sources: Vec<(&Path, &str)>) -> Result<(), String> {
    if sources.is_empty() {
        return Err("has no sources".to_owned());
    }
    let circles = modules::circles(sources);
    if circles.is_empty() { Ok(()) } else { Err(circles.join("; ")) }
}

fn check_package(workspace: &Workspace, package: &Value, name: &str) -> Result<(), String> {
    let manifest = package["manifest_path"].as_str().unwrap_or_default();
    let text = workspace.read(Path::new(manifest))?.unwrap_or_default();
    if !text.contains("[lints]\nworkspace = true\n") {
        return Err("does not take the workspace's lints".to_owned());
    }
    let allowed = lookup(EDGES, name).ok_or("stands in no row of the table of edges")?;
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let target = dependency["name"].as_str().unwrap_or_default();
        let in_tests = dependency["kind"].as_str() == Some("dev");
        let ours = dependency["path"].is_string();
        if ours {
            if !in_tests && !has(allowed, target) {
                return Err(format!("must not depend on {target}"));
            }
        } else if dependency["kind"].is_null() {
            check_outside(name, target)?;
        }
    }
    Ok(())
}

/// Only the simulation may break rules: no other manifest turns that on, and the simulation's does
/// so only on demand.
fn check_mutations(package: &Value, name: &str) -> Result<(), String> {
    let says = |value: &Value| value.as_str().is_some_and(|text| text.contains(MUTATIONS));
    let turns_on = |list: &Value| list.as_array().into_iter().flatten().any(says);
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    if dependencies.clone().any(|dependency| turns_on(&dependency["features"])) {
        return Err(format!("must not turn on {MUTATIONS} of a dependency"));
    }
    let features = package["features"].as_object().into_iter().flatten();
    let mut turning = features.filter(|(_, list)| turns_on(list)).map(|(feature, _)| feature);
    if turning.any(|feature| (name, feature.as_str()) != ("system-test", MUTATIONS)) {
        return Err(format!("must not have a feature that turns on {MUTATIONS}"));
    }
    Ok(())
}

fn check_outside(name: &str, target: &str) -> Result<(), String> {
    if lookup(RESERVED, target).is_some_and(|owners| !has(owners, name)) {
        return Err(format!("must not use {target} directly"));
    }
    if lookup(PURE, name).is_some_and(|pure| !has(pure, target)) {
        return Err(format!("is pure and must not use {target}"));
    }
    Ok(())
}

fn lookup(table: Table, key: &str) -> Option<&'static str> {
    table.iter().find(|(name, _)| fits(name, key)).map(|(_, row)| *row)
}

fn has(row: &str, name: &str) -> bool {
    row.split(' ').any(|each| fits(each, name))
}

fn fits(entry: &str, name: &str) -> bool {
    entry == name || (entry == SERVICE && roles::is_service(name))
}

/// Modules in files of their own that a file declares for tests only, as paths without `.rs`.
fn test_modules(file: &Path, text: &str) -> Vec<PathBuf> {
    let is_root = ["lib.rs", "main.rs"].iter().any(|root| file.ends_with(root));
    let folder = if is_root { file.with_file_name("") } else { file.with_extension("") };
    let lines: Vec<&str> = text.lines().collect();
    lines
        .windows(2)
        .filter(|pair| pair[0] == "#[cfg(test)]")
        .filter_map(|pair| pair[1].strip_prefix("mod ")?.strip_suffix(';'))
        .map(|name| folder.join(name))
        .collect()
}

/// True if the line has the word as a whole, not as a part of a longer name.
fn says(line: &str, word: &str) -> bool {
    let in_name = |character: char| character.is_alphanumeric() || character == '_';
    let goes_on = word.ends_with(in_name);
    let begins = word.starts_with(in_name);
    line.match_indices(word).any(|(at, _)| {
        let within = begins && line[..at].ends_with(in_name);
        let longer = goes_on && line[at + word.len()..].starts_with(in_name);
        !within && !longer
    })
}

/// The part of a file before its tests.
fn without_tests(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default()
}

fn check_source(file: &Path, text: &str) -> Result<(), String> {
    let path = file.to_string_lossy();
    let of_tests = ["/tests/", "/examples/", "/benches/"].iter().any(|each| path.contains(each))
        || path.ends_with("tests.rs");
    if of_tests || path.starts_with("test/") || path.starts_with("tools/xtask/") {
        return Ok(());
    }
    let own = || without_tests(text).lines().filter(|line| !line.trim_start().starts_with("//"));
    for reserved in RESERVED_WORDS {
        let fits = reserved.below.iter().any(|below| path.starts_with(below));
        let said = own().find(|line| reserved.words.iter().any(|word| line.contains(word)));
        if let (false, Some(line)) = (fits, said) {
            return Err(format!("{}: {}", reserved.reason, line.trim()));
        }
    }
    let is_pure = path.starts_with("libs/types/src/")
        || path.starts_with("libs/twopc/src/")
        || path.starts_with("libs/journal/src/")
        || path.starts_with("libs/participant/src/core/")
        || path == "libs/participant/src/core.rs"
        || path.ends_with("/rules.rs")
        || path.contains("/src/rules/");
    if is_pure {
        for line in own() {
            if let Some(word) = IMPURE_WORDS.iter().find(|word| says(line, word)) {
                return Err(format!("is pure and must not say `{word}`: {}", line.trim()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(path: &str, text: &str) -> Result<(), String> {
        check_source(Path::new(path), text)
    }

    #[test]
    fn the_table_has_no_way_back() {
        // In the order of the rows each one uses only earlier rows.
        for (index, (name, allowed)) in EDGES.iter().enumerate() {
            for target in allowed.split_terminator(' ') {
                let before = EDGES[..index].iter().any(|(earlier, _)| *earlier == target);
                assert!(before, "{name} -> {target}");
            }
        }
    }

    #[test]
    fn a_service_may_not_use_another_one() {
        for service in roles::NAMES {
            let allowed = lookup(EDGES, service).unwrap();
            assert!(roles::NAMES.iter().all(|other| !has(allowed, other)));
        }
    }

    #[test]
    fn rules_can_be_broken_in_the_simulation_alone() {
        let feature = |name: &str, feature: &str| {
            let mut package = serde_json::json!({"dependencies": [], "features": {}});
            package["features"][feature] = serde_json::json!(["types/mutations"]);
            check_mutations(&package, name)
        };
        assert!(feature("system-test", "mutations").is_ok());
        assert!(feature("system-test", "default").is_err());
        assert!(feature("till", "mutations").is_err());
        let dependency = serde_json::json!({"name": "types", "features": ["mutations"]});
        let package = serde_json::json!({"dependencies": [dependency], "features": {}});
        assert!(check_mutations(&package, "system-test").is_err());
    }

    #[test]
    fn reserved_and_impure_dependencies_are_refused() {
        assert!(check_outside("storage", "tikv-client").is_ok());
        assert!(check_outside("coordinator", "tikv-client").is_err());
        assert!(check_outside("order", "axum").is_err());
        assert!(check_outside("twopc", "tokio").is_err());
    }

    #[test]
    fn pure_sources_may_not_wait_or_look_at_a_clock() {
        for text in ["async fn a() {}", "let now = Instant::now();", "use std::fs;"] {
            assert!(source("order/src/rules.rs", text).is_err(), "{text}");
            assert!(source("libs/twopc/src/coordinator.rs", text).is_err(), "{text}");
            assert!(source("order/src/app.rs", text).is_ok(), "{text}");
        }
        assert!(source("order/src/rules.rs", "// no async fn here").is_ok());
        assert!(source("order/src/rules.rs", "if machine.awaits_votes() {").is_ok());
        assert!(source("order/src/rules.rs", "let a = b.await;").is_err());
        assert!(source("order/src/rules.rs", "let map = FxHashMap::default();").is_ok());
        assert!(source("order/src/rules.rs", "let map = HashMap::new();").is_err());
        let tested = "fn a() {}\n#[cfg(test)]\nmod tests {\n    use std::fs;\n}\n";
        assert!(source("order/src/rules.rs", tested).is_ok());
    }

    #[test]
    fn modules_for_tests_alone_are_known() {
        let text = "mod a;\n#[cfg(test)]\nmod b;\n#[cfg(test)]\nmod tests {\n}\n";
        let found = |file: &str| test_modules(Path::new(file), text);
        assert_eq!(found("x/src/lib.rs"), [PathBuf::from("x/src/b")]);
        assert_eq!(found("x/src/y.rs"), [PathBuf::from("x/src/y/b")]);
    }

    #[test]
    fn only_the_backend_names_the_client() {
        let text = "use tikv_client::Key;";
        assert!(source("libs/storage/src/tikv/txn.rs", text).is_ok());
        assert!(source("tools/dev-kv/tests/it/main.rs", text).is_ok());
        assert!(source("libs/storage/src/shard.rs", text).is_err());
        assert!(source("till/src/main.rs", text).is_err());
    }

    #[test]
    fn only_one_place_makes_a_status_or_a_problem() {
        let status = "Err(Status::internal(error.to_string()))";
        assert!(source("order/src/grpc.rs", status).is_err());
        assert!(source("libs/rpc/src/status.rs", status).is_ok());
        assert!(source("order/src/grpc/tests.rs", status).is_ok());
        let problem = "const TYPE: &str = \"application/problem+json\";";
        assert!(source("http-bridge/src/edge.rs", problem).is_err());
        assert!(source("http-bridge/src/problem.rs", problem).is_ok());
    }

    #[test]
    fn no_service_names_the_store_it_runs_on() {
        assert!(source("libs/storage/src/lib.rs", "if is_dev_kv() {").is_err());
        assert!(source("till/src/up.rs", "dev_kv::run(args)").is_ok());
    }
}
