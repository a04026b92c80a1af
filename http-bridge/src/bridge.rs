//! What all requests share, and the seams through which it reaches the world.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rpc::{net::Net, routing::Router};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use types::{Clock, Entropy};
use uuid::{Builder, Uuid};

use crate::{api, args::Args, args::Settings, console::Console, ready::Readiness};

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
        let router = |target: &rpc::routing::Target| Router::new(target.clone(), Arc::clone(net));
        Self {
            order: router(&args.order_endpoints),
            stock: router(&args.stock_endpoints),
            payment: router(&args.payment_endpoints),
            coordinator: router(&args.coordinator_endpoints),
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
    work: TaskTracker,
    draining: AtomicBool,
    readiness: Readiness,
    console: Console,
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
                work: TaskTracker::new(),
                draining: AtomicBool::new(false),
                readiness: Readiness::default(),
                console: Console::default(),
                settings,
            }),
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

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    pub(crate) fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::clone(&self.inner.entropy)
    }

    pub(crate) fn in_flight(&self) -> &Arc<Semaphore> {
        &self.inner.in_flight
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

impl fmt::Debug for Bridge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bridge")
            .field("shop", &self.inner.shop)
            .field("settings", &self.inner.settings)
            .finish_non_exhaustive()
    }
}
