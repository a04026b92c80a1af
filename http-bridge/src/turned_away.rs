//! The log of overload: while requests are answered with 429, one line a second says how many.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Pause between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// Requests that are not logged yet. Cheap to clone; clones share the count.
#[derive(Debug, Clone, Default)]
pub(crate) struct TurnedAway(Arc<Mutex<Unlogged>>);

#[derive(Debug, Default)]
struct Unlogged {
    requests: u64,
    /// Cause of the latest one.
    cause: String,
    /// A task is logging, and goes on for as long as there is something to log.
    is_logging: bool,
}

impl TurnedAway {
    /// Counts a request. The first is logged at once, later ones by one line a second.
    pub(crate) fn count(&self, cause: &str) {
        let mut unlogged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unlogged.requests = unlogged.requests.saturating_add(1);
        cause.clone_into(&mut unlogged.cause);
        if !mem::replace(&mut unlogged.is_logging, true) {
            tokio::spawn(self.clone().log());
        }
    }

    async fn log(self) {
        while let Some((requests, cause)) = self.take() {
            tracing::warn!(requests, cause, "requests turned away");
            tokio::time::sleep(EVERY).await;
        }
    }

    /// What to log next. None ends the logging task.
    fn take(&self) -> Option<(u64, String)> {
        let mut unlogged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if unlogged.requests == 0 {
            unlogged.is_logging = false;
            return None;
        }
        Some((mem::take(&mut unlogged.requests), mem::take(&mut unlogged.cause)))
    }
}
