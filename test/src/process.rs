//! A shop of real processes on ports of its own.

use std::{
    env, fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tempfile::TempDir;
use types::Role;

/// `till up`. Its children watch the supervisor's life, so that dropping this kills them all.
#[derive(Debug)]
pub struct Shop {
    supervisor: Child,
    directory: TempDir,
    grpc_base: u16,
}

/// The executable: TILL_BIN, or else the one beside this test in the target directory.
pub fn executable() -> PathBuf {
    #[expect(clippy::disallowed_methods, reason = "a test has no command line of its own")]
    if let Ok(named) = env::var("TILL_BIN") {
        return named.into();
    }
    let test = env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap().join("till");
    assert!(built.exists(), "build the executable first: cargo build -p till");
    built
}

/// The start of a block of 600 ports of which a shop's are free now. The blocks are below the ports
/// of outgoing connections.
pub fn free_block() -> u16 {
    // Tests that run at the same time must not choose the same free block.
    static SHOPS: AtomicU16 = AtomicU16::new(0);
    let mine = SHOPS.fetch_add(7, Ordering::Relaxed);
    let start = u16::try_from(std::process::id() % 30).unwrap() + mine;
    (0..30)
        .map(|step| 11_000 + (start + step) % 30 * 600)
        .find(|base| {
            [0, 1, 60, 100, 101, 200, 201, 300, 301, 400, 401]
                .iter()
                .all(|offset| TcpListener::bind((Ipv4Addr::LOCALHOST, base + offset)).is_ok())
        })
        .unwrap()
}

/// Runs a `till` command to its end, and returns its output.
pub fn till(args: &[&str]) -> Output {
    Command::new(executable()).args(args).env_remove("PD_ENDPOINTS").output().unwrap()
}

/// Ends a process by SIGTERM, and waits until it exits with success.
pub fn end(process: &mut Child) {
    let pid = Pid::from_raw(process.id().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(process.wait().unwrap().success());
}

/// The content of `up.json`; null while there is none.
pub fn read_status(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap_or_default()).unwrap_or_default()
}

impl Shop {
    /// Starts a shop, and returns once every role is ready.
    pub fn start() -> Self {
        Self::launch(&[], &[])
    }

    /// [`Shop::start`] with more flags of `till up`.
    pub fn start_with(flags: &[&str]) -> Self {
        Self::launch(flags, &[])
    }

    /// [`Shop::start`] with more environment variables for all roles.
    pub fn start_within(variables: &[(&str, &str)]) -> Self {
        Self::launch(&[], variables)
    }

    /// [`Shop::start`] with more flags of `till up` and more environment variables for all roles.
    pub fn launch(flags: &[&str], variables: &[(&str, &str)]) -> Self {
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
            .args(flags)
            .env_remove("PD_ENDPOINTS")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut shop = Self { supervisor, directory, grpc_base: base + 100 };
        let begun = Instant::now();
        while !shop.is_ready() {
            let ended = shop.supervisor.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < Duration::from_mins(1),
                "not ready ({ended:?}):\n{}",
                fs::read_to_string(shop.directory.path().join("log")).unwrap()
            );
            sleep(Duration::from_millis(50));
        }
        shop
    }

    fn is_ready(&self) -> bool {
        read_status(&self.status_file())["ready"] == Value::Bool(true)
    }

    /// The path of `up.json`, which says where each role runs.
    pub fn status_file(&self) -> PathBuf {
        self.directory.path().join("data/up.json")
    }

    /// The port of REST.
    pub fn http_port(&self) -> u16 {
        self.grpc_base - 100
    }

    /// The log of a role's first replica.
    pub fn log(&self, role: &str) -> String {
        fs::read_to_string(self.directory.path().join(format!("data/logs/{role}-0.log"))).unwrap()
    }

    /// The logs of all replicas of a role.
    pub fn logs(&self, role: &str) -> Vec<String> {
        let files = fs::read_dir(self.directory.path().join("data/logs")).unwrap();
        let paths = files.map(|file| file.unwrap().path());
        let of_role = paths.filter(|path| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap();
            name.starts_with(&format!("{role}-"))
        });
        of_role.map(|path| fs::read_to_string(path).unwrap()).collect()
    }

    /// Ends the shop by SIGTERM, and waits for it.
    pub fn end(&mut self) {
        end(&mut self.supervisor);
    }

    /// host:port of the store's placement driver.
    pub fn store(&self) -> String {
        format!("127.0.0.1:{}", self.grpc_base - 40)
    }

    /// host:port of REST.
    pub fn rest(&self) -> String {
        format!("127.0.0.1:{}", self.grpc_base - 100)
    }

    /// The process id of `till up`.
    pub fn pid(&self) -> u32 {
        self.supervisor.id()
    }

    /// The gRPC address of a role's first replica.
    pub fn address(&self, role: &str) -> String {
        let role = Role::named(role).unwrap_or_else(|| panic!("no role {role}"));
        let port = self.grpc_base + (role.port() - Role::Coordinator.port());
        format!("http://127.0.0.1:{port}")
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.supervisor.kill());
        self.supervisor.wait().unwrap();
    }
}

/// Makes a POST by REST, and returns the status of the answer.
pub fn post(rest: String, path: &str) -> u16 {
    let mut stream = TcpStream::connect(rest).unwrap();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}
