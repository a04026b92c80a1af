//! Makes the exporters to a collector: gRPC or HTTP, plain or over TLS.

use std::{fmt, fs, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::{HttpClient, HttpError, hyper::HyperClient};
use opentelemetry_otlp::{
    LogExporter, MetricExporter, Protocol as OtlpProtocol, SpanExporter, WithExportConfig as _,
    WithHttpConfig as _, WithTonicConfig as _,
    tonic_types::transport::{Certificate, ClientTlsConfig, Identity},
};
use tokio_rustls::rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};

use super::{
    ExportError, Handle,
    variables::{File, Link, Protocol},
};

/// Used if an API needs a timeout and there is none. It is small enough to be added to any time.
const NEVER: Duration = Duration::from_hours(10 * 365 * 24);

macro_rules! exporter {
    ($builder:expr, $link:expr) => {
        match $link.protocol {
            Protocol::Grpc => {
                let builder = $builder.with_tonic().with_timeout(timeout($link));
                match grpc_tls($link)? {
                    Some(tls) => builder.with_tls_config(tls).build()?,
                    None => builder.build()?,
                }
            }
            Protocol::Http => $builder
                .with_http()
                .with_timeout(timeout($link))
                .with_protocol(OtlpProtocol::HttpBinary)
                .with_shared_http_client(http_client($link)?)
                .build()?,
        }
    };
}

pub(super) fn spans(link: &Link) -> Result<SpanExporter, ExportError> {
    Ok(exporter!(SpanExporter::builder(), link))
}

pub(super) fn logs(link: &Link) -> Result<LogExporter, ExportError> {
    Ok(exporter!(LogExporter::builder(), link))
}

pub(super) fn metrics(link: &Link) -> Result<MetricExporter, ExportError> {
    Ok(exporter!(MetricExporter::builder(), link))
}

fn timeout(link: &Link) -> Duration {
    link.timeout.unwrap_or(NEVER)
}

impl File {
    fn read(&self) -> Result<Vec<u8>, ExportError> {
        fs::read(&self.path).map_err(|error| self.unusable(&error))
    }

    fn unusable(&self, problem: &impl fmt::Display) -> ExportError {
        ExportError::File {
            variable: self.variable.clone(),
            path: self.path.display().to_string(),
            problem: problem.to_string(),
        }
    }

    /// Reads the file, and checks that it holds certificates.
    fn read_certificates(&self) -> Result<Vec<u8>, ExportError> {
        let pem = self.read()?;
        self.certificates_in(&pem).map(|_| pem)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, ExportError> {
        self.certificates_in(&self.read()?)
    }

    fn certificates_in(&self, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, ExportError> {
        let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let found = found.map_err(|error| self.unusable(&error))?;
        if found.is_empty() { Err(self.unusable(&"it has no certificate")) } else { Ok(found) }
    }
}

/// TLS according to the variables; none if the endpoint's scheme is plain HTTP.
fn grpc_tls(link: &Link) -> Result<Option<ClientTlsConfig>, ExportError> {
    if is_plain(link) {
        return Ok(None);
    }
    let mut tls = match &link.authority {
        Some(file) => {
            let pem = file.read_certificates()?;
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
        }
        None => ClientTlsConfig::new().with_native_roots(),
    };
    if let Some((certificate, key)) = &link.identity {
        tls = tls.identity(Identity::from_pem(certificate.read()?, key.read()?));
    }
    Ok(Some(tls))
}

fn is_plain(link: &Link) -> bool {
    // Without a scheme the exporter uses TLS unless OTEL_EXPORTER_OTLP_INSECURE forbids it, and
    // reads that variable itself.
    link.endpoint.to_ascii_lowercase().starts_with("http://")
}

/// A client that works from any thread: exporters run on threads of their own, outside the runtime.
fn http_client(link: &Link) -> Result<Arc<dyn HttpClient>, ExportError> {
    let runtime = Handle::current();
    if is_plain(link) {
        let client = Arc::new(HyperClient::new(HttpConnector::new(), timeout(link), None));
        return Ok(Arc::new(Lent { client, runtime }));
    }
    let roots = ClientConfig::builder_with_provider(Arc::new(
        tokio_rustls::rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .map_err(|error| internal(&error))?;
    let roots = match &link.authority {
        Some(file) => {
            let mut store = RootCertStore::empty();
            for certificate in file.certificates()? {
                store.add(certificate).map_err(|error| file.unusable(&error))?;
            }
            roots.with_root_certificates(store)
        }
        None => roots.with_native_roots().map_err(|error| internal(&error))?,
    };
    let config = match &link.identity {
        Some((certificate, key)) => {
            let secret = PrivateKeyDer::from_pem_slice(&key.read()?);
            let secret = secret.map_err(|error| key.unusable(&error))?;
            roots
                .with_client_auth_cert(certificate.certificates()?, secret)
                .map_err(|error| certificate.unusable(&error))?
        }
        None => roots.with_no_client_auth(),
    };
    let connector =
        HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build();
    let client = Arc::new(HyperClient::new(connector, timeout(link), None));
    Ok(Arc::new(Lent { client, runtime }))
}

fn internal(error: &impl fmt::Display) -> ExportError {
    opentelemetry_otlp::ExporterBuildError::InternalFailure(error.to_string()).into()
}

/// A client that needs a runtime, together with one.
struct Lent<C> {
    client: Arc<C>,
    runtime: Handle,
}

impl<C> fmt::Debug for Lent<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lent").finish_non_exhaustive()
    }
}

#[async_trait::async_trait]
impl<C: HttpClient + 'static> HttpClient for Lent<C> {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = Arc::clone(&self.client);
        self.runtime.spawn(async move { client.send_bytes(request).await }).await?
    }
}
