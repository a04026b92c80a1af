//! The chore that keeps the store clean. One replica does it for all, elected by a lease; two at once do
//! no harm.
//!
//! Every few minutes it has the store collect what nobody can read any more and the locks that nothing
//! else clears (TiKV waits for somebody to ask), and removes request ids that have expired, with what calls
//! under them came to, whether the store collects or not. Garbage is collected up to ten minutes ago, by the
//! store's clock: no KV transaction lives for as long as a tenth
//! of that. Who reads for longer at one timestamp announces it; below the safe point reads are silently
//! incomplete.

#[cfg(test)]
mod tests;

use std::{ops::Range, time::Duration};

use tokio::time::{Instant, sleep};
use types::{Entropy, ShardId, Timestamp, UnixMillis};

use crate::{
    claims, codec,
    keys::{Kind, Owner, Space},
    kv::{CommitError, Key, Kv, KvError, SharedKv},
    record,
    schema::{self, SchemaError},
};

/// A reader must be announced while its timestamp is younger than this: well before a sweep that does not
/// know of it may pass it.
pub const READER_AGE_MAX: Duration = Duration::from_mins(5);

/// How often, and what is old.
#[derive(Debug, Clone, Copy)]
pub struct JanitorConfig {
    /// Between two sweeps, in milliseconds.
    pub interval_ms: u64,
    /// Age from which on versions are garbage, in milliseconds; at least twice [`READER_AGE_MAX`].
    pub life_ms: u64,
    /// How long the lease lasts without being renewed, in milliseconds.
    pub lease_ms: u64,
    /// Records looked at by one KV transaction.
    pub page: u32,
}

impl Default for JanitorConfig {
    fn default() -> Self {
        Self { interval_ms: 300_000, life_ms: 600_000, lease_ms: 60_000, page: 200 }
    }
}

/// What a sweep did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// When it began, by the store's clock.
    pub at: Timestamp,
    /// The store's safe point after it: up to there garbage is collected.
    pub safe_point: Result<Timestamp, KvError>,
    /// Expired request ids removed.
    pub claims: u64,
    /// Expired answers to calls under a client's own request id removed.
    pub answers: u64,
    /// Expired announcements of readers removed.
    pub readers: u64,
}

/// What its lease is called.
const LEASE: &str = "janitor";

const SPACE: Space = Space::new(Owner::Store, ShardId(0));
const READER: &[u8] = b"reader/";

fn lease_key(chore: &str) -> Key {
    SPACE.record(Kind::Lease, chore.as_bytes())
}

fn reader_key(name: &str) -> Key {
    SPACE.record(Kind::Lease, &[READER, name.as_bytes()].concat())
}

fn readers() -> Range<Key> {
    // '0' follows '/'.
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
                    Ok(done) => tell(&done),
                    Err(error) => tracing::warn!(%error, "could not sweep the store"),
                }
            }
            // Thrice per lease, never in step with other replicas.
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

fn tell(done: &Sweep) {
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

/// Takes or renews the lease of a chore that one replica does for all. False when somebody else has it, and
/// when nobody knows. `holder` is new with every start of a process.
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

/// One sweep, whoever holds the lease.
///
/// # Errors
/// [`KvError`]; the next sweep does what this one left. That the store did not collect its garbage is no
/// such error: the rest is done all the same, and [`Sweep::safe_point`] tells.
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

/// Removes the answers that have expired from every shard.
async fn remove_answers(kv: &dyn Kv, now: Timestamp, page: u32) -> Result<u64, KvError> {
    let schema = schema::read(kv).await.map_err(|error| match error {
        SchemaError::Kv(error) => error,
        error @ (SchemaError::Newer { .. }
        | SchemaError::Shards { .. }
        | SchemaError::OutOfRange(_)) => KvError::Refused(error.to_string()),
    })?;
    let mut removed = 0_u64;
    for owner in Owner::SHARDED {
        for shard in 0..schema.map_or(0, |schema| schema.shards) {
            let range = Space::new(owner, ShardId(shard)).range(Kind::Answer);
            let count = remove(kv, range, page, |key, value| {
                let answer: record::RequestAnswer = codec::decode(key, value)?;
                Ok(answer.keep_until_ms < now.physical().0)
            });
            removed = removed.saturating_add(count.await?);
        }
    }
    Ok(removed)
}

/// The age limit, or the oldest reader that is announced.
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

/// Removes the records that have expired, a page at a time. What changes meanwhile waits for the next
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
                // Whoever needs it says so as an error; here it is in nobody's way.
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

/// Where the page after this one begins.
fn next_page<T>(page: &[(Key, T)], limit: u32) -> Option<Key> {
    let full = page.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
    let (last, _) = page.last().filter(|_| full)?;
    Some([last.as_slice(), &[0]].concat())
}

/// Why a reader could not be announced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnnounceError {
    /// Nothing is certain; announce again before reading on.
    #[error("the announcement may not stand: {0}")]
    Commit(#[from] CommitError),
    /// The store did not answer. Announce again before reading on.
    #[error("the announcement does not stand: {0}")]
    Kv(#[from] KvError),
    /// The timestamp is so old that a sweep may have passed it. Begin again at a fresh one.
    #[error("the timestamp is too old to be announced")]
    TooOld,
}

/// Announces that `name` reads at `at` and will for `keep_ms` milliseconds from now, by the store's
/// clock. To be repeated before that is over; each time replaces the time before.
///
/// # Errors
/// [`AnnounceError`]; without a success, reads at `at` may be incomplete once it is
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

/// Takes an announcement back. Without it, the announcement ends by itself.
///
/// # Errors
/// [`AnnounceError`]; a retry helps.
pub async fn withdraw_reader(kv: &dyn Kv, name: &str) -> Result<(), AnnounceError> {
    let mut txn = kv.begin().await?;
    txn.delete(reader_key(name));
    txn.commit().await?;
    Ok(())
}
