//! The time that a reader from outside takes to lay a shard's journal over its records: for a look
//! at one order, as an operator's, and for a page of records, as the audit's. The store is in
//! memory. Run it by `cargo bench -p audit`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a measuring tool: it ends at the first surprise"
)]

use std::{hint::black_box, sync::Arc};

use audit::{lookup, overlay::Overlay};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use storage::{
    Kv as _, Value, codec,
    keys::{Kind, Space, record_key},
    record::{Image, JournalEntry, OrderRecord, order_record::Line},
    schema, shard,
};
use testkit::{MemKv, TokioClock};
use tokio::runtime::{Builder, Runtime};
use types::{OrderId, Role, ShardId};

/// The allocator of `till`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Orders on the shard.
const ORDERS: u64 = 10_000;
/// Entries that the records do not show yet: somewhat more than the 256 KiB at which a checkpoint
/// begins.
const ENTRIES: u64 = 64;
/// Orders that each entry changes.
const IMAGES: u64 = 64;

fn order(number: u64) -> Value {
    let line = |item: u64| Line { item_id: item.to_string(), quantity: 1, price: 1 };
    codec::encode(&OrderRecord {
        user_id: (number * 31 % ORDERS).to_string(),
        lines: vec![line(number * 7 % ORDERS), line(number * 11 % ORDERS)],
        total_cost: 2,
        version: 470_614_102_246_162_433 + number,
        incarnation: 470_614_102_246_162_400,
        ..OrderRecord::default()
    })
}

/// An entry that changes orders all over the shard.
fn entry(seq: u64) -> JournalEntry {
    let image = |number: u64| {
        let number = (seq * IMAGES + number) * 7919 % ORDERS;
        let row = record_key(Kind::Order, number.to_string().as_bytes());
        Image { row: row.into(), value: order(number).into() }
    };
    JournalEntry {
        writer: vec![9; 16].into(),
        run: seq,
        images: (0..IMAGES).map(image).collect(),
        ..JournalEntry::default()
    }
}

/// A store with orders, and with entries that change some of them.
fn store(runtime: &Runtime, space: Space) -> MemKv {
    runtime.block_on(async {
        let kv = MemKv::new(Arc::new(TokioClock::default()));
        schema::open(&kv, Some(1)).await.unwrap();
        let mut txn = kv.begin().await.unwrap();
        for number in 0..ORDERS {
            txn.put(space.record(Kind::Order, number.to_string().as_bytes()), order(number));
        }
        for seq in 1..=ENTRIES {
            let opens = (seq == 1).then(shard::Head::default);
            shard::append(&mut *txn, space, seq, &entry(seq), opens.as_ref());
        }
        txn.commit().await.unwrap();
        kv
    })
}

/// Reads the whole journal into an overlay.
async fn overlay(kv: &MemKv, space: Space) -> Overlay {
    let mut snapshot = kv.snapshot(kv.timestamp().await.unwrap());
    let (found, entries) = shard::read_tail(&mut *snapshot, space, 0).await.unwrap();
    let mut overlay = Overlay::default();
    for (seq, entry) in &entries {
        overlay.take(space, found.head.flushed, *seq, entry);
    }
    overlay
}

fn reads(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let space = Space::of(Role::Order, ShardId(0));
    let kv = store(&runtime, space);
    let id = OrderId::numbered(7);
    let mut group = criterion.benchmark_group(format!("{ENTRIES} entries of {IMAGES} orders"));
    group.throughput(Throughput::Elements(ENTRIES * IMAGES));
    group.bench_function("read into an overlay", |bencher| {
        bencher.iter(|| runtime.block_on(overlay(&kv, space)));
    });
    group.bench_function("look up one order", |bencher| {
        bencher.iter(|| runtime.block_on(lookup::order(&kv, black_box(&id))).unwrap().unwrap());
    });
    let overlay = runtime.block_on(overlay(&kv, space));
    let range = space.range(Kind::Order);
    let records = runtime.block_on(async {
        let mut snapshot = kv.snapshot(kv.timestamp().await.unwrap());
        snapshot.scan(range.clone(), u32::MAX).await.unwrap()
    });
    assert_eq!(overlay.lay_over(range.clone(), records.clone()).len(), records.len());
    group.throughput(Throughput::Elements(ORDERS));
    group.bench_function(format!("lay over {ORDERS} records"), |bencher| {
        bencher.iter_batched(
            || records.clone(),
            |records| overlay.lay_over(range.clone(), records),
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, reads);
criterion_main!(benches);
