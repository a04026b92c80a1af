//! The bridge's command line, and the settings that come from it.

use std::{path::PathBuf, time::Duration};

use clap::{Args as ClapArgs, value_parser};
use rpc::{
    endpoints::{CoordinatorEndpoints, ServiceEndpoints},
    server::StopArgs,
    tls::TlsArgs,
};
use types::CALL_LIFE_MAX_MS;

use crate::origin::{Host, Origin};

/// Settings of the bridge.
#[derive(ClapArgs, Clone, Debug)]
pub struct Args {
    /// Certificates.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// The participants of a checkout.
    #[command(flatten)]
    pub services: ServiceEndpoints,

    /// The coordinator.
    #[command(flatten)]
    pub coordinator: CoordinatorEndpoints,

    /// Milliseconds after which a request other than batch_init is answered with 503. At most a
    /// minute, because a call's result is not sure to be remembered for longer.
    #[arg(long, env = "TILL_REQUEST_TIMEOUT_MS", default_value_t = 30_000,
          value_parser = value_parser!(u64).range(1..=CALL_LIFE_MAX_MS))]
    pub request_timeout_ms: u64,

    /// Milliseconds after which a batch_init is answered with 503. It is done in parts of at most a
    /// minute each; no further part begins once its client has left.
    #[arg(long, env = "TILL_BATCH_INIT_TIMEOUT_MS", default_value_t = 3_600_000,
          value_parser = value_parser!(u64).range(1..=3_600_000))]
    pub batch_init_timeout_ms: u64,

    /// Milliseconds to wait for a replica before another one is asked. Does not apply to
    /// batch_init.
    #[arg(long, env = "TILL_ATTEMPT_TIMEOUT_MS", default_value_t = 8_000,
          value_parser = value_parser!(u64).range(1..=CALL_LIFE_MAX_MS))]
    pub attempt_timeout_ms: u64,

    /// Limit on requests in flight. Further ones are answered with 429 before they start.
    #[arg(long, env = "TILL_IN_FLIGHT_MAX", default_value_t = 20_000,
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub in_flight_max: u32,

    /// Use X-Request-Id as the request id if there is no Idempotency-Key. Safe only behind your own
    /// ingress, if it sets a new one on each request: clients reuse theirs to correlate requests,
    /// and a repeated id counts as a retry.
    #[arg(long, env = "TILL_TRUST_REQUEST_ID")]
    pub trust_request_id: bool,

    /// File of API keys, one per line. Calls that may change something, including batch_init, and
    /// the console's operator part need one of them as "Authorization: Bearer KEY". The file is
    /// read again when it changes. Without it everybody may call, and the operator part is served
    /// on the admin listener only.
    #[arg(long, env = "TILL_API_KEY_FILE", value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,

    /// An origin, such as https://shop.example, whose pages may call from a browser; may be
    /// repeated. Pages of other origins may not make calls that change something. The variable
    /// separates several by commas.
    #[arg(
        long = "cors-origin",
        env = "TILL_CORS_ORIGINS",
        value_delimiter = ',',
        value_name = "ORIGIN"
    )]
    pub cors_origins: Vec<Origin>,

    /// A host that requests on a loopback listener may name, in addition to localhost, loopback
    /// addresses and host.docker.internal; may be repeated. Other listeners accept every host. The
    /// variable separates several by commas.
    #[arg(
        long = "allowed-host",
        env = "TILL_ALLOWED_HOSTS",
        value_delimiter = ',',
        value_name = "HOST"
    )]
    pub allowed_hosts: Vec<Host>,

    /// Milliseconds that a client has to send the head of a request, from its first byte. Also the
    /// longest time for which a client may read nothing of an answer.
    #[arg(long, env = "TILL_HEADER_READ_TIMEOUT_MS", default_value_t = 30_000,
          value_parser = value_parser!(u64).range(1..=600_000))]
    pub header_read_timeout_ms: u64,

    /// Milliseconds after which an idle connection is closed.
    #[arg(long, env = "TILL_KEEP_ALIVE_IDLE_MS", default_value_t = 600_000,
          value_parser = value_parser!(u64).range(75_000..=86_400_000))]
    pub keep_alive_idle_ms: u64,

    /// Seconds after which a connection is closed gracefully: after the next answer over HTTP/1.1,
    /// by GOAWAY over HTTP/2. Each lives up to a tenth less, so that they do not all close at the
    /// same time. 0 for never.
    #[arg(long, env = "TILL_MAX_CONNECTION_AGE_S", default_value_t = 1_800,
          value_parser = value_parser!(u64).range(..=86_400))]
    pub max_connection_age_s: u64,

    /// Limit on open connections. Further ones wait to be accepted.
    #[arg(long, env = "TILL_CONNECTIONS_MAX", default_value_t = 50_000,
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub connections_max: u32,

    /// How to stop.
    #[command(flatten)]
    pub stop: StopArgs,
}

