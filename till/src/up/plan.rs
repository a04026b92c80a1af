//! Which children a shop on one machine has, and their command lines. Pure.
//!
//! Invariant: every command line parses. A test checks them against the roles' own flags, so that a
//! renamed flag fails a test and does not keep a shop from starting.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use rpc::{access::TRUST_DOMAIN, tls::TlsDir};
use types::Role;

use super::listen::RestAddress;
use crate::role::KV_ADMIN_PORT;

/// What a child runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Runs {
    /// The store, when there is no cluster.
    DevKv,
    /// A role.
    Role(Role),
}

impl Runs {
    /// Everything that a child may run, in the order in which it is started and shown.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        [Self::DevKv].into_iter().chain(Role::ALL.map(Self::Role))
    }

    /// How many waves there are.
    pub(crate) const WAVES: usize = 4;

    /// In which wave it is stopped: callers before those that they call.
    pub(crate) const fn wave(self) -> usize {
        match self {
            Self::Role(Role::HttpBridge) => 0,
            Self::Role(Role::Coordinator) => 1,
            Self::Role(_) => 2,
            Self::DevKv => 3,
        }
    }

    /// True for roles that keep state in the store, and cannot start without it.
    pub(crate) const fn needs_store(self) -> bool {
        match self {
            Self::Role(role) => role.keeps_state(),
            Self::DevKv => false,
        }
    }

    /// Name of its subcommand.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Role(role) => role.name(),
            Self::DevKv => "dev-kv",
        }
    }
}

/// Where everything listens: REST on `http + i`, the replicas of a gRPC role side by side, and gRPC
/// roles and all admin ports as far from `grpc_base` as the default ports are from the
/// coordinator's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    /// Port of the first bridge.
    pub(crate) http: u16,
    /// Port of the first coordinator.
    pub(crate) grpc_base: u16,
    /// Port of dev-kv.
    pub(crate) kv: u16,
}

/// Maximum number of replicas of a role.
pub(crate) const REPLICAS_MAX: u16 = 50;

impl Ports {
    /// The work port of one replica.
    pub(crate) fn of(self, runs: Runs, replica: u16) -> u16 {
        match runs {
            Runs::Role(Role::HttpBridge) => self.http + replica,
            Runs::Role(role) => self.near(role.port()) + replica,
            Runs::DevKv => self.kv,
        }
    }

    /// The admin port of one replica.
    pub(crate) fn admin_of(self, runs: Runs, replica: u16) -> u16 {
        match runs {
            Runs::Role(role) => self.near(role.admin_port()) + replica,
            Runs::DevKv => self.near(KV_ADMIN_PORT),
        }
    }

    /// A default port, moved as far as the coordinator's is.
    const fn near(self, port: u16) -> u16 {
        self.grpc_base + (port - Role::Coordinator.port())
    }

    /// The address by which this machine reaches one replica.
    pub(crate) fn address(self, runs: Runs, replica: u16) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.of(runs, replica)).into()
    }
}

/// What the user asked for.
#[derive(Debug, Clone)]
pub(crate) struct ShopConfig {
    /// Path of this executable.
    pub(crate) program: PathBuf,
    /// Replicas of every role except dev-kv; 1 to [`REPLICAS_MAX`].
    pub(crate) replicas: u16,
    /// Ports of the children.
    pub(crate) ports: Ports,
    /// Addresses that REST listens on; only this machine's loopback when empty.
    pub(crate) listen: Vec<RestAddress>,
    /// Placement drivers of the cluster to use; None for a dev-kv of our own.
    pub(crate) pd_endpoints: Option<String>,
    /// Shards of every service, for a store that is not used yet.
    pub(crate) shards: Option<u16>,
    /// The data directory, in which dev-kv keeps its data.
    pub(crate) data_dir: PathBuf,
    /// Worker threads of each child, at least 1.
    pub(crate) worker_threads: u16,
    /// Format of the children's logs, as `--log-format` takes it.
    pub(crate) log_format: String,
    /// Services beyond our own, as NAME=ENDPOINTS.
    pub(crate) participants: Vec<String>,
    /// Names of the services that take part in every checkout.
    pub(crate) checkout_participants: Vec<String>,
    /// File of the keys that changes over REST need; None when they need no key.
    pub(crate) api_key_file: Option<PathBuf>,
    /// Certificates of all roles; None when everything is plain.
    pub(crate) certificates: Option<TlsDir>,
}

