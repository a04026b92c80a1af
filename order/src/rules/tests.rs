//! How an order's shard handles the operations and votes of one order, and how an order is stored.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test that panics has failed")]

use participant::{
    core::{Answer, Call, Core},
    records::Records as _,
};
use prost::Message as _;
use proto::order::v1 as wire;
use testkit::rig::{self, batch};
use types::{Branch, Priority, Service, ShardId, TxMeta, UnixMillis, Vote};

use super::*;

#[test]
fn the_greatest_order_is_read_as_it_was() {
    let long = "x".repeat(100);
    let line = Line {
        item_id: ItemId::new(&long).unwrap(),
        quantity: Quantity::new(types::AMOUNT_MAX).unwrap(),
        price: Money::new(types::AMOUNT_MAX).unwrap(),
    };
    let branch = Branch { service: Service::new(&"s".repeat(32)).unwrap(), shard: ShardId(4_095) };
    let receipt = Receipt { branch, receipt: vec![7; 300] };
    for count in [0, 1, 100] {
        let order = Order {
            user_id: UserId::new(&long).unwrap(),
            lines: vec![line.clone(); count],
            total_cost: Money::new(types::AMOUNT_MAX).unwrap(),
            stamp: Stamp::new(u64::MAX, u32::MAX),
            paid: Some(Paid {
                tx_id: TxId([7; 16]),
                receipts: vec![receipt.clone(); count],
                sold: Some(Stamp::new(u64::MAX, u32::MAX)),
            }),
            incarnation: Stamp::new(u64::MAX, u32::MAX),
            last_overwritten_paid_at: Timestamp(u64::MAX),
        };
        let read = Orders.decode_record(b"", &Orders.encode_record(&order));
        assert_eq!(read, Ok(order));
    }
}

#[test]
fn a_hold_is_read_as_it_was_written() {
    for id in ["o", "7", "00000000-0000-0000-0000-000000000001"] {
        let id = OrderId::new(id).unwrap();
        assert_eq!(Orders.decode_hold(&Orders.encode_hold(&id)), Ok(id));
    }
}

/// A shard in which orders "o", "6" and "7" do not exist.
fn core() -> Core<Orders> {
    let mut core = rig::core(Orders);
    for id in ["o", "6", "7"] {
        core.load(order_row(&OrderId::new(id).unwrap()), None).unwrap();
    }
    core
}

/// Executes one operation in a batch of its own. An operation that waits is reported as waiting and
/// dropped.
fn one(core: &mut Core<Orders>, at_ms: u64, op: Op) -> Answer<Reply> {
    batch(core, at_ms, &[call(op)]).remove(0)
}

fn call(op: Op) -> Call<Orders> {
    Call::Op { op, call: None, may_wait: false }
}

/// A transaction on this order alone.
fn meta() -> TxMeta {
    TxMeta {
        tx_id: TxId([1; 16]),
        priority: Priority { begin_ts: 1, nonce: 0 },
        deadline: UnixMillis(u64::MAX),
        branches: [core().branch().clone()].into(),
        call: None,
    }
}

/// Votes on selling the order as it was read.
fn vote(core: &mut Core<Orders>, at_ms: u64, read: &Order, id: &OrderId) -> Vote {
    let payload = Lock { order_id: id.clone(), stamp: read.stamp };
    let call = Call::Prepare { meta: meta(), payload, may_wait: false };
    let answer = batch(core, at_ms, &[call]).remove(0);
    let Answer::Vote(vote) = answer else { panic!("{answer:?}") };
    vote
}

fn read(core: &mut Core<Orders>, at_ms: u64, id: &OrderId) -> Order {
    let answer = one(core, at_ms, Op::Get(id.clone()));
    let Answer::Done(Reply::Order(order), _) = answer else { panic!("{answer:?}") };
    *order
}

