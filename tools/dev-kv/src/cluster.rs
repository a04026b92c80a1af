//! The cluster's own records, kept on disk: regions, keyspaces, and the announcements that hold the
//! safe point back.

use crate::engine::{Engine, EngineError, UpdateError};
use crate::error::Error;
use crate::gc::{Announced, PdVersion, Refused};
use crate::keyspaces::{Keyspaces, boundaries};
use crate::regions::{Regions, Table};
use bytes::Bytes;
use std::sync::{Arc, PoisonError, RwLock};

const META_REGIONS: &str = "regions";
const META_KEYSPACES: &str = "keyspaces";
const META_ANNOUNCED: &str = "gc_announced";

/// Why the safe point did not move.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GcError {
    /// The rules forbid it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The engine failed to write the record.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Regions, keyspaces, and the announcements to garbage collection.
#[derive(Debug)]
pub(crate) struct Cluster {
    engine: Arc<Engine>,
    regions: Regions,
    keyspaces: RwLock<Keyspaces>,
    /// The PD version whose rules of garbage collection apply.
    version: PdVersion,
    announced: tokio::sync::Mutex<Announced>,
    /// Held during a change of regions or keyspaces, so that there is one at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Cluster {
    /// Loads the records from disk; a new store has one region and the default keyspace.
    pub(crate) fn load(engine: Arc<Engine>, version: PdVersion) -> Result<Self, Error> {
        let read = |name| engine.read_meta(name).map_err(|error| Error::Store(error.to_string()));
        let damaged = |name| Error::Store(format!("the record of {name} is damaged"));
        let table = match read(META_REGIONS)? {
            Some(row) => Table::decode(&row).ok_or_else(|| damaged(META_REGIONS))?,
            None => Table::new(),
        };
        let keyspaces = match read(META_KEYSPACES)? {
            Some(row) => Keyspaces::decode(&row).ok_or_else(|| damaged(META_KEYSPACES))?,
            None => Keyspaces::default(),
        };
        let announced = match read(META_ANNOUNCED)? {
            Some(row) => serde_json::from_slice(&row).map_err(|_| damaged(META_ANNOUNCED))?,
            None => Announced::default(),
        };
        Ok(Self {
            engine,
            regions: Regions::new(table),
            keyspaces: RwLock::new(keyspaces),
            version,
            announced: tokio::sync::Mutex::new(announced),
            changing: tokio::sync::Mutex::new(()),
        })
    }

    /// The regions.
    pub(crate) fn regions(&self) -> &Regions {
        &self.regions
    }

    /// A keyspace's id; none if there is no such keyspace.
    pub(crate) fn keyspace(&self, name: &str) -> Option<u32> {
        self.keyspaces.read().unwrap_or_else(PoisonError::into_inner).id(name)
    }

    /// A keyspace's id. Makes sure that the keyspace has regions of its own.
    pub(crate) async fn load_keyspace(&self, name: &str) -> Result<Option<u32>, EngineError> {
        let id = self.keyspace(name);
        if let Some(id) = id {
            self.split_all(&boundaries(id)).await?;
        }
        Ok(id)
    }

    /// Splits the regions at these plain keys; returns the number of new regions.
    pub(crate) async fn split_all(&self, keys: &[Bytes]) -> Result<usize, EngineError> {
        let alone = self.changing.lock().await;
        let mut table = Table::clone(&self.regions.now());
        let new = keys.iter().filter(|key| table.split(key)).count();
        if new > 0 {
            self.write(META_REGIONS, table.encode()).await?;
            self.regions.replace(table);
        }
        drop(alone);
        Ok(new)
    }

    /// Splits the region of a plain key at it; returns the number of new regions.
    pub(crate) async fn split(&self, key: &Bytes) -> Result<usize, EngineError> {
        self.split_all(std::slice::from_ref(key)).await
    }

    /// Creates a keyspace unless it exists. Returns its id; none if no id is left.
    pub(crate) async fn add_keyspace(&self, name: &str) -> Result<Option<u32>, EngineError> {
        let alone = self.changing.lock().await;
        let mut keyspaces = self.keyspaces.read().unwrap_or_else(PoisonError::into_inner).clone();
        if keyspaces.add(name) {
            self.write(META_KEYSPACES, keyspaces.encode()).await?;
            *self.keyspaces.write().unwrap_or_else(PoisonError::into_inner) = keyspaces;
        }
        drop(alone);
        Ok(self.keyspace(name))
    }

    /// The PD version whose rules of garbage collection apply.
    pub(crate) fn version(&self) -> PdVersion {
        self.version
    }

    /// Changes the announcements, one change at a time. `change` also gets the PD version, and the
    /// safe point and the time in unix seconds.
    pub(crate) async fn announce<T>(
        &self,
        change: impl FnOnce(&mut Announced, PdVersion, (u64, i64)) -> Result<T, Refused>,
    ) -> Result<T, GcError> {
        let mut announced = self.announced.lock().await;
        let mut changed = announced.clone();
        let now = i64::try_from(self.engine.unix_seconds()).unwrap_or(i64::MAX);
        let answer = change(&mut changed, self.version, (self.engine.safe_point().0, now))?;
        if changed != *announced {
            let row = serde_json::to_vec(&changed)
                .map_err(|error| EngineError::WriteFailed(error.to_string()))?;
            self.write(META_ANNOUNCED, row).await?;
            *announced = changed;
        }
        Ok(answer)
    }

    async fn write(&self, name: &str, row: Vec<u8>) -> Result<(), EngineError> {
        let written = self
            .engine
            .update(&[], |section| {
                section.write_meta(name, Some(row.clone()));
                Ok(((), Vec::new()))
            })
            .await;
        match written {
            Ok(()) | Err(UpdateError::Refused(_)) => Ok(()),
            Err(UpdateError::Engine(error)) => Err(error),
        }
    }
}
