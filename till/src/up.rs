//! A whole shop on one machine: every role as a child process of this executable.
//!
//! Must not know: how a role does its work.
//!
//! Modules: [`plan`] the children and their flags; [`certificates`] how they prove who they are;
//! [`listen`] where REST listens; [`data_dir`] the directory and its lock; [`child`] keeps one
//! child alive; [`logs`] the children's output; [`status`] `up.json`; [`greeting`] the text for the
//! user once the shop is ready.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{ArgAction, builder::BoolishValueParser, value_parser};
use rpc::{
    listen::ListenError,
    net::{Endpoint, GrpcNet},
    tls::TlsDir,
};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

mod certificates;
mod child;
mod data_dir;
mod greeting;
mod listen;
mod logs;
mod plan;
mod status;

use self::{
    data_dir::DataDir,
    listen::{PORT_BASE_MAX, RestAddress},
    logs::Sink,
    plan::{Ports, REPLICAS_MAX, Runs, ShopConfig, Spec},
    status::{ChildStatus, Status},
};
use types::{Role, SHARDS_MAX, error::chain};

use crate::{
    common::{Failure, Process, Stop},
    health,
};

/// How long a port may stay taken: the children of a shop that was killed need a moment to notice.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two probes of a child.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// Interval between warnings that a child does not answer yet.
const STILL_WAITING_AFTER: Duration = Duration::from_secs(10);

/// How to run a shop on this machine.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Replicas of every role but dev-kv.
    #[arg(long, env = "TILL_REPLICAS", default_value_t = 1, value_name = "COUNT",
          value_parser = value_parser!(u16).range(1..=i64::from(REPLICAS_MAX)))]
    replicas: u16,
    /// Directory for data and logs. It is created if it does not exist.
    #[arg(long, env = "TILL_DATA_DIR", default_value = "till-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// First delete everything in the data directory.
    #[arg(long)]
    fresh: bool,
    /// Address for REST to listen on, IP or IP:PORT; may be repeated. By default 127.0.0.1 and
    /// [::1], which only this machine can reach; 0.0.0.0 and [::] let other machines in. Everything
    /// else listens on this machine only.
    #[arg(long, env = "TILL_LISTEN", value_name = "ADDRESS", value_delimiter = ',')]
    listen: Vec<RestAddress>,
    /// Port of REST. Further replicas take the ports after it.
    #[arg(long, env = "TILL_HTTP_PORT", default_value_t = 8000, value_name = "PORT",
          value_parser = value_parser!(u16).range(1..=i64::from(PORT_BASE_MAX)))]
    http_port: u16,
    /// First gRPC port of the coordinators; orders start 100 above it, stock 200, payment 300.
    /// Admin ports (/metrics) start 50 above a role's gRPC ports; the bridges' start 450 above this
    /// port, and dev-kv's is 449 above.
    #[arg(long, env = "TILL_GRPC_PORT_BASE", default_value_t = 7000, value_name = "PORT",
          value_parser = value_parser!(u16).range(1..=i64::from(PORT_BASE_MAX)))]
    grpc_port_base: u16,
    /// Port of dev-kv.
    #[arg(long, env = "TILL_KV_PORT", default_value_t = 2379, value_name = "PORT",
          value_parser = value_parser!(u16).range(1..))]
    kv_port: u16,
    /// Placement drivers of the TiKV cluster to use as the store, host:port[,host:port...]. By
    /// default a dev-kv that keeps its data in the data directory.
    #[arg(long, env = "PD_ENDPOINTS", value_name = "ENDPOINTS")]
    pd_endpoints: Option<String>,
    /// Number of shards of every service. It is fixed when a store is first used; leave it out
    /// afterwards. By default, in a new data directory, one per replica.
    #[arg(long, env = "TILL_SHARDS", value_name = "COUNT",
          value_parser = value_parser!(u16).range(1..=i64::from(SHARDS_MAX)))]
    shards: Option<u16>,
    /// Directory of certificates: ca.pem, and NAME.pem and NAME.key for each role, including
    /// dev-kv. Every gRPC hop then uses mutual TLS, including those to dev-kv, and a role may call
    /// only what its certificate allows. If the directory is empty, it is filled with an authority
    /// and with certificates, valid for a year, for the roles, an operator and a client.
    #[arg(long, env = "TILL_TLS_DIR", value_name = "DIR")]
    tls_dir: Option<PathBuf>,
    /// File of API keys, one per line, of 16 to 512 visible ASCII characters each. With it, REST
    /// calls that may change something need one of them, as `Authorization: Bearer KEY`. The file
    /// is read again when it changes.
    #[arg(long, env = "TILL_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// The roles inherit its variable. They listen on this machine only, so it changes nothing for
    /// them; it is declared here so that it can be refused together with certificates.
    #[arg(long, env = "TILL_INSECURE", hide = true, action = ArgAction::Set, num_args = 0..=1,
          require_equals = true, default_value_t = false, default_missing_value = "true",
          value_parser = BoolishValueParser::new())]
    insecure: bool,
    /// Services beyond our own, for the coordinators.
    #[command(flatten)]
    participants: coordinator::participants::ParticipantArgs,
    /// Milliseconds that a child that was told to stop has to exit before it is killed.
    #[arg(long, env = "TILL_STOP_TIMEOUT_MS", default_value_t = 25_000, value_name = "MILLISECONDS",
          value_parser = value_parser!(u64).range(1..=3_600_000))]
    stop_timeout_ms: u64,
}

