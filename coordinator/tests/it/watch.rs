//! Periodic audits of the books, by one replica for all.

use std::{future::pending, sync::Arc, time::Duration};

use coordinator::watch::{Verdict, Watch};
use proto::coordinator::v1::{
    AuditFinding, GetAuditRequest, GetAuditResponse, transaction_service_server::TransactionService,
};
use storage::{
    codec,
    keys::{Kind, Space},
    record::UserRecord,
    schema,
};
use testkit::SeededEntropy;
use tokio::{task::JoinHandle, time::sleep};
use tonic::Request;
use types::{Role, ShardId};

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

    // A cent too little.
    let mut txn = shop.kv.begin().await.unwrap();
    let user = UserRecord { available: 1, supplied: 2, incarnation: 1, ..Default::default() };
    let key = Space::of(Role::Payment, ShardId(0)).record(Kind::User, b"u");
    txn.put(key, codec::encode(&user));
    txn.commit().await.unwrap();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(told(first.last()), Some(vec![("I2", 1)]));

    running.abort();
    sleep(Duration::from_secs(90)).await;
    assert_eq!(told(second.last()), Some(vec![("I2", 1)]));
}

#[tokio::test(start_paused = true)]
async fn get_audit_returns_the_last_verdict_and_its_interval() {
    let shop = Shop::open();
    schema::open(&*shop.kv, Some(1)).await.unwrap();
    let ask = async || {
        let asked = shop.coordinator.get_audit(Request::new(GetAuditRequest {})).await;
        asked.unwrap().into_inner()
    };
    assert_eq!(ask().await, GetAuditResponse::default(), "nobody was told to audit");

    let mut txn = shop.kv.begin().await.unwrap();
    let user = UserRecord { available: 1, supplied: 2, incarnation: 1, ..Default::default() };
    let key = Space::of(Role::Payment, ShardId(0)).record(Kind::User, b"u");
    txn.put(key, codec::encode(&user));
    txn.commit().await.unwrap();
    let entropy = Arc::new(SeededEntropy::new(1));
    let watch = shop.coordinator.watch().clone();
    let _running = tokio::spawn(watch.run(Arc::clone(&shop.kv), entropy, EVERY, pending()));
    sleep(Duration::from_secs(1)).await;
    let told = ask().await;
    let finding = AuditFinding { invariant: "I2".to_owned(), count: 1 };
    let last = told.last.unwrap();
    assert_eq!((told.every_s, last.findings), (5, vec![finding]));
    assert!(last.at_ms > 0);
}
