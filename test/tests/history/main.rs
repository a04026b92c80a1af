//! Histories of real processes. Goal: many people act on few things at one moment while roles are
//! killed, stopped and restarted; what they are told could still have happened one call at a time,
//! and the books agree. Method: the clients and the judge of [`system_test::history`], as in the
//! simulation, over REST and gRPC against `till up`. Each round has a new shop, every third one
//! without trouble, and ends with `till audit`.
//!
//! `cargo xtask history --minutes N --replicas R` runs it for longer. A round that fails writes its
//! history as JSON ([`system_test::history::json`]), and prints where.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a test that panics has failed, reads its own switches, and looks at what it knows"
)]

mod shop;
mod trouble;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use shop::Shop;
use system_test::history::{
    coverage::{self, Counts},
    json, judge, people,
    people::Habits,
};

/// Duration of an ordinary test run, in seconds.
const SECONDS: u64 = 100;
/// Replicas of every role.
const REPLICAS: u64 = 2;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Whether to count which calls met.
fn counts_what_met() -> bool {
    std::env::var_os("HISTORY_COVERAGE").is_some()
}

/// One round: returns its problems and the number of its calls, and counts in `met` which of them
/// met.
fn round(seed: u64, replicas: u64, met: &mut Counts) -> (Vec<String>, usize) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let calm = seed.is_multiple_of(3);
    let habits = Habits {
        gives_up: if calm { 0 } else { 5 },
        init: rng.random_range(0..20),
        draws: rng.random_bool(0.5),
        crowd: rng.random_range(30..100),
        sells: rng.random_bool(0.3),
        foreign: false,
    };
    let shop = Shop::start(replicas, habits, counts_what_met());
    let mut strikes = Vec::new();
    let trouble = (!calm).then(|| trouble::Trouble::begin(shop.status_file(), seed));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (book, closed) = runtime.block_on(async {
        let book = people::live(&shop, seed).await;
        strikes = trouble.map(trouble::Trouble::end).unwrap_or_default();
        // A call that a client gave up on can go on for as long as a call may take.
        let unknown = book.borrow().entries.iter().any(|entry| entry.ended.is_none());
        if unknown {
            tokio::time::sleep(shop::REQUEST_TIMEOUT + Duration::from_secs(1)).await;
        }
        shop.quiet();
        let closed = people::close(&shop, &book, seed).await;
        (book, closed)
    });
    shop.quiet();
    if counts_what_met() {
        coverage::add(met, shop.met(&strikes));
    }
    // The books do not have what was sold without an order.
    let mut problems = if habits.sells { Vec::new() } else { shop.audit() };
    let book = book.borrow();
    let judgement = judge::judge(&book, &closed, calm);
    problems.extend(judgement.problems);
    let history = json::write(&book, &closed, calm).to_string();
    let named = std::env::var("HISTORIES_TO").ok().map(PathBuf::from);
    if named.is_some() || !problems.is_empty() {
        let folder = named.unwrap_or_else(std::env::temp_dir);
        let path = folder.join(format!("history-{seed}.json"));
        std::fs::write(&path, history).unwrap();
        if !problems.is_empty() {
            println!("round {seed}: {problems:#?}\nits history: {}", path.display());
        }
    }
    (problems, book.entries.len())
}

#[test]
fn what_people_are_told_could_have_happened_one_call_at_a_time() {
    let time = Duration::from_secs(number("HISTORY_SECONDS", SECONDS));
    let replicas = number("HISTORY_REPLICAS", REPLICAS);
    let first = number("HISTORY_SEED", u64::from(std::process::id()) * 1_000);
    let begun = Instant::now();
    let (mut rounds, mut calls, mut failed) = (0, 0, Vec::new());
    let mut met = Counts::new();
    while begun.elapsed() < time {
        let seed = first + rounds;
        let (problems, entries) = round(seed, replicas, &mut met);
        if !problems.is_empty() {
            failed.push(seed);
        }
        rounds += 1;
        calls += entries;
        if rounds % 20 == 0 {
            println!("{rounds} rounds, {calls} calls, {} wrong", failed.len());
        }
    }
    println!("{rounds} rounds, {calls} calls, {} wrong", failed.len());
    if counts_what_met() {
        let (tables, empty) = coverage::tables(&met);
        println!("{tables}\n{empty} cells are empty");
    }
    assert!(failed.is_empty(), "rounds {failed:?} are wrong");
}
