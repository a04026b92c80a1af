//! Kills and stops the processes of a shop, one at a time, and records which and when.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use system_test::{history::coverage::Between, process::read_status};

/// Longest time that a process stands still, in milliseconds: longer than a vote may take.
const STOPPED_MAX_MS: u64 = 3_000;

/// A trouble: the process that it hit, and when, in milliseconds since the epoch.
pub(crate) struct Strike {
    pub(crate) at_ms: u64,
    pub(crate) replica: String,
    pub(crate) what: Between,
}

/// Makes trouble until it is ended. After that every process runs on.
pub(crate) struct Trouble {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<Strike>>>,
}

impl Trouble {
    /// Starts making trouble. `status` is the shop's `up.json`.
    pub(crate) fn begin(status: PathBuf, seed: u64) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = spawn(move || {
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x7_2007_b1e5);
            let mut strikes = Vec::new();
            while !over.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(rng.random_range(20..700)));
                let status = read_status(&status);
                let Some(children) = status["children"].as_array() else { continue };
                let running: Vec<_> =
                    children.iter().filter(|child| child["pid"].is_i64()).collect();
                if running.is_empty() {
                    continue;
                }
                let child = running[rng.random_range(0..running.len())];
                let pid = Pid::from_raw(child["pid"].as_i64().unwrap().try_into().unwrap());
                let at_ms = now_ms();
                let what = strike(pid, &mut rng, &over);
                let replica = child["role"].as_str().unwrap().to_owned();
                strikes.push(Strike { at_ms, replica, what });
            }
            strikes
        });
        Self { is_over, thread: Some(thread) }
    }

    /// Stops, and returns what it did.
    pub(crate) fn end(mut self) -> Vec<Strike> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    now.as_millis().try_into().unwrap()
}

/// Kills, ends or stops one process.
fn strike(pid: Pid, rng: &mut ChaCha8Rng, over: &AtomicBool) -> Between {
    match rng.random_range(0..10) {
        0..=3 => {
            send(pid, Signal::SIGKILL);
            Between::Death
        }
        4 => {
            send(pid, Signal::SIGTERM);
            Between::Death
        }
        _ => {
            send(pid, Signal::SIGSTOP);
            let mut left = rng.random_range(50..STOPPED_MAX_MS);
            while left > 0 && !over.load(Ordering::Relaxed) {
                let step = left.min(50);
                sleep(Duration::from_millis(step));
                left -= step;
            }
            send(pid, Signal::SIGCONT);
            Between::Standstill
        }
    }
}

/// Sends a signal; a process that has ended meanwhile is ignored.
fn send(pid: Pid, signal: Signal) {
    let _gone = kill(pid, signal);
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}
