//! The state that the modules of a coordinator share, and its transactions under way.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use rpc::{access::Identity, net::Net, routing::Router, store_time::StoreTime};
use storage::SharedKv;
use telemetry::semconv;
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::task::TaskTracker;
use tonic::{Status, metadata::MetadataMap};
use tracing::{Instrument as _, Span, field::Empty};
use twopc::message::Outcome;
use types::{ClientCall, Clock, Entropy, Service, Timestamp, TxId, TxMeta, UnixMillis};
use uuid::Builder;

use crate::{
    Extras, Settings,
    driver::{Driver, DriverResult},
    error::CheckoutError,
    participant_client::ParticipantClient,
    plan::{PLANNED, Services},
    singleflight::Singleflight,
    tx_log::{AttemptInfo, TxLog},
    vote_window::VoteWindow,
    watch::Watch,
};

/// The coordinator. Clones share everything.
#[derive(Clone)]
pub struct Coordinator {
    shared: Arc<Shared>,
}

struct Shared {
    services: Services,
    participants: ParticipantClient,
    kv: SharedKv,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    vote_window: VoteWindow,
    store_time: StoreTime,
    retention_ms: u64,
    /// Resolutions under way. `None` means that the transaction broke the protocol.
    resolving: Singleflight<TxId, Option<Outcome>>,
    /// Further services that have a branch in every checkout.
    checkout_participants: Vec<Service>,
    log: TxLog,
    watch: Watch,
    /// Tasks that run in the background: transactions, resolutions and calls.
    running: TaskTracker,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator")
            .field("participants", &self.shared.participants)
            .finish_non_exhaustive()
    }
}

