//! The options of the server, and its configuration.

use crate::faults::Rule;
use crate::gc::PdVersion;
use clap::Args as ClapArgs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Options of the server, for a command line or the environment.
#[derive(Debug, Clone, ClapArgs)]
pub struct Args {
    /// Directory of the data. It is created if it does not exist.
    #[arg(long, env = "TILL_DEV_KV_DATA_DIR", default_value = "till-data/dev-kv")]
    pub data_dir: PathBuf,

    /// Address to listen on. It serves PD, TiKV and HTTP.
    #[arg(long, env = "TILL_DEV_KV_LISTEN", default_value = "127.0.0.1:2379")]
    pub listen: SocketAddr,

    /// Addresses to serve further placement drivers on. Each can be made to hang or to lead.
    #[arg(long, env = "TILL_DEV_KV_PD_LISTEN", value_delimiter = ',')]
    pub pd_listen: Vec<SocketAddr>,

    /// Placement drivers that hang from the start, by number; the one at the listen address is 1.
    #[arg(long, env = "TILL_DEV_KV_PD_HANGING", value_delimiter = ',')]
    pub pd_hanging: Vec<u64>,

    /// `host:port` at which clients reach this process. By default the listen address.
    #[arg(long, env = "TILL_DEV_KV_ADVERTISE")]
    pub advertise: Option<String>,

    /// Number of regions to cut a new store into, evenly.
    #[arg(long, env = "TILL_DEV_KV_REGIONS", default_value_t = 1)]
    pub regions: usize,

    /// Further keys to cut regions at, in hexadecimal.
    #[arg(long, env = "TILL_DEV_KV_SPLIT_AT", value_delimiter = ',')]
    pub split_at: Vec<String>,

    /// Keyspaces to create in addition to DEFAULT.
    #[arg(long, env = "TILL_DEV_KV_KEYSPACES", value_delimiter = ',')]
    pub keyspaces: Vec<String>,

    /// Version of PD whose rules of garbage collection apply.
    #[arg(long, env = "TILL_DEV_KV_PD_VERSION", value_enum, default_value_t)]
    pub pd_version: PdVersion,

    /// Memory for cached rows, in MiB.
    #[arg(long, env = "TILL_DEV_KV_CACHE_MIB", default_value_t = 128)]
    pub cache_mib: u32,

    /// Memory for blocks read from disk, in MiB.
    #[arg(long, env = "TILL_DEV_KV_BLOCK_CACHE_MIB", default_value_t = 64)]
    pub block_cache_mib: u32,

    /// Memory for the newest rows until they are written to a table, in MiB. A smaller value causes
    /// more merging.
    #[arg(long, env = "TILL_DEV_KV_MEMTABLE_MIB", default_value_t = 32,
          value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub memtable_mib: u32,

    /// PEM file of the certificate to serve TLS with. Needs --tls-key-file.
    #[arg(long, alias = "tls-cert", env = "TILL_DEV_KV_TLS_CERT", requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,

    /// PEM file of the certificate's private key.
    #[arg(long, alias = "tls-key", env = "TILL_DEV_KV_TLS_KEY", requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,

    /// PEM file of the authority that must have signed the clients' certificates.
    #[arg(long, alias = "tls-ca", env = "TILL_DEV_KV_TLS_CA", requires = "tls_cert_file")]
    pub tls_ca_file: Option<PathBuf>,

    /// A fault that is active from the start, as the JSON of a rule; may be repeated.
    #[arg(long, env = "TILL_DEV_KV_FAULT", value_parser = parse_rule)]
    pub fault: Vec<Rule>,

    /// Seed of the random choices of faults.
    #[arg(long, env = "TILL_DEV_KV_FAULT_SEED", default_value_t = 1)]
    pub fault_seed: u64,
}

fn parse_rule(text: &str) -> Result<Rule, String> {
    serde_json::from_str(text).map_err(|error| error.to_string())
}

/// The paths of a TLS identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Certificate authority of the clients, PEM; without it, clients need no certificate.
    pub ca: Option<PathBuf>,
}

