//! A test's own certificate authority, and the certificates that it signs.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rpc::tls::{TlsArgs, TlsDir};
use tempfile::TempDir;

/// Signs certificates, and keeps all files in a directory of its own.
#[derive(Debug)]
pub struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Default for Authority {
    fn default() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("ca.pem"), pem).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }
}

impl Authority {
    /// The path of a file in the directory.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Writes a certificate with these URIs as names to `FILE.pem`, and its key to `FILE.key`.
    pub fn write(&self, file: &str, uris: &[&str]) {
        let names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        self.sign(file, names.collect());
    }

    fn sign(&self, file: &str, names: Vec<SanType>) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(self.path(&format!("{file}.pem")), signed.pem()).unwrap();
        fs::write(self.path(&format!("{file}.key")), key.serialize_pem()).unwrap();
    }

    /// A certificate for a store on this machine, or for a caller of it.
    pub fn for_store(&self, file: &str) {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        self.sign(file, vec![SanType::IpAddress(here)]);
    }

    /// A certificate for one of the shop's identities; returns the name of its files.
    fn identity(&self, identity: &str) -> String {
        let file = identity.replace('/', "-");
        self.write(&file, &[&format!("spiffe://till/{identity}")]);
        file
    }

    /// TLS settings of an identity, with a new certificate.
    pub fn settings(&self, identity: &str) -> TlsArgs {
        self.args(&self.identity(identity))
    }

    /// TLS settings with the certificate in `FILE.pem`.
    pub fn args(&self, file: &str) -> TlsArgs {
        TlsDir::new(self.directory.path().to_owned()).args(file)
    }

    /// TLS settings without a certificate.
    pub fn uncertified(&self) -> TlsArgs {
        TlsArgs { tls_cert_file: None, tls_key_file: None, ..self.args("none") }
    }

    /// The same as command-line flags.
    pub fn flags(&self, identity: &str) -> Vec<String> {
        let file = self.identity(identity);
        self.named("tls", &file)
    }

    /// The flags of a role for calling the store.
    pub fn store_flags(&self) -> Vec<String> {
        self.named("store", "store-client")
    }

    fn named(&self, prefix: &str, file: &str) -> Vec<String> {
        let flag = |what: &str, path: &Path| {
            [format!("--{prefix}-{what}-file"), path.display().to_string()]
        };
        [
            flag("ca", &self.path("ca.pem")),
            flag("cert", &self.path(&format!("{file}.pem"))),
            flag("key", &self.path(&format!("{file}.key"))),
        ]
        .concat()
    }
}
