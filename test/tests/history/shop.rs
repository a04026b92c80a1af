//! A shop of real processes, as its clients see it.

use std::{
    fmt,
    path::PathBuf,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use rpc::net::{GrpcNet, Net};
use system_test::{
    history::{
        coverage::{self, Between, Counts, LoggedCall, Seen},
        people::{self, Habits},
    },
    process::{self, read_status, till},
};
use types::Timestamp;

use crate::trouble::Strike;

/// Shards of every service: few, so that calls meet.
const SHARDS: u16 = 2;
/// How long a bridge works on a request.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
/// Longest time that a shop takes to become quiet.
const PATIENCE: Duration = Duration::from_mins(1);

/// The processes, their endpoints, and how the clients behave.
pub(crate) struct Shop {
    processes: process::Shop,
    replicas: Vec<(String, Vec<String>)>,
    habits: Habits,
}

impl Shop {
    /// Starts a shop, and returns once every role is ready. With `logs_calls`, lanes log their calls.
    pub(crate) fn start(replicas: u64, habits: Habits, logs_calls: bool) -> Self {
        let (replicas, shards) = (replicas.to_string(), SHARDS.to_string());
        let timeout = REQUEST_TIMEOUT.as_millis().to_string();
        let scope =
            if logs_calls { format!("info,{}=trace", coverage::TARGET) } else { "info".to_owned() };
        let processes = process::Shop::launch(
            &["--replicas", &replicas, "--shards", &shards],
            &[
                ("TILL_REQUEST_TIMEOUT_MS", &timeout),
                ("TILL_LOG", &scope),
                ("TILL_LOG_FORMAT", "json"),
            ],
        );
        let status = read_status(&processes.status_file());
        let of_role = |role: &str| {
            let children = status["children"].as_array().unwrap().iter();
            let of_role = children.filter(|child| child["role"].as_str().unwrap().ends_with(role));
            let addresses = of_role.map(|child| child["address"].as_str().unwrap().to_owned());
            (role.to_owned(), addresses.collect())
        };
        let roles = ["bridge", "coordinator", "order", "stock", "payment"];
        Self { processes, replicas: roles.map(of_role).into(), habits }
    }

    /// The path of `up.json`.
    pub(crate) fn status_file(&self) -> PathBuf {
        self.processes.status_file()
    }

    /// Which calls met, and between which troubles, by the lanes' logs.
    pub(crate) fn met(&self, strikes: &[Strike]) -> Counts {
        let mut calls: Vec<LoggedCall> = ["order", "stock", "payment"]
            .iter()
            .flat_map(|role| self.processes.logs(role))
            .flat_map(|log| log.lines().filter_map(LoggedCall::of_line).collect::<Vec<_>>())
            .collect();
        calls.sort_by_key(|call| call.batch);
        let (mut seen, mut strikes) = (Seen::default(), strikes.iter().peekable());
        for call in calls {
            let now = Timestamp(call.batch).physical().0;
            while let Some(strike) = strikes.next_if(|strike| strike.at_ms <= now) {
                match strike.replica.split('-').next().unwrap() {
                    "dev" => {
                        for service in ["order", "stock", "payment"] {
                            seen.trouble(service, Between::Store);
                        }
                    }
                    service => seen.trouble(service, strike.what),
                }
            }
            seen.hear(call);
        }
        seen.counts
    }

    /// Whether the books agree, and the output of the audit.
    fn books(&self) -> (bool, String) {
        let audit = till(&["audit", "--quiet", "--pd-endpoints", &self.processes.store()]);
        (audit.status.success(), String::from_utf8_lossy(&audit.stdout).into_owned())
    }

    /// Waits until every vote has an outcome.
    pub(crate) fn quiet(&self) {
        let begun = Instant::now();
        loop {
            let (_, said) = self.books();
            if said.contains("(0 unresolved)") {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not get quiet:\n{said}");
            sleep(Duration::from_millis(100));
        }
    }

    /// The audit's output if the books do not agree.
    pub(crate) fn audit(&self) -> Vec<String> {
        let (agree, said) = self.books();
        if agree { Vec::new() } else { vec![said] }
    }
}

impl people::Shop for Shop {
    fn net(&self, _client: &str) -> Arc<dyn Net> {
        Arc::new(GrpcNet::default())
    }

    fn replicas(&self, role: &str) -> Vec<String> {
        self.replicas.iter().find(|(name, _)| name == role).unwrap().1.clone()
    }

    fn shards(&self) -> u16 {
        SHARDS
    }

    fn habits(&self) -> Habits {
        self.habits
    }

    fn may_come_late(&self, _key: &str) -> bool {
        false
    }

    fn note(&self, _client: &str, _what: fmt::Arguments<'_>) {}
}
