//! The gRPC face of the coordinator, and what its parts share.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use proto::{
    InvalidField, convert,
    coordinator::v1::{
        CheckoutRequest, CheckoutResponse, ClaimRequestIdRequest, ClaimRequestIdResponse,
        ResolveRequest, ResolveResponse, coordinator_service_server::CoordinatorService,
    },
};
use rpc::{
    access::{Identity, Role},
    net::Net,
    routing::Router,
    status::{invalid_field, to_status},
    store_time::StoreTime,
};
use storage::{
    SharedKv,
    claims::{Claim, claim_request_id},
};
use telemetry::semconv;
use tokio::{sync::oneshot, task::JoinHandle};
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, metadata::MetadataMap};
use tracing::{Instrument as _, Span, field::Empty};
use types::{
    CALL_LIFE_MAX_MS, ClientCall, Clock, Entropy, Reason, Refusal, Service, TxId, TxMeta,
    UnixMillis,
};
use uuid::Builder;

use crate::{
    Extras, Settings,
    attempts::VoteWindow,
    checkout::{Checkout, CheckoutError, Paid, count},
    driver::{Answer, Driver},
    mail::Mail,
    plan::Services,
    resolve::Resolving,
    transactions::{told, trace_id},
    tx_log::{Origin, TxLog},
    watch::Watch,
};

/// The time of a call whose caller did not say how much it has.
const TIME: Duration = Duration::from_secs(30);
/// Taken off the caller's time, so that our answer arrives before it gives up.
const ANSWER_MARGIN: Duration = Duration::from_millis(50);
/// Longest description of a call.
const CALL_LEN_MAX: usize = 1024;

/// The coordinator. Clones share everything.
#[derive(Clone)]
pub struct Coordinator {
    shared: Arc<Shared>,
}

struct Shared {
    services: Services,
    /// Order, stock, payment.
    routers: [Router; 3],
    mail: Mail,
    kv: SharedKv,
    clock: Arc<dyn Clock>,
    entropy: Arc<dyn Entropy>,
    vote_window: VoteWindow,
    store_time: StoreTime,
    retention_ms: u64,
    resolving: Resolving,
    /// Take part in every checkout, besides.
    checkout_participants: Vec<Service>,
    log: TxLog,
    watch: Watch,
    /// Transactions that go on in the background.
    running: TaskTracker,
}

impl fmt::Debug for Coordinator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Coordinator").field("mail", &self.shared.mail).finish_non_exhaustive()
    }
}

impl Coordinator {
    /// A coordinator over these seams. Must be called within a tokio runtime.
    pub fn new(
        settings: &Settings,
        net: &Arc<dyn Net>,
        kv: SharedKv,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        Self::with(settings, &Extras::default(), net, kv, clock, entropy)
    }