impl ShopConfig {
    /// What the children of this shop run, in the order in which they are started.
    pub(crate) fn roles(&self) -> impl Iterator<Item = Runs> {
        let has_store = self.pd_endpoints.is_none();
        Runs::all().filter(move |runs| *runs != Runs::DevKv || has_store)
    }
}

/// One child.
#[derive(Debug, Clone)]
pub(crate) struct Spec {
    /// Such as `order-0`, for people, logs and `up.json`.
    pub(crate) name: String,
    /// What it runs.
    pub(crate) role: Runs,
    /// Number of the replica, from 0.
    pub(crate) replica: u16,
    /// The executable to run.
    pub(crate) program: PathBuf,
    /// The executable's arguments.
    pub(crate) args: Vec<String>,
    /// Addresses that it listens on. Those that do not exist on this machine, IPv6 for instance,
    /// are left out when it binds.
    pub(crate) listen: Vec<SocketAddr>,
    /// The address by which this machine reaches it.
    pub(crate) address: SocketAddr,
    /// Addresses on which it answers operators; we ask the first.
    pub(crate) admin: [SocketAddr; 2],
}

impl Spec {
    /// Records which of its addresses could be bound.
    pub(crate) fn bound(&mut self, listen: Vec<SocketAddr>) {
        if let Some(address) = listen.iter().find(|one| one.is_ipv4()).or(listen.first()) {
            self.address = from_here(*address);
        }
        self.listen = listen;
    }
}

