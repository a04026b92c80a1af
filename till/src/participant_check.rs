//! `till participant check`: the conformance kit of `till.participant.v1`, for a service in any
//! language.
//!
//! Modules: [`subject`] the service under test and transactions to test it with; [`payload`]
//! payloads for it; [`checks`] the checks, one function each.

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
mod payload;
mod subject;

use self::subject::Participant;
use crate::common::Failure;

/// Exit code when the service does not conform.
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
    /// Test whether a service speaks till.participant.v1 as docs/participants.md demands.
    ///
    /// Exit codes: 0 if it does, 2 if not. What the payload asks for is done up to four times and
    /// not undone, so use a service that exists only for the test.
    Check(Box<CheckArgs>),
}

#[derive(Debug, Clone, clap::Args)]
struct CheckArgs {
    /// Where the service listens.
    #[arg(value_name = "HOST:PORT")]
    address: Endpoint,
    /// A payload that the service votes YES to, as JSON. Order, stock and payment each take a
    /// message of their own, other services till.coordinator.v1.CheckoutPayload. Without a payload,
    /// only what needs no vote is tested.
    #[arg(long, value_name = "JSON", group = "payload")]
    payload_json: Option<String>,
    /// A file with such a payload, encoded as protobuf.
    #[arg(long, value_name = "FILE", group = "payload")]
    payload_file: Option<PathBuf>,
    /// The shard that the payload is for.
    #[arg(long, default_value_t = 0, value_name = "NUMBER",
          value_parser = value_parser!(u32).range(0..4096))]
    shard: u32,
    /// Also test it as a primary, the branch whose state decides the outcome.
    #[arg(long, requires = "payload")]
    primary: bool,
    /// A shell command that kills the service and starts it again. Its answers must survive that.
    #[arg(long, value_name = "COMMAND")]
    restart_command: Option<String>,
    /// Milliseconds to wait for one answer.
    #[arg(long, default_value_t = 5_000, value_name = "MILLISECONDS",
          value_parser = value_parser!(u64).range(1..=60_000))]
    timeout_ms: u64,
    /// Certificates; ours must be the coordinator's.
    #[command(flatten)]
    tls: TlsArgs,
}

/// Runs every check that the settings allow, and prints the result of each.
pub(crate) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Command::Check(args) = &args.command;
    let net = GrpcNet::with_tls(args.tls.load()?);
    let patience = Duration::from_millis(args.timeout_ms);
    let mut subject = Participant::meet(&net, &args.address, args.shard, patience).await?;
    print(&format!("{} has {} shards", subject.service, subject.shards))?;
    match args.payload(&subject.service)? {
        Some(payload) => subject.take(payload, args.primary).await?,
        None => {
            print(&format!("what needs a vote is left out: {}", payload::hint(&subject.service)))?;
        }
    }
    let mut failed = 0_u32;
    let mut ran = 0_u32;
    let mut left_out = 0_u32;
    for check in checks::all() {
        let skipped = match check.needs {
            checks::Needs::Nothing => false,
            checks::Needs::Payload => !subject.has_payload(),
            checks::Needs::Primary => !args.primary,
        };
        if skipped {
            print(&format!("not run  {} ({})", check.name, check.needs.hint()))?;
            left_out += 1;
            continue;
        }
        ran += 1;
        failed += u32::from(!say(check.name, check.rule, (check.run)(&subject).await)?);
    }
    let (name, rule) = checks::RESTART;
    if let Some(command) = &args.restart_command {
        ran += 1;
        let outcome = checks::survives_a_restart(&subject, command).await;
        failed += u32::from(!say(name, rule, outcome)?);
    } else {
        print(&format!("not run  {name} (needs --restart-command)"))?;
        left_out += 1;
    }
    print(&format!("{} passed, {failed} failed, {left_out} not run", ran - failed))?;
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(NOT_CONFORMING) })
}

impl CheckArgs {
    /// The payload from the command line; None when there is none.
    fn payload(&self, service: &str) -> Result<Option<Vec<u8>>, String> {
        match (&self.payload_json, &self.payload_file) {
            (Some(json), _) => payload::from_json(service, json).map(Some),
            (None, Some(file)) => std::fs::read(file)
                .map(Some)
                .map_err(|error| format!("cannot read {}: {error}", file.display())),
            (None, None) => Ok(None),
        }
    }
}

/// Prints the result of a check. True when it passed.
fn say(name: &str, rule: Option<u8>, outcome: Result<(), String>) -> io::Result<bool> {
    let rule = rule.map(|rule| format!(" (rule {rule})")).unwrap_or_default();
    match outcome {
        Ok(()) => print(&format!("ok       {name}{rule}")).map(|()| true),
        Err(problem) => print(&format!("FAILED   {name}{rule}: {problem}")).map(|()| false),
    }
}

fn print(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}
