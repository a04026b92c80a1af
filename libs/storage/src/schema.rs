//! The gate before any access to data: every role checks the store's layout and number of shards.
//!
//! The schema is one record, written by the first program that opens the store, and again by the
//! first one with a newer layout. A program refuses a layout newer than it knows, and a number of
//! shards that contradicts the data.

use std::{borrow::Cow, time::Duration};

use tokio::time::sleep;
use types::{Classify, ErrorKind, SHARDS_MAX, Timestamp};

use crate::{
    codec,
    keys::{Kind, Space},
    kv::{CommitError, Key, Kv, KvError, Reads},
    record,
};

/// Layout of keys and records that this program writes. It also reads layout 1, of release 0.1,
/// which has no stamps, and layout 2, in which every batch wrote the records that it changed. The
/// first program of this release to open the store sets layout 3. Each shard is taken over by its
/// first append.
pub const VERSION: u32 = 3;
/// Default number of shards of every service. It is low because a large batch costs little more
/// than a small one, and high enough for four replicas.
pub const SHARDS_DEFAULT: u16 = 4;
/// Longest pause between two attempts to reach the store.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Attempts to write the record before the error is returned.
const TRIES: u32 = 20;

/// The store's schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schema {
    /// Shards of every service, 1 to [`SHARDS_MAX`]; fixed for the life of the data.
    pub shards: u16,
    /// Identifies the store. It changes when the store is recreated, and when its layout is
    /// upgraded.
    pub created: Timestamp,
}

/// Why the gate stays shut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The store does not answer; [`KvError`] says whether a retry helps.
    #[error("cannot read the schema")]
    Kv(#[from] KvError),
    /// The data was written by a newer program. A retry does not help; a newer program does.
    #[error("the store holds layout {found}, this program knows layouts up to {VERSION}")]
    Newer {
        /// The layout in the store.
        found: u32,
    },
    /// The wanted number of shards is not that of the data. A retry does not help.
    #[error(
        "the store's data lies in {found} shards, {wanted} were asked for; leave the setting out, or \
         set it to {found}"
    )]
    Shards {
        /// The number of shards of the data.
        found: u16,
        /// The number that was asked for.
        wanted: u16,
    },
    /// This number of shards is not possible. A retry does not help.
    #[error("the number of shards must be 1 to {SHARDS_MAX}, not {0}")]
    OutOfRange(u32),
}

impl Classify for SchemaError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Kv(error) => error.kind(),
            Self::Newer { .. } | Self::Shards { .. } | Self::OutOfRange(_) => ErrorKind::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::Kv(error) => error.reason(),
            Self::Newer { .. } | Self::Shards { .. } | Self::OutOfRange(_) => "INTERNAL".into(),
        }
    }
}

fn key() -> Key {
    Space::STORE.record(Kind::Schema, &[])
}

/// Reads the schema. If there is none, writes it with the wanted number of shards or
/// [`SHARDS_DEFAULT`]; if it has an older layout, upgrades it. If several programs do so at once,
/// one writes and the others read.
///
/// # Errors
/// [`SchemaError`]; a retry helps only for [`SchemaError::Kv`] of kind Unavailable.
pub async fn open(kv: &dyn Kv, wanted_shards: Option<u16>) -> Result<Schema, SchemaError> {
    let shards = wanted_shards.unwrap_or(SHARDS_DEFAULT);
    if !(1..=SHARDS_MAX).contains(&shards) {
        return Err(SchemaError::OutOfRange(shards.into()));
    }
    let mut last = KvError::Unavailable("the schema is contended".to_owned());
    for attempt in 0..TRIES {
        sleep(Duration::from_millis(u64::from(attempt) * 10)).await;
        let mut txn = kv.begin().await?;
        let found = match txn.get(&key()).await? {
            Some(found) => Some(codec::decode::<record::Schema>(&key(), &found)?),
            None => None,
        };
        let schema = match &found {
            Some(found) => check(found, wanted_shards)?,
            None => Schema { shards, created: txn.read_ts() },
        };
        if found.as_ref().is_some_and(|found| found.version == VERSION) {
            return Ok(schema);
        }
        let schema = Schema { created: txn.read_ts(), ..schema };
        let written = record::Schema {
            version: VERSION,
            shards: schema.shards.into(),
            created_ts: schema.created.0,
        };
        txn.put(key(), codec::encode(&written));
        match txn.commit().await {
            Ok(_) => {
                let before = found.map(|found| found.version);
                tracing::info!(version = VERSION, before, shards = schema.shards, "schema written");
                return Ok(schema);
            }
            // Another program was first, or this write may have landed. The next attempt finds out.
            Err(CommitError::Conflict) => {}
            Err(CommitError::Undetermined(problem)) => last = KvError::Unavailable(problem),
            Err(CommitError::Failed(error)) if error.kind() == ErrorKind::Unavailable => {
                last = error;
            }
            Err(CommitError::Failed(error)) => return Err(error.into()),
        }
    }
    Err(last.into())
}

/// Reads the schema without writing anything. `None` if there is none.
///
/// # Errors
/// [`SchemaError`]; a retry helps only for [`SchemaError::Kv`] of kind Unavailable.
pub async fn read(kv: &dyn Kv) -> Result<Option<Schema>, SchemaError> {
    let mut snapshot = kv.snapshot(kv.timestamp().await?);
    read_from(&mut *snapshot).await
}

/// Like [`read`], but with these reads.
///
/// # Errors
/// As [`read`].
pub async fn read_from<R: Reads + ?Sized>(reads: &mut R) -> Result<Option<Schema>, SchemaError> {
    let Some(found) = reads.get(&key()).await? else { return Ok(None) };
    check(&codec::decode(&key(), &found)?, None).map(Some)
}

/// Like [`open`], but waits until the store answers. Drop the future to cancel.
///
/// # Errors
/// [`SchemaError`]; a retry does not help.
pub async fn open_when_there(
    kv: &dyn Kv,
    wanted_shards: Option<u16>,
) -> Result<Schema, SchemaError> {
    let mut pause = Duration::from_millis(50);
    let mut told = false;
    loop {
        match open(kv, wanted_shards).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                if !told {
                    tracing::warn!(%error, "waiting for the store");
                    told = true;
                }
            }
            outcome => return outcome,
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn check(found: &record::Schema, wanted: Option<u16>) -> Result<Schema, SchemaError> {
    if found.version > VERSION {
        return Err(SchemaError::Newer { found: found.version });
    }
    let shards = u16::try_from(found.shards)
        .ok()
        .filter(|shards| (1..=SHARDS_MAX).contains(shards))
        .ok_or(SchemaError::OutOfRange(found.shards))?;
    match wanted {
        Some(wanted) if wanted != shards => Err(SchemaError::Shards { found: shards, wanted }),
        Some(_) | None => Ok(Schema { shards, created: Timestamp(found.created_ts) }),
    }
}
