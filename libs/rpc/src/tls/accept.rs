//! Accepted connections, plain or encrypted.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use admission::Untaken;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep_until, timeout},
};
use tokio_io_timeout::TimeoutStream;
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
    /// Breaks when the client takes no bytes for too long.
    stream: Pin<Box<TimeoutStream<Socket>>>,
    peer: Peer,
    /// Bytes that the client must still send until it is known to speak HTTP/2. After that, pings
    /// tell whether it is still there.
    missing: usize,
    /// When it fires, the connection is cut, even during a call. It first limits the wait for the
    /// missing bytes, then the life of the connection.
    ends: Option<Pin<Box<Sleep>>>,
    life_ends: Option<Instant>,
    untaken: Untaken,
    /// Completes when an answer has been unread for too long.
    stalled: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_over: bool,
    _place: OwnedSemaphorePermit,
}

/// Both directions of a connection, plain or encrypted.
type Socket = Box<dyn Duplex>;

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// Time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Life {
    /// How long the client may take to send the preface.
    pub(crate) beginning: Duration,
    /// How long the client may read nothing of a waiting answer. The connection is cut after this
    /// time, or up to twice as long.
    pub(crate) stall: Duration,
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
    let (stream, peer): (Socket, Peer) = match tls {
        None => (Box::new(stream), Peer(None)),
        Some(tls) => {
            let (stream, peer) = handshake(tls, stream).await?;
            (Box::new(stream), peer)
        }
    };
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(life.stall));
    let now = Instant::now();
    let life_ends = life.whole.map(|whole| now + whole);
    let begins_until = now + life.beginning;
    let ends = sleep_until(life_ends.map_or(begins_until, |ends| ends.min(begins_until)));
    let ends = Some(Box::pin(ends));
    let untaken = Untaken::default();
    Some(Conn {
        stream: Box::pin(stream),
        peer,
        missing: PREFACE_BYTES,
        ends,
        life_ends,
        untaken: untaken.clone(),
        stalled: Box::pin(untaken.stalled(life.stall)),
        is_over: false,
        _place: place,
    })
}

async fn handshake(tls: &Tls, stream: TcpStream) -> Option<(TlsStream<TcpStream>, Peer)> {
    let config = tls.server()?;
    let problem = match timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let peer = shown.map(|shown| verify::identity(shown, tls.trust_domain())).transpose();
            match peer {
                Ok(peer) => return Some((stream, Peer(peer))),
                Err(nobody) => nobody.to_string(),
            }
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it took too long".to_owned(),
    };
    tracing::debug!(problem, "a tls handshake failed");
    None
}

/// The connection of a request, among the request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    pub(crate) untaken: Untaken,
}

impl Connected for Conn {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        Connection { peer: self.peer.clone(), untaken: self.untaken.clone() }
    }
}

impl Conn {
    /// The stream, or an error if the connection must be cut. HTTP/2 reads or writes whenever it is
    /// woken, so a check at each read and write comes in time.
    fn live(&mut self, cx: &mut Context<'_>) -> io::Result<Pin<&mut TimeoutStream<Socket>>> {
        let is_old = |ends: &mut Pin<Box<Sleep>>| ends.as_mut().poll(cx).is_ready();
        self.is_over = self.is_over
            || self.ends.as_mut().is_some_and(is_old)
            || self.stalled.as_mut().poll(cx).is_ready();
        if self.is_over { Err(io::ErrorKind::TimedOut.into()) } else { Ok(self.stream.as_mut()) }
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = this.live(cx)?.poll_read(cx, buffer);
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
        self.get_mut().live(cx)?.poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().live(cx)?.poll_write_vectored(cx, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().live(cx)?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().live(cx)?.poll_shutdown(cx)
    }
}