/// The address by which this machine reaches a listener.
fn from_here(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(on) if on.ip().is_unspecified() => (Ipv4Addr::LOCALHOST, on.port()).into(),
        SocketAddr::V6(on) if on.ip().is_unspecified() => (Ipv6Addr::LOCALHOST, on.port()).into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

/// The children, in the order in which they are started.
pub(crate) fn children(config: &ShopConfig) -> Vec<Spec> {
    let mut all = Vec::new();
    for role in config.roles() {
        let replicas = match role {
            Runs::DevKv => 1,
            Runs::Role(_) => config.replicas,
        };
        all.extend((0..replicas).map(|replica| child(config, role, replica)));
    }
    all
}

/// Names two children that want the same port, if there are any. One of them could never start.
pub(crate) fn collision(specs: &[Spec]) -> Option<String> {
    let mut takers: BTreeMap<u16, &str> = BTreeMap::new();
    for spec in specs {
        for addresses in [&spec.listen[..], &spec.admin[..]] {
            let ports: BTreeSet<u16> = addresses.iter().map(SocketAddr::port).collect();
            for port in ports {
                if let Some(other) = takers.insert(port, &spec.name) {
                    return Some(format!(
                        "port {port} is wanted by {other} and by {}: choose others with --http-port, \
                         --listen, --grpc-port-base or --kv-port",
                        spec.name
                    ));
                }
            }
        }
    }
    None
}

/// Shards for each replica of a service. With fewer shards batches are larger, because calls gather
/// for the next batch while one is written. docs/performance.md has the figures, and says when more
/// are better.
const SHARDS_PER_REPLICA: u16 = 1;

/// Memory of dev-kv, in MiB: for rows, for blocks of its files, and for what is not in a file yet.
/// It is less than that of a dev-kv that stands alone, because services keep what they work on in
/// memory and seldom read it again.
const ROW_CACHE_MIB: u32 = 24;
const BLOCK_CACHE_MIB: u32 = 16;
const MEMTABLE_MIB: u32 = 16;

/// Shards of each service in a data directory whose dev-kv was never started; None for any other.
pub(crate) fn shards_of_a_new_shop(data_dir: &Path, replicas: u16) -> Option<u16> {
    (!kv_dir(data_dir).exists()).then(|| replicas.saturating_mul(SHARDS_PER_REPLICA))
}

fn child(config: &ShopConfig, role: Runs, replica: u16) -> Spec {
    let port = config.ports.of(role, replica);
    let listen = match role {
        Runs::Role(Role::HttpBridge) if !config.listen.is_empty() => {
            config.listen.iter().map(|on| on.of(config.ports.http, replica)).collect()
        }
        Runs::Role(_) => rpc::listen::loopback(port).to_vec(),
        // It has one address, which the flags below pass to its clients.
        Runs::DevKv => vec![config.ports.address(role, replica)],
    };
    let admin = rpc::listen::loopback(config.ports.admin_of(role, replica));
    let mut args = vec![role.name().to_owned(), "--exit-with-parent".to_owned()];
    let mut flag = |name: &str, value: String| args.extend([format!("--{name}"), value]);
    flag("log-format", config.log_format.clone());
    flag("worker-threads", config.worker_threads.to_string());
    for address in &listen {
        flag("listen", address.to_string());
    }
    for address in admin {
        flag("admin-listen", address.to_string());
    }
    match role {
        Runs::Role(role) => wiring(config, role, &mut flag),
        Runs::DevKv => {
            flag("data-dir", kv_dir(&config.data_dir).display().to_string());
            flag("cache-mib", ROW_CACHE_MIB.to_string());
            flag("block-cache-mib", BLOCK_CACHE_MIB.to_string());
            flag("memtable-mib", MEMTABLE_MIB.to_string());
        }
    }
    for (name, path) in tls_flags(config, role) {
        flag(name, path.display().to_string());
    }
    Spec {
        name: format!("{}-{replica}", role.name()),
        role,
        replica,
        program: config.program.clone(),
        args,
        listen,
        address: config.ports.address(role, replica),
        admin,
    }
}

/// The flags by which a role finds the others, and what else is for this role only.
fn wiring(config: &ShopConfig, role: Role, flag: &mut impl FnMut(&str, String)) {
    if role.keeps_state() {
        let own = || config.ports.address(Runs::DevKv, 0).to_string();
        flag("pd-endpoints", config.pd_endpoints.clone().unwrap_or_else(own));
    }
    for callee in role.calls() {
        flag(&format!("{}-endpoints", callee.name()), endpoints(config, *callee));
    }
    if role.is_service()
        && let Some(shards) = config.shards
    {
        flag("shards", shards.to_string());
    }
    if role == Role::Coordinator {
        config.participants.iter().for_each(|each| flag("participant", each.clone()));
        let guests = config.checkout_participants.iter();
        guests.for_each(|each| flag("checkout-participant", each.clone()));
    }
    if role == Role::HttpBridge
        && let Some(file) = &config.api_key_file
    {
        flag("api-key-file", file.display().to_string());
    }
}

/// The flags by which a role proves who it is, also to our own store. For a cluster the children
/// read variables of their own.
fn tls_flags(config: &ShopConfig, role: Runs) -> Vec<(&'static str, PathBuf)> {
    let Some(all) = &config.certificates else { return Vec::new() };
    let [ca, certificate, key] = [all.ca(), all.certificate(role.name()), all.key(role.name())];
    let files = vec![
        ("tls-ca-file", ca.clone()),
        ("tls-cert-file", certificate.clone()),
        ("tls-key-file", key.clone()),
    ];
    if role == Runs::DevKv {
        // With it, dev-kv admits callers by their identity and not just because the authority
        // signed their certificate.
        return [files.as_slice(), &[("tls-trust-domain", TRUST_DOMAIN.into())]].concat();
    }
    let mut flags = files;
    if role.needs_store() && config.pd_endpoints.is_none() {
        flags.extend([
            ("store-ca-file", ca),
            ("store-cert-file", certificate),
            ("store-key-file", key),
        ]);
    }
    flags
}

/// Directory of dev-kv's data.
pub(crate) fn kv_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("kv")
}

/// All replicas of a role, as a comma list.
fn endpoints(config: &ShopConfig, role: Role) -> String {
    (0..config.replicas)
        .map(|replica| config.ports.address(Runs::Role(role), replica).to_string())
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests;
