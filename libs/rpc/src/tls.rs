//! TLS for gRPC, in both directions: certificates come from files, which are read again when they
//! change, and identities replace host names.
//!
//! A callee is trusted if its certificate is signed by the authority and carries the expected
//! identity ([`crate::access`]). Addresses prove nothing, because replicas come and go. The same
//! holds for a caller; one without a certificate may only use health and reflection.
//!
//! Reloaded certificates count for new connections; the maximum age of connections bounds how long
//! old ones outlive them. Sessions are not resumed, so that each connection shows its certificate.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use clap::{ArgAction, builder::BoolishValueParser};
use tokio_rustls::rustls::{
    self, ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use types::Role;

use crate::{
    access::{Identity, TRUST_DOMAIN},
    reload::{RELOAD_EVERY, keep_fresh},
};

mod accept;
mod connect;
mod directory;
mod verify;

pub(crate) use accept::{Conn, Connection, HANDSHAKES_MAX, Life, accept};
pub(crate) use connect::Connector;
pub use directory::TlsDir;
use verify::Callee;
pub use verify::NoIdentity;

/// gRPC runs over HTTP/2.
const ALPN: &[u8] = b"h2";

/// Settings of every process that serves or calls gRPC.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq)]
pub struct TlsArgs {
    /// PEM file of the authorities that sign all roles' certificates. With it gRPC is encrypted,
    /// for calls made and calls served; to serve, --tls-cert-file and --tls-key-file are needed
    /// too. The files are read again when they change.
    #[arg(long, global = true, env = "TILL_TLS_CA_FILE", value_name = "FILE")]
    pub tls_ca_file: Option<PathBuf>,

    /// PEM file of this process's certificate, with any intermediate certificates. Its URI name is
    /// the identity: spiffe://till/ROLE.
    #[arg(long, global = true, env = "TILL_TLS_CERT_FILE", value_name = "FILE",
          requires_all = ["tls_key_file", "tls_ca_file"])]
    pub tls_cert_file: Option<PathBuf>,

    /// PEM file of the certificate's private key.
    #[arg(
        long,
        global = true,
        env = "TILL_TLS_KEY_FILE",
        value_name = "FILE",
        requires = "tls_cert_file"
    )]
    pub tls_key_file: Option<PathBuf>,

    /// Trust domain of the roles' identities, the host in spiffe://DOMAIN/ROLE.
    #[arg(long, global = true, env = "TILL_TLS_TRUST_DOMAIN", value_name = "DOMAIN",
          default_value = TRUST_DOMAIN, value_parser = trust_domain)]
    pub tls_trust_domain: String,

    /// Do not ask callers for a certificate: gRPC is encrypted, but anybody who reaches this
    /// process may do anything.
    #[arg(long, global = true, env = "TILL_TLS_NO_CLIENT_AUTH", action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", value_name = "BOOL",
          value_parser = BoolishValueParser::new())]
    pub tls_no_client_auth: bool,

    /// The identity that our certificate must have. None accepts any certificate that the authority
    /// signed.
    #[arg(skip)]
    pub expected: Option<Identity>,
}

/// Parses a trust domain. The rules are those of SPIFFE, so that no domain can be mistaken for
/// another.
///
/// # Errors
/// The rule that the text breaks.
pub fn trust_domain(text: &str) -> Result<String, &'static str> {
    let plain = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
    };
    let fits = (1..=255).contains(&text.len()) && text.bytes().all(plain);
    fits.then(|| text.to_owned()).ok_or("must be 1 to 255 of a-z, 0-9, '.', '-' and '_'")
}

/// Why certificates cannot be used. A retry helps once the file is right.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file does not contain what it should. The error does not quote its content.
    #[error("{} holds no {what} in PEM", path.display())]
    Pem {
        /// The path of the file.
        path: PathBuf,
        /// What it should contain.
        what: &'static str,
    },
    /// Certificate and key do not match, or are of an unsupported kind.
    #[error("certificate and key cannot be used")]
    Unusable(#[source] rustls::Error),
    /// A certificate carries the wrong identity, or none.
    #[error("{} is not for us", path.display())]
    Identity {
        /// The path of the certificate.
        path: PathBuf,
        /// What is wrong with its identity.
        #[source]
        source: NoIdentity,
    },
    /// A role that listens needs a certificate.
    #[error("--tls-ca-file needs --tls-cert-file and --tls-key-file where gRPC is served")]
    NoCertificate,
}

