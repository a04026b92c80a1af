//! Bounds the requests that callers can make this process hold, and the bytes of those requests, in
//! time and in total.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};
use types::{Reason, Refusal};

use super::whole::Whole;
use crate::status::{to_status, unfinished};

/// Bytes of each request that are not counted. There is room for these for all requests that may be
/// in flight.
const FREE_BYTES: usize = 16 * 1024;
/// How many bytes one byte of a compressed request counts as, which is the most that gzip makes of
/// it. All of its bytes are counted.
const INFLATED: usize = 1_032;

/// Places for requests of one kind, and room for their bytes. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    taken: Arc<AtomicUsize>,
    most: usize,
    held: Held,
}

impl Bound {
    /// A bound with `most` places.
    pub(super) fn new(most: usize, held: Held) -> Self {
        Self { taken: Arc::default(), most, held }
    }

    /// Returns the request with its body counted and in whole messages, and a value that keeps its
    /// place and its bytes until dropped; `None` if no place is left. Bodies that may take their
    /// time, like those of streams, are not `timed`.
    pub(crate) fn admit(
        &self,
        request: http::Request<Body>,
        timed: bool,
    ) -> Option<(http::Request<Body>, Kept)> {
        let place = Place(Arc::clone(&self.taken));
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.most {
            return None;
        }
        let (request, share) = self.held.bind(request, timed);
        let request = request.map(|body| Body::new(Whole::new(body)));
        Some((request, Kept { _place: place, _share: share }))
    }
}

/// Counts one request for as long as this lives.
#[derive(Debug)]
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Keeps a request in flight.
#[derive(Debug)]
pub(crate) struct Kept {
    _place: Place,
    _share: Arc<Share>,
}

impl Kept {
    /// Returns the answer. Its request stays in flight until the answer was taken or is dropped.
    pub(crate) fn until_taken(self, answer: Body) -> Body {
        Body::new(answer.map_frame(move |frame| {
            let _kept = &self;
            frame
        }))
    }
}

/// The bytes of all requests that are not answered yet. Clones share the count.
#[derive(Debug, Clone)]
pub(super) struct Held {
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
    patience: Duration,
}

impl Held {
    /// At most `bytes_max` bytes. A body that is not complete within `patience` is given up.
    pub(super) fn new(bytes_max: usize, patience: Duration) -> Self {
        Self { bytes: Arc::default(), bytes_max, patience }
    }

    /// Returns the request with its body counted until both the body and the returned share are
    /// dropped.
    fn bind(
        &self,
        request: http::Request<Body>,
        timed: bool,
    ) -> (http::Request<Counted>, Arc<Share>) {
        let encoding = request.headers().get("grpc-encoding");
        let is_compressed = encoding.is_some_and(|encoding| encoding != "identity");
        let (before, each) = if is_compressed { (FREE_BYTES, INFLATED) } else { (0, 1) };
        let share = Arc::new(Share { held: self.clone(), read: AtomicUsize::new(before), each });
        let counted = Arc::clone(&share);
        let patience = timed.then_some(self.patience);
        let request = request.map(|body| Counted { body, share: counted, patience, waiting: None });
        (request, share)
    }
}

/// The bytes that one request holds, for as long as this lives.
#[derive(Debug)]
struct Share {
    held: Held,
    read: AtomicUsize,
    /// How many bytes each byte counts as.
    each: usize,
}

