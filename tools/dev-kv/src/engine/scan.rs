//! Range reads: rows on disk, with the live rows laid over them.

use super::critical_section::{CriticalSection, Look, value_on_disk};
use super::{Done, Engine, EngineError, pending};
use crate::model::{Kind, Lock, Ts};
use crate::store::codec::Current;
use crate::store::{KeyRange, Store, StoreError};
use bytes::Bytes;
use std::cmp::Ordering;
use std::sync::Arc;

/// A range to read.
#[derive(Debug, Clone)]
pub(crate) struct ScanRequest {
    /// The keys to read.
    pub(crate) range: KeyRange,
    /// At most this many pairs; locked keys count.
    pub(crate) limit: usize,
    /// The timestamp to read at.
    pub(crate) version: Ts,
    /// Whether to go in descending order.
    pub(crate) reverse: bool,
    /// Start timestamps of transactions whose locks do not block.
    pub(crate) bypass: Vec<u64>,
}

/// One key of a scan: its value, or the lock in the way.
pub(crate) type ScannedPair = (Bytes, Result<Bytes, Box<Lock>>);

/// A key, and the result of looking it up in memory.
type Overlay = (Bytes, Look);

impl Engine {
    /// The keys of a range that have a value or a blocking lock, in order. Reads the disk and may
    /// take a while.
    pub(crate) async fn scan(
        self: &Arc<Self>,
        request: ScanRequest,
    ) -> Result<Vec<ScannedPair>, EngineError> {
        let engine = Arc::clone(self);
        let scanned = tokio::task::spawn_blocking(move || engine.scan_now(&request)).await;
        let (pairs, seen) =
            scanned.map_err(|error| EngineError::ReadFailed(error.to_string()))??;
        if let Some(done) = seen {
            done.wait().await?;
        }
        Ok(pairs)
    }

