//! The project's task runner: `cargo xtask` lists its commands.
//!
//! Must not know: how any role works. It builds, checks, runs and counts. It links none of our own
//! crates, so that it builds within seconds, whatever state they are in.
//!
//! Modules: [`ci`] is the whole run; [`test`] runs all tests, [`client_rust`] tikv-client's own;
//! [`deps`] checks dependencies and [`tidy`] the sources; [`goldens`] rewrites golden files;
//! [`sim`] and [`soak`] run the simulation; [`mutants`] makes small changes that tests must notice;
//! [`chaos`] and [`history`] put faults on real processes; [`outside`] runs other projects' tools
//! against a running [`shop`], [`live`] in containers; [`tour`] runs README's tours; [`roles`]
//! lists the roles, [`modules`] what modules use; [`python`] has the virtual environment;
//! [`command`], [`report`] and [`workspace`] are underneath.
//!
//! Invariants: only `goldens`, `k8s` and `live` write outside the target directory; a part that
//! could not run says so and never counts as passed; processes are ended by their id.

#![allow(clippy::print_stdout, reason = "printing is what a task runner is for")]

use std::{
    env,
    process::ExitCode,
    time::{Duration, Instant},
};

use report::Report;
use workspace::Workspace;

mod chaos;
mod ci;
mod client_rust;
mod command;
mod deps;
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

const USAGE: &str = "\
usage: cargo xtask COMMAND

  ci        everything that must pass: format, lints, deps, tidy, tests, third-party tools
  test      all tests: Rust, then Python against real processes
  deps      which crate may depend on which, what each source may name, cycles among modules
  tidy      lengths, leftovers, docs, links, invariants and what guards them
  outside   third-party tools: cargo-deny, the deployment files, then README's tours, grpcurl, an
            OpenAPI validator and generated clients against a shop
  deploy    the part of `outside` about deployment files: chart, compose files, image, scripts
  k8s       regenerates k8s/ from the chart
  sim       the simulation: --seeds N [--from S]; --coverage prints which calls met;
            --seed S replays one seed and prints every event; --mutations or --mutation NAME breaks
            rules, each of which must be noticed; --shares also prints by how many seeds
  soak      every fault on every role, a million orders audited and sold, tikv-client's tests over 42 regions,
            dev-kv killed 100 times, a key written a million times and ten million keys, fuzzing, small
            changes; then histories, and the simulation on seeds never run before, for --minutes N each
  mutants   small changes of the code that decides, drawn at random, which tests must notice:
            --seed N --count M; needs cargo-mutants
  history   clients of real processes under kills and stops; judges their answers:
            --minutes N, --replicas R
  chaos     every fault on every role of real processes, with one and with two replicas of each
  live      real engines: docker [--executable PROFILE | --build PROFILE], kubernetes, shell; a cluster
            that PD_ENDPOINTS names: store [--minutes N]
  goldens   regenerates the golden files from what the tests see
  client-tests [--regions N]
            tikv-client's own tests against dev-kv, cut into N regions (1)";

fn main() -> ExitCode {
    let command = env::args().nth(1).unwrap_or_default();
    if ["", "help", "-h", "--help"].contains(&command.as_str()) {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let mut report = Report::default();
    let workspace = match Workspace::find() {
        Ok(workspace) => workspace,
        Err(problem) => {
            println!("{problem}");
            return ExitCode::FAILURE;
        }
    };
    let args: Vec<String> = env::args().skip(2).collect();
    match command.as_str() {
        "ci" => ci::run(&workspace, &mut report),
        "test" => test::run(&workspace, &mut report),
        "deps" => report.part("deps", || deps::check(&workspace)),
        "tidy" => report.part("tidy", || tidy::check(&workspace)),
        "deploy" => outside::deployment(&workspace, &mut report),
        "k8s" => report.part("k8s", || outside::chart::write_plain(&workspace)),
        "outside" => {
            outside::deny(&workspace, &mut report);
            outside::deployment(&workspace, &mut report);
            if test::build(&workspace, &mut report) {
                outside::run(&workspace, &mut report);
            }
        }
        "sim" => match sim::Wanted::parse(&args) {
            Ok(wanted) => sim::run(&workspace, &mut report, &wanted),
            Err(problem) => return usage(&problem),
        },
        "soak" => match soak::parse(&args) {
            Ok(time) => soak::run(&workspace, &mut report, time),
            Err(problem) => return usage(&problem),
        },
        "client-tests" => match client_rust::regions(&args) {
            Ok(regions) => {
                report.part("client tests", || client_rust::run(&workspace, regions));
            }
            Err(problem) => return usage(&problem),
        },
        "live" => match live::Wanted::parse(&args) {
            Ok(wanted) => report.part("live", || live::run(&workspace, &wanted)),
            Err(problem) => return usage(&problem),
        },
        "history" => match history::Wanted::parse(&args) {
            Ok(wanted) => history::run(&workspace, &mut report, wanted),
            Err(problem) => return usage(&problem),
        },
        "mutants" => match mutants::Wanted::parse(&args) {
            Ok(wanted) => report.part("mutants", || mutants::run(&workspace, wanted)),
            Err(problem) => return usage(&problem),
        },
        "chaos" => chaos::run(&workspace, &mut report),
        "goldens" => report.part("goldens", || goldens::write(&workspace)),
        _ => return usage("no such command"),
    }
    report.close(&rounded(began.elapsed()));
    if report.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage(problem: &str) -> ExitCode {
    println!("{problem}\n\n{USAGE}");
    ExitCode::from(64)
}

/// Rounded to a tenth of a second, for people.
fn rounded(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
