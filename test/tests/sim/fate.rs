//! How many faults a run has, and what happens to a process at each of its calls to the store.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use storage::{KvError, codec};
use system_test::history::people::Habits;
use testkit::{
    TokioClock,
    mem::{After, Call, CallFate, Chaos, ChaosRates, Faults, Landing, Op, Plan},
};
use types::{Clock, UnixMillis};

use crate::{
    coverage::{self, Between},
    network::Process,
    trace,
};

/// How often messages are in trouble, per thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NetRates {
    pub(crate) request_lost: u32,
    pub(crate) reply_lost: u32,
    pub(crate) doubled: u32,
    /// Whether only the messages from coordinators to participants are doubled.
    pub(crate) applies_alone: bool,
    /// Delayed by up to four seconds.
    pub(crate) late: u32,
    /// Greatest ordinary delay each way, in milliseconds.
    pub(crate) delay_ms: u64,
    /// Least and greatest ordinary delay of a doubled message's copy, in milliseconds.
    pub(crate) double_ms: (u64, u64),
}

/// How many faults a run has, and how its shop is set up.
#[derive(Debug, Clone)]
pub(crate) struct Rates {
    pub(crate) net: NetRates,
    pub(crate) store: ChaosRates,
    /// Chance that a process dies at a call to the store, before or after the call's effect, per
    /// ten thousand calls.
    pub(crate) death: u32,
    /// Chance per half second, in percent, that two processes are cut off from each other.
    pub(crate) cut: u32,
    /// Chance per half second, in percent, that a process reaches nobody, or not the store.
    pub(crate) island: u32,
    /// Chance per half second, in percent, that a process stands still, for up to six seconds.
    pub(crate) stop: u32,
    /// Chance per half second, in percent, that a clock jumps by up to ten seconds, either way.
    pub(crate) jump: u32,
    /// How clients behave.
    pub(crate) habits: Habits,
    /// Replicas of every role.
    pub(crate) replicas: u8,
    /// Whether callers know only some of the replicas, and not all the same ones.
    pub(crate) stray: bool,
    /// How long branches have to vote, in milliseconds.
    pub(crate) vote_window_ms: u64,
    /// How long clients' own request ids are kept, in milliseconds.
    pub(crate) retention_ms: u64,
    /// How long a bridge works on a request, in milliseconds: less or more than the longest
    /// standstill.
    pub(crate) request_ms: u64,
}

impl Rates {
    /// Each seed has its own faults: some seeds have all kinds, some one kind, some none.
    pub(crate) fn of(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        let mut some =
            |most: u32| if rng.random_bool(0.5) { rng.random_range(0..=most) } else { 0 };
        let net = NetRates {
            request_lost: some(60),
            reply_lost: some(60),
            doubled: some(80),
            late: some(20),
            delay_ms: u64::from(some(8)),
            double_ms: (0, u64::from(some(2_000))),
            applies_alone: false,
        };
        let store = ChaosRates {
            unavailable: some(20),
            locked: some(10),
            conflict: some(20),
            landed: some(40),
            lost: some(40),
            late: some(40),
            late_ms: 1..=3_000,
            delay_ms: 0..=u64::from(some(6)) + 1,
        };
        let rates = Self {
            net,
            store,
            death: some(25),
            cut: some(15),
            island: some(10),
            stop: some(10),
            jump: some(20),
            replicas: 2 + u8::try_from(some(1)).unwrap(),
            stray: some(1) == 1,
            habits: Habits {
                init: some(20),
                draws: some(1) == 1,
                gives_up: some(15),
                crowd: some(100),
                sells: true,
                foreign: some(1) == 1,
            },
            retention_ms: 600_000,
            vote_window_ms: 2_000,
            request_ms: if some(1) == 1 { 3_000 } else { 15_000 },
        };
        match seed % 64 {
            23 => rates.with_early_forgetting(9_000, (5_200, 8_800)),
            41 => rates.with_early_forgetting(2_000, (5_200, 7_000)),
            _ => rates.with_severe_fault(seed),
        }
    }

    /// Seven seeds in 64 are very bad in one way.
    fn with_severe_fault(mut self, seed: u64) -> Self {
        match seed % 64 {
            // Most messages arrive once more, up to two seconds later.
            7 => self.net = NetRates { doubled: 900, double_ms: (0, 1_900), ..self.net },
            // The store often does not say what became of a commit.
            15 | 31 => {
                self.store = ChaosRates { landed: 200, lost: 100, late: 200, ..self.store };
            }
            // Processes die all the time.
            39 | 47 => self.death = 150,
            // Processes are seldom there for long.
            55 => (self.stop, self.island) = (60, 40),
            // Everything is overwritten all the time.
            63 => (self.habits.init, self.habits.draws) = (90, true),
            _ => {}
        }
        self
    }

