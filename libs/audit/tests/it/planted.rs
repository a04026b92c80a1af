//! Audits a sound shop, which must be clean, and one with each violation planted, which must be
//! named.

use audit::{Invariant, Options, Report};
use storage::{
    keys::Kind,
    record::{ItemRecord, OrderRecord, UserRecord},
};
use testkit::{MemKv, ORIGIN};
use types::Role;

use crate::shop::{Part, Shop, ago, credit_hold, journal_key, key, record, stock_hold};

/// Options that report everything.
fn options() -> Options {
    Options { page: 2, ..Options::default() }
}

/// Expects these findings and no others, each by its invariant and subject.
#[track_caller]
fn expect(report: &Report, expected: &[(Invariant, &str)]) {
    let mut found: Vec<_> = report
        .offences
        .iter()
        .map(|offence| (offence.invariant, offence.subject.as_str()))
        .collect();
    found.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    let told: Vec<_> = report.offences.iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "{}", told.join("\n"));
}

fn item() -> Vec<u8> {
    key(Role::Stock, Kind::Item, "a")
}

fn user() -> Vec<u8> {
    key(Role::Payment, Kind::User, "u")
}

fn order(id: &str) -> Vec<u8> {
    key(Role::Order, Kind::Order, id)
}

const T2: &str = "transaction 02020202-0202-0202-0202-020202020202";
const T3: &str = "transaction 03030303-0303-0303-0303-030303030303";

