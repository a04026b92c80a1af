//! The command line, and the loads it asks for.

use std::{path::PathBuf, time::Duration};

use clap::value_parser;
use rpc::net::Endpoint;

use crate::{overload, pace::Pace, prepare::Sizes, workload::Workload};

/// Measure a shop: prepares data, drives a load, checks what was sold, and only then prints
/// figures. Overwrites the shop's items, users and orders.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Start a shop for this run, from this executable and in a new directory.
    #[arg(long, conflicts_with_all = ["target", "pid"])]
    pub(crate) up: bool,
    /// Address of the REST face to measure, http://host:port; may be repeated for replicas.
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8000"
    )]
    pub(crate) target: Vec<Endpoint>,
    /// Process id of the `till up` whose shop is measured, to report what each role costs.
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// With --up: replicas of every role.
    #[arg(long, default_value_t = 1, value_name = "COUNT", requires = "up",
          value_parser = value_parser!(u16).range(1..=50))]
    pub(crate) replicas: u16,
    /// With --up: directory for the shop's data. By default one in the system's temporary
    /// directory.
    #[arg(long, value_name = "DIR", requires = "up")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Directory of certificates, laid out as for `till up --tls-dir`. A shop started by --up uses
    /// them; --grpc calls with the client's certificate, and the store is read with the operator's.
    #[arg(long, env = "TILL_TLS_DIR", value_name = "DIR")]
    pub(crate) tls_dir: Option<PathBuf>,
    /// What the callers do.
    #[arg(long, value_enum, default_value_t = Workload::Fresh)]
    pub(crate) workload: Workload,
    /// Call the services by gRPC instead of the REST face. Needs --up or --pid.
    #[arg(long)]
    pub(crate) grpc: bool,

    /// Closed loop: number of callers, each of which calls again as soon as it is answered. Several
    /// numbers make a series. With --rate: limit on open calls.
    #[arg(long, value_name = "COUNT", value_delimiter = ',', default_value = "64",
          value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) concurrency: Vec<u32>,
    /// Open loop: calls per second, however many earlier ones are still open. Several numbers make
    /// a series.
    #[arg(long, value_name = "PER_SECOND", value_delimiter = ',', conflicts_with = "users",
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: Vec<u32>,
    /// Number of users, each of whom waits --think-ms between two calls. Several numbers make a
    /// series.
    #[arg(long, value_name = "COUNT", value_delimiter = ',',
          value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) users: Vec<u32>,
    /// Find the peak with --concurrency callers, offer this multiple of it in an open loop, then
    /// measure how soon the peak returns. 429 does not count as an error. Without a number, 5.
    #[arg(long, value_name = "FACTOR", num_args = 0..=1, require_equals = true,
          default_missing_value = "5", conflicts_with_all = ["rate", "users", "compare", "baseline"],
          value_parser = value_parser!(u32).range(2..=100))]
    pub(crate) overload: Option<u32>,
    /// With --overload: limit on open calls, each of which has its own connection.
    #[arg(long, default_value_t = 12_000, value_name = "COUNT",
          value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) overload_callers: u32,
    /// Milliseconds that each of the --users waits between two calls.
    #[arg(long, default_value_t = 1_000, value_name = "MILLISECONDS",
          value_parser = value_parser!(u64).range(..=3_600_000))]
    pub(crate) think_ms: u64,
    /// Length of the measured window in milliseconds. It ends early when all orders are bought.
    #[arg(long, default_value_t = 10_000, value_name = "MILLISECONDS",
          value_parser = value_parser!(u64).range(1..=86_400_000))]
    pub(crate) duration_ms: u64,
    /// Milliseconds of load before the window, which are not counted.
    #[arg(long, default_value_t = 2_000, value_name = "MILLISECONDS",
          value_parser = value_parser!(u64).range(..=3_600_000))]
    pub(crate) warm_up_ms: u64,

    /// Orders made before the clock starts.
    #[arg(long, default_value_t = 100_000, value_name = "COUNT",
          value_parser = value_parser!(u64).range(1..=10_000_000))]
    pub(crate) orders: u64,
    /// Items made before the clock starts.
    #[arg(long, default_value_t = 100_000, value_name = "COUNT",
          value_parser = value_parser!(u64).range(2..=10_000_000))]
    pub(crate) items: u64,
    /// Users with credit made before the clock starts.
    #[arg(long, default_value_t = 100_000, value_name = "COUNT",
          value_parser = value_parser!(u64).range(1..=10_000_000))]
    pub(crate) accounts: u64,
    /// With --workload scenarios: weights of checkouts that succeed, lack stock and lack credit.
    #[arg(long, default_value = "80,10,10", value_name = "A,B,C", value_parser = weights)]
    pub(crate) mix: Mix,
    /// Limit on the items and users that the check at the end reads. It reads every order that was
    /// touched.
    #[arg(long, default_value_t = 500_000, value_name = "COUNT")]
    pub(crate) check_max: usize,
    /// Skip the check at the end. The report says so.
    #[arg(long)]
    pub(crate) no_check: bool,
    /// Seed of all random choices. The same seed makes the same calls.
    #[arg(long, default_value_t = 1, value_name = "NUMBER")]
    pub(crate) seed: u64,

    /// Measure a second time with this change: batch=1 limits every batch in the shop to one call.
    /// Needs --up.
    #[arg(long, value_enum, value_name = "CHANGE", requires = "up")]
    pub(crate) compare: Option<Compare>,
    /// Also measure bare KV transactions that are shaped like a checkout, on the same store.
    #[arg(long, value_enum, value_name = "WHAT")]
    pub(crate) baseline: Option<Baseline>,
    /// Placement drivers of a TiKV cluster, for the shop of --up and for the baseline. Not needed
    /// for a shop's own dev-kv.
    #[arg(long, env = "PD_ENDPOINTS", value_name = "ENDPOINTS", value_delimiter = ',')]
    pub(crate) pd_endpoints: Vec<String>,
    /// File for the report as JSON. With - it goes to standard output, instead of the table.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// File for an SVG plot of throughput against latency.
    #[arg(long, value_name = "FILE")]
    pub(crate) plot: Option<PathBuf>,
}

