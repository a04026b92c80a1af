//! Parts of a run, with their times and counts.

use std::{ops::AddAssign, time::Instant};

use crate::rounded;

/// Numbers of passed and failed tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    pub(crate) const PASSED: Self = Self { passed: 1, failed: 0 };

    /// Counts one check, and prints it if it failed.
    pub(crate) fn check(&mut self, what: &str, result: Result<(), String>) {
        match result {
            Ok(()) => self.passed += 1,
            Err(problem) => {
                println!("FAILED {what}: {problem}");
                self.failed += 1;
            }
        }
    }

    /// The same of many small checks: together they count as one pass, but each failure counts.
    pub(crate) fn as_one(self) -> Self {
        Self { passed: u64::from(self.failed == 0), ..self }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// Why a part has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// It could not run here, for this reason.
    NotRun(String),
    /// It stopped half-way, which counts as one failure.
    Failed(String),
}

impl Stopped {
    /// It cannot run without this program.
    pub(crate) fn without(program: &str) -> Self {
        Self::NotRun(format!("{program} is not installed"))
    }
}

impl From<String> for Stopped {
    fn from(problem: String) -> Self {
        Self::Failed(problem)
    }
}

impl From<&str> for Stopped {
    fn from(problem: &str) -> Self {
        Self::Failed(problem.to_owned())
    }
}

impl From<Stopped> for String {
    fn from(stopped: Stopped) -> Self {
        let (Stopped::NotRun(reason) | Stopped::Failed(reason)) = stopped;
        reason
    }
}

/// The result of a part.
pub(crate) type Part = Result<Tally, Stopped>;

/// All parts of a run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    total: Tally,
    lines: Vec<String>,
}

impl Report {
    /// Runs a part, and prints its outcome and time.
    pub(crate) fn part(&mut self, name: &str, run: impl FnOnce() -> Part) {
        println!("==> {name}");
        let began = Instant::now();
        let outcome = run();
        let took = rounded(began.elapsed());
        let line = match outcome {
            Ok(tally) => {
                self.total += tally;
                let word = if tally.failed == 0 { "ok" } else { "FAILED" };
                format!(
                    "{name}: {word}, {} of {} in {took}",
                    tally.passed,
                    tally.passed + tally.failed
                )
            }
            Err(Stopped::NotRun(reason)) => format!("{name}: not run: {reason}"),
            Err(Stopped::Failed(problem)) => {
                self.total.failed += 1;
                format!("{name}: FAILED after {took}: {problem}")
            }
        };
        println!("<== {line}");
        self.lines.push(line);
    }

    /// Prints every part's line again, and the totals alone on the last line.
    pub(crate) fn close(&self, took: &str) {
        println!();
        for line in &self.lines {
            println!("{line}");
        }
        println!("all parts took {took}");
        println!("{} passed, {} failed", self.total.passed, self.total.failed);
    }

    /// True if something ran and nothing failed.
    pub(crate) fn all_passed(&self) -> bool {
        self.total.failed == 0 && self.total.passed > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ran_and_held_passes() {
        let mut report = Report::default();
        report.part("absent", || Err(Stopped::NotRun("no tool".to_owned())));
        assert!(!report.all_passed(), "nothing has run");
        report.part("good", || Ok(Tally::PASSED));
        assert!(report.all_passed());
        report.part("broken", || Err("it stopped".into()));
        assert!(!report.all_passed());
        assert_eq!(report.total, Tally { passed: 1, failed: 1 });
        assert_eq!(report.lines[0], "absent: not run: no tool");
    }
}
