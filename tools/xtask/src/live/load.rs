//! Buyers that keep books: runs `test/live/drive.py` while the shop is broken or upgraded.

use std::{
    ffi::OsStr,
    fmt,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::Value;

use super::steps::Steps;
use crate::{command, python::Venv, workspace::Workspace};

/// The longest that a call may take while something is changed or killed, in milliseconds. A call
/// that is not answered is not failed before 30 s.
const SLOWEST_MS: u64 = 15_000;

/// A load that runs until its audit.
#[derive(Debug)]
pub(crate) struct Load {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// The calls of one stretch of the load.
#[derive(Debug)]
pub(crate) struct Stretch {
    pub(crate) calls: u64,
    /// 5xx, 429, broken connections, and no answer in time.
    pub(crate) failed: u64,
    of: String,
    slowest_ms: u64,
}

impl Stretch {
    fn parse(told: &Value) -> Result<Self, String> {
        let number = |name: &str| told[name].as_u64().ok_or_else(|| format!("no {name} in {told}"));
        Ok(Self {
            calls: number("calls")?,
            failed: number("failed")?,
            of: told["of"].to_string().replace(['{', '}', '"'], ""),
            slowest_ms: number("slowest_ms")?,
        })
    }

    /// The summary of the stretch; an error if more than `most` calls failed, which is 0 for a
    /// planned change, if one took longer than [`SLOWEST_MS`], or if there were none.
    pub(crate) fn within(&self, most: u64) -> Result<String, String> {
        if self.failed > most {
            return Err(format!("{self}: more than {most}"));
        }
        if self.slowest_ms > SLOWEST_MS {
            return Err(format!("{self}: slower than {SLOWEST_MS} ms"));
        }
        if self.calls == 0 {
            return Err("nobody called meanwhile".to_owned());
        }
        Ok(self.to_string())
    }
}

impl fmt::Display for Stretch {
    fn fmt(&self, text: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(text, "{} calls, {} failed", self.calls, self.failed)?;
        if self.failed > 0 {
            write!(text, " ({})", self.of)?;
        }
        write!(text, ", slowest {} ms", self.slowest_ms)
    }
}

impl Load {
    /// Fills the shop at these URLs and starts the load. `enter` makes a command that runs where
    /// the URLs can be reached.
    pub(crate) fn start(
        workspace: &Workspace,
        enter: impl FnOnce(&OsStr) -> Command,
        urls: &[String],
        more: &[&str],
    ) -> Result<Self, String> {
        let mut python = python(workspace, enter)?;
        python.args(["-u", "-m", "live.drive"]).args(more);
        for url in urls {
            python.args(["--url", url]);
        }
        python
            .env("PYTHONPATH", workspace.root.join("test"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = python.spawn().map_err(|error| format!("no load: {error}"))?;
        let input = process.stdin.take().ok_or("no way to ask the load")?;
        let output = BufReader::new(process.stdout.take().ok_or("no way to hear the load")?);
        let mut load = Self { process, input, output };
        hear(&mut load.output, "filled")?;
        Ok(load)
    }

    /// Ends the current stretch under this name, and returns it.
    pub(crate) fn stretch(&mut self, name: &str) -> Result<Stretch, String> {
        writeln!(self.input, "{name}").map_err(|error| format!("the load has ended: {error}"))?;
        Stretch::parse(&hear(&mut self.output, "stretch")?)
    }

    /// Ends the load, and compares the shop with the buyers' books. No call since the last stretch
    /// may have failed.
    pub(crate) fn audit(mut self) -> Result<String, String> {
        drop(self.input);
        let told = hear(&mut self.output, "audit")?;
        let status = self.process.wait().map_err(|error| error.to_string())?;
        if told["audit"] != "clean" || !status.success() {
            return Err(format!("the books differ: {}", told["problem"].as_str().unwrap_or("?")));
        }
        Stretch::parse(&told["last"])?
            .within(0)
            .map_err(|problem| format!("at last, {problem}"))?;
        let repeated = match told["repeated_reads"].as_u64() {
            Some(0) => String::new(),
            Some(count) => format!(", {count} reads repeated"),
            None => return Err(format!("the load says {told}")),
        };
        Ok(format!(
            "books exact: {} orders, {} sold, settled after {} s{repeated}",
            told["orders"], told["sold"], told["settled_seconds"]
        ))
    }
}

/// The next message of the load, which must have this key.
fn hear(output: &mut BufReader<ChildStdout>, key: &str) -> Result<Value, String> {
    let mut line = String::new();
    output.read_line(&mut line).map_err(|error| error.to_string())?;
    let told: Value =
        serde_json::from_str(&line).map_err(|_| format!("the load ended, see above {line}"))?;
    if told[key].is_null() { Err(format!("the load says {told}")) } else { Ok(told) }
}

/// Runs the consistency test of `test/` by `enter`, on the shop at this URL: as many buyers as units
/// of one item, and of many items.
pub(crate) fn consistency(
    workspace: &Workspace,
    steps: &mut Steps,
    enter: impl Fn(&OsStr) -> Command,
    url: &str,
) {
    for (items, stock) in [("1", "100"), ("100", "1")] {
        steps.run(&format!("consistency, {items} items of {stock}"), || {
            let mut python = python(workspace, &enter)?;
            python.arg(workspace.root.join("test/consistency/run_consistency_test.py"));
            python.args(["--url", url, "--items", items, "--stock", stock]);
            let text = command::heard(&mut python)?;
            let filled = text.lines().find(|line| line.starts_with("filled in"));
            Ok(format!("no mismatch; {}", filled.unwrap_or_default()))
        });
    }
}

/// The interpreter of the tests' environment, run by `enter`.
fn python(workspace: &Workspace, enter: impl FnOnce(&OsStr) -> Command) -> Result<Command, String> {
    let mut python = enter(Venv::tests(workspace)?.python().get_program());
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    Ok(python)
}

/// The line by which an audit says that all is well.
pub(crate) fn held(said: String) -> Result<String, String> {
    let held = said.lines().find(|line| line.contains("every invariant holds"));
    held.map(|line| line.trim().to_owned()).ok_or(said)
}
