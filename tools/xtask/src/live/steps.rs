//! The table of a run: step, seconds and result.

use std::{fmt::Write as _, time::Instant};

use crate::report::Tally;

#[derive(Debug)]
struct Line {
    step: String,
    seconds: f64,
    result: Result<String, String>,
}

/// The steps that ran, in order.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    lines: Vec<Line>,
}

impl Steps {
    /// Runs a step, whose result is a short text; true if it succeeds.
    pub(crate) fn run(&mut self, step: &str, run: impl FnOnce() -> Result<String, String>) -> bool {
        println!("==> {step}");
        let began = Instant::now();
        let result = run();
        let seconds = began.elapsed().as_secs_f64();
        match &result {
            Ok(text) => println!("<== {step}: {text} ({seconds:.1} s)"),
            Err(problem) => println!("FAILED {step} after {seconds:.1} s: {problem}"),
        }
        let succeeded = result.is_ok();
        self.lines.push(Line { step: step.to_owned(), seconds, result });
        succeeded
    }

    /// [`Steps::run`] for a step without which the next ones make no sense.
    pub(crate) fn must(
        &mut self,
        step: &str,
        run: impl FnOnce() -> Result<String, String>,
    ) -> Result<(), String> {
        self.need(step, || Ok(((), run()?)))
    }

    /// The same for a step that makes something.
    pub(crate) fn need<T>(
        &mut self,
        step: &str,
        run: impl FnOnce() -> Result<(T, String), String>,
    ) -> Result<T, String> {
        let mut made = None;
        self.run(step, || {
            let (value, text) = run()?;
            made = Some(value);
            Ok(text)
        });
        made.ok_or_else(|| format!("cannot go on without: {step}"))
    }

    pub(crate) fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        for line in &self.lines {
            match line.result {
                Ok(_) => tally.passed += 1,
                Err(_) => tally.failed += 1,
            }
        }
        tally
    }

    /// The table in Markdown, ready for a page.
    pub(crate) fn table(&self) -> String {
        let mut text = "| step | seconds | result |\n|---|---:|---|\n".to_owned();
        for Line { step, seconds, result } in &self.lines {
            let result = match result {
                Ok(result) => result.clone(),
                Err(problem) => {
                    format!("**failed**: {}", problem.lines().next().unwrap_or_default())
                }
            };
            // Writing to a string cannot fail.
            let _written = writeln!(text, "| {step} | {seconds:.1} | {result} |");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_counted_and_said() {
        let mut steps = Steps::default();
        assert!(steps.run("one", || Ok("held".to_owned())));
        assert!(!steps.run("two", || Err("broke\nfor reasons".to_owned())));
        assert!(steps.need::<()>("three", || Err("no".to_owned())).is_err());
        assert_eq!(steps.tally(), Tally { passed: 1, failed: 2 });
        let table = steps.table();
        assert!(table.contains("| one | 0.0 | held |"), "{table}");
        assert!(table.contains("| two | 0.0 | **failed**: broke |"), "{table}");
    }
}
