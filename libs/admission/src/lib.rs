//! Bounds the requests that callers can make a process hold, and the bytes of those requests, in
//! time and in total.
//!
//! Every server that strangers can reach passes its gRPC requests through a [`Bound`], before
//! anything reads them.

mod held;
mod whole;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http_body_util::BodyExt as _;
use tonic::body::Body;

use held::Share;
pub use held::{Held, Limits, Requests};
use whole::Whole;

/// Places for requests of one kind, and room for their bytes. Clones share them.
#[derive(Debug, Clone)]
pub struct Bound {
    taken: Arc<AtomicUsize>,
    most: usize,
    held: Held,
}

impl Bound {
    /// A bound with `most` places.
    pub fn new(most: usize, held: Held) -> Self {
        Self { taken: Arc::default(), most, held }
    }

    /// Returns the request with its body counted and in whole messages, and a value that keeps its
    /// place and its bytes until dropped; `None` if no place is left.
    pub fn admit(
        &self,
        request: http::Request<Body>,
        requests: Requests,
    ) -> Option<(http::Request<Body>, Kept)> {
        let place = Place(Arc::clone(&self.taken));
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.most {
            return None;
        }
        let (request, share) = self.held.bind(request, requests);
        let of_stream = (requests == Requests::Many).then(|| Arc::clone(&share));
        let longest = self.held.limits.message_bytes_max;
        let request = request.map(|body| Body::new(Whole::new(body, longest, of_stream)));
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
pub struct Kept {
    _place: Place,
    _share: Arc<Share>,
}

impl Kept {
    /// Returns the answer. Its request stays in flight until the answer was taken or is dropped.
    pub fn until_taken(self, answer: Body) -> Body {
        Body::new(answer.map_frame(move |frame| {
            let _kept = &self;
            frame
        }))
    }
}
