//! A directory with the certificates of all identities.

use std::path::{Path, PathBuf};

use super::TlsArgs;
use crate::access::TRUST_DOMAIN;

/// The certificates of a whole shop: `ca.pem` of the authority, and `NAME.pem` and `NAME.key` of
/// each identity. This only builds paths; a missing file is noticed when it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsDir(PathBuf);

impl TlsDir {
    /// The directory at this path.
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of the authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// The path of an identity's certificate.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.pem"))
    }

    /// The path of the private key of that certificate.
    pub fn key(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.key"))
    }

    /// The settings of an identity.
    pub fn args(&self, name: &str) -> TlsArgs {
        TlsArgs {
            tls_cert_file: Some(self.certificate(name)),
            tls_key_file: Some(self.key(name)),
            ..self.args_without_identity()
        }
    }

    /// The settings of a caller that trusts the authority but has no certificate.
    pub fn args_without_identity(&self) -> TlsArgs {
        TlsArgs {
            tls_ca_file: Some(self.ca()),
            tls_cert_file: None,
            tls_key_file: None,
            tls_trust_domain: TRUST_DOMAIN.to_owned(),
            tls_no_client_auth: false,
            expected: None,
        }
    }
}
