//! Tests how many answers of the store a call waits for. Every call to the store takes 10 ms of
//! paused time, so the clock counts them.

use std::{
    cell::RefCell,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::future::join;
use participant::{
    core::{Answer, Call},
    lane::LaneError,
};
use stock::records::Op;
use testkit::mem::{Call as KvCall, Faults, Op as KvOp, Plan};
use tokio::time::Instant;
use tracing::{Event, Metadata, Subscriber, field::Field, span};

use crate::shop::{Handle, Shop, add, item, request, stock};

const STEP: Duration = Duration::from_millis(10);

/// Delays every call to the store, or calls of one kind, and counts begun transactions.
#[derive(Debug, Default)]
struct Slow {
    only: Option<KvOp>,
    begun: AtomicU64,
}

impl Faults for Slow {
    fn before(&self, call: &KvCall<'_>) -> Plan {
        if call.op == KvOp::Begin {
            self.begun.fetch_add(1, Relaxed);
        }
        let is_slow = self.only.is_none_or(|op| call.op == op);
        if is_slow { Plan::after(STEP) } else { Plan::PROCEED }
    }
}

/// A shop with 1,000 units of item "a", with a store that is slow at everything or at one thing.
async fn slow(only: Option<KvOp>) -> (Shop, Handle, Arc<Slow>) {
    let mut shop = Shop::new();
    let store = Arc::new(Slow { only, ..Slow::default() });
    shop.kv = shop.kv.with_faults(store.clone());
    let lane = shop.stocked(1_000).await;
    (shop, lane, store)
}

/// How many steps `what` takes.
async fn steps(what: impl Future) -> u128 {
    let began = Instant::now();
    what.await;
    began.elapsed().as_millis() / STEP.as_millis()
}

/// Adds one unit after the other, by calls whose ids the bridge minted: those need no record.
async fn adds(lane: &Handle, caller: &str, count: u64) {
    for call in 0..count {
        add(lane, "a", 1, request(&format!("~{caller}-{call}"), call)).await.unwrap();
    }
}

/// Makes batches follow each other at once, so that the lane begins a transaction early.
async fn rolls(lane: &Handle, caller: &str) {
    let second = format!("{caller}-too");
    let second = async {
        tokio::time::sleep(STEP * 3 / 2).await;
        adds(lane, &second, 3).await;
    };
    join(adds(lane, caller, 3), second).await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_lane_waits_for_one_answer_of_the_store_for_each_batch() {
    let (_shop, lane, _) = slow(None).await;
    // Each caller comes while the other one's batch is appended, so the two take turns.
    let second = async {
        tokio::time::sleep(STEP * 3 / 2).await;
        adds(&lane, "y", 20).await;
    };
    let taken = steps(join(adds(&lane, "x", 20), second)).await;
    assert!(taken <= 2 * 20 + 5, "{taken} steps for 40 batches");
}

#[tokio::test(start_paused = true)]
async fn a_lane_with_one_caller_asks_for_no_timestamp_in_vain() {
    let (_shop, lane, store) = slow(None).await;
    let before = store.begun.load(Relaxed);
    adds(&lane, "x", 10).await;
    let begun = store.begun.load(Relaxed) - before;
    assert!(begun <= 12, "{begun} KV transactions for ten batches");
}

#[tokio::test(start_paused = true)]
async fn a_write_does_not_wait_for_a_read_that_came_before_it() {
    let (_shop, lane, _) = slow(Some(KvOp::BatchGet)).await;
    adds(&lane, "x", 1).await;
    let read = tokio::spawn({
        let lane = lane.clone();
        async move { (stock(&lane, "a").await, Instant::now()) }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    adds(&lane, "y", 1).await;
    let written = Instant::now();
    let (units, read) = read.await.unwrap();
    assert!(written < read, "the write waited for the look of the read");
    assert_eq!(units, 1_002, "the read is answered from the state as it is by then");
}

#[tokio::test(start_paused = true)]
async fn a_read_beside_the_batches_sees_what_another_replica_wrote() {
    let (shop, lane, _) = slow(None).await;
    let other = shop.lane(2);
    for call in 1..20 {
        add(&other, "a", 1, request(&format!("~other-{call}"), call)).await.unwrap();
        assert_eq!(stock(&lane, "a").await, 1_000 + call);
    }
}

#[tokio::test(start_paused = true)]
async fn reads_beyond_the_bound_are_refused_while_a_look_hangs() {
    let mut shop = Shop::new();
    shop.options.queue = 4;
    let store = Slow { only: Some(KvOp::BatchGet), ..Slow::default() };
    shop.kv = shop.kv.with_faults(Arc::new(store));
    let lane = shop.stocked(1).await;
    let read = || Call::Op { op: Op::Get(item("a")), call: None, may_wait: true };
    let (mut begun, mut refused) = (Vec::new(), 0);
    for _ in 0..40 {
        match lane.begin(read()) {
            Ok(pending) => begun.push(pending),
            Err(error) => {
                assert_eq!(error, LaneError::Overloaded);
                refused += 1;
            }
        }
        // The lane takes from its inbox what it may, and no time passes.
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
    }
    assert!(refused >= 20, "only {refused} of 40 reads were refused");
    for pending in begun {
        assert!(matches!(pending.answer().await, Ok(Answer::Done(..))));
    }
}

/// A patient call of a batch must not leave a timer behind, which would wake the lane for ever.
#[tokio::test(start_paused = true)]
async fn a_lane_rests_after_a_batch_that_leaves_reads_behind_a_patient_call() {
    let mut shop = Shop::new();
    shop.options.linger = STEP;
    shop.options.limits.batch_calls = 4;
    let store = Slow { only: Some(KvOp::BatchGet), ..Slow::default() };
    shop.kv = shop.kv.with_faults(Arc::new(store));
    let lane = shop.stocked(1).await;
    let read = || Call::Op { op: Op::Get(item("a")), call: None, may_wait: true };
    let patient = Call::Forget { tx_id: types::TxId([9; 16]) };
    let mut pending = Vec::new();
    // Looks take the reads of the first two rounds. The third one's are behind the patient call
    // while the second look is under way, and more than its batch takes.
    for calls in [vec![read()], vec![patient, read()], (0..8).map(|_| read()).collect()] {
        pending.extend(calls.into_iter().map(|call| lane.begin(call).unwrap()));
        tokio::time::sleep(STEP * 6 / 10).await;
    }
    // Paused time goes on only while every task rests.
    tokio::time::sleep(Duration::from_secs(1)).await;
    for pending in pending {
        pending.answer().await.unwrap();
    }
}

/// The start of a transaction is the timestamp of reads, and decides which calls came too late.
#[tokio::test(start_paused = true)]
async fn a_transaction_that_was_begun_early_is_not_used_once_it_is_old() {
    let (_shop, lane, store) = slow(None).await;
    for (pause, begun, taken) in [(0, 0, 1), (150, 1, 2)] {
        rolls(&lane, &format!("before-{pause}")).await;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let before = store.begun.load(Relaxed);
        let did = steps(adds(&lane, &format!("after-{pause}"), 1)).await;
        assert_eq!((store.begun.load(Relaxed) - before, did), (begun, taken), "after {pause} ms");
    }
}

/// What was read as of a timestamp is not followed by a batch of an earlier one.
#[tokio::test(start_paused = true)]
async fn a_transaction_that_was_begun_before_a_look_is_not_used_after_it() {
    let (_shop, lane, store) = slow(None).await;
    rolls(&lane, "x").await;
    let before = store.begun.load(Relaxed);
    stock(&lane, "a").await;
    adds(&lane, "z", 1).await;
    assert_eq!(store.begun.load(Relaxed) - before, 2, "one for the look, and one for the batch");
}

thread_local! {
    /// The calls and answers that lanes of this test have logged.
    static TOLD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Collects what lanes log of their calls, at level TRACE. It is for all threads: tracing may
/// remember for the whole process that nobody listens, if a thread without a subscriber comes
/// first.
#[derive(Debug)]
struct Listener;

impl Subscriber for Listener {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "participant::calls"
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut |field: &Field, value: &dyn fmt::Debug| {
            if field.name() == "answer" || field.name() == "call" {
                let word = format!("{value:?}").replace('"', "");
                TOLD.with_borrow_mut(|told| told.push(word));
            }
        });
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_read_beside_the_batches_is_told_as_any_call() {
    tracing::subscriber::set_global_default(Listener).unwrap();
    let (_shop, lane, _) = slow(None).await;
    adds(&lane, "x", 1).await;
    TOLD.take();
    assert_eq!(stock(&lane, "a").await, 1_001);
    assert_eq!(TOLD.take(), ["Get", "done"]);
}
