//! The process around a role: runtime, signals, exit code.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use telemetry::Scope;
use types::error::chain;

use crate::{
    audit,
    cli::{Cli, Command},
    common::{Failure, Stop},
    health, participant_check, role, tx, up,
};

/// Exit code for a command line that does not parse, as in BSD's sysexits.h.
const USAGE: u8 = 64;

/// Prints what is wrong with a command line, or what it asked for (`--help`).
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    // Errors are ignored, as nobody is left to tell.
    drop(error.print());
    if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS }
}

/// Prints a text on standard output. Returns the exit code.
pub(crate) fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error.into()),
    }
}

/// Runs the command to its end.
pub(crate) fn main(cli: Cli) -> ExitCode {
    // A load generator shares the machine with the shop that it measures, so it gets one thread.
    let generates = matches!(cli.command, Command::Bench(_));
    let threads = if generates { Some(1) } else { cli.process.worker_threads };
    let mut builder = match threads {
        // With one thread, a scheduler without work stealing does the same in less time.
        Some(1) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if let Some(threads) = threads {
        builder.worker_threads(usize::from(threads));
    }
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let guard = {
        let scope =
            if matches!(cli.command, Command::Role(_)) { Scope::Service } else { Scope::Command };
        // Tasks of the runtime send what is exported.
        let _within = runtime.enter();
        telemetry::init(cli.command.name(), cli.process.log_format, scope)
    };
    let ended = match guard {
        Ok(guard) => runtime.block_on(Box::pin(run(cli, guard))),
        Err(error) => Err(error.into()),
    };
    // Does not wait: nothing that matters is left, and the second signal must end the process.
    runtime.shutdown_background();
    match ended {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// Runs the command, then sends the rest of its telemetry, unless it is told to end at once.
async fn run(cli: Cli, guard: telemetry::Guard) -> Result<ExitCode, Failure> {
    let stop = Stop::on_signals(cli.process.exit_with_parent)?;
    let now = stop.now.clone();
    let ended = carry_out(cli, stop).await;
    tokio::select! {
        biased;
        () = now.cancelled() => {}
        _sent = tokio::task::spawn_blocking(move || drop(guard)) => {}
    }
    ended
}

async fn carry_out(cli: Cli, stop: Stop) -> Result<ExitCode, Failure> {
    match cli.command {
        Command::Up(args) => up::run(args, &cli.process, stop).await,
        Command::Bench(args) => bench(*args, &stop).await,
        Command::Health(args) => health::run(&args).await,
        Command::Audit(args) => audit::run(&args).await,
        Command::Tx(args) => tx::run(&args).await,
        Command::Participant(args) => participant_check::run(&args).await,
        Command::Role(command) => role::run(command, stop).await,
    }
}

/// Measures until it is done or told to end. Everything that it started ends with it.
async fn bench(args: bench::Args, stop: &Stop) -> Result<ExitCode, Failure> {
    let program = std::env::current_exe()?;
    tokio::select! {
        ended = Box::pin(bench::run(args, &program)) => ended?,
        () = stop.gently.cancelled() => return Ok(ExitCode::FAILURE),
    }
    Ok(ExitCode::SUCCESS)
}

/// Reports a failure with all its causes, once.
fn fail(error: &Failure) -> ExitCode {
    drop(writeln!(io::stderr(), "till: {}", chain(error.as_ref())));
    ExitCode::FAILURE
}