fn add(id: &OrderId, item: &str) -> Op {
    let (item, price) = (ItemId::new(item).unwrap(), Money::new(1).unwrap());
    Op::Add(id.clone(), item, Quantity::new(1).unwrap(), price)
}

const DRAW: Draw = Draw { seed: 1, item_count: 1, user_count: 1, item_price: Money::ZERO };

/// Every operation that order "7" allows once it exists.
fn each_op() -> Vec<Op> {
    let id = OrderId::numbered(7);
    let init = Op::Init { numbers: vec![6, 7], draw: DRAW };
    let take_off = Op::RemoveItem(id.clone(), ItemId::numbered(0));
    vec![Op::Get(id.clone()), add(&id, "x"), take_off, init, Op::Remove(id)]
}

#[test]
fn what_is_read_between_two_changes_of_one_batch_is_not_sold_after_the_second() {
    let (id, user) = (OrderId::new("o").unwrap(), UserId::new("u").unwrap());
    let numbered = OrderId::numbered(7);
    let add = |item: &str| add(&id, item);
    let init = || Op::Init { numbers: vec![7], draw: DRAW };
    let create = |id: &OrderId| Op::Create(id.clone(), user.clone());
    for (id, before, between) in [
        (&id, vec![create(&id), add("x")], vec![add("y")]),
        (
            &id,
            vec![create(&id), add("x")],
            vec![Op::RemoveItem(id.clone(), ItemId::new("x").unwrap())],
        ),
        (&id, vec![create(&id)], vec![Op::Remove(id.clone()), create(&id)]),
        (&numbered, vec![init()], vec![init()]),
        (&numbered, vec![init()], vec![Op::Remove(numbered.clone()), init()]),
        (&id, vec![create(&id), add("x")], Vec::new()),
    ] {
        let mut core = core();
        let (at, changes) = (before.len(), !between.is_empty());
        let ops = [before, vec![Op::Get(id.clone())], between].concat();
        let calls: Vec<_> = ops.into_iter().map(call).collect();
        let answers = batch(&mut core, 0, &calls);
        let Answer::Done(Reply::Order(read), _) = &answers[at] else { panic!("{answers:?}") };
        let vote = vote(&mut core, 10, read, id);
        let is_sold = matches!(vote, Vote::Yes { .. });
        assert_eq!(is_sold, !changes, "read {read:?}, then {vote:?}");
    }
}

#[test]
fn a_locked_order_is_not_read_changed_removed_or_overwritten() {
    let id = OrderId::numbered(7);
    for commits in [false, true] {
        let mut core = core();
        one(&mut core, 0, Op::Init { numbers: vec![7], draw: DRAW });
        let before = read(&mut core, 10, &id);
        assert!(matches!(vote(&mut core, 20, &before, &id), Vote::Yes { .. }));
        for op in each_op() {
            let answer = one(&mut core, 30, op.clone());
            let Answer::Waiting(blocker) = answer else { panic!("{op:?}: {answer:?}") };
            assert_eq!(blocker.tx_id, meta().tx_id);
        }
        let rival = Priority { begin_ts: 2, nonce: 0 };
        let rival = TxMeta { tx_id: TxId([3; 16]), priority: rival, ..meta() };
        let payload = Lock { order_id: id.clone(), stamp: before.stamp };
        let rival = Call::Prepare { meta: rival, payload, may_wait: false };
        let answer = batch(&mut core, 35, &[rival]).remove(0);
        assert!(matches!(answer, Answer::Vote(Vote::Contended { .. })), "{answer:?}");
        let end = if commits {
            Call::Commit { meta: meta(), receipts: Vec::new() }
        } else {
            Call::Abort { meta: meta(), evidence: true, refusal: None }
        };
        batch(&mut core, 40, &[end]);
        let stands = read(&mut core, 50, &id);
        assert_eq!(stands.paid.is_some(), commits);
        assert_eq!((&stands.lines, stands.total_cost), (&before.lines, before.total_cost));
        if !commits {
            assert_eq!(stands, before, "nothing was written");
        }
        for (at_ms, op) in (60..).zip(each_op()) {
            let is_refused = commits && matches!(op, Op::Add(..) | Op::RemoveItem(..));
            match one(&mut core, at_ms, op.clone()) {
                Answer::Refused(refusal) if is_refused => {
                    assert_eq!(refusal.reason, Reason::AlreadyPaid);
                }
                Answer::Done(..) if !is_refused => {}
                other => panic!("{op:?}: {other:?}"),
            }
        }
        let gone = one(&mut core, 70, Op::Get(id.clone()));
        assert!(matches!(gone, Answer::Refused(_)), "it was overwritten, then removed: {gone:?}");
    }
}

