//! The store over TiKV, through the `tikv-client` of crates.io. No other module names that crate.
//!
//! Version 0.4 of the client needs care. Each consequence is handled in one place:
//! - [`classify`]: a commit error is undetermined unless it is proved definite. The client's own
//!   `UndeterminedError` practically never appears; a lost reply looks like any other gRPC error.
//! - [`txn`]: optimistic transactions only. No async commit, which can lose acknowledged commits in
//!   this version, no heart-beat tasks, and no panic when a transaction is dropped. `commit()` is
//!   called once, and `rollback()` only after an error that proves that nothing was committed:
//!   after other errors, either call tears the transaction apart.
//! - [`query`]: each read request uses a new snapshot, as the client caches what it has read. Scans
//!   go in pages, and each request has back-offs and a deadline of our own.
//! - [`supervisor`]: builds the client in the background, and again when it has gone silent: a
//!   frozen stream of timestamps makes it hang for ever. [`members`] finds the placement driver
//!   that leads and answers. [`front`] keeps the client from asking the others, as it waits for
//!   ever for one that hangs.
//! - [`commit_verifier`]: the client may report success for a commit that it never sent.
//! - [`next_flight`]: callers that wait for a timestamp at the same time share one.
//! - [`gc`]: PD's calls for garbage collection, most of which the client lacks.
//! - Orphaned locks block the client, so they are cleared in the background.

mod certificates;
mod classify;
mod commit_verifier;
mod front;
mod gc;
mod members;
mod next_flight;
mod pace;
mod query;
mod supervisor;
#[cfg(test)]
mod tests;
mod txn;

use std::{
    collections::BTreeSet,
    fmt,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tikv_client::{
    Backoff, CheckLevel, RetryOptions, TimestampExt, Transaction, TransactionClient,
    TransactionOptions,
    transaction::{HeartbeatOption, ResolveLocksOptions},
};
use tokio::time::Instant;
use types::Timestamp;

use crate::kv::{Key, Kv, KvError, Reads, Txn};
use classify::Orphan;
use commit_verifier::{CommitVerifier, ErrorEpoch};
use next_flight::NextFlight;
use pace::{Pause, Throttle, bounded};
use query::TikvReads;
use supervisor::Supervisor;
use txn::TikvTxn;

/// Largest message accepted from the store, in bytes. The largest pages, of 64 journal entries,
/// stay below a third of it.
const DECODED_BYTES_MAX: usize = 64 << 20;
/// The client's own retries at a region or a lock: from 2 ms, doubled up to 500 ms. In total they
/// outlast the 3 s for which a dead writer's lock is honoured.
const CLIENT_BACKOFF: Backoff = Backoff::no_jitter_backoff(2, 500, 20);
/// How long one-phase commits are not requested after the store has declined one.
const ONE_PHASE_PAUSE: Duration = Duration::from_mins(1);
/// An orphaned lock younger than this may belong to a transaction that is about to write its
/// primary.
const ORPHAN_AGE_MIN: Duration = Duration::from_secs(5);

/// Addresses of the store, and timeouts.
#[derive(Debug, Clone)]
pub struct TikvConfig {
    /// PD's addresses, `host:port` each; at least one.
    pub pd_endpoints: Vec<String>,
    /// Files for TLS. Plain text without them.
    pub tls: Option<TikvTls>,
    /// Time limit of one request to the store, in milliseconds.
    pub request_timeout_ms: u64,
    /// Time limit of a call (a read, a begin, a commit), including retries, in milliseconds.
    pub call_timeout_ms: u64,
    /// Silence of the timestamp stream after which the client is rebuilt, in milliseconds.
    pub timestamp_timeout_ms: u64,
    /// Time limit for building a client, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Time limit for collecting garbage, in milliseconds.
    pub garbage_timeout_ms: u64,
}

/// Paths of PEM files. The client speaks TLS only with all three.
#[derive(Debug, Clone)]
pub struct TikvTls {
    /// The authorities that sign the store's certificates.
    pub ca: PathBuf,
    /// Our certificate.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

impl TikvConfig {
    /// The default time-outs for a store at these addresses.
    pub fn new(pd_endpoints: Vec<String>) -> Self {
        Self {
            pd_endpoints,
            tls: None,
            request_timeout_ms: 3_000,
            call_timeout_ms: 10_000,
            timestamp_timeout_ms: 2_000,
            connect_timeout_ms: 5_000,
            garbage_timeout_ms: 300_000,
        }
    }

    /// The client's settings. `authorities` replaces the store's authorities if given.
    fn client_config(&self, authorities: Option<&Path>) -> tikv_client::Config {
        let config = tikv_client::Config::default()
            .with_timeout(Duration::from_millis(self.request_timeout_ms))
            .with_grpc_max_decoding_message_size(DECODED_BYTES_MAX);
        match &self.tls {
            Some(tls) => {
                let ca = authorities.unwrap_or(&tls.ca);
                config.with_security(ca, &tls.cert, &tls.key)
            }
            None => config,
        }
    }
}

/// The client's metrics in this process, in Prometheus' text format: requests to TiKV and PD by
/// kind.
pub fn client_metrics() -> String {
    let mut text = String::new();
    let families = prometheus_of_client::gather();
    if let Err(error) = prometheus_of_client::TextEncoder::new().encode_utf8(&families, &mut text) {
        tracing::debug!(%error, "the client's metrics could not be written down");
    }
    text
}

/// A TiKV store. Calls fail with [`KvError::Unavailable`] while the store does not answer, and work
/// as soon as it does.
pub struct TikvKv {
    inner: Arc<Inner>,
}

struct Inner {
    config: TikvConfig,
    supervisor: Supervisor,
    verifier: CommitVerifier,
    timestamps: NextFlight<Result<Timestamp, KvError>>,
    /// Set when the store declines a one-phase commit.
    one_phase_off_until: Mutex<Option<Instant>>,
    clearing: AtomicBool,
    orphan_warnings: Throttle,
}

impl fmt::Debug for TikvKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TikvKv")
            .field("pd_endpoints", &self.inner.config.pd_endpoints)
            .finish_non_exhaustive()
    }
}

