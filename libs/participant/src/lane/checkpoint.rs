//! Writes the records behind the journal: one piece of a checkpoint after the other, while batches
//! go on.

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
    attempt::{other_store_error, read_schema},
};
use crate::core::Domain;

/// Approximate bytes of one piece. The store's client splits a prewrite at 16 KiB, and a single
/// request commits in one phase, so that no lock outlives its writer.
const PIECE_BYTES: usize = 14 << 10;
/// Bytes that the records may lag behind before a checkpoint begins.
const CHECKPOINT_BYTES: usize = 256 << 10;
/// Bytes that the records may lag behind before batches wait for them.
const LAG_MAX: usize = 8 << 20;
/// How long a batch waits for the records at most. A store that accepts entries but no records
/// should slow a lane down, not stop it.
const LAG_WAIT: Duration = Duration::from_millis(500);
/// How long pieces must fail before the log warns an operator.
const FAILS_LONG: Duration = Duration::from_secs(30);
/// Pause after a piece that was not written.
const PAUSE: Duration = Duration::from_millis(100);

/// Outcome of a piece.
pub(super) enum Written {
    /// It is durable.
    Landed(Piece),
    /// Another replica has moved the head to this one.
    Moved(Head),
    /// The piece may or may not be durable, or the store is another one. A later piece or look
    /// finds out.
    Failed(KvError),
}

/// The checkpoint in progress.
#[derive(Default)]
pub(super) struct Writing {
    /// The piece being written. There is at most one.
    piece: JoinSet<Written>,
    /// Last entry of the checkpoint. `None` while no checkpoint is written.
    upto: Option<u64>,
    /// When the records began to lag behind.
    lags_since: Option<Instant>,
    /// No piece is tried before this time.
    not_before: Option<Instant>,
    /// When pieces began to fail.
    fails_since: Option<Instant>,
}

impl Writing {
    /// Outcome of the piece being written. `None` without one.
    pub(super) async fn next(&mut self) -> Option<Written> {
        self.piece.join_next().await?.ok()
    }
}

impl<D: Domain> Lane<D> {
    /// Processes the outcome of a piece, and begins the next one when it is due. Call between
    /// batches only: a batch may read records as they were before the piece.
    pub(super) fn write_checkpoint(&mut self) {
        while let Some(Some(written)) = self.checkpoint.next().now_or_never() {
            self.checkpoint_written(written);
        }
        self.begin_piece();
    }

    /// Waits for the records if they lag too far behind.
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

    /// Processes the outcome of a piece, and begins the next one when it is due.
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

    /// Logs why a piece was not written. Once pieces have failed for long, it warns every
    /// [`FAILS_LONG`].
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
            // The lag of entries appended meanwhile is counted anew.
            None => self.checkpoint.lags_since = None,
        }
    }

    fn is_checkpoint_due(&self, now: Instant) -> bool {
        let lags = self.checkpoint.lags_since;
        self.core.checkpoint().bytes() >= CHECKPOINT_BYTES
            || lags.is_some_and(|since| now - since >= self.options.checkpoint_after)
            // While the records lag, their pieces trim entries along the way.
            || (self.core.checkpoint().is_empty() && self.core.wants_trim(self.heard))
    }
}

/// Writes a piece if the head is still the one that it was made for, and the store is the one that
/// the lane was opened on.
async fn write(kv: SharedKv, space: Space, schema: Schema, piece: Piece) -> Written {
    match try_to_write(&*kv, space, schema, &piece).await {
        Ok(None) => Written::Landed(piece),
        Ok(Some(head)) => Written::Moved(head),
        Err(error) => Written::Failed(error),
    }
}

/// Returns the head that was found, if another replica has moved it.
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
        return Err(other_store_error());
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
