//! Sends messages to branches in batches: while a few Applies to a shard are under way, messages
//! gather for the next one.
//!
//! There is one outbox per shard and urgency. A shard's lane answers a batch once all of it is
//! durable, so messages for different shards must not wait for each other. A lane may delay
//! acknowledgements to write them with a later batch, so they must not hold up votes.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::{
    encoded::{self, Encoded},
    participant::v1::{
        operation::Operation as Op, operation_result::Result as OpResult,
        participant_service_client::ParticipantServiceClient,
    },
};
use rpc::{
    MESSAGE_BYTES_MAX,
    routing::{ExpectedWait, RouteError, Router},
    status::Failure,
};
use telemetry::{
    semconv,
    trace::{self, CallerSpan},
};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tonic::Request;
use tracing::{Instrument as _, Span};
use types::{Branch, Service};

/// Upper limit on the operations in one Apply, unless a lower one is set.
const BATCH_MAX: usize = 512;
/// Limit on the Applies of one urgency under way to one shard. A call that reaches the lane during
/// a batch joins the next batch, so a message should not wait here for an earlier Apply's answer.
const IN_FLIGHT: usize = 4;
/// Upper limit on the messages waiting for one shard. Further ones are sent again later.
const QUEUE: usize = 16_384;
/// Upper limit on waiting for a participant before it is asked again, perhaps at another replica.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a message was not answered. It may have arrived; send it again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// No participant of this name is configured here.
    #[error("no participant is called {0}")]
    Unknown(Service),
    /// No replica is known.
    #[error(transparent)]
    Route(#[from] RouteError),
    /// The call failed.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// The participant answered this operation with an error.
    #[error("the participant refused ({code}): {message}")]
    Refused {
        /// A google.rpc.Code number.
        code: i32,
        /// A message for people.
        message: String,
    },
    /// Too much is waiting for this shard, or the outbox is gone.
    #[error("the outbox is full")]
    Full,
}

impl SendError {
    /// The metric label of the error.
    pub(crate) const fn label(&self) -> &'static str {
        match self {
            Self::Unknown(_) => "unknown_service",
            Self::Route(_) => "no_route",
            Self::Failed(_) => "failed",
            Self::Refused { .. } => "refused",
            Self::Full => "mailbox_full",
        }
    }
}

/// How soon an answer is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// A caller waits for the answer.
    Awaited,
    /// The lane may delay it until a later batch.
    Background,
}

/// The outboxes, created on first use.
type Outboxes = BTreeMap<(Branch, Urgency), mpsc::Sender<Envelope>>;

/// An operation, the sender for its result, and its caller's span.
type Envelope = (Encoded, oneshot::Sender<Result<OpResult, SendError>>, CallerSpan);

/// Sends to every participant. Clones share the outboxes.
#[derive(Clone)]
pub struct ParticipantClient {
    routers: Arc<BTreeMap<Service, Router>>,
    outboxes: Arc<Mutex<Outboxes>>,
    batch_max: usize,
}

impl fmt::Debug for ParticipantClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParticipantClient")
            .field("services", &self.routers.keys())
            .finish_non_exhaustive()
    }
}

impl ParticipantClient {
    /// A client of these services. `batch_max` lowers the limit on the messages sent to a shard at
    /// once.
    pub fn new(routers: BTreeMap<Service, Router>, batch_max: Option<u16>) -> Self {
        let batch_max = batch_max.map_or(BATCH_MAX, |max| BATCH_MAX.min(max.into()));
        Self { routers: Arc::new(routers), outboxes: Arc::default(), batch_max }
    }

    /// Sends one operation to its branch and waits for the answer. `patient` allows the lane to
    /// delay it.
    ///
    /// # Errors
    /// [`SendError`]: the operation may have arrived nevertheless. It may be repeated.
    pub async fn send(
        &self,
        branch: &Branch,
        operation: Encoded,
        patient: bool,
    ) -> Result<OpResult, SendError> {
        let urgency = if patient { Urgency::Background } else { Urgency::Awaited };
        let (reply, answer) = oneshot::channel();
        let envelope = (operation, reply, CallerSpan::here());
        self.outbox(branch, urgency)?.try_send(envelope).map_err(|_| SendError::Full)?;
        match answer.await.map_err(|_| SendError::Full)?? {
            OpResult::Error(error) => {
                Err(SendError::Refused { code: error.code, message: error.message })
            }
            result @ (OpResult::Prepare(_)
            | OpResult::Commit(_)
            | OpResult::Abort(_)
            | OpResult::Query(_)
            | OpResult::Forget(_)
            | OpResult::Read(_)
            | OpResult::Refuse(_)
            | OpResult::Waiting(_)) => Ok(result),
        }
    }

