//! A shop of real processes, as its people know it.

use std::{
    env, fmt, fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use rpc::net::{GrpcNet, Net};
use serde_json::Value;
use system_test::history::people::{self, Habits};
use tempfile::TempDir;

/// Shards of every service: few, so that calls meet.
const SHARDS: u16 = 2;
/// How long a bridge goes on with a request.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// Longest that a shop takes to get ready, or quiet.
const PATIENCE: Duration = Duration::from_mins(1);

/// `till up`, killed with its children when this is dropped: they hold on to the supervisor's life.
pub(crate) struct Shop {
    supervisor: Child,
    directory: TempDir,
    base: u16,
    replicas: Vec<(String, Vec<String>)>,
    habits: Habits,
}

/// TILL_BIN, else the executable beside this test in the target directory.
fn executable() -> PathBuf {
    if let Ok(named) = env::var("TILL_BIN") {
        return named.into();
    }
    let test = env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("till");
    assert!(built.exists(), "build the executable first: cargo build -p till");
    built
}

/// The first of a block of 600 ports that nobody listens on now, below those of outgoing connections.
fn free_block() -> u16 {
    let start = u16::try_from(std::process::id() % 30).unwrap();
    let is_free = |base: &u16| {
        [0, 1, 60, 100, 101, 200, 201, 300, 301, 400, 401]
            .iter()
            .all(|offset| TcpListener::bind((Ipv4Addr::LOCALHOST, base + offset)).is_ok())
    };
    (0..30).map(|step| 11_000 + (start + step) % 30 * 600).find(is_free).unwrap()
}

impl Shop {
    /// Starts one; returns when every role answers.
    pub(crate) fn start(replicas: u64, habits: Habits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let base = free_block();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        let supervisor = Command::new(executable())
            .arg("up")
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(["--http-port", &base.to_string()])
            .args(["--kv-port", &(base + 60).to_string()])
            .args(["--grpc-port-base", &(base + 100).to_string()])
            .args(["--replicas", &replicas.to_string(), "--shards", &SHARDS.to_string()])
            .env("TILL_REQUEST_TIMEOUT_MS", REQUEST_TIMEOUT.as_millis().to_string())
            .env_remove("PD_ENDPOINTS")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut shop = Self { supervisor, directory, base, replicas: Vec::new(), habits };
        let begun = Instant::now();
        let status = loop {
            let status = read_status(&shop.status_file());
            if status["ready"] == Value::Bool(true) {
                break status;
            }
            let log = || fs::read_to_string(shop.directory.path().join("log")).unwrap();
            assert!(begun.elapsed() < PATIENCE, "not ready:\n{}", log());
            sleep(Duration::from_millis(20));
        };
        for role in ["bridge", "coordinator", "order", "stock", "payment"] {
            let children = status["children"].as_array().unwrap().iter();
            let of_role = children.filter(|child| child["role"].as_str().unwrap().ends_with(role));
            let addresses = of_role.map(|child| child["address"].as_str().unwrap().to_owned());
            shop.replicas.push((role.to_owned(), addresses.collect()));
        }
        shop
    }

    /// Who runs where.
    pub(crate) fn status_file(&self) -> PathBuf {
        self.directory.path().join("data/up.json")
    }

    fn books(&self) -> Output {
        let store = format!("127.0.0.1:{}", self.base + 60);
        Command::new(executable())
            .args(["audit", "--quiet", "--pd-endpoints", &store])
            .output()
            .unwrap()
    }

    /// Waits until no vote is without its outcome any more.
    pub(crate) fn quiet(&self) {
        let begun = Instant::now();
        loop {
            let said = self.said();
            if said.contains("(0 unresolved)") {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not get quiet:\n{said}");
            sleep(Duration::from_millis(100));
        }
    }

    fn said(&self) -> String {
        String::from_utf8_lossy(&self.books().stdout).into_owned()
    }

    /// What is wrong with the books.
    pub(crate) fn audit(&self) -> Vec<String> {
        if self.books().status.success() { Vec::new() } else { vec![self.said()] }
    }
}

/// What `up.json` says; nothing while it is not there.
pub(crate) fn read_status(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap_or_default()).unwrap_or_default()
}

impl people::Shop for Shop {
    fn net(&self, _client: &str) -> Arc<dyn Net> {
        Arc::new(GrpcNet::default())
    }

    fn replicas(&self, role: &str) -> Vec<String> {
        self.replicas.iter().find(|(name, _)| name == role).unwrap().1.clone()
    }

    fn shards(&self) -> u16 {
        SHARDS
    }

    fn habits(&self) -> Habits {
        self.habits
    }

    fn may_come_late(&self, _key: &str) -> bool {
        false
    }

    fn note(&self, _client: &str, _what: fmt::Arguments<'_>) {}
}

impl Drop for Shop {
    fn drop(&mut self) {
        self.supervisor.kill().unwrap();
        self.supervisor.wait().unwrap();
    }
}
