//! What takes too long for every run: the matrix of faults, a million orders audited and a million
//! sold, dev-kv's long tests, mutants, random input in far more cases than the tests try, and then
//! the simulation for any length of time, always on seeds that never ran before.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{
    chaos, client_rust, command, history, mutants,
    report::{Part, Report, Tally},
    sim, test,
    workspace::Workspace,
};

/// Regions for tikv-client's own tests, which `ci` runs with one.
const REGIONS: u64 = 42;

/// Number of seeds between two checks of the time.
const ROUND: u64 = 500;

/// Runs the long tests, then rounds of the simulation until the time is over.
pub(crate) fn run(workspace: &Workspace, report: &mut Report, minutes: u64) {
    chaos::run(workspace, report);
    report.part("audit of a million orders", || audit(workspace));
    report.part("a million orders, sold", || million(workspace));
    report.part("client tests, many regions", || client_rust::run(workspace, REGIONS));
    report.part("dev-kv, killed and hot", || dev_kv(workspace));
    report.part("dev-kv, ten million keys", || dev_kv_full(workspace));
    report.part("fuzz", || Ok(fuzz(workspace)));
    let histories = history::Wanted { minutes: minutes.max(1), replicas: 2 };
    history::run(workspace, report, histories);
    report.part("mutants", || {
        let seed = fresh_seed()?;
        mutants::run(workspace, mutants::Wanted { seed, count: MUTANTS })
    });
    report.part("soak", || rounds(workspace, Duration::from_mins(minutes)));
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
    let mut cargo = workspace.cargo("test -p audit --test it large");
    test::rust_counted(cargo.env("AUDIT_ORDERS", "1000000"))
}

/// Measures a checkout among a million orders, items and users; docs/performance.md has fewer. The
/// figures are only printed, but an offence against the books is a failure.
fn million(workspace: &Workspace) -> Part {
    let mut bench = workspace.cargo(
        "run --release --package till -- bench --up --concurrency 256 --duration-ms 30000 \
         --orders 1000000 --items 1000000 --accounts 1000000",
    );
    command::check(bench.env("TMPDIR", workspace.scratch("tmp")?))
}

/// Most memory of dev-kv with ten million keys, in MiB.
const MEMORY_MAX_MIB: &str = "800";

fn dev_kv_full(workspace: &Workspace) -> Part {
    let mut load = workspace.cargo(
        "run --release --package dev-kv --example load -- --fill 10000000 --value 100 \
         --parts one-phase,get --memory-max-mib",
    );
    load.args([MEMORY_MAX_MIB, "--directory"]).arg(workspace.scratch("tmp")?);
    command::check(&mut load)
}

/// A hundred kills under load, and a million writes of one key.
fn dev_kv(workspace: &Workspace) -> Part {
    let mut cargo = workspace.cargo("test -p dev-kv --test it --");
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

fn fuzz(workspace: &Workspace) -> Tally {
    let mut tally = Tally::default();
    for (package, filter) in FUZZ {
        let mut cargo = workspace.cargo(&format!("test --package {package} --test it {filter}"));
        cargo.env("PROPTEST_CASES", FUZZ_CASES);
        tally.check(package, command::run(&mut cargo));
    }
    tally
}

fn rounds(workspace: &Workspace, time: Duration) -> Part {
    let began = Instant::now();
    let mut from = fresh_seed()? * 1_000;
    let mut tally = Tally::default();
    while began.elapsed() < time {
        let wanted = sim::Wanted::seeds(ROUND, from);
        let result = command::run(&mut wanted.command(workspace));
        tally.check(&format!("seeds from {from} on"), result);
        from += ROUND;
        println!("{} s of {} s", began.elapsed().as_secs(), time.as_secs());
    }
    Ok(tally)
}
