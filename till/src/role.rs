//! Runs one role: binds its ports, hands it over to its crate, ends it.

use std::{
    error::Error,
    io,
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rpc::{
    access::{self, TRUST_DOMAIN},
    admin,
    listen::{ListenError, Listeners},
    net::Endpoint,
};

use crate::{
    cli::{Admin, Command, Grpc},
    common::{Failure, Stop},
    health,
};

/// Default ports: on 127.0.0.1 and [::1] for gRPC, on all addresses for HTTP.
mod port {
    pub(super) const COORDINATOR: u16 = 7000;
    pub(super) const ORDER: u16 = 7100;
    pub(super) const STOCK: u16 = 7200;
    pub(super) const PAYMENT: u16 = 7300;
    pub(super) const HTTP: u16 = 8000;
}

/// Default ports of the admin listeners, on 127.0.0.1 and [::1].
mod admin_port {
    pub(super) const COORDINATOR: u16 = 7050;
    pub(super) const ORDER: u16 = 7150;
    pub(super) const STOCK: u16 = 7250;
    pub(super) const PAYMENT: u16 = 7350;
    pub(super) const HTTP: u16 = 7450;
    pub(super) const KV: u16 = 7449;
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
pub(crate) async fn run(command: Command, stop: Stop) -> Result<ExitCode, Failure> {
    let files = open_files();
    match command {
        Command::Order(args) => {
            let addresses = closed(&args, args.role.role.tls.is_on(), port::ORDER)?;
            let on = sockets(&addresses, &args.admin, admin_port::ORDER)?;
            keep(on, &stop, |on, end| order::run(args.role, on, end)).await
        }
        Command::Stock(args) => {
            let addresses = closed(&args, args.role.role.tls.is_on(), port::STOCK)?;
            let on = sockets(&addresses, &args.admin, admin_port::STOCK)?;
            keep(on, &stop, |on, end| stock::run(args.role, on, end)).await
        }
        Command::Payment(args) => {
            let addresses = closed(&args, args.role.role.tls.is_on(), port::PAYMENT)?;
            let on = sockets(&addresses, &args.admin, admin_port::PAYMENT)?;
            keep(on, &stop, |on, end| payment::run(args.role, on, end)).await
        }
        Command::Coordinator(args) => {
            let addresses = closed(&args, args.role.tls.is_on(), port::COORDINATOR)?;
            let on = sockets(&addresses, &args.admin, admin_port::COORDINATOR)?;
            keep(on, &stop, |on, end| coordinator::run(args.role, on, end)).await
        }
        Command::DevKv(args) => {
            let open = args.insecure || args.role.tls_cert_file.is_some();
            let addresses = of_kv(&args.role, open)?;
            if let Some(file) = &args.role.tls_cert_file {
                let domain = args.tls_trust_domain.as_deref().unwrap_or(TRUST_DOMAIN);
                rpc::tls::check_nobodys(file, "dev-kv", domain)?;
            }
            let on = sockets(&addresses, &args.admin, admin_port::KV)?;
            let admit = args.tls_trust_domain.clone().map(admit);
            keep(on, &stop, |on, end| dev_kv(args.role, admit, on, end)).await
        }
        Command::HttpBridge(mut args) => {
            args.role.connections_max = connections(args.role.connections_max, files);
            let addresses = or_default(&args.listen, &rpc::listen::everywhere(port::HTTP));
            let on = sockets(&addresses, &args.admin, admin_port::HTTP)?;
            keep(on, &stop, |on, end| http_bridge::run(args.role, on, end)).await
        }
        Command::Up(_)
        | Command::Bench(_)
        | Command::Health(_)
        | Command::Audit(_)
        | Command::Tx(_)
        | Command::Participant(_) => Ok(ExitCode::SUCCESS),
    }
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
    Run: FnOnce(Listeners, tokio_util::sync::WaitForCancellationFutureOwned) -> Ended,
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
