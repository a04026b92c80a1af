//! Faults on demand: what can happen to a call, and a seeded policy that decides it.

use std::{
    ops::RangeInclusive,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use storage::KvError;
use types::Timestamp;

/// The kind of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Op {
    /// [`storage::Kv::timestamp`].
    Timestamp,
    /// [`storage::Kv::begin`].
    Begin,
    /// [`storage::Reads::get`].
    Get,
    /// [`storage::Reads::batch_get`].
    BatchGet,
    /// [`storage::Reads::scan`].
    Scan,
    /// [`storage::Txn::commit`] of a transaction that writes.
    Commit,
    /// [`storage::Kv::collect_garbage`].
    CollectGarbage,
}

/// A call, as [`Faults`] see it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// The calling process: the number given to [`super::MemKv::process`].
    pub process: u32,
    /// The number of calls that the store has had, including this one.
    pub number: u64,
    /// The kind of the call.
    pub op: Op,
    /// The transaction's or snapshot's timestamp, or the safe point; 0 if there is none.
    pub start_ts: Timestamp,
    /// The key, the least of the keys, the start of the range, or a commit's primary.
    pub key: &'a [u8],
}

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Delay before the effect.
    pub delay_before: Duration,
    /// The effect.
    pub fate: CallFate,
    /// Delay between the effect and the answer.
    pub delay_after: Duration,
}

impl Plan {
    /// Proceeds at once, without a fault.
    pub const PROCEED: Self =
        Self { delay_before: Duration::ZERO, fate: CallFate::Proceed, delay_after: Duration::ZERO };

    /// Proceeds after this time.
    pub const fn after(delay_before: Duration) -> Self {
        Self { delay_before, ..Self::PROCEED }
    }

    /// Fails because the store is away.
    pub fn unavailable() -> Self {
        Self::at_once(CallFate::Fail(KvError::Unavailable("away".to_owned())))
    }

    /// Takes effect at once, with this fate.
    pub const fn at_once(fate: CallFate) -> Self {
        Self { fate, ..Self::PROCEED }
    }
}

/// The effect of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallFate {
    /// The call works as it should.
    Proceed,
    /// The call fails with this and has no effect.
    Fail(KvError),
    /// A commit is told of a write conflict. Other calls proceed.
    Conflict,
    /// A commit is told that its outcome is unknown. Other calls proceed.
    Undetermined(Landing),
    /// The call has no effect and never returns: its process is dead.
    Vanish,
}

/// The outcome of an undetermined commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Landing {
    /// It landed if nothing conflicted. Otherwise the caller is told of the conflict.
    Landed,
    /// It did not land, and never will.
    Lost,
    /// It lands after this delay, unless something conflicts by then.
    Late(Duration),
}

/// Whether a call's answer reaches its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// The answer reaches the caller.
    Return,
    /// The answer is lost: the caller's process is dead.
    Vanish,
}

/// Hooks around every call of the store in memory. They cause faults, or crash a process right
/// before or right after any effect. A function is a hook, too: it plans what happens to a call.
pub trait Faults: Send + Sync {
    /// Decides what happens to a call. Called before anything else.
    fn before(&self, call: &Call<'_>) -> Plan;

    /// Called right after the effect, before the second delay and the answer.
    fn after(&self, call: &Call<'_>) -> After {
        let _: &Call<'_> = call;
        After::Return
    }
}

impl<F: Fn(&Call<'_>) -> Plan + Send + Sync> Faults for F {
    fn before(&self, call: &Call<'_>) -> Plan {
        self(call)
    }
}

/// The rate of each fault, in calls per thousand, and how slow calls are.
#[derive(Debug, Clone)]
pub struct ChaosRates {
    /// Any call: [`KvError::Unavailable`], without effect.
    pub unavailable: u32,
    /// Reads: [`KvError::Locked`].
    pub locked: u32,
    /// Commits: a false conflict.
    pub conflict: u32,
    /// Commits: undetermined, and landed.
    pub landed: u32,
    /// Commits: undetermined, and lost.
    pub lost: u32,
    /// Commits: undetermined, and late.
    pub late: u32,
    /// Milliseconds until a late commit lands.
    pub late_ms: RangeInclusive<u64>,
    /// Milliseconds of delay before the effect of each call, and again after it.
    pub delay_ms: RangeInclusive<u64>,
}

impl Default for ChaosRates {
    /// Frequent faults: one commit in eight is hit.
    fn default() -> Self {
        Self {
            unavailable: 20,
            locked: 10,
            conflict: 20,
            landed: 30,
            lost: 30,
            late: 30,
            late_ms: 1..=3_000,
            delay_ms: 0..=5,
        }
    }
}

/// Faults drawn from a seed: the same seed and the same calls give the same faults.
#[derive(Debug)]
pub struct Chaos {
    rates: ChaosRates,
    rng: Mutex<ChaCha8Rng>,
}

impl Chaos {
    /// A policy with its own stream of random numbers, from `seed`.
    pub fn new(seed: u64, rates: ChaosRates) -> Self {
        Self { rates, rng: Mutex::new(ChaCha8Rng::seed_from_u64(seed)) }
    }

    fn fate(&self, op: Op, rng: &mut ChaCha8Rng) -> CallFate {
        let rates = &self.rates;
        let mut dice = rng.random_range(0..1_000_u32);
        let mut hit = |rate: u32| {
            let hit = dice < rate;
            dice = dice.saturating_sub(rate);
            hit
        };
        if hit(rates.unavailable) {
            return CallFate::Fail(KvError::Unavailable("injected".to_owned()));
        }
        match op {
            Op::Get | Op::BatchGet | Op::Scan if hit(rates.locked) => {
                CallFate::Fail(KvError::Locked)
            }
            Op::Commit if hit(rates.conflict) => CallFate::Conflict,
            Op::Commit if hit(rates.landed) => CallFate::Undetermined(Landing::Landed),
            Op::Commit if hit(rates.lost) => CallFate::Undetermined(Landing::Lost),
            Op::Commit if hit(rates.late) => {
                let late = rng.random_range(rates.late_ms.clone());
                CallFate::Undetermined(Landing::Late(Duration::from_millis(late)))
            }
            Op::Timestamp
            | Op::Begin
            | Op::CollectGarbage
            | Op::Get
            | Op::BatchGet
            | Op::Scan
            | Op::Commit => CallFate::Proceed,
        }
    }
}

impl Faults for Chaos {
    fn before(&self, call: &Call<'_>) -> Plan {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let rng = &mut *rng;
        Plan {
            delay_before: Duration::from_millis(rng.random_range(self.rates.delay_ms.clone())),
            fate: self.fate(call.op, rng),
            delay_after: Duration::from_millis(rng.random_range(self.rates.delay_ms.clone())),
        }
    }
}
