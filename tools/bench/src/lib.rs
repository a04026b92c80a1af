//! The load generator, `till bench`: measures throughput and latency of a shop, and what they cost.
//!
//! It does not know how the shop works, and makes calls as a client does. To measure the cost it
//! also reads `/proc`, the roles' metrics and the store's counters, where they exist.
//!
//! Modules: [`args`] the command line; [`shop`] starts a shop for the run; [`prepare`] fills the
//! shop before the clock starts; [`workload`] which call is next; [`pace`] when it is due;
//! [`drive`] runs the callers; [`client`], [`rest`], [`grpc`] and [`call`] make calls;
//! [`certificates`] for a shop with TLS; [`tally`] counts and latencies; [`roles`] CPU and memory;
//! [`store`] the store's counters; [`commits`] the roles' counters of KV transactions; [`baseline`]
//! bare transactions to compare with; [`check`] checks what was sold; [`books`] the audit;
//! [`overload`] behaviour under overload; [`report`] and [`plot`] the figures; [`progress`] the
//! progress of long work.
//!
//! Invariants: a latency is measured from when its call was due, not from when it was sent; fresh
//! and repeated checkouts are never one figure; a run with a finding, an error or an unexplained
//! refusal has no figures.

mod args;
mod baseline;
mod books;
mod call;
mod certificates;
mod check;
mod client;
mod commits;
mod drive;
mod grpc;
mod overload;
mod pace;
mod plot;
mod prepare;
mod progress;
mod report;
mod rest;
mod roles;
mod shop;
mod store;
mod tally;
mod workload;

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::Path,
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rpc::net::Endpoint;
use serde_json::{Value, json};
use types::Role;

pub use args::Args;
pub use workload::Workload;

use crate::{
    args::{Baseline, Compare},
    baseline::BareStore,
    certificates::Certificates,
    client::Endpoints,
    drive::Plan,
    grpc::Grpc,
    pace::Pace,
    plot::PlotPoint,
    report::Point,
    roles::{Process, Usage},
    shop::Shop,
    tally::Tally,
    workload::WorkloadState,
};

/// Why a run has no figures.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run could not be carried out. A retry may help.
    #[error("{0}")]
    Run(String),
    /// The run was carried out, but the shop misbehaved under this many loads. The report says how.
    #[error("no figures for {0} of the loads: the report says why")]
    NoFigures(usize),
    /// A file could not be written.
    #[error("cannot write {path}")]
    File {
        /// Path of the file.
        path: String,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Self::Run(text)
    }
}

/// The shop to measure.
struct Subject {
    endpoints: Endpoints,
    processes: Vec<Process>,
    /// Address of the store's counters, if it has any.
    store: Option<Endpoint>,
    pd_endpoints: Vec<String>,
    certificates: Option<Certificates>,
    shop: Option<Shop>,
}

/// Runs what the arguments ask for. `program` is the executable to start as a shop with `--up`.
/// Dropping the future ends everything it started.
///
/// # Errors
/// [`Error`]; with [`Error::NoFigures`] the report is written all the same.
pub async fn run(args: Args, program: &Path) -> Result<(), Error> {
    raise_file_limit();
    let quiet = args.json.as_deref() == Some(Path::new("-"));
    let say = |text: &str| if quiet { Ok(()) } else { print(text) };
    let mut points = Vec::new();
    let mut overloads = Vec::new();
    let mut machine = Value::Null;
    let variants: &[(&str, Option<u16>)] = match args.compare {
        None => &[("till", None)],
        Some(Compare::NoBatches) => &[("till", None), ("till batch=1", Some(1))],
    };
    for (place, (variant, batch_calls_max)) in variants.iter().enumerate() {
        let subject = open(&args, program, *batch_calls_max).await?;
        if place == 0 {
            machine = roles::machine(subject.shop.as_ref().map(Shop::directory));
        }
        for pace in args.paces() {
            let point = measure(&args, program, &subject, variant, pace).await?;
            say(&point.table())?;
            if let Some(overload_plan) = args.overload() {
                let (over, found) =
                    overloaded(&args, program, &subject, &point, overload_plan).await?;
                say(&over.table())?;
                if point.problems().is_empty() && over.problems().is_empty() {
                    say(&found.table())?;
                    overloads.push(found.json());
                }
                points.extend([point, over]);
            } else {
                points.push(point);
            }
        }
        let wanted = args.baseline.filter(|_| place + 1 == variants.len());
        if let Some(Baseline::Tikv) = wanted {
            for point in bare(&args, &subject).await? {
                say(&point.table())?;
                points.push(point);
            }
        }
        if let Some(shop) = subject.shop {
            shop.stop().await;
        }
    }
    say(&ratio_lines(&points))?;
    write_report(&args, &points, &overloads, &machine)?;
    let without = points.iter().filter(|point| !point.problems().is_empty()).count();
    if without > 0 { Err(Error::NoFigures(without)) } else { Ok(()) }
}

