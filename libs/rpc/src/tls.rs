//! TLS for gRPC, both ways: certificates from files, read again when they change, and identities instead
//! of host names.
//!
//! A callee is believed when its certificate is signed by the authority and carries the identity that is
//! expected of it ([`crate::access`]): replicas come and go, and their addresses say nothing. A caller is
//! believed likewise; one without a certificate is let in for health and reflection alone.
//!
//! What is read again counts for new connections; the greatest age of connections bounds how long old
//! ones outlive it. Sessions are not resumed, so that each connection shows its certificate.

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

use crate::{
    access::{Identity, Role, TRUST_DOMAIN},
    reload::{RELOAD_EVERY, keep_fresh},
};

mod accept;
mod connect;
mod directory;
mod verify;

pub(crate) use accept::{Conn, HANDSHAKES_MAX, Life, accept};
pub(crate) use connect::Connector;
pub use directory::TlsDir;
use verify::Callee;
pub use verify::NoIdentity;

/// gRPC is HTTP/2.
const ALPN: &[u8] = b"h2";

/// The settings, the same for everybody who serves or calls by gRPC.
#[derive(clap::Args, Clone, Debug, PartialEq, Eq)]
pub struct TlsArgs {
    /// PEM file of the authorities that sign the certificates of all roles. With it gRPC is encrypted both
    /// ways; what is listened on needs the two below as well. Files are read again when they change.
    #[arg(long, global = true, env = "TILL_TLS_CA_FILE", value_name = "FILE")]
    pub tls_ca_file: Option<PathBuf>,

    /// PEM file of our certificate, those between it and the authority included. Its URI name says who we
    /// are: spiffe://till/ROLE.
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

    /// The domain of identities, the first part of their URI.
    #[arg(long, global = true, env = "TILL_TLS_TRUST_DOMAIN", value_name = "DOMAIN",
          default_value = TRUST_DOMAIN, value_parser = trust_domain)]
    pub tls_trust_domain: String,

    /// Ask callers for no certificate: they are encrypted, and whoever reaches us may do anything.
    #[arg(long, global = true, env = "TILL_TLS_NO_CLIENT_AUTH", action = ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_value_t = false,
          default_missing_value = "true", value_name = "BOOL",
          value_parser = BoolishValueParser::new())]
    pub tls_no_client_auth: bool,

    /// Whose certificate ours must be; anybody's that the authority signed unless it is known.
    #[arg(skip)]
    pub expected: Option<Identity>,
}

/// Reads a trust domain. As SPIFFE has it, so that no domain can be mistaken for another.
///
/// # Errors
/// What it must be.
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
        /// The file.
        path: PathBuf,
        /// The error of the system.
        #[source]
        source: io::Error,
    },
    /// A file holds nothing of what it should. What it does hold is not told.
    #[error("{} holds no {what} in PEM", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What should be there.
        what: &'static str,
    },
    /// The files do not go together, or are of a kind that is not supported.
    #[error("certificate and key cannot be used")]
    Unusable(#[source] rustls::Error),
    /// Our own certificate does not say who we are.
    #[error("{} is not for us", path.display())]
    Identity {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong with its identity.
        #[source]
        source: NoIdentity,
    },
    /// Who listens needs a certificate.
    #[error("--tls-ca-file goes with --tls-cert-file and --tls-key-file where gRPC is listened on")]
    NoCertificate,
}

impl TlsArgs {
    /// The same, for a process of this role, which does not start with another one's certificate.
    #[must_use]
    pub fn acting_as(&self, role: Role) -> Self {
        Self { expected: Some(Identity::of(role)), ..self.clone() }
    }

    /// True when gRPC is encrypted.
    pub const fn is_on(&self) -> bool {
        self.tls_ca_file.is_some()
    }

    /// Reads the files, and goes on to look at them; none where gRPC is plain. Must be called within a
    /// tokio runtime.
    ///
    /// # Errors
    /// [`TlsError`]; a person must look.
    pub fn load(&self) -> Result<Option<Tls>, TlsError> {
        self.files().map(|files| Tls::over(files, RELOAD_EVERY)).transpose()
    }

    /// Reads the files, and says whether they can be used.
    ///
    /// # Errors
    /// [`TlsError`]; a person must look.
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

    /// As [`TlsArgs::load`], for who listens.
    ///
    /// # Errors
    /// [`TlsError`]; a person must look.
    pub fn load_to_serve(&self) -> Result<Option<Tls>, TlsError> {
        if self.is_on() && self.tls_cert_file.is_none() {
            return Err(TlsError::NoCertificate);
        }
        self.load()
    }
}

/// Where everything is.
#[derive(Debug, Clone)]
struct Files {
    ca: PathBuf,
    own: Option<(PathBuf, PathBuf)>,
    expected: Option<Identity>,
    trust_domain: Arc<str>,
    asks_callers: bool,
}

/// The bytes of the files, to see whether they changed.
#[derive(PartialEq, Eq)]
struct Bytes {
    ca: Vec<u8>,
    own: Option<(Vec<u8>, Vec<u8>)>,
}

/// What the files say.
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

    /// True when callers are known by their certificates, so that [`crate::access`] can judge them.
    pub fn asks_callers(&self) -> bool {
        self.shared.files.asks_callers
    }

    /// Looks at the files now; true when something changed. What cannot be used leaves what stands.
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
        // Replaced whole, so a panic elsewhere leaves nothing half-changed.
        self.shared.seen.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }

    /// How to serve a new connection.
    fn server(&self) -> Option<Arc<ServerConfig>> {
        self.current().server
    }

    /// How to make a connection to this callee; anybody who serves, unless it is told.
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
    /// Reads again; true when something changed. What cannot be used leaves what stands.
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

/// The one identity that a certificate carries, in DER.
///
/// # Errors
/// [`NoIdentity`]; a retry does not help.
pub fn identity(certificate: &[u8], trust_domain: &str) -> Result<Identity, NoIdentity> {
    verify::identity(&CertificateDer::from_slice(certificate), trust_domain)
}

/// Refuses a certificate of somebody whom the table of callers knows, for a process that it does not know: callers
/// would take it for that one.
///
/// # Errors
/// [`TlsError`]; a retry helps once the file is another one.
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
                // The parser's own error may quote what it read, so it goes no further.
                let secret = PrivateKeyDer::from_pem_slice(key_pem)
                    .map_err(|_unsaid| TlsError::Pem { path: key.clone(), what: "private key" })?;
                // Judged here, not by the first caller who finds out.
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
                // Health and reflection are for everybody; the table refuses the rest.
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
