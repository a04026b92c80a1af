//! A server in this process, on a free port and with its own directory.

use dev_kv::wire::kvrpcpb;
use dev_kv::wire::pdpb::pd_client::PdClient;
use dev_kv::wire::tikvpb::tikv_client::TikvClient;
use dev_kv::{Config, Error, run};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tikv_client::transaction::{HeartbeatOption, ResolveLocksOptions};
use tikv_client::{
    Backoff, BoundRange, CheckLevel, RetryOptions, Timestamp, TimestampExt as _, TransactionClient,
    TransactionOptions,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};

/// A running server.
pub(crate) struct Server {
    pub(crate) address: String,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), Error>>,
    data: PathBuf,
    // Removed when the server is dropped, unless a restart has taken it.
    directory: Option<TempDir>,
}

impl Server {
    /// Starts a server on a new store.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a server on a new store, with this configuration.
    pub(crate) async fn start_with(configure: impl FnOnce(&mut Config)) -> Self {
        let directory = TempDir::new().unwrap();
        let mut server = Self::open(&directory.path().join("kv"), configure).await;
        server.directory = Some(directory);
        server
    }

    /// Starts a server on the store in this directory.
    pub(crate) async fn open(data: &Path, configure: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self::open_on(listener, data, configure)
    }

    /// Starts a server on the store in this directory, with this listener.
    pub(crate) fn open_on(
        listener: TcpListener,
        data: &Path,
        configure: impl FnOnce(&mut Config),
    ) -> Self {
        let mut config = Config::new(data);
        configure(&mut config);
        let address = listener.local_addr().unwrap().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(run(config, listener, async move {
            stopped.await.ok();
        }));
        Self { address, stop: Some(stop), task, data: data.to_owned(), directory: None }
    }

    /// Stops it and starts it again on the same port and data.
    pub(crate) async fn restart(mut self, configure: impl FnOnce(&mut Config)) -> Self {
        let directory = self.directory.take();
        let (address, data) = (self.address.clone(), self.data.clone());
        self.stop().await;
        let listener = TcpListener::bind(&address).await.unwrap();
        let mut server = Self::open_on(listener, &data, configure);
        server.directory = directory;
        server
    }

    /// Stops it and waits until it has ended.
    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).ok();
        (&mut self.task).await.unwrap().unwrap();
    }

    /// Waits until it ends by itself.
    pub(crate) async fn ended(mut self) -> Result<(), Error> {
        (&mut self.task).await.unwrap()
    }

    /// Its data directory.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// A real client of it.
    pub(crate) async fn client(&self) -> TransactionClient {
        TransactionClient::new(vec![self.address.clone()]).await.unwrap()
    }

    /// A connection for messages of any kind.
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// A client for hand-written messages to the store.
    pub(crate) async fn kv(&self) -> TikvClient<Channel> {
        TikvClient::connect(format!("http://{}", self.address))
            .await
            .unwrap()
            .max_decoding_message_size(usize::MAX)
    }

    /// A client for hand-written messages to the placement driver.
    pub(crate) async fn pd(&self) -> PdClient<Channel> {
        PdClient::connect(format!("http://{}", self.address)).await.unwrap()
    }
}

/// The server as a separate process.
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) address: String,
}

impl Process {
    /// Starts one over this directory.
    pub(crate) async fn start(address: &str, data: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dev-kv"));
        command.args(["--listen", address, "--data-dir"]).arg(data);
        Self::spawn(command, address).await
    }

    /// Starts one by this command.
    pub(crate) async fn spawn(mut command: Command, address: &str) -> Self {
        let child = command.stderr(Stdio::null()).spawn().unwrap();
        let process = Self { child, address: address.to_owned() };
        eventually("the server listens", async || {
            TcpStream::connect(&process.address).await.is_ok()
        })
        .await;
        process
    }

    /// Kills it (SIGKILL).
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Stops it (SIGTERM) and checks that it ends in order.
    pub(crate) fn stop(mut self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// An address on which nobody listens.
pub(crate) fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// Makes one HTTP/1.1 request; returns status and body.
pub(crate) async fn http(
    address: &str,
    method: &str,
    path: &str,
    body: &serde_json::Value,
) -> (u16, serde_json::Value) {
    http_as(address, address, method, path, body).await
}

/// The same, with this name in the Host header.
pub(crate) async fn http_as(
    host: &str,
    address: &str,
    method: &str,
    path: &str,
    body: &serde_json::Value,
) -> (u16, serde_json::Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_default())
}

impl Server {
    /// Adds a fault.
    pub(crate) async fn fault(&self, rule: serde_json::Value) {
        let (status, _) = http(&self.address, "POST", "/dev-kv/v1/faults", &rule).await;
        assert_eq!(status, 204, "{rule}");
    }

