//! Whole checkouts in simulation. Goal: whatever is lost, doubled, late, cut off, stopped or
//! killed, no cent is lost and no answer is contradicted. Method: the very modules that `till`
//! links (bridge handlers, coordinator, participants, lanes) run over the store in memory, a
//! simulated network, clocks that jump and seeded randomness, on one thread with paused time. One
//! seed is one schedule. Clients use all of it, and every call and its answer is recorded. After
//! the run everything is left to quiet down. Then the store is audited, and what clients saw of
//! each order, item and user must be linearizable.
//!
//! [`fate`] draws the faults of a run; [`network`] and [`shop`] are the world; [`audit`] checks the
//! store; [`trace`] records what happened; [`points`] is a foreign participant; [`coverage`] counts
//! which calls met; [`system_test::history`] has the clients, their history, and linearizability.
//!
//! `cargo xtask sim` runs it; `--seed 7` replays one seed and prints everything that happens.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed, reads its own switches, and looks at what it knows"
)]

mod audit;
mod coverage;
mod fate;
#[cfg(feature = "mutations")]
mod mutations;
mod network;
mod points;
mod shop;
mod trace;

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use fate::Rates;
use shop::Shop;
use system_test::history::{json, judge, people};

/// Number of seeds of an ordinary test run.
const SEEDS: u64 = 2_000;
/// Longest time that a shop has trouble. The harshest seeds leave so little time in between that
/// clients would need an hour, which is slow, not stuck.
const TROUBLE: Duration = Duration::from_mins(8);
/// Longest time that clients may take for the rest once trouble is over; more is a hang.
const CALM: Duration = Duration::from_mins(7);

/// The result of one seed.
struct Run {
    problems: Vec<String>,
    /// Objects whose history was too long to judge.
    undecided: usize,
    /// A hash of everything that happened.
    hash: u64,
    numbers: String,
}

fn run(seed: u64, print: bool) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        trace::begin(print);
        coverage::begin();
        let rates = Rates::of(seed);
        trace::note(&"fate", format_args!("seed {seed}: {rates:?}"));
        let calm = rates.is_calm();
        let shop = Shop::open(seed, rates);
        let story = async {
            let mut life = std::pin::pin!(people::live(&*shop, seed));
            let book = tokio::time::timeout(TROUBLE, &mut life).await;
            shop.heal();
            let book = match book {
                Ok(book) => book,
                Err(_) => life.await,
            };
            tokio::time::sleep(Duration::from_secs(30)).await;
            let closed = people::close(&*shop, &book, seed).await;
            tokio::time::sleep(Duration::from_secs(10)).await;
            (book, closed)
        };
        let story = tokio::time::timeout(TROUBLE + CALM, story).await;
        let numbers = format!("{:?}", shop.numbers());
        let (mut problems, mut undecided) = (Vec::new(), 0);
        match story {
            Ok((book, closed)) => {
                problems.extend(audit::audit(&shop.kv, &shop.points.known()));
                let judgement = judge::judge(&book.borrow(), &closed, calm);
                keep_history(seed, &json::write(&book.borrow(), &closed, calm));
                problems.extend(judgement.problems);
                undecided = judgement.undecided;
            }
            Err(_) => problems.push("it hangs".to_owned()),
        }
        let (hash, alarms) = trace::end();
        coverage::end();
        shop.network.close();
        problems.extend(alarms.into_iter().map(|alarm| format!("alarm: {alarm}")));
        Run { problems, undecided, hash, numbers }
    })
}

/// Writes a history for other checkers, if SIM_HISTORIES_TO names a folder.
fn keep_history(seed: u64, history: &serde_json::Value) {
    if let Ok(folder) = std::env::var("SIM_HISTORIES_TO") {
        std::fs::write(format!("{folder}/{seed}.json"), history.to_string()).unwrap();
    }
}

fn seeds(default: u64) -> Range<u64> {
    let read = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let from = read("SIM_FROM").unwrap_or(0);
    match (read("SIM_SEED"), read("SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, count) => from..from + count.unwrap_or(default),
    }
}

/// Runs seeds on as many threads as there are cores; each run stays on one. A thread stops once
/// `each` returns false.
fn all(seeds: Range<u64>, each: impl Fn(u64, Run) -> bool + Sync) {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || !each(seed, run(seed, false)) {
                        return;
                    }
                }
            });
        }
    });
}

#[test]
fn no_trouble_loses_a_cent() {
    let seeds = seeds(SEEDS);
    if seeds.end - seeds.start == 1 {
        let run = run(seeds.start, true);
        println!("{} {:#?} hash {:x}", run.numbers, run.problems, run.hash);
        assert!(run.problems.is_empty(), "SEED={}", seeds.start);
        return;
    }
    let failed = std::sync::Mutex::new(Vec::new());
    let undecided = AtomicU64::new(0);
    all(seeds, |seed, run| {
        undecided.fetch_add(run.undecided as u64, Ordering::Relaxed);
        if !run.problems.is_empty() {
            println!("SEED={seed} {:#?}", run.problems);
            failed.lock().unwrap().push(seed);
        }
        true
    });
    println!("{undecided:?} histories were too long to judge");
    if coverage::is_wanted() {
        let (tables, empty) = coverage::tables();
        println!("{tables}\n{empty} cells are empty");
    }
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} failed, SEED={failed:?}", failed.len());
}

/// Set in a child process, which writes its hashes to this file.
const HASHES_TO: &str = "SIM_HASHES_TO";

#[test]
fn one_seed_is_one_schedule_in_every_process() {
    if let Ok(path) = std::env::var(HASHES_TO) {
        let hashes = std::sync::Mutex::new(BTreeMap::new());
        all(0..100, |seed, run| {
            hashes.lock().unwrap().insert(seed, run.hash);
            true
        });
        std::fs::write(path, format!("{hashes:#x?}")).unwrap();
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let hashes = ["one", "other"].map(|name| {
        let path = folder.path().join(name);
        let this = "one_seed_is_one_schedule_in_every_process";
        let mut process = std::process::Command::new(std::env::current_exe().unwrap());
        process.args(["--exact", this]).env(HASHES_TO, &path);
        assert!(process.output().unwrap().status.success());
        std::fs::read_to_string(path).unwrap()
    });
    assert!(hashes[0].lines().count() > 100);
    assert_eq!(hashes[0], hashes[1]);
}
