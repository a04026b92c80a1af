//! The commands that run one role: their settings; binding its ports, handing it over to its crate,
//! ending it.

use std::{
    error::Error,
    io,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{ArgAction, Subcommand, builder::BoolishValueParser, error::ErrorKind};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rpc::{
    access::{self, TRUST_DOMAIN},
    admin,
    listen::{ListenError, Listeners},
    net::Endpoint,
    tls::TlsArgs,
};
use tokio_util::sync::WaitForCancellationFutureOwned;
use types::Role;

use crate::{
    common::{Failure, Stop},
    health,
};

/// Default port of dev-kv's admin listener.
pub(crate) const KV_ADMIN_PORT: u16 = 7449;

/// The setting that allows plain gRPC.
pub(crate) const INSECURE: &str = "--insecure (TILL_INSECURE)";

/// The roles, and the store for development.
#[derive(Debug, Subcommand)]
pub(crate) enum RoleCommand {
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
}

/// Settings that contradict each other, for [`clap::Command::error`].
type Contradiction = (ErrorKind, String);

impl RoleCommand {
    /// The name on the command line.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Order(_) => Role::Order.name(),
            Self::Stock(_) => Role::Stock.name(),
            Self::Payment(_) => Role::Payment.name(),
            Self::Coordinator(_) => Role::Coordinator.name(),
            Self::HttpBridge(_) => Role::HttpBridge.name(),
            Self::DevKv(_) => "dev-kv",
        }
    }

    /// Refuses settings that contradict each other.
    pub(crate) fn consistent(&self) -> Result<(), Contradiction> {
        match self {
            Self::Order(args) => encrypted_or_not(args.insecure, &args.role.role.tls),
            Self::Stock(args) => encrypted_or_not(args.insecure, &args.role.role.tls),
            Self::Payment(args) => encrypted_or_not(args.insecure, &args.role.role.tls),
            Self::Coordinator(args) => encrypted_or_not(args.insecure, &args.role.tls),
            Self::HttpBridge(args) => encrypted_or_not(false, &args.role.tls),
            Self::DevKv(args) if args.insecure && args.role.tls_cert_file.is_some() => {
                Err(contradiction(INSECURE, "--tls-cert-file (TILL_DEV_KV_TLS_CERT)"))
            }
            Self::DevKv(_) => Ok(()),
        }
    }
}

/// Refuses contradictory settings. gRPC is plain, or encrypted with client authentication, or
/// encrypted without it.
fn encrypted_or_not(insecure: bool, tls: &TlsArgs) -> Result<(), Contradiction> {
    if insecure && tls.is_on() {
        return Err(contradiction(INSECURE, "--tls-ca-file (TILL_TLS_CA_FILE)"));
    }
    if tls.tls_no_client_auth && tls.tls_cert_file.is_none() {
        let text = "--tls-no-client-auth (TILL_TLS_NO_CLIENT_AUTH) needs --tls-cert-file";
        return Err((ErrorKind::MissingRequiredArgument, text.to_owned()));
    }
    Ok(())
}

/// Says that two settings exclude each other.
pub(crate) fn contradiction(one: &str, other: &str) -> Contradiction {
    let text = format!("{one} and {other} contradict each other: either plain or encrypted");
    (ErrorKind::ArgumentConflict, text)
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

/// Why a role does not run. A retry does not help.
#[derive(Debug, thiserror::Error)]
enum Refused {
    /// Other machines reach this address, and gRPC on it is not encrypted.
    #[error(
        "{0} is reached from other machines, and gRPC on it is not encrypted: encrypt it (--tls-ca-file, \
         --tls-cert-file, --tls-key-file), or allow that with --insecure"
    )]
    Insecure(SocketAddr),
    /// The second signal came, or the parent is gone.
    #[error("ended at once, as told")]
    Now,
}

/// Runs a role until it is told to end.
pub(crate) async fn run(command: RoleCommand, stop: Stop) -> Result<ExitCode, Failure> {
    let files = open_files();
    match command {
        RoleCommand::Order(args) => {
            let is_on = args.role.role.tls.is_on();
            grpc(Role::Order, *args, is_on, &stop, order::run).await
        }
        RoleCommand::Stock(args) => {
            let is_on = args.role.role.tls.is_on();
            grpc(Role::Stock, *args, is_on, &stop, stock::run).await
        }
        RoleCommand::Payment(args) => {
            let is_on = args.role.role.tls.is_on();
            grpc(Role::Payment, *args, is_on, &stop, payment::run).await
        }
        RoleCommand::Coordinator(args) => {
            let is_on = args.role.tls.is_on();
            grpc(Role::Coordinator, *args, is_on, &stop, coordinator::run).await
        }
        RoleCommand::DevKv(args) => {
            let open = args.insecure || args.role.tls_cert_file.is_some();
            let addresses = of_kv(&args.role, open)?;
            if let Some(file) = &args.role.tls_cert_file {
                let domain = args.tls_trust_domain.as_deref().unwrap_or(TRUST_DOMAIN);
                rpc::tls::check_nobodys(file, "dev-kv", domain)?;
            }
            let on = sockets(&addresses, &args.admin, KV_ADMIN_PORT)?;
            let admit = args.tls_trust_domain.clone().map(admit);
            keep(on, &stop, |on, end| dev_kv(args.role, admit, on, end)).await
        }
        RoleCommand::HttpBridge(mut args) => {
            args.role.connections_max = connections(args.role.connections_max, files);
            let usual = rpc::listen::everywhere(Role::HttpBridge.port());
            let addresses = or_default(&args.listen, &usual);
            let on = sockets(&addresses, &args.admin, Role::HttpBridge.admin_port())?;
            keep(on, &stop, |on, end| http_bridge::run(args.role, on, end)).await
        }
    }
}

