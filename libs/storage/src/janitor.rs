//! The chore that keeps the store clean. One replica, elected by a lease, does it for all. Two at
//! once do no harm.
//!
//! Every few minutes it makes the store drop versions that nobody can read any more and locks that
//! nothing else clears; TiKV does that only when asked. It also removes expired request ids, the
//! expired outcomes of calls under them, and expired announcements of readers, even if the store
//! collects nothing. Garbage is collected up to ten minutes ago, by the store's clock; a KV
//! transaction lives for at most a tenth of that. A process that reads at one timestamp for longer
//! must announce it, because reads below the safe point are silently incomplete.

use std::{ops::Range, time::Duration};

use tokio::time::{Instant, sleep};
use types::{Entropy, Role, ShardId, Timestamp, UnixMillis};

use crate::{
    claims, codec,
    keys::{Kind, Space},
    kv::{CommitError, Key, Kv, KvError, SharedKv},
    record,
    schema::{self, SchemaError},
};

/// A reader must be announced before its timestamp is this old. A sweep that does not know the
/// reader passes that timestamp only much later.
pub const READER_AGE_MAX: Duration = Duration::from_mins(5);

/// Intervals and ages of the janitor.
#[derive(Debug, Clone, Copy)]
pub struct JanitorConfig {
    /// Interval between two sweeps, in milliseconds.
    pub interval_ms: u64,
    /// Age at which versions become garbage, in milliseconds; at least twice [`READER_AGE_MAX`].
    pub life_ms: u64,
    /// How long the lease lasts unless it is renewed, in milliseconds.
    pub lease_ms: u64,
    /// Records that one KV transaction looks at.
    pub page: u32,
}

impl Default for JanitorConfig {
    fn default() -> Self {
        Self { interval_ms: 300_000, life_ms: 600_000, lease_ms: 60_000, page: 200 }
    }
}

/// Result of a sweep.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// When it began, by the store's clock.
    pub at: Timestamp,
    /// The store's safe point after the sweep. Garbage is collected up to there.
    pub safe_point: Result<Timestamp, KvError>,
    /// Number of expired request ids removed.
    pub claims: u64,
    /// Number of expired answers to calls under a client's own request id removed.
    pub answers: u64,
    /// Number of expired announcements of readers removed.
    pub readers: u64,
}

/// Name of its lease.
const LEASE: &str = "janitor";

const SPACE: Space = Space::STORE;
const READER: &[u8] = b"reader/";

fn lease_key(chore: &str) -> Key {
    SPACE.record(Kind::Lease, chore.as_bytes())
}

fn reader_key(name: &str) -> Key {
    SPACE.record(Kind::Lease, &[READER, name.as_bytes()].concat())
}

fn readers() -> Range<Key> {
    // '0' is the byte after '/'.
    SPACE.record(Kind::Lease, READER)..SPACE.record(Kind::Lease, b"reader0")
}

/// Sweeps for as long as it holds the lease, until `shutdown` completes.
pub async fn run(
    kv: SharedKv,
    entropy: &dyn Entropy,
    config: JanitorConfig,
    shutdown: impl Future<Output = ()>,
) {
    let chore = async {
        let holder = entropy.next_bytes();
        let age = &telemetry::metrics().safe_point_age;
        let mut due = Instant::now();
        loop {
            let held = hold_lease(kv.as_ref(), LEASE, holder, config.lease_ms).await;
            age.watch(held);
            if held && due <= Instant::now() {
                due = Instant::now() + Duration::from_millis(config.interval_ms);
                match sweep(kv.as_ref(), config).await {
                    Ok(done) => log_sweep(&done),
                    Err(error) => tracing::warn!(%error, "could not sweep the store"),
                }
            }
            // About three times per lease, and never in step with other replicas.
            let third = (config.lease_ms / 3).max(1);
            sleep(Duration::from_millis(third / 2 + entropy.next_u64() % third)).await;
        }
    };
    tokio::select! {
        biased;
        () = shutdown => {}
        () = chore => {}
    }
}

