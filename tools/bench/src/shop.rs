//! A shop for a run: `till up` as a child process, on free ports, in its own directory.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rpc::net::Endpoint;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

/// How long the roles may take until all of them are ready.
const START_MAX: Duration = Duration::from_mins(1);
/// How long an orderly stop may take.
const STOP_MAX: Duration = Duration::from_secs(40);
/// Ports of one shop: REST from the first, the store at [`KV`], gRPC from [`GRPC`] in four groups
/// of 100.
const BLOCK: u16 = 600;
const KV: u16 = 60;
const GRPC: u16 = 100;

/// The shop to start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ShopConfig<'a> {
    /// Where it keeps its data; none means a temporary directory.
    pub(crate) data_dir: Option<&'a Path>,
    /// Replicas of every role.
    pub(crate) replicas: u16,
    /// A TiKV cluster to use; if empty, the shop has its own store.
    pub(crate) pd_endpoints: &'a [String],
    /// Directory of certificates for TLS.
    pub(crate) tls_dir: Option<&'a Path>,
    /// Calls in the largest batch; none means the default.
    pub(crate) batch_calls_max: Option<u16>,
}

/// A running shop. It ends when this is dropped, because its standard input closes.
#[derive(Debug)]
pub(crate) struct Shop {
    process: Child,
    directory: PathBuf,
    http: u16,
    replicas: u16,
    _temporary: Option<TempDir>,
}

impl Shop {
    /// Starts a shop and waits until every role is ready.
    ///
    /// # Errors
    /// In words, with the last lines of its log.
    pub(crate) async fn start(program: &Path, config: ShopConfig<'_>) -> Result<Self, String> {
        let temporary = match config.data_dir {
            Some(_) => None,
            None => Some(tempfile::tempdir().map_err(|error| error.to_string())?),
        };
        let directory = match (&temporary, config.data_dir) {
            (Some(temporary), _) => temporary.path().join("data"),
            (None, given) => given.unwrap_or(Path::new("till-bench")).to_owned(),
        };
        let log_path = directory.with_extension("log");
        let log = fs::File::create(&log_path).map_err(|error| error.to_string())?;
        let base = free_block()?;
        let mut command = Command::new(program);
        command
            .args(["up", "--fresh", "--exit-with-parent", "--data-dir"])
            .arg(&directory)
            .args(["--replicas", &config.replicas.to_string()])
            .args(["--http-port", &base.to_string()])
            .args(["--kv-port", &(base + KV).to_string()])
            .args(["--grpc-port-base", &(base + GRPC).to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        if !config.pd_endpoints.is_empty() {
            command.args(["--pd-endpoints", &config.pd_endpoints.join(",")]);
        }
        if let Some(directory) = config.tls_dir {
            command.arg("--tls-dir").arg(directory);
        }
        if let Some(calls) = config.batch_calls_max {
            // All roles inherit it.
            command.env("TILL_BATCH_CALLS_MAX", calls.to_string());
        }
        let process = command.spawn().map_err(|error| format!("cannot start a shop: {error}"))?;
        let replicas = config.replicas;
        let mut shop = Self { process, directory, http: base, replicas, _temporary: temporary };
        shop.wait_ready().await.map_err(|problem| {
            let log = fs::read_to_string(&log_path).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            format!("{problem}\n{}", tail.join("\n"))
        })?;
        Ok(shop)
    }

    async fn wait_ready(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while begun.elapsed() < START_MAX {
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(format!("the shop ended with {status}"));
            }
            let status = fs::read(self.directory.join("up.json")).unwrap_or_default();
            let status: Value = serde_json::from_slice(&status).unwrap_or_default();
            // The file of an earlier shop may still be there.
            if status["ready"] == true && status["pid"].as_u64() == self.process.id().map(u64::from)
            {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
        Err(format!("the shop was not ready within {} s", START_MAX.as_secs()))
    }

    /// Process id of its `till up`.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Addresses of its REST faces.
    pub(crate) fn rest(&self) -> Vec<Endpoint> {
        let face = |replica| SocketAddr::from((Ipv4Addr::LOCALHOST, self.http + replica));
        (0..self.replicas).map(face).map(Endpoint::from).collect()
    }

    /// Where it keeps its data.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Stops it in order (SIGTERM); kills it if that takes too long.
    pub(crate) async fn stop(mut self) {
        if let Some(pid) = self.process.id().and_then(|pid| i32::try_from(pid).ok()) {
            // This fails if it has just ended by itself, which is fine.
            kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
        }
        if timeout(STOP_MAX, self.process.wait()).await.is_err() {
            drop(self.process.kill().await);
        }
    }
}

/// The first port of a free block. Blocks are below the range from which the kernel draws ports for
/// outgoing connections.
fn free_block() -> Result<u16, String> {
    let is_free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
    (11_000..32_000)
        .step_by(usize::from(BLOCK))
        .find(|base| {
            let mut ports = vec![*base, base + KV];
            ports.extend((0..4).map(|group| base + GRPC + 100 * group));
            ports.into_iter().all(is_free)
        })
        .ok_or_else(|| "no free block of ports".to_owned())
}
