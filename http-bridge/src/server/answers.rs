//! Answers over HTTP/2, handed over in small pieces as their client takes them. A stream whose client takes
//! nothing for too long is reset, so that neither it nor what it holds stays.
//!
//! Flow control is the client's: with a window of nothing it can have any number of answers wait. hyper keeps
//! no time for that, so each stream's task does, and each piece tells when it has been written.

use std::{
    cell::RefCell,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use futures::{future::poll_fn, task::AtomicWaker};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::time::{Instant, timeout, timeout_at};

use super::activity::Activity;
use crate::held::{Held, Share};

/// Longest piece.
const PIECE_BYTES: usize = 16 * 1024;
/// An answer up to this long is handed over whole, together with its end.
const SMALL_BYTES: u64 = 4 * 1024;
/// What a stream whose answer waits counts for, beside the answer.
const STREAM_BYTES: usize = 8 * 1024;
/// A longer answer counts for so much: such ones are files, which all answers share.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// A client has so long to take something while too much is held.
const HURRY: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// How far the stream of this task has come.
    static PROGRESS: RefCell<Progress>;
}

#[derive(Debug, Default)]
struct Progress {
    /// When the client took something last, or could have begun to; none while the answer is being made.
    since: Option<Instant>,
    piece: Arc<InFlight>,
    /// Counts the answer, until the stream has ended.
    share: Option<Share>,
}

impl Progress {
    fn note() {
        PROGRESS.with(|progress| progress.borrow_mut().since = Some(Instant::now()));
    }

    /// When the client will have taken nothing for so long, as things stand.
    fn deadline(patience: Duration) -> Instant {
        Self::since().unwrap_or_else(Instant::now) + patience
    }

    fn since() -> Option<Instant> {
        PROGRESS.with(|progress| progress.borrow().since)
    }

    fn piece() -> Arc<InFlight> {
        PROGRESS.with(|progress| Arc::clone(&progress.borrow().piece))
    }
}

/// A piece on its way.
#[derive(Debug, Default)]
struct InFlight {
    is: AtomicBool,
    wake: AtomicWaker,
}

impl InFlight {
    fn poll_written(&self, cx: &Context<'_>) -> Poll<()> {
        self.wake.register(cx.waker());
        if self.is.load(Ordering::Acquire) { Poll::Pending } else { Poll::Ready(()) }
    }
}

/// The bytes of a piece; dropped once they are written, or nobody wants them any more.
#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    in_flight: Arc<InFlight>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.in_flight.is.store(false, Ordering::Release);
        self.in_flight.wake.wake();
    }
}

/// The body of an answer, in pieces of which one at a time is on its way.
#[derive(Debug)]
pub(super) struct Paced {
    inner: Body,
    rest: Bytes,
    small: bool,
    in_flight: Arc<InFlight>,
}

impl Paced {
    /// Call it in the stream's task, once the answer is made.
    pub(super) fn body(inner: Body, held: &Held) -> Body {
        let length = inner.size_hint().exact();
        let counted = length.unwrap_or(ANSWER_BYTES_MAX).min(ANSWER_BYTES_MAX);
        let share = held.add(STREAM_BYTES + usize::try_from(counted).unwrap_or(usize::MAX));
        PROGRESS.with(|progress| progress.borrow_mut().share = Some(share));
        Progress::note();
        Body::new(Self {
            inner,
            rest: Bytes::new(),
            small: length.is_some_and(|length| length <= SMALL_BYTES),
            in_flight: Progress::piece(),
        })
    }

    fn next(&mut self) -> Frame<Bytes> {
        let bytes = self.rest.split_to(PIECE_BYTES.min(self.rest.len()));
        self.in_flight.is.store(true, Ordering::Release);
        let in_flight = Arc::clone(&self.in_flight);
        Frame::data(Bytes::from_owner(Piece { bytes, in_flight }))
    }
}

impl HttpBody for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        ready!(self.in_flight.poll_written(cx));
        Progress::note();
        if !self.rest.is_empty() {
            return Poll::Ready(Some(Ok(self.next())));
        }
        match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) if !bytes.is_empty() => {
                    self.rest = bytes;
                    Poll::Ready(Some(Ok(self.next())))
                }
                Ok(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
            ended => Poll::Ready(ended),
        }
    }

    /// The end of a longer answer is told only once all of it is written: until then the stream can be reset.
    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
            && self.inner.is_end_stream()
            && (self.small || !self.in_flight.is.load(Ordering::Acquire))
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = self.inner.size_hint();
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

/// Runs the streams of one connection, each for as long as its client takes what it is answered.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    pub(super) activity: Arc<Activity>,
    pub(super) held: Held,
    /// Longest that a client may take nothing.
    pub(super) patience: Duration,
}

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        tokio::spawn(PROGRESS.scope(RefCell::default(), self.clone().run(stream)));
    }
}

impl Streams {
    fn patience(&self) -> Duration {
        if self.held.is_scarce() { HURRY.min(self.patience) } else { self.patience }
    }

    async fn run(self, stream: impl Future) {
        let _open = self.activity.open();
        {
            let mut stream = pin!(stream);
            while timeout_at(Progress::deadline(self.patience()), stream.as_mut()).await.is_err() {
                let waits = Progress::since().is_some();
                if waits && Progress::deadline(self.patience()) <= Instant::now() {
                    // Dropped before its end, it is reset.
                    return;
                }
            }
        }
        // A small answer was handed over together with its end, so nothing but its connection can be cut.
        let piece = Progress::piece();
        let written = poll_fn(|cx| piece.poll_written(cx));
        if timeout(self.patience(), written).await.is_err() {
            self.activity.cut();
        }
    }
}
