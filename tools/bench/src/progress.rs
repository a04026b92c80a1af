//! Progress of long work on standard error: a bar on a terminal, otherwise a line now and then.

use std::{
    io::{self, IsTerminal as _, Write as _},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

const BAR_WIDTH: usize = 30;
/// Pause between two updates on a terminal.
const REDRAW: Duration = Duration::from_millis(100);
/// Pause between two lines of a log.
const LINE: Duration = Duration::from_secs(5);

/// The progress of one piece of work. Dropping it writes the last line.
#[derive(Debug)]
pub(crate) struct Progress {
    what: String,
    total: usize,
    begun: Instant,
    terminal: bool,
    state: Mutex<(usize, Instant)>,
}

impl Progress {
    /// Starts work of `total` steps.
    pub(crate) fn new(what: &str, total: usize) -> Self {
        let begun = Instant::now();
        let terminal = io::stderr().is_terminal();
        let progress =
            Self { what: what.to_owned(), total, begun, terminal, state: Mutex::new((0, begun)) };
        if terminal {
            progress.write(0, false);
        }
        progress
    }

    /// Counts one step.
    pub(crate) fn step(&self) {
        // Nothing under this lock can panic.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.0 += 1;
        let pause = if self.terminal { REDRAW } else { LINE };
        // Reading the clock at every step would be wasteful.
        if state.0.is_multiple_of(32) && state.1.elapsed() >= pause {
            state.1 = Instant::now();
            self.write(state.0, false);
        }
    }

    fn write(&self, done: usize, last: bool) {
        let text = line(&self.what, done, self.total, self.begun.elapsed());
        let (start, end) = match (self.terminal, last) {
            (true, false) => ("\r", ""),
            (true, true) => ("\r", "\n"),
            (false, _) => ("", "\n"),
        };
        // If this fails, nobody can be told.
        drop(write!(io::stderr(), "{start}{text}{end}"));
        drop(io::stderr().flush());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let done = self.state.lock().unwrap_or_else(PoisonError::into_inner).0;
        self.write(done, true);
    }
}

fn line(what: &str, done: usize, total: usize, elapsed: Duration) -> String {
    let filled = done.saturating_mul(BAR_WIDTH).checked_div(total).unwrap_or(BAR_WIDTH);
    let bar: String = (0..BAR_WIDTH).map(|place| if place < filled { '#' } else { '.' }).collect();
    format!("{what:<24} [{bar}] {done}/{total} {:.1} s", elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_when_all_is_done() {
        let full = line("x", 3, 3, Duration::from_secs(2));
        assert!(full.contains(&"#".repeat(BAR_WIDTH)) && full.ends_with("3/3 2.0 s"), "{full}");
        assert!(!line("x", 0, 3, Duration::ZERO).contains('#'));
        assert!(line("x", 0, 0, Duration::ZERO).contains(&"#".repeat(BAR_WIDTH)));
    }
}
