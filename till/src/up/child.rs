//! Keeps one child process alive.
//!
//! Invariants: a child that dies is started again, for as long as the shop runs. A child that is
//! told to stop is gone when [`keep`] returns. A child never outlives this process, because its
//! standard input is a pipe whose other end only this process holds (`--exit-with-parent`).

use std::{
    io,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{logs::Sink, plan::Spec, status::Status};

/// Pause before the first restart.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest pause between restarts of a child that keeps dying.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A child that ran this long has recovered: its next restart is quick again.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);

/// How to stop a child.
#[derive(Debug, Clone)]
pub(crate) struct Stop {
    /// Cancelled to end the child by SIGTERM, and by SIGKILL after `patience`.
    pub(crate) gently: CancellationToken,
    /// Cancelled to end the child at once.
    pub(crate) now: CancellationToken,
    /// Time from SIGTERM to SIGKILL.
    pub(crate) patience: Duration,
}

/// Runs a child, again and again, until told to stop.
pub(crate) async fn keep(spec: Spec, mut sink: Sink, status: Arc<Status>, stop: Stop) {
    let mut backoff = BACKOFF_MIN;
    while !stop.gently.is_cancelled() {
        let begun = Instant::now();
        match run_once(&spec, &mut sink, &status, &stop).await {
            Ok(Some(exit)) => {
                if begun.elapsed() >= RECOVERED_AFTER {
                    backoff = BACKOFF_MIN;
                }
                tracing::warn!(
                    child = spec.name,
                    %exit,
                    restart_in_ms = backoff.as_millis(),
                    "child ended on its own"
                );
            }
            Ok(None) => return,
            Err(error) => tracing::error!(
                child = spec.name,
                %error,
                restart_in_ms = backoff.as_millis(),
                "could not start child"
            ),
        }
        tokio::select! {
            () = sleep(backoff) => {}
            () = stop.gently.cancelled() => return,
        }
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// Runs a child once. Returns its exit status when it ended on its own, `None` when it was stopped.
async fn run_once(
    spec: &Spec,
    sink: &mut Sink,
    status: &Status,
    stop: &Stop,
) -> io::Result<Option<ExitStatus>> {
    let mut child = spawn(spec)?;
    status.started(&spec.name, child.id());
    let output = child.stderr.take();
    // Held until the child has ended: closing it tells the child that we are gone.
    let _leash = child.stdin.take();
    let pump = async {
        if let Some(output) = output {
            sink.pump(output).await;
        }
    };
    let watch = async {
        let exit = tokio::select! {
            exit = child.wait() => Some(exit),
            () = stop.gently.cancelled() => None,
        };
        let exit = exit.transpose()?;
        if exit.is_none() {
            end(&spec.name, &mut child, stop).await;
        }
        status.ended(&spec.name, exit.is_some());
        Ok(exit)
    };
    // The pump ends with the child, because only the child holds the other end of its pipe.
    let ((), exit) = tokio::join!(pump, watch);
    exit
}

fn spawn(spec: &Spec) -> io::Result<Child> {
    Command::new(&spec.program)
        .args(&spec.args)
        // A process group of its own: Ctrl-C in the terminal reaches only us, and we stop all
        // children in order.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Ends a child. It is gone when this returns.
async fn end(name: &str, child: &mut Child, stop: &Stop) {
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok())
        && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGTERM)
    {
        // Mostly ESRCH: the child has just ended on its own.
        tracing::debug!(child = name, %error, "could not signal child");
    }
    let gone = tokio::select! {
        gone = timeout(stop.patience, child.wait()) => gone.is_ok(),
        () = stop.now.cancelled() => false,
    };
    if !gone {
        tracing::warn!(child = name, "child did not end in time and was killed");
        if let Err(error) = child.kill().await {
            tracing::error!(child = name, %error, "could not kill child");
        }
    }
}
