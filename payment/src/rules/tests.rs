//! How a shard of users answers, and how records are stored.

#![allow(clippy::wildcard_enum_match_arm, reason = "a test that panics has failed")]

use participant::core::Call;
use prost::Message as _;
use proto::payment::v1 as wire;
use testkit::rig::{self, Rig};
use types::AMOUNT_MAX;

use super::*;

/// A shard in which users "u", "0" and "1" do not exist, nor their payments for order "o".
fn shard() -> Rig<Payment> {
    let rows = ["u", "0", "1"].map(user_id).into_iter();
    let rows = rows.flat_map(|id| [user_row(&id), payment_row(&id, &order())]);
    Rig::new(Payment, rows, |reply| match reply {
        Reply::Credit(credit) => credit.to_string(),
        Reply::Paid(paid) => paid.to_string(),
    })
}

fn hold_of(id: &str, amount: u64) -> (UserId, Money) {
    (user_id(id), money(amount))
}

fn get(id: &str) -> Op {
    Op::Get(user_id(id))
}

fn user_id(id: &str) -> UserId {
    UserId::new(id).unwrap()
}

fn order() -> OrderId {
    OrderId::new("o").unwrap()
}

fn money(amount: u64) -> Money {
    Money::new(amount).unwrap()
}

fn create(id: &str) -> Op {
    Op::Create(user_id(id))
}

fn add(id: &str, amount: u64) -> Op {
    Op::Add(user_id(id), money(amount))
}

/// Pays without naming an order.
fn pay(id: &str, amount: u64) -> Op {
    Op::Pay(user_id(id), money(amount), None)
}

fn pay_for(id: &str, amount: u64) -> Op {
    Op::Pay(user_id(id), money(amount), Some(order()))
}

fn cancel(id: &str) -> Op {
    Op::Cancel(user_id(id), order())
}

fn status(id: &str) -> Op {
    Op::Status(user_id(id), order())
}

fn init(numbers: &[u64], credit: u64) -> Op {
    Op::Init { numbers: numbers.to_vec(), credit: money(credit) }
}

#[test]
fn each_operation_does_what_it_says_or_says_why_not() {
    let mut shard = shard();
    let nobody = [Op::Get(user_id("u")), add("u", 1), pay("u", 1), cancel("u"), status("u")];
    for op in nobody {
        assert_eq!(shard.op(op.clone()), "USER_NOT_FOUND user_id=u", "{op:?}");
    }
    for (op, answer) in [
        (create("u"), "0"),
        (create("u"), "REQUEST_ID_REUSED user_id=u"),
        (add("u", 9), "9"),
        (pay("u", 2), "7"),
        (pay("u", 8), "OUT_OF_CREDIT available=7 held=0 user_id=u wanted=8"),
        (add("u", AMOUNT_MAX), "OVERFLOW user_id=u"),
        (Op::Get(user_id("u")), "7"),
        (init(&[0, 1], 5), "0"),
        (Op::Get(user_id("0")), "5"),
        (pay("1", 5), "0"),
        (init(&[1], 2), "0"),
        (Op::Get(user_id("1")), "2"),
        (Op::Get(user_id("0")), "5"),
    ] {
        assert_eq!(shard.op(op.clone()), answer, "{op:?}");
    }
}

#[test]
fn what_was_paid_for_an_order_is_given_back_once() {
    let mut shard = shard();
    shard.op(init(&[0], 9));
    for (op, answer) in [
        (status("0"), "false"),
        (cancel("0"), "NOT_PAID order_id=o user_id=0"),
        (pay_for("0", 4), "5"),
        (status("0"), "true"),
        (pay_for("0", 1), "ALREADY_PAID order_id=o user_id=0"),
        (cancel("0"), "9"),
        (status("0"), "false"),
        (cancel("0"), "NOT_PAID order_id=o user_id=0"),
        (pay_for("0", 3), "6"),
        (status("0"), "true"),
        // From now on the user is a new incarnation, which has paid nothing.
        (init(&[0], 8), "0"),
        (status("0"), "false"),
        (cancel("0"), "NOT_PAID order_id=o user_id=0"),
        (pay_for("0", 8), "0"),
        (add("0", AMOUNT_MAX - 7), "9007199254740984"),
        (cancel("0"), "OVERFLOW order_id=o user_id=0"),
        (status("0"), "true"),
    ] {
        assert_eq!(shard.op(op.clone()), answer, "{op:?}");
    }
}

