//! A running shop for tools of others to look at: `till up` in a directory of its own.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{command, workspace::Workspace};

/// How long every role may take until it answers.
const START_MAX: Duration = Duration::from_mins(1);
/// How long it may take to stop in order.
const STOP_MAX: Duration = Duration::from_secs(40);
/// Ports of one shop: REST from the first, the store's in between, gRPC from this far on.
const BLOCK: u16 = 600;
const KV: u16 = 60;
const GRPC: u16 = 100;

/// A shop. Dropped, it is killed with everything that it started.
#[derive(Debug)]
pub(crate) struct Shop {
    process: Child,
    data: PathBuf,
    status: Value,
}

impl Shop {
    /// Starts one of each role on free ports and waits until every role answers.
    pub(crate) fn start(workspace: &Workspace) -> Result<Self, String> {
        Self::over(workspace, &workspace.till(), 1, None)
    }

    /// Starts so many of each role by this executable, over a cluster or over a store of their own.
    pub(crate) fn over(
        workspace: &Workspace,
        till: &Path,
        replicas: u16,
        pd_endpoints: Option<&str>,
    ) -> Result<Self, String> {
        let data = workspace.scratch("shop")?.join(std::process::id().to_string());
        let log = data.with_extension("log");
        let text = fs::File::create(&log).map_err(|error| error.to_string())?;
        let errors = text.try_clone().map_err(|error| error.to_string())?;
        let base = free_block()?;
        let mut up = Command::new(till);
        up.args(["up", "--replicas", &replicas.to_string(), "--data-dir"]).arg(&data);
        if let Some(endpoints) = pd_endpoints {
            up.args(["--pd-endpoints", endpoints]);
        }
        let process = up
            .args(["--http-port", &base.to_string()])
            .args(["--kv-port", &(base + KV).to_string()])
            .args(["--grpc-port-base", &(base + GRPC).to_string()])
            .env_remove("PD_ENDPOINTS")
            .stdin(Stdio::null())
            .stdout(text)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("cannot start the shop: {error}"))?;
        let mut shop = Self { process, data, status: Value::Null };
        shop.wait_ready().map_err(|problem| {
            let tail = fs::read_to_string(&log).unwrap_or_default();
            let lines: Vec<&str> = tail.lines().rev().take(30).collect();
            let tail: Vec<&str> = lines.into_iter().rev().collect();
            format!("{problem}\n{}", tail.join("\n"))
        })?;
        Ok(shop)
    }

    fn wait_ready(&mut self) -> Result<(), String> {
        let began = Instant::now();
        while began.elapsed() < START_MAX {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(format!("the shop ended with {status}"));
            }
            self.read_status();
            if self.status["ready"] == true {
                return Ok(());
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(format!("the shop was not ready within {} s", START_MAX.as_secs()))
    }

    /// Where the REST face is.
    pub(crate) fn rest(&self) -> Result<String, String> {
        Ok(format!("http://{}", self.address("http-bridge")?))
    }

    /// Where the first replica of a role listens.
    pub(crate) fn address(&self, role: &str) -> Result<&str, String> {
        self.said_of(role, "address")
    }

    /// Where the first replica of a role answers operators.
    pub(crate) fn admin(&self, role: &str) -> Result<String, String> {
        Ok(format!("http://{}", self.said_of(role, "admin")?))
    }

    /// Where all replicas of a role answer operators.
    pub(crate) fn admins(&self, role: &str) -> Result<Vec<String>, String> {
        let found = self.children().filter(|child| child["role"] == role);
        let found: Option<Vec<String>> =
            found.map(|child| Some(format!("http://{}", child["admin"].as_str()?))).collect();
        found.ok_or_else(|| format!("no {role} says where it answers"))
    }

    fn said_of(&self, role: &str, what: &str) -> Result<&str, String> {
        self.children()
            .find(|child| child["role"] == role)
            .and_then(|child| child[what].as_str())
            .ok_or_else(|| format!("no {role} runs"))
    }

    /// Kills the first replica of a role, which `till up` starts again.
    pub(crate) fn kill(&mut self, role: &str) -> Result<(), String> {
        self.read_status();
        let child = self.children().find(|child| child["role"] == role);
        let pid = child.and_then(|child| child["pid"].as_u64()).ok_or("no such role runs")?;
        signal("KILL", u32::try_from(pid).map_err(|error| error.to_string())?)
    }

    fn read_status(&mut self) {
        let text = fs::read_to_string(self.data.join("up.json")).ok();
        self.status = text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
    }

    fn children(&self) -> impl Iterator<Item = &Value> {
        self.status["children"].as_array().into_iter().flatten()
    }

    /// Stops it as Ctrl-C does.
    pub(crate) fn stop(mut self) -> Result<(), String> {
        signal("TERM", self.process.id())?;
        let began = Instant::now();
        while began.elapsed() < STOP_MAX {
            if let Ok(Some(status)) = self.process.try_wait() {
                return if status.success() { Ok(()) } else { Err(format!("ended with {status}")) };
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err(format!("the shop did not stop within {} s", STOP_MAX.as_secs()))
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let mut pids = vec![u64::from(self.process.id())];
            pids.extend(self.children().filter_map(|child| child["pid"].as_u64()));
            for pid in pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()) {
                // It may have ended by itself meanwhile.
                let _ended = signal("KILL", pid);
            }
            let _status = self.process.wait();
        }
        // What is left below the target directory harms nobody.
        let _removed = fs::remove_dir_all(&self.data);
    }
}

fn signal(name: &str, pid: u32) -> Result<(), String> {
    command::run(Command::new("kill").args(["-s", name, &pid.to_string()]))
}

/// An address of this machine that nobody listens on at the moment.
pub(crate) fn free_address() -> Result<String, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.to_string()).map_err(|error| error.to_string())
}

/// The first of a block of ports that nobody uses, below the range that the kernel draws outgoing
/// connections from.
fn free_block() -> Result<u16, String> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    (11_000..32_000)
        .step_by(usize::from(BLOCK))
        .rev()
        .find(|base| {
            let mut ports = vec![*base, base + KV, base + KV + 1];
            ports.extend((0..10).map(|group| base + GRPC + 50 * group));
            ports.into_iter().all(is_free)
        })
        .ok_or_else(|| "no free block of ports".to_owned())
}
