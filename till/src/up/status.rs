//! `up.json`: which process runs where, for tests and for people who want to kill one.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde_json::{Value, json};

/// Name of the file in the data directory.
pub(crate) const FILE: &str = "up.json";

/// What is known about one child.
#[derive(Debug, Clone)]
pub(crate) struct ChildStatus {
    /// Its role, as on the command line.
    pub(crate) role: &'static str,
    /// Number of the replica, from 0.
    pub(crate) replica: u16,
    /// The address by which this machine reaches it.
    pub(crate) address: String,
    /// Addresses that it listens on.
    pub(crate) listen: Vec<String>,
    /// The address on which it answers operators.
    pub(crate) admin: String,
    /// Its process id; None while it is down.
    pub(crate) pid: Option<u32>,
    /// How often it was started again.
    pub(crate) restarts: u64,
}

#[derive(Debug, Default)]
struct State {
    ready: bool,
    children: BTreeMap<String, ChildStatus>,
}

/// The file and its content.
#[derive(Debug)]
pub(crate) struct Status {
    path: PathBuf,
    rest: String,
    tls_dir: Option<String>,
    state: Mutex<State>,
}

impl Status {
    /// Writes the file of a shop before any of its children runs.
    ///
    /// # Errors
    /// Those of the file system. A retry does not help.
    pub(crate) fn create(
        data_dir: &Path,
        rest: String,
        tls_dir: Option<&Path>,
        children: BTreeMap<String, ChildStatus>,
    ) -> io::Result<Self> {
        let status = Self {
            path: data_dir.join(FILE),
            rest,
            tls_dir: tls_dir.map(|path| path.display().to_string()),
            state: Mutex::new(State { ready: false, children }),
        };
        status.write(&status.lock())?;
        Ok(status)
    }

    /// Records that all children answer.
    pub(crate) fn ready(&self) {
        self.update(|state| state.ready = true);
    }

    /// Records that a child has been started.
    pub(crate) fn started(&self, name: &str, pid: Option<u32>) {
        self.update(|state| {
            if let Some(child) = state.children.get_mut(name) {
                child.pid = pid;
            }
        });
    }

    /// Records that a child has ended, and that it is started again if `restart`.
    pub(crate) fn ended(&self, name: &str, restart: bool) {
        self.update(|state| {
            if let Some(child) = state.children.get_mut(name) {
                child.pid = None;
                child.restarts += u64::from(restart);
            }
        });
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        if let Err(error) = self.write(&state) {
            tracing::warn!(%error, path = %self.path.display(), "could not write the status file");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic elsewhere does not damage the state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the file in one step, so that a reader never sees half of it.
    fn write(&self, state: &State) -> io::Result<()> {
        let children: Vec<Value> = state
            .children
            .iter()
            .map(|(name, child)| {
                json!({
                    "name": name,
                    "role": child.role,
                    "replica": child.replica,
                    "address": child.address,
                    "listen": child.listen,
                    "admin": child.admin,
                    "pid": child.pid,
                    "restarts": child.restarts,
                })
            })
            .collect();
        let text = json!({
            "pid": std::process::id(),
            "rest": self.rest,
            "ready": state.ready,
            "tls_dir": self.tls_dir,
            "children": children,
        });
        let new = self.path.with_extension("json.new");
        fs::write(&new, format!("{text:#}\n"))?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_follows_restarts() {
        let dir = tempfile::tempdir().unwrap();
        let child = ChildStatus {
            role: "stock",
            replica: 1,
            address: "127.0.0.1:7201".to_owned(),
            listen: vec!["127.0.0.1:7201".to_owned(), "[::1]:7201".to_owned()],
            admin: "127.0.0.1:7251".to_owned(),
            pid: None,
            restarts: 0,
        };
        let children = BTreeMap::from([("stock-1".to_owned(), child)]);
        let status =
            Status::create(dir.path(), "http://localhost:8000".to_owned(), None, children).unwrap();
        let read = || -> Value {
            serde_json::from_slice(&fs::read(dir.path().join(FILE)).unwrap()).unwrap()
        };
        assert_eq!(read()["ready"], false);
        status.started("stock-1", Some(41));
        assert_eq!(read()["children"][0]["pid"], 41);
        status.ended("stock-1", true);
        assert_eq!(read()["children"][0]["pid"], Value::Null);
        status.started("stock-1", Some(42));
        status.ready();
        let text = read();
        assert_eq!(text["children"][0]["pid"], 42);
        assert_eq!(text["children"][0]["restarts"], 1);
        assert_eq!(text["ready"], true);
    }
}
