//! The log of overload: a crowd that is answered 429 leaves a line a second, with how many it was.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Between two lines.
const EVERY: Duration = Duration::from_secs(1);

/// What has not been told yet. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct TurnedAway(Arc<Mutex<Untold>>);

#[derive(Debug, Default)]
struct Untold {
    requests: u64,
    /// Of the latest.
    cause: String,
    /// A task tells as long as there is something to tell.
    is_told: bool,
}

impl TurnedAway {
    /// Counts a request. The first is told at once, those behind it by a line every second.
    pub(crate) fn count(&self, cause: &str) {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        untold.requests = untold.requests.saturating_add(1);
        cause.clone_into(&mut untold.cause);
        if !mem::replace(&mut untold.is_told, true) {
            tokio::spawn(self.clone().tell());
        }
    }

    async fn tell(self) {
        while let Some((requests, cause)) = self.take() {
            tracing::warn!(requests, cause, "requests turned away");
            tokio::time::sleep(EVERY).await;
        }
    }

    /// What there is to tell; none ends the telling.
    fn take(&self) -> Option<(u64, String)> {
        let mut untold = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if untold.requests == 0 {
            untold.is_told = false;
            return None;
        }
        Some((mem::take(&mut untold.requests), mem::take(&mut untold.cause)))
    }
}
