//! Begins the next KV transaction of a busy lane while an append is under way, so that a batch
//! waits for one answer of the store instead of two.
//!
//! Such a transaction started before the last entry was committed. It must not read, because it
//! could read older data than the lane knows. So it serves a batch only if all rows are in memory
//! and the known state is trusted (J2). Otherwise a fresh transaction takes its place.

use std::{sync::Arc, time::Duration};

use journal::Author;
use storage::{KvError, Txn};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use super::Lane;
use crate::core::{Batch, CallId, Domain};

/// Age beyond which the transaction is not used: its start decides whether a call is past its end,
/// and is the timestamp of reads (P11). A commit may be late by as much anyway.
const AGE_MAX: Duration = Duration::from_millis(100);

/// A KV transaction, and when it was asked for.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) txn: Box<dyn Txn>,
    pub(super) at: Instant,
}

/// A KV transaction that was asked for early, and when.
#[derive(Debug)]
pub(super) struct Early {
    txn: JoinHandle<Result<Box<dyn Txn>, KvError>>,
    at: Instant,
}

impl<D: Domain> Lane<D> {
    /// Begins the next KV transaction if another batch is likely to follow at once: calls are left
    /// over, or this batch itself followed at once. A lane whose rows are often not in memory does
    /// not: it could not use the transaction.
    pub(super) fn begin_early(&mut self, taken: usize) {
        self.early = None;
        if !self.has_read && (self.is_rolling || self.queued.len() > taken) {
            let kv = Arc::clone(&self.seams.kv);
            let txn = tokio::spawn(async move { kv.begin().await });
            self.early = Some(Early { txn, at: Instant::now() });
        }
    }

    /// Takes the KV transaction that was begun early, if it is usable and still young.
    pub(super) async fn take_early(&mut self) -> Option<Begun> {
        let Early { txn, at } = self.early.take().filter(|_| self.wants_to_write())?;
        let txn = timeout_at(at + AGE_MAX, txn).await.ok()?.ok()?.ok()?;
        // A transaction that arrived long ago is ready at once; only its age matters.
        (at.elapsed() < AGE_MAX).then_some(Begun { txn, at })
    }

    /// Applies the queued calls to the known state, without a read. `None` if that is not possible.
    pub(super) fn apply_early(
        &mut self,
        begun: Begun,
        author: Author,
    ) -> Option<(Begun, Vec<CallId>, Batch)> {
        let start = begun.txn.read_ts();
        let Ok(taken) = self.fill(start) else {
            self.core.undo();
            return None;
        };
        match self.core.finish(author) {
            Some(batch) if self.core.is_trusted(start) => {
                self.hear(start);
                self.took = taken.len();
                Some((begun, taken, batch))
            }
            Some(_) | None => {
                self.core.undo();
                None
            }
        }
    }
}
