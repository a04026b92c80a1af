//! Tests a shard's core batch by batch, without a lane or a store: what is trimmed, noted, undone
//! and woken.

use std::{cell::Cell, collections::BTreeMap, slice::from_ref, sync::Arc};

use journal::{Author, TRIM_AGE_MS};
use participant::core::{Answer, Call, Core, Limits, Offered};
use prost::Message as _;
use stock::records::{Op, Reply, Stock};
use storage::{record::JournalEntry, shard::Found};
use testkit::{ORIGIN, branch, rig::Written};
use types::{ClientCall, Money, Timestamp, TxId, TxMeta, UnixMillis, Vote};

use crate::shop::{client_call, item, said, units};

mod waiting;

/// A shard in place of a store, and a number for each call.
#[derive(Default)]
struct Store {
    written: Written,
    calls: Cell<u64>,
}

impl Store {
    /// A replica that has read everything.
    fn replica(&self) -> Core<Stock> {
        self.replica_within(Limits::default())
    }

    fn replica_within(&self, limits: Limits) -> Core<Stock> {
        let mut core = Core::new(Arc::new(Stock), branch("stock"), limits);
        self.written.catch_up(&mut core);
        core
    }

    /// Offers calls to one batch. Returns its answers, in a word each.
    fn offer(&self, core: &mut Core<Stock>, at_ms: u64, calls: &[Call<Stock>]) -> Vec<String> {
        for (row, value) in &self.written.records {
            core.load(row.clone(), Some(value)).unwrap();
        }
        core.begin(Timestamp::from_physical(at(at_ms)));
        assert_eq!(core.recheck_waiters(), Offered::Taken);
        for call in calls {
            let id = self.calls.replace(self.calls.get() + 1);
            for row in core.missing_for(call) {
                core.load(row, None).unwrap();
            }
            assert_eq!(core.offer(id, call), Offered::Taken);
        }
        core.take_answers().iter().map(|(_, answer)| word(answer)).collect()
    }

    /// Offers calls, makes their batch durable, and writes a checkpoint.
    fn write(&mut self, core: &mut Core<Stock>, at_ms: u64, calls: &[Call<Stock>]) -> Vec<String> {
        let answers = self.append(core, at_ms, calls);
        self.checkpoint(core, at_ms);
        answers
    }

    /// Offers calls and makes their batch durable.
    fn append(&mut self, core: &mut Core<Stock>, at_ms: u64, calls: &[Call<Stock>]) -> Vec<String> {
        let answers = self.offer(core, at_ms, calls);
        self.written.append(core);
        answers
    }

    /// Writes all pieces of a checkpoint. Returns how many there were.
    fn checkpoint(&mut self, core: &mut Core<Stock>, at_ms: u64) -> usize {
        let pieces = self.written.checkpoint(core, Timestamp::from_physical(at(at_ms)), 100);
        self.written.entries.retain(|seq, _| *seq >= self.written.head.oldest);
        pieces
    }

    /// Numbers of the journal entries that are not trimmed.
    fn entries(&self) -> Vec<u64> {
        self.written.entries.keys().copied().collect()
    }
}

/// A store in which item "0" has `number` units, and a replica.
fn stocked(number: u64) -> (Store, Core<Stock>) {
    let mut store = Store::default();
    let mut core = store.replica();
    store.write(&mut core, 0, &[init(number)]);
    (store, core)
}

fn at(at_ms: u64) -> UnixMillis {
    ORIGIN.plus_ms(at_ms)
}

fn op(op: Op) -> Call<Stock> {
    Call::Op { op, call: None, may_wait: true }
}

fn init(number: u64) -> Call<Stock> {
    op(Op::Init { numbers: vec![0], stock: units(number), price: Money::ZERO })
}

fn add() -> Call<Stock> {
    op(Op::Add(item("0"), units(1)))
}

/// A transaction of an order and this shard. Lower numbers are older.
fn tx(number: u8) -> TxMeta {
    testkit::tx(number, at(2_000), [branch("order"), branch("stock")])
}

/// A transaction for this call, with this shard as its primary.
fn attempt(number: u8, call: &ClientCall) -> TxMeta {
    let branches = [branch("stock"), branch("other")].into();
    TxMeta { branches, call: Some(call.clone()), ..tx(number) }
}

/// Asks for one unit of item "0".
fn prepare(meta: &TxMeta) -> Call<Stock> {
    prepare_units(meta, 1)
}