impl Share {
    /// Adds bytes. Returns false if more is held than allowed.
    fn add(&self, bytes: usize) -> bool {
        let bytes = bytes.saturating_mul(self.each);
        let before = self.read.fetch_add(bytes, Ordering::Relaxed);
        let more = counted(before + bytes) - counted(before);
        more == 0
            || self.held.bytes.fetch_add(more, Ordering::Relaxed) + more <= self.held.bytes_max
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let bytes = counted(*self.read.get_mut());
        if bytes > 0 {
            self.held.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

const fn counted(bytes: usize) -> usize {
    bytes.saturating_sub(FREE_BYTES)
}

/// The body of a request as it arrives.
struct Counted {
    body: Body,
    share: Arc<Share>,
    patience: Option<Duration>,
    /// Starts the first time that the next part of the body has not arrived.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            let bytes = match &frame {
                Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) | None => 0,
            };
            let fits = this.share.add(bytes);
            let overloaded = || Some(Err(to_status(&Refusal::new(Reason::Overloaded))));
            return Poll::Ready(if fits { frame } else { overloaded() });
        }
        let Some(patience) = this.patience else { return Poll::Pending };
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Some(Err(unfinished())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _, stream};
    use http_body::Body as _;
    use http_body_util::StreamBody;
    use tokio::time::{Instant, advance};
    use tonic::Code;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    /// A request whose body has these chunks, and then never ends.
    fn request(chunks: &[usize]) -> http::Request<Body> {
        let chunks = chunks.iter().map(|len| Ok::<_, Status>(Frame::data(vec![0; *len].into())));
        let chunks = stream::iter(chunks.collect::<Vec<_>>()).chain(stream::pending());
        http::Request::new(Body::new(StreamBody::new(chunks)))
    }

    async fn next(request: &mut http::Request<Counted>) -> Result<usize, Code> {
        let body = request.body_mut();
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await.unwrap();
        frame.map(|frame| frame.data_ref().map_or(0, Bytes::len)).map_err(|status| status.code())
    }

    #[tokio::test(start_paused = true)]
    async fn all_requests_together_hold_so_much_until_they_are_answered() {
        let held = Held::new(100, PATIENCE);
        let (mut first, share) = held.bind(request(&[FREE_BYTES, 60]), true);
        let (mut second, _share) = held.bind(request(&[FREE_BYTES + 40, 1]), true);
        assert_eq!(next(&mut first).await, Ok(FREE_BYTES));
        assert_eq!(next(&mut first).await, Ok(60));
        assert_eq!(next(&mut second).await, Ok(FREE_BYTES + 40), "as much as may be");
        assert_eq!(next(&mut second).await, Err(Code::ResourceExhausted));
        drop(first);
        let (mut third, _share) = held.bind(request(&[FREE_BYTES + 1]), true);
        assert_eq!(next(&mut third).await, Err(Code::ResourceExhausted), "it is not answered yet");
        drop(share);
        let (mut fourth, _share) = held.bind(request(&[FREE_BYTES + 58]), true);
        assert_eq!(next(&mut fourth).await, Ok(FREE_BYTES + 58));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_compressed_counts_as_what_it_may_become() {
        let held = Held::new(10 * INFLATED, PATIENCE);
        for (encoding, second) in
            [(None, Ok(9)), (Some("identity"), Ok(9)), (Some("gzip"), Err(Code::ResourceExhausted))]
        {
            let mut request = request(&[9, 9]);
            if let Some(encoding) = encoding {
                request.headers_mut().insert("grpc-encoding", encoding.parse().unwrap());
            }
            let (mut request, _share) = held.bind(request, true);
            assert_eq!(next(&mut request).await, Ok(9));
            assert_eq!(next(&mut request).await, second, "{encoding:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up_and_a_stream_is_not() {
        let held = Held::new(100, PATIENCE);
        let began = Instant::now();
        let (mut timed, _share) = held.bind(request(&[1]), true);
        assert_eq!(next(&mut timed).await, Ok(1));
        assert_eq!(next(&mut timed).await, Err(Code::DeadlineExceeded));
        assert_eq!(began.elapsed(), PATIENCE);
        let (mut open, _share) = held.bind(request(&[1]), false);
        assert_eq!(next(&mut open).await, Ok(1));
        assert!(next(&mut open).now_or_never().is_none());
        advance(PATIENCE * 10).await;
        assert!(next(&mut open).now_or_never().is_none());
    }
}