#[test]
fn a_paid_order_is_neither_removed_nor_sold_again_and_remembers_what_was_sold() {
    let id = OrderId::numbered(7);
    let mut core = core();
    one(&mut core, 0, Op::Init { numbers: vec![7], draw: DRAW });
    let before = read(&mut core, 10, &id);
    vote(&mut core, 20, &before, &id);
    let receipt = Receipt { branch: core.branch().clone(), receipt: vec![1, 2] };
    let receipts = vec![receipt.clone()];
    batch(&mut core, 30, &[Call::Commit { meta: meta(), receipts }]);
    let after = read(&mut core, 40, &id);
    let paid = after.paid.clone().unwrap();
    assert_eq!((paid.tx_id, paid.receipts), (meta().tx_id, vec![receipt]));
    assert_eq!(paid.sold, Some(before.stamp));
    assert_ne!(after.stamp, before.stamp);
    let removed = one(&mut core, 50, Op::Remove(id.clone()));
    let Answer::Refused(refusal) = removed else { panic!("{removed:?}") };
    assert_eq!(refusal.reason, Reason::AlreadyPaid);
    let again = TxMeta { tx_id: TxId([2; 16]), ..meta() };
    let payload = Lock { order_id: id.clone(), stamp: after.stamp };
    let again = Call::Prepare { meta: again, payload, may_wait: false };
    let answer = batch(&mut core, 60, &[again]).remove(0);
    let Answer::Vote(Vote::No { reason, .. }) = answer else { panic!("{answer:?}") };
    assert_eq!(reason, "ALREADY_PAID");
    one(&mut core, 70, Op::Init { numbers: vec![7], draw: DRAW });
    let fresh = read(&mut core, 80, &id);
    assert_eq!((fresh.paid, fresh.last_overwritten_paid_at), (None, after.stamp.start));
}

#[test]
fn what_a_call_was_answered_reads_back_under_the_services_name() {
    rig::reads_replies_back(&Orders, Reply::TotalCost);
}

#[test]
fn an_order_is_read_along_with_its_token_and_the_time_of_the_read() {
    let id = OrderId::numbered(7);
    let mut core = core();
    one(&mut core, 0, Op::Init { numbers: vec![7], draw: DRAW });
    let query = wire::GetOrderRequest { order_id: id.to_string() }.encode_to_vec();
    let query = Orders.decode_query(&query).unwrap();
    let order = read(&mut core, 10, &id);
    let answer = Orders.encode_answer(&query, &Reply::Order(Box::new(order.clone())), Timestamp(9));
    let answer = wire::GetOrderResponse::decode(answer.as_slice()).unwrap();
    assert_eq!(answer, wire::GetOrderResponse { order: Some(order.to_wire(&id)), read_ts: 9 });
    assert_eq!(answer.order.map(|order| order.order_id), Some("7".to_owned()));
}

