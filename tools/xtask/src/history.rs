//! Histories of real processes under kills and stops, for any length of time. See
//! docs/reliability.md.

use clap::value_parser;

use crate::{
    command,
    outside::go,
    report::{Part, Report},
    test,
    workspace::Workspace,
};

/// How long, and over how many processes.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Wanted {
    /// How long the clients call.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = value_parser!(u64).range(1..))]
    pub(crate) minutes: u64,
    /// Processes of each role.
    #[arg(long, value_name = "R", default_value_t = 2, value_parser = value_parser!(u64).range(1..))]
    pub(crate) replicas: u64,
}

/// Builds everything, then runs the histories and the second checker.
pub(crate) fn run(workspace: &Workspace, report: &mut Report, wanted: Wanted) {
    if test::build(workspace, report) {
        report.part("histories", || histories(workspace, wanted));
        report.part("second checker", || second_checker(workspace));
    }
}

/// Judges the existing histories once more, with an independent checker.
pub(crate) fn second_checker(workspace: &Workspace) -> Part {
    let histories = workspace.scratch("histories")?;
    let mut tests = go::go(&workspace.scratch("go")?)?;
    let source = workspace.root.join("test/porcupine");
    command::run(tests.args(["test", "."]).current_dir(&source))?;
    let checker = histories.with_extension("checker");
    let mut build = go::go(&workspace.scratch("go")?)?;
    command::run(build.args(["build", "-o"]).arg(&checker).arg(".").current_dir(&source))?;
    command::check(
        std::process::Command::new(checker).arg("--draw").arg(&histories).arg(&histories),
    )
}

fn histories(workspace: &Workspace, wanted: Wanted) -> Part {
    let folder = workspace.emptied("histories")?;
    let mut cargo = workspace.cargo("test --workspace --test history");
    cargo
        .args(["--", "--nocapture"])
        .env("TILL_BIN", workspace.till())
        .env("TMPDIR", workspace.scratch("tmp")?)
        .env("HISTORIES_TO", folder)
        .env("HISTORY_COVERAGE", "1")
        .env("HISTORY_SECONDS", (wanted.minutes * 60).to_string())
        .env("HISTORY_REPLICAS", wanted.replicas.to_string());
    test::rust_counted(&mut cargo)
}
