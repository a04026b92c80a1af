//! The time that the journal's stored form takes: encoding and compressing the entry of one batch
//! into its KV transaction, and reading it back. The store is in memory, and nothing is committed
//! meanwhile. Run it by `cargo bench -p storage`.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a measuring tool: it ends at the first surprise"
)]

use std::{hint::black_box, sync::Arc};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use storage::{
    Kv as _, codec,
    keys::{Kind, Space, record_key},
    record::{
        Branch, Image, ItemRecord, JournalEntry, TxEvent, TxMeta,
        tx_event::{Event, Prepared},
    },
    shard,
};
use testkit::{MemKv, TokioClock};
use tokio::runtime::{Builder, Runtime};
use types::{Role, ShardId};

/// The allocator of `till`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A timestamp of the store.
const START: u64 = 470_614_102_250_356_737;

/// A number's 16 bytes that do not compress, as those of an id.
fn scattered(number: u64) -> Vec<u8> {
    // SplitMix64 (Steele, Lea, Flood 2014).
    let mixed = |number: u64| {
        let mut mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_be_bytes()
    };
    [2 * number + 1, 2 * number + 2].iter().flat_map(|half| mixed(*half)).collect()
}

/// A YES for a checkout's transaction, as stock records it.
fn prepared(number: u64) -> TxEvent {
    let branch = |service: &str| Branch { service: service.to_owned(), shard: 0 };
    let tx = TxMeta {
        tx_id: scattered(number).into(),
        begin_ts: START - number,
        nonce: number.wrapping_mul(0xff51_afd7_ed55_8ccd),
        deadline_ms: 1_795_000_000_000,
        branches: ["order", "stock", "payment"].map(branch).into(),
        minted_id: scattered(number + 1_000).into(),
        request_fingerprint: number.wrapping_mul(0xcbf2_9ce4_8422_2325),
        not_after_ms: 1_795_000_030_000,
        ..TxMeta::default()
    };
    // Two items with their incarnations take about as much.
    let hold = [scattered(number), scattered(number + 7)].concat();
    let prepared = Prepared { tx: Some(tx), hold: hold.clone().into(), receipt: hold.into() };
    TxEvent { event: Some(Event::Prepared(prepared)) }
}

/// An item as a batch left it.
fn image(number: u64) -> Image {
    let record = ItemRecord {
        price: 1,
        available: 1_000_000 - number,
        supplied: 1_000_000,
        incarnation: START - 500,
        incarnation_change: 1,
    };
    let id = (number * 7919 % 100_000).to_string();
    Image {
        row: record_key(Kind::Item, id.as_bytes()).into(),
        value: codec::encode(&record).into(),
    }
}

/// The entry of a batch of so many Prepares, each of which takes two items.
fn entry(calls: u64) -> JournalEntry {
    JournalEntry {
        writer: scattered(1).into(),
        run: 3,
        start_ts: START,
        previous_writer: scattered(1).into(),
        previous_run: 2,
        events: (0..calls).map(prepared).collect(),
        images: (0..2 * calls).map(image).collect(),
        ..JournalEntry::default()
    }
}

fn store(runtime: &Runtime) -> MemKv {
    let _within = runtime.enter();
    MemKv::new(Arc::new(TokioClock::default()))
}

fn entries(criterion: &mut Criterion) {
    let runtime = Builder::new_current_thread().enable_time().build().unwrap();
    let space = Space::of(Role::Stock, ShardId(0));
    for calls in [1, 64] {
        let kv = store(&runtime);
        let entry = entry(calls);
        let begin = || runtime.block_on(kv.begin()).unwrap();
        let packed = codec::encode_packed(&entry);
        let mut group = criterion.benchmark_group(format!("an entry of {calls} Prepares"));
        group.throughput(Throughput::Elements(calls));
        group.bench_function("append", |bencher| {
            bencher.iter_batched(
                begin,
                |mut txn| {
                    shard::append(&mut *txn, space, 1, black_box(&entry), None);
                    txn
                },
                BatchSize::SmallInput,
            );
        });
        group.bench_function("decode", |bencher| {
            bencher.iter(|| codec::decode_packed::<JournalEntry>(b"", black_box(&packed)).unwrap());
        });
        group.finish();
    }
}

criterion_group!(benches, entries);
criterion_main!(benches);
