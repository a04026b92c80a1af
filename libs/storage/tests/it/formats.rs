//! Checks that everything any release has stored stays readable. Each release has one sample of
//! each record, in bytes. `UPDATE_GOLDEN=1` writes those of this release only.

use std::{collections::BTreeMap, fmt::Write as _, fs};

use proptest::prelude::*;
use prost::Message;
use storage::{
    KvError, codec,
    keys::{Kind, Space},
    record as r,
};
use types::{Role, ShardId};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/stored");
/// The release of these sources.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

fn branch(service: &str, shard: u32) -> r::Branch {
    r::Branch { service: service.to_owned(), shard }
}

fn tx() -> r::TxMeta {
    r::TxMeta {
        tx_id: vec![7; 16].into(),
        begin_ts: 470_614_102_246_162_433,
        nonce: 42,
        deadline_ms: 1_795_000_000_000,
        branches: vec![branch("order", 1), branch("stock", 2)],
        request_id: "a-request".to_owned(),
        request_fingerprint: 0xcbf2_9ce4_8422_2325,
        not_after_ms: 1_795_000_030_000,
        call_id: "~0af7651916cd43dd8448eb211c80319c".to_owned(),
        call_began_ts: 470_614_102_246_162_426,
        minted_id: vec![0x5a; 16].into(),
    }
}

fn entry() -> r::JournalEntry {
    use r::tx_event::{Acknowledged, Carried, Decided, Event, Fenced, Prepared};
    let bytes = |text: &str| text.as_bytes().to_vec().into();
    let events = [
        Event::Prepared(Prepared { tx: Some(tx()), hold: bytes("hold"), receipt: bytes("got") }),
        Event::Fenced(Fenced { tx: Some(tx()), vote: bytes("no") }),
        Event::Decided(Decided { tx_id: vec![7; 16].into(), committed: true }),
        Event::Acknowledged(Acknowledged { tx_id: vec![7; 16].into() }),
        Event::Carried(Carried {
            tx: Some(tx()),
            state: 2,
            hold: bytes("hold"),
            vote: bytes("yes"),
            acknowledged: true,
            gave_back: true,
        }),
    ];
    r::JournalEntry {
        writer: vec![9; 16].into(),
        run: 3,
        events: events.into_iter().map(|event| r::TxEvent { event: Some(event) }).collect(),
        requests: vec![r::RequestAnswer {
            request_id: "a-request".to_owned(),
            minted_id: vec![0x5a; 16].into(),
            call: u64::MAX,
            reply: bytes("reply"),
            keep_until_ms: 1_795_000_600_000,
            outcome: r::request_answer::Outcome::RefusedUntil.into(),
            told_ts: 470_614_102_250_356_737,
        }],
        changed: vec![bytes("i1")],
        start_ts: 470_614_102_250_356_737,
        images: vec![
            r::Image { row: bytes("i1"), value: bytes("value") },
            r::Image { row: bytes("i2"), value: bytes("") },
        ],
        previous_writer: vec![8; 16].into(),
        previous_run: 2,
    }
}

fn order() -> r::OrderRecord {
    let line = |item: &str, quantity| r::order_record::Line {
        item_id: item.to_owned(),
        quantity,
        price: 5,
    };
    r::OrderRecord {
        user_id: "7".to_owned(),
        lines: vec![line("8", 1), line("4", 300)],
        total_cost: 1_505,
        version: 470_614_102_246_162_433,
        version_change: 17,
        paid: Some(r::order_record::Paid {
            sold_version: 470_614_102_246_162_425,
            sold_change: 3,
            tx_id: vec![7; 16].into(),
            receipts: vec![r::order_record::Receipt {
                branch: Some(branch("stock", 2)),
                receipt: b"got".to_vec().into(),
            }],
        }),
        incarnation: 470_614_102_246_162_400,
        incarnation_change: 1,
        last_overwritten_paid_at: 470_614_102_246_162_300,
    }
}

fn log() -> r::TransactionLog {
    r::TransactionLog {
        tx: Some(tx()),
        order_id: "0".to_owned(),
        attempt: 2,
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
        began_ms: 1_794_999_998_000,
        ended_ms: 1_794_999_998_500,
        outcome: "COMMITTED".to_owned(),
        reasons: vec!["slow".to_owned()],
        steps: vec![r::transaction_log::Step {
            after_ms: 5,
            what: "waits".to_owned(),
            blocked_by: vec![8; 16].into(),
            seat: 1,
        }],
        steps_left_out: 1,
    }
}

/// Decodes a value, and returns whether it encodes to the same bytes again, so that nothing was
/// lost.
type Reads = fn(&[u8], &[u8]) -> Result<bool, KvError>;

fn reads<M: Message + Default>(key: &[u8], value: &[u8]) -> Result<bool, KvError> {
    let (format, message): (u8, M) = codec::decode_any(key, value, codec::FORMAT_3)?;
    Ok(codec::encode_as(format, &message) == value)
}