fn log_sweep(done: &Sweep) {
    let (claims, readers) = (done.claims, done.readers);
    match &done.safe_point {
        Ok(safe_point) => {
            let age_ms = done.at.physical().since(safe_point.physical());
            telemetry::metrics().safe_point_age.set(Duration::from_millis(age_ms));
            tracing::info!(?safe_point, age_ms, claims, readers, "swept the store");
        }
        Err(error) => {
            tracing::warn!(%error, claims, readers, "the store did not collect its garbage");
        }
    }
}

/// Takes or renews the lease of a chore that one replica does for all. Returns false if another
/// replica has it, or if the outcome is unknown. `holder` must be new for each start of a process.
pub async fn hold_lease(kv: &dyn Kv, chore: &str, holder: [u8; 16], lease_ms: u64) -> bool {
    let key = lease_key(chore);
    let attempt = async {
        let mut txn = kv.begin().await?;
        let now = txn.read_ts().physical();
        if let Some(found) = txn.get(&key).await? {
            let found: record::Lease = codec::decode(&key, &found)?;
            if *found.holder != holder && found.until_ms > now.0 {
                return Ok(false);
            }
        }
        let until_ms = now.plus_ms(lease_ms).0;
        let lease = record::Lease { holder: holder.to_vec().into(), until_ms };
        txn.put(key.clone(), codec::encode(&lease));
        Ok::<bool, KvError>(txn.commit().await.is_ok())
    };
    match attempt.await {
        Ok(held) => held,
        Err(error) => {
            tracing::debug!(%error, "no lease");
            false
        }
    }
}

/// Sweeps once, whether or not this replica holds the lease.
///
/// # Errors
/// [`KvError`]; the next sweep does the rest. A store that does not collect its garbage is not an
/// error here: the other work is done, and [`Sweep::safe_point`] has the reason.
pub async fn sweep(kv: &dyn Kv, config: JanitorConfig) -> Result<Sweep, KvError> {
    let now = kv.timestamp().await?;
    let safe_point = match safe_point(kv, now, config).await {
        Ok(safe_point) => kv.collect_garbage(safe_point).await,
        Err(error) => Err(error),
    };
    let claims = remove(kv, claims::SPACE.range(Kind::RequestClaim), config.page, |key, value| {
        let claim: record::RequestClaim = codec::decode(key, value)?;
        Ok(claim.keep_until_ms < now.physical().0)
    });
    let claims = claims.await;
    let answers = remove_answers(kv, now, config.page).await;
    let readers = remove(kv, readers(), config.page, |key, value| {
        let reader: record::Reader = codec::decode(key, value)?;
        Ok(reader.until_ms < now.physical().0)
    });
    let readers = readers.await;
    Ok(Sweep { at: now, safe_point, claims: claims?, answers: answers?, readers: readers? })
}

/// Removes expired answers from every shard.
async fn remove_answers(kv: &dyn Kv, now: Timestamp, page: u32) -> Result<u64, KvError> {
    let schema = schema::read(kv).await.map_err(|error| match error {
        SchemaError::Kv(error) => error,
        error @ (SchemaError::Newer { .. }
        | SchemaError::Shards { .. }
        | SchemaError::OutOfRange(_)) => KvError::Refused(error.to_string()),
    })?;
    let mut removed = 0_u64;
    for service in Role::SERVICES {
        for shard in 0..schema.map_or(0, |schema| schema.shards) {
            let range = Space::of(service, ShardId(shard)).range(Kind::Answer);
            let count = remove(kv, range, page, |key, value| {
                let answer: record::RequestAnswer = codec::decode(key, value)?;
                Ok(answer.keep_until_ms < now.physical().0)
            });
            removed = removed.saturating_add(count.await?);
        }
    }
    Ok(removed)
}

