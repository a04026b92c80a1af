//! The settings by which a role connects to the store.

use std::sync::Arc;

use clap::{Args, value_parser};
use types::SHARDS_MAX;

use crate::{
    kv::{KvError, SharedKv},
    metered::Metered,
    tikv::{TikvConfig, TikvKv, TikvTls},
};

/// The store's addresses, and how to connect to it.
#[derive(Args, Clone, Debug)]
pub struct StoreArgs {
    /// Addresses of the store's placement drivers: host:port[,host:port...].
    #[arg(
        long,
        env = "PD_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:2379",
        value_name = "ENDPOINTS"
    )]
    pub pd_endpoints: Vec<String>,

    /// Number of shards of every service, 1 to 4096. It is fixed when the store is first used;
    /// leave it out afterwards.
    #[arg(long, env = "TILL_SHARDS", value_parser = value_parser!(u16).range(1..=i64::from(SHARDS_MAX)))]
    pub shards: Option<u16>,

    /// Milliseconds after which a call to the store counts as unanswered.
    #[arg(long, env = "TILL_STORE_TIMEOUT_MS", default_value_t = 3_000,
          value_parser = value_parser!(u64).range(100..=60_000))]
    pub store_timeout_ms: u64,

    /// PEM file of the authority that signed the store's certificate. Needs --store-cert-file and
    /// --store-key-file.
    #[arg(long, env = "TILL_STORE_CA_FILE", value_name = "FILE",
          requires_all = ["store_cert_file", "store_key_file"])]
    pub store_ca_file: Option<std::path::PathBuf>,

    /// PEM file of the certificate to show to the store.
    #[arg(long, env = "TILL_STORE_CERT_FILE", value_name = "FILE", requires = "store_ca_file")]
    pub store_cert_file: Option<std::path::PathBuf>,

    /// PEM file of the private key of --store-cert-file.
    #[arg(long, env = "TILL_STORE_KEY_FILE", value_name = "FILE", requires = "store_ca_file")]
    pub store_key_file: Option<std::path::PathBuf>,
}

impl StoreArgs {
    /// Connects to the store at these addresses. Calls wait while the store is not there.
    ///
    /// # Errors
    /// [`KvError::Refused`] when the settings are not usable; a retry does not help.
    pub async fn connect(&self) -> Result<SharedKv, KvError> {
        let mut config = TikvConfig::new(self.pd_endpoints.clone());
        config.request_timeout_ms = self.store_timeout_ms;
        if let (Some(ca), Some(cert), Some(key)) =
            (&self.store_ca_file, &self.store_cert_file, &self.store_key_file)
        {
            config.tls = Some(TikvTls { ca: ca.clone(), cert: cert.clone(), key: key.clone() });
        }
        let kv = TikvKv::connect(config).await?;
        Ok(Arc::new(Metered::new(kv)))
    }
}
