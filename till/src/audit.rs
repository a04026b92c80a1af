//! `till audit`: checks whether the books agree. The exit code is the verdict, and the output lists
//! the offences.

use std::{
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
    time::{Duration, Instant},
};

use audit::{Options, Progress, Report};
use clap::value_parser;
use rpc::env::SystemEntropy;
use serde_json::json;
use storage::args::StoreArgs;
use types::Entropy as _;

use crate::common::Failure;

/// Exit code when an invariant does not hold.
const OFFENCES: u8 = 2;
/// Interval between progress reports: on a terminal, and in a log.
const TELL_EVERY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What to audit, and how strictly.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// The store.
    #[command(flatten)]
    store: StoreArgs,
    /// Assume that the shop has been idle for a while, and count every unresolved vote as an
    /// offence (I8).
    #[arg(long, env = "TILL_AUDIT_QUIET")]
    quiet: bool,
    /// Milliseconds past its deadline that a hold may last (I7).
    #[arg(
        long,
        env = "TILL_AUDIT_GRACE_MS",
        default_value_t = 30_000,
        value_name = "MILLISECONDS"
    )]
    grace_ms: u64,
    /// Number of offences to show with their records. All are counted.
    #[arg(long, env = "TILL_AUDIT_OFFENCES_MAX", default_value_t = 100, value_name = "COUNT",
          value_parser = value_parser!(u32).range(1..=1_000_000))]
    offences_max: u32,
    /// Memory for sorting, in MiB. What does not fit goes to temporary files in TMPDIR.
    #[arg(long, env = "TILL_AUDIT_MEMORY_MIB", default_value_t = 64, value_name = "MIB",
          value_parser = value_parser!(u32).range(1..=65_536))]
    memory_mib: u32,
    /// Print the findings as one JSON document.
    #[arg(long, env = "TILL_AUDIT_JSON")]
    json: bool,
}

/// Audits once. Exit codes: 0 when every invariant holds, 2 when one does not, 1 when the audit
/// failed.
pub(crate) async fn run(args: &Args) -> Result<ExitCode, Failure> {
    let kv = args.store.connect().await?;
    let options = Options {
        quiet: args.quiet,
        grace_ms: args.grace_ms,
        offences_max: usize::try_from(args.offences_max)?,
        memory_bytes: usize::try_from(args.memory_mib)? << 20,
        name: format!("audit-{:016x}", SystemEntropy.next_u64()),
        ..Options::default()
    };
    let mut bar = Bar::new();
    let begun = Instant::now();
    let report = audit::run(&*kv, &options, &mut |progress| bar.show(progress)).await?;
    bar.clear();
    let text = if args.json { as_json(&report) } else { as_text(&report, begun.elapsed()) };
    io::stdout().write_all(text.as_bytes())?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(OFFENCES) })
}

fn as_text(report: &Report, took: Duration) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    let mut line = |line: String| {
        // Writing to a String cannot fail.
        let _written = writeln!(text, "{line}");
    };
    for offence in &report.offences {
        line(offence.to_string());
    }
    let counts = &report.counts;
    line(format!(
        "audited {} orders ({} paid), {} items, {} users, {} live transactions ({} unresolved) as of \
         {} in {} ms",
        counts.orders,
        counts.paid,
        counts.items,
        counts.users,
        counts.transactions,
        counts.unresolved,
        report.at.physical().0,
        took.as_millis(),
    ));
    if counts.judged_in_part > 0 {
        line(format!(
            "{} items and users fall short, which may be what overwritten orders bought: batch_init \
             them as well",
            counts.judged_in_part
        ));
    }
    if report.is_clean() {
        line("every invariant holds".to_owned());
    } else {
        let kinds = report.by_invariant.iter().map(|(kind, count)| format!("{kind} {count}"));
        line(format!("offences: {}", kinds.collect::<Vec<_>>().join(", ")));
    }
    text
}

fn as_json(report: &Report) -> String {
    let offences = report.offences.iter().map(|offence| {
        json!({
            "invariant": offence.invariant.code(),
            "subject": offence.subject,
            "problem": offence.problem,
            "records": offence.records,
        })
    });
    let counts = &report.counts;
    let by_invariant: serde_json::Map<_, _> = report
        .by_invariant
        .iter()
        .map(|(kind, count)| (kind.code().to_owned(), (*count).into()))
        .collect();
    let document = json!({
        "clean": report.is_clean(),
        "at": report.at.0,
        "orders": counts.orders,
        "paid": counts.paid,
        "items": counts.items,
        "users": counts.users,
        "transactions": counts.transactions,
        "unresolved": counts.unresolved,
        "judged_in_part": counts.judged_in_part,
        "by_invariant": by_invariant,
        "offences": offences.collect::<Vec<_>>(),
    });
    format!("{document}\n")
}

/// Progress on standard error: a bar for a person, an occasional line for a log.
struct Bar {
    begun: Instant,
    told: Instant,
    person: bool,
}

impl Bar {
    fn new() -> Self {
        let now = Instant::now();
        Self { begun: now, told: now, person: io::stderr().is_terminal() }
    }

    fn show(&mut self, progress: Progress) {
        let every = if self.person { TELL_EVERY.0 } else { TELL_EVERY.1 };
        if self.told.elapsed() < every {
            return;
        }
        self.told = Instant::now();
        let line = bar(progress, self.begun.elapsed());
        let (start, end) = if self.person { ("\r\x1b[K", "") } else { ("", "\n") };
        // Errors are ignored: an audit must not end because nobody watches its progress.
        drop(write!(io::stderr(), "{start}{line}{end}"));
    }

    fn clear(&self) {
        if self.person {
            drop(write!(io::stderr(), "\r\x1b[K"));
        }
    }
}

fn bar(progress: Progress, taken: Duration) -> String {
    const WIDTH: u16 = 24;
    let Progress { stage, shard, shards, records } = progress;
    let done = u32::from(shard) * u32::from(WIDTH) / u32::from(shards.max(1));
    let cells: String =
        (0..u32::from(WIDTH)).map(|cell| if cell < done { '#' } else { '.' }).collect();
    format!("{stage:<8} [{cells}] shard {shard}/{shards}, {records} records, {} s", taken.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills_up() {
        let at = |shard| Progress { stage: "orders", shard, shards: 16, records: 7 };
        let cells = |shard| bar(at(shard), Duration::ZERO).matches('#').count();
        assert_eq!((cells(0), cells(8), cells(16)), (0, 12, 24));
        let empty = Progress { stage: "orders", shard: 0, shards: 0, records: 0 };
        assert_eq!(bar(empty, Duration::ZERO).matches('#').count(), 0);
    }
}