#[tokio::test(start_paused = true)]
async fn a_clean_shop_is_found_clean() {
    let shop = Shop::open().await;
    let report = shop.audit(&options()).await;
    expect(&report, &[]);
    assert!(report.is_clean());
    let counts = report.counts;
    assert_eq!((counts.orders, counts.paid, counts.items, counts.users), (4, 2, 1, 1));
    assert_eq!((counts.transactions, counts.unresolved, counts.judged_in_part), (2, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_in_memory_makes_no_difference() {
    let shop = Shop::open().await;
    let tight = Options { memory_bytes: 4, ..options() };
    expect(&shop.audit(&tight).await, &[]);
    shop.edit(item(), |item: &mut ItemRecord| item.available += 1).await;
    expect(&shop.audit(&tight).await, &[(Invariant::Stock, "item a")]);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_follows_behind_is_judged_as_its_journal_shows_it() {
    let shop = Shop::open().await;
    // A unit that is in the record and not in the journal, and the other way round.
    let read = ItemRecord {
        price: 3,
        available: 3,
        supplied: 10,
        incarnation: ago(100_000),
        ..ItemRecord::default()
    };
    let more = ItemRecord { available: 4, ..read };
    shop.show(Role::Stock, Kind::Item, "a", Some(&more)).await;
    expect(&shop.audit(&options()).await, &[(Invariant::Stock, "item a")]);
    shop.edit(item(), |item: &mut ItemRecord| item.available += 1).await;
    shop.show(Role::Stock, Kind::Item, "a", Some(&read)).await;
    expect(&shop.audit(&options()).await, &[]);
    // Users and orders that no record shows yet, read in pages of two.
    for id in ["before", "u0", "zz"] {
        let user = UserRecord { available: 5, supplied: 5, ..UserRecord::default() };
        shop.show(Role::Payment, Kind::User, id, Some(&user)).await;
    }
    let ids: Vec<_> = (0..9).map(|number| format!("new{number}")).collect();
    for id in &ids {
        shop.show(Role::Order, Kind::Order, id, Some(&record(id, 1, None))).await;
    }
    let report = shop.audit(&options()).await;
    expect(&report, &[]);
    assert_eq!((report.counts.users, report.counts.orders), (4, 13));
    assert_eq!(shop.order("new3").await, Some(record("new3", 1, None)));
    // An order that is deleted, although its record still exists.
    shop.show(Role::Order, Kind::Order, "o4", None::<&OrderRecord>).await;
    assert_eq!(shop.order("o4").await, None);
    assert_eq!(shop.audit(&options()).await.counts.orders, 12);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_nobody_has_used_is_clean() {
    let report = audit::run(&MemKv::default(), &options(), &mut |_| {}).await.unwrap();
    assert!(report.is_clean());
}

#[tokio::test(start_paused = true)]
async fn one_unit_or_one_cent_moved_is_named_with_all_that_holds_the_rest() {
    let shop = Shop::open().await;
    shop.edit(item(), |item: &mut ItemRecord| item.available += 1).await;
    let report = shop.audit(&options()).await;
    expect(&report, &[(Invariant::Stock, "item a")]);
    let told = report.offences[0].to_string();
    for part in ["supplied 10", "available 4 + held 2 + sold 5 = 11", "order o1", "transaction 02"]
    {
        assert!(told.contains(part), "{told}");
    }
    shop.edit(item(), |item: &mut ItemRecord| item.available -= 1).await;
    shop.edit(user(), |user: &mut UserRecord| user.supplied -= 1).await;
    expect(&shop.audit(&options()).await, &[(Invariant::Credit, "user u")]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_hold_is_named() {
    let shop = Shop::open().await;
    shop.delete(journal_key(Role::Stock, "a")).await;
    let report = shop.audit(&options()).await;
    let stock = format!("journal of stock/{}", types::shard_of("a", crate::shop::SHARDS));
    expect(&report, &[(Invariant::Stock, "item a"), (Invariant::Readable, &stock)]);
}

#[tokio::test(start_paused = true)]
async fn an_order_paid_twice_is_named() {
    let shop = Shop::open().await;
    let again = Part { order: "o3", number: 9, deadline_ms: ORIGIN.0 + 1_000 };
    let events = vec![again.prepared(b"o3".to_vec()), again.decided(true)];
    shop.journal("order", "o3", events, 200).await;
    expect(&shop.audit(&options()).await, &[(Invariant::PaidOnce, "order o3")]);
}

#[tokio::test(start_paused = true)]
async fn an_order_that_was_overwritten_since_is_not_paid_twice() {
    let shop = Shop::open().await;
    let fresh = OrderRecord {
        incarnation: ago(100),
        last_overwritten_paid_at: ago(100),
        ..record("o3", 1, None)
    };
    shop.put(order("o3"), &fresh).await;
    let report = shop.audit(&options()).await;
    expect(&report, &[]);
    // What the lost order bought can no longer be counted. At payment it is still held.
    assert_eq!(report.counts.judged_in_part, 1);
    // What was bought before the item's incarnation began does not count for it.
    let earlier = OrderRecord { last_overwritten_paid_at: ago(100_000), ..fresh };
    shop.put(order("o3"), &earlier).await;
    expect(&shop.audit(&options()).await, &[(Invariant::Stock, "item a")]);
    shop.put(order("o3"), &OrderRecord { last_overwritten_paid_at: ago(100), ..earlier }).await;
    // Too much is an offence all the same.
    shop.edit(item(), |item: &mut ItemRecord| item.available = 9).await;
    expect(&shop.audit(&options()).await, &[(Invariant::Stock, "item a")]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_payment_is_named() {
    let shop = Shop::open().await;
    shop.edit(order("o3"), |order: &mut OrderRecord| order.paid = None).await;
    let found = [
        (Invariant::Stock, "item a"),
        // At payment it is still held.
        (Invariant::PaidOnce, "order o3"),
    ];
    expect(&shop.audit(&options()).await, &found);
    shop.delete(order("o3")).await;
    expect(&shop.audit(&options()).await, &found);
}

#[tokio::test(start_paused = true)]
async fn one_transaction_that_pays_two_orders_is_named() {
    let shop = Shop::open().await;
    shop.put(order("o5"), &record("o5", 1, Some(1))).await;
    let first = "transaction 01010101-0101-0101-0101-010101010101";
    let found =
        [(Invariant::Stock, "item a"), (Invariant::Credit, "user u"), (Invariant::PaidOnce, first)];
    expect(&shop.audit(&options()).await, &found);
}

#[tokio::test(start_paused = true)]
async fn an_order_whose_lines_receipts_and_cost_disagree_is_named() {
    let shop = Shop::open().await;
    shop.edit(order("o1"), |order: &mut OrderRecord| {
        order.paid.as_mut().unwrap().receipts[1].receipt = stock_hold(2).into();
    })
    .await;
    expect(&shop.audit(&options()).await, &[(Invariant::PaidOnce, "order o1")]);
    shop.put(order("o1"), &record("o1", 1, Some(1))).await;
    shop.edit(order("o4"), |order: &mut OrderRecord| order.total_cost += 1).await;
    expect(&shop.audit(&options()).await, &[(Invariant::PaidOnce, "order o4")]);
    shop.put(order("o4"), &record("o4", 1, None)).await;
    shop.edit(order("o1"), |order: &mut OrderRecord| {
        order.paid.as_mut().unwrap().receipts.truncate(2);
    })
    .await;
    let found = [(Invariant::PaidOnce, "order o1"), (Invariant::Credit, "user u")];
    expect(&shop.audit(&options()).await, &found);
}

#[tokio::test(start_paused = true)]
async fn an_amount_below_zero_is_named() {
    let shop = Shop::open().await;
    shop.edit(user(), |user: &mut UserRecord| user.available = u64::MAX).await;
    expect(&shop.audit(&options()).await, &[(Invariant::Range, "user u")]);
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_aborted_where_another_committed_is_named() {
    let shop = Shop::open().await;
    let third = Part { order: "o3", number: 3, deadline_ms: ORIGIN.0 + 1_000 };
    shop.journal("payment", "u", vec![third.decided(false)], 100).await;
    shop.edit(user(), |user: &mut UserRecord| user.available += 12).await;
    // The order says that the money was spent.
    let found = [(Invariant::OneOutcome, T3), (Invariant::Credit, "user u")];
    expect(&shop.audit(&options()).await, &found);
}

#[tokio::test(start_paused = true)]
async fn a_branch_that_is_final_before_the_primary_is_named() {
    for committed in [true, false] {
        let shop = Shop::open().await;
        let second = Part { order: "o2", number: 2, deadline_ms: ORIGIN.0 + 1_000 };
        shop.journal("payment", "u", vec![second.decided(committed)], 100).await;
        // The money is no longer held, and bought nothing.
        let found = [(Invariant::OneOutcome, T2), (Invariant::Credit, "user u")];
        expect(&shop.audit(&options()).await, &found);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fence_counts_only_when_it_was_written_in_time() {
    let shop = Shop::open().await;
    // Only the order that it paid still knows transaction 1.
    let late = Part { order: "o1", number: 1, deadline_ms: ORIGIN.0 - 5_000 };
    shop.journal("stock", "a", vec![late.fenced()], 100).await;
    expect(&shop.audit(&options()).await, &[]);
    shop.journal("stock", "a", vec![late.fenced()], 6_000).await;
    let first = "transaction 01010101-0101-0101-0101-010101010101";
    expect(&shop.audit(&options()).await, &[(Invariant::OneOutcome, first)]);
}

#[tokio::test(start_paused = true)]
async fn a_hold_that_outlives_its_transaction_is_named() {
    let shop = Shop::open().await;
    tokio::time::advance(std::time::Duration::from_secs(10)).await;
    let patient = Options { grace_ms: 10_000, ..options() };
    expect(&shop.audit(&patient).await, &[]);
    let strict = Options { grace_ms: 8_000, ..options() };
    expect(&shop.audit(&strict).await, &[(Invariant::HoldsEnd, T2), (Invariant::HoldsEnd, T3)]);
}

#[tokio::test(start_paused = true)]
async fn after_quiet_an_unresolved_vote_is_named() {
    let shop = Shop::open().await;
    let quiet = Options { quiet: true, ..options() };
    expect(&shop.audit(&quiet).await, &[(Invariant::Quiet, T2), (Invariant::Quiet, T3)]);
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_from_nowhere_is_named() {
    let shop = Shop::open().await;
    shop.delete(item()).await;
    shop.delete(user()).await;
    let found = [(Invariant::Stock, "item a"), (Invariant::Credit, "user u")];
    expect(&shop.audit(&options()).await, &found);
}

#[tokio::test(start_paused = true)]
async fn what_was_taken_from_an_earlier_incarnation_is_over() {
    let shop = Shop::open().await;
    let fresh = |amount| (amount, ago(50));
    shop.edit(item(), |item: &mut ItemRecord| {
        (item.available, item.incarnation) = fresh(7);
        item.supplied = 7;
    })
    .await;
    expect(&shop.audit(&options()).await, &[]);
}

#[tokio::test(start_paused = true)]
async fn a_damaged_record_is_named_and_the_rest_is_judged() {
    let shop = Shop::open().await;
    shop.put(order("o4"), &record("o4", 1, None)).await;
    shop.edit(user(), |user: &mut UserRecord| user.available += 1).await;
    // The value is not an item's record at all.
    let nonsense = UserRecord { available: 1, ..UserRecord::default() };
    shop.put(key(Role::Order, Kind::Order, "o4"), &nonsense).await;
    let report = shop.audit(&options()).await;
    let readable = report.by_invariant.get(&Invariant::Readable);
    assert_eq!(readable, Some(&1));
    assert!(report.offences.iter().any(|offence| offence.subject == "user u"));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_offences_are_kept_and_all_are_counted() {
    let shop = Shop::open().await;
    let third = Part { order: "o3", number: 3, deadline_ms: ORIGIN.0 + 1_000 };
    shop.journal("payment", "u", vec![third.prepared(credit_hold(12))], 100).await;
    let quiet = Options { quiet: true, offences_max: 1, ..options() };
    let report = shop.audit(&quiet).await;
    assert_eq!(report.offences.len(), 1);
    assert_eq!(report.by_invariant.get(&Invariant::Quiet), Some(&2));
}
