//! Fault injection: which RPC is hit, how often, and the effect on the call.

use crate::regions::{Region, STORE_ID};
use crate::wire::errorpb;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The call waits before it is carried out.
    Latency {
        /// How long, in milliseconds.
        delay: Delay,
    },
    /// The call is carried out, and its reply is lost.
    LoseReply {
        /// What the caller sees instead.
        #[serde(default)]
        then: Loss,
    },
    /// The caller gets a failure or no answer, and the call is carried out later all the same.
    LandLate {
        /// How much later, in milliseconds.
        delay: Delay,
        /// What the caller sees.
        #[serde(default)]
        then: Loss,
    },
    /// The call is refused before anything happens, as if the process were not there.
    Refuse,
    /// The region reports that another peer leads.
    NotLeader {
        /// Whether the error names the leader, which is the same peer again.
        #[serde(default)]
        name_leader: bool,
    },
    /// The region is split at the request's first key before the request is checked.
    Split,
    /// The store reports that it is too busy.
    ServerIsBusy,
    /// The region reports that the command came too late for its term.
    StaleCommand,
    /// The store reports that it has not learned the newest timestamp yet.
    MaxTimestampNotSynced,
    /// A prewrite in one phase or with async commit falls back to two phases.
    FallBack,
    /// A commit is refused because its timestamp is too low.
    CommitTsExpired,
}

/// What the caller of a lost call sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Loss {
    /// A failure of the connection.
    #[default]
    Unavailable,
    /// Nothing, until the caller gives up.
    Silence,
}

/// How long something takes, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Delay {
    /// Always the same.
    Fixed(u64),
    /// Evenly distributed between the two, both included.
    Uniform(u64, u64),
    /// Exponentially distributed with this mean: mostly short, sometimes long.
    Exponential(u64),
}

/// A fault and the calls that it hits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The RPC's name, such as `KvCommit`; absent means every RPC of the store and the placement
    /// driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc: Option<String>,
    /// The share of its calls that are hit, from 0 to 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// How many calls are hit before the rule is used up; absent means no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// How many matching calls are left alone first.
    #[serde(default)]
    pub skip: u64,
    /// How long the rule holds, in milliseconds from when it is added; absent means no end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// What happens to a call that is hit.
    pub fault: Fault,
}

fn always() -> f64 {
    1.0
}

/// All rules, and the faults that do not belong to an RPC.
#[derive(Debug)]
pub(crate) struct Faults {
    armed: AtomicBool,
    rules: Mutex<Vec<(Rule, Option<Instant>)>>,
    random: AtomicU64,
    hits: AtomicU64,
    frozen_until: Mutex<Option<Instant>>,
    clock_shift_ms: std::sync::Arc<AtomicI64>,
}

/// The point of a call at which a rule acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Before and after the handler.
    Transport,
    /// Before the region is checked.
    Split,
    /// Where the region is checked.
    Region,
    /// Within a prewrite.
    Prewrite,
    /// Within a commit.
    Commit,
}

impl Fault {
    fn stage(&self) -> Stage {
        match self {
            Self::Latency { .. }
            | Self::LoseReply { .. }
            | Self::LandLate { .. }
            | Self::Refuse => Stage::Transport,
            Self::Split => Stage::Split,
            Self::NotLeader { .. }
            | Self::ServerIsBusy
            | Self::StaleCommand
            | Self::MaxTimestampNotSynced => Stage::Region,
            Self::FallBack => Stage::Prewrite,
            Self::CommitTsExpired => Stage::Commit,
        }
    }
}

impl Faults {
    /// No faults. `seed` starts the random numbers; [`Faults::jump_clock`] changes
    /// `clock_shift_ms`.
    pub(crate) fn new(seed: u64, clock_shift_ms: std::sync::Arc<AtomicI64>) -> Self {
        Self {
            armed: AtomicBool::new(false),
            rules: Mutex::new(Vec::new()),
            random: AtomicU64::new(seed),
            hits: AtomicU64::new(0),
            frozen_until: Mutex::new(None),
            clock_shift_ms,
        }
    }

    fn rules(&self) -> MutexGuard<'_, Vec<(Rule, Option<Instant>)>> {
        self.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule.
    pub(crate) fn add(&self, rule: Rule) {
        let until = rule.for_ms.map(|for_ms| Instant::now() + Duration::from_millis(for_ms));
        let mut rules = self.rules();
        rules.push((rule, until));
        self.armed.store(true, Ordering::Release);
    }

    /// Removes all rules and thaws timestamps. The clock stays shifted.
    pub(crate) fn clear(&self) {
        self.rules().clear();
        self.armed.store(false, Ordering::Release);
        *self.frozen() = None;
    }

    /// The rules in force, and how often rules have hit so far.
    pub(crate) fn list(&self) -> (Vec<Rule>, u64) {
        let now = Instant::now();
        let rules = self.rules();
        let holding = rules
            .iter()
            .filter(|(rule, until)| rule.count != Some(0) && until.is_none_or(|until| now < until))
            .map(|(rule, _)| rule.clone())
            .collect();
        (holding, self.hits.load(Ordering::Relaxed))
    }

