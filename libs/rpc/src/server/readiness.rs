//! Whether requests may be sent to a role.

use std::sync::Arc;

use tokio::sync::watch;

/// The readiness of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Starting, or without its store.
    NotReady,
    /// Requests may be sent.
    Ready,
    /// Shutting down, for good.
    Draining,
}

impl State {
    /// The name of the state, for people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotReady => "not ready",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

/// A role's readiness, which starts as not ready. Cheap to clone; clones share it.
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
    /// Starts as not ready.
    pub fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::NotReady)) }
    }

    /// Says that requests may be sent. No effect once draining.
    pub fn ready(&self) {
        self.set(State::Ready);
    }

    /// Says that no requests should be sent for now, for instance because the store cannot be
    /// reached. No effect once draining.
    pub fn not_ready(&self) {
        self.set(State::NotReady);
    }

    /// Says that no more requests should be sent, for good.
    pub fn drain(&self) {
        self.set(State::Draining);
    }

    /// The current state.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// All states from now on, starting with the current one.
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