impl TikvKv {
    /// Starts to connect in the background, for as long as it takes. Does not wait for the
    /// connection, so a role may start before its store does. Must be called within a tokio
    /// runtime.
    ///
    /// # Errors
    /// [`KvError::Refused`] for a configuration that cannot work: no address, or unreadable files.
    pub async fn connect(config: TikvConfig) -> Result<Arc<Self>, KvError> {
        // The client rejects duplicate addresses.
        let endpoints: BTreeSet<&str> =
            config.pd_endpoints.iter().map(|endpoint| endpoint.trim()).collect();
        let endpoints: Vec<String> =
            endpoints.into_iter().filter(|one| !one.is_empty()).map(str::to_owned).collect();
        if endpoints.is_empty() {
            return Err(KvError::Refused("no address of PD was given".to_owned()));
        }
        for path in config.tls.iter().flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]) {
            if let Err(error) = tokio::fs::read(path).await {
                return Err(KvError::Refused(format!("cannot read {}: {error}", path.display())));
            }
        }
        let config = TikvConfig { pd_endpoints: endpoints, ..config };
        Ok(Arc::new(Self {
            inner: Arc::new(Inner {
                supervisor: Supervisor::start(&config),
                verifier: CommitVerifier::default(),
                config,
                timestamps: NextFlight::default(),
                one_phase_off_until: Mutex::default(),
                clearing: AtomicBool::new(false),
                orphan_warnings: Throttle::default(),
            }),
        }))
    }
}

#[async_trait]
impl Kv for TikvKv {
    async fn timestamp(&self) -> Result<Timestamp, KvError> {
        let inner = Arc::clone(&self.inner);
        let fetch = move || {
            let inner = Arc::clone(&inner);
            async move {
                let ask = |client: TransactionClient| async move {
                    client.current_timestamp().await.map(|at| Timestamp(at.version()))
                };
                inner.ask_oracle(ask).await
            }
        };
        self.inner
            .timestamps
            .share(fetch)
            .await
            .unwrap_or_else(|| Err(KvError::Unavailable("the timestamp got lost".to_owned())))
    }

    async fn begin(&self) -> Result<Box<dyn Txn>, KvError> {
        let one_phase = self.inner.one_phase();
        let epoch = self.inner.epoch();
        let begin = |client: TransactionClient| async move {
            client.begin_with_options(txn::options(one_phase)).await
        };
        let transaction: Transaction = self.inner.ask_oracle(begin).await?;
        Ok(Box::new(TikvTxn::new(Arc::clone(&self.inner), transaction, one_phase, epoch)))
    }

    fn snapshot(&self, at: Timestamp) -> Box<dyn Reads> {
        Box::new(TikvReads::new(Arc::clone(&self.inner), at))
    }