#[test]
fn every_order_has_a_row_of_its_own() {
    let rows = ["7", "6", "70"].map(|id| order_row(&OrderId::new(id).unwrap()));
    assert_eq!(rows.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
}

/// The content of an order after each change.
mod content {
    use super::*;

    fn money(amount: u64) -> Money {
        Money::new(amount).unwrap()
    }

    fn units(number: u64) -> Quantity {
        Quantity::new(number).unwrap()
    }

    const fn at(start: u64) -> Stamp {
        Stamp::new(start, 1)
    }

    fn order() -> Order {
        Order::empty(UserId::numbered(1), at(1))
    }

    #[test]
    fn one_unit_leaves_at_the_price_of_the_latest_addition() {
        let item = ItemId::numbered(7);
        let mut order = order();
        order.add(&item, units(2), money(10), at(2)).unwrap();
        order.add(&item, units(1), money(15), at(3)).unwrap();
        assert_eq!((order.total_cost, order.lines.len()), (money(35), 2));
        order.remove(&item, at(4)).unwrap();
        assert_eq!((order.total_cost, order.lines.len()), (money(20), 1));
        order.remove(&item, at(5)).unwrap();
        order.remove(&item, at(6)).unwrap();
        assert_eq!((order.total_cost, order.lines.len()), (money(0), 0));
        assert_eq!(order.remove(&item, at(7)), Err(Reason::NotInOrder));
        assert_eq!(order.stamp, at(6), "a refused change is no change");
    }

    #[test]
    fn an_order_over_a_paid_one_remembers_when_that_was_paid() {
        let mut paid = order();
        paid.pay(TxId([1; 16]), Vec::new(), at(2));
        let second = Order::empty(UserId::numbered(1), at(3)).instead_of(&paid);
        let third = Order::empty(UserId::numbered(1), at(4)).instead_of(&second);
        let paid_at = |order: &Order| order.last_overwritten_paid_at.0;
        assert_eq!((paid_at(&second), paid_at(&third)), (2, 2));
        let never = Order::empty(UserId::numbered(1), at(4)).instead_of(&order());
        assert_eq!(paid_at(&never), 0);
    }

    #[test]
    fn a_paid_order_stays_as_it_is() {
        let mut order = order();
        order.pay(TxId([1; 16]), Vec::new(), at(2));
        let before = order.clone();
        let item = ItemId::numbered(1);
        assert_eq!(order.add(&item, units(1), money(1), at(3)), Err(Reason::AlreadyPaid));
        assert_eq!(order.remove(&item, at(3)), Err(Reason::AlreadyPaid));
        assert_eq!(order, before);
    }

    #[test]
    fn sums_that_grow_too_large_are_refused() {
        let mut order = order();
        let item = ItemId::numbered(1);
        assert_eq!(
            order.add(&item, units(types::AMOUNT_MAX), money(2), at(2)),
            Err(Reason::Overflow)
        );
        order.add(&item, units(types::AMOUNT_MAX), money(0), at(2)).unwrap();
        assert_eq!(order.add(&item, units(1), money(1), at(3)), Err(Reason::Overflow));
        for number in 2..=256 {
            order.add(&ItemId::numbered(number), units(1), money(1), at(3)).unwrap();
        }
        let one_more = order.add(&ItemId::numbered(999), units(1), money(1), at(4));
        assert_eq!(one_more, Err(Reason::OrderTooLarge));
    }

    #[test]
    fn drawn_orders_have_two_items_and_twice_the_price() {
        let draw = Draw { seed: 9, item_count: 3, user_count: 5, item_price: money(4) };
        let mut users = std::collections::BTreeSet::new();
        for number in 0..200 {
            let order = draw.order(number, at(1)).unwrap();
            assert_eq!(order.total_cost, money(8));
            let quantity: u64 = order.lines.iter().map(|line| line.quantity.get()).sum();
            assert_eq!(quantity, 2);
            assert!(
                order.lines.iter().all(|line| ["0", "1", "2"].contains(&line.item_id.as_str()))
            );
            users.insert(order.user_id);
        }
        assert_eq!(users.len(), 5);
    }
}