impl TlsArgs {
    /// The same settings for a process of this role, which does not start with another role's
    /// certificate.
    #[must_use]
    pub fn acting_as(&self, role: Role) -> Self {
        Self { expected: Some(Identity::of(role)), ..self.clone() }
    }

    /// True if gRPC is encrypted.
    pub const fn is_on(&self) -> bool {
        self.tls_ca_file.is_some()
    }

    /// Reads the files, and keeps checking them for changes; `None` if gRPC is plain. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// [`TlsError`]; an operator must look into it.
    pub fn load(&self) -> Result<Option<Tls>, TlsError> {
        self.files().map(|files| Tls::over(files, RELOAD_EVERY)).transpose()
    }

    /// Reads the files and checks that they can be used.
    ///
    /// # Errors
    /// [`TlsError`]; an operator must look into it.
    pub fn check(&self) -> Result<(), TlsError> {
        let Some(files) = self.files() else { return Ok(()) };
        files.understand(&files.read()?, &provider()).map(drop)
    }

    fn files(&self) -> Option<Files> {
        Some(Files {
            ca: self.tls_ca_file.clone()?,
            own: self.tls_cert_file.clone().zip(self.tls_key_file.clone()),
            expected: self.expected.clone(),
            trust_domain: self.tls_trust_domain.as_str().into(),
            asks_callers: !self.tls_no_client_auth,
        })
    }

    /// Like [`TlsArgs::load`], for a role that listens.
    ///
    /// # Errors
    /// [`TlsError`]; an operator must look into it.
    pub fn load_to_serve(&self) -> Result<Option<Tls>, TlsError> {
        if self.is_on() && self.tls_cert_file.is_none() {
            return Err(TlsError::NoCertificate);
        }
        self.load()
    }
}

/// The paths of the files, and how to use them.
#[derive(Debug, Clone)]
struct Files {
    ca: PathBuf,
    own: Option<(PathBuf, PathBuf)>,
    expected: Option<Identity>,
    trust_domain: Arc<str>,
    asks_callers: bool,
}

/// The contents of the files, kept to detect changes.
#[derive(PartialEq, Eq)]
struct Bytes {
    ca: Vec<u8>,
    own: Option<(Vec<u8>, Vec<u8>)>,
}

/// The certificates from the files, ready for use.
#[derive(Clone)]
struct Current {
    roots: Arc<RootCertStore>,
    own: Option<Arc<CertifiedKey>>,
    server: Option<Arc<ServerConfig>>,
}

/// Certificates that are kept in step with their files. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    files: Files,
    provider: Arc<CryptoProvider>,
    seen: RwLock<(Bytes, Current)>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("files", &self.shared.files).finish_non_exhaustive()
    }
}

impl Tls {
    fn over(files: Files, every: Duration) -> Result<Self, TlsError> {
        let provider = provider();
        let bytes = files.read()?;
        let current = files.understand(&bytes, &provider)?;
        let shared = Arc::new(Shared { files, provider, seen: RwLock::new((bytes, current)) });
        keep_fresh(&shared, every, "certificates", Shared::reload);
        Ok(Self { shared })
    }

    /// True if callers are asked for certificates, so that [`crate::access`] can judge them.
    pub fn asks_callers(&self) -> bool {
        self.shared.files.asks_callers
    }

    /// Reads the files now. Returns true if something changed. Unusable files leave the old
    /// certificates in place.
    ///
    /// # Errors
    /// [`TlsError`]; a retry helps once the files are right.
    pub fn reload(&self) -> Result<bool, TlsError> {
        self.shared.reload()
    }

    pub(crate) fn trust_domain(&self) -> &str {
        &self.shared.files.trust_domain
    }