    /// Everything is forgotten as early as the rules allow, and after that every message from
    /// coordinators to participants, and no other, arrives once more. Stock and credit come and go
    /// meanwhile.
    fn with_early_forgetting(self, vote_window_ms: u64, double_ms: (u64, u64)) -> Self {
        let net =
            NetRates { doubled: 1_000, double_ms, applies_alone: true, ..NetRates::default() };
        let store = ChaosRates {
            unavailable: 0,
            locked: 0,
            conflict: 0,
            landed: 0,
            lost: 0,
            late: 0,
            ..self.store.clone()
        };
        let retention_ms = 1;
        let foreign = self.habits.foreign;
        let habits = Habits { init: 90, draws: false, gives_up: 0, crowd: 0, sells: true, foreign };
        let quiet = Self { death: 0, cut: 0, island: 0, stop: 0, jump: 0, ..self };
        Self { net, store, retention_ms, vote_window_ms, habits, stray: false, ..quiet }
    }

    /// True if nothing can delay a checkout beyond its answer.
    pub(crate) const fn is_calm(&self) -> bool {
        let net = &self.net;
        let store = &self.store;
        net.request_lost + net.reply_lost + net.doubled + net.late == 0
            && store.unavailable + store.locked + store.conflict == 0
            && store.landed + store.lost + store.late == 0
            && self.death + self.cut + self.island + self.stop + self.jump == 0
    }
}

/// A process's clock: the true time plus an error that jumps.
#[derive(Debug, Clone)]
pub(crate) struct WildClock {
    pub(crate) truth: TokioClock,
    pub(crate) error_ms: Arc<AtomicI64>,
}

impl Clock for WildClock {
    fn now(&self) -> UnixMillis {
        let error = self.error_ms.load(Ordering::Relaxed);
        UnixMillis(self.truth.now().0.saturating_add_signed(error))
    }
}

/// What happens to a process at its calls to the store: failures, and death.
pub(crate) struct Fate {
    process: Process,
    chaos: Chaos,
    death: Mutex<(ChaCha8Rng, u32)>,
    /// Until when the store cannot be reached.
    away: Arc<Mutex<Option<tokio::time::Instant>>>,
    healed: Arc<AtomicBool>,
}

impl Fate {
    pub(crate) fn new(
        process: &Process,
        stream: u64,
        rates: &Rates,
        away: Arc<Mutex<Option<tokio::time::Instant>>>,
        healed: Arc<AtomicBool>,
    ) -> Self {
        Self {
            process: process.clone(),
            chaos: Chaos::new(stream ^ 1, rates.store.clone()),
            death: Mutex::new((ChaCha8Rng::seed_from_u64(stream ^ 2), rates.death)),
            away,
            healed,
        }
    }

    fn dies(&self) -> bool {
        if self.process.is_dead() {
            return true;
        }
        let mut death = self.death.lock().unwrap();
        let rate = death.1;
        let dies = !self.is_healed() && death.0.random_range(0..10_000) < rate;
        if dies {
            self.process.kill();
        }
        dies
    }

    fn is_healed(&self) -> bool {
        self.healed.load(Ordering::Relaxed)
    }

    fn is_away(&self) -> bool {
        self.away.lock().unwrap().is_some_and(|until| until > tokio::time::Instant::now())
    }

    fn plan(&self, call: &Call<'_>) -> Plan {
        if self.is_healed() {
            return Plan::after(Duration::from_millis(1));
        }
        let mut plan = self.chaos.before(call);
        if self.is_away() {
            // A commit may have been on its way when the connection broke.
            plan.fate = match (call.op, call.number % 3) {
                (Op::Commit, 0) => CallFate::Undetermined(Landing::Landed),
                (Op::Commit, 1) => CallFate::Undetermined(Landing::Lost),
                _ => CallFate::Fail(KvError::Unavailable("cut off".to_owned())),
            };
            plan.delay_before += Duration::from_millis(100);
        }
        plan.delay_before += self.process.still_stopped();
        plan
    }
}

impl Faults for Fate {
    fn before(&self, call: &Call<'_>) -> Plan {
        if self.dies() {
            return Plan::at_once(CallFate::Vanish);
        }
        let plan = self.plan(call);
        if call.op == Op::Commit || plan.fate != CallFate::Proceed {
            let (op, ts, fate) = (call.op, call.start_ts.0, &plan.fate);
            let key = Key(call.key);
            if *fate != CallFate::Proceed {
                coverage::trouble(&self.process.name, Between::Store);
            }
            trace::note(&self.process.name, format_args!("{op:?} {key} @{ts}: {fate:?}"));
        }
        plan
    }

    fn after(&self, _: &Call<'_>) -> After {
        if self.dies() { After::Vanish } else { After::Return }
    }
}

/// A key in readable form.
struct Key<'a>(&'a [u8]);

impl fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [owner, high, low, rest @ ..] => {
                let shard = u16::from_be_bytes([*high, *low]);
                write!(f, "{}/{shard}/{}", char::from(*owner), codec::hex(rest))
            }
            short => f.write_str(&codec::hex(short)),
        }
    }
}
