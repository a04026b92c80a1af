//! Reads and checks the identity in a certificate.

use std::sync::Arc;

use tokio_rustls::rustls::{
    self, CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{
        CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use webpki::EndEntityCert;

use crate::access::Identity;

/// Why a certificate has no identity that we accept. A retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoIdentity {
    /// The certificate does not parse.
    #[error("it is not a valid certificate")]
    Malformed,
    /// It has no URI name in the trust domain.
    #[error("it has no URI name that begins with spiffe://{0}/")]
    Nobody(String),
    /// It has several such names.
    #[error("it has several URI names that begin with spiffe://{0}/")]
    Several(String),
    /// Its name is not a valid identity.
    #[error("its name is unknown")]
    Unknown(#[source] crate::access::IdentityError),
    /// It belongs to another identity.
    #[error("it is {found}'s, not {expected}'s")]
    Other {
        /// The identity in the certificate.
        found: String,
        /// The identity that was expected.
        expected: String,
    },
}

/// The only identity that a certificate carries.
pub(super) fn identity(
    certificate: &CertificateDer<'_>,
    trust_domain: &str,
) -> Result<Identity, NoIdentity> {
    let parsed = EndEntityCert::try_from(certificate).map_err(|_unsaid| NoIdentity::Malformed)?;
    let mut ours = parsed.valid_uri_names().filter_map(|uri| Identity::from_uri(uri, trust_domain));
    let first = ours.next().ok_or_else(|| NoIdentity::Nobody(trust_domain.to_owned()))?;
    if ours.next().is_some() {
        return Err(NoIdentity::Several(trust_domain.to_owned()));
    }
    first.map_err(NoIdentity::Unknown)
}

/// Refuses an identity other than the expected one, if there is one.
pub(super) fn must_be(found: &Identity, expected: Option<&Identity>) -> Result<(), NoIdentity> {
    match expected {
        Some(expected) if found != expected => {
            Err(NoIdentity::Other { found: found.to_string(), expected: expected.to_string() })
        }
        Some(_) | None => Ok(()),
    }
}

/// Verifies a callee: its certificate is signed by the authority and carries the expected identity.
#[derive(Debug)]
pub(super) struct Callee {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    expected: Option<Identity>,
    trust_domain: Arc<str>,
}

impl Callee {
    pub(super) fn new(
        roots: Arc<RootCertStore>,
        provider: &CryptoProvider,
        expected: Option<&Identity>,
        trust_domain: &Arc<str>,
    ) -> Self {
        Self {
            roots,
            algorithms: provider.signature_verification_algorithms,
            expected: expected.cloned(),
            trust_domain: Arc::clone(trust_domain),
        }
    }

    fn judge(&self, certificate: &CertificateDer<'_>) -> Result<(), NoIdentity> {
        let found = identity(certificate, &self.trust_domain)?;
        if self.expected.is_none() && !found.serves() {
            let expected = "a service".to_owned();
            return Err(NoIdentity::Other { found: found.to_string(), expected });
        }
        must_be(&found, self.expected.as_ref())
    }
}

impl ServerCertVerifier for Callee {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.judge(end_entity).map_err(|error| {
            rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
        })?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
