//! Buyers that keep books: runs `test/live/drive.py` while the shop is broken or upgraded.

use std::{
    ffi::OsStr,
    fmt,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde_json::Value;

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
        let suites = workspace.root.join("test");
        let venv = Venv::ready(workspace, "tests", &suites.join("requirements.txt"))?;
        let mut python = enter(venv.python().get_program());
        python.args(["-u", "-m", "live.drive"]).args(more);
        for url in urls {
            python.args(["--url", url]);
        }
        python
            .env("PYTHONPATH", &suites)
            .env("PYTHONDONTWRITEBYTECODE", "1")
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

/// Runs a script of `test/` by `enter`, in the tests' environment. Returns its output if it
/// succeeds.
pub(crate) fn script(
    workspace: &Workspace,
    enter: impl FnOnce(&OsStr) -> Command,
    script: &str,
    args: &[&str],
) -> Result<String, String> {
    let suites = workspace.root.join("test");
    let venv = Venv::ready(workspace, "tests", &suites.join("requirements.txt"))?;
    let mut python = enter(venv.python().get_program());
    python.arg(suites.join(script)).args(args).env("PYTHONDONTWRITEBYTECODE", "1");
    let (succeeded, text) = command::quietly(&mut python)?;
    if succeeded { Ok(text) } else { Err(text) }
}
