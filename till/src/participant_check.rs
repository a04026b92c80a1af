//! `till participant check`: the conformance kit of `till.participant.v1`, for a service in any language.
//!
//! Modules: [`subject`] the service under test and transactions to test it with; [`checks`] what is
//! demanded, one function each.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Subcommand, value_parser};
use rpc::{
    net::{Endpoint, GrpcNet},
    tls::TlsArgs,
};

mod checks;
mod subject;

use self::{checks::Check, subject::Participant};
use crate::process::Failure;

/// Exit code when something is not as it must be.
const NOT_CONFORMING: u8 = 2;

/// What to do with a participant.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// What to do with it.
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Put a service to the test: does it speak till.participant.v1 as docs/participants.md demands?
    ///
    /// Exit codes: 0 when it does, 2 when not. What the payload asks for happens once or twice, for good:
    /// use a service that is there for the test.
    Check(Box<CheckArgs>),
}

#[derive(Debug, Clone, clap::Args)]
struct CheckArgs {
    /// Where the service listens.
    #[arg(value_name = "HOST:PORT")]
    address: Endpoint,
    /// A file with a payload that it will vote YES to. Without one, only what needs no vote is tested.
    #[arg(long, value_name = "FILE")]
    payload_file: Option<PathBuf>,
    /// The shard that the payload is for.
    #[arg(long, default_value_t = 0, value_name = "NUMBER",
          value_parser = value_parser!(u32).range(0..4096))]
    shard: u32,
    /// Test it as a primary, too: as the branch whose state decides.
    #[arg(long, requires = "payload_file")]
    primary: bool,
    /// A shell command that kills the service and starts it again: what it said must still stand.
    #[arg(long, value_name = "COMMAND")]
    restart_command: Option<String>,
    /// Longest wait for one answer.
    #[arg(long, default_value_t = 5_000, value_name = "MILLISECONDS",
          value_parser = value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    /// Certificates; ours must be the coordinator's.
    #[command(flatten)]
    tls: TlsArgs,
}

/// Runs every check that the settings allow, and tells what came of each.
pub(crate) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Command::Check(args) = &args.command;
    let payload = match &args.payload_file {
        Some(file) => Some(
            std::fs::read(file)
                .map_err(|error| format!("cannot read {}: {error}", file.display()))?,
        ),
        None => None,
    };
    let net = GrpcNet::with_tls(args.tls.load()?);
    let patience = Duration::from_millis(args.timeout_ms);
    let subject = Participant::meet(&net, &args.address, args.shard, payload, patience).await?;
    tell(&format!("{} has {} shards", subject.service, subject.shards))?;
    let mut failed = 0_u32;
    let mut ran = 0_u32;
    for check in checks::all() {
        let skipped = match check.needs {
            checks::Needs::Nothing => false,
            checks::Needs::Payload => !subject.has_payload(),
            checks::Needs::Primary => !args.primary,
        };
        if skipped {
            tell(&format!("not run  {} ({})", check.name, check.needs.hint()))?;
            continue;
        }
        ran += 1;
        failed += u32::from(!report(&check, &subject).await?);
    }
    if let Some(command) = &args.restart_command {
        ran += 1;
        let outcome = checks::survives_a_restart(&subject, command).await;
        failed += u32::from(!say("whatever it said survives a restart", outcome)?);
    } else {
        tell("not run  whatever it said survives a restart (needs --restart-command)")?;
    }
    tell(&format!("{} passed, {failed} failed", ran - failed))?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(NOT_CONFORMING) })
}

async fn report(check: &Check, subject: &Participant) -> io::Result<bool> {
    say(check.name, (check.run)(subject).await)
}

fn say(name: &str, outcome: Result<(), String>) -> io::Result<bool> {
    match outcome {
        Ok(()) => tell(&format!("ok       {name}")).map(|()| true),
        Err(problem) => tell(&format!("FAILED   {name}: {problem}")).map(|()| false),
    }
}

fn tell(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
