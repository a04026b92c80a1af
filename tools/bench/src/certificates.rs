//! How an encrypted shop is asked: with the certificates of a directory, as `till up --tls-dir` has it.

use std::path::Path;

use rpc::{net::GrpcNet, tls::TlsDir};
use storage::tikv::TikvTls;

/// Asks for what applications ask.
const CLIENT: &str = "client";
/// Reads the store, as `till audit` does.
const OPERATOR: &str = "operator";

/// Of an authority, a client and an operator.
#[derive(Debug, Clone)]
pub(crate) struct Certificates(TlsDir);

impl Certificates {
    pub(crate) fn of(directory: &Path) -> Self {
        Self(TlsDir::new(directory.to_owned()))
    }

    /// The way to gRPC roles. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// In words, which file cannot be used.
    pub(crate) fn net(&self) -> Result<GrpcNet, String> {
        let tls = self.0.args(CLIENT).load();
        let tls = tls.map_err(|error| format!("--tls-dir: {error}"))?;
        Ok(GrpcNet::with_tls(tls))
    }

    /// The way to the store.
    pub(crate) fn store(&self) -> TikvTls {
        TikvTls { ca: self.0.ca(), cert: self.0.certificate(OPERATOR), key: self.0.key(OPERATOR) }
    }
}
