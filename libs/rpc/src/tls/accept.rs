//! Accepted connections, plain or encrypted.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use admission::Untaken;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::transport::server::Connected;

use super::{Tls, verify};
use crate::access::Peer;

/// Upper limit on concurrent handshakes over all listeners. More wait to be accepted.
pub(crate) const HANDSHAKES_MAX: usize = 256;
/// Upper limit on the duration of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// A timer that fires this late shows that the process was stopped.
const LATE: Duration = Duration::from_secs(1);

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
    untaken: Untaken,
    /// When to look for answers that wait for the client.
    looks: Pin<Box<Sleep>>,
    /// When to cut a connection that takes no bytes. Set while it takes none.
    blocked: Option<Pin<Box<Sleep>>>,
    stall: Duration,
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
    /// How long the client may take to take something of an answer that waits. Up to twice as long
    /// may pass until the connection is cut.
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
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(tls) => handshake(tls, stream).await?,
    };
    let now = Instant::now();
    let life_ends = life.whole.map(|whole| now + whole);
    let begins_until = now + life.beginning;
    let ends = sleep_until(life_ends.map_or(begins_until, |ends| ends.min(begins_until)));
    let ends = Some(Box::pin(ends));
    Some(Conn {
        stream,
        missing: PREFACE_BYTES,
        ends,
        life_ends,
        untaken: Untaken::default(),
        looks: Box::pin(sleep_until(now + life.stall)),
        blocked: None,
        stall: life.stall,
        _place: place,
    })
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

/// The connection of a request, among the request's extensions.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    pub(crate) untaken: Untaken,
}

impl Connected for Conn {
    type ConnectInfo = Connection;

    fn connect_info(&self) -> Connection {
        let peer = match &self.stream {
            Stream::Plain(_) => Peer(None),
            Stream::Tls(_, peer) => peer.clone(),
        };
        Connection { peer, untaken: self.untaken.clone() }
    }
}

impl Conn {
    /// Whether the connection is to be cut. HTTP/2 reads or writes whenever it is woken, so a call
    /// with each comes in time.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        if self.ends.as_mut().is_some_and(|ends| ends.as_mut().poll(cx).is_ready()) {
            return true;
        }
        while self.looks.as_mut().poll(cx).is_ready() {
            // After this process was stopped, clients have not had their time.
            let is_late = self.looks.deadline().elapsed() >= LATE;
            if !is_late && self.untaken.look() {
                tracing::debug!("a client takes no answer, and is cut");
                return true;
            }
            self.looks.as_mut().reset(Instant::now() + self.stall);
        }
        false
    }
}

impl AsyncRead for Conn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let before = buffer.filled().len();
        let read = this.stream().poll_read(cx, buffer);
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

impl Conn {
    fn stream(&mut self) -> Socket<'_> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream),
            Stream::Tls(stream, _) => Pin::new(stream),
        }
    }

    /// Writes by `write`, unless the connection is to be cut or takes no bytes for too long.
    fn write<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Socket<'_>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let written = write(self.stream(), cx);
        if written.is_ready() {
            self.blocked = None;
            return written;
        }
        let stall = self.stall;
        let blocked = self.blocked.get_or_insert_with(|| Box::pin(sleep(stall)));
        ready!(blocked.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

type Socket<'a> = Pin<&'a mut (dyn Duplex + 'static)>;

/// Both directions of a connection.
trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

impl AsyncWrite for Conn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(cx, |stream, cx| stream.poll_write_vectored(cx, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream, _) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().write(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().write(cx, AsyncWrite::poll_shutdown)
    }
}
