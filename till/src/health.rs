//! Asks a role for its health, as a container's health check does.

use std::{process::ExitCode, time::Duration};

use clap::value_parser;
use rpc::{
    net::{Endpoint, GrpcNet},
    tls::TlsArgs,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::common::Failure;

/// Path at which the REST face reports whether it is ready.
pub(crate) const HTTP_BRIDGE: &str = "/readyz";
/// Path at which a dev-kv reports the same.
pub(crate) const DEV_KV: &str = "/pd/api/v1/health";

/// Whom to ask.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Address of the role.
    #[arg(long, value_name = "HOST:PORT")]
    endpoint: Endpoint,
    /// The role speaks HTTP (http-bridge), not gRPC.
    #[arg(long)]
    http: bool,
    /// Path to GET; a 2xx answer means ready.
    #[arg(long, default_value = HTTP_BRIDGE, requires = "http")]
    path: String,
    /// What to ask for by gRPC: a service's full name, or till.live for whether the process is
    /// alive. By default whether the whole role is ready.
    #[arg(long, default_value = "", conflicts_with = "http")]
    service: String,
    /// Milliseconds to wait for the answer.
    #[arg(long, default_value_t = 2000, value_parser = value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
    /// Certificates. A role answers health checks of every caller.
    #[command(flatten)]
    tls: TlsArgs,
}

/// Why a role is not ready. A retry may help.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unwell {
    /// The role says so.
    #[error("{endpoint} says {said}")]
    Says {
        /// The role that was asked.
        endpoint: Endpoint,
        /// Its answer.
        said: String,
    },
    /// The role gives no answer.
    #[error("{endpoint} gives no answer")]
    Silent {
        /// The role that was asked.
        endpoint: Endpoint,
        /// The cause, if it is known.
        #[source]
        source: Option<Failure>,
    },
}

/// Reports health by the exit code. An unwell role is an error that says why.
pub(crate) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let patience = Duration::from_millis(args.timeout_ms);
    if args.http {
        http(&args.endpoint, &args.path, patience).await?;
    } else {
        let net = GrpcNet::with_tls(args.tls.load()?);
        grpc(&net, &args.endpoint, &args.service, patience).await?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks by the gRPC health protocol.
pub(crate) async fn grpc(
    net: &GrpcNet,
    endpoint: &Endpoint,
    service: &str,
    patience: Duration,
) -> Result<(), Unwell> {
    let silent = |source| Unwell::Silent { endpoint: endpoint.clone(), source };
    let mut client = HealthClient::new(net.channel(None, endpoint));
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = timeout(patience, client.check(request))
        .await
        .map_err(|_| silent(None))?
        .map_err(|status| silent(Some(status.into())))?;
    match answer.into_inner().status() {
        ServingStatus::Serving => Ok(()),
        status @ (ServingStatus::Unknown
        | ServingStatus::NotServing
        | ServingStatus::ServiceUnknown) => {
            Err(Unwell::Says { endpoint: endpoint.clone(), said: status.as_str_name().to_owned() })
        }
    }
}

/// Asks by GET. The status line of the answer decides.
pub(crate) async fn http(
    endpoint: &Endpoint,
    path: &str,
    patience: Duration,
) -> Result<(), Unwell> {
    let silent = |source| Unwell::Silent { endpoint: endpoint.clone(), source };
    let line = timeout(patience, status_line(endpoint, path))
        .await
        .map_err(|_| silent(None))?
        .map_err(|error| silent(Some(error.into())))?;
    let code = line.split(' ').nth(1).unwrap_or_default();
    if code.starts_with('2') {
        Ok(())
    } else {
        Err(Unwell::Says { endpoint: endpoint.clone(), said: line })
    }
}

async fn status_line(endpoint: &Endpoint, path: &str) -> std::io::Result<String> {
    /// Longer than any status line, in bytes.
    const ENOUGH: u64 = 1024;
    let mut stream = TcpStream::connect(endpoint.as_str()).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {endpoint}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ENOUGH).read_to_end(&mut answer).await?;
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Ok(String::from_utf8_lossy(line).into_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn answering(answer: &'static str) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::from(listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 512];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        endpoint
    }

    #[tokio::test]
    async fn only_a_2xx_is_well() {
        let patience = Duration::from_secs(5);
        let well = answering("HTTP/1.1 200 OK\r\n\r\n").await;
        http(&well, "/", patience).await.unwrap();
        let starting = answering("HTTP/1.1 503 Service Unavailable\r\nx: 200\r\n\r\n").await;
        assert!(matches!(http(&starting, "/", patience).await, Err(Unwell::Says { .. })));
        assert!(matches!(
            http(&answering("").await, "/", patience).await,
            Err(Unwell::Says { .. })
        ));
    }

    #[tokio::test]
    async fn nobody_there_is_not_well() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Endpoint::from(listener.local_addr().unwrap());
        // Bound, but nobody answers.
        let patience = Duration::from_millis(200);
        assert!(matches!(http(&endpoint, "/", patience).await, Err(Unwell::Silent { .. })));
        assert!(matches!(
            grpc(&GrpcNet::default(), &endpoint, "", patience).await,
            Err(Unwell::Silent { .. })
        ));
    }
}