impl Args {
    /// True when the settings both demand encryption and allow plain gRPC.
    pub(crate) const fn is_contradiction(&self) -> bool {
        self.insecure && self.tls_dir.is_some()
    }
}

/// A child's ports cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("{child} cannot listen (ports are chosen with {flag})")]
struct CannotListen {
    child: String,
    flag: &'static str,
    #[source]
    source: ListenError,
}

/// Runs the shop until told to end.
pub(crate) async fn run(args: Args, process: &Process, stop: Stop) -> Result<ExitCode, Failure> {
    let begun = Instant::now();
    // Report a contradiction here. Otherwise the children would report it, each time they are
    // started again.
    args.participants.extras()?;
    if let Some(file) = &args.api_key_file {
        http_bridge::key::check(file)
            .map_err(|error| format!("--api-key-file: {}", chain(&error)))?;
    }
    let data_dir = DataDir::open(&args.data_dir, args.fresh)?;
    let config = shop_config(&args, process, data_dir.path())?;
    let mut specs = plan::children(&config);
    if let Some(problem) = plan::collision(&specs) {
        return Err(problem.into());
    }
    let probe = Probe::new(&config)?;
    for spec in &mut specs {
        let bound = wait_for_ports(spec, begun).await?;
        spec.bound(bound);
    }
    let log_dir = data_dir.path().join("logs");
    std::fs::create_dir_all(&log_dir)?;
    let rest = greeting::rest(&specs);
    let tls_dir = config.certificates.as_ref().map(TlsDir::path);
    let status =
        Arc::new(Status::create(data_dir.path(), rest, tls_dir, initial_statuses(&specs))?);
    let store_ready = store_ready(&specs, &probe);
    let mut waves = Waves::start(&specs, &log_dir, &status, &args, &stop, &store_ready)?;
    tokio::select! {
        () = wait_all_ready(&specs, &probe) => {
            status.ready();
            print(&greeting::text(&config, &specs, &log_dir, begun.elapsed()));
            stop.gently.cancelled().await;
        }
        () = stop.gently.cancelled() => {}
    }
    tracing::info!("stopping all roles in order");
    let code = waves.stop(&stop).await;
    drop(data_dir);
    Ok(code)
}

fn shop_config(args: &Args, process: &Process, data_dir: &Path) -> Result<ShopConfig, Failure> {
    // An empty variable counts as unset.
    let pd_endpoints = args.pd_endpoints.clone().filter(|text| !text.trim().is_empty());
    // A cluster has its own number of shards, unless the user asks for one.
    let usual = || match &pd_endpoints {
        Some(_) => None,
        None => plan::shards_of_a_new_shop(data_dir, args.replicas),
    };
    let mut config = ShopConfig {
        shards: args.shards.or_else(usual),
        program: std::env::current_exe()?,
        replicas: args.replicas,
        listen: args.listen.clone(),
        ports: Ports { http: args.http_port, grpc_base: args.grpc_port_base, kv: args.kv_port },
        pd_endpoints,
        data_dir: data_dir.to_owned(),
        worker_threads: process.worker_threads.unwrap_or_else(threads_of_a_child),
        log_format: process.log_format.to_string(),
        participants: args.participants.participant.iter().map(ToString::to_string).collect(),
        checkout_participants: args.participants.checkout_participant.clone(),
        api_key_file: args.api_key_file.clone(),
        certificates: None,
    };
    if let Some(directory) = &args.tls_dir {
        let roles: Vec<Runs> = config.roles().collect();
        config.certificates = Some(certificates::open(directory, &roles)?);
    }
    Ok(config)
}

