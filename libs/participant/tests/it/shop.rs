//! A shard of stock for the tests.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use participant::{
    core::{Answer, Call},
    lane::{AskResolve, Lane, LaneError, LaneHandle, LaneOptions, Seams},
    shards::Shards,
};
use rpc::store_time::StoreTime;
use stock::records::{Op, Reply, Stock};
use storage::{
    Kv as _, codec,
    keys::{Kind, Space},
    record,
    schema::Schema,
    shard::{append, read_tail},
};
use testkit::{
    SeededEntropy, TokioClock, branch,
    mem::{Call as KvCall, CallFate, MemKv, Op as KvOp, Plan},
};
use types::{
    BranchState, ClientCall, Clock, ItemId, Money, Quantity, Reason, RequestId, Role, ShardId,
    Timestamp, TxId, TxMeta, UnixMillis, Vote,
};

/// The schema of the store that the tests' lanes are opened on.
pub(crate) const SCHEMA: Schema = Schema { shards: 1, created: Timestamp(1) };

/// Records the transactions that it was asked to resolve.
#[derive(Debug, Default)]
pub(crate) struct Asked(pub(crate) Mutex<Vec<TxId>>);

#[async_trait]
impl AskResolve for Asked {
    async fn resolve(&self, meta: TxMeta) {
        self.0.lock().unwrap().push(meta.tx_id);
    }
}

/// A store with one shard of stock.
pub(crate) struct Shop {
    pub(crate) kv: MemKv,
    pub(crate) clock: Arc<dyn Clock>,
    /// What happens to the next commits, in order.
    pub(crate) script: Arc<Mutex<VecDeque<CallFate>>>,
    pub(crate) asked: Arc<Asked>,
    pub(crate) options: LaneOptions,
}

pub(crate) type Handle = LaneHandle<Stock>;

impl Shop {
    pub(crate) fn new() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let script: Arc<Mutex<VecDeque<CallFate>>> = Arc::default();
        let fates = Arc::clone(&script);
        let kv = MemKv::new(Arc::clone(&clock)).with_faults(Arc::new(move |call: &KvCall<'_>| {
            let is_commit = call.op == KvOp::Commit;
            let fate = is_commit.then(|| fates.lock().unwrap().pop_front()).flatten();
            fate.map_or(Plan::PROCEED, Plan::at_once)
        }));
        let asked = Arc::new(Asked::default());
        Self { kv, clock, script, asked, options: LaneOptions::default() }
    }

    fn seams(&self, name: u8) -> Seams {
        Seams {
            kv: self.kv.shared(),
            clock: Arc::clone(&self.clock),
            entropy: Arc::new(SeededEntropy::new(u64::from(name))),
            resolver: self.asked.clone(),
            store_time: StoreTime::default(),
            schema: SCHEMA,
        }
    }

    /// Another replica's lane on the same shard.
    pub(crate) fn lane(&self, name: u8) -> Handle {
        let seams = self.seams(name);
        let (lane, handle) =
            Lane::new(Arc::new(Stock), branch("stock"), seams, self.options, [name; 16]);
        tokio::spawn(lane.run());
        handle
    }

    /// All lanes of a replica of a service with `count` shards.
    pub(crate) fn shards(&self, count: u16) -> Arc<Shards<Stock>> {
        let domain = Arc::new(Stock);
        let shards = Arc::new(Shards::closed(&*domain));
        shards.open(&domain, count, &self.seams(1), self.options);
        shards
    }

    /// A lane on a shard in which item "a" has `units` units.
    pub(crate) async fn stocked(&self, units: u64) -> Handle {
        let lane = self.lane(1);
        create(&lane, "a").await;
        if units > 0 {
            assert_eq!(add(&lane, "a", units, None).await, Ok(units));
        }
        lane
    }

    /// Appends entries as another writer would, each at its distance from the end of the journal.
    pub(crate) async fn put_entries(&self, entries: Vec<(u64, record::JournalEntry)>) {
        let space = Space::of(Role::Stock, ShardId(0));
        let mut txn = self.kv.begin().await.unwrap();
        let (_, before) = read_tail(&mut *txn, space, 0).await.unwrap();
        let (last, before) = before.last().unwrap();
        for (after, entry) in entries {
            let entry = record::JournalEntry {
                writer: vec![9; 16].into(),
                run: after,
                start_ts: txn.read_ts().0,
                previous_writer: before.writer.clone(),
                previous_run: before.run,
                ..entry
            };
            append(&mut *txn, space, last + after, &entry, None);
        }
        txn.commit().await.unwrap();
    }

    /// Empties the store, and leaves a schema with this timestamp.
    pub(crate) async fn make_anew(&self, created: u64) {
        let mut txn = self.kv.begin().await.unwrap();
        for key in self.kv.contents().into_keys() {
            txn.delete(key);
        }
        let key = Space::STORE.record(Kind::Schema, b"");
        let schema = record::Schema { version: 2, shards: 1, created_ts: created };
        txn.put(key, codec::encode(&schema));
        txn.commit().await.unwrap();
    }

    pub(crate) fn deadline(&self) -> UnixMillis {
        self.clock.now().plus_ms(2_000)
    }

    /// A transaction of an order and this shard. Lower numbers are older.
    pub(crate) fn tx(&self, number: u8) -> TxMeta {
        testkit::tx(number, self.deadline(), [branch("order"), branch("stock")])
    }
}

