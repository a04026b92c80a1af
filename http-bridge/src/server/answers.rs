//! Answers over HTTP/2, sent in small pieces as the client reads them. A stream whose client reads
//! nothing for too long is reset, which frees the stream and its memory.
//!
//! The client controls the flow: with a window of 0 it can make any number of answers wait, and
//! hyper has no timeout for that. So each stream's task keeps the time, and each piece reports when
//! it has been written.

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

/// Maximum length of a piece.
const PIECE_BYTES: usize = 16 * 1024;
/// An answer of up to this length is given to hyper as a whole, together with its end.
const SMALL_BYTES: u64 = 4 * 1024;
/// Held bytes that a stream with a waiting answer counts for, in addition to the answer.
const STREAM_BYTES: usize = 8 * 1024;
/// Limit on the held bytes that an answer counts for. Longer answers are files, whose bytes all
/// answers share.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;
/// How long a client may read nothing while too much memory is held.
const HURRY: Duration = Duration::from_secs(1);

tokio::task_local! {
    /// The progress of this task's stream.
    static PROGRESS: RefCell<Progress>;
}

#[derive(Debug, Default)]
struct Progress {
    /// When the client last read something, or could have begun to. None while the answer is being
    /// made.
    since: Option<Instant>,
    piece: Arc<InFlight>,
    /// Counts the answer as held until the stream has ended.
    share: Option<Share>,
}

impl Progress {
    fn note() {
        PROGRESS.with(|progress| progress.borrow_mut().since = Some(Instant::now()));
    }

    /// When the client will have read nothing for `patience`, unless it reads something before.
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

/// Whether a piece is being written, and the task to wake once it is.
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

/// The bytes of a piece. Dropped once they are written or no longer wanted.
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

/// The body of an answer, sent piece by piece, with one piece in flight at a time.
#[derive(Debug)]
pub(super) struct Paced {
    inner: Body,
    rest: Bytes,
    small: bool,
    in_flight: Arc<InFlight>,
}

impl Paced {
    /// Wraps the body of an answer. Must be called in the stream's task, once the answer is made.
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

    /// A longer answer ends only once all of it is written; until then the stream can be reset.
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

/// Runs the streams of one connection, each for as long as its client reads the answer.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    pub(super) activity: Arc<Activity>,
    pub(super) held: Held,
    /// How long a client may read nothing.
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
                    // A stream that is dropped before its end is reset.
                    return;
                }
            }
        }
        // A small answer was given to hyper together with its end, so the stream can no longer be
        // reset; only the connection can be cut.
        let piece = Progress::piece();
        let written = poll_fn(|cx| piece.poll_written(cx));
        if timeout(self.patience(), written).await.is_err() {
            self.activity.cut();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held::HELD_BYTES_MAX;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_hurried_while_too_much_is_held() {
        let held = Held::default();
        let patience = Duration::from_secs(30);
        for (bytes, time) in [(HELD_BYTES_MAX, patience), (HELD_BYTES_MAX + 1, HURRY)] {
            let _share = held.add(bytes);
            let began = Instant::now();
            let activity = Arc::new(Activity::new(began, None, held.clone()));
            let streams = Streams { activity, held: held.clone(), patience };
            let waiting = async {
                Progress::note();
                std::future::pending::<()>().await;
            };
            PROGRESS.scope(RefCell::default(), streams.run(waiting)).await;
            let took = began.elapsed();
            assert!(took >= time && took < time + HURRY / 2, "{bytes} held: {took:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_is_held_until_its_stream_has_ended() {
        let held = Held::default();
        for (length, bytes) in [
            (0, STREAM_BYTES),
            (5, STREAM_BYTES + 5),
            // All answers share the bytes of a long one.
            (1024 * 1024, STREAM_BYTES + 64 * 1024),
        ] {
            let answered = async {
                let _body = Paced::body(Body::from(vec![b'x'; length]), &held);
                assert!(held.take(HELD_BYTES_MAX - bytes).is_some(), "{length}: it holds more");
                assert!(held.take(HELD_BYTES_MAX - bytes + 1).is_none(), "{length}: it holds less");
            };
            PROGRESS.scope(RefCell::default(), answered).await;
            assert!(held.take(HELD_BYTES_MAX).is_some(), "{length}: it is still held");
        }
    }
}
