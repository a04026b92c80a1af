//! Whether a role may be sent requests.

use std::sync::Arc;

use tokio::sync::watch;

/// What a role says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Starting, or without its store.
    NotReady,
    /// Send requests.
    Ready,
    /// Ending, for good.
    Draining,
}

impl State {
    /// For people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotReady => "not ready",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// A role's word on whether it may be sent requests. Cheap to clone; clones share it. Begins not ready.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

impl Readiness {
    /// Not ready yet.
    pub fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::NotReady)) }
    }

    /// Requests may come. No effect once draining.
    pub fn ready(&self) {
        self.set(State::Ready);
    }

    /// No requests for now: the store cannot be reached, for instance. No effect once draining.
    pub fn not_ready(&self) {
        self.set(State::NotReady);
    }

    /// No more requests, for good.
    pub fn drain(&self) {
        self.set(State::Draining);
    }

    /// The present word.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Every word from now on, the present one first.
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    fn set(&self, next: State) {
        self.state.send_if_modified(|state| {
            let changes = *state != State::Draining && *state != next;
            if changes {
                *state = next;
                telemetry::metrics().ready.set(next == State::Ready);
            }
            changes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draining_is_for_good() {
        let readiness = Readiness::new();
        assert_eq!(readiness.state(), State::NotReady);
        readiness.ready();
        readiness.not_ready();
        readiness.ready();
        assert_eq!(readiness.state(), State::Ready);
        readiness.drain();
        readiness.ready();
        readiness.not_ready();
        assert_eq!(readiness.state(), State::Draining);
    }
}