/// Finds the shop, or starts one with `--up`.
async fn open(
    args: &Args,
    program: &Path,
    batch_calls_max: Option<u16>,
) -> Result<Subject, String> {
    let shop = if args.up {
        let config = shop::ShopConfig {
            data_dir: args.data_dir.as_deref(),
            replicas: args.replicas,
            pd_endpoints: &args.pd_endpoints,
            tls_dir: args.tls_dir.as_deref(),
            batch_calls_max,
        };
        Some(Shop::start(program, config).await?)
    } else {
        None
    };
    let pid = shop.as_ref().and_then(Shop::pid).or(args.pid);
    let processes = pid.map(roles::children).unwrap_or_default();
    if pid.is_some() && processes.is_empty() && cfg!(target_os = "linux") {
        return Err("the process has no children: --pid wants that of a `till up`".to_owned());
    }
    let rest = match &shop {
        Some(shop) => shop.rest(),
        None => args.target.clone(),
    };
    let certificates = args.tls_dir.as_deref().map(Certificates::of);
    let grpc = if args.grpc {
        let replicas = roles::listening(&processes, Role::Coordinator.name()).len();
        let net = certificates.as_ref().map(Certificates::net).transpose()?.unwrap_or_default();
        let channels: Option<Vec<Grpc>> =
            (0..replicas).map(|number| Grpc::new(&net, &processes, number)).collect();
        channels
            .filter(|channels| !channels.is_empty())
            .ok_or("--grpc needs --up or --pid to find the roles")?
    } else {
        Vec::new()
    };
    let store = store::place(&processes);
    let pd_endpoints = match &store {
        Some(store) if args.pd_endpoints.is_empty() => vec![store.to_string()],
        Some(_) | None => args.pd_endpoints.clone(),
    };
    Ok(Subject {
        endpoints: Endpoints { rest, grpc },
        processes,
        store,
        pd_endpoints,
        certificates,
        shop,
    })
}

/// Shortest warm-up of an overload.
const OVERLOAD_WARM_UP: Duration = Duration::from_secs(6);

const fn plan(args: &Args, pace: Pace) -> Plan {
    Plan {
        pace,
        warm_up: Duration::from_millis(args.warm_up_ms),
        window: Duration::from_millis(args.duration_ms),
        seed: args.seed,
        may_shed: false,
    }
}

/// Prepares, drives and checks one load.
async fn measure(
    args: &Args,
    program: &Path,
    subject: &Subject,
    variant: &'static str,
    pace: Pace,
) -> Result<Point, String> {
    let room = prepare::prepare(&subject.endpoints, args.workload, args.sizes()).await?;
    let board = WorkloadState::new(args.workload, room, args.mix.0, args.seed);
    let take_reading = || take_reading(subject);
    let driven = drive::drive(&subject.endpoints, board, plan(args, pace), take_reading).await?;
    judged(args, program, subject, (variant, pace), driven).await
}

/// What is recorded when a window begins and when it ends.
struct Reading {
    roles: Usage,
    own: Usage,
    counters: Option<Value>,
    commits: BTreeMap<String, u64>,
}

async fn take_reading(subject: &Subject) -> Result<Reading, String> {
    let counters = store::counters(subject.store.as_ref()).await;
    let commits = commits::counted(&subject.processes).await;
    Ok(Reading { roles: roles::usage(&subject.processes)?, own: roles::own(), counters, commits })
}

/// Drives an overload, and then the load of the peak again. One check covers both.
async fn overloaded(
    args: &Args,
    program: &Path,
    subject: &Subject,
    peak: &Point,
    overload_plan: overload::OverloadPlan,
) -> Result<(Point, overload::Findings), String> {
    let room = prepare::prepare(&subject.endpoints, args.workload, args.sizes()).await?;
    let board = WorkloadState::new(args.workload, room, args.mix.0, args.seed);
    let pace = overload_plan.pace(peak.fresh_rate());
    let much = plan(args, pace);
    // All connections are opened at once, and the first answers come when the shop is full.
    let much = Plan { may_shed: true, warm_up: much.warm_up.max(OVERLOAD_WARM_UP), ..much };
    let (board, tally, readings) =
        drive::drive(&subject.endpoints, board, much, || take_reading(subject)).await?;
    let resumed = tokio::time::Instant::now();
    let usual = Plan { warm_up: Duration::ZERO, may_shed: true, ..plan(args, peak.pace) };
    let (board, after, [_, end]) =
        drive::drive(&subject.endpoints, board, usual, || take_reading(subject)).await?;
    let driven = (board, tally, readings);
    let over = judged(args, program, subject, (peak.variant, pace), driven).await?;
    let after = (&after, &end.roles);
    let found = overload::Findings::of(&overload::Phases {
        plan: overload_plan,
        peak,
        over: &over,
        after,
        resumed,
    });
    Ok((over, found))
}

