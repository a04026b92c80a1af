//! The matrix of faults over real processes: every fault in every role, under load.

use crate::{
    command,
    python::Venv,
    report::{Part, Report, Tally},
    test,
    workspace::Workspace,
};

/// Runs the matrix over shops of one and of two replicas of each role.
pub(crate) fn run(workspace: &Workspace, report: &mut Report) {
    if test::build(workspace, report) {
        for replicas in [1, 2] {
            report.part(&format!("chaos, {replicas} of each"), || matrix(workspace, replicas));
        }
    }
}

fn matrix(workspace: &Workspace, replicas: u16) -> Part {
    let suites = workspace.root.join("test");
    let counts = workspace.scratch("chaos")?.join(format!("{replicas}.json"));
    let mut python = Venv::tests(workspace)?.python();
    python
        .args(["-u", "-m", "chaos.run_chaos", "--replicas", &replicas.to_string(), "--json"])
        .arg(&counts)
        .current_dir(&suites)
        .env("TILL_BIN", workspace.till())
        .env("TMPDIR", workspace.scratch("tmp")?);
    let mut tally = None;
    command::watch(&mut python, |line| tally = parse(line).or(tally))?;
    tally.ok_or("the matrix was not run to its end".into())
}

/// Parses the counts of the last line, such as `22 passed, 0 failed`.
fn parse(line: &str) -> Option<Tally> {
    let (passed, failed) = line.strip_suffix(" failed")?.split_once(" passed, ")?;
    Some(Tally { passed: passed.parse().ok()?, failed: failed.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_counted() {
        assert_eq!(parse("21 passed, 1 failed"), Some(Tally { passed: 21, failed: 1 }));
        assert_eq!(parse("kill -9            stock        FAILED  TimeoutError()"), None);
    }
}
