//! Kills and stops the processes of a shop, one after the other.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use system_test::process::read_status;

/// Longest that somebody stands still: longer than a vote may take.
const STOPPED_MAX_MS: u64 = 3_000;

/// Trouble, until it is dropped; then everybody goes on.
pub(crate) struct Trouble {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Trouble {
    /// Begins. `status` is the shop's `up.json`.
    pub(crate) fn begin(status: PathBuf, seed: u64) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = spawn(move || {
            let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x7_2007_b1e5);
            while !over.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(rng.random_range(20..700)));
                let status = read_status(&status);
                let Some(children) = status["children"].as_array() else { continue };
                let pids: Vec<_> =
                    children.iter().filter_map(|child| child["pid"].as_i64()).collect();
                if pids.is_empty() {
                    continue;
                }
                let pid = pids[rng.random_range(0..pids.len())];
                strike(Pid::from_raw(pid.try_into().unwrap()), &mut rng, &over);
            }
        });
        Self { is_over, thread: Some(thread) }
    }
}

/// What happens to one process.
fn strike(pid: Pid, rng: &mut ChaCha8Rng, over: &AtomicBool) {
    match rng.random_range(0..10) {
        0..=3 => send(pid, Signal::SIGKILL),
        4 => send(pid, Signal::SIGTERM),
        _ => {
            send(pid, Signal::SIGSTOP);
            let mut left = rng.random_range(50..STOPPED_MAX_MS);
            while left > 0 && !over.load(Ordering::Relaxed) {
                let step = left.min(50);
                sleep(Duration::from_millis(step));
                left -= step;
            }
            send(pid, Signal::SIGCONT);
        }
    }
}

/// A process that has ended meanwhile does not mind.
fn send(pid: Pid, signal: Signal) {
    let _gone = kill(pid, signal);
}

impl Drop for Trouble {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}
