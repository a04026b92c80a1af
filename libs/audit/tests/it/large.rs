//! Audits more orders than a test could write: the store makes them up while they are read.
//!
//! `AUDIT_ORDERS=1000000 cargo test -p audit --test it large -- --nocapture` is the soak.

use std::{ops::Range, sync::Arc, time::Instant};

use async_trait::async_trait;
use audit::{Invariant, Options};
use prost::Message as _;
use proto::{
    payment::v1::HoldCreditReceipt,
    stock::v1::{HoldStockReceipt, hold_stock_receipt},
};
use storage::{
    Key, Kv, KvError, Reads, Txn, Value, codec,
    keys::{Kind, Space},
    record::{
        Branch, ItemRecord, OrderRecord, UserRecord,
        order_record::{Line, Paid, Receipt},
    },
    schema,
};
use testkit::MemKv;
use types::{Role, ShardId, Timestamp, shard_of};

const SHARDS: u16 = 16;
const CREDIT: u64 = 1 << 40;

/// Every order is paid: one unit of item `number % items` at price 3, by user `number % users`.
#[derive(Debug, Clone)]
struct Fair {
    rest: MemKv,
    orders: Arc<Vec<Vec<String>>>,
    count: u64,
    /// Number of items, and of users.
    pool: u64,
    pools: Arc<Vec<Vec<String>>>,
    /// This item has one unit too many.
    wrong: Option<u64>,
}

/// Numbers by shard, in key order.
fn by_shard(count: u64) -> Arc<Vec<Vec<String>>> {
    let mut shards = vec![Vec::new(); usize::from(SHARDS)];
    for number in 0..count {
        let id = number.to_string();
        shards[usize::from(shard_of(&id, SHARDS).0)].push(id);
    }
    for ids in &mut shards {
        ids.sort_unstable();
    }
    Arc::new(shards)
}

impl Fair {
    async fn open(count: u64, pool: u64, wrong: Option<u64>) -> Self {
        let rest = MemKv::default();
        schema::open(&rest, Some(SHARDS)).await.unwrap();
        Self { rest, orders: by_shard(count), count, pool, pools: by_shard(pool), wrong }
    }

    fn bought_of(&self, number: u64) -> u64 {
        self.count / self.pool + u64::from(number < self.count % self.pool)
    }

    fn order(&self, id: &str) -> Value {
        let number: u64 = id.parse().unwrap();
        let who = (number % self.pool).to_string();
        let line = hold_stock_receipt::Line {
            item_id: who.clone(),
            quantity: 1,
            incarnation: 1,
            ..Default::default()
        };
        let stock = HoldStockReceipt { lines: vec![line] }.encode_to_vec();
        let credit = HoldCreditReceipt {
            user_id: who.clone(),
            amount: 3,
            incarnation: 1,
            ..Default::default()
        };
        let parts = [("stock", stock), ("payment", credit.encode_to_vec())];
        let receipts = parts.map(|(service, receipt)| Receipt {
            branch: Some(Branch { service: service.to_owned(), shard: 0 }),
            receipt: receipt.into(),
        });
        let mut tx_id = vec![0; 16];
        tx_id[..8].copy_from_slice(&number.to_be_bytes());
        codec::encode(&OrderRecord {
            user_id: who.clone(),
            lines: vec![Line { item_id: who, quantity: 1, price: 3 }],
            total_cost: 3,
            version: 2,
            paid: Some(Paid {
                tx_id: tx_id.into(),
                receipts: receipts.to_vec(),
                ..Paid::default()
            }),
            incarnation: 1,
            ..OrderRecord::default()
        })
    }

    fn item(&self, id: &str) -> Value {
        let number: u64 = id.parse().unwrap();
        let supplied = self.bought_of(number) + 7;
        let available = 7 + u64::from(self.wrong == Some(number));
        codec::encode(&ItemRecord {
            price: 3,
            available,
            supplied,
            incarnation: 1,
            ..Default::default()
        })
    }