    fn current(&self) -> Current {
        // The value is replaced as a whole, so a panic elsewhere does not matter.
        self.shared.seen.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// The configuration for serving a new connection.
    fn server(&self) -> Option<Arc<ServerConfig>> {
        self.current().server
    }

    /// The configuration for connecting to this callee or, if `None`, to any service of the shop.
    fn client(&self, callee: Option<&Identity>) -> Result<ClientConfig, rustls::Error> {
        let Current { roots, own, .. } = self.current();
        let provider = Arc::clone(&self.shared.provider);
        let verifier = Callee::new(roots, &provider, callee, &self.shared.files.trust_domain);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match own {
            Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}

impl Shared {
    /// Reads the files again. Returns true if something changed. Unusable files leave the old
    /// certificates in place.
    fn reload(&self) -> Result<bool, TlsError> {
        let bytes = self.files.read()?;
        if self.seen.read().unwrap_or_else(PoisonError::into_inner).0 == bytes {
            return Ok(false);
        }
        let current = self.files.understand(&bytes, &self.provider)?;
        *self.seen.write().unwrap_or_else(PoisonError::into_inner) = (bytes, current);
        Ok(true)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The only identity that a certificate in DER carries.
///
/// # Errors
/// [`NoIdentity`]; a retry does not help.
pub fn identity(certificate: &[u8], trust_domain: &str) -> Result<Identity, NoIdentity> {
    verify::identity(&CertificateDer::from_slice(certificate), trust_domain)
}

/// Refuses a certificate with a known identity, for a process that is not in the table of callers.
/// Callers would take the process for the owner of that identity.
///
/// # Errors
/// [`TlsError`]; a retry helps once the file was replaced.
pub fn check_nobodys(file: &Path, who: &str, trust_domain: &str) -> Result<(), TlsError> {
    let chain = certificates(&read(file)?, file, "certificate")?;
    match chain.first().map(|first| verify::identity(first, trust_domain)) {
        Some(Ok(found)) => {
            let source = NoIdentity::Other { found: found.to_string(), expected: who.to_owned() };
            Err(TlsError::Identity { path: file.to_owned(), source })
        }
        Some(Err(_)) | None => Ok(()),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn certificates(
    pem: &[u8],
    path: &Path,
    what: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = || TlsError::Pem { path: path.to_owned(), what };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    found.ok().filter(|found| !found.is_empty()).ok_or_else(wrong)
}

impl Files {
    fn read(&self) -> Result<Bytes, TlsError> {
        let own = match &self.own {
            Some((cert, key)) => Some((read(cert)?, read(key)?)),
            None => None,
        };
        Ok(Bytes { ca: read(&self.ca)?, own })
    }

    fn understand(
        &self,
        bytes: &Bytes,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Current, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(&bytes.ca, &self.ca, "certificate")? {
            roots.add(authority).map_err(TlsError::Unusable)?;
        }
        let roots = Arc::new(roots);
        let own = match (&self.own, &bytes.own) {
            (Some((cert, key)), Some((cert_pem, key_pem))) => {
                let chain = certificates(cert_pem, cert, "certificate")?;
                // The parser's own error may quote the secret, so it is dropped.
                let secret = PrivateKeyDer::from_pem_slice(key_pem)
                    .map_err(|_unsaid| TlsError::Pem { path: key.clone(), what: "private key" })?;
                // Checked here, because otherwise only the first call would fail.
                if let Some(first) = chain.first() {
                    let own = verify::identity(first, &self.trust_domain);
                    own.and_then(|own| verify::must_be(&own, self.expected.as_ref()))
                        .map_err(|source| TlsError::Identity { path: cert.clone(), source })?;
                }
                let own = CertifiedKey::from_der(chain, secret, provider);
                Some(Arc::new(own.map_err(TlsError::Unusable)?))
            }
            (None, _) | (_, None) => None,
        };
        let server = match &own {
            Some(own) => Some(Arc::new(self.serving(&roots, own, provider)?)),
            None => None,
        };
        Ok(Current { roots, own, server })
    }

    fn serving(
        &self,
        roots: &Arc<RootCertStore>,
        own: &Arc<CertifiedKey>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<ServerConfig, TlsError> {
        let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?;
        let builder = if self.asks_callers {
            let provider = Arc::clone(provider);
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), provider)
                // Anybody may use health and reflection; the table refuses the rest.
                .allow_unauthenticated()
                .build()
                .map_err(|error| TlsError::Unusable(rustls::Error::General(error.to_string())))?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let own = SingleCertAndKey::from(Arc::clone(own));
        let mut config = builder.with_cert_resolver(Arc::new(own));
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }
}
