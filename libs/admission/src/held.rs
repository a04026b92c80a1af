//! The bytes of requests: how many there are in total, and how long they may take to arrive.

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
use tokio::time::{Sleep, sleep};
use tonic::{Status, body::Body};

/// Bytes of each request that are not counted. There is room for these for all requests that may be
/// in flight.
const FREE_BYTES: usize = 16 * 1024;
/// How many bytes one byte of a compressed request counts as, which is the most that gzip makes of
/// it. All of its bytes are counted.
const INFLATED: usize = 1_032;

/// What requests may hold, and what a caller is told whose request exceeds it.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all requests that are not answered yet, over 16 KiB of each; of a compressed one,
    /// what they may become.
    pub bytes_max: usize,
    /// Bytes of one message: the limit of the decoder, which refuses longer ones.
    pub message_bytes_max: usize,
    /// A body that is not complete within this time is given up.
    pub patience: Duration,
    /// Makes the error of a request that exceeds `bytes_max`.
    pub overloaded: fn() -> Status,
    /// Makes the error of a request that exceeds `patience`.
    pub unfinished: fn() -> Status,
}

/// How many messages the body of a request has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requests {
    /// One, which is due and held until it is answered.
    One,
    /// A stream of them, the next of which may take its time. Each is held until it has arrived.
    Many,
}

/// The bytes of all requests that are not answered yet. Clones share the count.
#[derive(Debug, Clone)]
pub struct Held {
    bytes: Arc<AtomicUsize>,
    pub(crate) limits: Limits,
}

impl Held {
    /// Nothing is held yet.
    pub fn new(limits: Limits) -> Self {
        Self { bytes: Arc::default(), limits }
    }

    /// Returns the request with its body counted until both the body and the returned share are
    /// dropped.
    pub(crate) fn bind(
        &self,
        request: http::Request<Body>,
        requests: Requests,
    ) -> (http::Request<Counted>, Arc<Share>) {
        let encoding = request.headers().get("grpc-encoding");
        let is_compressed = encoding.is_some_and(|encoding| encoding != "identity");
        let (free, each) = if is_compressed { (0, INFLATED) } else { (FREE_BYTES, 1) };
        let share = Arc::new(Share { held: self.clone(), bytes: AtomicUsize::new(0), free, each });
        let counted = Arc::clone(&share);
        let patience = match requests {
            Requests::One => Some(self.limits.patience),
            Requests::Many => None,
        };
        let request = request.map(|body| Counted { body, share: counted, patience, waiting: None });
        (request, share)
    }
}

/// The bytes that one request holds, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Share {
    held: Held,
    bytes: AtomicUsize,
    /// How many of them are not counted.
    free: usize,
    /// How many bytes each byte counts as.
    each: usize,
}

impl Share {
    /// Adds bytes. Returns false if more is held than allowed.
    fn add(&self, bytes: usize) -> bool {
        let bytes = bytes.saturating_mul(self.each);
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let more = self.counted(before + bytes) - self.counted(before);
        more == 0
            || self.held.bytes.fetch_add(more, Ordering::Relaxed) + more
                <= self.held.limits.bytes_max
    }

    /// Gives back all bytes but so many, of those that were added.
    pub(crate) fn keep(&self, bytes: usize) {
        self.clear();
        self.add(bytes);
    }

    fn clear(&self) {
        let counted = self.counted(self.bytes.swap(0, Ordering::Relaxed));
        if counted > 0 {
            self.held.bytes.fetch_sub(counted, Ordering::Relaxed);
        }
    }

    const fn counted(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.free)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The body of a request as it arrives.
pub(crate) struct Counted {
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
            let overloaded = this.share.held.limits.overloaded;
            return Poll::Ready(if fits { frame } else { Some(Err(overloaded())) });
        }
        let Some(patience) = this.patience else { return Poll::Pending };
        let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Some(Err((this.share.held.limits.unfinished)())))
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

    fn held(bytes_max: usize) -> Held {
        Held::new(Limits {
            bytes_max,
            message_bytes_max: usize::MAX,
            patience: PATIENCE,
            overloaded: || Status::resource_exhausted("too much is held"),
            unfinished: || Status::deadline_exceeded("it does not come"),
        })
    }

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
        let held = held(100);
        let (mut first, share) = held.bind(request(&[FREE_BYTES, 60]), Requests::One);
        let (mut second, _share) = held.bind(request(&[FREE_BYTES + 40, 1]), Requests::One);
        assert_eq!(next(&mut first).await, Ok(FREE_BYTES));
        assert_eq!(next(&mut first).await, Ok(60));
        assert_eq!(next(&mut second).await, Ok(FREE_BYTES + 40), "as much as may be");
        assert_eq!(next(&mut second).await, Err(Code::ResourceExhausted));
        drop(first);
        let (mut third, _share) = held.bind(request(&[FREE_BYTES + 1]), Requests::One);
        assert_eq!(next(&mut third).await, Err(Code::ResourceExhausted), "it is not answered yet");
        drop(share);
        let (mut fourth, _share) = held.bind(request(&[FREE_BYTES + 58]), Requests::One);
        assert_eq!(next(&mut fourth).await, Ok(FREE_BYTES + 58));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_compressed_counts_as_what_it_may_become() {
        let held = held(10 * INFLATED);
        for (encoding, second) in
            [(None, Ok(9)), (Some("identity"), Ok(9)), (Some("gzip"), Err(Code::ResourceExhausted))]
        {
            let mut request = request(&[9, 9]);
            if let Some(encoding) = encoding {
                request.headers_mut().insert("grpc-encoding", encoding.parse().unwrap());
            }
            let (mut request, _share) = held.bind(request, Requests::One);
            assert_eq!(next(&mut request).await, Ok(9));
            assert_eq!(next(&mut request).await, second, "{encoding:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up_and_a_stream_is_not() {
        let held = held(100);
        let began = Instant::now();
        let (mut timed, _share) = held.bind(request(&[1]), Requests::One);
        assert_eq!(next(&mut timed).await, Ok(1));
        assert_eq!(next(&mut timed).await, Err(Code::DeadlineExceeded));
        assert_eq!(began.elapsed(), PATIENCE);
        let (mut open, _share) = held.bind(request(&[1]), Requests::Many);
        assert_eq!(next(&mut open).await, Ok(1));
        assert!(next(&mut open).now_or_never().is_none());
        advance(PATIENCE * 10).await;
        assert!(next(&mut open).now_or_never().is_none());
    }
}
