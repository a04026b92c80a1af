//! Garbage collection, and erasing ranges of keys.

use super::{CriticalSection, Engine, EngineError, META_SAFE_POINT, UpdateError};
use crate::model::Ts;
use crate::store::{KeyRange, RowChange, Store, StoreError};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Rows changed within one critical section.
const AT_ONCE: usize = 1024;

impl Engine {
    /// Raises the safe point; never lowers it. Returns the one that holds.
    pub(crate) async fn raise_safe_point(&self, safe_point: Ts) -> Result<Ts, EngineError> {
        if safe_point <= self.safe_point() {
            return Ok(self.safe_point());
        }
        let done = self
            .update(&[], |section| {
                section.write_meta(META_SAFE_POINT, Some(safe_point.0.to_be_bytes().to_vec()));
                Ok(((), Vec::new()))
            })
            .await;
        if let Err(UpdateError::Engine(error)) = done {
            return Err(error);
        }
        self.safe_point.fetch_max(safe_point.0, Ordering::AcqRel);
        self.safe_point_moved.notify_one();
        Ok(self.safe_point())
    }

    /// Collects garbage whenever the safe point moves, and once at the start, until the engine
    /// closes.
    pub(crate) async fn collect_garbage_forever(self: Arc<Self>) {
        while !self.closing.load(Ordering::Relaxed) {
            let safe_point = self.safe_point();
            if safe_point > Ts(0)
                && let Err(error) = self.collect_garbage(safe_point).await
            {
                tracing::warn!(error = %error, "garbage not collected");
            }
            self.safe_point_moved.notified().await;
        }
    }

    /// Drops what no read at or above the safe point can see.
    pub(crate) async fn collect_garbage(
        self: &Arc<Self>,
        safe_point: Ts,
    ) -> Result<(), EngineError> {
        self.in_chunks(
            move |store| Box::new(store.deletions_until(safe_point)),
            |section, (commit_ts, key)| {
                let (state, store) = section.state();
                state.drop_deletion(key, *commit_ts, store)
            },
        )
        .await?;
        self.in_chunks(
            move |store| Box::new(store.rollbacks_until(safe_point)),
            |section, (start_ts, key)| {
                section.change(RowChange::Rollback(key.clone(), *start_ts, false));
                Ok(())
            },
        )
        .await?;
        let store = self.store()?;
        store.set_safe_point(safe_point);
        let closing = Arc::clone(&self.closing);
        blocking(move || store.compact_history(&closing)).await
    }

