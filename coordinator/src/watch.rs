//! The watch: the replica that holds the lease audits the books periodically and keeps the last
//! verdict for display.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use audit::{Options, Report};
use proto::coordinator::v1::{AuditFinding, AuditVerdict};
use storage::{SharedKv, janitor::hold_lease};
use telemetry::metrics::Audited;
use tokio::time::{Instant, sleep};
use types::{Entropy, Timestamp};

/// Name of the lease.
const LEASE: &str = "auditor";
/// Milliseconds that the lease lasts without being renewed.
const LEASE_MS: u64 = 60_000;
/// Upper limit on the offences logged by one audit.
const LOGGED_MAX: usize = 10;

/// The result of the last audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The timestamp at which the books were read.
    pub at: Timestamp,
    /// Number of offences, by the invariant's name.
    pub offences: Vec<(&'static str, u64)>,
    /// Number of transactions that have a vote but no outcome.
    pub unresolved: u64,
    /// Duration of the audit in milliseconds.
    pub took_ms: u64,
}

impl Verdict {
    /// True when every invariant held.
    pub const fn is_clean(&self) -> bool {
        self.offences.is_empty()
    }
}

impl From<Verdict> for AuditVerdict {
    fn from(verdict: Verdict) -> Self {
        let findings = verdict
            .offences
            .into_iter()
            .map(|(name, count)| AuditFinding { invariant: name.to_owned(), count });
        Self {
            at_ms: verdict.at.physical().0,
            took_ms: verdict.took_ms,
            unresolved: verdict.unresolved,
            findings: findings.collect(),
        }
    }
}

/// The last verdict of this replica, and how often it audits. Clones share it.
#[derive(Clone, Default)]
pub struct Watch(Arc<Mutex<Option<Verdict>>>, Arc<AtomicU64>);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.last()).finish()
    }
}

impl Watch {
    /// `None` before the first audit, and while another replica audits.
    pub fn last(&self) -> Option<Verdict> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Seconds between two audits; 0 when this replica was not told to audit.
    pub fn every_s(&self) -> u64 {
        self.1.load(Ordering::Relaxed)
    }

    fn set(&self, verdict: Option<Verdict>) -> Option<Verdict> {
        telemetry::metrics().audit.set(verdict.as_ref().map(|verdict| Audited {
            offences: verdict.offences.clone(),
            unresolved: verdict.unresolved,
            took: Duration::from_millis(verdict.took_ms),
            finished: std::time::Instant::now(),
        }));
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), verdict)
    }

    /// Audits every `every` while this replica holds the lease, until `shutdown` completes.
    pub async fn run(
        self,
        kv: SharedKv,
        entropy: Arc<dyn Entropy>,
        every: Duration,
        shutdown: impl Future<Output = ()>,
    ) {
        self.1.store(every.as_secs(), Ordering::Relaxed);
        let chore = async {
            let holder = entropy.next_bytes();
            let mut due = Instant::now();
            loop {
                if hold_lease(&*kv, LEASE, holder, LEASE_MS).await {
                    if due <= Instant::now() {
                        due = Instant::now() + every;
                        self.look(&kv, &*entropy).await;
                    }
                } else {
                    // Another replica has the verdict.
                    self.set(None);
                }
                // Often enough to keep the lease, and never in step with other replicas.
                let pause = LEASE_MS / 3;
                let pause = Duration::from_millis(pause / 2 + entropy.next_u64() % pause);
                sleep(pause.min(every)).await;
            }
        };
        tokio::select! {
            biased;
            () = shutdown => {}
            () = chore => {}
        }
    }

    /// Audits once.
    async fn look(&self, kv: &SharedKv, entropy: &dyn Entropy) {
        let options = Options {
            offences_max: LOGGED_MAX,
            name: format!("watch-{:016x}", entropy.next_u64()),
            ..Options::default()
        };
        let begun = Instant::now();
        match audit::run(&**kv, &options, &mut |_| {}).await {
            Ok(report) => {
                let verdict = verdict(&report, begun.elapsed());
                let before = self.set(Some(verdict.clone()));
                log_change(before.as_ref(), &verdict, &report);
            }
            // The last verdict stays; its timestamp tells how old it is.
            Err(error) => tracing::warn!(%error, "the books could not be audited"),
        }
    }
}

fn verdict(report: &Report, took: Duration) -> Verdict {
    Verdict {
        at: report.at,
        offences: report.by_invariant.iter().map(|(kind, count)| (kind.code(), *count)).collect(),
        unresolved: report.counts.unresolved,
        took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Logs a change of the verdict, once.
fn log_change(before: Option<&Verdict>, now: &Verdict, report: &Report) {
    let took_ms = now.took_ms;
    match before {
        Some(before) if before.offences == now.offences => {
            tracing::debug!(took_ms, clean = now.is_clean(), "books audited");
        }
        _ if now.is_clean() => {
            tracing::info!(took_ms, orders = report.counts.orders, "books audited, all is well");
        }
        Some(_) | None => {
            for offence in &report.offences {
                tracing::error!(%offence, "the books do not agree");
            }
            tracing::error!(took_ms, offences = ?now.offences, "the books do not agree");
        }
    }
}
