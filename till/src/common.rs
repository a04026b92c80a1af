//! What all commands share: settings, when to end, and failures.

use std::{
    error::Error,
    io::{self, Read as _},
};

use clap::value_parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Any failure. One place reports it.
pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// What every command takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Process {
    /// Number of threads that run tasks. By default one per core.
    #[arg(long, global = true, env = "TILL_WORKER_THREADS", value_name = "COUNT",
          value_parser = value_parser!(u16).range(1..=1024))]
    pub(crate) worker_threads: Option<u16>,
    /// Format of log lines: pretty or json. TILL_LOG filters them (info,rpc=debug).
    #[arg(long, global = true, env = "TILL_LOG_FORMAT", default_value_t, value_name = "FORMAT")]
    pub(crate) log_format: telemetry::Format,
    /// Print the settings in force and the source of each, and exit.
    #[arg(long, global = true)]
    pub(crate) print_config: bool,
    /// Exit at once when standard input ends: `till up` holds its other end.
    #[arg(long, global = true, hide = true)]
    pub(crate) exit_with_parent: bool,
}

/// Tells a command when to end.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// Cancelled by the first signal: end in order.
    pub(crate) gently: CancellationToken,
    /// Cancelled by the second signal, or when the parent is gone: end at once.
    pub(crate) now: CancellationToken,
}

impl Stop {
    /// Starts to listen for SIGINT and SIGTERM, which mean the same.
    pub(crate) fn on_signals(with_parent: bool) -> io::Result<Self> {
        let stop = Self { gently: CancellationToken::new(), now: CancellationToken::new() };
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let told = stop.clone();
        tokio::spawn(async move {
            for token in [&told.gently, &told.now] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                token.cancel();
            }
        });
        if with_parent {
            let now = stop.now.clone();
            // A thread of its own: reading standard input cannot be interrupted, and must not delay
            // the end of the runtime.
            std::thread::Builder::new().name("parent-watch".to_owned()).spawn(move || {
                wait_for_parents_end();
                now.cancel();
            })?;
        }
        Ok(stop)
    }
}

/// Returns when the other end of standard input is closed. The kernel closes it however the parent
/// dies.
fn wait_for_parents_end() {
    let mut byte = [0];
    loop {
        match io::stdin().read(&mut byte) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