    /// Sends a Prepare in a separate call, which waits for transactions that are in the way.
    ///
    /// # Errors
    /// [`SendError`]: the Prepare may have arrived nevertheless. It may be repeated.
    pub async fn prepare_and_wait(
        &self,
        branch: &Branch,
        prepare: &Encoded,
    ) -> Result<OpResult, SendError> {
        let Ok(Some(Op::Prepare(request))) = prepare.decode() else {
            let message = "only a Prepare may wait".to_owned();
            return Err(SendError::Refused { code: 13, message });
        };
        let send = async |transport, request| {
            let client = ParticipantServiceClient::new(transport);
            client.max_decoding_message_size(MESSAGE_BYTES_MAX).prepare(request).await
        };
        let wait = ExpectedWait::Wait(ATTEMPT_TIMEOUT);
        let route = self.router(&branch.service)?.route(branch.shard)?;
        let answer = route.call(wait, Request::new(request), send).await;
        Ok(OpResult::Prepare(answer.map_err(Failure::from)?.into_inner()))
    }

    /// True if the service is configured here.
    pub fn knows(&self, service: &Service) -> bool {
        self.routers.contains_key(service)
    }

    /// The number of shards of a service.
    ///
    /// # Errors
    /// [`SendError`]; retry, unless it is [`SendError::Unknown`].
    pub async fn shards(&self, service: &Service) -> Result<u16, SendError> {
        Ok(self.router(service)?.shards().await?)
    }

    /// Makes the next use of each service ask for its number of shards again.
    pub fn forget_descriptions(&self) {
        self.routers.values().for_each(Router::forget_description);
    }

    /// The replicas of a service.
    pub(crate) fn router(&self, service: &Service) -> Result<&Router, SendError> {
        self.routers.get(service).ok_or_else(|| SendError::Unknown(service.clone()))
    }

    fn outbox(
        &self,
        branch: &Branch,
        urgency: Urgency,
    ) -> Result<mpsc::Sender<Envelope>, SendError> {
        // No change under this lock is left half-done, so a panic elsewhere does not matter.
        let mut outboxes = self.outboxes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = outboxes.get(&(branch.clone(), urgency)) {
            return Ok(sender.clone());
        }
        let router = self.router(&branch.service)?.clone();
        let (sender, inbox) = mpsc::channel(QUEUE);
        tokio::spawn(carry(inbox, router, branch.clone(), self.batch_max));
        outboxes.insert((branch.clone(), urgency), sender.clone());
        Ok(sender)
    }
}

/// Empties one outbox, batch by batch.
async fn carry(
    mut inbox: mpsc::Receiver<Envelope>,
    router: Router,
    branch: Branch,
    batch_max: usize,
) {
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let mut envelopes = Vec::new();
    loop {
        // Waits for room first, so that messages which arrive meanwhile share a batch.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        if inbox.recv_many(&mut envelopes, batch_max).await == 0 {
            return;
        }
        let batch = std::mem::take(&mut envelopes);
        let (router, branch) = (router.clone(), branch.clone());
        tokio::spawn(async move {
            deliver(batch, &router, &branch).await;
            drop(permit);
        });
    }
}

async fn deliver(mut batch: Vec<Envelope>, router: &Router, branch: &Branch) {
    // A closed reply means that the driver has replaced the message or no longer waits for it.
    batch.retain(|(_, reply, _)| !reply.is_closed());
    if batch.is_empty() {
        return;
    }
    telemetry::metrics().mail_batch_size.record(batch.len(), []);
    let span = batch_span(&batch, branch);
    let (operations, replies): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|(operation, reply, _)| (operation, reply)).unzip();
    let results = match apply(operations, router, branch).instrument(span).await {
        Ok(results) => results.into_iter().map(Ok).collect(),
        Err(error) => vec![Err(error); replies.len()],
    };
    for (reply, result) in replies.into_iter().zip(results) {
        let _gone = reply.send(result);
    }
}