/// Half of the cores. Six processes share them, and a process with a thread on every core would
/// only compete with the others.
fn threads_of_a_child() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores / 2).unwrap_or(u16::MAX).max(1)
}

/// The entries of `up.json` before any child runs.
fn initial_statuses(specs: &[Spec]) -> BTreeMap<String, ChildStatus> {
    let entry = |spec: &Spec| ChildStatus {
        role: spec.role.name(),
        replica: spec.replica,
        address: spec.address.to_string(),
        listen: spec.listen.iter().map(ToString::to_string).collect(),
        admin: spec.admin[0].to_string(),
        pid: None,
        restarts: 0,
    };
    specs.iter().map(|spec| (spec.name.clone(), entry(spec))).collect()
}

/// Makes sure that a child can listen, and returns the addresses that it will listen on. Another
/// process may still take one first. The child then reports it at each start.
async fn wait_for_ports(spec: &Spec, begun: Instant) -> Result<Vec<SocketAddr>, CannotListen> {
    loop {
        let blaming = |flag| move |source| (flag, source);
        let work = rpc::listen::tcp(&spec.listen).map_err(blaming(ports_of(spec.role)));
        let all = work.and_then(|work| {
            Ok((work, rpc::listen::tcp(&spec.admin).map_err(blaming(PORT_BASE))?))
        });
        match all {
            Ok((work, _closed_again)) => return Ok(rpc::listen::addresses(&work)),
            Err((_, ListenError::Taken { .. })) if begun.elapsed() < PORT_PATIENCE => {
                sleep(PROBE_EVERY).await;
            }
            Err((flag, source)) => {
                return Err(CannotListen { child: spec.name.clone(), flag, source });
            }
        }
    }
}

/// The flag that chooses the work ports of most roles, and the admin ports of all.
const PORT_BASE: &str = "--grpc-port-base";

/// The flags that choose the work ports of a role.
const fn ports_of(role: Runs) -> &'static str {
    match role {
        Runs::Role(Role::HttpBridge) => "--http-port or --listen",
        Runs::DevKv => "--kv-port",
        Runs::Role(_) => PORT_BASE,
    }
}

/// Returns once every child is ready. The bridges are asked last, because they ask all others.
async fn wait_all_ready(specs: &[Spec], probe: &Probe) {
    let (bridges, others): (Vec<&Spec>, Vec<&Spec>) =
        specs.iter().partition(|spec| spec.role == Runs::Role(Role::HttpBridge));
    for some in [others, bridges] {
        futures::future::join_all(some.into_iter().map(|spec| wait_ready(spec, probe))).await;
    }
}

/// Returns once the child is ready.
async fn wait_ready(spec: &Spec, probe: &Probe) {
    let mut told = Instant::now();
    while let Err(error) = probe.ask(spec).await {
        if told.elapsed() > STILL_WAITING_AFTER {
            told = Instant::now();
            let error = chain(&error);
            tracing::warn!(child = spec.name, error, "still waiting for child");
        }
        sleep(PROBE_EVERY).await;
    }
}

/// A token that is cancelled once there is a store: at once for a cluster, else when our dev-kv
/// answers.
fn store_ready(specs: &[Spec], probe: &Probe) -> CancellationToken {
    let there = CancellationToken::new();
    match specs.iter().find(|spec| spec.role == Runs::DevKv).cloned() {
        Some(spec) => {
            let (there, probe) = (there.clone(), probe.clone());
            tokio::spawn(async move {
                wait_ready(&spec, &probe).await;
                there.cancel();
            });
        }
        None => there.cancel(),
    }
    there
}

/// Asks children for their health.
#[derive(Debug, Clone)]
struct Probe {
    net: GrpcNet,
    encrypted: bool,
}

impl Probe {
    fn new(config: &ShopConfig) -> Result<Self, Failure> {
        // Health checks need no certificate of the caller.
        let nobody = config.certificates.as_ref().map(TlsDir::args_without_identity);
        let tls = nobody.map(|args| args.load()).transpose()?.flatten();
        Ok(Self { encrypted: tls.is_some(), net: GrpcNet::with_tls(tls) })
    }

