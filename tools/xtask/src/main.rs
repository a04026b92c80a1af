//! The project's task runner: `cargo xtask` says what it can do.
//!
//! Must not know: how any role works. It builds, checks, runs and counts. Of our own crates it links none,
//! so that it is there within seconds, whatever state they are in.
//!
//! Modules: [`ci`] the whole run; [`test`] all tests; [`client_rust`] tikv-client's own tests; [`deps`] who
//! may depend on whom; [`tidy`] what the sources look like; [`goldens`]; [`outside`] tools of others, against
//! a running [`shop`]; [`python`] the virtual environment; [`command`], [`report`] and [`workspace`]
//! underneath.
//!
//! Invariants: nothing is written outside the target directory (but for `goldens`); what could not run is
//! said so and is never counted as passed; processes are ended by their id.

#![allow(clippy::print_stdout, reason = "printing is what a task runner is for")]

use std::{
    env,
    process::ExitCode,
    time::{Duration, Instant},
};

use report::Report;
use workspace::Workspace;

mod ci;
mod client_rust;
mod command;
mod deps;
mod goldens;
mod outside;
mod python;
mod report;
mod shop;
mod test;
mod tidy;
mod workspace;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  ci        everything that must hold: format, lints, deps, tidy, tests, tools of others
  test      all tests: Rust, then Python against real processes
  deps      who may depend on whom, and which sources may name what
  tidy      lengths, leftovers, docs, links
  outside   tools of others: cargo-deny, what deploys the shop, then grpcurl and an OpenAPI validator
            against one
  deploy    of these, only what deploys the shop: chart, compose files, image, scripts
  k8s       writes k8s/ anew, from the chart
  goldens   writes the golden files anew, from what the tests see
  client-tests [--regions N]
            tikv-client's own tests against dev-kv, cut into N regions (1)";

fn main() -> ExitCode {
    let command = env::args().nth(1).unwrap_or_default();
    let began = Instant::now();
    let mut report = Report::default();
    let workspace = match Workspace::find() {
        Ok(workspace) => workspace,
        Err(problem) => {
            println!("{problem}");
            return ExitCode::FAILURE;
        }
    };
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
        "client-tests" => {
            let arguments: Vec<String> = env::args().skip(2).collect();
            match client_rust::regions(&arguments) {
                Ok(regions) => {
                    report.part("client tests", || client_rust::run(&workspace, regions));
                }
                Err(problem) => {
                    println!("{problem}");
                    return ExitCode::from(64);
                }
            }
        }
        "goldens" => report.part("goldens", || goldens::write(&workspace)),
        _ => {
            println!("{USAGE}");
            return ExitCode::from(64);
        }
    }
    report.close(&rounded(began.elapsed()));
    if report.all_passed() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// To a tenth of a second, for people.
fn rounded(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}