/// Name, key and value of each sample, and its check.
fn samples() -> Vec<(&'static str, Vec<u8>, Vec<u8>, Reads)> {
    let space = |owner| Space::of(owner, ShardId(258));
    let store = Space::STORE;
    let claims = Space::of(Role::Coordinator, ShardId(0));
    let item = r::ItemRecord {
        price: 5,
        available: 99,
        supplied: 100,
        incarnation: 47,
        incarnation_change: 2,
    };
    let user =
        r::UserRecord { available: 990, supplied: 1_000, incarnation: 48, incarnation_change: 1 };
    let payment =
        r::PaymentRecord { amount: 10, paid: true, incarnation: 48, incarnation_change: 1 };
    let run = r::head::Run { writer: vec![9; 16].into(), run: 3 };
    let head = r::Head { flushed: 12, part: 3, oldest: 4, runs: vec![run] };
    let schema = r::Schema { version: 3, shards: 16, created_ts: 470_614_102_246_162_433 };
    let claim = r::RequestClaim {
        call: "POST /stock/add/1/1".to_owned(),
        keep_until_ms: 1_795_000_600_000,
    };
    let answer = r::RequestAnswer {
        call: 7,
        reply: vec![8, 9].into(),
        keep_until_ms: 1_795_000_600_000,
        ..Default::default()
    };
    let lease = r::Lease { holder: vec![1; 16].into(), until_ms: 1_795_000_000_000 };
    let reader = r::Reader { at: 470_614_102_246_162_433, until_ms: 1_795_000_000_000 };
    macro_rules! sample {
        ($name:literal, $key:expr, $message:expr, $kind:ty) => {
            ($name, $key.to_vec(), codec::encode(&$message).to_vec(), reads::<$kind> as Reads)
        };
    }
    let journal = space(Role::Order).record(Kind::Journal, &12_u64.to_be_bytes());
    vec![
        sample!("schema", store.record(Kind::Schema, b""), schema, r::Schema),
        sample!("lease", store.record(Kind::Lease, b"janitor"), lease, r::Lease),
        sample!("reader", store.record(Kind::Lease, b"reader/audit"), reader, r::Reader),
        (
            "head",
            space(Role::Stock).head(),
            codec::encode_as(codec::FORMAT_3, &head),
            reads::<r::Head>,
        ),
        sample!("journal", journal, entry(), r::JournalEntry),
        sample!("item", space(Role::Stock).record(Kind::Item, b"1"), item, r::ItemRecord),
        sample!("user", space(Role::Payment).record(Kind::User, b"1"), user, r::UserRecord),
        sample!(
            "payment",
            space(Role::Payment).record(Kind::Payment, b"1/2"),
            payment,
            r::PaymentRecord
        ),
        sample!(
            "answer",
            space(Role::Stock).record(Kind::Answer, b"a-key"),
            answer,
            r::RequestAnswer
        ),
        sample!("order", space(Role::Order).record(Kind::Order, b"0"), order(), r::OrderRecord),
        sample!("claim", claims.record(Kind::RequestClaim, b"a-key"), claim, r::RequestClaim),
        sample!(
            "log",
            space(Role::Coordinator).record(Kind::TransactionLog, &[7; 16]),
            log(),
            r::TransactionLog
        ),
    ]
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<char> = text.chars().collect();
    let byte = |pair: &[char]| u8::from_str_radix(&String::from_iter(pair), 16).unwrap();
    digits.chunks(2).map(byte).collect()
}

#[test]
fn what_this_release_stores_is_as_it_was_written_down() {
    let mut now = String::new();
    for (name, key, value, _) in samples() {
        writeln!(now, "{name} {} {}", codec::hex(&key), codec::hex(&value)).unwrap();
    }
    let path = format!("{FOLDER}/{RELEASE}.txt");
    if std::env::vars_os().any(|(name, _)| name == "UPDATE_GOLDEN") {
        fs::create_dir_all(FOLDER).unwrap();
        fs::write(&path, &now).unwrap();
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), now, "a new release? then UPDATE_GOLDEN=1");
}

#[test]
fn what_every_release_has_stored_is_read_whole() {
    let samples: BTreeMap<_, _> =
        samples().into_iter().map(|(name, key, _, reads)| (name, (key, reads))).collect();
    let mut releases = 0;
    for file in fs::read_dir(FOLDER).unwrap() {
        let file = file.unwrap().path();
        releases += 1;
        for line in fs::read_to_string(&file).unwrap().lines() {
            let parts: Vec<&str> = line.split(' ').collect();
            let [name, key, value] = parts[..] else { panic!("{line}") };
            let (now, reads) = &samples[name];
            let (key, value) = (unhex(key), unhex(value));
            assert_eq!(key, *now, "{name} of {} lies elsewhere now", file.display());
            assert_eq!(reads(&key, &value), Ok(true), "{name} of {}", file.display());
        }
    }
    assert!(releases > 0);
}

proptest! {
    #[test]
    fn bytes_at_random_are_read_or_refused(
        format in prop_oneof![codec::FORMAT_1..=codec::FORMAT_3, any::<u8>()],
        body in prop::collection::vec(any::<u8>(), 0..300),
        which in 0..11_usize,
    ) {
        let mut value = vec![format];
        value.extend(body);
        let (name, key, _, reads) = samples().swap_remove(which);
        let read = reads(&key, &value);
        let known = (codec::FORMAT_1..=codec::FORMAT_3).contains(&format);
        prop_assert!(known || read.is_err(), "{name} of format {format}");
        let corrupt = matches!(&read, Ok(_) | Err(KvError::Corrupt { .. }));
        prop_assert!(corrupt, "{name}: {read:?}");
    }

    #[test]
    fn damaged_records_are_read_or_refused(
        which in 0..11_usize,
        at in any::<prop::sample::Index>(),
        to in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let (name, key, mut value, reads) = samples().swap_remove(which);
        let at = at.index(value.len());
        value[at] = to;
        value.truncate(cut.index(value.len()) + 1);
        let read = reads(&key, &value);
        let corrupt = matches!(&read, Ok(_) | Err(KvError::Corrupt { .. }));
        prop_assert!(corrupt, "{name}: {read:?}");
    }
}
