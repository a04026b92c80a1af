//! This release takes over a store that release 0.1 filled and left in the middle of business.
//!
//! `data/release-0.1.hex` holds it: paid, unpaid, overwritten and removed orders, payments, answers
//! to request ids, and the state at the moment when every role was killed under load: votes without
//! an outcome, fences, and outcomes that were not acknowledged. It was made with the `dump` example
//! of the crate `storage`.

use std::{sync::Arc, time::Duration};

use audit::Invariant;
use http::StatusCode;
use storage::{
    Kv as _, codec,
    keys::{Kind, Space},
    record, schema,
};
use testkit::{MemKv, TokioClock};
use types::{Clock, Role, ShardId, Timestamp};

use crate::in_process::Shop;

const SHARDS: u16 = 4;
const USER: &str = "14fc2cc3-84ec-57c0-b928-51095b10e151";
const ORDER: &str = "3fcdf418-fa4e-56f7-9a5f-b74df245adb6";
const REMOVED: &str = "ca60275f-9fbc-58ce-8e01-7449cc4aef1e";

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// The store as release 0.1 left it, 100 ms later.
async fn store() -> (MemKv, Arc<dyn Clock>) {
    let mut lines = include_str!("../data/release-0.1.hex").lines();
    let at = lines.next().unwrap().strip_prefix("at ").unwrap().parse().unwrap();
    let now = Timestamp(at).physical().plus_ms(100);
    let clock: Arc<dyn Clock> = Arc::new(TokioClock::starting_at(now));
    let kv = MemKv::new(Arc::clone(&clock));
    let mut txn = kv.begin().await.unwrap();
    for line in lines {
        let (key, value) = line.split_once(' ').unwrap();
        txn.put(unhex(key), unhex(value));
    }
    txn.commit().await.unwrap();
    (kv, clock)
}

async fn audited(kv: &MemKv, quiet: bool) -> audit::Report {
    // No role has resolved the votes for a long time, so the grace is long.
    let grace_ms = if quiet { 0 } else { 600_000 };
    let options = audit::Options { quiet, grace_ms, ..audit::Options::default() };
    audit::run(kv, &options, &mut |_| {}).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn it_opens_is_clean_and_goes_on() {
    let (kv, clock) = store().await;
    let left = audited(&kv, false).await;
    assert!(left.is_clean(), "{left:#?}");
    assert!(left.counts.unresolved > 0, "nothing was under way: {left:#?}");

    let shop = Shop::open(&kv, &clock);
    tokio::time::sleep(Duration::from_secs(15)).await;
    let settled = audited(&kv, true).await;
    assert!(settled.is_clean(), "{settled:#?}");
    assert_eq!(settled.counts.unresolved, 0);
    assert_eq!(schema::read(&kv).await.unwrap().unwrap().shards, SHARDS);
    for owner in Role::SERVICES {
        for shard in 0..SHARDS {
            let head = Space::of(owner, ShardId(shard)).head();
            // A shard that was never written has no head.
            let Some(value) = kv.contents().remove(&head) else { continue };
            let refused = codec::decode::<record::Head>(&head, &value);
            assert!(refused.is_err(), "release 0.1 may still write {owner:?}/{shard}");
        }
    }

    for order in 0..4 {
        let (_, found) = shop.call(&format!("GET /orders/find/{order}"), "").await;
        assert!(found.contains("\"paid\":true"), "{found}");
    }
    for (call, key, status, text) in [
        // A repeated key gets the first answer.
        ("POST /stock/subtract/3/1", "sub-key", StatusCode::OK, "Item: 3 stock updated to: 96"),
        (
            &format!("POST /payment/add_funds/{USER}/50"),
            "funds-key",
            StatusCode::OK,
            "updated to: 50",
        ),
        (&format!("POST /orders/addItem/{ORDER}/3/2"), "add-key", StatusCode::OK, "updated to: 10"),
        (&format!("GET /payment/status/{USER}/{ORDER}"), "", StatusCode::OK, "{\"paid\":true}"),
        // A refusal is not remembered: by now there is credit.
        (&format!("POST /orders/checkout/{ORDER}"), "broke-key", StatusCode::OK, "successful"),
        (&format!("GET /payment/find_user/{USER}"), "", StatusCode::OK, "\"credit\":33}"),
        (&format!("GET /orders/find/{REMOVED}"), "", StatusCode::NOT_FOUND, "ORDER_NOT_FOUND"),
        ("POST /orders/checkout/4", "", StatusCode::OK, "successful"),
        ("POST /orders/checkout/0", "", StatusCode::OK, "successful"),
        ("POST /orders/addItem/5/0/1", "", StatusCode::OK, "updated to: 15"),
        ("POST /orders/checkout/5", "", StatusCode::OK, "successful"),
    ] {
        let (seen, body) = shop.call(call, key).await;
        assert!(seen == status && body.contains(text), "{call}: {seen} {body}");
    }
    tokio::time::sleep(Duration::from_secs(15)).await;
    let after = audited(&kv, true).await;
    assert!(after.is_clean(), "{after:#?}");
}

#[tokio::test(start_paused = true)]
async fn what_its_audit_judges_is_still_judged() {
    let (kv, _) = store().await;
    let key = Space::of(Role::Order, types::shard_of("0", SHARDS)).record(Kind::Order, b"0");
    let mut order: record::OrderRecord = codec::decode(&key, &kv.contents()[&key]).unwrap();
    order.total_cost += 1;
    let mut txn = kv.begin().await.unwrap();
    txn.put(key, codec::encode(&order));
    txn.commit().await.unwrap();
    let report = audited(&kv, false).await;
    assert!(report.by_invariant.contains_key(&Invariant::PaidOnce), "{report:#?}");
}