    /// Stops garbage collection at its next step.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.safe_point_moved.notify_one();
    }

    /// Erases all transactional data in the range, whatever its timestamps.
    pub(crate) async fn destroy_range(
        self: &Arc<Self>,
        range: KeyRange,
    ) -> Result<(), EngineError> {
        if range.is_empty() {
            return Ok(());
        }
        let live = within(&range, self.lock().state.live.keys());
        for keys in live.chunks(AT_ONCE) {
            self.change_each(keys, |section, key| {
                section.state().0.erase(key);
                Ok(())
            })
            .await?;
        }
        let rows = range.clone();
        self.in_chunks(
            move |store| {
                Box::new(
                    store.scan_current(&rows, false).map(|row| row.map(|(key, _)| (Ts(0), key))),
                )
            },
            |section, (_, key)| {
                section.state().0.erase(key);
                Ok(())
            },
        )
        .await?;
        let rows = range.clone();
        self.in_chunks(
            move |store| {
                Box::new(
                    store
                        .scan_history_keys(&rows)
                        .map(|row| row.map(|key| (Ts(0), Bytes::from(key)))),
                )
            },
            |section, (_, row_key)| {
                section.change(RowChange::HistoryGone(row_key.to_vec()));
                Ok(())
            },
        )
        .await?;
        self.in_chunks(
            move |store| {
                let range = range.clone();
                Box::new(
                    store.rollbacks_until(crate::model::TS_MAX).filter(move |row| {
                        row.as_ref().map_or(true, |(_, key)| range.contains(key))
                    }),
                )
            },
            |section, (start_ts, key)| {
                section.change(RowChange::Rollback(key.clone(), *start_ts, false));
                Ok(())
            },
        )
        .await
    }

    /// Removes the raw keys of a range.
    pub(crate) async fn delete_raw_range(
        self: &Arc<Self>,
        range: KeyRange,
    ) -> Result<(), EngineError> {
        if range.is_empty() {
            return Ok(());
        }
        let live = within(&range, self.lock().state.raw_live.keys());
        for keys in live.chunks(AT_ONCE) {
            self.change_each(keys, |section, key| {
                section.write_raw(key.clone(), None);
                Ok(())
            })
            .await?;
        }
        self.in_chunks(
            move |store| {
                Box::new(store.scan_raw(&range, false).map(|row| row.map(|(key, _)| (Ts(0), key))))
            },
            |section, (_, key)| {
                section.write_raw(key.clone(), None);
                Ok(())
            },
        )
        .await
    }

    /// Applies `change` to each of these, all within one section.
    async fn change_each<T>(
        &self,
        all: &[T],
        change: impl Fn(&mut CriticalSection<'_>, &T) -> Result<(), StoreError>,
    ) -> Result<(), EngineError> {
        self.update(&[], |section| {
            for one in all {
                change(section, one).map_err(EngineError::from)?;
            }
            Ok(((), Vec::new()))
        })
        .await
        .map_err(engine_error)
    }

    /// Walks rows on disk, as of one moment, and applies `change` to each, [`AT_ONCE`] per section.
    async fn in_chunks(
        self: &Arc<Self>,
        rows: impl FnOnce(&Store) -> Rows + Send + 'static,
        change: impl Fn(&mut CriticalSection<'_>, &(Ts, Bytes)) -> Result<(), StoreError>,
    ) -> Result<(), EngineError> {
        let store = self.store()?;
        let (to_here, mut chunks) = tokio::sync::mpsc::channel(2);
        let reader = tokio::task::spawn_blocking(move || {
            let mut chunk = Vec::with_capacity(AT_ONCE);
            for row in rows(&store) {
                chunk.push(row?);
                if chunk.len() == AT_ONCE {
                    let full = std::mem::replace(&mut chunk, Vec::with_capacity(AT_ONCE));
                    if to_here.blocking_send(full).is_err() {
                        return Ok(());
                    }
                }
            }
            to_here.blocking_send(chunk).ok();
            Ok(())
        });
        while let Some(chunk) = chunks.recv().await {
            if self.closing.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.change_each(&chunk, &change).await?;
        }
        match reader.await {
            Ok(result) => result.map_err(|error: StoreError| error.into()),
            Err(error) => Err(EngineError::ReadFailed(error.to_string())),
        }
    }

    pub(super) fn store(&self) -> Result<Arc<Store>, EngineError> {
        self.lock()
            .store
            .clone()
            .ok_or_else(|| EngineError::ReadOnly("it is being reopened".to_owned()))
    }
}

type Rows = Box<dyn Iterator<Item = Result<(Ts, Bytes), StoreError>>>;

/// Those of the keys that are in the range.
fn within<'a>(range: &KeyRange, keys: impl Iterator<Item = &'a Bytes>) -> Vec<Bytes> {
    keys.filter(|key| range.contains(key)).cloned().collect()
}

fn engine_error(error: UpdateError) -> EngineError {
    match error {
        UpdateError::Engine(error) => error,
        UpdateError::Refused(refusals) => {
            EngineError::ReadFailed(format!("unexpected refusal: {refusals:?}"))
        }
    }
}

async fn blocking(
    work: impl FnOnce() -> Result<(), StoreError> + Send + 'static,
) -> Result<(), EngineError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(error) => Err(EngineError::ReadFailed(error.to_string())),
    }
}
