//! The state that all requests share, and the seams to the outside: network, clock, entropy.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use http::HeaderMap;
use rpc::{
    admin::{ReadinessCheck, Report},
    store_time::StoreTime,
};
use serde_json::Map;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit},
    time::Instant,
};
use tokio_util::task::TaskTracker;
use types::{Clock, Entropy};
use uuid::{Builder, Uuid};

use crate::{
    args::Settings, held::Held, key::Keys, load::Load, problem::Problem, ready::Readiness,
    shop::Shop, turned_away::TurnedAway,
};

/// Maximum number of concurrent explanations of transactions for the public.
const EXPLANATIONS_MAX: usize = 2;

/// The bridge without its sockets. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub struct Bridge {
    inner: Arc<Inner>,
}

struct Inner {
    shop: Shop,
    settings: Settings,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    in_flight: Arc<Semaphore>,
    load: Load,
    turned_away: TurnedAway,
    held: Held,
    work: TaskTracker,
    draining: AtomicBool,
    readiness: Readiness,
    /// Limits the explanations of transactions for the public, because each reads every live
    /// journal.
    explanations: Semaphore,
    /// Distinguishes this process from others. Drawn on first use.
    replica: OnceLock<u64>,
    keys: OnceLock<Keys>,
    store_time: StoreTime,
    /// Held by the task that is asking for the store's time.
    asking_time: tokio::sync::Mutex<()>,
}

impl Bridge {
    /// Creates a bridge to this shop.
    pub fn new(
        shop: Shop,
        settings: Settings,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        // A u32 fits a usize on every platform that the workspace builds for.
        let places = usize::try_from(settings.in_flight_max).unwrap_or(usize::MAX);
        Self {
            inner: Arc::new(Inner {
                shop,
                clock,
                entropy,
                in_flight: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
                load: Load::new(Instant::now()),
                turned_away: TurnedAway::default(),
                held: Held::default(),
                work: TaskTracker::new(),
                draining: AtomicBool::new(false),
                readiness: Readiness::default(),
                explanations: Semaphore::new(EXPLANATIONS_MAX),
                replica: OnceLock::new(),
                keys: OnceLock::new(),
                store_time: StoreTime::default(),
                asking_time: tokio::sync::Mutex::default(),
                settings,
            }),
        }
    }

    /// From now on, calls that change something and the console's operator part need one of these
    /// keys. Call it once, before requests are served: later calls have no effect.
    pub fn guard(&self, keys: Keys) {
        self.inner.keys.get_or_init(|| keys);
    }

    /// True if API keys are configured.
    pub(crate) fn asks_for_keys(&self) -> bool {
        self.inner.keys.get().is_some()
    }

    /// Checks that the headers carry a valid key. Succeeds for everybody when no keys are
    /// configured.
    ///
    /// # Errors
    /// NO_API_KEY (401).
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self.inner.keys.get() {
            Some(keys) if !keys.admit(headers) => Err(Problem::no_api_key()),
            Some(_) | None => Ok(()),
        }
    }

    /// From now on the bridge is not ready, and every HTTP/1.1 answer asks its client to close the
    /// connection.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::Relaxed);
    }

    /// True after [`Bridge::drain`].
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Relaxed)
    }

    /// Work that may continue after its client has left. Drain waits for it.
    pub fn work(&self) -> &TaskTracker {
        &self.inner.work
    }

    /// The services behind the bridge.
    pub fn shop(&self) -> &Shop {
        &self.inner.shop
    }

    /// The store's time, as reported by the services.
    pub(crate) fn store_time(&self) -> &StoreTime {
        &self.inner.store_time
    }

    /// Waits for the right to ask for the store's time; one task has it at a time.
    pub(crate) async fn asking_time(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.asking_time.lock().await
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(crate) fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::clone(&self.inner.entropy)
    }

    /// Takes a place among the requests in flight. None when all places are taken or the request
    /// could not be answered in time.
    pub(crate) fn take_place(&self) -> Option<Place> {
        let places = &self.inner.in_flight;
        let in_flight = self.in_flight_now();
        let patience = self.inner.settings.request_timeout / 2;
        if self.inner.load.is_overloaded(in_flight, patience, Instant::now()) {
            return None;
        }
        let permit = Arc::clone(places).try_acquire_owned().ok()?;
        Some(Place { bridge: self.clone(), _permit: permit })
    }

    /// The log of requests that were answered 429.
    pub(crate) fn turned_away(&self) -> &TurnedAway {
        &self.inner.turned_away
    }

    /// Counts the memory that this process holds for clients.
    pub(crate) fn held(&self) -> &Held {
        &self.inner.held
    }

    /// Number of requests that have a place now.
    pub(crate) fn in_flight_now(&self) -> usize {
        let places = usize::try_from(self.inner.settings.in_flight_max).unwrap_or(usize::MAX);
        places.min(Semaphore::MAX_PERMITS).saturating_sub(self.inner.in_flight.available_permits())
    }

    /// Succeeds when this process is not draining and every service has a replica that says it is
    /// serving.
    ///
    /// # Errors
    /// UNAVAILABLE when draining, or with the names of the missing services.
    pub(crate) async fn ready(&self) -> Result<(), Problem> {
        if self.is_draining() {
            return Err(Problem::not_ready("The bridge is shutting down.".to_owned()));
        }
        let missing = self.inner.readiness.missing(&self.inner.shop).await;
        if missing.is_empty() {
            return Ok(());
        }
        let detail = format!("Not ready: {}.", missing.join(", "));
        Err(Problem::not_ready(detail))
    }

    /// Takes a place among the explanations of transactions. None when all places are taken.
    pub(crate) fn explanation_permit(&self) -> Option<SemaphorePermit<'_>> {
        self.inner.explanations.try_acquire().ok()
    }

    /// A random number that distinguishes this process from others.
    pub(crate) fn replica(&self) -> u64 {
        *self.inner.replica.get_or_init(|| self.inner.entropy.next_u64())
    }

    /// A new unique id: RFC 9562 version 7, from the clock and the entropy of the seams.
    pub(crate) fn mint(&self) -> Uuid {
        let bytes = self.inner.entropy.next_bytes();
        let mut random = [0; 10];
        random.copy_from_slice(&bytes[..10]);
        Builder::from_unix_timestamp_millis(self.inner.clock.now().0, &random).into_uuid()
    }
}

#[tonic::async_trait]
impl ReadinessCheck for Bridge {
    async fn report(&self) -> Report {
        let draining = self.is_draining();
        let missing = self.inner.readiness.missing(&self.inner.shop).await;
        let details = Map::from_iter([
            ("draining".to_owned(), draining.into()),
            ("missing".to_owned(), missing.clone().into()),
        ]);
        Report { ready: !draining && missing.is_empty(), details }
    }
}

/// The place of a request in flight. Dropping it frees the place and counts the request as
/// answered.
pub(crate) struct Place {
    bridge: Bridge,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.bridge.inner.load.answered();
    }
}

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge")
            .field("shop", &self.inner.shop)
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}
