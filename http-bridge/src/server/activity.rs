//! The activity of a connection: idle between requests, receiving part of one, or being served; and
//! whether its client reads the answers.

use std::{
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf, Take},
    sync::Notify,
    time::Instant,
};

use super::framing::{Body, Inbound};
use crate::{
    HEAD_BYTES_MAX,
    args::ConnectionTimeouts,
    held::{Held, Share},
    problem,
};

#[cfg(test)]
mod tests;

/// Interval between checks of a connection that is past its age and has not ended.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest read. hyper's buffer grows beyond its 8 KiB only when a read or a head fills it.
const READ_BYTES_MAX: u64 = 8 * 1024 - 1;
/// An incomplete message that is longer counts as held memory, because hyper's buffer grows for an
/// HTTP/1.1 head.
const HEAD_BYTES_FREE: usize = 8 * 1024;
/// Bytes that such a message counts for, until the connection ends.
const BUFFER_BYTES: usize = 2 * HEAD_BYTES_MAX;

/// What to do with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionAction {
    /// Leave it alone.
    Keep,
    /// Idle for too long, or old: end it gracefully.
    Leave,
    /// A part of a request takes too long, the client reads nothing of an answer, or the connection
    /// did not end in time: end it now.
    Cut,
}

#[derive(Debug)]
struct State {
    inbound: Inbound,
    /// Requests (HTTP/1.1) or streams (HTTP/2) that are being served.
    busy: usize,
    /// Since when nothing is served. Out of date while `busy` is above 0.
    idle: Instant,
    /// Since when a message is incomplete: a head, or any frame over HTTP/2.
    partial: Option<Instant>,
    /// Bytes of that message so far.
    partial_bytes: usize,
    /// Counts the connection's buffer as held memory, once it is long.
    buffer: Option<Share>,
    /// Since when the client has read nothing of what it was sent.
    stalled: Option<Instant>,
    /// The connection must end now.
    cut: bool,
}

impl State {
    /// How long the connection may be idle. A connection with a long buffer uses memory that all
    /// connections share, so it may be idle for less time.
    fn idle_max(&self, patience: &ConnectionTimeouts) -> Duration {
        match self.buffer {
            Some(_) => patience.keep_alive_idle.min(patience.header_read),
            None => patience.keep_alive_idle,
        }
    }
}

/// Tracks one connection.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    /// When the connection becomes old; None for never.
    until: Option<Instant>,
    held: Held,
    cutting: Notify,
}

/// Marks one request or stream as being served until it is dropped.
#[derive(Debug)]
pub(super) struct Busy {
    activity: Arc<Activity>,
    /// Length of the request's body; None over HTTP/2.
    body: Option<Body>,
}

impl Activity {
    pub(super) fn new(now: Instant, until: Option<Instant>, held: Held) -> Self {
        let state = State {
            inbound: Inbound::default(),
            busy: 0,
            idle: now,
            partial: None,
            partial_bytes: 0,
            buffer: None,
            stalled: None,
            cut: false,
        };
        Self { state: Mutex::new(state), until, held, cutting: Notify::new() }
    }

    /// True when the connection is old and must end with the next answer.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// True when nothing is being served.
    pub(super) fn is_idle(&self) -> bool {
        self.state().busy == 0
    }

    /// Ends the connection now.
    pub(super) fn cut(&self) {
        self.state().cut = true;
        self.cutting.notify_one();
    }