/// Checks the shop after a load.
async fn judged(
    args: &Args,
    program: &Path,
    subject: &Subject,
    (variant, pace): (&'static str, Pace),
    (board, tally, [before, after]): (WorkloadState, Tally, [Reading; 2]),
) -> Result<Point, String> {
    let (room, fates) = board.into_parts();
    let verdict = if args.no_check {
        None
    } else {
        Some(check::check(&subject.endpoints, &room, &fates, args.check_max, args.seed).await?)
    };
    let books = if args.no_check || subject.pd_endpoints.is_empty() {
        None
    } else {
        Some(books::audit(program, &subject.pd_endpoints, subject.certificates.as_ref()).await?)
    };
    let fresh = tally.count(tally::Kind::Fresh);
    let store = store::difference(before.counters.as_ref(), after.counters.as_ref(), fresh);
    Ok(Point {
        variant,
        pace,
        tally,
        commits: commits::difference(&before.commits, &after.commits),
        roles: [before.roles, after.roles],
        own: [before.own, after.own],
        store,
        verdict,
        books,
    })
}

/// Measures the baseline under each of the loads.
async fn bare(args: &Args, subject: &Subject) -> Result<Vec<Point>, String> {
    if subject.pd_endpoints.is_empty() {
        return Err("--baseline needs --up, --pid or --pd-endpoints to find the store".to_owned());
    }
    let store = BareStore {
        pd_endpoints: subject.pd_endpoints.clone(),
        tls: subject.certificates.as_ref().map(Certificates::store),
        sizes: args.sizes(),
        clean: !args.up,
    };
    let paces = args.paces();
    let plans = paces.iter().map(|pace| plan(args, *pace)).collect();
    let tallies = baseline::run(store, plans).await?;
    let point = |(pace, tally)| Point::of("tikv", pace, tally);
    Ok(paces.into_iter().zip(tallies).map(point).collect())
}

fn ratio_lines(points: &[Point]) -> String {
    let line = |ratio: &Value| {
        format!(
            "\n{}: {} makes {:.2} times as many fresh checkouts a second as {}\n",
            ratio["pace"].as_str().unwrap_or_default(),
            ratio["of"].as_str().unwrap_or_default(),
            ratio["ratio"].as_f64().unwrap_or_default(),
            ratio["to"].as_str().unwrap_or_default(),
        )
    };
    report::ratios(points).iter().map(line).collect()
}

fn write_report(
    args: &Args,
    points: &[Point],
    overloads: &[Value],
    machine: &Value,
) -> Result<(), Error> {
    let file = |path: &Path, text: &str| {
        let failed = |source| Error::File { path: path.display().to_string(), source };
        fs::write(path, text).map_err(failed)
    };
    if let Some(path) = &args.json {
        let report = json!({
            "till": env!("CARGO_PKG_VERSION"),
            "optimised": !cfg!(debug_assertions),
            "machine": machine,
            "workload": args.workload.name(),
            "face": if args.grpc { "grpc" } else { "rest" },
            "replicas": args.replicas,
            "orders": args.orders,
            "items": args.items,
            "accounts": args.accounts,
            "warm_up_ms": args.warm_up_ms,
            "seed": args.seed,
            "points": points.iter().map(Point::json).collect::<Vec<_>>(),
            "ratios": report::ratios(points),
            "overloads": overloads,
        });
        let text = format!("{report:#}\n");
        if path == Path::new("-") {
            print(&text)?;
        } else {
            file(path, &text)?;
        }
    }
    if let Some(path) = &args.plot {
        let point = |point: &Point| {
            let latency = point.latency().filter(|_| point.problems().is_empty())?;
            Some(PlotPoint {
                variant: point.variant,
                rate: point.rate(),
                p50_us: latency.p50,
                p99_us: latency.p99,
            })
        };
        let points: Vec<PlotPoint> = points.iter().filter_map(point).collect();
        file(path, &plot::svg(&format!("till bench, {}", args.workload.name()), &points))?;
    }
    Ok(())
}

fn print(text: &str) -> Result<(), Error> {
    let failed = |source| Error::File { path: "standard output".to_owned(), source };
    let mut out = io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(failed)
}

/// Raises the limit of open files, because every caller holds a connection. If this fails,
/// connecting reports it.
fn raise_file_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok();
    }
}
