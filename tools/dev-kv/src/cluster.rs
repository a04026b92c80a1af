//! The cluster's own records, kept on disk: regions and keyspaces.

use crate::engine::{Engine, EngineError, UpdateError};
use crate::error::Error;
use crate::keyspaces::{Keyspaces, boundaries};
use crate::regions::{Regions, Table};
use bytes::Bytes;
use std::sync::{Arc, PoisonError, RwLock};

const META_REGIONS: &str = "regions";
const META_KEYSPACES: &str = "keyspaces";

/// Regions and keyspaces.
#[derive(Debug)]
pub(crate) struct Cluster {
    engine: Arc<Engine>,
    regions: Regions,
    keyspaces: RwLock<Keyspaces>,
    /// Changes are made one after the other.
    changing: tokio::sync::Mutex<()>,
}

impl Cluster {
    /// What is on disk, or one region and the default keyspace.
    pub(crate) fn load(engine: Arc<Engine>) -> Result<Self, Error> {
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
        Ok(Self {
            engine,
            regions: Regions::new(table),
            keyspaces: RwLock::new(keyspaces),
            changing: tokio::sync::Mutex::new(()),
        })
    }

    /// The regions.
    pub(crate) fn regions(&self) -> &Regions {
        &self.regions
    }

    /// A keyspace's id.
    pub(crate) fn keyspace(&self, name: &str) -> Option<u32> {
        self.keyspaces.read().unwrap_or_else(PoisonError::into_inner).id(name)
    }

    /// A keyspace's id, and regions of its own for it.
    pub(crate) async fn load_keyspace(&self, name: &str) -> Result<Option<u32>, EngineError> {
        let id = self.keyspace(name);
        if let Some(id) = id {
            self.split_all(&boundaries(id)).await?;
        }
        Ok(id)
    }

    /// Splits the region of each plain key at it; answers how many regions are new.
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

    /// Splits the region of a plain key at it.
    pub(crate) async fn split(&self, key: &Bytes) -> Result<usize, EngineError> {
        self.split_all(std::slice::from_ref(key)).await
    }

    /// Makes a keyspace, unless it is there.
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
