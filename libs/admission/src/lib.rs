//! Bounds the requests that callers can make a process hold, and the bytes of those requests, in
//! time and in total.
//!
//! Every server that strangers can reach passes its requests through a [`Bound`], before anything
//! reads them, and its answers through [`Kept`]. This crate knows neither the requests nor the
//! errors: its users supply the errors.
//!
//! Modules: `framing` finds gRPC messages in a body; `held` counts the bytes of requests; `untaken`
//! tracks answers that wait for their client; `body` wraps the bodies of both.
//!
//! Invariants: a request has its place until its answer is written or dropped; at most
//! [`Limits::bytes_max`] bytes are held, plus 16 KiB of each request; a message is passed on only
//! when complete.

mod body;
mod framing;
mod held;
mod untaken;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use body::{Bounded, Keeping};
pub use framing::PREFIX_BYTES;
use held::Share;
pub use held::{Held, Limits};
use tonic::body::Body;
pub use untaken::Untaken;

/// A timer that fires this late shows that the process was stopped.
const LATE: Duration = Duration::from_secs(1);

/// The content of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Messages {
    /// No gRPC messages. The whole body must arrive in time, and is held until the request is
    /// answered.
    None,
    /// One gRPC message, which must arrive in time, and is held until the request is answered.
    One,
    /// A stream of gRPC messages, with any time between them. A message is held only until it is
    /// complete, so its handler must not keep large parts of it.
    Many,
}

/// Places for requests of one kind, and room for their bytes. Clones share them.
#[derive(Debug, Clone)]
pub struct Bound {
    taken: Arc<AtomicUsize>,
    most: usize,
    message_bytes_max: usize,
    held: Held,
}

impl Bound {
    /// Makes a bound with `most` places. `message_bytes_max` must be the limit of the decoder,
    /// which refuses longer messages by their prefix.
    pub fn new(most: usize, message_bytes_max: usize, held: Held) -> Self {
        Self { taken: Arc::default(), most, message_bytes_max, held }
    }

    /// Returns the request with its body counted and in whole messages, and a value that keeps its
    /// place and its bytes until dropped; `None` if no place is left.
    pub fn admit(
        &self,
        request: http::Request<Body>,
        messages: Messages,
    ) -> Option<(http::Request<Body>, Kept)> {
        let place = Place(Arc::clone(&self.taken));
        if self.taken.fetch_add(1, Ordering::Relaxed) >= self.most {
            return None;
        }
        let share = Arc::new(self.held.share(request.headers()));
        let counted = Arc::clone(&share);
        let longest = self.message_bytes_max;
        let request = request.map(|body| Body::new(Bounded::new(body, counted, messages, longest)));
        Some((request, Kept { _place: Arc::new(place), _share: share }))
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

/// Keeps a request in flight, until the last clone is dropped.
#[derive(Debug, Clone)]
pub struct Kept {
    _place: Arc<Place>,
    _share: Arc<Share>,
}

impl Kept {
    /// Returns the answer. Its request stays in flight until all of the answer is written to the
    /// connection or dropped. While the answer waits, it counts among those of its connection.
    pub fn until_taken(self, answer: Body, connection: Untaken) -> Body {
        Body::new(Keeping::new(answer, self, connection))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, Full};

    use super::*;

    fn bound(most: usize) -> Bound {
        Bound::new(
            most,
            9,
            Held::new(Limits {
                bytes_max: 0,
                patience: Duration::MAX,
                overloaded: || tonic::Status::resource_exhausted("full"),
                unfinished: || tonic::Status::deadline_exceeded("late"),
            }),
        )
    }

    fn is_admitted(bound: &Bound) -> bool {
        bound.admit(http::Request::new(Body::empty()), Messages::One).is_some()
    }

    #[tokio::test]
    async fn a_request_has_its_place_until_its_answer_was_taken() {
        let bound = bound(1);
        let (_request, kept) =
            bound.admit(http::Request::new(Body::empty()), Messages::One).unwrap();
        assert!(!is_admitted(&bound));
        let connection = Untaken::default();
        let answer = Body::new(Full::new(bytes::Bytes::from("ok")));
        let answer = kept.clone().until_taken(answer, connection.clone());
        assert_eq!(http_body::Body::size_hint(&answer).exact(), Some(2));
        drop(kept);
        assert!(!is_admitted(&bound), "the answer waits for its caller");
        assert!(!connection.look() && connection.look());
        let mut answer = answer;
        let written = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(answer.frame().await.is_none());
        drop(answer);
        assert!(!is_admitted(&bound), "what was handed over is not written");
        assert!(!connection.look() && connection.look());
        assert_eq!(written, "ok");
        drop(written);
        assert!(!connection.look());
        assert!(is_admitted(&bound));
        assert!(is_admitted(&bound), "a refusal takes no place");
    }
}