/// What `--compare` changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Compare {
    /// No batch is larger than one call; pipelines and callers stay as they are.
    #[value(name = "batch=1")]
    NoBatches,
}

/// What `--baseline` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Baseline {
    /// Transactions of the store's own client, each of a checkout's shape.
    Tikv,
}

/// Weights of the three scenarios; at least one is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mix(pub(crate) [u32; 3]);

fn weights(text: &str) -> Result<Mix, String> {
    let parts: Result<Vec<u32>, _> =
        text.split(',').map(|part| part.trim().parse::<u16>().map(u32::from)).collect();
    match parts.ok().and_then(|parts| <[u32; 3]>::try_from(parts).ok()) {
        Some(weights) if weights.iter().any(|weight| *weight > 0) => Ok(Mix(weights)),
        Some(_) | None => Err("three numbers up to 65535 are needed, not all of them 0".to_owned()),
    }
}

/// The least number of callers in an open loop. With fewer, calls would wait for a free caller
/// rather than for the shop. That wait is counted all the same.
const OPEN_CALLERS_MIN: u32 = 1_024;

impl Args {
    /// The loads to drive, in order.
    pub(crate) fn paces(&self) -> Vec<Pace> {
        let count = |callers: u32| usize::try_from(callers).unwrap_or(usize::MAX);
        if !self.rate.is_empty() {
            let most = self.concurrency.iter().copied().max().unwrap_or_default();
            let callers = count(most.max(OPEN_CALLERS_MIN));
            let open = |rate: &u32| Pace::Open { rate: f64::from(*rate), callers };
            return self.rate.iter().map(open).collect();
        }
        if !self.users.is_empty() {
            let think = Duration::from_millis(self.think_ms);
            let thinking = |users: &u32| Pace::Thinking { callers: count(*users), think };
            return self.users.iter().map(thinking).collect();
        }
        self.concurrency.iter().map(|callers| Pace::Closed { callers: count(*callers) }).collect()
    }

    /// The overload to measure, if one is asked for.
    pub(crate) fn overload(&self) -> Option<overload::OverloadPlan> {
        let callers = usize::try_from(self.overload_callers).unwrap_or(usize::MAX);
        self.overload.map(|factor| overload::OverloadPlan { factor, callers })
    }

    pub(crate) const fn sizes(&self) -> Sizes {
        Sizes { orders: self.orders, items: self.items, users: self.accounts }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        let words = std::iter::once("bench").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn the_command_line_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn a_series_is_a_list() {
        let closed = parse("--concurrency 1,8").unwrap().paces();
        assert_eq!(closed, [Pace::Closed { callers: 1 }, Pace::Closed { callers: 8 }]);
        let open = parse("--rate 100,200").unwrap().paces();
        assert_eq!(open.len(), 2);
        assert_eq!(open[0], Pace::Open { rate: 100.0, callers: 1_024 });
        let think = Duration::from_secs(1);
        assert_eq!(parse("--users 5").unwrap().paces(), [Pace::Thinking { callers: 5, think }]);
        assert!(parse("--rate 100 --users 5").is_err());
    }

    #[test]
    fn an_overload_is_five_times_the_peak_unless_told_otherwise() {
        let factor = |line: &str| parse(line).unwrap().overload().map(|plan| plan.factor);
        assert_eq!(factor("--overload"), Some(5));
        assert_eq!(factor("--overload=3 --concurrency 256"), Some(3));
        assert_eq!(factor(""), None);
        assert!(parse("--overload --rate 100").is_err() && parse("--overload=1").is_err());
    }

    #[test]
    fn weights_are_three_and_not_nothing() {
        assert_eq!(weights("1, 0,2"), Ok(Mix([1, 0, 2])));
        for text in ["", "1,2", "1,2,3,4", "0,0,0", "-1,1,1", "99999999999,1,1"] {
            assert!(weights(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_changed_shop_must_be_ours() {
        assert!(parse("--compare batch=1").is_err());
        assert!(parse("--up --compare batch=1").is_ok());
        assert!(parse("--up --pid 4").is_err());
    }
}
