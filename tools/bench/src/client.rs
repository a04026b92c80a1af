//! Clients of the shop by either protocol, and many calls at once.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use rpc::net::Endpoint;
use tokio::task::JoinSet;

use crate::{
    call::{Call, Outcome, Reply, Trouble},
    grpc::Grpc,
    progress::Progress,
    rest::Rest,
};

/// Calls in flight while data is prepared or checked.
const AT_ONCE: usize = 64;

/// One caller's connection to the shop.
#[derive(Debug)]
pub(crate) enum Client {
    Rest(Rest),
    Grpc(Box<Grpc>),
}

impl Client {
    /// Makes one call and waits for its outcome.
    pub(crate) async fn call(&mut self, call: &Call) -> Outcome {
        match self {
            Self::Rest(rest) => rest.call(call).await,
            Self::Grpc(grpc) => grpc.call(call).await,
        }
    }
}

/// The addresses of the shop.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    /// Replicas of the REST face; at least one.
    pub(crate) rest: Vec<Endpoint>,
    /// Channels for measured calls by gRPC, one set per replica; empty if they go by REST.
    pub(crate) grpc: Vec<Grpc>,
}

impl Endpoints {
    /// The client of this caller for measured calls.
    pub(crate) fn measured(&self, caller: usize) -> Client {
        let shared = caller.checked_rem(self.grpc.len()).and_then(|place| self.grpc.get(place));
        shared.map_or_else(
            || Client::Rest(self.rest(caller)),
            |grpc| Client::Grpc(Box::new(grpc.clone())),
        )
    }

    /// A REST client for this caller.
    pub(crate) fn rest(&self, caller: usize) -> Rest {
        Rest::new(self.rest[caller % self.rest.len()].clone())
    }

    /// Makes all these calls by REST, many at once. The replies are in the order of the calls.
    ///
    /// # Errors
    /// The first call that failed, in words. The remaining ones are not made.
    pub(crate) async fn all(&self, what: &str, calls: Vec<Call>) -> Result<Vec<Reply>, String> {
        let progress = Arc::new(Progress::new(what, calls.len()));
        let replies = Arc::new(Mutex::new(vec![None; calls.len()]));
        let calls = Arc::new(calls);
        let next = Arc::new(AtomicUsize::new(0));
        let mut workers = JoinSet::new();
        for caller in 0..AT_ONCE.min(calls.len()) {
            let (calls, next) = (Arc::clone(&calls), Arc::clone(&next));
            let (replies, progress) = (Arc::clone(&replies), Arc::clone(&progress));
            let mut client = self.rest(caller);
            workers.spawn(async move {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(call) = calls.get(place) else { return Ok::<(), String>(()) };
                    let reply = client.call(call).await.map_err(|trouble| said(call, &trouble))?;
                    // Nothing under this lock can panic.
                    replies.lock().unwrap_or_else(PoisonError::into_inner)[place] = Some(reply);
                    progress.step();
                }
            });
        }
        while let Some(ended) = workers.join_next().await {
            ended.map_err(|error| error.to_string())??;
        }
        let mut replies = replies.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(replies.drain(..).flatten().collect())
    }

    /// Makes one call by REST.
    ///
    /// # Errors
    /// What went wrong, in words.
    pub(crate) async fn one(&self, call: Call) -> Result<Reply, String> {
        self.rest(0).call(&call).await.map_err(|trouble| said(&call, &trouble))
    }
}

fn said(call: &Call, trouble: &Trouble) -> String {
    let (method, path) = call.rest();
    format!("{method} {path}: {trouble}")
}
