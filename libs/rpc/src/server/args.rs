//! The settings of every role that serves gRPC.

use std::time::Duration;

use clap::value_parser;

use super::Options;
use crate::tls::Tls;

/// Settings of a gRPC server.
#[derive(clap::Args, Clone, Debug)]
pub struct ServerArgs {
    /// Limit on requests in flight. Further ones are refused before they start.
    #[arg(long, env = "TILL_IN_FLIGHT_MAX", default_value_t = 20_000,
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub in_flight_max: u32,

    /// Seconds after which a connection is closed gracefully, so that callers connect anew and
    /// spread over the replicas. Each process takes up to a tenth less, so that they do not close
    /// connections at the same time. 0 for never.
    #[arg(long, env = "TILL_MAX_CONNECTION_AGE_S", default_value_t = 600,
          value_parser = value_parser!(u64).range(..=86_400))]
    pub max_connection_age_s: u64,

    /// How to stop.
    #[command(flatten)]
    pub stop: StopArgs,
}

impl ServerArgs {
    /// The options for these services, descriptors and certificates.
    pub fn options(
        &self,
        services: Vec<&'static str>,
        descriptors: &'static [u8],
        tls: Option<Tls>,
    ) -> Options {
        Options {
            in_flight_max: usize::try_from(self.in_flight_max).unwrap_or(usize::MAX),
            lame_duck: self.stop.lame_duck(),
            drain_timeout: self.stop.drain_timeout(),
            max_connection_age: Duration::from_secs(self.max_connection_age_s),
            tls,
            ..Options::new(services, descriptors)
        }
    }
}

/// How a gRPC or REST server stops.
#[derive(clap::Args, Clone, Debug)]
pub struct StopArgs {
    /// On shutdown: milliseconds between reporting "not ready" (NOT_SERVING) and closing the
    /// listeners, so that load balancers notice.
    #[arg(long, env = "TILL_LAME_DUCK_MS", default_value_t = 500,
          value_parser = value_parser!(u64).range(..=600_000))]
    pub lame_duck_ms: u64,

    /// On shutdown: milliseconds that requests and transactions in flight have to finish after the
    /// listeners are closed.
    #[arg(long, env = "TILL_DRAIN_TIMEOUT_MS", default_value_t = 20_000,
          value_parser = value_parser!(u64).range(..=3_600_000))]
    pub drain_timeout_ms: u64,
}

impl StopArgs {
    /// Time between reporting "not ready" and closing the listeners.
    pub const fn lame_duck(&self) -> Duration {
        Duration::from_millis(self.lame_duck_ms)
    }

    /// Upper limit on waiting for requests in flight.
    pub const fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}
