//! A closed-loop load with the real client, and its cost: keys, calls and syncs per second, the
//! time of a call, the server's processor time per key and per call, and its memory.
//!
//! `cargo run --release -p dev-kv --example load -- --seconds 10`. The server is a child process
//! over a directory that is removed afterwards, so its processor time is told apart; both share the
//! machine. A call is a transaction with its timestamps, or a batch get with its timestamp.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measuring tool: it ends at the first surprise, and prints"
)]

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand, ValueEnum};
use dev_kv::{Args, Config};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tikv_client::transaction::HeartbeatOption;
use tikv_client::{Backoff, CheckLevel, RetryOptions, TransactionClient, TransactionOptions};

/// The allocator of `till`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    role: Option<Role>,
    /// Seconds for each part.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Transactions in flight.
    #[arg(long, default_value_t = 16)]
    writers: u64,
    /// Batch gets in flight.
    #[arg(long, default_value_t = 8)]
    readers: u64,
    /// Keys in a transaction.
    #[arg(long, default_value_t = 150)]
    keys: u64,
    /// Keys in a batch get.
    #[arg(long, default_value_t = 200)]
    gets: u64,
    /// Keys in a small transaction.
    #[arg(long, default_value_t = 8)]
    few: u64,
    /// Bytes of a value; a key has 24.
    #[arg(long, default_value_t = 40)]
    value: usize,
    /// Parent directory of the server's data directory.
    #[arg(long)]
    directory: Option<PathBuf>,
    /// What to measure.
    #[arg(long, value_delimiter = ',', default_value = "one-phase,two-phase,get,small,overwrite")]
    parts: Vec<Part>,
    /// Write this many keys first.
    #[arg(long, default_value_t = 0)]
    fill: u64,
    /// Fail if the server's memory ever exceeds this, in MiB.
    #[arg(long)]
    memory_max_mib: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Fresh keys, committed in one phase.
    OnePhase,
    /// Fresh keys, committed in two phases.
    TwoPhase,
    /// Batch gets of what `one-phase` wrote, which comes before it.
    Get,
    /// Few fresh keys, committed in one phase.
    Small,
    /// The same thousand keys for each writer again and again, in one phase.
    Overwrite,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// The server; started by the load itself.
    Serve(Args),
}

fn main() {
    let mut cli = Cli::parse();
    if let Some(Role::Serve(args)) = cli.role.take() {
        // The same runtime as dev-kv's.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(serve(args));
        return;
    }
    let first = |wanted| cli.parts.iter().position(|part| *part == wanted);
    let (write, get) = (first(Part::OnePhase), first(Part::Get));
    if get.is_some_and(|get| write.is_none_or(|write| write > get)) {
        let wrong = "--parts: get reads what one-phase wrote, which has to stand before it\n";
        Cli::command().error(ErrorKind::ValueValidation, wrong).exit();
    }
    tokio::runtime::Runtime::new().unwrap().block_on(load(cli));
}

async fn serve(args: Args) {
    let listener = tokio::net::TcpListener::bind(args.listen).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    std::io::stdout().flush().unwrap();
    let config = Config::try_from(args).unwrap();
    // Ends when the pipe from the parent closes.
    let parent_gone = tokio::task::spawn_blocking(|| {
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
    });
    dev_kv::run(config, listener, async move {
        parent_gone.await.ok();
    })
    .await
    .unwrap();
}

/// The child process, and its figures from the kernel.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut address).unwrap();
        Self { child, address: address.trim().to_owned() }
    }

    /// Processor time used so far.
    fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = [11, 12].iter().map(|at| fields[*at].parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10) // Linux counts in hundredths of a second
    }

    /// Resident memory in MiB: now, and at its peak.
    fn memory_mib(&self) -> [u64; 2] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        ["VmRSS", "VmHWM"].map(|name| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
        })
    }

    fn stat(&self, name: &str) -> u64 {
        let mut socket = std::net::TcpStream::connect(&self.address).unwrap();
        let request = format!(
            "GET /dev-kv/v1/stats HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
            self.address
        );
        socket.write_all(request.as_bytes()).unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let body = text.split("\r\n\r\n").nth(1).unwrap();
        let stats: serde_json::Value = serde_json::from_str(body).unwrap();
        stats[name].as_u64().unwrap()
    }
}

fn options() -> TransactionOptions {
    TransactionOptions::new_optimistic()
        .drop_check(CheckLevel::Warn)
        .heartbeat_option(HeartbeatOption::NoHeartbeat)
        .retry_options(RetryOptions::new(
            Backoff::no_jitter_backoff(2, 500, 20),
            Backoff::no_jitter_backoff(2, 500, 20),
        ))
}

/// A key of 24 bytes. Writers share no keys.
fn key(part: u64, writer: u64, number: u64) -> Vec<u8> {
    // Scattered by an odd factor, so that keys do not arrive in order.
    [part, writer, number.wrapping_mul(0x9e37_79b9_7f4a_7c15)]
        .iter()
        .flat_map(|part| part.to_be_bytes())
        .collect()
}