impl Coordinator {
    /// Makes a coordinator over the given network, store, clock and entropy. The extras are further
    /// participants and log settings. Must be called within a tokio runtime.
    pub fn new(
        settings: &Settings,
        extras: &Extras,
        net: &Arc<dyn Net>,
        kv: SharedKv,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let mut by_name = BTreeMap::new();
        let mut checkout_participants = Vec::new();
        for (role, target) in settings.services.iter() {
            let router = Router::to(Identity::of(role), target.clone(), Arc::clone(net));
            by_name.insert(Service::from(role), router);
            if !PLANNED.contains(&role) {
                checkout_participants.push(role.into());
            }
        }
        checkout_participants.extend_from_slice(&extras.checkout_participants);
        for participant in &extras.participants {
            let (target, net) = (participant.target.clone(), Arc::clone(net));
            let router = match Identity::participant(participant.service.as_str()) {
                Ok(callee) => Router::to(callee, target, net),
                // No certificate can carry this name, so any service of the shop is accepted.
                Err(_) => Router::new(target, net),
            };
            by_name.entry(participant.service.clone()).or_insert(router);
        }
        let log = TxLog::new(extras.log, Arc::clone(&clock));
        let shared = Shared {
            services: Services::named(),
            participants: ParticipantClient::new(by_name, settings.batch_calls_max),
            kv,
            clock,
            entropy,
            vote_window: VoteWindow::new(settings.vote_window_ms),
            store_time: StoreTime::default(),
            retention_ms: settings.request_id_retention_ms,
            resolving: Singleflight::default(),
            checkout_participants,
            log,
            watch: Watch::default(),
            running: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn services(&self) -> &Services {
        &self.shared.services
    }

    pub(crate) fn participants(&self) -> &ParticipantClient {
        &self.shared.participants
    }

    pub(crate) fn kv(&self) -> &SharedKv {
        &self.shared.kv
    }

    pub(crate) fn now(&self) -> UnixMillis {
        self.shared.clock.now()
    }

    pub(crate) fn entropy(&self) -> Arc<dyn Entropy> {
        Arc::clone(&self.shared.entropy)
    }

    pub(crate) fn retention_ms(&self) -> u64 {
        self.shared.retention_ms
    }

    pub(crate) fn vote_window(&self) -> &VoteWindow {
        &self.shared.vote_window
    }

    /// The store's time, as estimated by this process.
    pub fn store_time(&self) -> &StoreTime {
        &self.shared.store_time
    }

    /// The client call of a request; see [`rpc::call::client_call`].
    pub(crate) fn client_call(
        &self,
        metadata: &MetadataMap,
        request_id: &str,
        what: &str,
    ) -> Result<ClientCall, Status> {
        rpc::call::client_call(metadata, request_id, what, &*self.shared.entropy)
    }

    /// The log of transactions.
    pub fn log(&self) -> &TxLog {
        &self.shared.log
    }

    /// The verdict of the last audit of the books, while this replica audits them.
    pub fn watch(&self) -> &Watch {
        &self.shared.watch
    }

    pub(crate) fn checkout_participants(&self) -> &[Service] {
        &self.shared.checkout_participants
    }

    pub(crate) fn resolving(&self) -> &Singleflight<TxId, Option<Outcome>> {
        &self.shared.resolving
    }

    /// Runs a task to its end even if nobody awaits it. A shutdown waits for it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.shared.running.spawn(work.in_current_span())
    }

    /// A fresh, unique TxId. TxIds sort by time.
    pub(crate) fn new_tx_id(&self) -> TxId {
        let bytes = self.shared.entropy.next_bytes();
        let mut random = [0; 10];
        random.copy_from_slice(&bytes[..10]);
        Builder::from_unix_timestamp_millis(self.now().0, &random).into_uuid().into()
    }

    /// Begins a transaction, which runs to its end even if the receiver is dropped. It waits for
    /// votes during `window`.
    pub(crate) fn begin(
        &self,
        meta: TxMeta,
        payloads: Vec<Bytes>,
        info: AttemptInfo,
        window: Duration,
    ) -> oneshot::Receiver<DriverResult> {
        self.drive(meta, payloads, info, move |driver| driver.begin(window))
    }

    /// Begins to resolve a transaction. This runs to its end even if the receiver is dropped.
    pub(crate) fn begin_resolution(
        &self,
        meta: TxMeta,
        may_fence: bool,
    ) -> oneshot::Receiver<DriverResult> {
        let resolve = move |driver: Driver| driver.resolve(may_fence);
        self.drive(meta, Vec::new(), AttemptInfo::default(), resolve)
    }

    /// Spawns a driver of this transaction. Returns the receiver of its answer.
    fn drive<F: Future<Output = ()> + Send + 'static>(
        &self,
        meta: TxMeta,
        payloads: Vec<Bytes>,
        info: AttemptInfo,
        work: impl FnOnce(Driver) -> F,
    ) -> oneshot::Receiver<DriverResult> {
        let span = transaction_span(&meta, &info);
        let log_entry = self.log().open(&meta, info);
        let participants = self.shared.participants.clone();
        let (driver, answer) =
            Driver::new(participants, self.entropy(), meta, payloads, log_entry.clone());
        let work = work(driver);
        let run = async move {
            work.await;
            log_entry.end();
        };
        self.spawn(run.instrument(span));
        answer
    }

    /// Waits for background work to finish, for `time` at most. Returns the number of tasks left;
    /// any replica can finish their transactions.
    pub async fn drain(&self, time: Duration) -> usize {
        self.shared.running.close();
        // A timeout is not an error: the return value says what is left.
        let _late = tokio::time::timeout(time, self.shared.running.wait()).await;
        self.shared.running.len()
    }

    /// Reads the store's time.
    pub(crate) async fn timestamp(&self) -> Result<Timestamp, CheckoutError> {
        let now = self.kv().timestamp().await.map_err(|_| CheckoutError::Unavailable)?;
        self.store_time().hear(now);
        Ok(now)
    }
}

/// The span of one attempt, from its first message until it is finished.
fn transaction_span(meta: &TxMeta, info: &AttemptInfo) -> Span {
    tracing::debug_span!(
        target: telemetry::trace::TARGET,
        "transaction",
        { semconv::TX_ID } = %meta.tx_id,
        // 0 for a resolution by another process.
        { semconv::TX_ATTEMPT } = info.attempt,
        { semconv::ORDER_ID } = info.order_id.as_ref().map(tracing::field::display),
        { semconv::TX_OUTCOME } = Empty,
    )
}
