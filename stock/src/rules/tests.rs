//! How a shard of stock answers, and how an item is stored.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test that panics has failed")]

use participant::core::Call;
use prost::Message as _;
use proto::stock::v1::{HoldStock, hold_stock};
use testkit::rig::{self, Rig};
use types::AMOUNT_MAX;

use super::*;
use crate::records::LINES_MAX;

/// A shard in which items "a", "b", "0" and "1" do not exist.
fn shard() -> Rig<Stock> {
    let rows = ["a", "b", "0", "1"].map(|id| item_row(&item(id)));
    Rig::new(Stock, rows, |reply| match reply {
        Reply::Stock(units) => units.to_string(),
        Reply::Item(item) => format!("{} at {}", item.stock.available, item.price),
    })
}

fn lines(lines: &[(&str, u64)]) -> Vec<(ItemId, Quantity)> {
    lines.iter().map(|(id, number)| (item(id), units(*number))).collect()
}

fn get(id: &str) -> Op {
    Op::Get(item(id))
}

fn item(id: &str) -> ItemId {
    ItemId::new(id).unwrap()
}

fn units(number: u64) -> Quantity {
    Quantity::new(number).unwrap()
}

fn create(id: &str) -> Op {
    Op::Create(item(id), Money::new(3).unwrap())
}

fn add(id: &str, number: u64) -> Op {
    Op::Add(item(id), units(number))
}

fn subtract(id: &str, number: u64) -> Op {
    Op::Subtract(item(id), units(number))
}

fn init(numbers: &[u64], stock: u64) -> Op {
    Op::Init { numbers: numbers.to_vec(), stock: units(stock), price: Money::new(4).unwrap() }
}

#[test]
fn each_operation_does_what_it_says_or_says_why_not() {
    let mut shard = shard();
    for (op, answer) in [
        (Op::Get(item("a")), "ITEM_NOT_FOUND item_id=a"),
        (add("a", 1), "ITEM_NOT_FOUND item_id=a"),
        (subtract("a", 1), "ITEM_NOT_FOUND item_id=a"),
        (create("a"), "0"),
        (create("a"), "REQUEST_ID_REUSED item_id=a"),
        (add("a", 5), "5"),
        (subtract("a", 2), "3"),
        (subtract("a", 4), "OUT_OF_STOCK available=3 held=0 item_id=a wanted=4"),
        (add("a", AMOUNT_MAX), "OVERFLOW item_id=a"),
        (Op::Get(item("a")), "3 at 3"),
        (init(&[0, 1], 7), "0"),
        (Op::Get(item("0")), "7 at 4"),
        (subtract("1", 7), "0"),
        (init(&[1], 2), "0"),
        (Op::Get(item("1")), "2 at 4"),
        (Op::Get(item("0")), "7 at 4"),
    ] {
        assert_eq!(shard.op(op.clone()), answer, "{op:?}");
    }
}

#[test]
fn a_hold_is_of_all_lines_or_of_none() {
    let mut shard = shard();
    for id in ["a", "b"] {
        shard.op(create(id));
        shard.op(add(id, 5));
    }
    assert_eq!(shard.prepare(2, lines(&[("a", 2), ("b", 4)])), "yes");
    assert_eq!(
        (shard.op(get("a")), shard.op(get("b"))),
        ("3 at 3".to_owned(), "1 at 3".to_owned())
    );
    for (tx, wanted, vote) in [
        (3, [("a", 1), ("b", 6)], "no, OUT_OF_STOCK"),
        (4, [("a", 1), ("c", 1)], "no, UNKNOWN_ITEM"),
        // The older transaction waits for units that may come back.
        (1, [("b", 2), ("a", 1)], "waits for 2"),
        (1, [("a", 1), ("b", 2)], "waits for 2"),
    ] {
        shard.core.load(item_row(&item("c")), None).unwrap();
        assert_eq!(shard.prepare(tx, lines(&wanted)), vote, "{wanted:?}");
        assert_eq!(
            (shard.op(get("a")), shard.op(get("b"))),
            ("3 at 3".to_owned(), "1 at 3".to_owned())
        );
    }
    assert_eq!(shard.op(subtract("b", 2)), "waits for 2");
    assert_eq!(shard.op(subtract("b", 6)), "OUT_OF_STOCK available=1 held=4 item_id=b wanted=6");
    assert_eq!(shard.op(add("b", AMOUNT_MAX - 4)), "OVERFLOW item_id=b", "it may come back");
    assert_eq!(shard.abort(2), "aborted");
    assert_eq!(
        (shard.op(get("a")), shard.op(get("b"))),
        ("5 at 3".to_owned(), "5 at 3".to_owned())
    );
    assert_eq!(shard.prepare(5, lines(&[("a", 5)])), "yes");
    assert_eq!(shard.commit(5), "committed");
    assert_eq!(shard.abort(5), "committed");
    assert_eq!(
        (shard.op(get("a")), shard.op(get("b"))),
        ("0 at 3".to_owned(), "5 at 3".to_owned())
    );
    assert_eq!(
        shard.prepare(6, lines(&[("a", 1)])),
        "no, OUT_OF_STOCK",
        "what is sold does not return"
    );
}