async fn load(cli: Cli) {
    let base = cli.directory.clone().unwrap_or_else(std::env::temp_dir);
    let directory = base.join(format!("dev-kv-load-{}", std::process::id()));
    let mut server = Server::start(&directory);
    let client = TransactionClient::new(vec![server.address.clone()]).await.unwrap();
    let mut readable = 0;
    if cli.fill > 0 {
        let limit = cli.fill / cli.writers;
        let work = Work::Write { space: 9, one_phase: true, count: cli.keys, again: None };
        measure("Fill", &cli, &server, &client, work, Some(limit)).await;
    }
    for part in &cli.parts {
        let work = match part {
            Part::OnePhase => {
                Work::Write { space: 0, one_phase: true, count: cli.keys, again: None }
            }
            Part::TwoPhase => {
                Work::Write { space: 1, one_phase: false, count: cli.keys, again: None }
            }
            Part::Overwrite => {
                Work::Write { space: 2, one_phase: true, count: cli.keys, again: Some(1_000) }
            }
            Part::Small => Work::Write { space: 3, one_phase: true, count: cli.few, again: None },
            Part::Get => Work::Get(readable),
        };
        let written = measure(&format!("{part:?}"), &cli, &server, &client, work, None).await;
        if *part == Part::OnePhase {
            readable = written;
        }
    }
    let [_, memory] = server.memory_mib();
    drop(server.child.stdin.take());
    server.child.wait().unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
    let bounded = cli.memory_max_mib.is_none_or(|max| memory <= max);
    assert!(bounded, "the server had {memory} MiB");
}

#[derive(Clone, Copy)]
enum Work {
    Write {
        /// Prefix of the keys, so that writers of different parts share no keys.
        space: u64,
        one_phase: bool,
        /// Keys per transaction.
        count: u64,
        /// The number of keys after which they repeat; none if they do not.
        again: Option<u64>,
    },
    /// Reads this many keys of each writer, written by the first part.
    Get(u64),
}

async fn measure(
    name: &str,
    cli: &Cli,
    server: &Server,
    client: &TransactionClient,
    work: Work,
    limit: Option<u64>,
) -> u64 {
    let keys = Arc::new(AtomicU64::new(0));
    let failed = Arc::new(AtomicU64::new(0));
    let (cpu, syncs) = (server.cpu(), server.stat("syncs"));
    let started = Instant::now();
    let until = started
        + if limit.is_some() { Duration::MAX / 4 } else { Duration::from_secs(cli.seconds) };
    let workers = if matches!(work, Work::Get(_)) { cli.readers } else { cli.writers };
    let tasks: Vec<_> = (0..workers)
        .map(|worker| {
            let client = client.clone();
            let (keys, failed) = (keys.clone(), failed.clone());
            let (gets, value) = (cli.gets, vec![b'v'; cli.value]);
            let writers = cli.writers;
            tokio::spawn(async move {
                let mut next = 0;
                let mut times = Vec::new();
                while Instant::now() < until && limit.is_none_or(|limit| next < limit) {
                    let began = Instant::now();
                    let done = match work {
                        Work::Write { space, one_phase, count, again } => {
                            let numbers = (next..next + count)
                                .map(|number| again.map_or(number, |again| number % again));
                            let written = numbers.map(|number| key(space, worker, number));
                            next += count;
                            write(&client, written, &value, one_phase).await.map(|()| count)
                        }
                        Work::Get(readable) => {
                            let read = (next..next + gets)
                                .map(|number| key(0, number % writers, number * 7 % readable));
                            next += gets;
                            get(&client, read).await.map(|()| gets)
                        }
                    };
                    match done {
                        Ok(count) => {
                            keys.fetch_add(count, Ordering::Relaxed);
                            times.push(began.elapsed());
                        }
                        Err(_) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                }
                (next, times)
            })
        })
        .collect();
    let mut least = u64::MAX;
    let mut times = Vec::new();
    for task in tasks {
        let (written, took) = task.await.unwrap();
        least = least.min(written);
        times.extend(took);
    }
    let done = Done {
        took: started.elapsed(),
        keys: keys.load(Ordering::Relaxed),
        failed: failed.load(Ordering::Relaxed),
        syncs: server.stat("syncs") - syncs,
        cpu: server.cpu().checked_sub(cpu).unwrap(),
        times,
    };
    done.print(name, server.memory_mib());
    least
}

/// Work and cost of one part.
struct Done {
    took: Duration,
    keys: u64,
    failed: u64,
    syncs: u64,
    /// The server's processor time.
    cpu: Duration,
    /// Durations of the calls that succeeded.
    times: Vec<Duration>,
}

impl Done {
    fn print(mut self, name: &str, [memory, memory_max]: [u64; 2]) {
        self.times.sort_unstable();
        let percentile = |of: usize| {
            self.times.get(self.times.len() * of / 100).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        let (took, cpu) = (self.took.as_secs_f64(), self.cpu.as_secs_f64() * 1e6);
        let (keys, calls) = (self.keys as f64, self.times.len() as f64);
        println!(
            "{name}: {:.0} keys/s, {:.0} calls/s, {} failed, {:.0} syncs/s; a call takes {:.1} ms (median), \
             {:.1} ms (99%); the server's processor time is {:.2} us a key, {:.0} us a call; its memory \
             {memory} MiB, {memory_max} MiB at most",
            keys / took,
            calls / took,
            self.failed,
            self.syncs as f64 / took,
            percentile(50),
            percentile(99),
            cpu / keys,
            cpu / calls,
        );
    }
}

async fn write(
    client: &TransactionClient,
    keys: impl Iterator<Item = Vec<u8>>,
    value: &[u8],
    one_phase: bool,
) -> tikv_client::Result<()> {
    let options = if one_phase { options().try_one_pc() } else { options() };
    let mut txn = client.begin_with_options(options).await?;
    for key in keys {
        txn.put(key, value.to_vec()).await?;
    }
    txn.commit().await?;
    Ok(())
}

async fn get(
    client: &TransactionClient,
    keys: impl Iterator<Item = Vec<u8>>,
) -> tikv_client::Result<()> {
    let now = client.current_timestamp().await?;
    let keys: std::collections::BTreeSet<_> = keys.collect();
    let count = keys.len();
    let mut snapshot = client.snapshot(now, options());
    let found = snapshot.batch_get(keys).await?.count();
    assert_eq!(found, count, "keys are missing");
    Ok(())
}
