//! What a connection is at: idle between requests, sending a part of one, or being served; and whether its
//! client takes what it is sent.

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

/// Between two looks at a connection that has yet to end.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest read. hyper's buffer grows beyond its 8 KiB only where a read fills it, or a head does.
const READ_BYTES_MAX: u64 = 8 * 1024 - 1;
/// A head over HTTP/1.1 that is longer counts among what is held, with the buffer that grows for it...
const HEAD_BYTES_FREE: usize = 8 * 1024;
/// ...as much, for as long as the connection lives.
const BUFFER_BYTES: usize = 2 * HEAD_BYTES_MAX;

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    Keep,
    /// Idle for too long, or old: end it well.
    Leave,
    /// A part of a request takes too long, its client takes nothing of an answer, or it has not ended although
    /// it was to: end it now.
    Cut,
}

#[derive(Debug)]
struct State {
    inbound: Inbound,
    /// Requests over HTTP/1.1, or streams over HTTP/2, that are being served.
    busy: usize,
    /// Since when nobody is served.
    idle: Instant,
    /// Since when a message is half come: a head, or over HTTP/2 any frame.
    partial: Option<Instant>,
    /// Bytes of it.
    partial_bytes: usize,
    /// Counts its buffer, once that is a long one.
    buffer: Option<Share>,
    /// Since when the client has taken nothing of what it is sent.
    stalled: Option<Instant>,
    /// It is to end now.
    cut: bool,
}

/// Follows one connection.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    /// When it is old.
    until: Option<Instant>,
    held: Held,
    cutting: Notify,
}

/// One request or stream being served, for as long as it lives.
#[derive(Debug)]
pub(super) struct Busy {
    activity: Arc<Activity>,
    /// Over HTTP/1.1: how long the request's body is.
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

    /// True for a connection that is to end with the next answer.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Nobody is being served.
    pub(super) fn is_idle(&self) -> bool {
        self.state().busy == 0
    }

    /// The connection is to end now.
    pub(super) fn cut(&self) {
        self.state().cut = true;
        self.cutting.notify_one();
    }

    /// Waits until [`Activity::cut`].
    pub(super) async fn cutting(&self) {
        self.cutting.notified().await;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Its fields are set one by one, but none of them is ever wrong by itself.
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

    /// A request's head is complete over HTTP/1.1, and its body is so long.
    pub(super) fn begin(self: &Arc<Self>, body: Body) -> Busy {
        let mut state = self.state();
        state.busy += 1;
        state.partial = None;
        Busy { activity: Arc::clone(self), body: Some(body) }
    }

    /// A stream is open over HTTP/2.
    pub(super) fn open(self: &Arc<Self>) -> Busy {
        self.state().busy += 1;
        Busy { activity: Arc::clone(self), body: None }
    }

    /// Takes note of what came. False when no more of it may be held.
    fn read(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        state.inbound.read(bytes);
        let is_partial = match &state.inbound {
            Inbound::Http2(frames) => !frames.is_between(),
            // The body of a request that is served has a time of its own.
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

    /// When to ask for a verdict again: not later than what begins right now may take.
    pub(super) fn next_check(&self, patience: &ConnectionTimeouts) -> Instant {
        let now = Instant::now();
        let state = self.state();
        let mut next = now + patience.header_read;
        for since in [state.partial, state.stalled].into_iter().flatten() {
            next = next.min(since + patience.header_read);
        }
        if state.busy == 0 {
            next = next.min(state.idle + patience.keep_alive_idle);
        }
        if let Some(until) = self.until {
            next = next.min(until.max(now + PAUSE));
        }
        next
    }

    pub(super) fn verdict(&self, patience: &ConnectionTimeouts) -> Verdict {
        let now = Instant::now();
        let state = self.state();
        let too_long =
            |since: Instant| now.saturating_duration_since(since) >= patience.header_read;
        let is_http2 = matches!(state.inbound, Inbound::Http2(_));
        // An old connection over HTTP/1.1 ends with its next answer, or when it has been idle for long.
        let outlived = (is_http2 || state.busy > 0)
            && self.until.is_some_and(|until| until + patience.grace <= now);
        let stuck = [state.partial, state.stalled].into_iter().flatten().any(too_long);
        let idle = state.busy == 0
            && now.saturating_duration_since(state.idle) >= patience.keep_alive_idle;
        if state.cut || stuck || outlived {
            Verdict::Cut
        } else if idle || (is_http2 && self.is_old(now)) {
            Verdict::Leave
        } else {
            Verdict::Keep
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
            // What stands behind it is the next head, or what of its body was not read.
            state.partial = Some(state.idle);
            state.partial_bytes = 0;
        }
    }
}

/// A stream whose reads and writes are followed.
#[derive(Debug)]
pub(super) struct Watched<S> {
    stream: Take<S>,
    activity: Arc<Activity>,
    /// What is left of a problem that is told in place of hyper's own refusal.
    refusal: Option<Bytes>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream: stream.take(READ_BYTES_MAX), activity, refusal: None }
    }

    fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(self.stream.get_mut())
    }

    /// hyper refuses a head that it cannot read by itself, without a body; that is its last word on the
    /// connection. What it meant is told as a problem.
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