    /// Waits until [`Activity::cut`] is called.
    pub(super) async fn cutting(&self) {
        self.cutting.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is safe to use: each field is valid by itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wrote<T>(&self, polled: &Poll<T>) {
        let mut state = self.state();
        match polled {
            Poll::Pending => {
                state.stalled.get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => state.stalled = None,
        }
    }

    /// Records that the head of an HTTP/1.1 request is complete; `body` is the length of its body.
    pub(super) fn begin(self: &Arc<Self>, body: Body) -> Busy {
        let mut state = self.state();
        state.busy += 1;
        state.partial = None;
        Busy { activity: Arc::clone(self), body: Some(body) }
    }

    /// Records that an HTTP/2 stream is open.
    pub(super) fn open(self: &Arc<Self>) -> Busy {
        self.state().busy += 1;
        Busy { activity: Arc::clone(self), body: None }
    }

    /// Records the bytes that were read. False when no more of them may be held.
    fn read(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        state.inbound.read(bytes);
        let is_partial = match &state.inbound {
            Inbound::Http2(frames) => !frames.is_between(),
            // The body of a request that is being served has a timeout of its own.
            Inbound::Http1(_) => state.busy == 0,
            Inbound::Unknown { .. } => true,
        };
        if !is_partial {
            state.partial = None;
            return true;
        }
        if state.partial.is_none() {
            state.partial = Some(Instant::now());
            state.partial_bytes = 0;
        }
        state.partial_bytes = state.partial_bytes.saturating_add(bytes.len());
        if state.partial_bytes > HEAD_BYTES_FREE && state.buffer.is_none() {
            state.buffer = self.held.take(BUFFER_BYTES);
            return state.buffer.is_some();
        }
        true
    }

    /// When to check again: at the latest when a message that begins now would time out.
    pub(super) fn next_check(&self, patience: &ConnectionTimeouts) -> Instant {
        let now = Instant::now();
        let state = self.state();
        let mut next = now + patience.header_read;
        for since in [state.partial, state.stalled].into_iter().flatten() {
            next = next.min(since + patience.header_read);
        }
        if state.busy == 0 {
            next = next.min(state.idle + state.idle_max(patience));
        }
        if let Some(until) = self.until {
            next = next.min(until.max(now + PAUSE));
        }
        next
    }

    pub(super) fn action(&self, patience: &ConnectionTimeouts) -> ConnectionAction {
        let now = Instant::now();
        let state = self.state();
        let too_long =
            |since: Instant| now.saturating_duration_since(since) >= patience.header_read;
        let is_http2 = matches!(state.inbound, Inbound::Http2(_));
        // An idle HTTP/1.1 connection is not cut for its age: it ends with its next answer, or when
        // it has been idle for too long.
        let outlived = (is_http2 || state.busy > 0)
            && self.until.is_some_and(|until| until + patience.grace <= now);
        let stuck = [state.partial, state.stalled].into_iter().flatten().any(too_long);
        let idle = state.busy == 0
            && now.saturating_duration_since(state.idle) >= state.idle_max(patience);
        if state.cut || stuck || outlived {
            ConnectionAction::Cut
        } else if idle || (is_http2 && self.is_old(now)) {
            ConnectionAction::Leave
        } else {
            ConnectionAction::Keep
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.busy = state.busy.saturating_sub(1);
        if state.busy > 0 {
            return;
        }
        state.idle = Instant::now();
        if let (Some(body), Inbound::Http1(lines)) = (self.body, &mut state.inbound)
            && !lines.answered(body)
        {
            // The bytes that follow are the next head, or the unread rest of the body.
            state.partial = Some(state.idle);
            state.partial_bytes = 0;
        }
    }
}

/// A stream whose reads and writes are tracked.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: Take<S>,
    activity: Arc<Activity>,
    /// Unsent rest of a problem that replaces hyper's own refusal.
    refusal: Option<Bytes>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream: stream.take(READ_BYTES_MAX), activity, refusal: None }
    }

    fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(self.stream.get_mut())
    }

    /// hyper refuses an unreadable head by itself, without a body, and writes nothing more on the
    /// connection. Sends a problem that says the same instead.
    fn poll_refusal(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<Option<usize>>> {
        if self.refusal.is_none() {
            self.refusal = problem::in_place_of(bytes);
        }
        while let Some(rest) = self.refusal.as_ref().filter(|rest| !rest.is_empty()).cloned() {
            let polled = self.stream().poll_write(cx, &rest);
            self.activity.wrote(&polled);
            let written = ready!(polled)?;
            if let Some(rest) = &mut self.refusal {
                rest.advance(written.min(rest.len()));
            }
        }
        Poll::Ready(Ok(self.refusal.is_some().then_some(bytes.len())))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        self.stream.set_limit(READ_BYTES_MAX);
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let (Poll::Ready(Ok(())), Some(bytes)) = (&polled, buffer.filled().get(before..))
            && !bytes.is_empty()
            && !self.activity.read(bytes)
        {
            return Poll::Ready(Err(io::Error::other("too much is held already")));
        }
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Some(taken) = ready!(self.poll_refusal(cx, bytes))? {
            return Poll::Ready(Ok(taken));
        }
        let polled = self.stream().poll_write(cx, bytes);
        self.activity.wrote(&polled);
        polled
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = buffers.iter().find(|buffer| !buffer.is_empty());
        if let Some(taken) =
            ready!(self.poll_refusal(cx, first.map_or(&[][..], |first| &first[..])))?
        {
            return Poll::Ready(Ok(taken));
        }
        let polled = self.stream().poll_write_vectored(cx, buffers);
        self.activity.wrote(&polled);
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
