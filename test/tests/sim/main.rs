//! Whole checkouts in simulation. Goal: whatever is lost, doubled, late, cut off or killed, no cent is lost
//! and no answer contradicted. Method: the very modules that `till` links (coordinator, participants,
//! lanes) over the store in memory and a simulated network, on one thread with paused time; one seed is one
//! schedule. Clients repeat every call under its request id until they have a definite answer; after the
//! run everything is left to quiet down, and the books are compared with what the clients were told.
//!
//! `SIM_SEED=7 cargo test -p system-test --test sim` runs one seed; `SIM_SEEDS=1000` as many from 0 on.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test that panics has failed, and reads its own switches"
)]

mod buyers;
mod network;
mod shop;

use std::time::Duration;

use shop::{Rates, Shop};

/// Seeds that an ordinary test run goes through.
const SEEDS: u64 = 400;

fn run(seed: u64, rates: Rates) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let story = async {
            let shop = Shop::open(seed, rates);
            let told = buyers::buy(&shop, seed).await;
            shop.heal();
            tokio::time::sleep(Duration::from_secs(30)).await;
            buyers::audit(&shop, &told, seed).await;
            shop.expect_nothing_unresolved(seed);
            format!("{:?} {told:?}", shop.trouble())
        };
        let bound = Duration::from_mins(20);
        tokio::time::timeout(bound, story).await.unwrap_or_else(|_| panic!("SEED={seed} hangs"))
    })
}

fn seeds() -> std::ops::Range<u64> {
    let read = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (read("SIM_SEED"), read("SIM_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => 0..count,
        (None, None) => 0..SEEDS,
    }
}

#[test]
fn no_trouble_loses_a_cent() {
    for seed in seeds() {
        let story = run(seed, Rates::of(seed));
        if std::env::var("SIM_SEED").is_ok() {
            println!("SEED={seed} {story}");
        }
    }
}

#[test]
fn one_seed_is_one_schedule() {
    for seed in 0..10 {
        assert_eq!(run(seed, Rates::of(seed)), run(seed, Rates::of(seed)), "SEED={seed}");
    }
}
