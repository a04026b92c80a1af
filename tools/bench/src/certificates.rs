//! Certificates to reach a shop with TLS, from a directory as of `till up --tls-dir`.

use std::path::Path;

use rpc::{net::GrpcNet, tls::TlsDir};
use storage::tikv::TikvTls;

/// Name of the certificate for calls, as applications make them.
const CLIENT: &str = "client";
/// Name of the certificate for reading the store, as `till audit` does.
const OPERATOR: &str = "operator";

/// The certificates of an authority, a client and an operator.
#[derive(Debug, Clone)]
pub(crate) struct Certificates(TlsDir);

impl Certificates {
    pub(crate) fn of(directory: &Path) -> Self {
        Self(TlsDir::new(directory.to_owned()))
    }

    /// The network for calls to gRPC roles. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// In words, with the file that cannot be used.
    pub(crate) fn net(&self) -> Result<GrpcNet, String> {
        let tls = self.0.args(CLIENT).load();
        let tls = tls.map_err(|error| format!("--tls-dir: {error}"))?;
        Ok(GrpcNet::with_tls(tls))
    }

    /// The TLS files for the store.
    pub(crate) fn store(&self) -> TikvTls {
        TikvTls { ca: self.0.ca(), cert: self.0.certificate(OPERATOR), key: self.0.key(OPERATOR) }
    }
}
