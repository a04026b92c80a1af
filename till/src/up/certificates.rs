//! One certificate for each role of a shop on one machine, with which it proves who it is on every
//! hop.
//!
//! Invariant: files that somebody put into the directory are used and never changed. Only a
//! directory that is missing or empty is filled.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rpc::{
    access::TRUST_DOMAIN,
    env::SystemClock,
    tls::{TlsDir, TlsError, check_nobodys},
};
use types::{Clock as _, Role};

use super::plan::Runs;

/// Identities of people and their applications, in addition to the roles. [`rpc::access`] says who
/// may do what.
const CALLERS: [&str; 2] = ["operator", "client"];
/// How long certificates made here are valid. A shorter time needs an authority of your own.
const VALID: Duration = Duration::from_hours(24 * 365);
/// How far another clock may be behind ours.
const SKEW: Duration = Duration::from_hours(1);

/// Why a shop cannot have certificates. A retry helps once a person has corrected that.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CertificatesError {
    /// Some of the files are there, but not all.
    #[error(
        "--tls-dir: {} is missing: put it there, or empty the directory to have all made anew",
        path.display()
    )]
    Missing {
        /// Path of the missing file.
        path: PathBuf,
    },
    /// A file or the directory cannot be read or written.
    #[error("--tls-dir: cannot use {}", path.display())]
    File {
        /// Path of the file or directory.
        path: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A certificate is not one for its role.
    #[error("--tls-dir: a certificate cannot be used")]
    Unusable(#[from] TlsError),
    /// Certificates cannot be made.
    #[error("--tls-dir: cannot make certificates")]
    Make(#[from] rcgen::Error),
}

/// The certificates in a directory. They are made if the directory is empty.
///
/// # Errors
/// [`CertificatesError`].
pub(crate) fn open(directory: &Path, roles: &[Runs]) -> Result<TlsDir, CertificatesError> {
    let here = std::path::absolute(directory).map_err(failed(directory))?;
    let here = TlsDir::new(here);
    if is_empty(&here)? {
        fill(&here)?;
        tracing::info!(directory = %here.path().display(), "made certificates");
    }
    for role in roles.iter().copied() {
        for path in [here.ca(), here.certificate(role.name()), here.key(role.name())] {
            if !path.is_file() {
                return Err(CertificatesError::Missing { path });
            }
        }
        // Report it here. Otherwise the children would report it, each time they are started again.
        match role {
            Runs::Role(own) => here.args(role.name()).acting_as(own).check()?,
            Runs::DevKv => {
                check_nobodys(&here.certificate(role.name()), role.name(), TRUST_DOMAIN)?;
            }
        }
    }
    Ok(here)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CertificatesError {
    let path = path.to_owned();
    move |source| CertificatesError::File { path, source }
}

fn is_empty(directory: &TlsDir) -> Result<bool, CertificatesError> {
    match fs::read_dir(directory.path()) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failed(directory.path())(error)),
    }
}

/// Makes an authority and the certificates that it signs.
fn fill(directory: &TlsDir) -> Result<(), CertificatesError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory.path());
    made.map_err(failed(directory.path()))?;
    let mut params = valid();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "till up");
    let key = KeyPair::generate()?;
    let ca = params.self_signed(&key)?.pem();
    let secret = key.serialize_pem();
    let issuer = Issuer::new(params, key);
    // The store is identified by its address, and knows no identities.
    let localhost = SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));
    sign(directory, &issuer, Runs::DevKv.name(), localhost)?;
    for name in Role::ALL.map(Role::name).into_iter().chain(CALLERS) {
        sign(directory, &issuer, name, uri(name)?)?;
    }
    // Kept, so that services beyond our own can be given a certificate.
    write(&directory.path().join("ca.key"), &secret)?;
    write(&directory.ca(), &ca)
}

fn sign(
    directory: &TlsDir,
    issuer: &Issuer<'_, KeyPair>,
    name: &str,
    subject: SanType,
) -> Result<(), CertificatesError> {
    let mut params = valid();
    params.subject_alt_names = vec![subject];
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    write(&directory.key(name), &key.serialize_pem())?;
    write(&directory.certificate(name), &params.signed_by(&key, issuer)?.pem())
}

fn valid() -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = UNIX_EPOCH + Duration::from_millis(SystemClock.now().0);
    params.not_before = (now - SKEW).into();
    params.not_after = (now + VALID).into();
    params
}

/// An identity's name as its certificate carries it: a SPIFFE URI.
fn uri(name: &str) -> Result<SanType, CertificatesError> {
    let uri = format!("spiffe://{TRUST_DOMAIN}/{name}");
    Ok(SanType::URI(uri.as_str().try_into()?))
}

/// Writes a new file that only its owner may read.
fn write(path: &Path, pem: &str) -> Result<(), CertificatesError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(pem.as_bytes())).map_err(failed(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn roles() -> Vec<Runs> {
        Runs::all().collect()
    }

    #[test]
    fn an_empty_directory_is_filled_once_and_then_left_alone() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("tls");
        let first = open(&directory, &roles()).unwrap();
        let ca = fs::read(first.ca()).unwrap();
        assert_eq!(open(&directory, &roles()).unwrap(), first);
        assert_eq!(fs::read(first.ca()).unwrap(), ca);
        for name in ["order", "dev-kv", "operator", "client"] {
            let mode = fs::metadata(first.key(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name}: {mode:o}");
        }
    }

    #[test]
    fn what_is_missing_is_named_and_nothing_is_made() {
        let place = tempfile::tempdir().unwrap();
        let all = open(place.path(), &roles()).unwrap();
        fs::remove_file(all.key("stock")).unwrap();
        let said = open(place.path(), &roles()).unwrap_err().to_string();
        assert!(said.contains("--tls-dir") && said.contains("stock.key"), "{said}");
        assert!(!all.key("stock").exists());
        // With a cluster, no certificate for a dev-kv is needed.
        fs::remove_file(all.key("dev-kv")).unwrap();
        open(place.path(), &[Role::Order, Role::HttpBridge].map(Runs::Role)).unwrap();
    }

    #[test]
    fn a_certificate_of_another_role_is_named() {
        let place = tempfile::tempdir().unwrap();
        let all = open(place.path(), &roles()).unwrap();
        for (role, other) in [("order", "stock"), ("http-bridge", "client"), ("dev-kv", "order")] {
            let own =
                [all.certificate(role), all.key(role)].map(|file| (fs::read(&file).unwrap(), file));
            for (from, to) in
                [(all.certificate(other), all.certificate(role)), (all.key(other), all.key(role))]
            {
                fs::copy(from, to).unwrap();
            }
            let said = types::error::chain(&open(place.path(), &roles()).unwrap_err());
            let wanted = format!("it is {other}'s, not {role}'s");
            assert!(said.contains(&format!("{role}.pem")) && said.contains(&wanted), "{said}");
            for (bytes, file) in own {
                fs::write(file, bytes).unwrap();
            }
        }
        open(place.path(), &roles()).unwrap();
    }

    #[tokio::test]
    async fn what_is_made_can_be_used_by_each_role() {
        let place = tempfile::tempdir().unwrap();
        let made = open(place.path(), &roles()).unwrap();
        for name in
            ["order", "stock", "payment", "coordinator", "http-bridge", "operator", "client"]
        {
            made.args(name).load_to_serve().unwrap();
        }
        assert!(made.args_without_identity().load().unwrap().is_some());
    }
}
