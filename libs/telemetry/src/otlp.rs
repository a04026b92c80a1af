//! Sends telemetry to a collector by OTLP, if OpenTelemetry's own variables name one.
//!
//! `variables` reads the settings (`pairs` parses some of them), `transport` makes the exporters,
//! `watched` notes whether they succeed.

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

/// Longest time that the end of a process waits for the last telemetry to be sent.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// OpenTelemetry's variables have an invalid setting. A retry does not help.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A variable has a value that is not supported.
    #[error("{variable} is {value:?}, and must be {must}")]
    Value {
        /// The variable's name.
        variable: String,
        /// Its value.
        value: String,
        /// What it may be.
        must: &'static str,
    },
    /// A variable's list of pairs has a member that is not a pair. Its text is left out: it may be
    /// a secret.
    #[error(
        "{variable}: member {member} {problem}; write key=value,key=value with each value percent-encoded, \
         as in a=b%20c"
    )]
    Pair {
        /// The variable's name.
        variable: String,
        /// The member's position, from 1.
        member: usize,
        /// What is wrong with the member.
        problem: &'static str,
    },
    /// A file that a variable names cannot be used.
    #[error("{variable} names {path}, which cannot be used: {problem}")]
    File {
        /// The variable's name.
        variable: String,
        /// The file's path.
        path: String,
        /// What is wrong with the file.
        problem: String,
    },
    /// The exporter refuses the endpoint or another of its settings.
    #[error("telemetry cannot be exported as OTEL_EXPORTER_OTLP_* say")]
    Unusable(#[from] ExporterBuildError),
    /// The metrics reader cannot be set up.
    #[error("metrics cannot be set up")]
    Metrics(#[from] OTelSdkError),
}

/// The senders of traces and logs, and the health of everything that is sent.
#[derive(Debug, Default)]
pub(crate) struct Senders {
    pub(crate) traces: Option<SdkTracerProvider>,
    pub(crate) logs: Option<SdkLoggerProvider>,
    health: Health,
}

impl Senders {
    /// Sets up traces and logs if they are wanted. Must then be called within a tokio runtime,
    /// whose tasks do the sending, and after the global meter is set, because their queues count
    /// what they drop with it.
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

    /// Adds a reader that sends metrics if that is wanted. Must then be called within a tokio
    /// runtime.
    pub(crate) fn metrics(
        &self,
        wanted: &Wanted,
        builder: MeterProviderBuilder,
    ) -> Result<MeterProviderBuilder, ExportError> {
        let Some(link) = &wanted.metrics else { return Ok(builder) };
        let exporter = self.health.watch(transport::metrics(link)?, link);
        Ok(builder.with_reader(PeriodicReader::builder(exporter).build()))
    }

    /// Sends the rest, all signals at once, and returns within [`FLUSH_TIMEOUT`] whatever the
    /// collector does.
    pub(crate) fn flush(&mut self, meters: Option<SdkMeterProvider>) {
        let (done, ended) = mpsc::channel();
        let mut left = 0;
        // These threads are never joined, as not every shutdown keeps to its time-out.
        let mut end = |shutdown: Box<dyn FnOnce() -> bool + Send>| {
            let done = done.clone();
            let spawned =
                thread::Builder::new().name("telemetry-end".to_owned()).spawn(move || {
                    // The receiver is gone once the time-out has passed.
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