pub(crate) fn item(id: &str) -> ItemId {
    ItemId::new(id).unwrap()
}

pub(crate) fn units(number: u64) -> Quantity {
    Quantity::new(number).unwrap()
}

#[allow(clippy::unnecessary_wraps, reason = "calls take an Option")]
pub(crate) fn request(id: &str, call: u64) -> Option<ClientCall> {
    Some(client_call(id, &call.to_string()))
}

/// A client's call with this content, under this id.
pub(crate) fn client_call(id: &str, what: &str) -> ClientCall {
    ClientCall::new(RequestId::new(id).unwrap(), what)
}

pub(crate) async fn op(lane: &Handle, op: Op, call: Option<ClientCall>) -> Result<Reply, Reason> {
    match lane.call(Call::Op { op, call, may_wait: true }).await.unwrap() {
        Answer::Done(reply, _) => Ok(reply),
        Answer::Refused(refusal) => Err(refusal.reason),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn create(lane: &Handle, id: &str) {
    op(lane, Op::Create(item(id), Money::ZERO), None).await.unwrap();
}

fn stock_of(reply: &Reply) -> u64 {
    match reply {
        Reply::Stock(stock) => *stock,
        Reply::Item(item) => item.stock.available.get(),
    }
}

pub(crate) async fn add(
    lane: &Handle,
    id: &str,
    amount: u64,
    request: Option<ClientCall>,
) -> Result<u64, Reason> {
    op(lane, Op::Add(item(id), units(amount)), request).await.map(|reply| stock_of(&reply))
}

/// Adds under a client's id, or returns that its time is over.
pub(crate) async fn add_or_expire(
    lane: &Handle,
    id: &str,
    amount: u64,
    request: Option<ClientCall>,
) -> Result<(), LaneError> {
    let op = Op::Add(item(id), units(amount));
    match lane.call(Call::Op { op, call: request, may_wait: true }).await? {
        Answer::Done(..) => Ok(()),
        Answer::Expired => Err(LaneError::Expired),
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn subtract(lane: &Handle, id: &str, amount: u64) -> Result<u64, Reason> {
    let request = request(&format!("subtract {id} {amount}"), 1);
    op(lane, Op::Subtract(item(id), units(amount)), request).await.map(|reply| stock_of(&reply))
}

pub(crate) async fn stock(lane: &Handle, id: &str) -> u64 {
    stock_of(&op(lane, Op::Get(item(id)), None).await.unwrap())
}

pub(crate) async fn prepare(lane: &Handle, meta: &TxMeta, id: &str, amount: u64) -> Vote {
    let payload = vec![(item(id), units(amount))];
    let call = Call::Prepare { meta: meta.clone(), payload, may_wait: true };
    match lane.call(call).await.unwrap() {
        Answer::Vote(vote) => vote,
        other => panic!("{other:?}"),
    }
}

/// The vote in a word.
pub(crate) fn said(vote: &Vote) -> String {
    match vote {
        Vote::Yes { .. } => "YES".to_owned(),
        Vote::No { reason, .. } => reason.clone(),
        Vote::Contended { blocker } => format!("CONTENDED by {}", blocker.tx_id.0[0]),
        Vote::Fenced => "FENCED".to_owned(),
    }
}

async fn state(lane: &Handle, call: Call<Stock>) -> BranchState {
    match lane.call(call).await.unwrap() {
        Answer::State(state, _) | Answer::Aborted { state, .. } => state,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn commit(lane: &Handle, meta: &TxMeta) -> BranchState {
    state(lane, Call::Commit { meta: meta.clone(), receipts: Vec::new() }).await
}

pub(crate) async fn abort(lane: &Handle, meta: &TxMeta) -> BranchState {
    state(lane, Call::Abort { meta: meta.clone(), evidence: false, refusal: None }).await
}

pub(crate) async fn query(lane: &Handle, meta: &TxMeta, fence: bool) -> BranchState {
    state(lane, Call::Query { meta: meta.clone(), fence }).await
}

/// Waits long enough for everything that can happen now.
pub(crate) async fn breathe() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}