    /// Removes all faults.
    pub(crate) async fn no_faults(&self) {
        http(&self.address, "DELETE", "/dev-kv/v1/faults", &serde_json::Value::Null).await;
    }

    /// Sends a command whose answer does not matter.
    pub(crate) async fn tell(&self, path: &str, body: serde_json::Value) {
        let (status, answer) = http(&self.address, "POST", path, &body).await;
        assert!(status < 300, "{path}: {answer}");
    }

    /// Reads a page.
    pub(crate) async fn page(&self, path: &str) -> serde_json::Value {
        let (status, body) = http(&self.address, "GET", path, &serde_json::Value::Null).await;
        assert_eq!(status, 200, "{path}");
        body
    }

    /// Splits regions at keys.
    pub(crate) async fn split(&self, keys: &[&str]) {
        let hex = |byte: u8| format!("{byte:02x}");
        let keys: Vec<String> =
            keys.iter().map(|key| key.bytes().map(hex).collect::<Vec<_>>().concat()).collect();
        self.tell("/dev-kv/v1/split", serde_json::json!({ "keys": keys })).await;
    }
}

/// Optimistic, without heart-beats, and with enough retries to outlive a lock.
pub(crate) fn optimistic() -> TransactionOptions {
    TransactionOptions::new_optimistic()
        .drop_check(CheckLevel::Warn)
        .heartbeat_option(HeartbeatOption::NoHeartbeat)
        .retry_options(RetryOptions::new(
            Backoff::no_jitter_backoff(2, 500, 20),
            Backoff::no_jitter_backoff(2, 500, 20),
        ))
}

/// Pessimistic, without heart-beats.
pub(crate) fn pessimistic() -> TransactionOptions {
    TransactionOptions::new_pessimistic()
        .drop_check(CheckLevel::Warn)
        .heartbeat_option(HeartbeatOption::NoHeartbeat)
}

/// A snapshot of everything committed so far.
pub(crate) async fn snapshot_now(client: &TransactionClient) -> tikv_client::Snapshot {
    let now = client.current_timestamp().await.unwrap();
    client.snapshot(now, optimistic())
}

/// Writes one key; returns its commit timestamp.
pub(crate) async fn put(client: &TransactionClient, key: &str, value: &str) -> u64 {
    let mut txn = client.begin_with_options(optimistic()).await.unwrap();
    txn.put(key.to_owned(), value.to_owned()).await.unwrap();
    txn.commit().await.unwrap().unwrap().version()
}

/// Reads the current value of one key.
pub(crate) async fn get(client: &TransactionClient, key: &str) -> Option<String> {
    let mut snapshot = snapshot_now(client).await;
    let value = snapshot.get(key.to_owned()).await.unwrap();
    value.map(|value| String::from_utf8(value).unwrap())
}

/// Resolves all locks, as the real client does before garbage is collected.
pub(crate) async fn resolve_all_locks(client: &TransactionClient) {
    let now = client.current_timestamp().await.unwrap();
    let options = ResolveLocksOptions::default();
    client.cleanup_locks(BoundRange::from(..), &now, options).await.unwrap();
}

/// The context of a request to the only region of a store.
#[expect(clippy::unnecessary_wraps, reason = "as messages take it")]
pub(crate) fn whole() -> Option<kvrpcpb::Context> {
    Some(kvrpcpb::Context {
        region_id: 2,
        region_epoch: Some(dev_kv::wire::metapb::RegionEpoch { conf_ver: 1, version: 1 }),
        peer: Some(dev_kv::wire::metapb::Peer { id: 2, store_id: 1 }),
        ..kvrpcpb::Context::default()
    })
}

/// A new timestamp, as a number.
pub(crate) async fn now(client: &TransactionClient) -> u64 {
    Timestamp::version(&client.current_timestamp().await.unwrap())
}

/// Waits until `condition` holds, for at most half a minute.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, condition: impl Fn() -> F) {
    for _ in 0..600 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within half a minute: {what}");
}
