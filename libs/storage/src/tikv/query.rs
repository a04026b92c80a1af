//! Reads. Each attempt uses a new snapshot, and attempts repeat until the call's deadline.

use std::{collections::BTreeMap, fmt, ops::Bound, ops::Range, sync::Arc};

use async_trait::async_trait;
use tikv_client::{Error, TimestampExt, TransactionClient, TransactionOptions};
use tokio::time::Instant;
use types::Timestamp;

use super::{
    Inner, base_options,
    classify::{self, ReadVerdict},
    pace::{Interrupted, Pause},
};
use crate::kv::{Key, KvError, Reads, Value, Writes};

type Pairs = Vec<(Key, Value)>;

/// Limit on the pairs requested at once. The client asks every region in the range for that many.
const PAGE: usize = 512;

/// A view at one timestamp.
pub(super) struct TikvReads {
    inner: Arc<Inner>,
    at: Timestamp,
}

/// A read request to the store.
#[derive(Debug, Clone)]
enum Query {
    Get(Key),
    BatchGet(Vec<Key>),
    Scan(Range<Key>, u32),
}

impl Query {
    /// The keys that the request covers.
    fn span(&self) -> Range<Key> {
        match self {
            Self::Get(key) => span([key]),
            Self::BatchGet(keys) => span(keys),
            Self::Scan(range, _) => range.clone(),
        }
    }

    /// Asks once, with a new snapshot, as a snapshot caches what it has read.
    async fn ask(self, client: TransactionClient, at: Timestamp) -> Result<Pairs, Error> {
        let options = base_options(TransactionOptions::new_optimistic());
        let at = tikv_client::Timestamp::from_version(at.0);
        let mut snapshot = client.snapshot(at, options);
        let pairs = |pair: tikv_client::KvPair| (pair.0.into(), pair.1);
        match self {
            Self::Get(key) => {
                let value = snapshot.get(key.clone()).await?;
                Ok(value.map(|value| (key, value)).into_iter().collect())
            }
            Self::BatchGet(keys) => Ok(snapshot.batch_get(keys).await?.map(pairs).collect()),
            Self::Scan(range, limit) => Ok(snapshot.scan(range, limit).await?.map(pairs).collect()),
        }
    }
}

/// The smallest range that contains these keys.
pub(super) fn span<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Range<Key> {
    let (mut start, mut end) = (None, None);
    for key in keys {
        start = Some(start.map_or(key, |start: &Key| start.min(key)));
        end = Some(end.map_or(key, |end: &Key| end.max(key)));
    }
    let mut end = end.cloned().unwrap_or_default();
    end.push(0);
    start.cloned().unwrap_or_default()..end
}

impl TikvReads {
    pub(super) fn new(inner: Arc<Inner>, at: Timestamp) -> Self {
        Self { inner, at }
    }

    /// Repeats a request until there is an answer or the deadline passes.
    async fn query(&self, query: Query) -> Result<Pairs, KvError> {
        let inner = &self.inner;
        let deadline = inner.deadline();
        let mut pause = Pause::default();
        loop {
            let generation = inner.supervisor.client(deadline).await?;
            let attempt = Box::pin(query.clone().ask(generation.client.clone(), self.at));
            let problem = match inner.supervisor.bounded(&generation, deadline, attempt).await {
                Ok(Ok(pairs)) => {
                    inner.supervisor.answered();
                    return Ok(pairs);
                }
                Err(Interrupted::Replaced) => KvError::from(Interrupted::Replaced),
                Err(interrupted) => {
                    inner.verifier.failed();
                    inner.supervisor.went_silent(&generation);
                    return Err(interrupted.into());
                }
                Ok(Err(error)) => match classify::read(&error) {
                    ReadVerdict::Refused => return Err(KvError::Refused(error.to_string())),
                    ReadVerdict::Locked(orphan) => {
                        if let Some(orphan) = orphan {
                            // The lock's age follows from the reads' timestamp and the time since.
                            let waited = inner.waited(deadline);
                            let now = Timestamp::from_physical(self.at.physical().plus_ms(waited));
                            inner.clear_orphan(orphan, query.span(), now);
                        }
                        KvError::Locked
                    }
                    ReadVerdict::Busy => KvError::Unavailable(error.to_string()),
                    ReadVerdict::Unreachable => {
                        inner.supervisor.failed(&generation);
                        KvError::Unavailable(error.to_string())
                    }
                },
            };
            inner.verifier.failed();
            if !pause.wait_until(deadline).await {
                return Err(problem);
            }
        }
    }

    pub(super) const fn at(&self) -> Timestamp {
        self.at
    }

    pub(super) async fn get_over(
        &self,
        key: &[u8],
        own: &Writes,
    ) -> Result<Option<Value>, KvError> {
        if let Some(write) = own.get(key) {
            return Ok(write.clone());
        }
        let pairs = self.query(Query::Get(key.to_vec())).await?;
        Ok(pairs.into_iter().next().map(|(_, value)| value))
    }

    pub(super) async fn batch_get_over(
        &self,
        keys: Vec<Key>,
        own: &Writes,
    ) -> Result<Pairs, KvError> {
        let (mine, mut asked): (Vec<Key>, Vec<Key>) =
            keys.into_iter().partition(|key| own.contains_key(key));
        asked.sort_unstable();
        asked.dedup();
        let mut pairs: BTreeMap<Key, Value> = if asked.is_empty() {
            BTreeMap::new()
        } else {
            self.query(Query::BatchGet(asked)).await?.into_iter().collect()
        };
        for key in mine {
            if let Some(Some(value)) = own.get(&key) {
                pairs.insert(key, value.clone());
            }
        }
        Ok(pairs.into_iter().collect())
    }

    /// Scans page by page. Each page is overlaid with what this transaction has written in it.
    pub(super) async fn scan_over(
        &self,
        range: Range<Key>,
        limit: u32,
        own: &Writes,
    ) -> Result<Pairs, KvError> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut found = Pairs::new();
        let mut start = range.start;
        // The client panics on a range whose end is before its start.
        while start < range.end && found.len() < limit {
            let own_count = own.range::<[u8], _>(half_open(&start, &range.end)).count();
            let want = (limit - found.len()).saturating_add(own_count).min(PAGE);
            let query = Query::Scan(
                start.clone()..range.end.clone(),
                u32::try_from(want).unwrap_or(u32::MAX),
            );
            let page = self.query(query).await?;
            let page_end = match page.last() {
                Some((last, _)) if page.len() >= want => [last.as_slice(), &[0]].concat(),
                Some(_) | None => range.end.clone(),
            };
            let mut merged: BTreeMap<Key, Value> = page.into_iter().collect();
            for (key, write) in own.range::<[u8], _>(half_open(&start, &page_end)) {
                match write {
                    Some(value) => merged.insert(key.clone(), value.clone()),
                    None => merged.remove(key),
                };
            }
            found.extend(merged);
            start = page_end;
        }
        found.truncate(limit);
        Ok(found)
    }
}

fn half_open<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(start), Bound::Excluded(end))
}

impl Inner {
    /// Milliseconds since the start of the call with this deadline.
    fn waited(&self, deadline: Instant) -> u64 {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        self.config.call_timeout_ms.saturating_sub(left)
    }
}

impl fmt::Debug for TikvReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TikvReads").field("at", &self.at).finish_non_exhaustive()
    }
}

reads_over!(TikvReads, |this| this, &Writes::new());
