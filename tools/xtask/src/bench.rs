//! Judges a change by its speed: runs `till bench` of another commit and of this tree in turn.
//!
//! The other commit is checked out and built below target/xtask/against, and stays there for the
//! next time: only what differs is then built again. Both executables are copied before the first
//! run, so a build in the meantime changes nothing. They are built by the same toolchain and
//! profile, run with the same arguments in the same environment, one after the other, and the order
//! of the two is reversed in each other round, so that neither always follows a busier machine.

mod figures;

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use clap::value_parser;
use serde_json::{Value, json};

use crate::{
    command, files,
    report::{Part, Tally},
    rounded,
    workspace::{Workspace, git},
};

/// What docs/performance.md compares with.
const ARGS_DEFAULT: &str =
    "--concurrency 256 --orders 60000 --items 100000 --accounts 100000 --duration-ms 6000";
/// Options of `till bench` that this command sets, or that would measure another shop.
const ARGS_OURS: [&str; 5] = ["--up", "--json", "--plot", "--target", "--pid"];
/// Exit code of `till` for arguments that it does not take.
const EXIT_USAGE: i32 = 64;
/// Lines of a log that a message shows.
const TAIL: usize = 12;

/// What to compare, and how.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(crate) struct Wanted {
    /// The commit to compare with, by any name that git knows.
    #[arg(long, value_name = "COMMIT")]
    against: String,
    /// How often each of the two runs.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..))]
    rounds: u32,
    /// The cargo profile of both.
    #[arg(long, default_value = "release", value_parser = ["release", "dist"])]
    profile: String,
    /// Where the results go, by default below target/xtask/against.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Arguments of `till bench --up`, after `--`.
    #[arg(last = true, value_parser = for_till, default_values = ARGS_DEFAULT.split(' '))]
    args: Vec<String>,
}

/// Refuses an argument that is set here.
fn for_till(arg: &str) -> Result<String, String> {
    let name = arg.split('=').next().unwrap_or_default();
    if ARGS_OURS.contains(&name) { Err(format!("{name} is set here")) } else { Ok(arg.to_owned()) }
}

/// One of the two executables.
#[derive(Debug)]
struct Side {
    /// In file names and in JSON.
    key: &'static str,
    /// For people.
    name: String,
    till: PathBuf,
}

/// Builds both, runs them in turn, prints the comparison and writes all results to a file.
pub(crate) fn run(workspace: &Workspace, wanted: &Wanted) -> Part {
    let commit = workspace.revision(&wanted.against)?;
    let short: String = commit.chars().take(9).collect();
    let folder = workspace.scratch("against")?;
    let json_path = match &wanted.json {
        Some(path) => std::path::absolute(path).map_err(|error| error.to_string())?,
        None => folder.join(format!("{short}.json")),
    };
    let source = checked_out(workspace, &folder, &commit)?;
    let there = built(workspace, &source, &folder.join("build"), &wanted.profile, &["--locked"])
        .map_err(|problem| format!("{short} was not built: {problem}"))?;
    let here = built(workspace, &workspace.root, &workspace.target, &wanted.profile, &[])?;
    let sides = [
        Side { key: "before", name: short.clone(), till: kept(&there, &folder, "before")? },
        Side { key: "here", name: "here".to_owned(), till: kept(&here, &folder, "here")? },
    ];
    let reports = in_turn(workspace, &sides, wanted)?;
    let compared = figures::compare(&reports[0], &reports[1]);
    println!("\ntill bench --up {}, {} rounds\n", wanted.args.join(" "), wanted.rounds);
    println!("{}", figures::table(&compared, &short));
    let results = json!({
        "before": {"commit": commit, "reports": reports[0]},
        "here": {
            "commit": workspace.revision("HEAD")?,
            "changed": is_changed(workspace)?,
            "reports": reports[1],
        },
        "profile": wanted.profile,
        "args": wanted.args,
        "rounds": wanted.rounds,
        "figures": figures::json(&compared),
    });
    files::write(&json_path, format!("{results:#}\n"))?;
    println!("all results: {}", json_path.display());
    Ok(Tally::PASSED)
}

/// Whether this tree differs from its commit.
fn is_changed(workspace: &Workspace) -> Result<bool, String> {
    let status = command::captured(&mut git(&workspace.root, "status --porcelain"))?;
    Ok(!status.trim().is_empty())
}

/// Checks the commit out. All commits share one tree, at one path, so that cargo finds what it has
/// built of another one. The tree is a clone that borrows this repository's objects, as a worktree
/// would leave a note outside the target directory.
fn checked_out(workspace: &Workspace, folder: &Path, commit: &str) -> Result<PathBuf, String> {
    let source = folder.join("source");
    if !source.join(".git").exists() {
        let mut clone = git(&workspace.root, "clone --quiet --shared --no-checkout");
        command::captured(clone.arg(&workspace.root).arg(&source))?;
    }
    let mut checkout = git(&source, "checkout --quiet --force --detach");
    command::captured(checkout.arg(commit)).map_err(|problem| {
        format!("{problem}\nif {} is damaged, remove it and try again", source.display())
    })?;
    Ok(source)
}

/// Builds `till` of a tree. Returns the executable's path.
fn built(
    workspace: &Workspace,
    tree: &Path,
    target: &Path,
    profile: &str,
    args: &[&str],
) -> Result<PathBuf, String> {
    println!("building {} in {}", profile, tree.display());
    let mut build = workspace.cargo(&format!("build --package till --profile {profile}"));
    command::run(build.args(args).arg("--target-dir").arg(target).current_dir(tree))?;
    Ok(target.join(profile).join("till"))
}