/// A validated configuration.
#[derive(Clone)]
pub struct Config {
    /// Directory of the data.
    pub data_dir: PathBuf,
    /// Addresses to listen on as further placement drivers.
    pub pd_listen: Vec<SocketAddr>,
    /// Placement drivers that hang from the start, by number from 1.
    pub pd_hanging: Vec<u64>,
    /// `host:port` at which clients reach the server; none means the listener's address.
    pub advertise: Option<String>,
    /// Plain keys to cut regions at.
    pub split_keys: Vec<Vec<u8>>,
    /// Keyspaces to create in addition to DEFAULT.
    pub keyspaces: Vec<String>,
    /// Version of PD whose rules of garbage collection apply.
    pub pd_version: PdVersion,
    /// Memory for cached rows, in bytes.
    pub cache_bytes: u64,
    /// Memory for blocks read from disk, in bytes.
    pub block_cache_bytes: u64,
    /// Memory for the newest rows until they are written to a table, in bytes.
    pub memtable_bytes: u64,
    /// TLS files; none serves without TLS.
    pub tls: Option<TlsPaths>,
    /// Decides on client certificates that the authority has issued; none admits them all.
    pub admit: Option<crate::Admit>,
    /// Faults in force from the start.
    pub faults: Vec<Rule>,
    /// Seed of the random numbers for faults.
    pub fault_seed: u64,
    /// Called after each sync of the data directory; for tests of durability.
    pub sync_probe: Option<crate::SyncProbe>,
    /// Limits on what clients can make the server hold.
    pub bounds: Bounds,
}

/// Limits on what clients can make the server hold.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once per listening address; more wait to be accepted.
    pub connections_max: usize,
    /// A connection that sends no request within this time is cut.
    pub first_request: Duration,
    /// Requests to the store in flight at once, their untaken answers among them; more are refused.
    pub in_flight_max: usize,
    /// Bytes of all requests to the store in flight, over 16 KiB of each.
    pub held_bytes_max: usize,
    /// A request that is not complete within this time is given up.
    pub patience: Duration,
    /// A connection is cut when its client takes nothing of an answer for this long, or up to twice
    /// as long.
    pub stall: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            first_request: Duration::from_secs(30),
            in_flight_max: 20_000,
            held_bytes_max: 512 << 20,
            patience: Duration::from_secs(30),
            // Longer than tests suspend a role.
            stall: Duration::from_mins(1),
        }
    }
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("data_dir", &self.data_dir)
            .field("advertise", &self.advertise)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// The default configuration over this data directory.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            pd_listen: Vec::new(),
            pd_hanging: Vec::new(),
            advertise: None,
            split_keys: Vec::new(),
            keyspaces: Vec::new(),
            pd_version: PdVersion::default(),
            cache_bytes: 128 << 20,
            block_cache_bytes: 64 << 20,
            memtable_bytes: 32 << 20,
            tls: None,
            admit: None,
            faults: Vec::new(),
            fault_seed: 1,
            sync_probe: None,
            bounds: Bounds::default(),
        }
    }

    /// Cuts a new store into this many regions.
    #[must_use]
    pub fn with_regions(mut self, count: usize) -> Self {
        let keys = crate::regions::presplit_keys(count);
        self.split_keys.extend(keys.iter().map(|key| key.to_vec()));
        self
    }
}

impl TryFrom<Args> for Config {
    type Error = crate::Error;

    /// # Errors
    ///
    /// An argument is out of range or malformed. A retry does not help.
    fn try_from(args: Args) -> Result<Self, crate::Error> {
        if args.regions == 0 || args.regions > 10_000 {
            return Err(crate::Error::Config(format!(
                "{} regions; from 1 to 10000 are possible",
                args.regions
            )));
        }
        let mut config = Self::new(args.data_dir).with_regions(args.regions);
        for text in &args.split_at {
            config.split_keys.push(parse_hex(text)?);
        }
        config.pd_listen = args.pd_listen;
        config.pd_hanging = args.pd_hanging;
        config.advertise = args.advertise;
        config.keyspaces = args.keyspaces;
        config.pd_version = args.pd_version;
        config.cache_bytes = u64::from(args.cache_mib) << 20;
        config.block_cache_bytes = u64::from(args.block_cache_mib) << 20;
        config.memtable_bytes = u64::from(args.memtable_mib) << 20;
        config.tls = match (args.tls_cert_file, args.tls_key_file) {
            (Some(cert), Some(key)) => Some(TlsPaths { cert, key, ca: args.tls_ca_file }),
            (_, _) => None,
        };
        config.faults = args.fault;
        config.fault_seed = args.fault_seed;
        Ok(config)
    }
}

/// Decodes hexadecimal digits.
pub(crate) fn parse_hex(text: &str) -> Result<Vec<u8>, crate::Error> {
    let bad = || crate::Error::Config(format!("{text:?} is not hexadecimal"));
    let digits: Vec<u8> = text
        .chars()
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()
        .ok_or_else(bad)?;
    if !digits.len().is_multiple_of(2) {
        return Err(bad());
    }
    Ok(digits
        .chunks_exact(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read_or_refused() {
        assert_eq!(parse_hex("00fFa1").unwrap(), [0, 0xff, 0xa1]);
        assert_eq!(parse_hex("").unwrap(), Vec::<u8>::new());
        for bad in ["0", "0g", "é1"] {
            assert!(parse_hex(bad).is_err(), "{bad}");
        }
    }
}
