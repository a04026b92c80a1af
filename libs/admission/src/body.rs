//! The bodies of bounded requests and of their answers.
//!
//! A gRPC message begins with its length, and the decoder reserves that much memory at once. A
//! caller could reserve megabytes by announcing a message and sending nothing of it, so each
//! message is withheld until all of it has arrived.

use std::{
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Status, body::Body};

use crate::{Kept, LATE, Messages, Untaken, framing::Framing, held::Share, untaken::Wait};

/// A request's body, with its bytes counted, passed on in complete messages.
pub(crate) struct Bounded {
    body: Body,
    share: Arc<Share>,
    messages: Messages,
    framing: Framing,
    /// The received part of an incomplete message. It is a copy, because slices would keep the
    /// connection's larger buffers alive.
    withheld: BytesMut,
    /// The trailers, to pass on after the withheld bytes.
    trailers: Option<Frame<Bytes>>,
    /// Runs while the next part of the body is awaited.
    waiting: Option<Pin<Box<Sleep>>>,
    is_ended: bool,
}

impl Bounded {
    /// The decoder refuses messages of more than `longest` bytes.
    pub(crate) fn new(body: Body, share: Arc<Share>, messages: Messages, longest: usize) -> Self {
        let framing = Framing::new(longest);
        Self {
            body,
            share,
            messages,
            framing,
            withheld: BytesMut::new(),
            trailers: None,
            waiting: None,
            is_ended: false,
        }
    }

    /// Takes what has arrived. Returns what can be passed on, or an error if it is too much.
    fn take(&mut self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, Status> {
        let mut data = match frame.into_data() {
            Ok(data) => data,
            Err(trailers) => {
                let Some(rest) = self.release() else { return Ok(Some(trailers)) };
                self.trailers = Some(trailers);
                return Ok(Some(rest));
            }
        };
        if !self.share.add(data.len()) {
            return Err((self.share.limits().overloaded)());
        }
        let complete = match self.messages {
            Messages::None => mem::take(&mut data),
            Messages::One | Messages::Many => data.split_to(self.framing.read(&data)),
        };
        if complete.is_empty() {
            self.withheld.extend_from_slice(&data);
            return Ok(None);
        }
        // Most messages are one frame.
        let complete = if self.withheld.is_empty() {
            Some(Frame::data(complete))
        } else {
            self.withheld.extend_from_slice(&complete);
            self.release()
        };
        if self.messages == Messages::Many {
            self.share.keep(data.len());
            self.waiting = None;
        }
        self.withheld.extend_from_slice(&data);
        Ok(complete)
    }

    /// Releases the withheld bytes. If they are not a complete message, the decoder reports it.
    fn release(&mut self) -> Option<Frame<Bytes>> {
        let withheld = mem::take(&mut self.withheld);
        (!withheld.is_empty()).then(|| Frame::data(withheld.freeze()))
    }

    /// Ready when the next part does not arrive in time.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.messages == Messages::Many && !self.framing.is_within_a_message() {
            return Poll::Pending;
        }
        let patience = self.share.limits().patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        loop {
            ready!(waiting.as_mut().poll(cx));
            let now = Instant::now();
            if now.saturating_duration_since(waiting.deadline()) < LATE {
                return Poll::Ready(());
            }
            // Bytes that arrived while the process was stopped are read only now.
            waiting.as_mut().reset(now + LATE);
        }
    }

    /// Whether nothing received is left.
    fn is_empty(&self) -> bool {
        self.trailers.is_none() && self.withheld.is_empty()
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(trailers)));
        }
        while !this.is_ended {
            let taken = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => this.take(frame),
                Poll::Ready(Some(Err(status))) => Err(status),
                Poll::Ready(None) => {
                    this.is_ended = true;
                    Ok(this.release())
                }
                Poll::Pending => {
                    ready!(this.wait(cx));
                    Err((this.share.limits().unfinished)())
                }
            };
            if taken.is_err() {
                this.is_ended = true;
                this.withheld = BytesMut::new();
            }
            if let Some(passed_on) = taken.transpose() {
                return Poll::Ready(Some(passed_on));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty() && (self.is_ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        if self.is_empty() && !self.is_ended { self.body.size_hint() } else { SizeHint::default() }
    }
}

/// Longest piece of an answer, in bytes. The client must read each within the time limit for
/// waiting answers.
const PIECE_BYTES: usize = 64 * 1024;

/// An answer's body, which keeps its request in flight.
///
/// HTTP/2 accepts far more than fits the client's window, and buffers it. So each piece of the
/// answer also keeps the request in flight, until it is written.
pub(crate) struct Keeping {
    body: Body,
    /// The rest of a frame.
    rest: Bytes,
    /// Present until the first frame is requested.
    wait: Option<Wait>,
    kept: Kept,
    connection: Untaken,
}

/// Part of an answer, until it is written.
struct Piece {
    bytes: Bytes,
    _wait: Wait,
    _kept: Kept,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Keeping {
    pub(crate) fn new(body: Body, kept: Kept, connection: Untaken) -> Self {
        let wait = Some(Wait::begin(connection.clone()));
        Self { body, rest: Bytes::new(), wait, kept, connection }
    }

    fn piece(&mut self) -> Frame<Bytes> {
        let bytes = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        let wait = Wait::begin(self.connection.clone());
        Frame::data(Bytes::from_owner(Piece { bytes, _wait: wait, _kept: self.kept.clone() }))
    }
}

impl http_body::Body for Keeping {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        this.wait = None;
        if this.rest.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut this.body).poll_frame(cx)).transpose()? else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(data) if !data.is_empty() => this.rest = data,
                Ok(empty) => return Poll::Ready(Some(Ok(Frame::data(empty)))),
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        Poll::Ready(Some(Ok(this.piece())))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let mut hint = self.body.size_hint();
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(hint.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests;
