//! What takes too long for every run: the matrix of faults, a million orders audited and a million
//! sold, dev-kv's long tests, mutants, random input in far more cases than the tests try, and then
//! the simulation for any length of time, always on seeds that never ran before.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{
    chaos, client_rust, command, history, mutants,
    report::{Outcome, Part, Report, Tally},
    sim::{self, Wanted},
    test,
    workspace::Workspace,
};

/// Regions for tikv-client's own tests, which `ci` runs with one.
const REGIONS: usize = 42;

/// Number of seeds between two checks of the time.
const ROUND: u64 = 500;

/// Parses the arguments after `cargo xtask soak`.
pub(crate) fn parse(args: &[String]) -> Result<Duration, String> {
    match args {
        [] => Ok(Duration::from_hours(1)),
        [name, minutes] if name == "--minutes" => {
            let minutes = minutes.parse().map_err(|_| "--minutes needs a number".to_owned())?;
            Ok(Duration::from_secs(60 * u64::from(minutes_at_most(minutes)?)))
        }
        _ => Err("only --minutes N fits here".to_owned()),
    }
}

fn minutes_at_most(minutes: u32) -> Result<u32, String> {
    if minutes <= 10_000 { Ok(minutes) } else { Err("--minutes is at most 10000".to_owned()) }
}

/// Runs the long tests, then rounds of the simulation until the time is over.
pub(crate) fn run(workspace: &Workspace, report: &mut Report, time: Duration) {
    chaos::run(workspace, report);
    report.part("audit of a million orders", || audit(workspace));
    report.part("a million orders, sold", || million(workspace));
    report.part("client tests, many regions", || client_rust::run(workspace, REGIONS));
    report.part("dev-kv, killed and hot", || dev_kv(workspace));
    report.part("dev-kv, ten million keys", || dev_kv_full(workspace));
    report.part("fuzz", || Ok(fuzz(workspace)));
    history::run(workspace, report, history::Wanted::of(time));
    report
        .part("mutants", || mutants::run(workspace, mutants::Wanted::new(fresh_seed()?, MUTANTS)));
    report.part("soak", || rounds(workspace, time));
}

/// Number of mutants in a soak.
const MUTANTS: usize = 20;

/// Seconds since the epoch, so that no two soaks draw the same seeds.
fn fresh_seed() -> Result<u64, String> {
    #[allow(clippy::disallowed_methods, reason = "it is here to differ each time")]
    let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|error| error.to_string())?;
    Ok(epoch.as_secs())
}

fn audit(workspace: &Workspace) -> Part {
    let mut cargo = workspace.cargo(&["test", "-p", "audit", "--test", "it", "large"]);
    test::rust_counted(cargo.env("AUDIT_ORDERS", "1000000"))
}

/// Measures a checkout among a million orders, items and users; docs/performance.md has fewer. The
/// figures are only printed, but an offence against the books is a failure.
fn million(workspace: &Workspace) -> Part {
    let mut cargo = workspace.cargo(&["run", "--release", "--package", "till", "--", "bench"]);
    cargo
        .args(["--up", "--concurrency", "256", "--duration-ms", "30000"])
        .args(["--orders", "1000000", "--items", "1000000", "--accounts", "1000000"])
        .env("TMPDIR", workspace.scratch("tmp")?);
    command::check(&mut cargo)
}

/// Most memory of dev-kv with ten million keys, in MiB.
const MEMORY_MAX_MIB: &str = "800";

fn dev_kv_full(workspace: &Workspace) -> Part {
    let load = ["run", "--release", "--package", "dev-kv", "--example", "load", "--"];
    let mut cargo = workspace.cargo(&load);
    cargo
        .args(["--fill", "10000000", "--value", "100", "--parts", "one-phase,get"])
        .args(["--memory-max-mib", MEMORY_MAX_MIB, "--directory"])
        .arg(workspace.scratch("tmp")?);
    command::check(&mut cargo)
}

/// A hundred kills under load, and a million writes of one key.
fn dev_kv(workspace: &Workspace) -> Part {
    let mut cargo = workspace.cargo(&["test", "-p", "dev-kv", "--test", "it", "--"]);
    cargo
        .args(["killed_under_load", "hot_keys", "--test-threads", "1"])
        .env("TMPDIR", workspace.scratch("tmp")?)
        .env("TILL_DEV_KV_KILLS", "100")
        .env("TILL_DEV_KV_HOT_KEYS", "1")
        .env("TILL_DEV_KV_HOT_WRITES", "1000000");
    test::rust_counted(&mut cargo)
}

/// Packages with tests of random input, and a filter for the names of those tests.
const FUZZ: [(&str, &str); 3] =
    [("http-bridge", "fuzz::"), ("storage", "formats::"), ("dev-kv", "hostile::")];
/// Cases for each property; by default the tests try 256.
const FUZZ_CASES: &str = "100000";

fn fuzz(workspace: &Workspace) -> Outcome {
    let mut tally = Tally::default();
    for (package, filter) in FUZZ {
        let mut cargo = workspace.cargo(&["test", "--package", package, "--test", "it", filter]);
        cargo.env("PROPTEST_CASES", FUZZ_CASES);
        tally.check(package, command::check(&mut cargo).map(|_| ()));
    }
    Outcome::Ran(tally)
}

fn rounds(workspace: &Workspace, time: Duration) -> Part {
    let began = Instant::now();
    let mut from = fresh_seed()? * 1_000;
    let mut tally = Tally::default();
    while began.elapsed() < time {
        let wanted = Wanted::Seeds { count: ROUND, from, coverage: false };
        let result = sim::once(workspace, &wanted).map(|_| ());
        tally.check(&format!("seeds from {from} on"), result);
        from += ROUND;
        println!("{} s of {} s", began.elapsed().as_secs(), time.as_secs());
    }
    Ok(Outcome::Ran(tally))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_read() {
        let parse =
            |args: &[&str]| parse(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&[]), Ok(Duration::from_hours(1)));
        assert_eq!(parse(&["--minutes", "3"]), Ok(Duration::from_mins(3)));
        for wrong in
            [&["--minutes"][..], &["--minutes", "x"], &["--minutes", "99999"], &["-m", "1"]]
        {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
