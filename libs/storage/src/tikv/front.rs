//! Shows the client only one placement driver.
//!
//! The client gets the members' addresses from PD, and asks all of them while it connects. So this
//! server answers its GetMembers on loopback, and names the leader as the only member. The client
//! then asks the leader itself, and from then on talks to no other member.

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
};

use tempfile::NamedTempFile;
use tokio::{net::TcpListener, task::AbortHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    transport::{Identity, Server, ServerTlsConfig},
};

use super::{
    TikvTls,
    members::{
        Leader,
        wire::{
            GetMembersRequest, GetMembersResponse, ResponseHeader,
            pd_server::{Pd, PdServer},
        },
    },
};

/// A PD server on loopback that listens until it is dropped.
#[derive(Debug)]
pub(super) struct Front {
    address: SocketAddr,
    /// The authorities that the client must trust to connect here.
    authorities: Option<NamedTempFile>,
    server: AbortHandle,
}

impl Front {
    /// Starts the server. It uses TLS if the store does, because the client uses the same settings
    /// for all connections.
    pub(super) async fn open(leader: &Leader, tls: Option<&TikvTls>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut server = Server::builder();
        let mut authorities = None;
        if let Some(tls) = tls {
            let (identity, certificate) = certify(address).map_err(io::Error::other)?;
            authorities = Some(trusting(&tokio::fs::read(&tls.ca).await?, &certificate)?);
            let config = ServerTlsConfig::new().identity(identity);
            server = server.tls_config(config).map_err(io::Error::other)?;
        }
        let members = GetMembersResponse {
            header: Some(ResponseHeader { cluster_id: leader.cluster_id, error: None }),
            members: vec![leader.member.clone()],
            leader: Some(leader.member.clone()),
        };
        let serve = server
            .add_service(PdServer::new(Only(members)))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move {
            if let Err(error) = serve.await {
                tracing::debug!(%error, "the client cannot be told of the leader");
            }
        });
        Ok(Self { address, authorities, server: server.abort_handle() })
    }

    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }

    /// The file of authorities for the client, if there is TLS.
    pub(super) fn authorities(&self) -> Option<&Path> {
        self.authorities.as_ref().map(NamedTempFile::path)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Makes a certificate that nobody else can use, because its key never leaves this process.
fn certify(address: SocketAddr) -> Result<(Identity, String), rcgen::Error> {
    let key = rcgen::KeyPair::generate()?;
    let names = rcgen::CertificateParams::new([address.ip().to_string()])?;
    let certificate = names.self_signed(&key)?.pem();
    Ok((Identity::from_pem(&certificate, key.serialize_pem()), certificate))
}

/// Makes a file with the store's authorities and this certificate.
fn trusting(authorities: &[u8], certificate: &str) -> io::Result<NamedTempFile> {
    let shared_memory = |_| NamedTempFile::new_in("/dev/shm");
    let mut file = NamedTempFile::new().or_else(shared_memory)?;
    file.write_all(authorities)?;
    writeln!(file)?;
    file.write_all(certificate.as_bytes())?;
    file.flush()?;
    Ok(file)
}

/// Answers that the leader is the only member.
#[derive(Debug)]
struct Only(GetMembersResponse);

#[tonic::async_trait]
impl Pd for Only {
    async fn get_members(
        &self,
        _: Request<GetMembersRequest>,
    ) -> Result<Response<GetMembersResponse>, Status> {
        Ok(Response::new(self.0.clone()))
    }
}
