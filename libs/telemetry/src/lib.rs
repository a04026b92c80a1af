//! What a role tells: logs, metrics, traces, the panic hook, and the one registry of metric, span and field
//! names.
//!
//! Must not know: any role, the wire, the store.
//!
//! Modules: [`semconv`] names; [`metrics`](mod@metrics) what is counted; [`trace`] what ties spans together;
//! `otlp` what is sent to a collector; `service` who a process says that it is. [`init`] sets a process up,
//! once, and hands out a [`Guard`].
//!
//! Invariants: logs go to stderr, so that stdout stays a command's own; every line names its role; a panic
//! is an ERROR line, wherever it happens; nothing is sent, and no span made, unless a collector is named.

use std::{fmt, io, panic, str::FromStr};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

mod format;
pub mod metrics;
mod otlp;
pub mod semconv;
mod service;
pub mod trace;

pub use metrics::metrics;
pub use otlp::ExportError;
use otlp::{Senders, Wanted};

/// Names the variable that filters logs, as in `TILL_LOG=info,rpc=debug`.
pub const FILTER_VARIABLE: &str = "TILL_LOG";

/// The filter where nobody says otherwise: libraries speak up only when something is wrong, and the store's
/// client not even then: it says ERROR of every lost connection, which `storage` retries and tells once.
pub const FILTER_DEFAULT: &str = "info,tikv_client=off,fjall=warn,lsm_tree=warn";

/// What sending says of itself is not sent: it would never end.
const OF_SENDING: &str = ",opentelemetry=off,opentelemetry_sdk=off,opentelemetry_otlp=off,tonic=off,h2=off,hyper=off,tower=off";

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

/// Keeps telemetry going; drop it last. The end may take some seconds, as what is left is sent.
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

/// Sets up logs and the panic hook of this process, and for a service its metrics, and what is sent to a
/// collector where `OTEL_EXPORTER_OTLP_ENDPOINT` names one. `role` stands in every line. The filter comes
/// from `TILL_LOG`, by default [`FILTER_DEFAULT`]; what does not parse in it is told and left out.
///
/// Called again in the same process, it changes nothing. Call it before anything is counted, and within a
/// tokio runtime, whose tasks do the sending.
///
/// # Errors
/// [`ExportError`] when what the variables ask for is not offered; a retry does not help.
pub fn init(role: &str, format: Format, scope: Scope) -> Result<Guard, ExportError> {
    let wanted = match scope {
        Scope::Command => Wanted::default(),
        Scope::Service => Wanted::by_environment()?,
    };
    let resource = service::resource(role);
    let senders = Senders::new(&wanted, &resource)?;
    let set = if senders.traces.is_none() && senders.logs.is_none() {
        log(role, format)
    } else {
        log_and_send(role, format, &senders)
    };
    if set {
        hook_panics();
    }
    let meters = match scope {
        Scope::Command => None,
        Scope::Service => {
            Some(metrics::install(resource, |builder| senders.metrics(&wanted, builder))?)
        }
    };
    Ok(Guard { senders, meters })
}

/// Lines alone, through one filter: what nobody wants to read is not even made.
fn log(role: &str, format: Format) -> bool {
    let registry = tracing_subscriber::registry().with(filter(""));
    match format {
        Format::Pretty => registry.with(format::pretty(role, io::stderr)).try_init(),
        Format::Json => registry.with(format::json(role, io::stderr)).try_init(),
    }
    .is_ok()
}

/// Lines, and what is sent: each through its own filter.
fn log_and_send(role: &str, format: Format, senders: &Senders) -> bool {
    let lines = match format {
        Format::Pretty => format::pretty(role, io::stderr).with_filter(filter("")).boxed(),
        Format::Json => format::json(role, io::stderr).with_filter(filter("")).boxed(),
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
    let logs = senders
        .logs
        .as_ref()
        .map(|provider| OpenTelemetryTracingBridge::new(provider).with_filter(filter(OF_SENDING)));
    tracing_subscriber::registry().with(lines).with(traces).with(logs).try_init().is_ok()
}

/// What `TILL_LOG` says, with more behind it.
fn filter(more: &str) -> EnvFilter {
    let told = std::env::var_os(FILTER_VARIABLE).map(|told| told.to_string_lossy().into_owned());
    let told = told.unwrap_or_else(|| FILTER_DEFAULT.to_owned());
    EnvFilter::builder()
        .with_default_directive(tracing::Level::INFO.into())
        .parse_lossy(format!("{told}{more}"))
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
