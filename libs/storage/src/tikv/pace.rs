//! Deadlines, pauses between attempts, and a limit on repeated warnings.

use std::{panic::AssertUnwindSafe, sync::Mutex, time::Duration};

use futures::FutureExt;
use rand::Rng;
use tokio::time::{Instant, sleep, timeout_at};

use super::lock;
use crate::kv::KvError;

/// Why a call of the client ended without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Interrupted {
    /// The deadline passed.
    #[error("no answer in time")]
    TimedOut,
    /// The client panicked. This version panics on answers that it does not expect, for example
    /// while PD has no leader.
    #[error("the client panicked")]
    Panicked,
    /// A newer client has replaced this one.
    #[error("the client was replaced")]
    Replaced,
}

impl From<Interrupted> for KvError {
    fn from(interrupted: Interrupted) -> Self {
        Self::Unavailable(interrupted.to_string())
    }
}

/// Awaits a call of the client until a deadline. The client has no deadlines of its own.
pub(super) async fn bounded<F: Future>(
    deadline: Instant,
    call: F,
) -> Result<F::Output, Interrupted> {
    // State that a panic leaves half done belongs to the client: it is not used again, or is behind
    // the client's locks.
    match timeout_at(deadline, AssertUnwindSafe(call).catch_unwind()).await {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(_)) => Err(Interrupted::Panicked),
        Err(_) => Err(Interrupted::TimedOut),
    }
}

/// Pauses between attempts: from 5 ms, doubled up to 500 ms, each with jitter.
#[derive(Debug)]
pub(super) struct Pause {
    next: Duration,
}

impl Default for Pause {
    fn default() -> Self {
        Self { next: Duration::from_millis(5) }
    }
}

impl Pause {
    const MAX: Duration = Duration::from_millis(500);

    /// Pauses. Returns false at once if the deadline would come first.
    pub(super) async fn wait_until(&mut self, deadline: Instant) -> bool {
        let pause = self.next.mul_f64(rand::rng().random_range(0.5..1.0));
        if Instant::now() + pause >= deadline {
            return false;
        }
        sleep(pause).await;
        self.next = (self.next * 2).min(Self::MAX);
        true
    }
}

/// Limits a log line to one in five seconds.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    last: Mutex<Option<Instant>>,
}

impl Throttle {
    const GAP: Duration = Duration::from_secs(5);

    /// Whether the line may be logged now.
    pub(super) fn ready(&self) -> bool {
        let mut last = lock(&self.last);
        let ready = last.is_none_or(|last| last.elapsed() >= Self::GAP);
        if ready {
            *last = Some(Instant::now());
        }
        ready
    }
}
