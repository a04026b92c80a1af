//! What is sent to a collector, by OTLP: only when OpenTelemetry's own variables name one.
//!
//! `variables` says what is wanted (`pairs` reads some of them), `transport` how it gets there, `watched` notes
//! whether it does.

use std::{sync::mpsc, thread, time::Duration};

use opentelemetry_otlp::ExporterBuildError;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkError,
    logs::SdkLoggerProvider,
    metrics::{MeterProviderBuilder, PeriodicReader, SdkMeterProvider},
    trace::SdkTracerProvider,
};
use tokio::runtime::Handle;

mod pairs;
mod transport;
mod variables;
mod watched;

pub(crate) use variables::Wanted;
use watched::Health;

/// Longest that the end of a process waits until the last telemetry has been taken.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// What OpenTelemetry's variables ask for cannot be had. A retry does not help.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A variable that says what is not offered.
    #[error("{variable} is {value:?}, and must be {must}")]
    Value {
        /// The variable.
        variable: String,
        /// What it says.
        value: String,
        /// What it may say.
        must: &'static str,
    },
    /// A variable whose list of pairs has a member that is none. What it says is not told: it may be a secret.
    #[error(
        "{variable}: member {member} {problem}; write key=value,key=value with each value percent-encoded, \
         as in a=b%20c"
    )]
    Pair {
        /// The variable.
        variable: String,
        /// Which, from 1.
        member: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A file that a variable names cannot be used.
    #[error("{variable} names {path}, which cannot be used: {problem}")]
    File {
        /// The variable.
        variable: String,
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The endpoint, or something else of it, cannot be used.
    #[error("telemetry cannot be exported as OTEL_EXPORTER_OTLP_* say")]
    Unusable(#[from] ExporterBuildError),
    /// The metrics cannot be set up.
    #[error("metrics cannot be set up")]
    Metrics(#[from] OTelSdkError),
}

/// Whoever sends traces and logs, and what is noted of all that is sent.
#[derive(Debug, Default)]
pub(crate) struct Senders {
    pub(crate) traces: Option<SdkTracerProvider>,
    pub(crate) logs: Option<SdkLoggerProvider>,
    health: Health,
}

impl Senders {
    /// Sets up traces and logs where they are wanted. Must be called within a tokio runtime then, whose tasks
    /// do the sending, and once the global meter is there: their queues count by it what they drop.
    pub(crate) fn start(
        &mut self,
        wanted: &Wanted,
        resource: &Resource,
    ) -> Result<(), ExportError> {
        if let Some(link) = &wanted.traces {
            let exporter = self.health.watch(transport::spans(link)?, link);
            let provider = SdkTracerProvider::builder().with_resource(resource.clone());
            self.traces = Some(provider.with_batch_exporter(exporter).build());
        }
        if let Some(link) = &wanted.logs {
            let exporter = self.health.watch(transport::logs(link)?, link);
            let provider = SdkLoggerProvider::builder().with_resource(resource.clone());
            self.logs = Some(provider.with_batch_exporter(exporter).build());
        }
        Ok(())
    }

    /// Has metrics sent, too, where that is wanted. Must be called within a tokio runtime then.
    pub(crate) fn metrics(
        &self,
        wanted: &Wanted,
        builder: MeterProviderBuilder,
    ) -> Result<MeterProviderBuilder, ExportError> {
        let Some(link) = &wanted.metrics else { return Ok(builder) };
        let exporter = self.health.watch(transport::metrics(link)?, link);
        Ok(builder.with_reader(PeriodicReader::builder(exporter).build()))
    }

    /// Sends what is left, all signals at once, for some seconds at most whatever the collector does.
    pub(crate) fn flush(&mut self, meters: Option<SdkMeterProvider>) {
        let (done, ended) = mpsc::channel();
        let mut left = 0;
        // Threads that are not waited for: not everything in there keeps to its time.
        let mut end = |shutdown: Box<dyn FnOnce() -> bool + Send>| {
            let done = done.clone();
            let spawned =
                thread::Builder::new().name("telemetry-end".to_owned()).spawn(move || {
                    // Nobody listens any more when it was too late.
                    let _late = done.send(shutdown());
                });
            left += usize::from(spawned.is_ok());
        };
        if let Some(traces) = self.traces.take() {
            end(Box::new(move || traces.shutdown_with_timeout(FLUSH_TIMEOUT).is_ok()));
        }
        if let Some(meters) = meters {
            end(Box::new(move || meters.shutdown_with_timeout(FLUSH_TIMEOUT).is_ok()));
        }
        if let Some(logs) = self.logs.take() {
            end(Box::new(move || logs.shutdown_with_timeout(FLUSH_TIMEOUT).is_ok()));
        }
        let until = std::time::Instant::now() + FLUSH_TIMEOUT;
        for _ in 0..left {
            let remaining = until.saturating_duration_since(std::time::Instant::now());
            if ended.recv_timeout(remaining).is_err() {
                tracing::warn!("the last telemetry was not taken in time");
                return;
            }
        }
    }
}
