//! Reads, which wait until what they show is durable.

use super::critical_section::{CriticalSection, Look, value_on_disk};
use super::{Engine, EngineError, pending};
use crate::model::{Kind, Lock, Ts};
use crate::store::Store;
use bytes::Bytes;
use std::sync::atomic::Ordering;

impl Engine {
    /// The values of `keys` at `version`, in order. A blocking lock is the error of its key.
    pub(crate) async fn read(
        &self,
        keys: &[Bytes],
        version: Ts,
        bypass: &[u64],
    ) -> Result<Vec<Result<Option<Bytes>, Box<Lock>>>, EngineError> {
        let mut answers = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        let (looked, store, seen) = {
            let mut inner = self.lock();
            let inner = &mut *inner;
            let Some(store) = inner.store.clone() else {
                return Err(EngineError::ReadOnly("it is being reopened".to_owned()));
            };
            let mut section = CriticalSection {
                state: &mut inner.state,
                store: &store,
                seen: 0,
                take_ts: &mut |_| Err(EngineError::WindowUsedUp),
            };
            for (position, key) in keys.iter().enumerate() {
                answers.push(match section.look(key, version, bypass) {
                    Look::Blocked(lock) => Err(lock),
                    Look::Value(value) => Ok(value),
                    Look::OnDisk => {
                        missing.push(position);
                        Ok(None)
                    }
                });
            }
            let seen = pending(&inner.waiting, section.seen);
            (inner.state.completed, store, seen)
        };
        self.counters.reads.fetch_add(keys.len() as u64, Ordering::Relaxed);
        if !missing.is_empty() {
            self.counters.misses.fetch_add(missing.len() as u64, Ordering::Relaxed);
            self.read_missing(&store, keys, version, &missing, looked, &mut answers)?;
        }
        if let Some(done) = seen {
            done.wait().await?;
        }
        Ok(answers)
    }

    fn read_missing(
        &self,
        store: &Store,
        keys: &[Bytes],
        version: Ts,
        missing: &[usize],
        looked: u64,
        answers: &mut [Result<Option<Bytes>, Box<Lock>>],
    ) -> Result<(), EngineError> {
        let mut found = Vec::new();
        for position in missing {
            let (Some(key), Some(answer)) = (keys.get(*position), answers.get_mut(*position))
            else {
                continue;
            };
            let row = store.current(key)?;
            *answer = Ok(match &row.data {
                Some((newest, value)) if newest.commit_ts <= version => {
                    (newest.kind == Kind::Put).then(|| value.clone())
                }
                Some(_) => value_on_disk(store, key, version)?,
                None => None,
            });
            if row.newest().is_some() {
                found.push((key, row));
            }
        }
        let mut inner = self.lock();
        for (key, row) in found {
            if inner.state.admits(key, looked) && inner.state.cache.get(key).is_none() {
                inner.state.cache.put(key, &row);
            }
        }
        Ok(())
    }

    /// The values and expiries of raw keys, once what they show is durable.
    pub(crate) async fn read_raw(
        &self,
        keys: &[Bytes],
    ) -> Result<Vec<Option<(Bytes, u64)>>, EngineError> {
        let mut answers = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        let (store, seen) = {
            let inner = self.lock();
            let Some(store) = inner.store.clone() else {
                return Err(EngineError::ReadOnly("it is being reopened".to_owned()));
            };
            let mut seen = 0;
            for (position, key) in keys.iter().enumerate() {
                answers.push(if let Some((value, group)) = inner.state.raw_live.get(key) {
                    seen = seen.max(*group);
                    value.clone()
                } else {
                    missing.push((position, key));
                    None
                });
            }
            (store, pending(&inner.waiting, seen))
        };
        for (position, key) in missing {
            if let Some(answer) = answers.get_mut(position) {
                *answer = store.raw(key)?;
            }
        }
        if let Some(done) = seen {
            done.wait().await?;
        }
        Ok(answers)
    }
}