/// Copies an executable to where no later build replaces it.
fn kept(till: &Path, folder: &Path, name: &str) -> Result<PathBuf, String> {
    let copy = folder.join(format!("till-{name}"));
    files::copy(till, &copy)?;
    Ok(copy)
}

/// Runs both sides in every round. Returns the reports of each.
fn in_turn(
    workspace: &Workspace,
    sides: &[Side; 2],
    wanted: &Wanted,
) -> Result<[Vec<Value>; 2], String> {
    let folder = workspace.emptied("against/runs")?;
    let scratch = workspace.scratch("tmp")?;
    let mut reports = [Vec::new(), Vec::new()];
    for round in 1..=wanted.rounds {
        for index in order(round) {
            let side = &sides[index];
            let began = Instant::now();
            let base = folder.join(format!("{round}-{}", side.key));
            let report = measured(side, &wanted.args, &base, &scratch)
                .map_err(|problem| format!("round {round}, {}: {problem}", side.name))?;
            println!(
                "round {round} of {}, {}: {}; took {}",
                wanted.rounds,
                side.name,
                figures::brief(&report),
                rounded(began.elapsed())
            );
            reports[index].push(report);
        }
    }
    Ok(reports)
}

/// The order of the two sides in a round, counted from 1.
const fn order(round: u32) -> [usize; 2] {
    if round % 2 == 1 { [0, 1] } else { [1, 0] }
}

/// Runs `till bench` once. Its output goes to `base`.log, its report to `base`.json.
fn measured(side: &Side, args: &[String], base: &Path, scratch: &Path) -> Result<Value, String> {
    let (log, json) = (base.with_extension("log"), base.with_extension("json"));
    // What the last run or a build wrote shall not reach the disk during this run.
    command::quietly(&mut Command::new("sync"))?;
    let mut bench = Command::new(&side.till);
    bench.args(["bench", "--up"]).args(args).arg("--json").arg(&json).env("TMPDIR", scratch);
    let status = command::logged(&mut bench, &log)?.wait().map_err(|error| error.to_string())?;
    // A run that fails early leaves no report.
    let report = files::json(&json).unwrap_or_default();
    let said = files::tail(&log, TAIL);
    judged(status.code(), report, &said)
        .map_err(|problem| format!("{problem}\nlog: {}", log.display()))
}

/// The report, if the run was right.
fn judged(code: Option<i32>, report: Value, tail: &str) -> Result<Value, String> {
    if code == Some(EXIT_USAGE) {
        return Err(format!("its till bench refuses the arguments:\n{tail}"));
    }
    let problems = figures::problems(&report);
    if !problems.is_empty() {
        return Err(format!("the run did not pass its check:\n{}", problems.join("\n")));
    }
    if code != Some(0) {
        let ended = code.map_or("by a signal".to_owned(), |code| format!("with {code}"));
        return Err(format!("till bench ended {ended}:\n{tail}"));
    }
    if report.is_null() { Err("till bench wrote no report".to_owned()) } else { Ok(report) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        wanted: Wanted,
    }

    fn parse(text: &str) -> Result<Wanted, clap::Error> {
        let words = ["bench"].into_iter().chain(text.split_whitespace());
        Line::try_parse_from(words).map(|line| line.wanted)
    }

    #[test]
    fn options_are_read() {
        let plain = parse("--against HEAD~1").unwrap();
        assert_eq!((plain.against.as_str(), plain.rounds), ("HEAD~1", 5));
        assert_eq!((plain.profile.as_str(), &plain.json), ("release", &None));
        assert_eq!(plain.args.join(" "), ARGS_DEFAULT);
        let full = parse(
            "--against a --rounds 2 --profile dist --json b.json -- --workload hot --rounds 3",
        );
        let full = full.unwrap();
        assert_eq!((full.rounds, full.profile.as_str()), (2, "dist"));
        assert_eq!(full.json, Some(PathBuf::from("b.json")));
        assert_eq!(full.args, ["--workload", "hot", "--rounds", "3"], "they are till's");
    }

    #[test]
    fn options_that_make_no_sense_are_refused() {
        for wrong in [
            "",
            "HEAD",
            "--against",
            "--rounds 3",
            "--against a --rounds 0",
            "--against a --profile dev",
            "--against a --seed 1",
            "--against a -- --json x",
            "--against a -- --json=x",
            "--against a -- --pid 1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn each_other_round_goes_the_other_way() {
        assert_eq!([1, 2, 3].map(order), [[0, 1], [1, 0], [0, 1]]);
    }

    #[test]
    fn a_run_counts_only_if_it_was_right() {
        let report = json!({"points": [{"fresh_per_s": 1.0}]});
        assert_eq!(judged(Some(0), report.clone(), ""), Ok(report.clone()));
        assert!(judged(Some(0), Value::Null, "").is_err(), "no report");
        let refused = judged(Some(EXIT_USAGE), Value::Null, "error: unexpected argument '--x'");
        assert!(refused.unwrap_err().contains("refuses the arguments:\nerror: unexpected"));
        let wrong = json!({"points": [{"problems": ["an order was paid twice"]}]});
        let wrong = judged(Some(1), wrong, "much else").unwrap_err();
        assert!(wrong.contains("check:\nan order was paid twice") && !wrong.contains("much else"));
        assert!(judged(Some(1), report.clone(), "no room").unwrap_err().contains("no room"));
        assert!(judged(None, report, "").unwrap_err().contains("by a signal"));
    }
}