    fn scan_now(
        &self,
        request: &ScanRequest,
    ) -> Result<(Vec<ScannedPair>, Option<Arc<Done>>), EngineError> {
        if request.limit == 0 || request.range.is_empty() {
            return Ok((Vec::new(), None));
        }
        let (store, mut overlay, seen) = self.overlay(request)?;
        if request.reverse {
            overlay.sort_unstable_by(|a, b| b.0.cmp(&a.0));
        } else {
            overlay.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        }
        // The snapshot is taken after memory was read, so rows retired since then are on disk in
        // it.
        let mut rows = store.scan_current(&request.range, request.reverse).peekable();
        let mut overlay = overlay.into_iter().peekable();
        let mut pairs = Vec::new();
        while pairs.len() < request.limit {
            let next = match (overlay.peek(), rows.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) | (Some(_), Some(Err(_))) => Ordering::Greater,
                (Some((key, _)), Some(Ok((row_key, _)))) => {
                    let order = key.cmp(row_key);
                    if request.reverse { order.reverse() } else { order }
                }
            };
            let known = if next == Ordering::Greater { None } else { overlay.next() };
            let row = if next == Ordering::Less { None } else { rows.next().transpose()? };
            if let Some(pair) = merge(&store, request.version, known, row)? {
                pairs.push(pair);
            }
        }
        Ok((pairs, seen))
    }

    /// Looks the range up in memory. Scans all live rows, which are only one or two groups and the
    /// locks.
    #[expect(clippy::type_complexity, reason = "three parts of one look, used once")]
    fn overlay(
        &self,
        request: &ScanRequest,
    ) -> Result<(Arc<Store>, Vec<Overlay>, Option<Arc<Done>>), EngineError> {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(store) = inner.store.clone() else {
            return Err(EngineError::ReadOnly("it is being reopened".to_owned()));
        };
        let keys: Vec<Bytes> = inner
            .state
            .live
            .iter()
            .filter(|(key, live)| {
                request.range.contains(key) && (live.lock.is_some() || live.group != 0)
            })
            .map(|(key, _)| key.clone())
            .collect();
        let mut section = CriticalSection {
            state: &mut inner.state,
            store: &store,
            seen: 0,
            take_ts: &mut |_| Err(EngineError::WindowUsedUp),
        };
        section.reads_at(request.version);
        let overlay = keys
            .into_iter()
            .map(|key| {
                let looked = section.look(&key, request.version, &request.bypass);
                (key, looked)
            })
            .collect();
        let seen = pending(&inner.waiting, section.seen);
        Ok((store, overlay, seen))
    }

    /// Raw keys of a range that have not expired at `alive_at` (unix seconds), with their values,
    /// in order.
    pub(crate) async fn scan_raw(
        self: &Arc<Self>,
        range: KeyRange,
        reverse: bool,
        limit: usize,
        alive_at: u64,
    ) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
        let engine = Arc::clone(self);
        let scanned = tokio::task::spawn_blocking(move || {
            engine.scan_raw_now(&range, reverse, limit, alive_at)
        })
        .await;
        let (pairs, seen) =
            scanned.map_err(|error| EngineError::ReadFailed(error.to_string()))??;
        if let Some(done) = seen {
            done.wait().await?;
        }
        Ok(pairs)
    }

    #[expect(clippy::type_complexity, reason = "pairs, and what to wait for")]
    fn scan_raw_now(
        &self,
        range: &KeyRange,
        reverse: bool,
        limit: usize,
        alive_at: u64,
    ) -> Result<(Vec<(Bytes, Bytes)>, Option<Arc<Done>>), EngineError> {
        if limit == 0 || range.is_empty() {
            return Ok((Vec::new(), None));
        }
        let (store, mut overlay, seen) = {
            let inner = self.lock();
            let Some(store) = inner.store.clone() else {
                return Err(EngineError::ReadOnly("it is being reopened".to_owned()));
            };
            let mut newest = 0;
            let overlay: Vec<_> = inner
                .state
                .raw_live
                .iter()
                .filter(|(key, _)| range.contains(key))
                .map(|(key, (value, group))| {
                    newest = newest.max(*group);
                    (key.clone(), value.clone())
                })
                .collect();
            (store, overlay, pending(&inner.waiting, newest))
        };
        overlay.sort_unstable_by(|a, b| if reverse { b.0.cmp(&a.0) } else { a.0.cmp(&b.0) });
        let mut rows = store.scan_raw(range, reverse).peekable();
        let mut overlay = overlay.into_iter().peekable();
        let mut pairs = Vec::new();
        while pairs.len() < limit {
            let from_memory = match (overlay.peek(), rows.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) | (Some(_), Some(Err(_))) => false,
                (Some((key, _)), Some(Ok((row_key, _)))) => {
                    let order = key.cmp(row_key);
                    if order == Ordering::Equal {
                        drop(rows.next());
                        true
                    } else {
                        (order == Ordering::Less) != reverse
                    }
                }
            };
            let (key, value) = if from_memory {
                let Some(known) = overlay.next() else { break };
                known
            } else {
                let Some(row) = rows.next() else { break };
                let (key, value) = row?;
                (key, Some(value))
            };
            if let Some((value, expiry)) = value
                && (expiry == 0 || expiry > alive_at)
            {
                pairs.push((key, value));
            }
        }
        Ok((pairs, seen))
    }

    /// Locks of transactions that started at or before `max_version`, in key order.
    pub(crate) async fn scan_locks(
        &self,
        range: &KeyRange,
        max_version: Ts,
        limit: usize,
    ) -> Result<Vec<(Bytes, Arc<Lock>)>, EngineError> {
        let (mut locks, seen) = {
            let mut inner = self.lock();
            // The caller cleans up to this timestamp, so later async and one-phase commits must be
            // above it.
            if max_version != crate::model::TS_MAX && !self.is_far_future(max_version) {
                inner.state.max_read_ts = inner.state.max_read_ts.max(max_version);
            }
            let mut newest = 0;
            let locks: Vec<_> = inner
                .state
                .live
                .iter()
                .filter_map(|(key, live)| {
                    if !range.contains(key) {
                        return None;
                    }
                    newest = newest.max(live.group);
                    let lock = live.lock.as_ref()?;
                    (lock.start_ts <= max_version).then(|| (key.clone(), Arc::clone(lock)))
                })
                .collect();
            (locks, pending(&inner.waiting, newest))
        };
        locks.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        locks.truncate(limit);
        if let Some(done) = seen {
            done.wait().await?;
        }
        Ok(locks)
    }
}

fn merge(
    store: &Store,
    version: Ts,
    known: Option<Overlay>,
    row: Option<(Bytes, Current)>,
) -> Result<Option<ScannedPair>, StoreError> {
    let (key, value) = match (known, row) {
        (Some((key, Look::Blocked(lock))), _) => return Ok(Some((key, Err(lock)))),
        (Some((key, Look::Value(value))), _) => (key, value),
        (Some((key, Look::OnDisk)), None) => {
            let value = value_on_disk(store, &key, version)?;
            (key, value)
        }
        (_, Some((key, row))) => {
            let value = match row.data {
                Some((newest, value)) if newest.commit_ts <= version => {
                    (newest.kind == Kind::Put).then_some(value)
                }
                Some(_) => value_on_disk(store, &key, version)?,
                None => None,
            };
            (key, value)
        }
        (None, None) => return Ok(None),
    };
    Ok(value.map(|value| (key, Ok(value))))
}
