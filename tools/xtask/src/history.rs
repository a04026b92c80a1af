//! Histories of real processes under kills and stops, for any length of time. See
//! docs/reliability.md.

use std::time::Duration;

use crate::{
    command,
    outside::go,
    report::{Outcome, Part, Report},
    test,
    workspace::Workspace,
};

/// The options of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    minutes: u64,
    replicas: u64,
}

impl Wanted {
    /// This long, in whole minutes, with the default replicas.
    pub(crate) fn of(time: Duration) -> Self {
        Self { minutes: (time.as_secs() / 60).max(1), ..Self::default() }
    }

    /// Parses the arguments after `cargo xtask history`.
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut wanted = Self::default();
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let value = args.next().and_then(|value| value.parse().ok()).filter(|value| *value > 0);
            let value = value.ok_or_else(|| format!("{name} needs a number, 1 or more"))?;
            match name.as_str() {
                "--minutes" => wanted.minutes = value,
                "--replicas" => wanted.replicas = value,
                _ => return Err(format!("{name} does not fit here")),
            }
        }
        Ok(wanted)
    }
}

impl Default for Wanted {
    fn default() -> Self {
        Self { minutes: 2, replicas: 2 }
    }
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
    let Some(mut tests) = go::go(&workspace.scratch("go")?) else {
        return Ok(Outcome::NotRun("go is not installed".to_owned()));
    };
    let source = workspace.root.join("test/porcupine");
    command::run(tests.args(["test", "."]).current_dir(&source))?;
    let checker = histories.with_extension("checker");
    let mut build = go::go(&workspace.scratch("go")?).ok_or("go is not installed")?;
    command::run(build.args(["build", "-o"]).arg(&checker).arg(".").current_dir(&source))?;
    command::check(
        std::process::Command::new(checker).arg("--draw").arg(&histories).arg(&histories),
    )
}

fn histories(workspace: &Workspace, wanted: Wanted) -> Part {
    let folder = workspace.emptied("histories")?;
    let mut cargo = workspace.cargo(&["test", "--workspace", "--test", "history"]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_and_replicas_are_read() {
        let parse = |text: &str| {
            let args: Vec<String> = text.split_whitespace().map(ToOwned::to_owned).collect();
            Wanted::parse(&args)
        };
        assert_eq!(parse(""), Ok(Wanted { minutes: 2, replicas: 2 }));
        assert_eq!(parse("--minutes 30 --replicas 1"), Ok(Wanted { minutes: 30, replicas: 1 }));
        for wrong in ["--minutes", "--minutes 0", "--hours 3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
