//! How an encrypted shop is asked: with the certificates of a directory, as `till up --tls-dir` has it.

use std::path::{Path, PathBuf};

use rpc::{access::TRUST_DOMAIN, net::GrpcNet, tls::TlsArgs};
use storage::tikv::TikvTls;

/// Asks for what applications ask.
const CLIENT: &str = "client";
/// Reads the store, as `till audit` does.
const OPERATOR: &str = "operator";

/// Of an authority, a client and an operator.
#[derive(Debug, Clone)]
pub(crate) struct Certificates {
    directory: PathBuf,
}

impl Certificates {
    pub(crate) fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The way to gRPC roles. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// In words, which file cannot be used.
    pub(crate) fn net(&self) -> Result<GrpcNet, String> {
        let args = TlsArgs {
            tls_ca_file: Some(self.file("ca.pem")),
            tls_cert_file: Some(self.file(&format!("{CLIENT}.pem"))),
            tls_key_file: Some(self.file(&format!("{CLIENT}.key"))),
            tls_trust_domain: TRUST_DOMAIN.to_owned(),
            tls_no_client_auth: false,
        };
        let tls = args.load().map_err(|error| format!("--tls-dir: {error}"))?;
        Ok(GrpcNet::with_tls(tls))
    }

    /// The way to the store.
    pub(crate) fn store(&self) -> TikvTls {
        TikvTls {
            ca: self.file("ca.pem"),
            cert: self.file(&format!("{OPERATOR}.pem")),
            key: self.file(&format!("{OPERATOR}.key")),
        }
    }
}
