//! The records, written behind the journal: one piece of a checkpoint after the other, beside the batches.

use std::sync::Arc;

use futures::FutureExt as _;
use journal::{Head, Piece};
use storage::{
    CommitError, Kv, KvError, SharedKv,
    keys::Space,
    schema::Schema,
    shard::{read_head, write_piece},
};
use tokio::{
    task::JoinSet,
    time::{Duration, Instant, timeout_at},
};

use super::{
    Lane,
    attempt::{made_anew, read_schema},
};
use crate::core::Domain;

/// Bytes of one piece, about: the store's client cuts a prewrite at 16 KiB, and what goes in one request commits in
/// one phase, so that no lock outlives its writer.
const PIECE_BYTES: usize = 14 << 10;
/// Bytes that the records may lag behind before a checkpoint begins.
const CHECKPOINT_BYTES: usize = 256 << 10;
/// Bytes that the records may lag behind before batches wait for them.
const LAG_MAX: usize = 8 << 20;
/// How long a batch waits for them at most: a store that takes entries and no records is no reason to stop, and every
/// reason to be slow.
const LAG_WAIT: Duration = Duration::from_millis(500);
/// How long pieces fail before a person should look.
const FAILS_LONG: Duration = Duration::from_secs(30);
/// Pause after a piece that was not written.
const PAUSE: Duration = Duration::from_millis(100);

/// What came of a piece.
pub(super) enum Written {
    /// It is durable.
    Landed(Piece),
    /// Somebody else has moved the head on.
    Moved(Head),
    /// It may or may not be durable, or the store is another one: a later piece or look finds out.
    Failed(KvError),
}

/// A checkpoint on its way.
#[derive(Default)]
pub(super) struct Writing {
    /// The piece under way; one at a time.
    piece: JoinSet<Written>,
    /// Up to which entry it goes; none while no checkpoint is written.
    upto: Option<u64>,
    /// Since when the records lag behind.
    lags_since: Option<Instant>,
    /// Nothing is tried before.
    not_before: Option<Instant>,
    /// Since when pieces fail.
    fails_since: Option<Instant>,
}

impl Writing {
    /// What came of the piece under way; never, without one.
    pub(super) async fn next(&mut self) -> Option<Written> {
        self.piece.join_next().await?.ok()
    }
}

impl<D: Domain> Lane<D> {
    /// Takes what has come of a piece, and begins the next one where it is time. Between batches only: a batch may
    /// read records as they were before.
    pub(super) fn write_checkpoint(&mut self) {
        while let Some(Some(written)) = self.checkpoint.next().now_or_never() {
            self.checkpoint_written(written);
        }
        self.begin_piece();
    }

    /// Waits for the records where they lag too far behind.
    pub(super) async fn catch_up_with_checkpoint(&mut self) {
        let until = Instant::now() + LAG_WAIT;
        while self.core.checkpoint().bytes() > LAG_MAX && Instant::now() < until {
            if self.checkpoint.piece.is_empty() {
                tokio::time::sleep(PAUSE).await;
                self.begin_piece();
            } else if let Ok(Some(written)) = timeout_at(until, self.checkpoint.next()).await {
                self.checkpoint_written(written);
            }
        }
    }

    /// Takes what came of a piece.
    pub(super) fn checkpoint_written(&mut self, written: Written) {
        match written {
            Written::Landed(piece) => {
                self.core.landed(&piece);
                self.checkpoint.fails_since = None;
            }
            Written::Moved(head) => self.core.found(head),
            Written::Failed(error) => {
                self.tell_failed(&error);
                self.checkpoint.upto = None;
                self.checkpoint.not_before = Some(Instant::now() + PAUSE);
            }
        }
        self.begin_piece();
    }

    /// Logs why a piece is not written; as a warning once it goes on for long, and now and then from then on.
    fn tell_failed(&mut self, error: &KvError) {
        let (branch, now) = (self.core.branch(), Instant::now());
        let since = *self.checkpoint.fails_since.get_or_insert(now);
        if now - since >= FAILS_LONG {
            self.checkpoint.fails_since = Some(now);
            let bytes = self.core.checkpoint().bytes();
            tracing::warn!(%branch, %error, bytes, "records lag behind the journal, and cannot be written");
        } else {
            tracing::debug!(%branch, %error, "a checkpoint will be tried again");
        }
    }

    fn begin_piece(&mut self) {
        let now = Instant::now();
        if self.core.checkpoint().is_empty() {
            self.checkpoint.lags_since = None;
        } else {
            self.checkpoint.lags_since.get_or_insert(now);
        }
        let may = self.checkpoint.piece.is_empty()
            && self.checkpoint.not_before.is_none_or(|at| at <= now)
            && self.core.is_open()
            && self.trims();
        if !may {
            return;
        }
        let upto = match self.checkpoint.upto {
            Some(upto) => upto,
            None if self.is_checkpoint_due(now) => self.core.tail().seq(),
            None => return,
        };
        let piece = self.core.piece(upto, self.heard, PIECE_BYTES);
        self.checkpoint.upto = piece.is_some().then_some(upto);
        match piece {
            Some(piece) => {
                let (kv, space) = (Arc::clone(&self.seams.kv), self.core.space());
                self.checkpoint.piece.spawn(write(kv, space, self.seams.schema, piece));
            }
            // What was appended meanwhile has a time of its own.
            None => self.checkpoint.lags_since = None,
        }
    }

    fn is_checkpoint_due(&self, now: Instant) -> bool {
        let lags = self.checkpoint.lags_since;
        self.core.checkpoint().bytes() >= CHECKPOINT_BYTES
            || lags.is_some_and(|since| now - since >= self.options.checkpoint_after)
            // While the records lag, entries are trimmed by the pieces that come anyway.
            || (self.core.checkpoint().is_empty() && self.core.wants_trim(self.heard))
    }
}

/// Writes a piece, if the head is the one that it was made for, in the store that the lane was opened on.
async fn write(kv: SharedKv, space: Space, schema: Schema, piece: Piece) -> Written {
    match try_to_write(&*kv, space, schema, &piece).await {
        Ok(None) => Written::Landed(piece),
        Ok(Some(head)) => Written::Moved(head),
        Err(error) => Written::Failed(error),
    }
}

/// Returns the head that was found, where somebody else has moved it on.
async fn try_to_write(
    kv: &dyn Kv,
    space: Space,
    schema: Schema,
    piece: &Piece,
) -> Result<Option<Head>, KvError> {
    let mut txn = kv.begin().await?;
    let found = read_head(&mut *txn, space).await?;
    let is_other = read_schema(&mut *txn).await?.is_some_and(|found| found != schema);
    if is_other || !found.is_current || !found.head.follows(&piece.before) {
        return Err(made_anew());
    }
    if found.head != piece.before {
        return Ok(Some(found.head));
    }
    write_piece(&mut *txn, space, piece);
    match txn.commit().await {
        Ok(_) => Ok(None),
        Err(CommitError::Failed(error)) => Err(error),
        Err(error @ (CommitError::Conflict | CommitError::Undetermined(_))) => {
            Err(KvError::Unavailable(error.to_string()))
        }
    }
}