/// The span of one Apply, linked to the spans of its messages' callers.
fn batch_span(batch: &[Envelope], branch: &Branch) -> Span {
    let caller_spans = batch.iter().map(|(_, _, caller_span)| caller_span);
    let span = trace::batch(&caller_spans, || {
        tracing::debug_span!(
            target: trace::TARGET,
            "batch of messages",
            { semconv::BRANCH } = %branch,
            { semconv::BATCH_CALLS } = batch.len(),
        )
    });
    trace::link(&span, caller_spans);
    span
}

async fn apply(
    operations: Vec<Encoded>,
    router: &Router,
    branch: &Branch,
) -> Result<Vec<OpResult>, SendError> {
    let sent = operations.len();
    let send = |transport, request| encoded::apply(transport, request, MESSAGE_BYTES_MAX);
    let wait = ExpectedWait::Answer(ATTEMPT_TIMEOUT);
    let request = Request::new(operations.into_iter().collect());
    let answer = router.route(branch.shard)?.call(wait, request, send).await;
    let results = answer.map_err(Failure::from)?.into_inner().results;
    let results: Vec<OpResult> = results.into_iter().filter_map(|result| result.result).collect();
    if results.len() == sent {
        return Ok(results);
    }
    Err(SendError::Refused { code: 13, message: "the answers do not match".to_owned() })
}

#[cfg(test)]
mod tests {
    use proto::participant::v1::PrepareRequest;
    use rpc::net::{Endpoint, Net, NetError, Transport, in_process};

    use super::*;

    /// A network without any answers.
    #[derive(Debug)]
    struct Silent;

    impl Net for Silent {
        fn connect(&self, _: &Endpoint) -> Transport {
            in_process(tower::service_fn(async |_: http::Request<tonic::body::Body>| {
                std::future::pending::<Result<_, NetError>>().await
            }))
        }
    }

    /// A Prepare waits for transactions that are in the way; an Apply never waits.
    #[tokio::test(start_paused = true)]
    async fn silence_tells_of_a_replica_that_was_sent_an_apply_and_not_of_one_that_waits() {
        let service = Service::new("stock").unwrap();
        let branch = Branch { service: service.clone(), shard: types::ShardId(0) };
        let prepare: Encoded = Op::Prepare(PrepareRequest::default()).into();
        for (waits, keeps) in [(true, true), (false, false)] {
            let router = Router::new("a:1,b:1".parse().unwrap(), Arc::new(Silent));
            let routers = BTreeMap::from([(service.clone(), router.clone())]);
            let client = ParticipantClient::new(routers, None);
            let first = router.route(branch.shard).unwrap().endpoint;
            let answer = if waits {
                client.prepare_and_wait(&branch, &prepare).await
            } else {
                client.send(&branch, prepare.clone(), false).await
            };
            assert!(matches!(answer, Err(SendError::Failed(_))), "{answer:?}");
            assert_eq!(router.route(branch.shard).unwrap().endpoint == first, keeps);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_without_an_address_is_told_from_one_that_fails() {
        let service = Service::new("stock").unwrap();
        let branch = Branch { service: service.clone(), shard: types::ShardId(0) };
        let router = Router::new("dns:nowhere.invalid:1".parse().unwrap(), Arc::new(Silent));
        let client = ParticipantClient::new(BTreeMap::from([(service, router)]), None);
        let prepare: Encoded = Op::Prepare(PrepareRequest::default()).into();
        for answer in [
            client.prepare_and_wait(&branch, &prepare).await,
            client.send(&branch, prepare.clone(), false).await,
        ] {
            assert_eq!(answer.map_err(|error| error.label()), Err("no_route"));
        }
    }

    #[test]
    fn applies_can_be_made_smaller_and_never_larger() {
        let batch_max = |given| ParticipantClient::new(BTreeMap::new(), given).batch_max;
        assert_eq!(batch_max(None), BATCH_MAX);
        assert_eq!(batch_max(Some(1)), 1);
        assert_eq!(batch_max(Some(u16::MAX)), BATCH_MAX);
    }
}
