//! What overload leaves in the log. Goal: refused requests must not fill a disk, and all of them
//! are counted. Method: a bridge with room for one request, and a reader of its log lines.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};

use crate::shop::Front;

/// Lines at WARN and above: when each came, and how many requests it reports.
#[derive(Debug, Clone)]
struct Lines(Arc<Mutex<Vec<(Duration, u64)>>>, Instant);

struct Requests(u64);

impl Visit for Requests {
    fn record_u64(&mut self, field: &Field, value: u64) {
        if field.name() == "requests" {
            self.0 = value;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }

    fn event(&self, event: &Event<'_>) {
        let mut requests = Requests(0);
        event.record(&mut requests);
        self.0.lock().unwrap().push((self.1.elapsed(), requests.0));
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_is_turned_away_is_told_once_a_second_and_counted() {
    let (front, held, first) = Front::full().await;
    let lines = Lines(Arc::default(), Instant::now());
    let told = tracing::subscriber::set_default(lines.clone());
    let turned_away = async |pause, count| {
        for _ in 0..count {
            assert_eq!(front.call("POST /stock/add/2/1").await.status, 429);
            tokio::time::sleep(pause).await;
        }
    };
    turned_away(Duration::from_millis(5), 500).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    turned_away(Duration::from_secs(2), 1).await;
    drop(told);
    held.notify_one();
    assert_eq!(first.await.unwrap(), 200);

    let lines = lines.0.lock().unwrap();
    assert_eq!(lines.iter().map(|(_, requests)| requests).sum::<u64>(), 501, "{lines:?}");
    let apart =
        |pair: &[(Duration, u64)]| pair[1].0.checked_sub(pair[0].0) >= Some(Duration::from_secs(1));
    assert!(lines.windows(2).all(apart) && lines.len() <= 6, "{lines:?}");
    assert!(lines[0].0 < Duration::from_millis(100), "the first is told at once: {lines:?}");
}
