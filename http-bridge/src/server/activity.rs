//! What a connection is at: idle between requests, sending the head of one, or being served.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use http::Version;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use crate::args::Patience;

#[cfg(test)]
mod tests;

/// Between two looks at an old HTTP/2 connection that has yet to end.
const HTTP2_PAUSE: Duration = Duration::from_secs(1);
/// How an HTTP/2 connection begins.
const HTTP2_PREFACE: &[u8] = b"PRI ";

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// Idle for too long, or old: end it well.
    Leave,
    /// The head of a request takes too long, or its client takes nothing of the answer: end it now.
    Cut,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing has come since then.
    Idle(Instant),
    /// The first bytes of a head came then.
    Head(Instant),
    /// So many requests are being served.
    Busy(usize),
    /// HTTP/2 looks after itself, with pings.
    Http2,
}

/// Follows one connection.
#[derive(Debug)]
pub(super) struct Activity {
    phase: Mutex<Phase>,
    /// When it is old.
    until: Option<Instant>,
    /// Since when the client has taken nothing of what it is sent.
    stalled: Mutex<Option<Instant>>,
}

/// One request being served, for as long as it lives.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Activity {
    pub(super) const fn new(now: Instant, until: Option<Instant>) -> Self {
        Self { phase: Mutex::new(Phase::Idle(now)), until, stalled: Mutex::new(None) }
    }

    /// True for a connection that is to end with the next answer.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    fn stalled(&self) -> MutexGuard<'_, Option<Instant>> {
        self.stalled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wrote<T>(&self, polled: &Poll<T>) {
        match polled {
            Poll::Pending => {
                self.stalled().get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => *self.stalled() = None,
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        // A phase is replaced whole, so a panic elsewhere leaves nothing half-changed.
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request's head is complete.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> Busy {
        let mut phase = self.phase();
        *phase = match *phase {
            _ if version == Version::HTTP_2 => Phase::Http2,
            Phase::Idle(_) | Phase::Head(_) => Phase::Busy(1),
            Phase::Busy(count) => Phase::Busy(count.saturating_add(1)),
            Phase::Http2 => Phase::Http2,
        };
        drop(phase);
        Busy(Arc::clone(self))
    }

    fn read(&self, bytes: &[u8]) {
        let mut phase = self.phase();
        if let Phase::Idle(_) = *phase {
            *phase = if bytes.starts_with(HTTP2_PREFACE) {
                Phase::Http2
            } else {
                Phase::Head(Instant::now())
            };
        }
    }

    /// When to ask for a verdict again: not later than a head that begins right now may take.
    pub(super) fn next_check(&self, patience: &Patience) -> Instant {
        let soon = Instant::now() + patience.header_read;
        match *self.phase() {
            Phase::Idle(since) => soon.min(since + patience.keep_alive_idle),
            Phase::Head(since) => soon.min(since + patience.header_read),
            Phase::Busy(_) => soon,
            Phase::Http2 => {
                self.until.map_or(soon, |until| soon.min(until.max(Instant::now() + HTTP2_PAUSE)))
            }
        }
    }

    pub(super) fn verdict(&self, patience: &Patience) -> Verdict {
        if self.stalled().is_some_and(|since| since.elapsed() >= patience.header_read) {
            return Verdict::Cut;
        }
        match *self.phase() {
            Phase::Http2 if self.is_old(Instant::now()) => Verdict::Leave,
            Phase::Idle(since) if since.elapsed() >= patience.keep_alive_idle => Verdict::Leave,
            Phase::Head(since) if since.elapsed() >= patience.header_read => Verdict::Cut,
            Phase::Idle(_) | Phase::Head(_) | Phase::Busy(_) | Phase::Http2 => Verdict::Keep,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut phase = self.0.phase();
        if let Phase::Busy(count) = *phase {
            *phase = match count.saturating_sub(1) {
                0 => Phase::Idle(Instant::now()),
                left => Phase::Busy(left),
            };
        }
    }
}

/// A stream whose reads are followed.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Watched<S> {
    pub(super) const fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let (Poll::Ready(Ok(())), Some(bytes)) = (&polled, buffer.filled().get(before..))
            && !bytes.is_empty()
        {
            self.activity.read(bytes);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.activity.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        self.activity.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
