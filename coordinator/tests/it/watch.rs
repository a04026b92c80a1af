//! The books audited again and again, by one replica for all.

use std::{future::pending, sync::Arc, time::Duration};

use coordinator::watch::{Verdict, Watch};
use storage::{
    codec,
    keys::{Kind, Owner, Space},
    mem::SeededEntropy,
    record::UserRecord,
    schema,
};
use tokio::{task::JoinHandle, time::sleep};
use types::ShardId;

use crate::shop::Shop;

const EVERY: Duration = Duration::from_secs(5);

fn start(shop: &Shop, seed: u64) -> (Watch, JoinHandle<()>) {
    let watch = Watch::default();
    let entropy = Arc::new(SeededEntropy::new(seed));
    let running = watch.clone().run(Arc::clone(&shop.kv), entropy, EVERY, pending());
    (watch, tokio::spawn(running))
}

fn told(verdict: Option<Verdict>) -> Option<Vec<(&'static str, u64)>> {
    verdict.map(|verdict| verdict.offences)
}

#[tokio::test(start_paused = true)]
async fn one_replica_audits_and_another_takes_over_when_it_dies() {
    let shop = Shop::open();
    schema::open(&*shop.kv, Some(1)).await.unwrap();
    let (first, running) = start(&shop, 1);
    sleep(Duration::from_secs(1)).await;
    let (second, _running) = start(&shop, 2);
    sleep(Duration::from_secs(10)).await;
    assert_eq!((told(first.last()), told(second.last())), (Some(Vec::new()), None));

    // A cent too few.
    let mut txn = shop.kv.begin().await.unwrap();
    let user = UserRecord { available: 1, supplied: 2, incarnation: 1 };
    let key = Space::new(Owner::Payment, ShardId(0)).record(Kind::User, b"u");
    txn.put(key, codec::encode(&user));
    txn.commit().await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(told(first.last()), Some(vec![("I2", 1)]));

    running.abort();
    sleep(Duration::from_secs(90)).await;
    assert_eq!(told(second.last()), Some(vec![("I2", 1)]));
}
