//! Reads pages at one timestamp, however long that takes. It retries failed reads, and makes the
//! janitor keep the versions that it reads.

use std::{ops::Range, time::Duration};

use storage::{
    Key, Kv, KvError, Value,
    janitor::{AnnounceError, announce_reader, withdraw_reader},
};
use tokio::time::{Instant, sleep};
use types::{Classify, ErrorKind, Timestamp};

/// How long an announcement stands, in milliseconds.
const KEEP_MS: u64 = 120_000;
/// How often the announcement is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(30);
/// How long to retry while the store does not answer.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause before a retry.
const PAUSE: Duration = Duration::from_millis(200);

/// Reads at one timestamp.
#[derive(Debug)]
pub struct Scanner<'a> {
    kv: &'a dyn Kv,
    at: Timestamp,
    page: u32,
    name: String,
    announced: Option<Instant>,
}

impl<'a> Scanner<'a> {
    /// Reads `kv` at `at`, in pages of `page` records. `name` distinguishes this reader from all
    /// others.
    ///
    /// # Errors
    /// [`AnnounceError`] if the timestamp cannot be announced.
    pub async fn begin(
        kv: &'a dyn Kv,
        at: Timestamp,
        page: u32,
        name: String,
    ) -> Result<Self, AnnounceError> {
        let mut scanner = Self { kv, at, page: page.max(1), name, announced: None };
        scanner.announce().await?;
        Ok(scanner)
    }

    /// The timestamp of the reads.
    pub const fn at(&self) -> Timestamp {
        self.at
    }

    /// Announces the timestamp to the janitor, if that is due again.
    async fn announce(&mut self) -> Result<(), AnnounceError> {
        if self.announced.is_some_and(|at| at.elapsed() < RENEW_EVERY) {
            return Ok(());
        }
        let begun = Instant::now();
        loop {
            match announce_reader(self.kv, &self.name, self.at, KEEP_MS).await {
                Ok(()) => {
                    self.announced = Some(begun);
                    return Ok(());
                }
                Err(error @ AnnounceError::TooOld) => return Err(error),
                Err(error) if begun.elapsed() >= PATIENCE => return Err(error),
                Err(AnnounceError::Commit(_) | AnnounceError::Kv(_)) => sleep(PAUSE).await,
            }
        }
    }

    /// The next page of a range, and the start of the page after it if there is one.
    ///
    /// # Errors
    /// [`AnnounceError`]. After [`AnnounceError::Kv`] the store has not answered for long: begin
    /// again.
    pub async fn page(
        &mut self,
        range: Range<Key>,
    ) -> Result<(Vec<(Key, Value)>, Option<Key>), AnnounceError> {
        self.page_of(range, self.page).await
    }

    /// Like [`Scanner::page`], with at most `limit` records.
    ///
    /// # Errors
    /// As [`Scanner::page`].
    pub async fn page_of(
        &mut self,
        range: Range<Key>,
        limit: u32,
    ) -> Result<(Vec<(Key, Value)>, Option<Key>), AnnounceError> {
        self.announce().await?;
        let limit = limit.min(self.page);
        let begun = Instant::now();
        let page = loop {
            // A new snapshot for each page, because snapshots cache what they read.
            match self.kv.snapshot(self.at).scan(range.clone(), limit).await {
                Ok(page) => break page,
                Err(error) if is_final(&error) || begun.elapsed() >= PATIENCE => {
                    return Err(error.into());
                }
                Err(_) => sleep(PAUSE).await,
            }
        };
        let full = page.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        let last = page.last().filter(|_| full);
        let next = last.map(|(key, _)| [key.as_slice(), &[0]].concat());
        Ok((page, next))
    }

    /// The value of one key.
    ///
    /// # Errors
    /// As [`Scanner::page`].
    pub async fn get(&mut self, key: &[u8]) -> Result<Option<Value>, AnnounceError> {
        let end = [key, &[0]].concat();
        let (page, _) = self.page(key.to_vec()..end).await?;
        Ok(page.into_iter().next().map(|(_, value)| value))
    }

    /// Withdraws the announcement, so that the janitor may go on.
    pub async fn end(self) {
        // A failure does no harm: the announcement expires by itself.
        if let Err(error) = withdraw_reader(self.kv, &self.name).await {
            tracing::debug!(%error, "the announcement of a reader was not withdrawn");
        }
    }
}

fn is_final(error: &KvError) -> bool {
    error.kind() != ErrorKind::Unavailable
}
