//! The baseline: bare KV transactions of a checkout's shape. They show what the store gives a
//! program that makes each checkout one optimistic transaction, without services, votes or batches.
//!
//! Each one reads an order, two items and a user in one request, and writes all four. After a
//! conflict it starts again. They run through `storage::Kv`, because only that crate may name the
//! client. So, as in the shop, they share timestamp requests with others at the same moment, and
//! may commit in one phase. That is to the baseline's advantage. They run on as many threads as the
//! machine has cores, while the shop's generator has one.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use storage::{
    CommitError, Kv, KvError, SharedKv,
    tikv::{TikvConfig, TikvKv, TikvTls},
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};

use crate::{
    drive::Plan,
    pace::{Arrivals, Pace},
    prepare::Sizes,
    progress::Progress,
    tally::{End, Kind, Tally},
};

/// Prefix of the baseline's keys, which no service uses.
const PREFIX: &[u8] = b"\xf0bench/";
/// About the size of an order.
const VALUE_BYTES: usize = 64;
/// Keys per transaction while keys are written or removed.
const FILL: u64 = 500;
const FILLS_AT_ONCE: u64 = 16;
/// The longest pause before a transaction retries after a conflict.
const PAUSE_MAX: Duration = Duration::from_millis(4);
/// How long the store may take to answer at first.
const STORE_PATIENCE: Duration = Duration::from_secs(20);

/// The store, and how much to write to it.
#[derive(Debug, Clone)]
pub(crate) struct BareStore {
    pub(crate) pd_endpoints: Vec<String>,
    pub(crate) tls: Option<TikvTls>,
    pub(crate) sizes: Sizes,
    /// Whether to remove the keys at the end, as the store outlives the run.
    pub(crate) clean: bool,
}

/// Drives each plan in turn, on a runtime of its own.
///
/// # Errors
/// In words, when the store cannot be used.
pub(crate) async fn run(store: BareStore, plans: Vec<Plan>) -> Result<Vec<Tally>, String> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("baseline".to_owned());
    let spawned = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let tallies = match runtime {
            Ok(runtime) => runtime.block_on(all(&store, plans)),
            Err(error) => Err(error.to_string()),
        };
        // The receiver is gone if the run was given up.
        drop(sender.send(tallies));
    });
    spawned.map_err(|error| error.to_string())?;
    receiver.await.map_err(|_| "the baseline ended early".to_owned())?
}

async fn all(store: &BareStore, plans: Vec<Plan>) -> Result<Vec<Tally>, String> {
    let mut config = TikvConfig::new(store.pd_endpoints.clone());
    config.tls.clone_from(&store.tls);
    let kv: SharedKv = TikvKv::connect(config).await.map_err(|error| error.to_string())?;
    wait_for(&*kv).await?;
    let Sizes { orders, items, users } = store.sizes;
    let keys = orders + items + users;
    fill(&kv, "baseline's keys", keys, Some(vec![b'x'; VALUE_BYTES])).await?;
    let mut tallies = Vec::new();
    for plan in plans {
        tallies.push(drive(&kv, store.sizes, plan).await?);
    }
    if store.clean {
        fill(&kv, "removing them", keys, None).await?;
    }
    Ok(tallies)
}

async fn wait_for(kv: &dyn Kv) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match kv.timestamp().await {
            Ok(_) => return Ok(()),
            Err(error) if begun.elapsed() > STORE_PATIENCE => return Err(error.to_string()),
            Err(_) => sleep(Duration::from_millis(100)).await,
        }
    }
}

fn key(number: u64) -> Vec<u8> {
    [PREFIX, &number.to_be_bytes()].concat()
}