#[test]
fn every_row_that_a_call_reads_is_asked_for_first() {
    let mut core = rig::core(Stock);
    let call = |op| Call::Op { op, call: None, may_wait: false };
    let rows = || vec![item_row(&item("a"))];
    for op in [create("a"), Op::Get(item("a")), add("a", 1), subtract("a", 1)] {
        assert_eq!(core.missing_for(&call(op)), rows());
    }
    assert_eq!(core.missing_for(&call(init(&[0], 1))), Vec::<Row>::new());
    let payload = vec![(item("a"), units(1)), (item("b"), units(1))];
    let prepare =
        Call::Prepare { meta: shard().meta(1), payload: payload.clone(), may_wait: false };
    assert_eq!(core.missing_for(&prepare), [item_row(&item("a")), item_row(&item("b"))]);
    core.load(item_row(&item("a")), None).unwrap();
    assert_eq!(core.missing_for(&prepare), [item_row(&item("b"))]);
    let hold = payload.into_iter().map(|(item_id, quantity)| HeldLine {
        item_id,
        quantity,
        incarnation: Stamp::new(1, 1),
    });
    assert_eq!(Stock.hold_rows(&hold.collect()), [item_row(&item("a")), item_row(&item("b"))]);
}

#[test]
fn what_is_stored_is_read_as_it_was() {
    let stock = Balance { available: units(2), supplied: 5, incarnation: Stamp::new(7, 3) };
    let record = Item { price: Money::new(4).unwrap(), stock };
    assert_eq!(Stock.decode_record(b"", &Stock.encode_record(&record)), Ok(record));
    let line = HeldLine { item_id: item("a"), quantity: units(2), incarnation: Stamp::new(7, 3) };
    let hold = vec![line.clone(), HeldLine { item_id: item("b"), ..line }];
    assert_eq!(Stock.decode_hold(&Stock.encode_hold(&hold)), Ok(hold));
    let reply = Reply::Stock(300);
    assert_eq!(Stock.decode_reply(&Stock.encode_reply(&reply)), Ok(reply));
    for damaged in [&b""[..], b"\x63", b"\x01\xff"] {
        assert!(Stock.decode_record(b"", damaged).is_err(), "{damaged:?}");
    }
    assert!(Stock.decode_hold(b"\xff").is_err());
    assert!(Stock.decode_reply(b"\xff").is_err());
}

#[test]
fn a_plan_names_each_item_once_and_some_units_of_it() {
    let payload = |lines: &[(&str, u64)]| {
        let lines = lines.iter().map(|(id, quantity)| hold_stock::Line {
            item_id: (*id).to_owned(),
            quantity: *quantity,
        });
        Stock.decode_payload(&HoldStock { lines: lines.collect() }.encode_to_vec())
    };
    let both = vec![(item("b"), units(1)), (item("a"), units(2))];
    assert_eq!(payload(&[("b", 1), ("a", 2)]), Ok(both));
    for wrong in [&[][..], &[("a", 0)], &[("", 1)], &[("a", 1), ("b", 1), ("a", 1)]] {
        assert!(payload(wrong).is_err(), "{wrong:?}");
    }
    assert!(Stock.decode_payload(b"\xff").is_err());
    let ids: Vec<String> = (0..=LINES_MAX).map(|number| number.to_string()).collect();
    let lines: Vec<_> = ids.iter().map(|id| (id.as_str(), 1)).collect();
    assert!(payload(&lines[..LINES_MAX]).is_ok());
    assert!(payload(&lines).is_err());
}

#[test]
fn the_greatest_item_is_read_as_it_was() {
    let most = Balance {
        available: units(AMOUNT_MAX),
        supplied: u64::MAX,
        incarnation: Stamp::new(u64::MAX, u32::MAX),
    };
    let item = Item { price: Money::new(AMOUNT_MAX).unwrap(), stock: most };
    assert_eq!(Stock.decode_record(b"", &Stock.encode_record(&item)), Ok(item));
}

#[test]
fn what_a_call_was_answered_reads_back_under_the_services_name() {
    rig::reads_replies_back(&Stock, Reply::Stock);
}
