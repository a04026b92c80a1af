//! Keeps a working client: builds it in the background, and rebuilds it when it has gone silent.
//!
//! The client recovers from most failures by itself, but not from a stream of timestamps that is
//! open but frozen, nor from half-dead connections. Both show as silence or as repeated failures. A
//! new client starts from the configured addresses. The client also reads its certificates only
//! once, so new ones need a new client. The old client stays in use until the new one has
//! connected.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tikv_client::TransactionClient;
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::{Instant, sleep, timeout_at},
};

use super::{
    TikvConfig,
    certificates::Certificates,
    front::Front,
    members::{Leader, Members},
    pace::{Interrupted, bounded},
};
use crate::kv::KvError;

/// Consecutive failures, of any calls, after which the client is rebuilt.
const FAILURES_MAX: u32 = 8;
/// Shortest time between two clients. Doubled while new clients do not answer either.
const REBUILD_GAP: Duration = Duration::from_secs(1);
const REBUILD_GAP_MAX: Duration = Duration::from_secs(8);
/// Pause between attempts to connect, short so that a starting store is found at once.
const CONNECT_GAP: Duration = Duration::from_millis(50);
const CONNECT_GAP_MAX: Duration = Duration::from_secs(1);
/// How long a call waits for the first client.
const FIRST_CLIENT_WAIT: Duration = Duration::from_secs(2);

/// A client and its number, counted from 1.
#[derive(Clone)]
pub(super) struct Generation {
    number: u64,
    pub(super) client: TransactionClient,
}

impl fmt::Debug for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation").field("number", &self.number).finish_non_exhaustive()
    }
}

/// Builds clients in the background and hands out the newest.
#[derive(Debug)]
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    current: watch::Receiver<Option<Generation>>,
    builder: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    /// Failures since the last answer.
    failures: AtomicU32,
    /// The newest generation that must be replaced.
    dismissed: AtomicU64,
    changed: Notify,
}

impl Supervisor {
    /// Starts to build the first client.
    pub(super) fn start(config: &TikvConfig) -> Self {
        let shared = Arc::new(Shared::default());
        let (sender, current) = watch::channel(None);
        let builder = tokio::spawn(build(config.clone(), Arc::clone(&shared), sender));
        Self { shared, current, builder: builder.abort_handle() }
    }

    /// The newest client. Waits up to [`FIRST_CLIENT_WAIT`] for the first one.
    pub(super) async fn client(&self, deadline: Instant) -> Result<Generation, KvError> {
        if let Some(generation) = self.current.borrow().as_ref() {
            return Ok(generation.clone());
        }
        let deadline = deadline.min(Instant::now() + FIRST_CLIENT_WAIT);
        let mut current = self.current.clone();
        match timeout_at(deadline, current.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone().ok_or_else(not_connected),
            Ok(Err(_)) | Err(_) => Err(not_connected()),
        }
    }

    /// Number of the newest client; 0 before the first.
    pub(super) fn generation(&self) -> u64 {
        self.current.borrow().as_ref().map_or(0, |generation| generation.number)
    }

    /// Awaits a call of this client until a deadline, or until there is a newer client: a client
    /// that has gone silent may never answer.
    pub(super) async fn bounded<F: Future>(
        &self,
        generation: &Generation,
        deadline: Instant,
        call: F,
    ) -> Result<F::Output, Interrupted> {
        let mut current = self.current.clone();
        let newer = current.wait_for(|newest| {
            newest.as_ref().is_some_and(|newest| newest.number > generation.number)
        });
        tokio::select! {
            biased;
            outcome = bounded(deadline, call) => outcome,
            _ = newer => Err(Interrupted::Replaced),
        }
    }

    /// Notes an answer of any kind.
    pub(super) fn answered(&self) {
        if self.shared.failures.load(Ordering::Relaxed) != 0 {
            self.shared.failures.store(0, Ordering::Relaxed);
        }
    }

    /// Notes that the connection failed during a call.
    pub(super) fn failed(&self, generation: &Generation) {
        let failures = self.shared.failures.fetch_add(1, Ordering::Relaxed);
        if failures.saturating_add(1) >= FAILURES_MAX {
            self.went_silent(generation);
        }
    }

    /// Requests that the client be replaced, unless it already was.
    pub(super) fn went_silent(&self, generation: &Generation) {
        self.shared.dismissed.fetch_max(generation.number, Ordering::AcqRel);
        self.shared.changed.notify_one();
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.builder.abort();
    }
}

fn not_connected() -> KvError {
    KvError::Unavailable("not connected yet".to_owned())
}

async fn build(
    config: TikvConfig,
    shared: Arc<Shared>,
    current: watch::Sender<Option<Generation>>,
) {
    let mut gap = REBUILD_GAP;
    let mut certificates = Certificates::of(config.tls.as_ref());
    let mut members = Members::new(&config);
    for number in 1.. {
        let client = connect(&config, &mut members).await;
        if number > 1 {
            tracing::warn!(generation = number, "built a new store client");
        }
        shared.failures.store(0, Ordering::Relaxed);
        current.send_replace(Some(Generation { number, client }));
        let built = Instant::now();
        while shared.dismissed.load(Ordering::Acquire) < number {
            tokio::select! {
                () = shared.changed.notified() => {}
                () = certificates.changed() => {
                    tracing::info!("the certificates for the store changed");
                    break;
                }
            }
        }
        let lived = built.elapsed();
        gap = if lived > REBUILD_GAP_MAX * 2 { REBUILD_GAP } else { gap };
        sleep(gap.saturating_sub(lived)).await;
        gap = (gap * 2).min(REBUILD_GAP_MAX);
    }
}

/// Connects a client, however long it takes.
async fn connect(config: &TikvConfig, members: &mut Members) -> TransactionClient {
    let mut gap = CONNECT_GAP;
    let mut told = false;
    loop {
        let leader = members.leader().await;
        let problem = match connect_to(config, &leader).await {
            Ok(client) => return client,
            Err(problem) => problem,
        };
        if !told {
            tracing::warn!(leader = leader.address(), problem, "cannot reach the store yet");
            told = true;
        }
        sleep(gap).await;
        gap = (gap * 2).min(CONNECT_GAP_MAX);
    }
}

/// Connects a client to this leader, or says why not.
async fn connect_to(config: &TikvConfig, leader: &Leader) -> Result<TransactionClient, String> {
    let deadline = Instant::now() + Duration::from_millis(config.connect_timeout_ms);
    let front = Front::open(leader, config.tls.as_ref()).await;
    let front = front.map_err(|error| format!("cannot tell the client of its leader: {error}"))?;
    let settings = config.client_config(front.authorities());
    // PD may accept the connection and never answer; the client would then wait for ever.
    let attempt = TransactionClient::new_with_config(vec![front.address()], settings);
    match bounded(deadline, Box::pin(attempt)).await {
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) => Err(error.to_string()),
        Err(interrupted) => Err(interrupted.to_string()),
    }
}
