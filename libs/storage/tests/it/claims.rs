//! Tests that a request id is bound to one call.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use storage::{
    Kv as _, KvError,
    claims::{Claim, claim_request_id},
};
use testkit::mem::{Chaos, ChaosRates, MemKv};
use tokio::{task::JoinSet, time::advance};
use types::RequestId;

const KEEP_MS: u64 = 600_000;

fn id() -> RequestId {
    RequestId::new("order 7/a#\u{ff}").unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_id_belongs_to_the_first_call_until_it_expires() {
    let kv = MemKv::default();
    let claim = |call: &'static str| claim_request_id_owned(kv.clone(), call);
    let now = || kv.begin().map(|txn| Claim::Claimed(txn.unwrap().read_ts()));
    // The timestamp is later than the claim's arrival.
    let (before, claimed) = (now().await, claim("POST /a").await.unwrap());
    assert!(before < claimed && claimed < now().await);
    assert!(matches!(claim("POST /a").await, Ok(Claim::Claimed(_))));
    assert_eq!(claim("POST /b").await, Ok(Claim::Reused));
    advance(Duration::from_millis(KEEP_MS - 1)).await;
    assert_eq!(claim("POST /b").await, Ok(Claim::Reused));
    advance(Duration::from_secs(1)).await;
    assert!(matches!(claim("POST /b").await, Ok(Claim::Claimed(_))));
    assert_eq!(claim("POST /a").await, Ok(Claim::Reused));
}

async fn claim_request_id_owned(kv: MemKv, call: &str) -> Result<Claim, KvError> {
    claim_request_id(&kv, &id(), call, KEEP_MS).await
}

#[tokio::test(start_paused = true)]
async fn of_racing_calls_exactly_one_gets_the_id_in_chaos() {
    for seed in 0..300 {
        let calm = MemKv::default();
        let kv = calm.with_faults(Arc::new(Chaos::new(seed, ChaosRates::default())));
        let mut calls = JoinSet::new();
        for call in ["a", "b", "a", "b", "c"] {
            let kv = kv.clone();
            calls.spawn(async move {
                loop {
                    // Repeats after a failure, as a client would.
                    if let Ok(claim) = claim_request_id_owned(kv.clone(), call).await {
                        return (call, claim);
                    }
                }
            });
        }
        let told = calls.join_all().await;
        let winners: Vec<&str> = told
            .iter()
            .filter(|(_, claim)| matches!(claim, Claim::Claimed(_)))
            .map(|(call, _)| *call)
            .collect();
        let first = winners.first().copied().unwrap_or_else(|| panic!("SEED={seed}: nobody"));
        assert!(winners.iter().all(|call| *call == first), "SEED={seed}: {told:?}");
        // Nothing that lands late changes the winner.
        advance(Duration::from_secs(10)).await;
        for (call, claim) in told {
            let again = claim_request_id_owned(calm.clone(), call).await.unwrap();
            let is_claimed = |claim| matches!(claim, Claim::Claimed(_));
            assert_eq!(is_claimed(again), is_claimed(claim), "SEED={seed}");
        }
    }
}
