//! Encrypted connections to a callee.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt as _, future::BoxFuture};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};
use tower::Service;

use super::Tls;
use crate::access::Identity;

/// Connects to one callee, with the certificates current at that time.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tls: Tls,
    callee: Option<Identity>,
}

impl Connector {
    pub(crate) const fn new(tls: Tls, callee: Option<Identity>) -> Self {
        Self { tls, callee }
    }

    async fn connect(self, uri: Uri) -> io::Result<TokioIo<TlsStream<TcpStream>>> {
        let no_host = || io::Error::from(io::ErrorKind::InvalidInput);
        let authority = uri.authority().ok_or_else(no_host)?;
        let stream = TcpStream::connect(authority.as_str()).await?;
        stream.set_nodelay(true)?;
        let config = self.tls.client(self.callee.as_ref()).map_err(io::Error::other)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        // The name only serves proxies; the identity is verified instead.
        let name = ServerName::try_from(host.to_owned())
            .or_else(|_| ServerName::try_from("till".to_owned()))
            .map_err(io::Error::other)?;
        let connector = TlsConnector::from(Arc::new(config));
        Ok(TokioIo::new(connector.connect(name, stream).await?))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        self.clone().connect(uri).boxed()
    }
}
