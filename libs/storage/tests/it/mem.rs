//! Tests the store in memory: the suite, with and without faults, and determinism.

use std::{future::pending, sync::Arc, time::Duration};

use storage::{
    conformance,
    janitor::{self, JanitorConfig},
    mem::{Chaos, ChaosRates, MemKv, SeededEntropy, TokioClock},
};
use tokio::time::timeout;
use types::UnixMillis;

fn store() -> MemKv {
    let clock = TokioClock::starting_at(UnixMillis(1_700_000_000_000));
    MemKv::new(Arc::new(clock))
}

#[tokio::test(start_paused = true)]
async fn the_store_in_memory_conforms() {
    let outcome = conformance::run(store().shared(), b"\x01it/").await;
    assert_eq!(outcome, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn the_store_in_memory_conforms_when_slow() {
    for seed in 0..20 {
        let rates = ChaosRates {
            unavailable: 0,
            locked: 0,
            conflict: 0,
            landed: 0,
            lost: 0,
            late: 0,
            ..ChaosRates::default()
        };
        let kv = store().with_faults(Arc::new(Chaos::new(seed, rates)));
        let outcome = conformance::run(kv.shared(), b"\x01it/").await;
        assert_eq!(outcome, Ok(()), "SEED={seed}");
    }
}

/// This case stands for every lane: whatever happened to a commit, its marker settles it.
#[tokio::test(start_paused = true)]
async fn markers_settle_undetermined_commits_in_chaos() {
    for seed in 0..100 {
        // Reads and timestamps do not fail: the suite would count that against the store.
        let rates = ChaosRates { unavailable: 0, locked: 0, ..ChaosRates::default() };
        let kv = store().with_faults(Arc::new(Chaos::new(seed, rates))).shared();
        for case in conformance::CASES {
            let chaotic = [
                "racing_increments_lose_none",
                "transfers_keep_the_sum_at_every_moment",
                "an_undetermined_commit_is_settled_by_its_marker",
            ];
            if chaotic.contains(&case.name) {
                let prefix = format!("it/{}/", case.name);
                let outcome = case.run(kv.clone(), prefix.as_bytes()).await;
                assert_eq!(outcome, Ok(()), "SEED={seed} {}", case.name);
            }
        }
    }
}

/// No other test of this process runs a janitor, which would set the same metric.
#[tokio::test(start_paused = true)]
async fn the_replica_that_sweeps_tells_how_old_the_safe_point_is_and_the_others_do_not() {
    let kv = store();
    let age = &telemetry::metrics().safe_point_age;
    for (process, sweeps) in [(1, true), (2, false)] {
        let (kv, entropy) = (kv.process(process).shared(), SeededEntropy::new(process.into()));
        let swept = janitor::run(kv, &entropy, JanitorConfig::default(), pending());
        assert!(timeout(Duration::from_secs(1), swept).await.is_err(), "it goes on");
        let told = age.get().map(|age| age >= Duration::from_mins(10));
        assert_eq!(told, sweeps.then_some(true), "process {process}");
    }
}