#[test]
fn what_is_held_is_neither_spent_nor_refused_for_good() {
    let mut shard = shard();
    assert_eq!(shard.prepare(9, hold_of("u", 1)), "no, UNKNOWN_USER");
    shard.op(init(&[0], 9));
    assert_eq!(shard.prepare(2, hold_of("0", 6)), "yes");
    assert_eq!(shard.op(get("0")), "3");
    assert_eq!(shard.op(pay("0", 4)), "waits for 2");
    assert_eq!(shard.op(pay_for("0", 9)), "waits for 2");
    assert_eq!(shard.op(status("0")), "false", "a call that waits has not paid");
    assert_eq!(shard.op(pay("0", 10)), "OUT_OF_CREDIT available=3 held=6 user_id=0 wanted=10");
    assert_eq!(shard.op(add("0", AMOUNT_MAX - 6)), "OVERFLOW user_id=0", "it may come back");
    assert_eq!(shard.prepare(1, hold_of("0", 4)), "waits for 2");
    assert_eq!(shard.prepare(3, hold_of("0", 10)), "no, OUT_OF_CREDIT");
    assert_eq!(shard.abort(2), "aborted");
    assert_eq!(shard.op(get("0")), "9");
    assert_eq!(shard.prepare(4, hold_of("0", 9)), "yes");
    assert_eq!(shard.commit(4), "committed");
    assert_eq!(shard.abort(4), "committed");
    assert_eq!(shard.op(get("0")), "0");
    assert_eq!(
        shard.prepare(5, hold_of("0", 1)),
        "no, OUT_OF_CREDIT",
        "what is spent does not return"
    );
}

#[test]
fn a_hold_of_an_earlier_user_goes_nowhere() {
    let mut shard = shard();
    shard.op(init(&[0], 9));
    assert_eq!(shard.prepare(2, hold_of("0", 6)), "yes");
    shard.op(init(&[0], 4));
    assert_eq!(shard.op(pay("0", 5)), "OUT_OF_CREDIT available=4 held=0 user_id=0 wanted=5");
    assert_eq!(shard.abort(2), "aborted");
    assert_eq!(shard.op(get("0")), "4");
}

#[test]
fn every_row_that_a_call_reads_is_asked_for_first() {
    let core = rig::core(Payment);
    let missing = |op| core.missing_for(&Call::Op { op, call: None, may_wait: false });
    let (user, payment) = (user_row(&user_id("u")), payment_row(&user_id("u"), &order()));
    for op in [create("u"), Op::Get(user_id("u")), add("u", 1), pay("u", 1)] {
        assert_eq!(missing(op), std::slice::from_ref(&user));
    }
    for op in [pay_for("u", 1), cancel("u"), status("u")] {
        assert_eq!(missing(op), [user.clone(), payment.clone()]);
    }
    assert_eq!(missing(init(&[0], 1)), Vec::<Row>::new());
    let payload = (user_id("u"), money(1));
    let prepare = Call::Prepare { meta: shard().meta(1), payload, may_wait: false };
    assert_eq!(core.missing_for(&prepare), std::slice::from_ref(&user));
    assert_eq!(Payment.hold_rows(&hold()), [user]);
}

fn hold() -> HeldCredit {
    HeldCredit { user_id: user_id("u"), amount: money(3), incarnation: Stamp::new(7, 2) }
}

#[test]
fn what_is_stored_is_read_as_it_was() {
    let incarnation = Stamp::new(7, 3);
    let user = Record::User(Balance { available: money(2), supplied: 5, incarnation });
    let payment = Record::Payment(OrderPayment { amount: money(2), paid: true, incarnation });
    let payment_row = payment_row(&user_id("u"), &order());
    for (row, record) in [(user_row(&user_id("u")), user), (payment_row, payment)] {
        assert_eq!(Payment.decode_record(&row, &Payment.encode_record(&record)), Ok(record));
        for damaged in [&b""[..], b"\x63", b"\x01\xff"] {
            assert!(Payment.decode_record(&row, damaged).is_err(), "{damaged:?}");
        }
    }
    assert_eq!(Payment.decode_hold(&Payment.encode_hold(&hold())), Ok(hold()));
    let reply = Reply::Credit(300);
    assert_eq!(Payment.decode_reply(&Payment.encode_reply(&reply)), Ok(reply));
    assert!(Payment.decode_hold(b"\xff").is_err());
    assert!(Payment.decode_reply(b"\xff").is_err());
    let payload = wire::HoldCredit { user_id: "u".to_owned(), amount: 3 }.encode_to_vec();
    assert_eq!(Payment.decode_payload(&payload), Ok((user_id("u"), money(3))));
    assert!(Payment.decode_payload(b"\xff").is_err());
    assert!(Payment.decode_payload(b"").is_err(), "nobody");
}

#[test]
fn the_greatest_records_are_read_as_they_were() {
    let (amount, incarnation) = (money(AMOUNT_MAX), Stamp::new(u64::MAX, u32::MAX));
    let user = Balance { available: amount, supplied: u64::MAX, incarnation };
    let payment = OrderPayment { amount, paid: true, incarnation };
    let payment_row = payment_row(&user_id("u"), &order());
    for (row, record) in
        [(user_row(&user_id("u")), Record::User(user)), (payment_row, Record::Payment(payment))]
    {
        assert_eq!(Payment.decode_record(&row, &Payment.encode_record(&record)), Ok(record));
    }
}

#[test]
fn what_a_call_was_answered_reads_back_under_the_services_name() {
    rig::reads_replies_back(&Payment, Reply::Credit);
}