/// The age limit, or the timestamp of the oldest announced reader if that is older.
async fn safe_point(
    kv: &dyn Kv,
    now: Timestamp,
    config: JanitorConfig,
) -> Result<Timestamp, KvError> {
    let oldest_ms = now.physical().0.saturating_sub(config.life_ms);
    let mut safe_point = Timestamp::from_physical(UnixMillis(oldest_ms));
    let mut snapshot = kv.snapshot(now);
    let mut range = readers();
    loop {
        let page = snapshot.scan(range.clone(), config.page).await?;
        for (key, value) in &page {
            let reader: record::Reader = codec::decode(key, value)?;
            if reader.until_ms >= now.physical().0 {
                safe_point = safe_point.min(Timestamp(reader.at));
            }
        }
        match next_page(&page, config.page) {
            Some(start) => range.start = start,
            None => return Ok(safe_point),
        }
    }
}

/// Removes expired records, a page at a time. A page that changes meanwhile waits for the next
/// sweep.
async fn remove(
    kv: &dyn Kv,
    mut range: Range<Key>,
    page: u32,
    expired: impl Fn(&[u8], &[u8]) -> Result<bool, KvError> + Send + Sync,
) -> Result<u64, KvError> {
    let mut removed = 0_u64;
    loop {
        let mut txn = kv.begin().await?;
        let found = txn.scan(range.clone(), page).await?;
        let next = next_page(&found, page);
        let mut count = 0;
        for (key, value) in found {
            match expired(&key, &value) {
                Ok(true) => {
                    txn.delete(key);
                    count += 1;
                }
                Ok(false) => {}
                // Callers that need the record report an error. Here the error does no harm.
                Err(error) => tracing::warn!(%error, "left a record that cannot be read"),
            }
        }
        match txn.commit().await {
            Ok(_) => removed = removed.saturating_add(count),
            Err(CommitError::Conflict | CommitError::Undetermined(_)) => {}
            Err(CommitError::Failed(error)) => return Err(error),
        }
        match next {
            Some(start) => range.start = start,
            None => return Ok(removed),
        }
    }
}

/// Start of the next page. `None` after the last one.
fn next_page<T>(page: &[(Key, T)], limit: u32) -> Option<Key> {
    let full = page.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let (last, _) = page.last().filter(|_| full)?;
    Some([last.as_slice(), &[0]].concat())
}

/// Why a reader could not be announced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// It is unknown whether the reader is announced. Announce again before reading on.
    #[error("the outcome of the announcement is unknown: {0}")]
    Commit(#[from] CommitError),
    /// The store did not answer. Announce again before reading on.
    #[error("cannot announce the reader: {0}")]
    Kv(#[from] KvError),
    /// The timestamp is so old that a sweep may have passed it. Begin again at a fresh one.
    #[error("the timestamp is too old to be announced")]
    TooOld,
}

/// Announces that `name` reads at `at`, for `keep_ms` milliseconds from now by the store's clock.
/// Repeat it before that time is over; each announcement replaces the one before.
///
/// # Errors
/// [`AnnounceError`]. Without a success, reads at `at` may be incomplete once it is
/// [`READER_AGE_MAX`] old.
pub async fn announce_reader(
    kv: &dyn Kv,
    name: &str,
    at: Timestamp,
    keep_ms: u64,
) -> Result<(), AnnounceError> {
    let key = reader_key(name);
    let mut txn = kv.begin().await?;
    let now = txn.read_ts().physical();
    let stands = match txn.get(&key).await? {
        Some(found) => {
            let found: record::Reader = codec::decode(&key, &found)?;
            found.at <= at.0 && found.until_ms >= now.0
        }
        None => false,
    };
    let age = Duration::from_millis(now.since(at.physical()));
    if !stands && age >= READER_AGE_MAX {
        return Err(AnnounceError::TooOld);
    }
    let reader = record::Reader { at: at.0, until_ms: now.plus_ms(keep_ms).0 };
    txn.put(key, codec::encode(&reader));
    txn.commit().await?;
    Ok(())
}

/// Withdraws an announcement. It would also expire by itself.
///
/// # Errors
/// [`AnnounceError`]; a retry helps.
pub async fn withdraw_reader(kv: &dyn Kv, name: &str) -> Result<(), AnnounceError> {
    let mut txn = kv.begin().await?;
    txn.delete(reader_key(name));
    txn.commit().await?;
    Ok(())
}
