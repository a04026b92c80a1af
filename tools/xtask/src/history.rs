//! Histories of real processes under kills and stops, for as long as somebody likes. See docs/reliability.md.

use crate::{
    report::{Part, Report},
    test,
    workspace::Workspace,
};

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    minutes: u64,
    replicas: u64,
}

impl Wanted {
    /// Reads what comes after `cargo xtask history`.
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut wanted = Self { minutes: 2, replicas: 2 };
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

/// Builds, and runs them as one part.
pub(crate) fn run(workspace: &Workspace, report: &mut Report, wanted: Wanted) {
    if test::build(workspace, report) {
        report.part("histories", || histories(workspace, wanted));
    }
}

fn histories(workspace: &Workspace, wanted: Wanted) -> Part {
    let folder = workspace.scratch("histories")?;
    let mut cargo = workspace.cargo(&["test", "--workspace", "--test", "history"]);
    cargo
        .args(["--", "--nocapture"])
        .env("TILL_BIN", workspace.till())
        .env("TMPDIR", workspace.scratch("tmp")?)
        .env("HISTORIES_TO", folder)
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
