//! The simulation: thousands of whole shops, each in one process. See docs/reliability.md.

use std::process::Command;

use crate::{
    command,
    report::{Part, Report},
    workspace::Workspace,
};

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// This many seeds, starting at `from`.
    Seeds { count: u64, from: u64, coverage: bool },
    /// One seed, printing everything that happens.
    Replay(u64),
    /// Every break of a rule, or only this one, until it is noticed or `count` seeds have passed.
    /// With `all`, until enough seeds have noticed to show 1 in 100 of 2,000.
    Mutations { only: Option<String>, count: u64, all: bool },
}

impl Wanted {
    /// Parses the arguments after `cargo xtask sim`.
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut wanted = Self::Seeds { count: 2_000, from: 0, coverage: false };
        let mut args = args.iter().map(String::as_str).peekable();
        while let Some(name) = args.next() {
            if name == "--mutations" {
                wanted = Self::Mutations { only: None, count: 1_000, all: false };
                continue;
            }
            if let (Self::Mutations { all, .. }, "--shares") = (&mut wanted, name) {
                *all = true;
                continue;
            }
            if let (Self::Seeds { coverage, .. }, "--coverage") = (&mut wanted, name) {
                *coverage = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || value.parse().map_err(|_| format!("{name} needs a number"));
            match (&mut wanted, name) {
                (_, "--mutation") => {
                    let only = Some(value.to_owned());
                    wanted = Self::Mutations { only, count: 1_000, all: false };
                }
                (_, "--seed") => wanted = Self::Replay(number()?),
                (Self::Seeds { count, .. } | Self::Mutations { count, .. }, "--seeds") => {
                    *count = number()?;
                }
                (Self::Seeds { from, .. }, "--from") => *from = number()?,
                _ => return Err(format!("{name} does not fit here")),
            }
        }
        Ok(wanted)
    }

    fn command(&self, workspace: &Workspace) -> Command {
        let mut cargo = workspace.cargo(&["test", "-p", "system-test", "--test", "sim"]);
        match self {
            Self::Seeds { count, from, coverage } => {
                if *coverage {
                    cargo.env("SIM_COVERAGE", "1");
                }
                cargo.args(["--", "--exact", "no_trouble_loses_a_cent"]);
                cargo.env("SIM_SEEDS", count.to_string()).env("SIM_FROM", from.to_string());
            }
            Self::Replay(seed) => {
                cargo.args(["--", "--exact", "no_trouble_loses_a_cent"]);
                cargo.env("SIM_SEED", seed.to_string());
            }
            Self::Mutations { only, count, all } => {
                if *all {
                    cargo.env("SIM_SHARES", "1");
                }
                if only.is_none() {
                    cargo.args(["--test", "sequences"]);
                }
                cargo.args(["--features", "mutations", "--"]);
                cargo.arg("every_break_of_a_rule_is_noticed");
                cargo.env("SIM_SEEDS", count.to_string());
                if let Some(only) = only {
                    cargo.env("SIM_MUTATION", only);
                }
            }
        }
        cargo.arg("--nocapture");
        cargo
    }
}

/// Runs it as one part of the report.
pub(crate) fn run(workspace: &Workspace, report: &mut Report, wanted: &Wanted) {
    report.part("simulation", || once(workspace, wanted));
}

/// Runs it once.
pub(crate) fn once(workspace: &Workspace, wanted: &Wanted) -> Part {
    command::check(&mut wanted.command(workspace))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Wanted, String> {
        let args: Vec<String> = text.split_whitespace().map(ToOwned::to_owned).collect();
        Wanted::parse(&args)
    }

    #[test]
    fn seeds_are_counted_replayed_or_broken() {
        assert_eq!(parse(""), Ok(Wanted::Seeds { count: 2_000, from: 0, coverage: false }));
        assert_eq!(
            parse("--seeds 5 --from 70"),
            Ok(Wanted::Seeds { count: 5, from: 70, coverage: false })
        );
        assert_eq!(parse("--seed 7"), Ok(Wanted::Replay(7)));
        assert_eq!(
            parse("--coverage --seeds 9"),
            Ok(Wanted::Seeds { count: 9, from: 0, coverage: true })
        );
        let only = Some("LateSecondHold".to_owned());
        assert_eq!(
            parse("--mutation LateSecondHold --seeds 9"),
            Ok(Wanted::Mutations { only, count: 9, all: false })
        );
        assert_eq!(
            parse("--mutations --shares"),
            Ok(Wanted::Mutations { only: None, count: 1_000, all: true })
        );
        for wrong in ["--seeds", "--seeds x", "--seed 1 --from 2", "--speed 3"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