/// Sets all keys, or removes them if there is no value.
async fn fill(kv: &SharedKv, what: &str, count: u64, value: Option<Vec<u8>>) -> Result<(), String> {
    let steps = usize::try_from(count.div_ceil(FILL)).unwrap_or(usize::MAX);
    let progress = Arc::new(Progress::new(what, steps));
    let mut workers = JoinSet::new();
    for worker in 0..FILLS_AT_ONCE {
        let (kv, value, progress) = (Arc::clone(kv), value.clone(), Arc::clone(&progress));
        workers.spawn(async move {
            let mut first = worker * FILL;
            while first < count {
                let mut txn = kv.begin().await.map_err(|error| error.to_string())?;
                for number in first..count.min(first + FILL) {
                    match &value {
                        Some(value) => txn.put(key(number), value.clone()),
                        None => txn.delete(key(number)),
                    }
                }
                txn.commit().await.map_err(|error| error.to_string())?;
                progress.step();
                first += FILLS_AT_ONCE * FILL;
            }
            Ok::<(), String>(())
        });
    }
    while let Some(ended) = workers.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// Drives one plan, with as many transactions in flight as the shop has callers.
async fn drive(kv: &SharedKv, sizes: Sizes, plan: Plan) -> Result<Tally, String> {
    let start = Instant::now();
    let begin = start + plan.warm_up;
    let end = begin + plan.window;
    let tally = Arc::new(Mutex::new(Tally::new(begin, end)));
    let arrivals = match plan.pace {
        Pace::Open { rate, .. } => {
            Some(Arc::new(Mutex::new(Arrivals::new(start, rate, plan.seed))))
        }
        Pace::Closed { .. } | Pace::Thinking { .. } => None,
    };
    let mut callers = JoinSet::new();
    for number in 0..plan.pace.callers() {
        let (kv, tally, arrivals) = (Arc::clone(kv), Arc::clone(&tally), arrivals.clone());
        let mut rng = StdRng::seed_from_u64(plan.seed.wrapping_add(number as u64));
        callers.spawn(async move {
            loop {
                let due = match &arrivals {
                    // Nothing under these locks can panic.
                    Some(all) => all.lock().unwrap_or_else(PoisonError::into_inner).next(),
                    None => Instant::now(),
                };
                if due >= end {
                    return;
                }
                tokio::time::sleep_until(due).await;
                let ended = checkout(&*kv, sizes, &mut rng).await;
                let now = Instant::now();
                tally.lock().unwrap_or_else(PoisonError::into_inner).add(due, now, ended);
                if let Pace::Thinking { think, .. } = plan.pace {
                    sleep(think).await;
                }
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.map_err(|error| error.to_string())?;
    }
    let tally = Arc::into_inner(tally).ok_or("a caller is still there")?;
    Ok(tally.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// Repeats one transaction of a checkout's shape until it commits or fails.
async fn checkout(kv: &dyn Kv, sizes: Sizes, rng: &mut StdRng) -> End {
    let Sizes { orders, items, users } = sizes;
    let first = rng.random_range(0..items);
    let second = (first + rng.random_range(1..items.max(2))) % items.max(2);
    let keys = vec![
        key(rng.random_range(0..orders)),
        key(orders + first),
        key(orders + second),
        key(orders + items + rng.random_range(0..users)),
    ];
    loop {
        match attempt(kv, &keys).await {
            Ok(()) => return End::Done(Kind::Bare),
            Err(CommitError::Conflict) => {
                sleep(PAUSE_MAX.mul_f64(rng.random())).await;
            }
            Err(error @ (CommitError::Failed(_) | CommitError::Undetermined(_))) => {
                return End::Failed(error.to_string());
            }
        }
    }
}

async fn attempt(kv: &dyn Kv, keys: &[Vec<u8>]) -> Result<(), CommitError> {
    let failed = |error: KvError| CommitError::Failed(error);
    let mut txn = kv.begin().await.map_err(failed)?;
    let found = txn.batch_get(keys.to_vec()).await.map_err(failed)?;
    for (key, value) in found {
        // A shop would write another value of the same length.
        let changed = value.iter().map(|byte| byte.wrapping_add(1)).collect();
        txn.put(key, changed);
    }
    txn.commit().await.map(drop)
}
