//! The behaviour of every backend: one suite for the store in memory, the development server and a
//! real cluster.
//!
//! Each case uses keys below its own prefix, and reports what it saw if that is wrong. A case may
//! run again on the same store with another prefix. Cases run one after the other, because
//! collecting garbage ends all unfinished transactions.

mod conflicts;
mod crashes;
mod reads;
mod time;

use std::{fmt, future::Future, ops::Range, pin::Pin, time::Duration};

use storage::{CommitError, Key, KvError, SharedKv, Value};
use tokio::time::{sleep, timeout};

/// Time limit of a case.
pub const CASE_TIME_MAX: Duration = Duration::from_mins(2);

/// Why a case failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The store gave a wrong answer.
    #[error("{0}")]
    Wrong(String),
    /// A call failed that should succeed.
    #[error("a call failed: {0}")]
    Kv(#[from] KvError),
    /// A commit failed that should succeed.
    #[error("a commit failed: {0}")]
    Commit(#[from] CommitError),
    /// The case did not end within [`CASE_TIME_MAX`].
    #[error("not done within {CASE_TIME_MAX:?}")]
    TooLong,
}

type Outcome = Result<(), Failure>;
type CaseFuture = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A statement about the store, with its check.
#[derive(Clone, Copy)]
pub struct Case {
    /// The statement.
    pub name: &'static str,
    body: fn(CaseContext) -> CaseFuture,
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Case").field(&self.name).finish()
    }
}

impl Case {
    /// Runs the case on keys that begin with `prefix`, which must be new to the store.
    ///
    /// # Errors
    /// [`Failure`], with what was seen.
    pub async fn run(&self, kv: SharedKv, prefix: &[u8]) -> Outcome {
        let context = CaseContext { kv, prefix: prefix.to_vec() };
        timeout(CASE_TIME_MAX, (self.body)(context)).await.unwrap_or(Err(Failure::TooLong))
    }
}

macro_rules! cases {
    ($($module:ident::$case:ident),* $(,)?) => {
        /// All cases.
        pub const CASES: &[Case] = &[
            $(Case { name: stringify!($case), body: |context| Box::pin($module::$case(context)) },)*
        ];
    };
}

cases! {
    reads::a_transaction_reads_its_own_snapshot,
    reads::a_snapshot_shows_its_moment_and_stays,
    reads::a_transaction_sees_its_own_writes,
    reads::an_empty_value_is_a_value,
    reads::a_deleted_key_is_gone,
    reads::keys_of_any_bytes_keep_their_order,
    reads::a_scan_honours_bounds_and_limit,
    reads::a_scan_pages_through_many_keys,
    reads::a_batch_get_returns_what_is_there,
    reads::a_large_answer_arrives_whole,
    conflicts::of_two_writers_the_first_to_commit_wins,
    conflicts::blind_writes_conflict,
    conflicts::an_insert_finds_what_its_snapshot_does_not_show,
    conflicts::removals_conflict,
    conflicts::reads_alone_do_not_conflict,
    conflicts::disjoint_writes_do_not_conflict,
    conflicts::nothing_written_always_commits,
    conflicts::a_big_batch_is_one_transaction,
    conflicts::racing_increments_lose_none,
    conflicts::transfers_keep_the_sum_at_every_moment,
    time::timestamps_rise_under_concurrency,
    time::each_transaction_begins_at_its_own_moment,
    time::what_is_committed_is_seen_from_then_on,
    crashes::a_dropped_transaction_has_no_effect,
    crashes::a_dead_writers_locks_are_cleared,
    crashes::an_undetermined_commit_is_settled_by_its_marker,
    crashes::garbage_collection_keeps_the_newest,
    crashes::an_older_safe_point_is_harmless,
}

/// Runs all cases, one after the other, each below a prefix of its own under `prefix`.
///
/// # Errors
/// The first failure, with the case's name.
pub async fn run(kv: SharedKv, prefix: &[u8]) -> Result<(), (&'static str, Failure)> {
    for case in CASES {
        let below = [prefix, case.name.as_bytes(), b"/"].concat();
        case.run(SharedKv::clone(&kv), &below).await.map_err(|failure| (case.name, failure))?;
    }
    Ok(())
}

/// Returns a [`Failure::Wrong`] with this message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err($crate::conformance::Failure::Wrong(format!($($message)+)));
        }
    };
}
use ensure;

/// A store, and the keys of one case in it.
#[derive(Clone)]
struct CaseContext {
    kv: SharedKv,
    prefix: Key,
}

impl CaseContext {
    fn key(&self, name: impl AsRef<[u8]>) -> Key {
        [self.prefix.as_slice(), name.as_ref()].concat()
    }

    /// From `key(start)` to `key(end)`.
    fn range(&self, start: &str, end: &str) -> Range<Key> {
        self.key(start)..self.key(end)
    }

    /// Everything below the prefix, which must not end in 0xff.
    fn all(&self) -> Range<Key> {
        let mut end = self.prefix.clone();
        if let Some(last) = end.last_mut() {
            *last = last.saturating_add(1);
        }
        self.prefix.clone()..end
    }

    /// Writes until the write is certainly committed. No other writer may use these keys.
    async fn write(&self, pairs: &[(&str, Option<&str>)]) -> Outcome {
        for attempt in 0..20_u64 {
            sleep(Duration::from_millis(attempt * 20)).await;
            let mut txn = self.kv.begin().await?;
            for (name, value) in pairs {
                match value {
                    Some(value) => txn.put(self.key(name), value.as_bytes().to_vec()),
                    None => txn.delete(self.key(name)),
                }
            }
            match txn.commit().await {
                Ok(_) => return Ok(()),
                Err(
                    CommitError::Conflict | CommitError::Failed(_) | CommitError::Undetermined(_),
                ) => {}
            }
        }
        Err(Failure::Wrong("could not write at all".to_owned()))
    }

    async fn put(&self, name: &str, value: &str) -> Outcome {
        self.write(&[(name, Some(value))]).await
    }

    /// The newest value.
    async fn newest(&self, name: &str) -> Result<Option<Value>, Failure> {
        let now = self.kv.timestamp().await?;
        Ok(self.kv.snapshot(now).get(&self.key(name)).await?)
    }

    /// Fails unless the newest value is this.
    async fn expect(&self, name: &str, value: Option<&str>) -> Outcome {
        let found = self.newest(name).await?;
        ensure!(
            found.as_deref() == value.map(str::as_bytes),
            "{name} should be {value:?}, is {}",
            show(found.as_deref())
        );
        Ok(())
    }
}

/// Formats a value for messages.
fn show(value: Option<&[u8]>) -> String {
    format!("{:?}", value.map(String::from_utf8_lossy))
}

/// The keys of pairs, without the prefix.
fn names(context: &CaseContext, pairs: &[(Key, Value)]) -> Vec<String> {
    pairs
        .iter()
        .map(|(key, _)| {
            let name = key.strip_prefix(context.prefix.as_slice()).unwrap_or(key);
            String::from_utf8_lossy(name).into_owned()
        })
        .collect()
}

/// Reads a decimal number; nothing counts as zero.
fn number(value: Option<&[u8]>) -> Result<u64, Failure> {
    let Some(value) = value else { return Ok(0) };
    std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| Failure::Wrong(format!("not a number: {value:?}")))
}
