//! Batching without timers: while one request is under way, later callers gather for the next one.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::lock;

/// Shares requests between callers. Each caller gets the result of a request that is sent after its
/// call.
#[derive(Debug)]
pub(super) struct NextFlight<T> {
    state: Arc<Mutex<State<T>>>,
}

#[derive(Debug)]
struct State<T> {
    /// A task sends requests for all callers.
    running: bool,
    waiting: Vec<oneshot::Sender<T>>,
}

impl<T> Default for NextFlight<T> {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new(State { running: false, waiting: Vec::new() })) }
    }
}

impl<T: Clone + Send + 'static> NextFlight<T> {
    /// The result of a request that is sent after this call, shared by all callers that wait for
    /// it. `None` if the request panicked.
    pub(super) async fn share<F>(&self, fetch: impl Fn() -> F + Send + 'static) -> Option<T>
    where
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let first = {
            let mut state = lock(&self.state);
            state.waiting.push(sender);
            !std::mem::replace(&mut state.running, true)
        };
        if first {
            // This is a separate task, so that a caller that goes away does not cancel the others'
            // request.
            tokio::spawn(run(Running(Arc::clone(&self.state)), fetch));
        }
        receiver.await.ok()
    }
}

/// Ends the run when its task ends, even by a panic. Waiting callers then get `None`.
struct Running<T>(Arc<Mutex<State<T>>>);

impl<T> Running<T> {
    /// The waiting callers. `None` ends the run under the same lock.
    fn take(&self) -> Option<Vec<oneshot::Sender<T>>> {
        let mut state = lock(&self.0);
        let waiting = std::mem::take(&mut state.waiting);
        state.running = !waiting.is_empty();
        state.running.then_some(waiting)
    }
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut state = lock(&self.0);
            state.running = false;
            state.waiting.clear();
        }
    }
}

async fn run<T: Clone, F: Future<Output = T>>(running: Running<T>, fetch: impl Fn() -> F) {
    while let Some(waiting) = running.take() {
        let result = fetch().await;
        for sender in waiting {
            // A caller that went away does not need the result.
            drop(sender.send(result.clone()));
        }
    }
}
