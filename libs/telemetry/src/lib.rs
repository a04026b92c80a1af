//! Logs, metrics, traces and the panic hook of a role, and the registry of metric, span and field
//! names.
//!
//! Must not know: any role, the wire, the store.
//!
//! Modules: [`semconv`] has the names, [`metrics`](mod@metrics) the instruments, [`trace`] the
//! links between spans. `filter` decides which lines are written, `format` how they look, and
//! `records` takes those of libraries. `otlp` sends to a collector, and `service` describes the
//! process. [`check`] judges the environment; [`init`] sets a process up, once, and returns a
//! [`Guard`].
//!
//! Invariants: logs go to stderr, so that stdout belongs to the command; every line names its role;
//! a panic anywhere is an ERROR line; without a collector nothing is sent and no span is made.

use std::{fmt, io, panic, str::FromStr};

use opentelemetry::{global, trace::TracerProvider as _};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tracing::{Dispatch, dispatcher};
use tracing_subscriber::{Layer as _, filter::Targets, layer::SubscriberExt as _};

mod filter;
mod format;
pub mod metrics;
mod otlp;
mod records;
pub mod semconv;
mod service;
pub mod trace;

pub use filter::FilterError;
pub use metrics::metrics;
pub use otlp::ExportError;
use otlp::{Senders, Wanted};

/// The variable that filters logs, for example `TILL_LOG=info,rpc=debug`.
pub const FILTER_VARIABLE: &str = "TILL_LOG";

/// The filter if `TILL_LOG` is not set. Libraries log only problems, and the store's client logs
/// nothing, because it reports every lost connection as an ERROR, while `storage` retries and logs
/// an outage once.
pub const FILTER_DEFAULT: &str = "info,tikv_client=off,fjall=warn,lsm_tree=warn";

/// Appended to the filter of logs that are sent: those of the sending itself are left out, or it
/// would never end.
const OF_SENDING: &str = ",opentelemetry=off,opentelemetry_sdk=off,opentelemetry_otlp=off,tonic=off,h2=off,hyper=off,tower=off";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// Text for people.
    #[default]
    Pretty,
    /// One JSON object per line.
    Json,
}

/// The text is not a log format.
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

/// What kind of process this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// A command that a person runs: it logs, but counts nothing.
    Command,
    /// A role that runs until it is stopped: it logs and counts.
    Service,
}

/// Keeps telemetry running; drop it last. The drop sends the rest, which may take some seconds.
#[must_use = "telemetry ends when the guard is dropped"]
#[derive(Debug, Default)]
pub struct Guard {
    senders: Senders,
    meters: Option<SdkMeterProvider>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.senders.flush(self.meters.take());
    }
}

/// The environment has an invalid setting. A retry does not help.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `TILL_LOG` is not a valid filter.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// The `OTEL_*` variables have an invalid setting.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// Checks the environment without setting anything up. It does not open the files that variables
/// name.
///
/// # Errors
/// As for [`init`].
pub fn check(scope: Scope) -> Result<(), SetupError> {
    filter::by_environment("")?;
    if scope == Scope::Service {
        Wanted::by_environment()?;
    }
    Ok(())
}

/// Sets up logs and the panic hook of this process. For a service it also sets up metrics, and
/// sends telemetry to a collector if `OTEL_EXPORTER_OTLP_ENDPOINT` names one. `role` is part of
/// every line. The filter comes from `TILL_LOG`, by default [`FILTER_DEFAULT`].
///
/// A second call in the same process changes nothing. Call it before anything is counted, and
/// within a tokio runtime, whose tasks do the sending.
///
/// # Errors
/// [`SetupError`] if a variable is invalid; a retry does not help.
pub fn init(role: &str, format: Format, scope: Scope) -> Result<Guard, SetupError> {
    let wanted = match scope {
        Scope::Command => Wanted::default(),
        Scope::Service => Wanted::by_environment()?,
    };
    let resource = service::resource(role, &wanted.attributes);
    let mut senders = Senders::default();
    let reading = match scope {
        Scope::Command => None,
        Scope::Service => {
            let reading = metrics::Reading::new(resource.clone(), |builder| {
                senders.metrics(&wanted, builder)
            })?;
            // The queues of spans and logs count what they drop by the global meter.
            global::set_meter_provider(reading.provider.clone());
            Some(reading)
        }
    };
    senders.start(&wanted, &resource)?;
    let set = if senders.traces.is_none() && senders.logs.is_none() {
        log(role, format)?
    } else {
        log_and_send(role, format, &senders)?
    };
    if set {
        records::take();
        hook_panics();
    }
    if let Some(value) = wanted.misread_switch {
        tracing::warn!(value, "OTEL_SDK_DISABLED is neither true nor false: it is taken for false");
    }
    let meters = reading.map(metrics::install);
    Ok(Guard { senders, meters })
}

/// Log lines only, through one filter for the whole registry, so that filtered events are not even
/// made.
fn log(role: &str, format: Format) -> Result<bool, FilterError> {
    let registry = tracing_subscriber::registry().with(filter::by_environment("")?);
    Ok(match format {
        Format::Pretty => set(registry.with(format::pretty(role, io::stderr))),
        Format::Json => set(registry.with(format::json(role, io::stderr))),
    })
}

/// Log lines and what is sent, each through a filter of its own.
fn log_and_send(role: &str, format: Format, senders: &Senders) -> Result<bool, FilterError> {
    let filter = filter::by_environment("")?;
    let lines = match format {
        Format::Pretty => format::pretty(role, io::stderr).with_filter(filter).boxed(),
        Format::Json => format::json(role, io::stderr).with_filter(filter).boxed(),
    };
    let traces = senders.traces.as_ref().map(|provider| {
        trace::switch_on();
        tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("till"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_level(false)
            .with_target(false)
            .with_filter(Targets::new().with_target(trace::TARGET, tracing::Level::DEBUG))
    });
    let filter = filter::by_environment(OF_SENDING)?;
    let logs = senders
        .logs
        .as_ref()
        .map(|provider| OpenTelemetryTracingBridge::new(provider).with_filter(filter));
    Ok(set(tracing_subscriber::registry().with(lines).with(traces).with(logs)))
}

/// Makes `subscriber` the global one; false if there is one already.
fn set(subscriber: impl Into<Dispatch>) -> bool {
    dispatcher::set_global_default(subscriber.into()).is_ok()
}

/// A panic is a bug: it becomes one ERROR line with its place, in the usual format.
fn hook_panics() {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(|place| {
            format!("{}:{}:{}", records::place(place.file()), place.line(), place.column())
        });
        let text = info.payload_as_str().unwrap_or("no text");
        let thread = std::thread::current();
        tracing::error!(place, thread = thread.name().unwrap_or("unnamed"), text, "panic");
    }));
}