    async fn collect_garbage(&self, safe_point: Timestamp) -> Result<Timestamp, KvError> {
        let deadline = self.inner.deadline();
        let generation = self.inner.supervisor.client(deadline).await?;
        let until = Instant::now() + Duration::from_millis(self.inner.config.garbage_timeout_ms);
        let mut driver = gc::Driver::connect(&self.inner.config, until).await?;
        let allowed = driver.announce(safe_point).await?;
        let at = tikv_client::Timestamp::from_version(allowed.0);
        let clear = generation.client.cleanup_locks(.., &at, ResolveLocksOptions::default());
        match bounded(until, clear).await {
            Ok(Ok(_)) => driver.raise(allowed).await,
            Ok(Err(error)) => Err(KvError::Unavailable(error.to_string())),
            Err(interrupted) => Err(interrupted.into()),
        }
    }
}

impl Inner {
    fn deadline(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.config.call_timeout_ms)
    }

    /// Repeats a request that costs only a timestamp, until the call's deadline. After an attempt
    /// without an answer, the client is rebuilt.
    async fn ask_oracle<T, F>(
        &self,
        ask: impl Fn(TransactionClient) -> F + Send + Sync,
    ) -> Result<T, KvError>
    where
        F: Future<Output = Result<T, tikv_client::Error>> + Send,
    {
        let deadline = self.deadline();
        let silence = Duration::from_millis(self.config.timestamp_timeout_ms);
        let mut pause = Pause::default();
        loop {
            let generation = self.supervisor.client(deadline).await?;
            let until = deadline.min(Instant::now() + silence);
            let attempt = ask(generation.client.clone());
            let problem = match self.supervisor.bounded(&generation, until, attempt).await {
                Ok(Ok(answer)) => {
                    self.supervisor.answered();
                    return Ok(answer);
                }
                Ok(Err(error)) => {
                    self.supervisor.failed(&generation);
                    error.to_string()
                }
                Err(interrupted) => {
                    self.supervisor.went_silent(&generation);
                    interrupted.to_string()
                }
            };
            self.verifier.failed();
            if !pause.wait_until(deadline).await {
                return Err(KvError::Unavailable(problem));
            }
        }
    }

    /// The current stretch without failures.
    fn epoch(&self) -> ErrorEpoch {
        self.verifier.epoch(self.supervisor.generation())
    }

    /// Whether to ask for a one-phase commit. The client itself falls back if the writes do not fit
    /// into one request.
    fn one_phase(&self) -> bool {
        let off_until = *lock(&self.one_phase_off_until);
        off_until.is_none_or(|until| until < Instant::now())
    }

    fn leave_off_one_phase(&self) {
        *lock(&self.one_phase_off_until) = Some(Instant::now() + ONE_PHASE_PAUSE);
    }

    /// Clears the locks of a dead transaction whose primary was never written; in this version of
    /// the client, only garbage collection does so. Runs in the background, one at a time, within
    /// `span` and for locks as old as the orphan. If the writer turns out to be alive, its commit
    /// definitely fails.
    fn clear_orphan(self: &Arc<Self>, orphan: Orphan, span: Range<Key>, now: Timestamp) {
        let age_ms = now.physical().since(orphan.start_ts.physical());
        if Duration::from_millis(age_ms) < ORPHAN_AGE_MIN
            || self.clearing.swap(true, Ordering::AcqRel)
        {
            return;
        }
        if self.orphan_warnings.ready() {
            tracing::warn!(start_ts = ?orphan.start_ts, age_ms, "clearing an orphaned lock");
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let deadline = inner.deadline();
            if let Ok(generation) = inner.supervisor.client(deadline).await {
                let at = tikv_client::Timestamp::from_version(orphan.start_ts.0);
                let options = ResolveLocksOptions::default();
                let clear = generation.client.cleanup_locks(span, &at, options);
                match bounded(deadline, clear).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => tracing::warn!(%error, "could not clear an orphaned lock"),
                    Err(error) => tracing::warn!(%error, "could not clear an orphaned lock"),
                }
            }
            inner.clearing.store(false, Ordering::Release);
        });
    }
}

/// The options that reads and transactions share.
fn base_options(options: TransactionOptions) -> TransactionOptions {
    options
        // Callers drop a transaction without a commit to give it up. The default panics.
        .drop_check(CheckLevel::None)
        // Each heart-beat is a task that sleeps for 10 s, which is longer than a lock lives without
        // heart-beats.
        .heartbeat_option(HeartbeatOption::NoHeartbeat)
        .retry_options(RetryOptions {
            region_backoff: CLIENT_BACKOFF,
            lock_backoff: CLIENT_BACKOFF,
        })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
