//! Accepted connections, plain or encrypted.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use super::{Tls, verify};
use crate::access::Peer;

/// Upper limit on concurrent handshakes over all listeners. More wait to be accepted.
pub(crate) const HANDSHAKES_MAX: usize = 256;
/// Upper limit on the duration of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Length of the preface that an HTTP/2 client sends first.
const PREFACE_BYTES: usize = 24;

/// One connection.
pub(crate) struct Conn {
    stream: Stream,
    /// Bytes that the client must still send until it is known to speak HTTP/2. After that, pings
    /// tell whether it is still there.
    missing: usize,
    /// When it fires, the connection is cut, even amid a call. It first waits for the missing
    /// bytes, then for the end of the connection's life.
    ends: Option<Pin<Box<Sleep>>>,
    life_ends: Option<Instant>,
    _place: OwnedSemaphorePermit,
}

enum Stream {
    /// A plain TCP connection.
    Plain(TcpStream),
    /// An encrypted connection, and its peer.
    Tls(Box<TlsStream<TcpStream>>, Peer),
}

/// Time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    /// How long the client may take to send the preface.
    pub(crate) beginning: Duration,
    /// How long the connection may last in all; `None` for no limit.
    pub(crate) whole: Option<Duration>,
}

/// Performs the handshake if there are certificates. Returns `None` if it fails, which is the
/// caller's problem. The connection keeps its place until dropped, and breaks when its life is
/// over.
pub(crate) async fn accept(
    tls: Option<&Tls>,
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    life: Life,
) -> Option<Conn> {
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => handshake(tls, stream).await?,
    };
    let now = Instant::now();
    let life_ends = life.whole.map(|whole| now + whole);
    let begins_until = now + life.beginning;
    let ends = sleep_until(life_ends.map_or(begins_until, |ends| ends.min(begins_until)));
    let ends = Some(Box::pin(ends));
    Some(Conn { stream, missing: PREFACE_BYTES, ends, life_ends, _place: place })
}

async fn handshake(tls: &Tls, stream: TcpStream) -> Option<Stream> {
    let config = tls.server()?;
    let problem = match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let peer = shown.map(|shown| verify::identity(shown, tls.trust_domain())).transpose();
            match peer {
                Ok(peer) => return Some(Stream::Tls(Box::new(stream), Peer(peer))),
                Err(nobody) => nobody.to_string(),
            }
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    tracing::debug!(problem, "a tls handshake failed");
    None
}

impl Connected for Conn {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        match &self.stream {
            Stream::Plain(_) => Peer(None),
            Stream::Tls(_, peer) => peer.clone(),
        }
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A connection that is served is always being read, so this is checked in time.
        if this.ends.as_mut().is_some_and(|ends| ends.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let read = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream, _) => Pin::new(stream).poll_read(cx, buffer),
        };
        if this.missing > 0 {
            let read = buffer.filled().len() - before;
            this.missing = this.missing.saturating_sub(read);
            if this.missing == 0 {
                this.ends = this.life_ends.map(|ends| Box::pin(sleep_until(ends)));
            }
        }
        read
    }
}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream, _) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, buffers),
            Stream::Tls(stream, _) => Pin::new(stream).poll_write_vectored(cx, buffers),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream, _) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream, _) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
