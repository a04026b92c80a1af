//! A directory with everybody's certificates.

use std::path::{Path, PathBuf};

use super::TlsArgs;
use crate::access::TRUST_DOMAIN;

/// Where the certificates of a whole shop are: `ca.pem` of the authority, `NAME.pem` and `NAME.key` of each
/// identity. It knows the names; whether the files are there shows when they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsDir(PathBuf);

impl TlsDir {
    /// The one at this path.
    pub const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The certificate of the authority.
    pub fn ca(&self) -> PathBuf {
        self.0.join("ca.pem")
    }

    /// The certificate of an identity.
    pub fn certificate(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.pem"))
    }

    /// The private key of that certificate.
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

    /// The settings of somebody who believes the authority and shows nothing.
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