/// Adds one unit to item "0" under this call.
fn add_once(call: ClientCall) -> Call<Stock> {
    Call::Op { op: Op::Add(item("0"), units(1)), call: Some(call), may_wait: true }
}

/// Aborts a transaction because another branch refused it.
fn refuse(meta: TxMeta) -> Call<Stock> {
    let no = Vote::No { reason: "OUT_OF_CREDIT".to_owned(), metadata: BTreeMap::new() };
    Call::Abort { meta, evidence: true, refusal: Some(no) }
}

fn prepare_units(meta: &TxMeta, number: u64) -> Call<Stock> {
    Call::Prepare { meta: meta.clone(), payload: vec![(item("0"), units(number))], may_wait: true }
}

fn commit(meta: &TxMeta) -> Call<Stock> {
    Call::Commit { meta: meta.clone(), receipts: Vec::new() }
}

fn abort(meta: &TxMeta) -> Call<Stock> {
    Call::Abort { meta: meta.clone(), evidence: true, refusal: None }
}

fn word(answer: &Answer<Reply>) -> String {
    match answer {
        Answer::Done(Reply::Stock(left), _) => format!("{left} left"),
        Answer::Refused(refusal) => refusal.reason.to_string(),
        Answer::Vote(vote) => said(vote),
        Answer::State(state, _) | Answer::Aborted { state, .. } => {
            format!("{state:?}").to_uppercase()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_journal_entry_goes_once_its_successor_is_old_and_the_last_one_never() {
    let (mut store, mut core) = stocked(1);
    store.write(&mut core, 4_000, &[add()]);
    // The first entry is old enough by now, but its successor is not.
    store.write(&mut core, 4_000 + TRIM_AGE_MS - 1, &[add()]);
    assert_eq!(store.entries(), [1, 2, 3]);
    store.write(&mut core, 4_000 + TRIM_AGE_MS, &[add()]);
    assert_eq!(store.entries(), [2, 3, 4]);
    store.write(&mut core, 60_000, &[add()]);
    assert_eq!(store.entries(), [4, 5], "a replica that knows the head at 3 must find 4");
}

#[test]
fn trimming_alone_is_worth_a_write_once_four_entries_may_go() {
    let (mut store, mut core) = stocked(1);
    for number in 1..4 {
        store.write(&mut core, number, &[add()]);
    }
    let later = |at_ms| Timestamp::from_physical(at(at_ms + TRIM_AGE_MS));
    assert!(!core.wants_trim(later(100)), "only three of four have a successor");
    store.write(&mut core, 4, &[add()]);
    assert!(!core.wants_trim(later(3)));
    assert!(core.wants_trim(later(4)));
    assert_eq!(store.checkpoint(&mut core, 4 + TRIM_AGE_MS), 1);
    assert_eq!(store.entries(), [5]);
    assert_eq!(store.checkpoint(&mut core, 60_000), 0, "the last one never goes");
}

#[test]
fn what_the_records_do_not_show_is_not_trimmed_and_the_journal_shows_it() {
    let (mut store, mut core) = stocked(1);
    for number in 1..4 {
        store.append(&mut core, number, &[add()]);
    }
    assert_eq!(store.written.records.len(), 1);
    let mut behind = store.replica();
    assert_eq!(store.offer(&mut behind, 10, &[add()]), ["5 left"], "the record shows one unit");
    behind.undo();
    // After a checkpoint, a replica that starts then reads only the records.
    store.checkpoint(&mut core, 60_000);
    assert_eq!(store.entries(), [4]);
    assert!(core.checkpoint().is_empty());
    let mut fresh = store.replica();
    assert!(fresh.checkpoint().is_empty());
    assert_eq!(store.offer(&mut fresh, 60_001, &[add()]), ["5 left"]);
}

#[test]
fn an_entry_that_was_appended_to_another_one_stops_the_shard() {
    let (mut store, mut core) = stocked(1);
    let mut other = store.replica();
    store.append(&mut core, 1, &[add()]);
    store.append(&mut core, 2, &[add()]);
    store.written.entries.get_mut(&3).unwrap().previous_run = 7;
    let unknown = [2, 3].map(|seq| (seq, store.written.entries[&seq].clone())).to_vec();
    let found = Found { head: store.written.head, is_current: true };
    let refused = other.look(found, unknown).unwrap_err().to_string();
    assert!(refused.contains("entry 3"), "{refused}");
}

#[test]
fn what_an_entry_says_alone_keeps_it_and_all_behind_it() {
    let (mut store, mut core) = stocked(9);
    let held = tx(1);
    store.write(&mut core, 1, &[prepare(&held)]);
    for number in 2..6 {
        store.write(&mut core, number, &[add()]);
    }
    store.write(&mut core, 10_000, &[add()]);
    assert_eq!(store.entries().first(), Some(&2), "its vote has no outcome");
    assert!(!core.wants_trim(Timestamp::from_physical(at(20_000))));
    store.write(&mut core, 10_001, &[commit(&held)]);
    assert_eq!(store.entries().first(), Some(&6), "it may be forgotten");
    // Facts that keep an entry alive are carried forward once it is older than 35 seconds.
    let stuck = tx(2);
    let stuck = TxMeta { deadline: at(90_000), ..stuck };
    store.write(&mut core, 20_000, &[prepare(&stuck)]);
    store.write(&mut core, 20_001, &[add()]);
    let said_at = core.tail().seq() - 1;
    store.write(&mut core, 55_000, &[add()]);
    assert_eq!(store.entries().first(), Some(&said_at));
    store.write(&mut core, 55_001, &[add()]);
    assert!(store.entries().first() > Some(&said_at));
    let mut other = store.replica();
    let answers = store.offer(&mut other, 55_002, &[prepare(&stuck), abort(&stuck), add()]);
    assert_eq!(answers, ["YES", "ABORTED", "17 left"], "the hold was carried");
}

#[test]
fn a_refusal_is_noted_even_if_the_abort_changes_nothing() {
    let call = client_call("~call", "buy");
    let (mut store, mut core) = stocked(9);
    let first = attempt(1, &call);
    // Another coordinator found the refusal, and aborted without passing it on.
    store.write(&mut core, 10, &[prepare(&first), abort(&first)]);
    store.write(&mut core, 20, &[refuse(first)]);
    for core in [&mut core, &mut store.replica()] {
        let answers = store.offer(core, 30, &[prepare(&attempt(2, &call))]);
        assert_eq!(answers, ["OUT_OF_CREDIT"]);
    }
}

#[test]
fn what_succeeded_stays_so_though_another_attempt_is_refused() {
    let call = client_call("~call", "buy");
    let (mut store, mut core) = stocked(9);
    let first = attempt(1, &call);
    store.write(&mut core, 10, &[prepare(&first), commit(&first)]);
    store.write(&mut core, 20, &[refuse(attempt(2, &call))]);
    for core in [&mut core, &mut store.replica()] {
        let answers = store.offer(core, 30, &[prepare(&attempt(3, &call))]);
        assert_eq!(answers, ["ALREADY_DONE"]);
    }
}

#[test]
fn what_a_minted_call_came_to_keeps_its_entry_until_the_call_is_over() {
    let not_after = Some(at(30_000));
    // An outcome under a client's own id is a record, and in no entry.
    for id in ["~minted", "own"] {
        let (mut store, mut core) = stocked(9);
        let add_once = add_once(ClientCall { not_after, ..client_call(id, "add") });
        assert_eq!(store.write(&mut core, 10, from_ref(&add_once)), ["10 left"]);
        store.write(&mut core, 10, &[add()]);
        // These batches trim nothing that the call still needs.
        for at_ms in [15_000, 15_001, 29_000, 30_000] {
            store.write(&mut core, at_ms, &[add()]);
        }
        let mut other = store.replica();
        let answers = store.offer(&mut other, 30_000, from_ref(&add_once));
        assert_eq!(answers, ["10 left"], "{id}: the first answer");
        for at_ms in [60_000, 60_001, 120_000, 120_001, 120_002] {
            store.write(&mut core, at_ms, &[add()]);
        }
        let says = |entry: &JournalEntry| !entry.requests.is_empty();
        assert!(!store.written.entries.values().any(says), "{id}");
    }
}

#[test]
fn what_is_said_again_of_a_call_lets_its_first_entry_go() {
    let (mut store, mut core) = stocked(9);
    let not_after = Some(at(100_000));
    let add_once = add_once(ClientCall { not_after, ..client_call("~minted", "add") });
    store.write(&mut core, 10, from_ref(&add_once));
    let first = core.tail().seq();
    for seconds in 1..80 {
        store.write(&mut core, seconds * 1_000, &[add()]);
    }
    assert!(store.written.head.oldest > first, "{:?}", store.entries());
    let mut other = store.replica();
    assert_eq!(store.offer(&mut other, 80_000, &[add_once]), ["10 left"], "the first answer");
}

#[test]
fn facts_are_said_again_once_the_entries_that_are_left_have_many_bytes() {
    const MANY: usize = 16 << 20;
    let (mut store, mut core) = stocked(9);
    store.append(&mut core, 10, &[prepare(&tx(1))]);
    let fill = op(Op::Init { numbers: (1..10_000).collect(), stock: units(1), price: Money::ZERO });
    store.append(&mut core, 20, from_ref(&fill));
    let fit = MANY / store.written.entries[&core.tail().seq()].encoded_len();
    for _ in 1..fit - 1 {
        store.append(&mut core, 20, from_ref(&fill));
    }
    store.written.checkpoint(&mut core, Timestamp::from_physical(at(30_000)), 1 << 20);
    assert_eq!(core.checkpoint().head().oldest, 2, "only the first one is needed no more");
    let mut filled = fit - 1;
    while store.written.entries.range(3..).all(|(_, entry)| entry.events.is_empty()) {
        assert!(filled < fit + 2, "{filled} entries, and {fit} are enough");
        store.append(&mut core, 30_000, from_ref(&fill));
        // Facts come along with what is small.
        store.append(&mut core, 30_000, &[add()]);
        filled += 1;
    }
    assert!(filled >= fit, "{filled} entries, and {fit} are not too many");
}

/// Few bytes, so that a batch reaches its limit in bytes before its limit in calls.
const LIMITS: Limits = Limits {
    records: 1_000,
    waiters: 100,
    batch_bytes: 15 << 10,
    batch_calls: 1_024,
    retention_ms: 600_000,
};

#[test]
fn what_another_replica_remembered_meanwhile_is_read_anew() {
    let (mut store, mut core) = stocked(9);
    let add_once = add_once(client_call("own", "add"));
    let mut other = store.replica();
    assert_eq!(store.offer(&mut other, 10, from_ref(&add_once)), ["10 left"]);
    // Only the first replica's batch becomes durable.
    other.undo();
    assert_eq!(store.write(&mut core, 10, from_ref(&add_once)), ["10 left"]);
    store.written.catch_up(&mut other);
    assert_eq!(other.missing_for(&add_once), other.rows_of(&add_once), "the answer, too");
    let answers = store.offer(&mut other, 20, from_ref(&add_once));
    assert_eq!(answers, ["10 left"], "added once");
}

/// Offers calls to one batch while it has room. Returns their number, and the bytes of the batch.
fn filled(call: impl Fn(u64) -> Call<Stock>) -> (u64, usize) {
    let (store, _) = stocked(1);
    let mut core = store.replica_within(LIMITS);
    for (row, value) in &store.written.records {
        core.load(row.clone(), Some(value)).unwrap();
    }
    core.begin(Timestamp::from_physical(at(10)));
    let mut offered = 0;
    while core.has_room() {
        let call = call(offered);
        for row in core.missing_for(&call) {
            core.load(row, None).unwrap();
        }
        assert_eq!(core.offer(offered, &call), Offered::Taken);
        offered += 1;
    }
    let batch = core.finish(Author { writer: [1; 16], run: 9 }).unwrap();
    (offered, batch.entry.encoded_len())
}

#[test]
fn a_batch_is_full_when_its_entry_is_or_has_enough_calls() {
    let limits = LIMITS;
    let create = |number: u64| op(Op::Create(item(&format!("{number:0100}")), Money::ZERO));
    let fence =
        |number: u64| abort(&TxMeta { tx_id: TxId(u128::from(number).to_be_bytes()), ..tx(1) });
    let add_once = |number: u64| add_once(client_call(&number.to_string(), "add"));
    for (offered, bytes) in [filled(create), filled(fence), filled(add_once)] {
        assert!(offered < 1_000, "{offered}");
        let expected = limits.batch_bytes * 2 / 3..limits.batch_bytes + 500;
        assert!(expected.contains(&bytes), "{bytes} bytes of {offered} calls");
    }
    let (offered, bytes) = filled(|_| add());
    assert_eq!(usize::try_from(offered), Ok(limits.batch_calls), "one record is written once");
    assert!(bytes < 200, "{bytes}");
}
