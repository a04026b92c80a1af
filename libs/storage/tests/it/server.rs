//! A development server in this process, on its own runtime, with its faults.

use std::net::SocketAddr;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::oneshot,
    task::JoinHandle,
};

use crate::proxy::Proxy;

/// The address and directory of a server that does not run.
#[derive(Debug)]
pub(crate) struct Stopped {
    addr: SocketAddr,
    dir: TempDir,
}

/// A server that runs until it is dropped or stopped.
#[derive(Debug)]
pub(crate) struct Server {
    addr: SocketAddr,
    dir: Option<TempDir>,
    proxy: Option<Proxy>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<JoinHandle<Result<(), dev_kv::Error>>>,
    /// `None` once the server is being stopped.
    runtime: Option<Runtime>,
}

impl Stopped {
    pub(crate) fn endpoint(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn start(self) -> Server {
        let listener = std::net::TcpListener::bind(self.addr).unwrap();
        Server::run(listener, self.dir, None, |_| {})
    }
}

impl Server {
    /// An empty store of one region.
    pub(crate) fn start() -> Self {
        Self::start_configured(|_| {})
    }

    /// An empty store with this configuration.
    pub(crate) fn start_configured(configure: impl FnOnce(&mut dev_kv::Config)) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Self::run(listener, tempfile::tempdir().unwrap(), None, configure)
    }

    /// An empty store of one region that follows the rules of this version of PD.
    pub(crate) fn start_as(version: dev_kv::PdVersion) -> Self {
        Self::start_configured(|config| config.pd_version = version)
    }

    /// An empty store that clients reach through a proxy.
    pub(crate) async fn start_behind_proxy() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(front, listener.local_addr().unwrap());
        Self::run(listener, tempfile::tempdir().unwrap(), Some(proxy), |_| {})
    }

    /// An address at which nothing listens yet.
    pub(crate) fn reserve() -> Stopped {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        Stopped { addr: listener.local_addr().unwrap(), dir: tempfile::tempdir().unwrap() }
    }

    fn run(
        listener: std::net::TcpListener,
        dir: TempDir,
        proxy: Option<Proxy>,
        configure: impl FnOnce(&mut dev_kv::Config),
    ) -> Self {
        let addr = listener.local_addr().unwrap();
        let mut config = dev_kv::Config::new(dir.path());
        config.cache_bytes = 16 << 20;
        config.block_cache_bytes = 8 << 20;
        config.advertise = proxy.as_ref().map(|proxy| proxy.addr().to_string());
        configure(&mut config);
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let task = runtime.spawn(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = TcpListener::from_std(listener).unwrap();
            dev_kv::run(config, listener, async move { drop(stopped.await) }).await
        });
        let (stop, task, runtime) = (Some(stop), Some(task), Some(runtime));
        Self { addr, dir: Some(dir), proxy, stop, task, runtime }
    }

    /// The address at which clients reach it.
    pub(crate) fn endpoint(&self) -> SocketAddr {
        self.proxy.as_ref().map_or(self.addr, Proxy::addr)
    }

    pub(crate) fn proxy(&self) -> &Proxy {
        self.proxy.as_ref().unwrap()
    }

    /// Stops it. Its data stays.
    pub(crate) async fn stop(mut self) -> Stopped {
        drop(self.stop.take());
        self.task.take().unwrap().await.unwrap().unwrap();
        Stopped { addr: self.addr, dir: self.dir.take().unwrap() }
    }

    /// Adds a fault rule.
    pub(crate) async fn fault(&self, rule: Value) {
        self.ask("POST", "faults", &rule).await;
    }

    pub(crate) async fn clear_faults(&self) {
        self.ask("DELETE", "faults", &Value::Null).await;
    }

    /// Looks out for a call of this name, without disturbing it. See [`Server::was_called`].
    pub(crate) async fn look_out_for(&self, rpc: &str) {
        let nothing = json!({"kind": "latency", "delay": {"fixed": 0}});
        self.fault(json!({"rpc": rpc, "count": 1, "fault": nothing})).await;
    }

    /// Whether a call has come that it was to look out for.
    pub(crate) async fn was_called(&self, rpc: &str) -> bool {
        let response = self.ask("GET", "faults", &Value::Null).await;
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        let page: Value = serde_json::from_str(body).unwrap();
        page["rules"].as_array().unwrap().iter().all(|rule| rule["rpc"] != rpc)
    }

    pub(crate) async fn freeze_timestamps(&self, for_ms: u64) {
        self.ask("POST", "freeze-tso", &json!({ "for_ms": for_ms })).await;
    }

    /// Splits regions before these keys.
    pub(crate) async fn split_at(&self, keys: &[&str]) {
        let hex = |key: &&str| storage::codec::hex(key.as_bytes());
        let keys: Vec<String> = keys.iter().map(hex).collect();
        self.ask("POST", "split", &json!({ "keys": keys })).await;
    }

    /// The addresses of its placement drivers, by their numbers from 1.
    pub(crate) async fn members(&self) -> Vec<String> {
        let response = self.ask("GET", "members", &Value::Null).await;
        let (_, body) = response.split_once("\r\n\r\n").unwrap();
        let page: Value = serde_json::from_str(body).unwrap();
        let url = |member: &Value| {
            let url = member["client_urls"][0].as_str().unwrap();
            url.strip_prefix("http://").unwrap().to_owned()
        };
        page["members"].as_array().unwrap().iter().map(url).collect()
    }

    /// Makes a placement driver hang, answer, or lead.
    pub(crate) async fn member(&self, number: u64, hangs: Option<bool>, leads: bool) {
        let change = json!({ "member": number, "hangs": hangs, "leads": leads });
        self.ask("POST", "members", &change).await;
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> String {
        let body = body.to_string();
        let request = format!(
            "{method} /dev-kv/v1/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 20"), "{method} {path} {body}: {response}");
        response
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Acts like a kill: it does not wait for work in progress.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
