//! What all requests share, and the seams through which it reaches the world.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use http::HeaderMap;
use rpc::{
    access::{Identity, Role},
    net::Net,
    routing::Router,
    store_time::StoreTime,
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::task::TaskTracker;
use types::{Clock, Entropy};
use uuid::{Builder, Uuid};

use crate::{
    api, args::Args, args::Settings, console::Console, held::Held, key::Keys, load::Load,
    problem::Problem, ready::Readiness, turned_away::TurnedAway,
};

/// The services behind the bridge.
#[derive(Clone, Debug)]
pub struct Shop {
    /// Replicas of the order service.
    pub order: Router,
    /// Replicas of the stock service.
    pub stock: Router,
    /// Replicas of the payment service.
    pub payment: Router,
    /// Replicas of the coordinator.
    pub coordinator: Router,
}

impl Shop {
    /// The services where the arguments say, over this network. Call it within a tokio runtime.
    pub fn over(args: &Args, net: &Arc<dyn Net>) -> Self {
        let router = |role, target: &rpc::routing::Target| {
            Router::to(Identity::of(role), target.clone(), Arc::clone(net))
        };
        Self {
            order: router(Role::Order, &args.order_endpoints),
            stock: router(Role::Stock, &args.stock_endpoints),
            payment: router(Role::Payment, &args.payment_endpoints),
            coordinator: router(Role::Coordinator, &args.coordinator_endpoints),
        }
    }

    /// Every service and its name.
    pub(crate) fn all(&self) -> [(&'static str, &Router); 4] {
        [
            ("order", &self.order),
            ("stock", &self.stock),
            ("payment", &self.payment),
            ("coordinator", &self.coordinator),
        ]
    }
}

/// The bridge without its sockets. Cheap to clone; clones are the same bridge.
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
    console: Console,
    keys: OnceLock<Keys>,
    store_time: StoreTime,
    /// Held by whoever asks for the store's time.
    asking_time: tokio::sync::Mutex<()>,
}

impl Bridge {
    /// A bridge to this shop.
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
                console: Console::default(),
                keys: OnceLock::new(),
                store_time: StoreTime::default(),
                asking_time: tokio::sync::Mutex::default(),
                settings,
            }),
        }
    }

    /// From now on calls that change something, and the console's operator part, need one of these keys. Once, before requests are served;
    /// later keys than the first are not taken.
    pub fn guard(&self, keys: Keys) {
        self.inner.keys.get_or_init(|| keys);
    }

    /// Whether there are keys at all.
    pub(crate) fn asks_for_keys(&self) -> bool {
        self.inner.keys.get().is_some()
    }

    /// Whether these headers carry a key; everybody's do where none is needed.
    ///
    /// # Errors
    /// 401.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<(), Problem> {
        match self.inner.keys.get() {
            Some(keys) if !keys.admit(headers) => Err(Problem::no_api_key()),
            Some(_) | None => Ok(()),
        }
    }

    /// Every endpoint, ready to be served or called in-process.
    pub fn router(&self) -> axum::Router {
        api::router(self.clone())
    }

    /// From now on: not ready, and every HTTP/1.1 answer asks its client to close the connection.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::Relaxed);
    }

    /// True after [`Bridge::drain`].
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Relaxed)
    }

    /// Work that goes on although its client may have left; for drain to wait for.
    pub fn work(&self) -> &TaskTracker {
        &self.inner.work
    }

    /// The services behind the bridge.
    pub fn shop(&self) -> &Shop {
        &self.inner.shop
    }

    /// The store's time, as the services tell it.
    pub(crate) fn store_time(&self) -> &StoreTime {
        &self.inner.store_time
    }

    /// The right to ask for the store's time.
    pub(crate) async fn asking_time(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.inner.asking_time.lock().await
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(crate) fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::clone(&self.inner.entropy)
    }

    /// A place among the requests in flight, for one that can be answered in time.
    pub(crate) fn take_place(&self) -> Option<Place> {
        let places = &self.inner.in_flight;
        let in_flight = self.in_flight_now();
        let patience = self.inner.settings.request_timeout / 2;
        if self.inner.load.is_beyond(in_flight, patience, Instant::now()) {
            return None;
        }
        let permit = Arc::clone(places).try_acquire_owned().ok()?;
        Some(Place { bridge: self.clone(), _permit: permit })
    }

    /// The log of requests that were answered 429.
    pub(crate) fn turned_away(&self) -> &TurnedAway {
        &self.inner.turned_away
    }

    /// What clients have this process hold.
    pub(crate) fn held(&self) -> &Held {
        &self.inner.held
    }

    /// Requests that have a place now.
    pub(crate) fn in_flight_now(&self) -> usize {
        let places = usize::try_from(self.inner.settings.in_flight_max).unwrap_or(usize::MAX);
        places.min(Semaphore::MAX_PERMITS).saturating_sub(self.inner.in_flight.available_permits())
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.inner.readiness
    }

    pub(crate) fn console(&self) -> &Console {
        &self.inner.console
    }

    /// A new unique id: RFC 9562 version 7 over the clock and entropy of the seams.
    pub(crate) fn mint(&self) -> Uuid {
        let bytes = self.inner.entropy.next_bytes();
        let mut random = [0; 10];
        random.copy_from_slice(&bytes[..10]);
        Builder::from_unix_timestamp_millis(self.inner.clock.now().0, &random).into_uuid()
    }
}

/// A request in flight, for as long as it lives.
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
