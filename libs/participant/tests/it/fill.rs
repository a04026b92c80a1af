//! Tests batch_init: every record is written once, however many parts there are.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use participant::{
    fill::{Fill, fill},
    shards::Shards,
};
use stock::records::{Op, Reply, Stock};
use testkit::mem::{Call, Plan};
use tokio::time::timeout;
use types::{ClientCall, ItemId, Money, ShardId};

use crate::shop::{Shop, client_call, units};

const SHARDS: u16 = 4;
const ITEMS: u64 = 1_000;

/// Creates all items of these shards, with three units each.
async fn filled(shards: &Shards<Stock>, of: &[u16], call: &ClientCall) -> u64 {
    let shard_ids = of.iter().map(|shard| ShardId(*shard)).collect();
    let plan = Fill { numbers: 0..ITEMS, shards: shard_ids, call: call.clone() };
    let op = |numbers| Op::Init { numbers, stock: units(3), price: Money::ZERO };
    fill(shards, plan, op).await.unwrap()
}

/// Units of each item that exists.
async fn stock(shards: &Shards<Stock>) -> Vec<u64> {
    let mut found = Vec::new();
    for id in (0..ITEMS).map(ItemId::numbered) {
        let shard = shards.shard_of(id.as_str()).unwrap();
        if let Ok((Reply::Item(item), _)) = shards.execute(shard, Op::Get(id), None).await {
            found.push(item.stock.available.get());
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn every_part_takes_effect_and_each_of_them_once() {
    let shop = Shop::new();
    let shards = shop.shards(SHARDS);
    let call = client_call("fill", "fill");
    assert_eq!(filled(&shards, &[0, 1, 2, 3], &call).await, ITEMS);
    assert_eq!(stock(&shards).await, [3; 1_000]);
    let id = ItemId::numbered(7);
    let shard = shards.shard_of(id.as_str()).unwrap();
    shards.execute(shard, Op::Subtract(id, units(2)), None).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(filled(&shards, &[0, 1, 2, 3], &call).await, ITEMS, "the first answer again");
    let left = stock(&shards).await;
    assert_eq!((left[7], left[8]), (1, 3), "what was written is not overwritten");
}

#[tokio::test(start_paused = true)]
async fn only_the_shards_that_are_named_are_filled() {
    let shop = Shop::new();
    let shards = shop.shards(SHARDS);
    let mut written = 0;
    for of in [&[2][..], &[0, 3]] {
        let call = client_call(&format!("{of:?}"), "fill");
        written += filled(&shards, of, &call).await;
        assert_eq!(u64::try_from(stock(&shards).await.len()), Ok(written));
    }
    assert!((ITEMS / 2..ITEMS).contains(&written), "{written}");
}

/// Creates all items of the only shard, until it is done or a moment has passed. Returns how many
/// records each operation had that was begun.
async fn operations(shop: &Shop) -> Vec<usize> {
    let shards = shop.shards(1);
    let begun = Mutex::new(Vec::new());
    let call = client_call("fill", "fill");
    let plan = Fill { numbers: 0..ITEMS, shards: vec![ShardId(0)], call };
    let filling = fill(&shards, plan, |numbers| {
        begun.lock().unwrap().push(numbers.len());
        Op::Init { numbers, stock: units(3), price: Money::ZERO }
    });
    drop(timeout(Duration::from_millis(100), filling).await);
    begun.into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_operation_has_so_many_records_at_most() {
    let sizes = operations(&Shop::new()).await;
    assert_eq!(sizes.iter().sum::<usize>(), 1_000, "{sizes:?}");
    assert_eq!(sizes.iter().max(), Some(&64), "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn so_many_operations_of_a_shard_are_in_flight_at_most() {
    let mut shop = Shop::new();
    let silent = |_: &Call<'_>| Plan::after(Duration::from_hours(1));
    shop.kv = shop.kv.with_faults(Arc::new(silent));
    assert_eq!(operations(&shop).await.len(), 8);
}
