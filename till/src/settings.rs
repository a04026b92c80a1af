//! Settings as a whole: refuses variables that nothing reads or that do not fit the command, and
//! shows the settings in force.
//!
//! Invariant: no setting is a secret. Secrets are in files, and settings name the files. All
//! settings can therefore be shown, except variables that other libraries read.

use std::{
    ffi::{OsStr, OsString},
    fmt::Write as _,
};

use clap::{Arg, ArgMatches, Command, CommandFactory as _, error::ErrorKind, parser::ValueSource};
use telemetry::Scope;

use crate::cli::{self, Cli};

#[cfg(test)]
mod tests;

/// Prefix of all variables that are ours.
const OURS: &str = "TILL_";
/// Variables that are read, but not by the command line: the log filter, and those of the project's
/// tests.
const OTHERS: [&str; 5] = [
    telemetry::FILTER_VARIABLE,
    "TILL_BIN",
    "TILL_DEV_KV_KILLS",
    "TILL_DEV_KV_HOT_KEYS",
    "TILL_DEV_KV_HOT_WRITES",
];
/// Prefix of variables that the telemetry libraries read. Some hold credentials.
const TELEMETRY: &str = "OTEL_";
/// Prefix of variables that name one role's certificate, which the roles of `till up` cannot share.
const OF_ONE_ROLE: &str = "TILL_TLS_";
/// The exception: it names a directory with a certificate for each role.
const OF_ALL_ROLES: &str = "TILL_TLS_DIR";

/// Every variable that some command reads, sorted.
fn known() -> Vec<String> {
    fn collect(command: &Command, into: &mut Vec<String>) {
        let variables = command.get_arguments().filter_map(Arg::get_env);
        into.extend(variables.map(|name| name.to_string_lossy().into_owned()));
        for sub in command.get_subcommands() {
            collect(sub, into);
        }
    }
    let mut names: Vec<String> = OTHERS.map(str::to_owned).to_vec();
    collect(&Cli::command(), &mut names);
    names.sort();
    names.dedup();
    names
}

/// Refuses variables that look like ours and that no command reads, because a misspelt limit would
/// silently not apply. For `up`, also refuses the certificate of a single role.
///
/// # Errors
/// Names the variable, and the one that was probably meant.
pub(crate) fn check(
    command: &str,
    variables: impl IntoIterator<Item = OsString>,
) -> Result<(), clap::Error> {
    let known = known();
    let refuse = |text: String| Cli::command().error(ErrorKind::InvalidValue, text);
    for name in variables {
        let name = name.to_string_lossy();
        if !name.starts_with(OURS) {
            continue;
        }
        if known.iter().all(|each| *each != name) {
            let nearest = known.iter().min_by_key(|each| strsim::levenshtein(each, &name));
            let nearest = nearest.map_or("", String::as_str);
            return Err(refuse(format!("nothing reads {name}; the nearest variable is {nearest}")));
        }
        if command == "up" && name.starts_with(OF_ONE_ROLE) && name != OF_ALL_ROLES {
            return Err(refuse(format!(
                "`till up` and {name} contradict each other: its roles would share one identity; \
                 {OF_ALL_ROLES} names a directory with a certificate for each"
            )));
        }
    }
    Ok(())
}

/// Refuses a log filter that does not parse, and malformed `OTEL_*` variables. Otherwise logs and
/// telemetry would silently be missing.
///
/// # Errors
/// Names the variable, but never a value that may be a secret.
pub(crate) fn check_telemetry(command: &cli::Command) -> Result<(), clap::Error> {
    let sends = matches!(command, cli::Command::Role(_) | cli::Command::Up(_));
    let scope = if sends { Scope::Service } else { Scope::Command };
    telemetry::check(scope)
        .map_err(|error| Cli::command().error(ErrorKind::InvalidValue, error.to_string()))
}

/// All settings of the requested command, as variables with the source of each, in the order of its
/// help.
pub(crate) fn show(matches: &ArgMatches, variables: impl IntoIterator<Item = OsString>) -> String {
    let (mut command, mut matches) = (&built(), matches);
    let mut text = String::new();
    let mut path = String::from("till");
    let mut settings: Vec<&Arg> = command.get_arguments().collect();
    while let Some((name, below)) = matches.subcommand() {
        let Some(sub) = command.find_subcommand(name) else { break };
        path.push(' ');
        path.push_str(name);
        (command, matches) = (sub, below);
        settings.extend(command.get_arguments());
    }
    // Writing to a String does not fail.
    let mut line = |said: std::fmt::Arguments<'_>| {
        let _infallible = writeln!(text, "{said}");
    };
    line(format_args!("# {path}"));
    let mut seen = Vec::new();
    for setting in settings {
        let id = setting.get_id().as_str();
        let told = ["help", "version", "print_config", "exit_with_parent"].contains(&id);
        if told || seen.contains(&id) {
            continue;
        }
        seen.push(id);
        let Some(name) = setting
            .get_env()
            .and_then(OsStr::to_str)
            .map(str::to_owned)
            .or_else(|| setting.get_long().map(|long| format!("--{long}")))
        else {
            continue;
        };
        match matches.value_source(id) {
            None => line(format_args!("# {name} is not set")),
            Some(source) => {
                let delimiter = setting.get_value_delimiter().unwrap_or(',');
                let values: Vec<_> =
                    matches.get_raw(id).into_iter().flatten().map(OsStr::to_string_lossy).collect();
                let value = values.join(&delimiter.to_string());
                line(format_args!("{name}={value}  # {}", told_by(source)));
            }
        }
    }
    for name in variables {
        let name = name.to_string_lossy();
        if name.starts_with(TELEMETRY) {
            line(format_args!("# {name} is set, to what is not shown"));
        }
    }
    text
}

fn built() -> Command {
    let mut command = Cli::command();
    // Passes the settings of all commands on to the subcommands.
    command.build();
    command
}

fn told_by(source: ValueSource) -> &'static str {
    if source == ValueSource::DefaultValue {
        "default"
    } else if source == ValueSource::EnvVariable {
        "environment"
    } else {
        "command line"
    }
}
