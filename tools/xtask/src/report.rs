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
}

/// Many small checks: together they count as one pass, but each failure counts.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    failed: u64,
}

impl Checks {
    /// Prints and counts a check if it failed.
    pub(crate) fn check(&mut self, what: &str, result: Result<(), String>) {
        if let Err(problem) = result {
            println!("FAILED {what}: {problem}");
            self.failed += 1;
        }
    }

    /// What the checks count for.
    pub(crate) fn tally(&self) -> Tally {
        Tally { passed: u64::from(self.failed == 0), failed: self.failed }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

/// The outcome of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It ran.
    Ran(Tally),
    /// It could not run here, for this reason.
    NotRun(String),
}

/// The result of a part. An error means that it stopped half-way, and counts as one failure.
pub(crate) type Part = Result<Outcome, String>;

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
            Ok(Outcome::Ran(tally)) => {
                self.total += tally;
                let word = if tally.failed == 0 { "ok" } else { "FAILED" };
                format!(
                    "{name}: {word}, {} of {} in {took}",
                    tally.passed,
                    tally.passed + tally.failed
                )
            }
            Ok(Outcome::NotRun(reason)) => format!("{name}: not run: {reason}"),
            Err(problem) => {
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
        report.part("absent", || Ok(Outcome::NotRun("no tool".to_owned())));
        assert!(!report.all_passed(), "nothing has run");
        report.part("good", || Ok(Outcome::Ran(Tally::PASSED)));
        assert!(report.all_passed());
        report.part("broken", || Err("it stopped".to_owned()));
        assert!(!report.all_passed());
        assert_eq!(report.total, Tally { passed: 1, failed: 1 });
        assert_eq!(report.lines[0], "absent: not run: no tool");
    }
}
