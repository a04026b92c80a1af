//! Tests records that follow the journal, and damaged journals.

use std::{sync::Arc, time::Duration};

use storage::{
    keys::{Kind, Space},
    record::{self, tx_event},
};
use testkit::mem::{Call, Op, Plan};
use tokio::time::timeout;
use types::{Money, Role, ShardId};

use crate::shop::{Shop, add, create, op, request, stock, units};

const SPACE: Space = Space::of(Role::Stock, ShardId(0));

#[tokio::test(start_paused = true)]
async fn a_damaged_journal_stops_its_shard_for_good() {
    let undecodable = tx_event::Decided { tx_id: vec![1].into(), committed: true };
    let undecodable = record::TxEvent { event: Some(tx_event::Event::Decided(undecodable)) };
    let undecodable = record::JournalEntry { events: vec![undecodable], ..Default::default() };
    for entries in [
        vec![(1, undecodable)],
        // Entry 2 is missing.
        vec![(1, record::JournalEntry::default()), (3, record::JournalEntry::default())],
        // The second entry was not appended to the first one.
        vec![(1, record::JournalEntry::default()), (2, record::JournalEntry::default())],
    ] {
        let shop = Shop::new();
        let lane = shop.stocked(1).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        shop.put_entries(entries.clone()).await;
        let before = shop.kv.contents();
        let added = timeout(Duration::from_secs(20), add(&lane, "a", 1, None)).await;
        assert!(added.is_err(), "{added:?} after {entries:?}");
        assert_eq!(shop.kv.contents(), before, "nothing is written after {entries:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn records_are_not_written_into_a_store_that_was_made_anew() {
    for lagging_from_the_start in [true, false] {
        let shop = Shop::new();
        let lane = shop.stocked(1).await;
        if !lagging_from_the_start {
            tokio::time::sleep(Duration::from_secs(2)).await;
            add(&lane, "a", 1, None).await.unwrap();
        }
        shop.make_anew(2).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        let contents = shop.kv.contents();
        let schema = Space::STORE.record(Kind::Schema, b"");
        assert_eq!(contents.keys().collect::<Vec<_>>(), [&schema], "{lagging_from_the_start}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_that_changes_often_is_written_once_for_many_entries() {
    let shop = Shop::new();
    let lane = shop.stocked(0).await;
    let commits = shop.kv.stats().commits;
    for number in 1..=1_000 {
        assert_eq!(add(&lane, "a", 1, None).await, Ok(number));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let pieces = shop.kv.stats().commits - commits - 1_000;
    assert!((5..40).contains(&pieces), "{pieces} pieces in ten seconds");
    tokio::time::sleep(Duration::from_secs(30)).await;
    let entries = shop.kv.contents().range(SPACE.range(Kind::Journal)).count();
    assert!(entries < 8, "{entries} entries are left");
}

#[tokio::test(start_paused = true)]
async fn batches_are_slow_while_records_lag_too_far_behind() {
    let mut shop = Shop::new();
    drop(shop.stocked(1).await);
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The store takes entries, but no records.
    shop.kv = shop.kv.with_faults(Arc::new(|call: &Call<'_>| {
        let is_piece = call.op == Op::Commit && call.key == SPACE.head();
        if is_piece { Plan::unavailable() } else { Plan::PROCEED }
    }));
    let lane = shop.lane(3);
    let fill = |round: u64| {
        let numbers = (round * 1_000..(round + 1) * 1_000).collect();
        stock::records::Op::Init { numbers, stock: units(1), price: Money::ZERO }
    };
    let begun = tokio::time::Instant::now();
    let mut slow_from = None;
    for round in 0..400 {
        op(&lane, fill(round), request(&format!("{round}"), 1)).await.unwrap();
        if begun.elapsed() > Duration::from_secs(2) {
            slow_from.get_or_insert(round);
        }
    }
    let slow_from = slow_from.expect("nothing waits for the records");
    assert!((100..300).contains(&slow_from), "{slow_from}");
    assert!(begun.elapsed() > Duration::from_secs(40), "{:?}", begun.elapsed());
    // Everything that was appended stands.
    create(&lane, "b").await;
    assert_eq!(stock(&shop.lane(4), "7").await, 1);
}
