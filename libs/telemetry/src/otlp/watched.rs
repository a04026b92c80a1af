//! Exporters with a timeout that log one failure per outage.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    logs::{LogBatch, LogExporter},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{SpanData, SpanExporter},
};

use super::{
    Handle,
    variables::{Link, Signal},
};

/// Which signals cannot be sent right now, one bit each.
#[derive(Debug, Clone, Default)]
pub(super) struct Health(Arc<AtomicU8>);

impl Health {
    /// Wraps an exporter. Must be called within a tokio runtime, whose timers bound each export.
    pub(super) fn watch<E>(&self, exporter: E, link: &Link) -> Watched<E> {
        Watched {
            exporter,
            health: self.clone(),
            signal: link.signal,
            timeout: link.timeout,
            runtime: Handle::current(),
        }
    }

    /// Notes how an export ended. It logs only the first failure of an outage, and the end of the
    /// outage, when no signal fails any more.
    fn note(&self, signal: Signal, ended: &OTelSdkResult) {
        let bit = signal.bit();
        match ended {
            Ok(()) => {
                if self.0.load(Ordering::Relaxed) == 0 {
                    return;
                }
                let before = self.0.fetch_and(!bit, Ordering::Relaxed);
                if before == bit {
                    tracing::info!("telemetry is sent again");
                }
            }
            Err(error) => {
                if self.0.fetch_or(bit, Ordering::Relaxed) == 0 {
                    let signal = signal.name();
                    tracing::warn!(signal, %error, "telemetry cannot be sent");
                }
            }
        }
    }
}

/// An exporter whose results are noted.
#[derive(Debug)]
pub(super) struct Watched<E> {
    exporter: E,
    health: Health,
    signal: Signal,
    timeout: Option<Duration>,
    runtime: Handle,
}

impl<E> Watched<E> {
    /// Runs an export within its time-out. The exporting threads belong to no runtime, so the timer
    /// borrows one.
    async fn bounded(&self, export: impl Future<Output = OTelSdkResult> + Send) -> OTelSdkResult {
        let ended = match self.timeout {
            None => export.await,
            Some(most) => {
                let within = {
                    let _within = self.runtime.enter();
                    tokio::time::timeout(most, export)
                };
                within.await.unwrap_or(Err(OTelSdkError::Timeout(most)))
            }
        };
        self.health.note(self.signal, &ended);
        ended
    }
}

impl<E: SpanExporter> SpanExporter for Watched<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.bounded(self.exporter.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Watched<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        self.bounded(self.exporter.export(batch)).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Watched<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        self.bounded(self.exporter.export(metrics)).await
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        sync::{Mutex, PoisonError},
    };

    use super::*;

    /// A writer that keeps what is logged.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_outage_is_told_once_whatever_fails_and_so_is_its_end() {
        let lines = Lines::default();
        let writer = lines.clone();
        let logger = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
        let down = || Err(OTelSdkError::InternalFailure("refused".to_owned()));
        tracing::subscriber::with_default(logger, || {
            let health = Health::default();
            health.note(Signal::Traces, &Ok(()));
            for _ in 0..3 {
                health.note(Signal::Traces, &down());
                health.note(Signal::Logs, &down());
            }
            // Traces are still down.
            health.note(Signal::Logs, &Ok(()));
            health.note(Signal::Metrics, &Ok(()));
            health.note(Signal::Logs, &down());
            health.note(Signal::Logs, &Ok(()));
            for _ in 0..3 {
                health.note(Signal::Traces, &Ok(()));
            }
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        let told: Vec<&str> =
            text.lines().map(|line| if line.contains("WARN") { "down" } else { "up" }).collect();
        assert_eq!(told, ["down", "up"], "{text}");
    }
}