/// Runs a role that speaks gRPC.
async fn grpc<A, Ended, E>(
    role: Role,
    args: Grpc<A>,
    encrypted: bool,
    stop: &Stop,
    run: impl FnOnce(A, Listeners, WaitForCancellationFutureOwned) -> Ended,
) -> Result<ExitCode, Failure>
where
    A: clap::Args,
    Ended: Future<Output = Result<(), E>>,
    E: Error + Send + Sync + 'static,
{
    let addresses = closed(&args, encrypted, role.port())?;
    let on = sockets(&addresses, &args.admin, role.admin_port())?;
    keep(on, stop, |on, end| run(args.role, on, end)).await
}

/// Binds all listeners, so that a taken port is reported before anything heavy begins.
fn sockets(work: &[SocketAddr], admin: &Admin, usual: u16) -> Result<Listeners, ListenError> {
    let admin = or_default(&admin.admin_listen, &rpc::listen::loopback(usual));
    let bound = Listeners { work: rpc::listen::tcp(work)?, admin: rpc::listen::tcp(&admin)? };
    let told = |all: &[TcpListener]| {
        let all = rpc::listen::addresses(all);
        all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    tracing::info!(addresses = told(&bound.work), admin = told(&bound.admin), "listening");
    Ok(bound)
}

/// Runs the role, and ends it when told to.
async fn keep<Run, Ended, E>(
    listeners: Listeners,
    stop: &Stop,
    run: Run,
) -> Result<ExitCode, Failure>
where
    Run: FnOnce(Listeners, WaitForCancellationFutureOwned) -> Ended,
    Ended: Future<Output = Result<(), E>>,
    E: Error + Send + Sync + 'static,
{
    let role = Box::pin(run(listeners, stop.gently.clone().cancelled_owned()));
    tokio::select! {
        ended = role => ended?,
        () = stop.now.cancelled() => return Err(Refused::Now.into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Runs a dev-kv, which has one work address and a configuration that may be refused.
async fn dev_kv(
    args: dev_kv::Args,
    admit: Option<dev_kv::Admit>,
    listeners: Listeners,
    end: impl Future<Output = ()>,
) -> Result<(), dev_kv::Error> {
    let config = dev_kv::Config { admit, ..dev_kv::Config::try_from(args)? };
    let nowhere = || io::Error::from(io::ErrorKind::AddrNotAvailable);
    let listener = listeners.work.into_iter().next().ok_or_else(nowhere)?;
    let encrypted = config.tls.is_some();
    let store = Store { endpoint: listener.local_addr()?.into(), encrypted };
    let _admin = admin::Admin::new(store).serve(listeners.admin)?;
    dev_kv::run(config, tokio::net::TcpListener::from_std(listener)?, end).await
}

/// Admits a caller to a dev-kv if the table of callers lets it use a store. The dev-kv itself knows
/// no such table.
fn admit(trust_domain: String) -> dev_kv::Admit {
    Arc::new(move |certificate: &[u8]| {
        let caller = rpc::tls::identity(certificate, &trust_domain);
        let caller = caller.map_err(|nobody| types::error::chain(&nobody))?;
        access::check_store(&caller)
            .map_err(|refused| format!("{refused}: it may not use the store"))
    })
}

/// Reports a dev-kv's health by asking its own health endpoint.
struct Store {
    endpoint: Endpoint,
    /// The endpoint then cannot be asked without TLS. A process that answers here at all counts as
    /// ready.
    encrypted: bool,
}

#[tonic::async_trait]
impl admin::ReadinessCheck for Store {
    async fn report(&self) -> admin::Report {
        let patience = Duration::from_secs(1);
        let ready =
            self.encrypted || health::http(&self.endpoint, health::DEV_KV, patience).await.is_ok();
        admin::Report { ready, details: serde_json::Map::new() }
    }
}

/// The addresses on which a gRPC role listens.
fn closed<A: clap::Args>(
    args: &Grpc<A>,
    encrypted: bool,
    port: u16,
) -> Result<Vec<SocketAddr>, Refused> {
    let addresses = or_default(&args.listen, &rpc::listen::loopback(port));
    if !encrypted && args.insecure && addresses.iter().any(|address| !address.ip().is_loopback()) {
        tracing::warn!(
            "grpc is not encrypted, so callers are not checked: anybody who reaches it may do anything"
        );
    }
    allowed(&addresses, args.insecure || encrypted)
}

/// The address of dev-kv's store. Those of its further placement drivers are held to the same rule.
fn of_kv(args: &dev_kv::Args, open: bool) -> Result<Vec<SocketAddr>, Refused> {
    allowed(&args.pd_listen, open)?;
    allowed(&[args.listen], open)
}

/// Returns the addresses, unless other machines can reach one of them and `open` is false.
fn allowed(addresses: &[SocketAddr], open: bool) -> Result<Vec<SocketAddr>, Refused> {
    match addresses.iter().find(|address| !address.ip().is_loopback()) {
        Some(reached) if !open => Err(Refused::Insecure(*reached)),
        _ => Ok(addresses.to_vec()),
    }
}

/// Lets this process open as many files as the system allows, and returns how many: each connection
/// is one.
fn open_files() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return u64::MAX };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

/// How many connections a bridge accepts at once, at most `wanted`. It leaves some files for the
/// admin listener and for connections to the services.
fn connections(wanted: u32, files: u64) -> u32 {
    let most = u32::try_from(files - (files / 4).min(1_024)).unwrap_or(u32::MAX).max(1);
    if most < wanted {
        tracing::info!(open_files = files, connections = most, "fewer connections than wanted");
    }
    most.min(wanted)
}

fn or_default(given: &[SocketAddr], usual: &[SocketAddr]) -> Vec<SocketAddr> {
    if given.is_empty() { usual.to_vec() } else { given.to_vec() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, clap::Args)]
    struct Nothing {}

    fn listening_on(listen: &str, insecure: bool) -> Result<Vec<SocketAddr>, Refused> {
        let args = Grpc {
            listen: vec![listen.parse().unwrap()],
            insecure,
            admin: Admin::default(),
            role: Nothing {},
        };
        closed(&args, false, 7100)
    }

    #[test]
    fn a_role_listens_on_loopback_of_both_families_unless_told_otherwise() {
        let args =
            Grpc { listen: Vec::new(), insecure: false, admin: Admin::default(), role: Nothing {} };
        let addresses = closed(&args, false, 7100).unwrap();
        assert_eq!(addresses, rpc::listen::loopback(7100));
        let bound = sockets(&rpc::listen::loopback(0), &args.admin, 0).unwrap();
        let has_ipv6 = rpc::listen::tcp(&["[::1]:0".parse().unwrap()]).is_ok();
        for listeners in [&bound.work, &bound.admin] {
            let addresses = rpc::listen::addresses(listeners);
            assert!(addresses.iter().all(|address| address.ip().is_loopback()), "{addresses:?}");
            assert!(addresses.iter().any(SocketAddr::is_ipv4), "{addresses:?}");
            assert_eq!(addresses.iter().any(SocketAddr::is_ipv6), has_ipv6, "{addresses:?}");
        }
    }

    #[test]
    fn each_door_of_dev_kv_that_others_reach_needs_a_word() {
        #[derive(clap::Parser)]
        struct Kv {
            #[command(flatten)]
            args: dev_kv::Args,
        }
        for (flag, value, is_open) in [
            ("--listen", "127.0.0.1:1", true),
            ("--listen", "0.0.0.0:1", false),
            ("--pd-listen", "[::1]:1", true),
            ("--pd-listen", "0.0.0.0:1", false),
        ] {
            let kv: Kv = clap::Parser::parse_from(["till", "--data-dir", "d", flag, value]);
            assert_eq!(of_kv(&kv.args, false).is_ok(), is_open, "{flag} {value}");
            assert!(of_kv(&kv.args, true).is_ok());
        }
    }

    #[test]
    fn connections_leave_some_files_to_others() {
        for (wanted, files, taken) in
            [(50_000, 1_000_000, 50_000), (50_000, 20_000, 18_976), (50_000, 200, 150), (9, 1, 1)]
        {
            assert_eq!(connections(wanted, files), taken, "{wanted} of {files}");
        }
    }

    #[test]
    fn a_process_may_open_what_the_system_allows() {
        let files = open_files();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| soft), Ok(files));
    }

    #[test]
    fn plain_grpc_beyond_this_machine_needs_a_word() {
        assert!(listening_on("127.0.0.1:1", false).is_ok());
        assert!(listening_on("[::1]:1", false).is_ok());
        assert!(matches!(listening_on("0.0.0.0:1", false), Err(Refused::Insecure(_))));
        assert!(matches!(listening_on("10.1.2.3:1", false), Err(Refused::Insecure(_))));
        assert!(listening_on("0.0.0.0:1", true).is_ok());
    }
}
