//! Runs other programs. Their output is streamed, and their input is empty.

use std::{
    env,
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::report::{Part, Tally};

/// The program and its arguments, for messages.
fn name(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    let text = words.join(" ");
    // For a command that runs inside the machine, leaves out how it gets there.
    let text = text.rsplit_once(" -- ").map_or(text.as_str(), |(_, inner)| inner);
    text.chars().take(120).collect()
}

fn ended(command: &Command, status: std::process::ExitStatus) -> Result<(), String> {
    if status.success() { Ok(()) } else { Err(format!("{} ended with {status}", name(command))) }
}

/// Runs a command, and passes its output through.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("cannot run {}: {error}", name(command)))?;
    ended(command, status)
}

/// Runs a command as one check.
pub(crate) fn check(command: &mut Command) -> Part {
    Ok(run(command).map(|()| Tally::PASSED)?)
}

/// Runs a command, and returns its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", name(command)))?;
    ended(command, output.status)?;
    String::from_utf8(output.stdout).map_err(|error| error.to_string())
}

/// Runs a command without printing. Returns whether it succeeded, and all of its output.
pub(crate) fn quietly(command: &mut Command) -> Result<(bool, String), String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", name(command)))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), text))
}

/// Runs a command, and returns its standard output. If it fails, the error has all of its output.
pub(crate) fn captured(command: &mut Command) -> Result<String, String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run {}: {error}", name(command)))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Err(format!("{} ended with {}: {}", name(command), output.status, text.trim()))
}

/// Runs a command, and returns all of its output, which is the error if it fails.
pub(crate) fn heard(command: &mut Command) -> Result<String, String> {
    let (succeeded, text) = quietly(command)?;
    if succeeded { Ok(text) } else { Err(text) }
}

/// Where the PATH has a program of this name; none if it has not.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// Starts a command whose output goes to this file.
pub(crate) fn logged(command: &mut Command, log: &Path) -> Result<Child, String> {
    let failed = |error| format!("cannot start {}: {error}", name(command));
    let file = File::create(log).map_err(failed)?;
    let errors = file.try_clone().map_err(failed)?;
    command
        .stdin(Stdio::null())
        .stdout(file)
        .stderr(errors)
        .spawn()
        .map_err(|error| format!("cannot start {}: {error}", name(command)))
}

/// Runs a command, prints each line of its standard output as it comes, and calls `look` with it.
/// Returns whether the command succeeded.
pub(crate) fn watch(command: &mut Command, mut look: impl FnMut(&str)) -> Result<bool, String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot run {}: {error}", name(command)))?;
    let mut lines = BufReader::new(child.stdout.take().ok_or("no output to read")?);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).map_err(|error| error.to_string())? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        look(text.trim_end());
        line.clear();
    }
    let status = child.wait().map_err(|error| error.to_string())?;
    Ok(status.success())
}

/// Waits until `ready` succeeds. After `longest` its last error is the problem.
pub(crate) fn wait(
    what: &str,
    longest: Duration,
    mut ready: impl FnMut() -> Result<(), String>,
) -> Result<(), String> {
    let began = Instant::now();
    loop {
        match ready() {
            Ok(()) => return Ok(()),
            Err(problem) if began.elapsed() > longest => {
                return Err(format!("{what} within {} s: {problem}", longest.as_secs()));
            }
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}