/// Settings for answering calls: the part of [`Args`] that a simulation needs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time after which a request is answered with 503, except a batch_init.
    pub request_timeout: Duration,
    /// Time after which a batch_init is answered with 503.
    pub batch_init_timeout: Duration,
    /// How long to wait for a replica before another one is asked.
    pub attempt_timeout: Duration,
    /// Maximum number of requests in flight.
    pub in_flight_max: u32,
    /// Whether X-Request-Id serves as the request id if there is no Idempotency-Key.
    pub trust_request_id: bool,
    /// Origins whose pages may call in browsers.
    pub cors_origins: Vec<Origin>,
    /// Hosts that a loopback listener answers to, in addition to the built-in ones.
    pub allowed_hosts: Vec<Host>,
}

/// Timeouts and limits of connections.
#[derive(Clone, Debug)]
pub struct ConnectionTimeouts {
    /// Time limit for the head of a request, from its first byte. Also how long a client may read
    /// nothing of an answer.
    pub header_read: Duration,
    /// Time after which an idle connection is closed.
    pub keep_alive_idle: Duration,
    /// Approximate maximum age of a connection; zero for none.
    pub max_age: Duration,
    /// How long an old connection may take to end before it is cut. No answer on it takes longer.
    pub grace: Duration,
    /// Maximum number of open connections.
    pub connections_max: u32,
    /// Pause between reporting "not ready" and closing the listeners.
    pub lame_duck: Duration,
    /// How long to wait for the work in flight after that.
    pub drain: Duration,
}

impl Args {
    /// The settings for answering calls.
    pub fn settings(&self) -> Settings {
        Settings {
            request_timeout: Duration::from_millis(self.request_timeout_ms),
            batch_init_timeout: Duration::from_millis(self.batch_init_timeout_ms),
            attempt_timeout: Duration::from_millis(self.attempt_timeout_ms),
            in_flight_max: self.in_flight_max,
            trust_request_id: self.trust_request_id,
            cors_origins: self.cors_origins.clone(),
            allowed_hosts: self.allowed_hosts.clone(),
        }
    }

    /// The timeouts and limits of connections.
    pub fn connection_timeouts(&self) -> ConnectionTimeouts {
        ConnectionTimeouts {
            header_read: Duration::from_millis(self.header_read_timeout_ms),
            keep_alive_idle: Duration::from_millis(self.keep_alive_idle_ms),
            max_age: Duration::from_secs(self.max_connection_age_s),
            grace: Duration::from_millis(
                self.request_timeout_ms.max(self.batch_init_timeout_ms)
                    + self.header_read_timeout_ms,
            ),
            connections_max: self.connections_max,
            lame_duck: self.stop.lame_duck(),
            drain: self.stop.drain_timeout(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn the_defaults_are_what_clients_were_promised() {
        let args = Cli::try_parse_from(["till"]).unwrap().args;
        assert_eq!(args.settings().request_timeout, Duration::from_secs(30));
        assert_eq!(args.settings().batch_init_timeout, Duration::from_hours(1));
        assert_eq!(args.settings().in_flight_max, 20_000);
        assert!(!args.settings().trust_request_id);
        assert!(args.connection_timeouts().keep_alive_idle >= Duration::from_secs(75));
    }

    #[test]
    fn origins_and_hosts_get_from_the_command_line_to_the_bridge() {
        let flags = [
            "till",
            "--cors-origin=https://a.example,https://b.example",
            "--cors-origin=https://c.example",
            "--allowed-host=till,shop.example",
            "--allowed-host=other.example",
        ];
        let settings = Cli::try_parse_from(flags).unwrap().args.settings();
        let origins = ["https://a.example", "https://b.example", "https://c.example"];
        assert_eq!(settings.cors_origins, origins.map(|text| text.parse::<Origin>().unwrap()));
        let hosts = ["till", "shop.example", "other.example"];
        assert_eq!(settings.allowed_hosts, hosts.map(|text| text.parse::<Host>().unwrap()));
        let command = Cli::command();
        for (flag, variable) in
            [("cors-origin", "TILL_CORS_ORIGINS"), ("allowed-host", "TILL_ALLOWED_HOSTS")]
        {
            let known = command.get_arguments().find(|known| known.get_long() == Some(flag));
            assert_eq!(known.unwrap().get_env(), Some(std::ffi::OsStr::new(variable)), "--{flag}");
        }
    }

    #[test]
    fn an_old_connection_has_time_for_the_longest_answer_and_until_it_is_taken() {
        let grace = |request: &str, batch_init: &str| {
            let flags = [
                "till",
                "--request-timeout-ms",
                request,
                "--batch-init-timeout-ms",
                batch_init,
                "--header-read-timeout-ms",
                "3000",
            ];
            Cli::try_parse_from(flags).unwrap().args.connection_timeouts().grace
        };
        assert_eq!(grace("20000", "50000"), Duration::from_secs(53));
        assert_eq!(grace("20000", "10000"), Duration::from_secs(23));
    }

    #[test]
    fn idle_connections_cannot_be_cut_off_early() {
        assert!(Cli::try_parse_from(["till", "--keep-alive-idle-ms", "74999"]).is_err());
    }
}
