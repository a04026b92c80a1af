//! A lane's work besides answering calls: it looks at the journal, writes checkpoints, drops
//! waiters whose callers are gone, and asks to have unfinished transactions resolved.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use storage::KvError;
use tokio::time::Instant;
use types::{Entropy, TxId, UnixMillis};

use super::{Lane, LaneOptions, attempt::AttemptError, metrics::again};
use crate::core::Domain;

/// Limit on the transactions that a lane asks about at once, to avoid a storm of questions.
const ASKED_AT_ONCE: usize = 64;
/// Milliseconds after which a lane asks about a transaction again.
const ASK_AGAIN_MS: u64 = 500;
/// Milliseconds after its deadline until a lane asks about a transaction whose outcome some branch
/// has not acknowledged.
const ACKNOWLEDGE_GRACE_MS: u64 = 3_000;

/// How long a lane leaves an unwritten shard to its last writer. Each lane draws its own value:
/// when a shop starts, all replicas find the same shards abandoned, and should not step in at the
/// same moment.
pub(super) fn spread(options: &LaneOptions, entropy: &dyn Entropy) -> Duration {
    let least = options.abandoned;
    let millis = u64::try_from(least.as_millis()).unwrap_or(u64::MAX).max(1);
    least + Duration::from_millis(entropy.next_u64() % millis)
}

impl<D: Domain> Lane<D> {
    /// Does the chores that are due.
    pub(super) async fn chores(&mut self) {
        self.cancel_unwanted();
        self.shorten_queue();
        let now = self.seams.clock.now();
        let stale = self.refreshed.is_none_or(|at| at.elapsed() >= self.options.refresh);
        if stale && self.queued.is_empty() {
            // Another replica may have left something unfinished in this shard.
            if let Err(error) = self.attempt().await {
                self.report(&error);
                self.refreshed = Some(Instant::now());
            }
        }
        self.write_checkpoint();
        self.ask_about_the_unfinished();
        self.tell_votes(now);
    }

    /// Whether this lane writes checkpoints and trims the journal. The last lane that appended does
    /// so. The others know the same journal, but would only get in each other's way; they step in
    /// once the last writer is gone.
    pub(super) fn trims(&self) -> bool {
        self.core.tail().is_by(&self.writer)
            || self.moved.is_some_and(|at| at.elapsed() >= self.options.abandoned)
    }

    /// Drops waiters whose caller is gone.
    fn cancel_unwanted(&mut self) {
        let gone: Vec<_> = self
            .core
            .waiting_calls()
            .filter(|id| self.callers.get(id).is_none_or(|caller| caller.reply.is_closed()))
            .collect();
        for id in gone {
            self.callers.remove(&id);
            self.core.cancel(id);
        }
    }

    /// Lists the transactions that should have been resolved by now, and begins to ask about them.
    /// Those that have blocked others for long come first, then votes past their deadline and
    /// unacknowledged outcomes. The overdue ones start at a random point, so that many lanes with
    /// the same list do not all begin at the same end.
    fn ask_about_the_unfinished(&mut self) {
        let now = self.seams.clock.now();
        self.asked.retain(|_, at| now.since(*at) < ASK_AGAIN_MS);
        let waited = UnixMillis(now.0.saturating_sub(self.options.ask_after_ms));
        let overdue: BTreeMap<_, _> = self
            .core
            .table()
            .overdue(now, ACKNOWLEDGE_GRACE_MS)
            .map(|meta| (meta.tx_id, meta.clone()))
            .collect();
        let middle = TxId(self.seams.entropy.next_bytes());
        let after = overdue.range(middle..).chain(overdue.range(..middle));
        self.to_ask = self.core.blockers(waited).into();
        self.to_ask.extend(after.map(|(_, meta)| meta.clone()));
        self.ask_on();
    }

    /// Asks the coordinator role about the next listed transactions, up to [`ASKED_AT_ONCE`] at a
    /// time. Called again whenever an answer has come.
    pub(super) fn ask_on(&mut self) {
        while self.asking.len() < ASKED_AT_ONCE
            && let Some(meta) = self.to_ask.pop_front()
        {
            let tx_id = meta.tx_id;
            if !self.core.table().is_unfinished(tx_id) || self.asked.contains_key(&tx_id) {
                continue;
            }
            self.asked.insert(tx_id, self.seams.clock.now());
            let resolver = Arc::clone(&self.seams.resolver);
            self.asking.spawn(async move { resolver.resolve(meta).await });
        }
    }

    /// Logs why a batch must be tried again.
    pub(super) fn report(&self, error: &AttemptError) {
        again(error);
        let branch = self.core.branch();
        match error {
            AttemptError::Conflict => {
                let calls = self.queued.len();
                tracing::debug!(%branch, calls, "another replica appended first");
            }
            AttemptError::Undetermined(what) => {
                tracing::info!(%branch, what, "outcome of a batch unknown, looking at the journal");
            }
            AttemptError::Kv(error @ (KvError::Unavailable(_) | KvError::Locked)) => {
                tracing::debug!(%branch, %error, "store unavailable, batch will be tried again");
            }
            AttemptError::Kv(error @ (KvError::Corrupt { .. } | KvError::Refused(_))) => {
                tracing::error!(%branch, %error, "batch cannot be written");
            }
        }
    }
}
