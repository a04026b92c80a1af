//! The bytes of requests: their total, and how long they may take to arrive.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tonic::Status;

/// Bytes of each request that are not counted. There is always memory for these, for all requests
/// in flight.
const FREE_BYTES: usize = 16 * 1024;
/// How many bytes one byte of a compressed request counts as: the most that gzip can expand it to.
/// All of its bytes are counted.
const INFLATED: usize = 1_032;

/// Limits on requests, and the errors for requests that exceed them.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Bytes of all requests that are not answered yet, beyond 16 KiB of each. A compressed byte
    /// counts as what it may expand to. A decoder copies a message, so memory can be twice as much.
    pub bytes_max: usize,
    /// Time limit for a request to be complete, and for a stream to continue within a message.
    pub patience: Duration,
    /// Makes the error of a request that exceeds `bytes_max`.
    pub overloaded: fn() -> Status,
    /// Makes the error of a request that exceeds `patience`.
    pub unfinished: fn() -> Status,
}

/// The bytes of all requests that are not answered yet. Clones share the count.
#[derive(Debug, Clone)]
pub struct Held {
    bytes: Arc<AtomicUsize>,
    limits: Limits,
}

impl Held {
    /// Makes a count of zero.
    pub fn new(limits: Limits) -> Self {
        Self { bytes: Arc::default(), limits }
    }

    /// Makes the share of a request with these headers, of which no byte has arrived.
    pub(crate) fn share(&self, headers: &http::HeaderMap) -> Share {
        let encoding = headers.get("grpc-encoding");
        let is_compressed = encoding.is_some_and(|encoding| encoding != "identity");
        let (free, each) = if is_compressed { (0, INFLATED) } else { (FREE_BYTES, 1) };
        Share { held: self.clone(), bytes: AtomicUsize::new(0), free, each }
    }
}

/// The bytes that one request holds, for as long as this lives.
#[derive(Debug)]
pub(crate) struct Share {
    held: Held,
    /// Changed by the request's body alone.
    bytes: AtomicUsize,
    /// Number of bytes that are not counted.
    free: usize,
    /// Number of bytes that each byte counts as.
    each: usize,
}

impl Share {
    /// The limits.
    pub(crate) const fn limits(&self) -> &Limits {
        &self.held.limits
    }

    /// Adds bytes. Returns false and adds none if more would be held than allowed.
    pub(crate) fn add(&self, bytes: usize) -> bool {
        let before = self.bytes.load(Ordering::Relaxed);
        let after = before.saturating_add(bytes.saturating_mul(self.each));
        let more = self.counted(after) - self.counted(before);
        // Most requests are short, and never touch the shared counter.
        let fits = more == 0 || {
            let most = self.held.limits.bytes_max;
            let sum = |held: usize| held.checked_add(more).filter(|held| *held <= most);
            self.held.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok()
        };
        if fits {
            self.bytes.store(after, Ordering::Relaxed);
        }
        fits
    }

    /// Gives back all bytes except this many.
    pub(crate) fn keep(&self, bytes: usize) {
        let before = self.bytes.load(Ordering::Relaxed);
        let after = before.min(bytes.saturating_mul(self.each));
        let less = self.counted(before) - self.counted(after);
        if less > 0 {
            self.held.bytes.fetch_sub(less, Ordering::Relaxed);
        }
        self.bytes.store(after, Ordering::Relaxed);
    }

    const fn counted(&self, bytes: usize) -> usize {
        bytes.saturating_sub(self.free)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.keep(0);
    }
}
