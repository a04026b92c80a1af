//! Everything that must pass before a change lands. Cheap parts come first.

use crate::{
    client_rust, command, deps, history, outside, report::Report, test, tidy, workspace::Workspace,
};

/// Runs every part, even if an earlier one fails.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) {
    report.part("format", || command::check(&mut workspace.cargo("fmt --all --check")));
    report.part("deps", || deps::check(workspace));
    report.part("tidy", || tidy::check(workspace));
    report.part("lints", || {
        let line = "clippy --locked --keep-going --workspace --all-targets -- -D warnings";
        command::check(&mut workspace.cargo(line))
    });
    outside::deny(workspace, report);
    outside::deployment(workspace, report);
    test::run(workspace, report);
    report.part("second checker", || history::second_checker(workspace));
    report.part("client tests", || client_rust::run(workspace, 1));
    outside::run(workspace, report);
}
