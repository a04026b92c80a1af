//! Tests the store in memory: the suite, with and without faults, and determinism.

use std::sync::Arc;

use testkit::{
    conformance,
    mem::{Chaos, ChaosRates, MemKv},
};

#[tokio::test(start_paused = true)]
async fn the_store_in_memory_conforms() {
    let outcome = conformance::run(MemKv::default().shared(), b"\x01it/").await;
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
        let kv = MemKv::default().with_faults(Arc::new(Chaos::new(seed, rates)));
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
        let kv = MemKv::default().with_faults(Arc::new(Chaos::new(seed, rates))).shared();
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
