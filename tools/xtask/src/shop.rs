//! A running shop for the tools of other projects: `till up` in a directory of its own.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{command, files, workspace::Workspace};

/// Longest time until every role is ready.
const START_MAX: Duration = Duration::from_mins(1);
/// Longest time of an orderly stop.
const STOP_MAX: Duration = Duration::from_secs(40);
/// Ports of one shop: a block, whose first port is REST's, and the offsets of the store's ports and
/// of gRPC's.
const BLOCK: u16 = 600;
const KV: u16 = 60;
const GRPC: u16 = 100;

/// A shop. Dropping it kills it with all its processes.
#[derive(Debug)]
pub(crate) struct Shop {
    process: Child,
    data: PathBuf,
    status: Value,
}

impl Shop {
    /// Starts one replica of each role on free ports, and waits until every role is ready.
    pub(crate) fn start(workspace: &Workspace) -> Result<Self, String> {
        Self::over(workspace, &workspace.till(), 1, None)
    }

    /// Starts a shop with this executable and number of replicas, over a cluster or a store of its
    /// own.
    pub(crate) fn over(
        workspace: &Workspace,
        till: &Path,
        replicas: u16,
        pd_endpoints: Option<&str>,
    ) -> Result<Self, String> {
        let data = workspace.scratch("shop")?.join(std::process::id().to_string());
        let log = data.with_extension("log");
        let base = free_block()?;
        let mut up = Command::new(till);
        up.args(["up", "--replicas", &replicas.to_string(), "--data-dir"]).arg(&data);
        if let Some(endpoints) = pd_endpoints {
            up.args(["--pd-endpoints", endpoints]);
        }
        up.args(["--http-port", &base.to_string()])
            .args(["--kv-port", &(base + KV).to_string()])
            .args(["--grpc-port-base", &(base + GRPC).to_string()])
            .env_remove("PD_ENDPOINTS");
        let process = command::logged(&mut up, &log)?;
        let mut shop = Self { process, data, status: Value::Null };
        shop.wait_ready().map_err(|problem| format!("{problem}\n{}", files::tail(&log, 30)))?;
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

    /// URL of REST.
    pub(crate) fn rest(&self) -> Result<String, String> {
        Ok(format!("http://{}", self.address("http-bridge")?))
    }

    /// Address of a role's first replica.
    pub(crate) fn address(&self, role: &str) -> Result<&str, String> {
        let mut replicas = self.children().filter(|child| child["role"] == role);
        let address = replicas.next().and_then(|child| child["address"].as_str());
        address.ok_or_else(|| format!("no {role} runs"))
    }

    /// URLs of the admin listeners of all replicas of a role.
    pub(crate) fn admins(&self, role: &str) -> Vec<String> {
        let replicas = self.children().filter(|child| child["role"] == role);
        let admins = replicas.filter_map(|child| child["admin"].as_str());
        admins.map(|admin| format!("http://{admin}")).collect()
    }

    /// Kills the first replica of a role; `till up` restarts it.
    pub(crate) fn kill(&mut self, role: &str) -> Result<(), String> {
        self.read_status();
        let child = self.children().find(|child| child["role"] == role);
        let pid = child.and_then(|child| child["pid"].as_u64()).ok_or("no such role runs")?;
        signal("KILL", u32::try_from(pid).map_err(|error| error.to_string())?)
    }

    fn read_status(&mut self) {
        self.status = files::json(self.data.join("up.json")).unwrap_or_default();
    }

    fn children(&self) -> impl Iterator<Item = &Value> {
        self.status["children"].as_array().into_iter().flatten()
    }

    /// Stops the shop in order, as Ctrl-C does.
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
                // It may have ended already.
                let _ended = signal("KILL", pid);
            }
            let _status = self.process.wait();
        }
        // Leftovers below the target directory do no harm.
        let _removed = files::no_folder(&self.data);
    }
}

fn signal(name: &str, pid: u32) -> Result<(), String> {
    command::run(Command::new("kill").args(["-s", name, &pid.to_string()]))
}

/// A local address with a port that is free now.
pub(crate) fn free_address() -> Result<String, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.to_string()).map_err(|error| error.to_string())
}

/// The first port of a block whose ports for a shop are free, below the range of outgoing
/// connections.
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
