//! Natural batching: while one request is under way, the next callers gather for one more.

use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use super::lock;

/// Callers who want the same thing, each of them from a request that is sent after it called.
#[derive(Debug)]
pub(super) struct Singleflight<T> {
    state: Arc<Mutex<State<T>>>,
}

#[derive(Debug)]
struct State<T> {
    /// Somebody sends requests for all.
    running: bool,
    waiting: Vec<oneshot::Sender<T>>,
}

impl<T> Default for Singleflight<T> {
    fn default() -> Self {
        Self { state: Arc::new(Mutex::new(State { running: false, waiting: Vec::new() })) }
    }
}

impl<T: Clone + Send + 'static> Singleflight<T> {
    /// The result of a request that is sent after this call, shared by all who wait for the same one.
    /// None when the request panicked.
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
            // A task of its own: a caller that goes away must not take the others' request with it.
            tokio::spawn(run(Running(Arc::clone(&self.state)), fetch));
        }
        receiver.await.ok()
    }
}

/// Ends the run when its task ends, even by a panic; who waits then hears of it.
struct Running<T>(Arc<Mutex<State<T>>>);

impl<T> Running<T> {
    /// Those who wait; none ends the run in the same moment.
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
            // Who went away does not need it.
            drop(sender.send(result.clone()));
        }
    }
}
