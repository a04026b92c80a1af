//! What a role tells people: logs, metrics, the panic hook, and the one registry of metric, span and field
//! names.
//!
//! Must not know: any role, the wire, the store.
//!
//! Modules: [`semconv`] names; [`metrics`](mod@metrics) what is counted; `service` who a process says that
//! it is. [`init`] sets a process up, once, and hands out a [`Guard`].
//!
//! Invariants: logs go to stderr, so that stdout stays a command's own; every line names its role; a panic
//! is an ERROR line, wherever it happens.

use std::{fmt, io, panic, str::FromStr};

use opentelemetry_sdk::metrics::SdkMeterProvider;
use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

mod format;
pub mod metrics;
pub mod semconv;
mod service;

pub use metrics::metrics;

/// Names the variable that filters logs, as in `TILL_LOG=info,rpc=debug`.
pub const FILTER_VARIABLE: &str = "TILL_LOG";

/// The filter where nobody says otherwise: libraries speak up only when something is wrong, and the store's
/// client not even then: it says ERROR of every lost connection, which `storage` retries and tells once.
pub const FILTER_DEFAULT: &str = "info,tikv_client=off,fjall=warn,lsm_tree=warn";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Pretty,
    /// One JSON object a line.
    Json,
}

/// A text that is no log format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownFormat(String);

impl fmt::Display for UnknownFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is neither pretty nor json", self.0)
    }
}

impl std::error::Error for UnknownFormat {}

impl FromStr for Format {
    type Err = UnknownFormat;

    fn from_str(text: &str) -> Result<Self, UnknownFormat> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat(text.to_owned())),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        })
    }
}

/// What a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A command of a person: it logs, and counts nothing.
    Command,
    /// A role that runs until it is told to end: it counts, too.
    Service,
}

/// Keeps telemetry going; drop it last.
#[must_use = "telemetry ends when the guard is dropped"]
#[derive(Debug)]
pub struct Guard {
    meters: Option<SdkMeterProvider>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.meters.as_ref().map(SdkMeterProvider::shutdown) {
            tracing::debug!(%error, "metrics did not end well");
        }
    }
}

/// Sets up logs and the panic hook of this process, and for a service its metrics. `role` stands in every
/// line. The filter comes from `TILL_LOG`, by default [`FILTER_DEFAULT`]; what does not parse in it is told
/// and left out.
///
/// Called again in the same process, it changes nothing. Call it before anything is counted.
pub fn init(role: &str, format: Format, scope: Scope) -> Guard {
    let filter = filter();
    let registry = tracing_subscriber::registry().with(filter);
    let set = match format {
        Format::Pretty => registry.with(format::pretty(role, io::stderr)).try_init(),
        Format::Json => registry.with(format::json(role, io::stderr)).try_init(),
    };
    if set.is_ok() {
        hook_panics();
    }
    let meters = match scope {
        Scope::Command => None,
        Scope::Service => meters(role),
    };
    Guard { meters }
}

fn meters(role: &str) -> Option<SdkMeterProvider> {
    match metrics::install(service::resource(role), |builder| builder) {
        Ok(meters) => Some(meters),
        Err(error) => {
            tracing::warn!(%error, "metrics could not be set up");
            None
        }
    }
}

fn filter() -> EnvFilter {
    let builder = EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .with_env_var(FILTER_VARIABLE);
    match std::env::var_os(FILTER_VARIABLE) {
        Some(_) => builder.from_env_lossy(),
        None => builder.parse_lossy(FILTER_DEFAULT),
    }
}

/// A panic is a bug: one ERROR line with the place, in the format of all lines.
fn hook_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let text = info.payload_as_str().unwrap_or("no text");
        let thread = std::thread::current();
        tracing::error!(place, thread = thread.name().unwrap_or("unnamed"), text, "panic");
    }));
}