    fn user(&self, id: &str) -> Value {
        let spent = 3 * self.bought_of(id.parse().unwrap());
        codec::encode(&UserRecord {
            available: CREDIT - spent,
            supplied: CREDIT,
            incarnation: 1,
            ..Default::default()
        })
    }
}

#[derive(Debug)]
struct FairReads(Fair, Box<dyn Reads>);

#[async_trait]
impl Reads for FairReads {
    fn read_ts(&self) -> Timestamp {
        self.1.read_ts()
    }

    async fn get(&mut self, key: &[u8]) -> Result<Option<Value>, KvError> {
        self.1.get(key).await
    }

    async fn batch_get(&mut self, keys: Vec<Key>) -> Result<Vec<(Key, Value)>, KvError> {
        self.1.batch_get(keys).await
    }

    async fn scan(&mut self, range: Range<Key>, limit: u32) -> Result<Vec<(Key, Value)>, KvError> {
        type Make = fn(&Fair, &str) -> Value;
        let fair = &self.0;
        let kinds: [(Role, Kind, &Vec<Vec<String>>, Make); 3] = [
            (Role::Order, Kind::Order, &fair.orders, Fair::order),
            (Role::Stock, Kind::Item, &fair.pools, Fair::item),
            (Role::Payment, Kind::User, &fair.pools, Fair::user),
        ];
        for (owner, kind, ids, make) in kinds {
            for shard in 0..SHARDS {
                let all = Space::of(owner, ShardId(shard)).range(kind);
                if !(all.start <= range.start && range.start < all.end) {
                    continue;
                }
                let ids = &ids[usize::from(shard)];
                let after = &range.start[all.start.len()..];
                let from = ids.partition_point(|id| id.as_bytes() < after);
                let page = ids[from..].iter().take(usize::try_from(limit).unwrap());
                let key = |id: &String| [&all.start, id.as_bytes()].concat();
                return Ok(page.map(|id| (key(id), make(fair, id))).collect());
            }
        }
        self.1.scan(range, limit).await
    }
}

#[async_trait]
impl Kv for Fair {
    async fn timestamp(&self) -> Result<Timestamp, KvError> {
        self.rest.timestamp().await
    }

    async fn begin(&self) -> Result<Box<dyn Txn>, KvError> {
        self.rest.begin().await
    }

    fn snapshot(&self, at: Timestamp) -> Box<dyn Reads> {
        Box::new(FairReads(self.clone(), self.rest.snapshot(at)))
    }

    async fn collect_garbage(&self, safe_point: Timestamp) -> Result<Timestamp, KvError> {
        self.rest.collect_garbage(safe_point).await
    }
}

/// Peak memory of this process, if the system reports it.
fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("no VmHWM").to_owned()
}

#[tokio::test]
async fn fifty_thousand_paid_orders_are_audited_in_little_memory() {
    #[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
    let count = std::env::var("AUDIT_ORDERS").ok().and_then(|count| count.parse().ok());
    let count = count.unwrap_or(50_000);
    let pool = count / 10 + 1;
    let fair = Fair::open(count, pool, None).await;
    println!("before {}", peak());
    let begun = Instant::now();
    // Less than the orders' claims need, so that they go to files and are merged.
    let options = Options { memory_bytes: 1 << 20, ..Options::default() };
    let report = audit::run(&fair, &options, &mut |_| {}).await.unwrap();
    println!("{count} orders in {:?}, {}", begun.elapsed(), peak());
    assert!(report.is_clean(), "{:?}", report.offences);
    assert_eq!((report.counts.paid, report.counts.items), (count, pool));

    let fair = Fair { wrong: Some(17), ..fair };
    let report = audit::run(&fair, &options, &mut |_| {}).await.unwrap();
    let named: Vec<_> =
        report.offences.iter().map(|offence| (offence.invariant, &*offence.subject)).collect();
    assert_eq!(named, [(Invariant::Stock, "item 17")]);
}
