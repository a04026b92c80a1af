//! All tests: those of every crate, then the Python suites against real processes.

use std::{path::Path, process::Command};

use crate::{
    command, files,
    python::Venv,
    report::{Part, Report, Stopped, Tally},
    workspace::Workspace,
};

/// Builds, then runs all tests.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) {
    if build(workspace, report) {
        report.part("rust tests", || {
            let histories = workspace.emptied("histories")?;
            rust(workspace, &[("HISTORIES_TO", &histories.to_string_lossy())])
        });
        report.part("cluster tests", || cluster(workspace));
        report.part("python tests", || python(workspace));
    }
}

/// Builds executables and tests in one go, so that both share one build of every dependency.
/// Returns whether that succeeded.
pub(crate) fn build(workspace: &Workspace, report: &mut Report) -> bool {
    let mut built = false;
    report.part("build", || {
        let outcome = command::check(&mut workspace.cargo("build --workspace --bins --tests"));
        built = outcome.is_ok();
        outcome
    });
    built
}

/// Runs the tests of every crate, which find the executable by `TILL_BIN`.
pub(crate) fn rust(workspace: &Workspace, environment: &[(&str, &str)]) -> Part {
    let mut cargo = workspace.cargo("test --workspace --no-fail-fast");
    cargo.env("TILL_BIN", workspace.till()).envs(environment.iter().copied());
    cargo.env("TMPDIR", workspace.scratch("tmp")?);
    rust_counted(&mut cargo)
}

/// Tests what a store must promise, on the cluster at `PD_ENDPOINTS`.
fn cluster(workspace: &Workspace) -> Part {
    if std::env::var_os("PD_ENDPOINTS").is_none() {
        return Err(Stopped::NotRun("PD_ENDPOINTS names no TiKV cluster".to_owned()));
    }
    rust_counted(&mut workspace.cargo("test -p storage --test cluster"))
}

/// Runs a `cargo test`, and adds up its counts.
pub(crate) fn rust_counted(cargo: &mut Command) -> Part {
    let mut tally = Tally::default();
    let succeeded = command::watch(cargo, |line| {
        if let Some(counted) = parse(line) {
            tally += counted;
        }
    })?;
    if !succeeded && tally.failed == 0 {
        return Err("cargo test failed without a failed test".into());
    }
    Ok(tally)
}

/// Parses a line such as `test result: ok. 29 passed; 0 failed; 0 ignored; ...`.
fn parse(line: &str) -> Option<Tally> {
    let counts = line.strip_prefix("test result: ")?;
    let count = |word: &str| -> Option<u64> {
        counts
            .split([';', '.'])
            .find_map(|part| part.trim().strip_suffix(word)?.trim().parse().ok())
    };
    Some(Tally { passed: count("passed")?, failed: count("failed")? })
}

/// Runs the suites in `test/` by pytest.
fn python(workspace: &Workspace) -> Part {
    let suites = workspace.root.join("test");
    let results = workspace.scratch("pytest")?.join("results.xml");
    let mut pytest = Venv::tests(workspace)?.python();
    pytest
        .args(["-m", "pytest", "-p", "no:cacheprovider", "--durations=10", "--junitxml"])
        .arg(&results)
        .current_dir(&suites)
        .env("TILL_BIN", workspace.till())
        .env("TMPDIR", workspace.scratch("tmp")?);
    counted(&mut pytest, &results)
}

/// Runs pytest, and reads the counts from the file that it writes.
pub(crate) fn counted(pytest: &mut Command, results: &Path) -> Part {
    // A file of an earlier run must not count for this one.
    if results.exists() {
        files::remove(results)?;
    }
    let ended = command::run(pytest);
    let xml = files::read(results).map_err(|error| format!("pytest left no results: {error}"))?;
    let tally = junit(&xml).ok_or("pytest's results cannot be read")?;
    match ended {
        Err(problem) if tally.failed == 0 => Err(problem.into()),
        Ok(()) | Err(_) => Ok(tally),
    }
}

/// Parses the counts of the first `<testsuite ...>`. Skipped tests are neither passed nor failed.
fn junit(xml: &str) -> Option<Tally> {
    let suite = xml.split("<testsuite ").nth(1)?.split('>').next()?;
    let count = |name: &str| -> Option<u64> {
        suite.split(&format!("{name}=\"")).nth(1)?.split('"').next()?.parse().ok()
    };
    let failed = count("failures")?.checked_add(count("errors")?)?;
    let passed = count("tests")?.checked_sub(failed)?.checked_sub(count("skipped")?)?;
    Some(Tally { passed, failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_cargo_are_counted() {
        let line =
            "test result: FAILED. 29 passed; 3 failed; 0 ignored; 0 measured; 1 filtered out";
        assert_eq!(parse(line), Some(Tally { passed: 29, failed: 3 }));
        assert_eq!(parse("test net::tests::a ... ok"), None);
    }

    #[test]
    fn results_of_pytest_are_counted() {
        let xml = r#"<?xml version="1.0"?><testsuites><testsuite name="pytest" errors="1"
            failures="2" skipped="3" tests="10" time="0.1"><testcase/></testsuite></testsuites>"#;
        assert_eq!(junit(xml), Some(Tally { passed: 4, failed: 3 }));
        assert_eq!(junit("<testsuites/>"), None);
    }
}