    /// As [`Coordinator::new`], with more than a shop needs.
    pub fn with(
        settings: &Settings,
        extras: &Extras,
        net: &Arc<dyn Net>,
        kv: SharedKv,
        clock: Arc<dyn Clock>,
        entropy: Arc<dyn Entropy>,
    ) -> Self {
        let services = Services::named();
        let routers = [
            (Role::Order, &settings.order_endpoints),
            (Role::Stock, &settings.stock_endpoints),
            (Role::Payment, &settings.payment_endpoints),
        ]
        .map(|(role, target)| Router::to(Identity::of(role), target.clone(), Arc::clone(net)));
        let [order, stock, payment] = routers.clone();
        let mut by_name = BTreeMap::from([
            (services.order.clone(), order),
            (services.stock.clone(), stock),
            (services.payment.clone(), payment),
        ]);
        for participant in &extras.participants {
            let (target, net) = (participant.target.clone(), Arc::clone(net));
            let router = match Identity::participant(participant.service.as_str()) {
                Ok(callee) => Router::to(callee, target, net),
                // A name that no certificate can carry: any service of the shop will do.
                Err(_) => Router::new(target, net),
            };
            by_name.entry(participant.service.clone()).or_insert(router);
        }
        let log = TxLog::new(extras.log, Arc::clone(&clock));
        let shared = Shared {
            services,
            routers,
            mail: Mail::new(by_name, settings.batch_calls_max),
            kv,
            clock,
            entropy,
            vote_window: VoteWindow::new(settings.vote_window_ms),
            store_time: StoreTime::default(),
            retention_ms: settings.request_id_retention_ms,
            resolving: Resolving::default(),
            checkout_participants: extras.checkout_participants.clone(),
            log,
            watch: Watch::default(),
            running: TaskTracker::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    pub(crate) fn services(&self) -> &Services {
        &self.shared.services
    }

    pub(crate) fn routers(&self) -> &[Router; 3] {
        &self.shared.routers
    }

    pub(crate) fn order_router(&self) -> &Router {
        let [order, _, _] = &self.shared.routers;
        order
    }

    pub(crate) fn mail(&self) -> &Mail {
        &self.shared.mail
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

    pub(crate) fn vote_window(&self) -> &VoteWindow {
        &self.shared.vote_window
    }

    /// The store's time, as far as it is known here.
    pub fn store_time(&self) -> &StoreTime {
        &self.shared.store_time
    }

    /// The call that a request belongs to; see [`rpc::call::client_call`].
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

    /// What the last audit of the books came to, while this replica does them.
    pub fn watch(&self) -> &Watch {
        &self.shared.watch
    }

    pub(crate) fn checkout_participants(&self) -> &[Service] {
        &self.shared.checkout_participants
    }

    pub(crate) fn resolving(&self) -> &Resolving {
        &self.shared.resolving
    }

    /// Runs something to its end, whoever listens; a shutdown waits for it.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        self.shared.running.spawn(work.in_current_span())
    }

    /// A TxId that nobody ever had; it sorts by time.
    pub(crate) fn new_tx_id(&self) -> TxId {
        let bytes = self.shared.entropy.next_bytes();
        let mut random = [0; 10];
        random.copy_from_slice(&bytes[..10]);
        Builder::from_unix_timestamp_millis(self.now().0, &random).into_uuid().into()
    }

    /// Begins a transaction that goes on to its end, whoever listens. Its votes are waited for during `window`.
    pub(crate) fn begin(
        &self,
        meta: TxMeta,
        payloads: Vec<Bytes>,
        origin: Origin,
        window: Duration,
    ) -> oneshot::Receiver<Answer> {
        let span = transaction_span(&meta, &origin);
        let trace = self.log().open(&meta, origin);
        let (driver, answer) =
            Driver::new(self.shared.mail.clone(), self.entropy(), meta, payloads, trace.clone());
        let run = async move {
            driver.begin(window).await;
            trace.end();
        };
        self.spawn(run.instrument(span));
        answer
    }

    /// Begins to resolve a transaction; that goes on to its end, whoever listens.
    pub(crate) fn begin_resolution(
        &self,
        meta: TxMeta,
        may_fence: bool,
    ) -> oneshot::Receiver<Answer> {
        let span = transaction_span(&meta, &Origin::default());
        let trace = self.log().open(&meta, Origin::default());
        let (driver, answer) =
            Driver::new(self.shared.mail.clone(), self.entropy(), meta, Vec::new(), trace.clone());
        let run = async move {
            driver.resolve(may_fence).await;
            trace.end();
        };
        self.spawn(run.instrument(span));
        answer
    }

    /// Waits until nothing goes on in the background any more, for `time` at most. Returns how many
    /// transactions are left; any replica brings them to their end.
    pub async fn drain(&self, time: Duration) -> usize {
        self.shared.running.close();
        // Running out of time is one of the two ways in which this ends.
        let _late = tokio::time::timeout(time, self.shared.running.wait()).await;
        self.shared.running.len()
    }

    /// Checks out in a task of its own: a caller that goes away stops nothing.
    async fn checkout_to_the_end(
        &self,
        checkout: Checkout,
        origin: Origin,
        time: Duration,
    ) -> Result<Paid, CheckoutError> {
        let this = self.clone();
        let task = self.spawn(async move { this.checkout(&checkout, origin, time).await });
        task.await.unwrap_or(Err(CheckoutError::OutcomeUnknown))
    }
}

/// The time that a call has for its answer.
pub(crate) fn time_of<T>(request: &Request<T>) -> Duration {
    let time = rpc::deadline::of(request.metadata()).unwrap_or(TIME);
    time.min(Duration::from_millis(CALL_LIFE_MAX_MS)).saturating_sub(ANSWER_MARGIN)
}

/// One attempt, from its first message until nothing is left to do.
fn transaction_span(meta: &TxMeta, origin: &Origin) -> Span {
    tracing::debug_span!(
        target: telemetry::trace::TARGET,
        "transaction",
        { semconv::TX_ID } = %meta.tx_id,
        // 0 for a resolution of somebody else's.
        { semconv::TX_ATTEMPT } = origin.attempt,
        { semconv::ORDER_ID } = origin.order_id.as_ref().map(tracing::field::display),
        { semconv::TX_OUTCOME } = Empty,
    )
}

pub(crate) fn invalid(error: &InvalidField) -> Status {
    invalid_field(error.field, &error.problem)
}

#[tonic::async_trait]
impl CoordinatorService for Coordinator {
    async fn checkout(
        &self,
        request: Request<CheckoutRequest>,
    ) -> Result<Response<CheckoutResponse>, Status> {
        let time = time_of(&request);
        let trace_id = trace_id(request.metadata());
        let (metadata, _, request) = request.into_parts();
        let origin = Origin { trace_id, keep: request.keep_log, ..Origin::default() };
        let order_id =
            convert::order_id("order_id", &request.order_id).map_err(|error| invalid(&error))?;
        let what = format!("Checkout/{order_id}");
        let checkout = Checkout {
            call: self.client_call(&metadata, &request.request_id, &what)?,
            order_id,
            if_match: request.if_match,
            unanswered: (request.unanswered_at_ms > 0)
                .then_some(UnixMillis(request.unanswered_at_ms)),
        };
        let paid = self.checkout_to_the_end(checkout, origin, time).await;
        count(&paid);
        match paid.map_err(|error| to_status(&error))? {
            Paid::Now(tx_id) => Ok(Response::new(CheckoutResponse {
                already_paid: false,
                tx_id: tx_id.0.to_vec().into(),
            })),
            Paid::Before => {
                Ok(Response::new(CheckoutResponse { already_paid: true, tx_id: Bytes::new() }))
            }
        }
    }

    async fn resolve(
        &self,
        request: Request<ResolveRequest>,
    ) -> Result<Response<ResolveResponse>, Status> {
        let meta =
            convert::tx_meta(request.get_ref().tx.as_ref()).map_err(|error| invalid(&error))?;
        let outcome = self.resolve(meta.clone()).await;
        let outcome = outcome.ok_or_else(|| to_status(&Refusal::new(Reason::Internal)))?;
        let (outcome, missing) = told(&meta, outcome);
        Ok(Response::new(ResolveResponse { outcome: outcome.into(), missing }))
    }

    async fn claim_request_id(
        &self,
        request: Request<ClaimRequestIdRequest>,
    ) -> Result<Response<ClaimRequestIdResponse>, Status> {
        let request = request.into_inner();
        let id = convert::request_id(&request.request_id).map_err(|error| invalid(&error))?;
        let id = id.ok_or_else(|| invalid_field("request_id", "must not be empty"))?;
        if request.call.is_empty() || request.call.len() > CALL_LEN_MAX {
            return Err(invalid_field("call", "must be 1 to 1024 bytes"));
        }
        let claim =
            claim_request_id(&*self.shared.kv, &id, &request.call, self.shared.retention_ms).await;
        match claim.map_err(|error| to_status(&error))? {
            Claim::Claimed(read) => Ok(Response::new(ClaimRequestIdResponse { read_ts: read.0 })),
            Claim::Reused => Err(to_status(&Refusal::new(Reason::RequestIdReused))),
        }
    }
}
