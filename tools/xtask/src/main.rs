//! The project's task runner: `cargo xtask` lists its commands.
//!
//! Must not know: how any role works. It builds, checks, runs and counts. It links none of our own
//! crates, so that it builds within seconds, whatever state they are in.
//!
//! Modules: [`ci`] is the whole run; [`test`] runs all tests, [`client_rust`] tikv-client's own;
//! [`deps`] checks dependencies and [`tidy`] the sources; [`goldens`] rewrites golden files;
//! [`sim`] and [`soak`] run the simulation; [`mutants`] makes small changes that tests must notice;
//! [`bench`] compares the speed of two commits;
//! [`chaos`] and [`history`] put faults on real processes; [`outside`] runs other projects' tools
//! against a running [`shop`], [`live`] in containers; [`tour`] runs README's tours; [`roles`]
//! lists the roles, [`modules`] what modules use; [`python`] has the virtual environment;
//! [`command`], [`files`], [`report`] and [`workspace`] are underneath.
//!
//! Invariants: only `goldens`, `k8s` and `live` write outside the target directory; a part that
//! could not run says so and never counts as passed; processes are ended by their id.

#![allow(clippy::print_stdout, reason = "printing is what a task runner is for")]

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::{CommandFactory as _, Parser, Subcommand, value_parser};
use report::Report;
use workspace::Workspace;

mod bench;
mod chaos;
mod ci;
mod client_rust;
mod command;
mod deps;
mod files;
mod goldens;
mod history;
mod live;
mod modules;
mod mutants;
mod outside;
mod python;
mod report;
mod roles;
mod shop;
mod sim;
mod soak;
mod test;
mod tidy;
mod tour;
mod workspace;

/// The project's task runner.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Option<Task>,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Everything that must pass: format, lints, deps, tidy, tests, third-party tools.
    Ci,
    /// All tests: Rust, then Python against real processes.
    Test,
    /// Which crate may depend on which, what each source may name, cycles among modules.
    Deps,
    /// Lengths, leftovers, docs, links, invariants and what guards them.
    Tidy,
    /// Third-party tools: cargo-deny, the deployment files, then README's tours, grpcurl, an
    /// OpenAPI validator and generated clients against a shop.
    Outside,
    /// The part of `outside` about deployment files: chart, compose files, image, scripts.
    Deploy,
    /// Regenerates k8s/ from the chart.
    K8s,
    /// The simulation, by default of 2,000 seeds.
    Sim(sim::Wanted),
    /// Every fault on every role, a million orders audited and sold, tikv-client's tests over 42
    /// regions, dev-kv killed 100 times, a key written a million times and ten million keys,
    /// fuzzing, small changes; then histories, and the simulation on seeds never run before.
    Soak {
        /// How long the histories take, and then the simulation.
        #[arg(long, default_value_t = 60, value_parser = value_parser!(u64).range(..=10_000))]
        minutes: u64,
    },
    /// Small changes of the code that decides, drawn at random, which tests must notice; needs
    /// cargo-mutants.
    Mutants(mutants::Wanted),
    /// `till bench` of another commit and of this tree in turn, and which figures differ.
    Bench(bench::Wanted),
    /// Clients of real processes under kills and stops; judges their answers.
    History(history::Wanted),
    /// Every fault on every role of real processes, with one and with two replicas of each.
    Chaos,
    /// Real engines, or a cluster.
    #[command(subcommand)]
    Live(live::Wanted),
    /// Regenerates the golden files from what the tests see.
    Goldens,
    /// tikv-client's own tests against dev-kv.
    ClientTests {
        /// Regions that the store is cut into.
        #[arg(long, default_value_t = 1, value_parser = value_parser!(u64).range(1..))]
        regions: u64,
    },
}

/// Exit code for a command line that does not parse, as in BSD's sysexits.h.
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let task = match Cli::try_parse() {
        Ok(Cli { task: Some(task) }) => task,
        Ok(Cli { task: None }) => {
            println!("{}", Cli::command().render_help());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            // Errors are ignored, as nobody is left to tell.
            drop(error.print());
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let began = Instant::now();
    let workspace = match Workspace::find() {
        Ok(workspace) => workspace,
        Err(problem) => {
            println!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let mut report = Report::default();
    run(task, &workspace, &mut report);
    report.close(&rounded(began.elapsed()));
    if report.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn run(task: Task, workspace: &Workspace, report: &mut Report) {
    match task {
        Task::Ci => ci::run(workspace, report),
        Task::Test => test::run(workspace, report),
        Task::Deps => report.part("deps", || deps::check(workspace)),
        Task::Tidy => report.part("tidy", || tidy::check(workspace)),
        Task::Deploy => outside::deployment(workspace, report),
        Task::K8s => report.part("k8s", || outside::chart::write_plain(workspace)),
        Task::Outside => {
            outside::deny(workspace, report);
            outside::deployment(workspace, report);
            if test::build(workspace, report) {
                outside::run(workspace, report);
            }
        }
        Task::Sim(wanted) => report.part("simulation", || sim::run(workspace, &wanted)),
        Task::Soak { minutes } => soak::run(workspace, report, minutes),
        Task::ClientTests { regions } => {
            report.part("client tests", || client_rust::run(workspace, regions));
        }
        Task::Live(wanted) => report.part("live", || live::run(workspace, &wanted)),
        Task::History(wanted) => history::run(workspace, report, wanted),
        Task::Mutants(wanted) => report.part("mutants", || mutants::run(workspace, wanted)),
        Task::Bench(wanted) => report.part("bench", || bench::run(workspace, &wanted)),
        Task::Chaos => chaos::run(workspace, report),
        Task::Goldens => report.part("goldens", || goldens::write(workspace)),
    }
}

/// Rounded to a tenth of a second, for people.
fn rounded(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn options_that_fit_are_taken_and_others_are_refused() {
        let is_taken = |line: &str| {
            let words = std::iter::once("xtask").chain(line.split_whitespace());
            Cli::try_parse_from(words).is_ok()
        };
        for line in [
            "",
            "sim --seeds 5 --from 70 --coverage",
            "sim --seed 7",
            "sim --mutations --shares",
            "sim --mutation LateSecondHold --seeds 9",
            "mutants --count 200 --seed 7",
            "history --minutes 30 --replicas 1",
            "soak --minutes 3",
            "client-tests --regions 42",
            "live docker --executable a/till",
            "live docker --build dist",
            "live kubernetes",
            "live store --minutes 3",
        ] {
            assert!(is_taken(line), "{line}");
        }
        for line in [
            "simulate",
            "sim --seeds",
            "sim --seeds x",
            "sim --seed 1 --from 2",
            "sim --shares",
            "sim --mutations --coverage",
            "mutants --count x",
            "history --minutes 0",
            "soak --minutes 99999",
            "client-tests --regions 0",
            "live",
            "live docker --executable a --build b",
            "live kubernetes --build dist",
        ] {
            assert!(!is_taken(line), "{line}");
        }
    }
}