    /// The fault of this stage that hits this call now, if any.
    fn pick(&self, rpc: &str, stage: Stage) -> Option<Fault> {
        self.pick_where(rpc, |fault| fault.stage() == stage)
    }

    fn pick_where(&self, rpc: &str, is_wanted: impl Fn(&Fault) -> bool) -> Option<Fault> {
        if !self.armed.load(Ordering::Acquire) {
            return None;
        }
        let now = Instant::now();
        let mut rules = self.rules();
        for (rule, until) in rules.iter_mut() {
            let speaks = is_wanted(&rule.fault)
                && rule.rpc.as_deref().is_none_or(|name| name == rpc)
                && until.is_none_or(|until| now < until)
                && rule.count != Some(0);
            if !speaks {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            if self.random_unit() >= rule.probability {
                continue;
            }
            if let Some(count) = &mut rule.count {
                *count -= 1;
            }
            self.hits.fetch_add(1, Ordering::Relaxed);
            return Some(rule.fault.clone());
        }
        None
    }

    /// The fault that hits the call as a whole, if any.
    pub(crate) fn transport(&self, rpc: &str) -> Option<Fault> {
        self.pick(rpc, Stage::Transport)
    }

    /// How long a message on an open stream waits.
    pub(crate) fn latency(&self, rpc: &str) -> Duration {
        match self.pick_where(rpc, |fault| matches!(fault, Fault::Latency { .. })) {
            Some(Fault::Latency { delay }) => self.draw(delay),
            Some(_) | None => Duration::ZERO,
        }
    }

    /// The error that the region returns instead of serving the call, if any.
    pub(crate) fn region_error(&self, rpc: &str, region: &Region) -> Option<Box<errorpb::Error>> {
        let fault = self.pick(rpc, Stage::Region)?;
        let mut error = Box::new(errorpb::Error {
            message: "injected".to_owned(),
            ..errorpb::Error::default()
        });
        match fault {
            Fault::NotLeader { name_leader } => {
                error.not_leader = Some(errorpb::NotLeader {
                    region_id: region.id,
                    leader: name_leader.then(|| region.peer()),
                });
            }
            Fault::ServerIsBusy => {
                error.server_is_busy = Some(errorpb::ServerIsBusy {
                    reason: format!("store {STORE_ID} was told to be"),
                    backoff_ms: 0,
                });
            }
            Fault::StaleCommand => error.stale_command = Some(errorpb::StaleCommand {}),
            Fault::MaxTimestampNotSynced => {
                error.max_timestamp_not_synced = Some(errorpb::MaxTimestampNotSynced {});
            }
            Fault::Split
            | Fault::Latency { .. }
            | Fault::LoseReply { .. }
            | Fault::LandLate { .. }
            | Fault::Refuse
            | Fault::FallBack
            | Fault::CommitTsExpired => return None,
        }
        Some(error)
    }

    /// Whether the request's region is split before the request is checked.
    pub(crate) fn splits(&self, rpc: &str) -> bool {
        self.pick(rpc, Stage::Split).is_some()
    }

    /// Whether a prewrite falls back to two phases.
    pub(crate) fn falls_back(&self, rpc: &str) -> bool {
        self.pick(rpc, Stage::Prewrite).is_some()
    }

    /// Whether a commit is refused because its timestamp is too low.
    pub(crate) fn commit_ts_expires(&self, rpc: &str) -> bool {
        self.pick(rpc, Stage::Commit).is_some()
    }

    fn frozen(&self) -> MutexGuard<'_, Option<Instant>> {
        self.frozen_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops all answers on timestamp streams for this long. The connections stay open.
    pub(crate) fn freeze(&self, for_ms: u64) {
        *self.frozen() = Some(Instant::now() + Duration::from_millis(for_ms));
    }

    /// Waits while timestamps are frozen.
    pub(crate) async fn while_frozen(&self) {
        loop {
            let until = *self.frozen();
            match until {
                // In small steps, so that clearing the faults ends the wait.
                Some(until) if Instant::now() < until => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Some(_) | None => return,
            }
        }
    }

    /// Moves the server's clock, forward or back.
    pub(crate) fn jump_clock(&self, by_ms: i64) {
        self.clock_shift_ms.fetch_add(by_ms, Ordering::Relaxed);
    }

    /// Draws the length of a delay.
    pub(crate) fn draw(&self, delay: Delay) -> Duration {
        let milliseconds = match delay {
            Delay::Fixed(exactly) => exactly,
            Delay::Uniform(least, most) => {
                let span = most.saturating_sub(least).saturating_add(1);
                least.saturating_add(self.random() % span)
            }
            Delay::Exponential(mean) => {
                let unit = (1.0 - self.random_unit()).max(f64::MIN_POSITIVE);
                return Duration::from_millis(mean).mul_f64((-unit.ln()).min(100.0));
            }
        };
        Duration::from_millis(milliseconds)
    }

    /// A random number from 0 (inclusive) to 1 (exclusive).
    fn random_unit(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "53 bits are what a float holds exactly")]
        let (numerator, denominator) = ((self.random() >> 11) as f64, (1u64 << 53) as f64);
        numerator / denominator
    }

    /// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
    fn random(&self) -> u64 {
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let state = self.random.fetch_add(STEP, Ordering::Relaxed);
        let mut mixed = state.wrapping_add(STEP);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