    async fn ask(&self, spec: &Spec) -> Result<(), health::Unwell> {
        let patience = Duration::from_secs(2);
        let endpoint = Endpoint::from(spec.address);
        match spec.role {
            Runs::Role(Role::HttpBridge) => {
                health::http(&endpoint, health::HTTP_BRIDGE, patience).await
            }
            // Its health endpoint needs TLS then. Its admin listener answers without.
            Runs::DevKv if self.encrypted => {
                health::http(&Endpoint::from(spec.admin[0]), health::HTTP_BRIDGE, patience).await
            }
            Runs::DevKv => health::http(&endpoint, health::DEV_KV, patience).await,
            Runs::Role(_) => health::grpc(&self.net, &endpoint, "", patience).await,
        }
    }
}

/// The children, in the order in which they are stopped.
struct Waves {
    all: Vec<(CancellationToken, JoinSet<()>)>,
}

impl Waves {
    fn start(
        specs: &[Spec],
        log_dir: &Path,
        status: &Arc<Status>,
        args: &Args,
        stop: &Stop,
        store_ready: &CancellationToken,
    ) -> io::Result<Self> {
        let width = specs.iter().map(|spec| spec.name.len()).max().unwrap_or(0);
        let mut all = Vec::new();
        for wave in 0..Runs::WAVES {
            let gently = CancellationToken::new();
            let mut children = JoinSet::new();
            for spec in specs.iter().filter(|spec| spec.role.wave() == wave) {
                let colour = Runs::all().position(|runs| runs == spec.role);
                let sink = Sink::open(log_dir, &spec.name, colour.unwrap_or(0), width)?;
                let stop = child::Stop {
                    gently: gently.clone(),
                    now: stop.now.clone(),
                    patience: Duration::from_millis(args.stop_timeout_ms),
                };
                let store = spec.role.needs_store().then(|| store_ready.clone());
                let (spec, status) = (spec.clone(), Arc::clone(status));
                children.spawn(async move {
                    if let Some(there) = store {
                        // When the stop comes first, `keep` starts nothing and returns.
                        tokio::select! {
                            () = there.cancelled() => {}
                            () = stop.gently.cancelled() => {}
                        }
                    }
                    child::keep(spec, sink, status, stop).await;
                });
            }
            all.push((gently, children));
        }
        Ok(Self { all })
    }

    /// Stops wave after wave, or all at once when told to hurry. No child is left when this
    /// returns.
    async fn stop(&mut self, stop: &Stop) -> ExitCode {
        for (gently, children) in &mut self.all {
            gently.cancel();
            tokio::select! {
                () = drain(children) => {}
                () = stop.now.cancelled() => break,
            }
        }
        for (gently, children) in &mut self.all {
            gently.cancel();
            drain(children).await;
        }
        if stop.now.is_cancelled() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }
}

async fn drain(children: &mut JoinSet<()>) {
    while children.join_next().await.is_some() {}
}

/// Writes to standard output for the user. Errors are ignored, as nobody is left to tell.
fn print(text: &str) {
    drop(io::stdout().write_all(text.as_bytes()));
    drop(io::stdout().flush());
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn the_flag_that_chooses_a_taken_port_is_named() {
        let taken = rpc::listen::tcp(&[(Ipv4Addr::LOCALHOST, 0).into()]).unwrap();
        let taken = taken[0].local_addr().unwrap();
        let free: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let begun = Instant::now().checked_sub(PORT_PATIENCE).unwrap();
        for (role, work) in [
            (Runs::Role(Role::HttpBridge), "--http-port or --listen"),
            (Runs::DevKv, "--kv-port"),
            (Runs::Role(Role::Order), "--grpc-port-base"),
        ] {
            for (listen, admin, flag) in [(taken, free, work), (free, taken, "--grpc-port-base")] {
                let spec = Spec {
                    name: "child".to_owned(),
                    role,
                    replica: 0,
                    program: PathBuf::new(),
                    args: Vec::new(),
                    listen: vec![listen],
                    address: listen,
                    admin: [admin, admin],
                };
                let error = wait_for_ports(&spec, begun).await.unwrap_err();
                assert_eq!(error.flag, flag, "{role:?}: {}", chain(&error));
                let is_taken =
                    matches!(error.source, ListenError::Taken { address } if address == taken);
                assert!(is_taken, "{role:?}: {}", chain(&error));
            }
        }
    }
}
