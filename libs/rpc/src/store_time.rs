//! An estimate of the store's clock, for processes that do not talk to the store.
//!
//! Processes that use the store get its timestamps, and put the time into each of their answers
//! ([`HEADER`]). Others, above all the bridge, learn it from these answers. In between, the
//! process's own monotonic clock advances the estimate.
//!
//! Invariant: an estimate is never ahead of the store, because the store gave a timestamp out
//! before it arrived here. So an error makes a bound earlier, never later. (This assumes that both
//! clocks agree on the length of a second, so an estimate older than [`TRUSTED_FOR`] is dropped.)

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::response::Response;
use http::{HeaderMap, HeaderValue};
use tokio::time::Instant;
use tonic::service::Routes;
use tower::util::MapResponseLayer;
use types::{Timestamp, UnixMillis};

/// The store's time in an answer, in Unix milliseconds.
pub const HEADER: &str = "till-store-time-ms";

/// How long an estimate is used without news.
const TRUSTED_FOR: Duration = Duration::from_secs(10);

/// The store's time, as this process estimates it. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct StoreTime {
    /// The latest lower bound, and when it was heard.
    heard: Arc<Mutex<Option<(UnixMillis, Instant)>>>,
}

impl StoreTime {
    /// The store's time, or a little earlier; `None` without recent news.
    pub fn now(&self) -> Option<UnixMillis> {
        self.at(Instant::now())
    }

    fn at(&self, now: Instant) -> Option<UnixMillis> {
        // No change under this lock is left half-done, so a panic elsewhere does not matter.
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        estimate(heard?, now)
    }

    /// Takes a timestamp that the store has just given out.
    pub fn hear(&self, timestamp: Timestamp) {
        self.hear_ms(timestamp.physical());
    }

    /// Takes the store's time from the headers of an answer.
    pub fn hear_answer(&self, headers: &impl AsRef<HeaderMap>) {
        let said = headers.as_ref().get(HEADER).and_then(|value| value.to_str().ok());
        if let Some(ms) = said.and_then(|text| text.parse().ok()) {
            self.hear_ms(UnixMillis(ms));
        }
    }

    fn hear_ms(&self, said: UnixMillis) {
        let now = Instant::now();
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        // A slow answer may be older than the estimate.
        if heard.and_then(|heard| estimate(heard, now)).is_none_or(|known| known < said) {
            *heard = Some((said, now));
        }
    }
}

/// The value of an estimate at `now`.
fn estimate((said, at): (UnixMillis, Instant), now: Instant) -> Option<UnixMillis> {
    let since = now.saturating_duration_since(at);
    let ms = u64::try_from(since.as_millis()).ok()?;
    (since <= TRUSTED_FOR).then(|| said.plus_ms(ms))
}

/// Adds the store's time to every answer of these services.
pub fn telling(routes: Routes, time: &StoreTime) -> Routes {
    let time = time.clone();
    let tell = move |mut answer: Response| {
        if let Some(now) = time.now() {
            answer.headers_mut().insert(HEADER, HeaderValue::from(now.0));
        }
        answer
    };
    routes.into_axum_router().layer(MapResponseLayer::new(tell)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[tokio::test(start_paused = true)]
    async fn an_estimate_goes_on_from_the_latest_news_and_ends_without() {
        let time = StoreTime::default();
        assert_eq!(time.now(), None);
        time.hear_ms(UnixMillis(1_000));
        tokio::time::advance(seconds(3)).await;
        assert_eq!(time.now(), Some(UnixMillis(4_000)));
        time.hear_ms(UnixMillis(3_999));
        assert_eq!(time.now(), Some(UnixMillis(4_000)), "it was long on its way");
        time.hear_ms(UnixMillis(4_100));
        tokio::time::advance(seconds(10)).await;
        assert_eq!(time.now(), Some(UnixMillis(14_100)));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(time.now(), None, "clocks drift apart");
        time.hear_ms(UnixMillis(9_000));
        assert_eq!(time.now(), Some(UnixMillis(9_000)), "what is dropped is in nobody's way");
    }
}
