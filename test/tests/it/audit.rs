//! `till audit` against a shop of real processes: clean after business, and each planted offence is
//! named.

use std::{
    process::{Command, Output},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use futures::future::join_all;
use proto::{
    coordinator::v1::{CheckoutRequest, coordinator_service_client::CoordinatorServiceClient},
    order::v1::{self as order, order_service_client::OrderServiceClient},
    payment::v1::{self as payment, payment_service_client::PaymentServiceClient},
    stock::v1::{self as stock, stock_service_client::StockServiceClient},
};
use serde_json::Value;
use storage::{
    Kv, codec,
    keys::{Kind, Space},
    record::{ItemRecord, OrderRecord, UserRecord},
    schema,
    shard::read_tail,
    tikv::{TikvConfig, TikvKv},
};
use tonic::transport::Channel;
use types::{Role, ShardId, shard_of};

use system_test::process::{Shop, executable};

const ORDERS: u64 = 50_000;
const ITEMS: u64 = 1_000;
const USERS: u64 = 1_000;
const BOUGHT: u64 = 600;
const BUYERS: u64 = 8;

async fn channel(shop: &Shop, role: &str) -> Channel {
    Channel::from_shared(shop.address(role)).unwrap().connect().await.unwrap()
}

async fn fill(shop: &Shop) {
    let mut orders = OrderServiceClient::new(channel(shop, "order").await);
    let mut items = StockServiceClient::new(channel(shop, "stock").await);
    let mut users = PaymentServiceClient::new(channel(shop, "payment").await);
    items
        .batch_init(stock::BatchInitRequest {
            count: ITEMS,
            starting_stock: 1_000,
            item_price: 5,
            ..stock::BatchInitRequest::default()
        })
        .await
        .unwrap();
    users
        .batch_init(payment::BatchInitRequest {
            count: USERS,
            starting_money: 100_000,
            ..payment::BatchInitRequest::default()
        })
        .await
        .unwrap();
    orders
        .batch_init(order::BatchInitRequest {
            count: ORDERS,
            item_count: ITEMS,
            user_count: USERS,
            item_price: 5,
            ..order::BatchInitRequest::default()
        })
        .await
        .unwrap();
}

/// Buys orders "0" to [`BOUGHT`] - 1, [`BUYERS`] at a time.
async fn buy(shop: &Shop) {
    let coordinator = CoordinatorServiceClient::new(channel(shop, "coordinator").await);
    let next = AtomicU64::new(0);
    let buyers = (0..BUYERS).map(|_| {
        let (mut coordinator, next) = (coordinator.clone(), &next);
        async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= BOUGHT {
                    return;
                }
                let order_id = number.to_string();
                let request = CheckoutRequest { order_id, ..CheckoutRequest::default() };
                coordinator.checkout(request).await.unwrap();
            }
        }
    });
    join_all(buyers).await;
}

fn audit(shop: &Shop, flags: &[&str]) -> Output {
    Command::new(executable())
        .arg("audit")
        .args(["--pd-endpoints", &shop.store(), "--json"])
        .args(flags)
        .output()
        .unwrap()
}

#[track_caller]
fn findings(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
    })
}

/// Audits until nothing is in flight.
fn audit_when_quiet(shop: &Shop) -> Value {
    let begun = Instant::now();
    loop {
        let output = audit(shop, &["--quiet"]);
        let found = findings(&output);
        if output.status.success() {
            return found;
        }
        assert_eq!(output.status.code(), Some(2));
        let only_open = found["by_invariant"].as_object().unwrap().keys().all(|kind| kind == "I8");
        assert!(only_open && begun.elapsed() < Duration::from_secs(30), "{found:#}");
    }
}

/// Changes a record directly in the store.
async fn plant<M: prost::Message + Default>(
    kv: &dyn Kv,
    owner: Role,
    kind: Kind,
    id: &str,
    change: impl Fn(&mut M),
) {
    let shards = schema::read(kv).await.unwrap().unwrap().shards;
    let key = Space::of(owner, shard_of(id, shards)).record(kind, id.as_bytes());
    let mut txn = kv.begin().await.unwrap();
    let value = txn.get(&key).await.unwrap().unwrap();
    let mut record = codec::decode(&key, &value).unwrap();
    change(&mut record);
    txn.put(key, codec::encode(&record));
    txn.commit().await.unwrap();
}

/// Waits until the records show everything in the journals. Until then readers would not see a
/// change that is planted in a record.
async fn records_have_followed(kv: &dyn Kv) {
    let shards = schema::read(kv).await.unwrap().unwrap().shards;
    for owner in Role::SERVICES {
        for shard in (0..shards).map(ShardId) {
            let begun = Instant::now();
            loop {
                let mut reads = kv.snapshot(kv.timestamp().await.unwrap());
                let (found, entries) =
                    read_tail(&mut *reads, Space::of(owner, shard), 0).await.unwrap();
                if entries.last().is_none_or(|(last, _)| *last == found.head.flushed) {
                    break;
                }
                assert!(begun.elapsed() < Duration::from_secs(30), "{owner:?}/{shard}: {found:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_of_a_real_shop_names_what_is_planted_and_nothing_else() {
    let shop = Shop::start();
    fill(&shop).await;
    // The books also agree while business goes on.
    let (during, ()) =
        tokio::join!(async { tokio::task::block_in_place(|| audit(&shop, &[])) }, buy(&shop));
    assert!(during.status.success(), "{:#}", findings(&during));
    let found = audit_when_quiet(&shop);
    assert_eq!(found["orders"], ORDERS);
    assert_eq!(found["paid"], BOUGHT);
    assert_eq!((&found["items"], &found["users"]), (&ITEMS.into(), &USERS.into()));

    let kv = TikvKv::connect(TikvConfig::new(vec![shop.store()])).await.unwrap();
    records_have_followed(&*kv).await;
    plant(&*kv, Role::Payment, Kind::User, "7", |user: &mut UserRecord| user.available += 1).await;
    plant(&*kv, Role::Stock, Kind::Item, "8", |item: &mut ItemRecord| item.supplied -= 1).await;
    plant(&*kv, Role::Order, Kind::Order, "3", |order: &mut OrderRecord| order.total_cost -= 1)
        .await;
    let output = audit(&shop, &["--quiet"]);
    assert_eq!(output.status.code(), Some(2));
    let found = findings(&output);
    let mut named: Vec<_> = found["offences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|offence| {
            (offence["invariant"].as_str().unwrap(), offence["subject"].as_str().unwrap())
        })
        .collect();
    named.sort_unstable();
    // The order's own arithmetic is wrong, and its receipt and its buyer disagree with it, too.
    assert_eq!(named[0], ("I1", "item 8"));
    let users = named.iter().filter(|(kind, _)| *kind == "I2").count();
    assert!(named.contains(&("I2", "user 7")) && users == 2, "{found:#}");
    assert!(named.iter().filter(|(kind, _)| *kind == "I4").all(|(_, who)| *who == "order 3"));
    assert!(named.contains(&("I4", "order 3")), "{found:#}");
}
