//! The command line.

use std::ffi::OsString;

use clap::{ArgMatches, CommandFactory as _, Parser, Subcommand};

use crate::{
    audit,
    common::Process,
    health, participant_check,
    role::{INSECURE, RoleCommand, contradiction},
    tx, up,
};

/// A checkout that never loses a cent: order, stock and payment services, a coordinator that runs
/// two-phase commit across them, and a REST face. Without arguments, runs `till up`.
#[derive(Debug, Parser)]
#[command(name = "till", version)]
pub(crate) struct Cli {
    /// For every command.
    #[command(flatten)]
    pub(crate) process: Process,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole shop on this machine.
    Up(up::Args),
    /// What runs until it is told to end, and answers health checks.
    #[command(flatten)]
    Role(RoleCommand),
    /// Load a shop, and report its throughput, its latency and what they cost.
    Bench(Box<bench::Args>),
    /// Ask a role whether it is ready for requests: exit code 0 if it is, 1 if not.
    Health(health::Args),
    /// Check the books of the whole shop as of one moment: exit code 0 if every invariant holds, 2
    /// if not.
    Audit(Box<audit::Args>),
    /// Ask what became of transactions.
    Tx(tx::Args),
    /// Services that take part in transactions.
    Participant(participant_check::Args),
}

impl Command {
    /// Refuses settings that contradict each other. clap's own conflicts do not serve here: they
    /// count a setting that is false like one that is true, but TILL_INSECURE=false does not ask
    /// for anything insecure.
    fn consistent(&self) -> Result<(), clap::Error> {
        let consistent = match self {
            Self::Role(role) => role.consistent(),
            Self::Up(args) if args.is_contradiction() => {
                Err(contradiction(INSECURE, "--tls-dir (TILL_TLS_DIR)"))
            }
            Self::Up(_)
            | Self::Bench(_)
            | Self::Health(_)
            | Self::Audit(_)
            | Self::Tx(_)
            | Self::Participant(_) => Ok(()),
        };
        consistent.map_err(|(kind, text)| Cli::command().error(kind, text))
    }

    /// The name on the command line, which every log line carries.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "up",
            Self::Role(role) => role.name(),
            Self::Bench(_) => "bench",
            Self::Health(_) => "health",
            Self::Audit(_) => "audit",
            Self::Tx(_) => "tx",
            Self::Participant(_) => "participant",
        }
    }
}

/// Parses a command line that begins with the program's name. The name alone means `till up`.
pub(crate) fn parse<T: Into<OsString>>(
    args: impl IntoIterator<Item = T>,
) -> Result<Cli, clap::Error> {
    let cli = Cli::try_parse_from(or_up(args))?;
    cli.command.consistent()?;
    Ok(cli)
}

/// Like [`parse`], for a command line that parses: the raw values, and where each comes from.
pub(crate) fn matches<T: Into<OsString>>(args: impl IntoIterator<Item = T>) -> ArgMatches {
    Cli::command().get_matches_from(or_up(args))
}

fn or_up<T: Into<OsString>>(args: impl IntoIterator<Item = T>) -> Vec<OsString> {
    let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
    if args.len() <= 1 { vec!["till".into(), "up".into()] } else { args }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_up() {
        assert_eq!(parse(["till"]).unwrap().command.name(), "up");
    }

    #[test]
    fn every_setting_has_a_variable_and_a_word_of_help() {
        // For a single call, or set by the parent. Everything else must be settable in a container.
        let not_from_outside = ["help", "version", "fresh", "exit_with_parent", "print_config"];
        let of_the_moment = ["health", "bench"];
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments() {
                let id = argument.get_id().as_str();
                let name = format!("{} --{id}", command.get_name());
                assert!(argument.is_hide_set() || argument.get_help().is_some(), "{name}");
                if !of_the_moment.contains(&command.get_name()) && !not_from_outside.contains(&id) {
                    assert!(argument.get_env().is_some(), "{name} has no variable");
                }
            }
        }
    }
}
