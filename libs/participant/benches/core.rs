//! The time that a shard's pure core takes for each call: 64 Prepares in one batch, then their
//! Commits, then their Forgets, and the checkpoint behind them. There is no lane, no store and no
//! wire. Run it by `cargo bench -p participant`.

#![allow(missing_docs, reason = "criterion's macros make functions without any")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use participant::{
    core::{Answer, Call, Core},
    records::Receipt,
};
use stock::records::{Op, Reply, Stock};
use testkit::{ORIGIN, branch, rig};
use types::{
    AMOUNT_MAX, ClientCall, ItemId, Money, Priority, Quantity, RequestId, Timestamp, TxId, TxMeta,
    Vote,
};
use uuid::Uuid;

/// The allocator of `till`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Calls in each batch.
const CALLS: u32 = 64;
/// Items on the shard. Each transaction takes two of them.
const ITEMS: u64 = 10_000;
/// Milliseconds between two batches: entries are soon old enough to be trimmed.
const STEP_MS: u64 = 5_000;
/// Bytes of images in one piece of a checkpoint, as a lane has it.
const PIECE_BYTES: usize = 14 * 1024;

/// What one figure counts of a round.
type Part = fn(Times) -> Duration;

/// The times of one round.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    prepare: Duration,
    commit: Duration,
    forget: Duration,
    checkpoint: Duration,
}

/// A shard with items, which is the primary of all transactions.
struct Shard {
    core: Core<Stock>,
    /// Number of the last transaction.
    last: u64,
    at_ms: u64,
}

impl Shard {
    fn stocked() -> Self {
        let mut core = rig::core(Stock);
        let stock = Quantity::new(AMOUNT_MAX).expect("the greatest amount");
        let price = Money::new(5).expect("a price");
        let op = Op::Init { numbers: (0..ITEMS).collect(), stock, price };
        let init = Call::Op { op, call: None, may_wait: false };
        for row in core.rows_of(&init) {
            core.load(row, None).expect("an absent record decodes");
        }
        let answers = rig::batch(&mut core, 0, &[init]);
        assert!(matches!(answers[..], [Answer::Done(Reply::Stock(_), _)]), "{answers:?}");
        Self { core, last: 0, at_ms: 0 }
    }

    /// The transactions of the next round.
    fn transactions(&mut self) -> Vec<TxMeta> {
        let branches = [self.core.branch().clone(), branch("payment")];
        let next = |_| {
            self.last += 1;
            let uuid =
                Uuid::from_u64_pair(self.last.wrapping_mul(0x9e37_79b9_7f4a_7c15), self.last);
            TxMeta {
                tx_id: TxId::from(uuid),
                priority: Priority { begin_ts: self.last, nonce: 0 },
                deadline: ORIGIN.plus_ms(self.at_ms + 2 * STEP_MS),
                branches: branches.clone().into(),
                call: Some(ClientCall::new(RequestId::minted(uuid), "checkout")),
            }
        };
        (0..CALLS).map(next).collect()
    }

    /// Puts the calls into one batch, and returns the time until it is the state.
    fn batch(&mut self, calls: &[Call<Stock>]) -> (Duration, Vec<Answer<Reply>>) {
        self.at_ms += STEP_MS;
        let began = Instant::now();
        let answers = rig::batch(&mut self.core, self.at_ms, black_box(calls));
        (began.elapsed(), answers)
    }

    /// Makes every piece of the checkpoint, as if each were durable.
    fn checkpoint(&mut self) -> Duration {
        let start = Timestamp::from_physical(ORIGIN.plus_ms(self.at_ms));
        let began = Instant::now();
        while let Some(piece) = self.core.piece(self.core.tail().seq(), start, PIECE_BYTES) {
            self.core.landed(black_box(&piece));
        }
        began.elapsed()
    }

    /// Takes 64 transactions from the Prepare to the end.
    fn round(&mut self) -> Times {
        let metas = self.transactions();
        let one = Quantity::new(1).expect("one unit");
        let payload = |first: u64| {
            let item = |number: u64| (ItemId::numbered(number * 7919 % ITEMS), one);
            vec![item(2 * first), item(2 * first + 1)]
        };
        let receipts: Vec<Receipt> = ["stock", "payment"]
            .map(|service| Receipt { branch: branch(service), receipt: vec![7; 24] })
            .into();
        let numbered = || metas.iter().cloned().zip(self.last - u64::from(CALLS)..);
        let prepares: Vec<_> = numbered()
            .map(|(meta, number)| Call::Prepare { meta, payload: payload(number), may_wait: true })
            .collect();
        let commits: Vec<_> =
            numbered().map(|(meta, _)| Call::Commit { meta, receipts: receipts.clone() }).collect();
        let forgets: Vec<_> =
            numbered().map(|(meta, _)| Call::Forget { tx_id: meta.tx_id }).collect();
        let (prepare, votes) = self.batch(&prepares);
        let yes = |answer: &Answer<Reply>| matches!(answer, Answer::Vote(Vote::Yes { .. }));
        assert!(votes.iter().all(yes), "{votes:?}");
        let (commit, _) = self.batch(&commits);
        let (forget, _) = self.batch(&forgets);
        Times { prepare, commit, forget, checkpoint: self.checkpoint() }
    }
}

fn rounds(criterion: &mut Criterion) {
    let mut shard = Shard::stocked();
    let mut group = criterion.benchmark_group("core, 64 calls in a batch");
    group.throughput(Throughput::Elements(u64::from(CALLS)));
    let parts: [(&str, Part); 5] = [
        ("prepares", |times| times.prepare),
        ("commits", |times| times.commit),
        ("forgets", |times| times.forget),
        ("their checkpoint", |times| times.checkpoint),
        ("all of these", |times| times.prepare + times.commit + times.forget + times.checkpoint),
    ];
    for (name, part) in parts {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|rounds| (0..rounds).map(|_| part(shard.round())).sum());
        });
    }
    group.finish();
}

criterion_group!(benches, rounds);
criterion_main!(benches);
