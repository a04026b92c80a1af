//! Breaks one rule at a time. Each break must be noticed within some seeds.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    ops::Range,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use types::{Mutation, mutation::activate};

use crate::{run, seeds};

/// Number of seeds within which a break must be noticed.
const SEEDS: u64 = 1_000;

/// With `SIM_SHARES`, the seeds to wait for: then at least 1 in 100 of 2,000 seeds have noticed.
const ENOUGH: usize = 20;

/// Breaks that this simulation does not notice; docs/reliability.md says why.
const HOLES: &[Mutation] =
    &[Mutation::PrimaryNotBelieved, Mutation::RefusalWithoutPrimary, Mutation::YoungerWaits];

/// The first `enough` seeds that notice the break with what each says, and how many were tried.
/// Threads may run a few seeds ahead.
fn catch(mutation: Mutation, seeds: Range<u64>, enough: usize) -> (BTreeMap<u64, String>, u64) {
    let (next, found) = (AtomicU64::new(seeds.start), Mutex::new(BTreeMap::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                activate(Some(mutation));
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || found.lock().unwrap().len() >= enough {
                        return;
                    }
                    if let Some(problem) = run(seed, false).problems.into_iter().next() {
                        found.lock().unwrap().insert(seed, problem);
                    }
                }
            });
        }
    });
    (found.into_inner().unwrap(), next.into_inner().min(seeds.end) - seeds.start)
}

#[test]
fn every_break_of_a_rule_is_noticed() {
    let wanted = std::env::var("SIM_MUTATION").ok();
    let shares = std::env::vars_os().any(|(name, _)| name == "SIM_SHARES");
    let enough = if shares { ENOUGH } else { 1 };
    let seeds = seeds(SEEDS);
    let mut table = String::from("| break | first noticed after | first sign |\n|---|---|---|\n");
    let mut missed = Vec::new();
    for mutation in Mutation::ALL {
        let name = format!("{mutation:?}");
        if wanted.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        let (found, tried) = catch(mutation, seeds.clone(), enough);
        let line = if let Some((seed, problem)) = found.first_key_value() {
            let sign: String = problem.chars().take(100).collect();
            let share =
                if shares { format!(", {} of {tried}", found.len()) } else { String::new() };
            format!("| `{name}` | {}{share} | {} |", seed - seeds.start + 1, sign.replace('|', "/"))
        } else {
            missed.push(mutation);
            format!("| `{name}` | not within {} | |", seeds.end - seeds.start)
        };
        println!("{line}");
        writeln!(table, "{line}").unwrap();
    }
    missed.retain(|mutation| !HOLES.contains(mutation));
    assert!(missed.is_empty(), "nobody noticed {missed:?}\n{table}");
}
