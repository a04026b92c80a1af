//! The command line.

use std::{ffi::OsString, net::SocketAddr};

use clap::{
    ArgAction, ArgMatches, CommandFactory as _, Parser, Subcommand, builder::BoolishValueParser,
    error::ErrorKind,
};
use rpc::tls::TlsArgs;

use crate::{audit, common::Process, health, participant_check, tx, up};

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
    /// Run a replica of the order service.
    Order(Box<Grpc<order::Args>>),
    /// Run a replica of the stock service.
    Stock(Box<Grpc<stock::Args>>),
    /// Run a replica of the payment service.
    Payment(Box<Grpc<payment::Args>>),
    /// Run a replica of the coordinator.
    Coordinator(Box<Grpc<coordinator::Args>>),
    /// Run a replica of the REST face.
    HttpBridge(Box<Rest<http_bridge::Args>>),
    /// Run a one-node store that speaks TiKV's wire protocol. For development and tests.
    DevKv(Box<Kv>),
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
    /// True for roles: commands that run until they are told to end, and that answer health checks.
    pub(crate) const fn is_role(&self) -> bool {
        match self {
            Self::Order(_)
            | Self::Stock(_)
            | Self::Payment(_)
            | Self::Coordinator(_)
            | Self::HttpBridge(_)
            | Self::DevKv(_) => true,
            Self::Up(_)
            | Self::Bench(_)
            | Self::Health(_)
            | Self::Audit(_)
            | Self::Tx(_)
            | Self::Participant(_) => false,
        }
    }

    /// Refuses settings that contradict each other. clap's own conflicts do not serve here: they
    /// count a setting that is false like one that is true, but TILL_INSECURE=false does not ask
    /// for anything insecure.
    fn consistent(&self) -> Result<(), clap::Error> {
        let insecure = "--insecure (TILL_INSECURE)";
        match self {
            Self::Order(args) => encrypted_or_not(args.insecure, &args.role.role.tls),
            Self::Stock(args) => encrypted_or_not(args.insecure, &args.role.role.tls),
            Self::Payment(args) => encrypted_or_not(args.insecure, &args.role.role.tls),
            Self::Coordinator(args) => encrypted_or_not(args.insecure, &args.role.tls),
            Self::HttpBridge(args) => encrypted_or_not(false, &args.role.tls),
            Self::DevKv(args) if args.insecure && args.role.tls_cert_file.is_some() => {
                Err(contradiction(insecure, "--tls-cert-file (TILL_DEV_KV_TLS_CERT)"))
            }
            Self::Up(args) if args.is_contradiction() => {
                Err(contradiction(insecure, "--tls-dir (TILL_TLS_DIR)"))
            }
            Self::DevKv(_)
            | Self::Up(_)
            | Self::Bench(_)
            | Self::Health(_)
            | Self::Audit(_)
            | Self::Tx(_)
            | Self::Participant(_) => Ok(()),
        }
    }

    /// The name on the command line, which every log line carries.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Up(_) => "up",
            Self::Order(_) => "order",
            Self::Stock(_) => "stock",
            Self::Payment(_) => "payment",
            Self::Coordinator(_) => "coordinator",
            Self::HttpBridge(_) => "http-bridge",
            Self::DevKv(_) => "dev-kv",
            Self::Bench(_) => "bench",
            Self::Health(_) => "health",
            Self::Audit(_) => "audit",
            Self::Tx(_) => "tx",
            Self::Participant(_) => "participant",
        }
    }
}

/// Refuses contradictory settings. gRPC is plain, or encrypted with client authentication, or
/// encrypted without it.
fn encrypted_or_not(insecure: bool, tls: &TlsArgs) -> Result<(), clap::Error> {
    if insecure && tls.is_on() {
        return Err(contradiction(
            "--insecure (TILL_INSECURE)",
            "--tls-ca-file (TILL_TLS_CA_FILE)",
        ));
    }
    if tls.tls_no_client_auth && tls.tls_cert_file.is_none() {
        let text = "--tls-no-client-auth (TILL_TLS_NO_CLIENT_AUTH) needs --tls-cert-file";
        return Err(Cli::command().error(ErrorKind::MissingRequiredArgument, text));
    }
    Ok(())
}

fn contradiction(one: &str, other: &str) -> clap::Error {
    let text = format!("{one} and {other} contradict each other: either plain or encrypted");
    Cli::command().error(ErrorKind::ArgumentConflict, text)
}

/// The admin listener of a role, for operators.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Admin {
    /// Address on which operators find /metrics, /livez and /readyz; may be repeated. By default
    /// the role's usual admin port on 127.0.0.1 and [::1]. Containers use port 9100.
    #[arg(long, env = "TILL_ADMIN_LISTEN", value_name = "IP:PORT", value_delimiter = ',')]
    pub(crate) admin_listen: Vec<SocketAddr>,
}

/// A role that speaks gRPC: without encryption it listens on this machine only, unless told
/// otherwise.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Grpc<A: clap::Args> {
    /// Address to listen on; may be repeated. By default the role's usual port on 127.0.0.1 and
    /// [::1].
    #[arg(long, env = "TILL_LISTEN", value_name = "IP:PORT", value_delimiter = ',')]
    pub(crate) listen: Vec<SocketAddr>,
    /// Allow --listen to name addresses that other machines can reach although gRPC is not
    /// encrypted. Anybody who reaches them may then do anything.
    #[arg(long, env = "TILL_INSECURE", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_name = "BOOL",
          value_parser = BoolishValueParser::new())]
    pub(crate) insecure: bool,
    /// For operators.
    #[command(flatten)]
    pub(crate) admin: Admin,
    /// The role's own.
    #[command(flatten)]
    pub(crate) role: A,
}

/// A role that speaks HTTP to everybody.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Rest<A: clap::Args> {
    /// Address to listen on; may be repeated. By default port 8000 of [::] and 0.0.0.0.
    #[arg(long, env = "TILL_LISTEN", value_name = "IP:PORT", value_delimiter = ',')]
    pub(crate) listen: Vec<SocketAddr>,
    /// For operators.
    #[command(flatten)]
    pub(crate) admin: Admin,
    /// The role's own.
    #[command(flatten)]
    pub(crate) role: A,
}

/// The store for development. It has its own setting for the address to listen on.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Kv {
    /// Allow --listen and --pd-listen to name addresses that other machines can reach although
    /// there is no TLS.
    #[arg(long, env = "TILL_INSECURE", action = ArgAction::Set, num_args = 0..=1, require_equals = true,
          default_value_t = false, default_missing_value = "true", value_name = "BOOL",
          value_parser = BoolishValueParser::new())]
    pub(crate) insecure: bool,
    /// Trust domain of the callers' identities, the host in spiffe://DOMAIN/ROLE. With it and
    /// --tls-ca-file, only certificates of order, stock, payment, the coordinator and operators are
    /// accepted. By default every certificate that the authority signed is.
    #[arg(long, env = "TILL_DEV_KV_TLS_TRUST_DOMAIN", value_name = "DOMAIN", requires = "tls_ca_file",
          value_parser = rpc::tls::trust_domain)]
    pub(crate) tls_trust_domain: Option<String>,
    /// For operators.
    #[command(flatten)]
    pub(crate) admin: Admin,
    /// The role's own.
    #[command(flatten)]
    pub(crate) role: dev_kv::Args,
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
