//! One order bought: read it, plan, run the transaction, and start over inside for as long as nothing
//! definite was said.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use prost::Message as _;
use proto::{
    encoded::Encoded,
    order::v1::{GetOrderRequest, GetOrderResponse, order_service_client::OrderServiceClient},
    participant::v1::{
        AbortRequest, ReadRequest, operation::Operation as Op,
        operation_result::Result as OpResult, vote::No,
    },
};
use rpc::{retry::Backoff, status::Failure};
use tokio::time::Instant;
use twopc::message::{Outcome, Refused};
use types::{
    Branch, Classify, ErrorKind, OrderId, Priority, Reason, Refusal, RequestId, Timestamp, TxId,
    TxMeta, shard_of,
};

use crate::{
    mail::MailError,
    plan::{self, PlanError, Shards},
    service::Coordinator,
    tx_log::Origin,
};

/// Least and greatest pause before an order is tried again.
const AGAIN: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));
/// Longest that the order service is waited for before it is asked again, perhaps elsewhere.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A checkout that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paid {
    /// By this transaction.
    Now(TxId),
    /// Before this call.
    Before,
}

/// Why a checkout did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckoutError {
    /// A definite answer; nothing is left behind.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// A refusal by a participant whose reasons we do not know.
    #[error("a participant refused: {reason}")]
    RefusedElsewhere {
        /// Its reason.
        reason: String,
        /// Ids and amounts for people.
        metadata: BTreeMap<String, String>,
    },
    /// The order service said no, or gave no answer.
    #[error(transparent)]
    Failed(#[from] Failure),
    /// Time is over before anything was begun. Retry.
    #[error("no transaction could be begun in time")]
    Unavailable,
    /// Time is over and a decision may exist. Ask again with the same request id.
    #[error("the outcome is not known yet")]
    OutcomeUnknown,
    /// The rules of the protocol were broken. A person must look.
    #[error("the transaction {0} broke the protocol")]
    Broken(TxId),
}

impl Classify for CheckoutError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(refusal) => refusal.kind(),
            Self::RefusedElsewhere { .. } => ErrorKind::Rejected,
            Self::Failed(failure) => failure.kind(),
            Self::Unavailable | Self::OutcomeUnknown => ErrorKind::Unavailable,
            Self::Broken(_) => ErrorKind::Internal,
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::RefusedElsewhere { reason, .. } => Cow::Owned(reason.clone()),
            Self::Failed(failure) => failure.reason(),
            Self::Unavailable => Reason::Unavailable.as_str().into(),
            Self::OutcomeUnknown => Reason::OutcomeUnknown.as_str().into(),
            Self::Broken(_) => Reason::Internal.as_str().into(),
        }
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        match self {
            Self::Refused(refusal) => refusal.metadata(),
            Self::RefusedElsewhere { metadata, .. } => metadata.clone(),
            Self::Failed(failure) => failure.metadata(),
            Self::Unavailable | Self::OutcomeUnknown | Self::Broken(_) => BTreeMap::new(),
        }
    }
}

/// Counts what a caller is told. Reasons that are not ours are a participant's invention, and are not
/// counted by their names.
pub(crate) fn count(told: &Result<Paid, CheckoutError>) {
    let (outcome, reason) = match told {
        Ok(Paid::Now(_)) => ("paid", ""),
        Ok(Paid::Before) => ("already_paid", ""),
        Err(CheckoutError::Refused(refusal)) => ("refused", refusal.reason.as_str()),
        Err(CheckoutError::RefusedElsewhere { .. }) => ("refused", "OTHER"),
        Err(CheckoutError::Unavailable) => ("unavailable", ""),
        Err(CheckoutError::OutcomeUnknown) => ("unknown", ""),
        Err(CheckoutError::Broken(_)) => ("failed", "BROKEN"),
        Err(CheckoutError::Failed(failure)) => match Reason::parse(&failure.reason()) {
            Some(reason) => ("refused", reason.as_str()),
            None => ("failed", "OTHER"),
        },
    };
    telemetry::metrics().checkouts.one([outcome, reason]);
}

/// What one try came to.
enum Tried {
    Paid(Paid),
    /// Nothing definite: the next try may come at once, or after these are out of the way.
    Again(Vec<TxMeta>),
}

impl Coordinator {
    /// Buys an order, within `time`. However often it is called, with whatever request id, the order is
    /// bought once.
    ///
    /// # Errors
    /// [`CheckoutError`].
    pub async fn checkout(
        &self,
        order_id: &OrderId,
        request_id: Option<&RequestId>,
        mut origin: Origin,
        time: Duration,
    ) -> Result<Paid, CheckoutError> {
        let until = Instant::now() + time;
        let mut backoff = Backoff::new(self.entropy(), AGAIN.0, AGAIN.1);
        let mut priority = None;
        origin.order_id = Some(order_id.clone());
        loop {
            origin.attempt += 1;
            let tried = self.try_once(order_id, request_id, &mut priority, &origin, until);
            match tried.await? {
                Tried::Paid(paid) => return Ok(paid),
                Tried::Again(blockers) => {
                    let why = if blockers.is_empty() { "changed" } else { "contended" };
                    telemetry::metrics().retries.one(["checkout", why]);
                    let waits = async {
                        for blocker in &blockers {
                            self.wait_for(blocker).await;
                        }
                    };
                    // When time is over nothing of ours is under way.
                    let _late = tokio::time::timeout_at(until, waits).await;
                    tokio::time::sleep(backoff.pause()).await;
                }
            }
            if Instant::now() >= until {
                // Every try so far has ended without effect.
                return Err(CheckoutError::Unavailable);
            }
        }
    }

    async fn try_once(
        &self,
        order_id: &OrderId,
        request_id: Option<&RequestId>,
        priority: &mut Option<Priority>,
        origin: &Origin,
        until: Instant,
    ) -> Result<Tried, CheckoutError> {
        let (read, shards) = self.read(order_id, until).await?;
        let order = read.order.unwrap_or_default();
        if order.paid {
            return Ok(Tried::Paid(Paid::Before));
        }
        let began = Timestamp(read.read_ts);
        let plan = match plan::of(&order, self.services(), &shards) {
            Ok(plan) => plan,
            Err(PlanError::Refused(refusal)) => {
                if let Some(request_id) = request_id {
                    let place = self.services().order_branch(order_id, &shards);
                    self.bind_refusal(place, request_id, began, &refusal, until).await?;
                }
                return Err(refusal.into());
            }
            Err(PlanError::Invalid(error)) => {
                tracing::error!(%error, %order_id, "the order service's answer does not convert");
                return Err(Refusal::new(Reason::Internal).into());
            }
        };
        // A retry keeps the place of the first attempt.
        let priority = *priority.get_or_insert_with(|| Priority {
            begin_ts: began.0,
            nonce: self.entropy().next_u64(),
        });
        let meta = TxMeta {
            tx_id: self.new_tx_id(),
            priority,
            deadline: began.physical().plus_ms(self.vote_window_ms()),
            branches: plan.branches.into(),
            request_id: request_id.cloned(),
        };
        let tx_id = meta.tx_id;
        tracing::debug!(tx = %tx_id, %order_id, "begin");
        let answer = self.begin(meta, plan.payloads, origin.clone());
        let Ok(Ok(answer)) = tokio::time::timeout_at(until, answer).await else {
            // It goes on without us.
            return Err(CheckoutError::OutcomeUnknown);
        };
        match answer.map_err(|_| CheckoutError::Broken(tx_id))? {
            Outcome::Committed => Ok(Tried::Paid(Paid::Now(tx_id))),
            Outcome::Refused(refused) => judge(refused),
            Outcome::Contended(blockers) => Ok(Tried::Again(blockers)),
            Outcome::Fenced | Outcome::Undecided(_) => Ok(Tried::Again(Vec::new())),
        }
    }

    /// Has the order's shard remember a refusal that was found before anything was begun, by a fence that
    /// carries it: a copy of this call that hangs elsewhere must not succeed after the client was refused.
    async fn bind_refusal(
        &self,
        place: Branch,
        request_id: &RequestId,
        began: Timestamp,
        refusal: &Refusal,
        until: Instant,
    ) -> Result<(), CheckoutError> {
        let meta = TxMeta {
            tx_id: self.new_tx_id(),
            priority: Priority { begin_ts: began.0, nonce: self.entropy().next_u64() },
            deadline: began.physical().plus_ms(self.vote_window_ms()),
            branches: [place.clone()].into(),
            request_id: Some(request_id.clone()),
        };
        let Refusal { reason, metadata } = refusal.clone();
        let abort = Encoded::from(Op::Abort(AbortRequest {
            tx: Some((&meta).into()),
            branch: Some((&place).into()),
            evidence: None,
            refusal: Some(No { reason: reason.as_str().to_owned(), metadata }),
        }));
        let mut backoff = Backoff::new(self.entropy(), AGAIN.0, AGAIN.1);
        let told = async {
            while let Err(error) = self.mail().send(&place, abort.clone(), false).await {
                tracing::debug!(%error, "a refusal could not be noted yet");
                tokio::time::sleep(backoff.pause()).await;
            }
        };
        // A refusal that is not durable is not certain.
        tokio::time::timeout_at(until, told).await.map_err(|_| CheckoutError::OutcomeUnknown)
    }

    /// Reads the order as it stands, once no checkout of it is in flight.
    async fn read(
        &self,
        order_id: &OrderId,
        until: Instant,
    ) -> Result<(GetOrderResponse, Shards), CheckoutError> {
        let mut backoff = Backoff::new(self.entropy(), AGAIN.0, AGAIN.1);
        loop {
            let failure = match self.shards().await {
                Ok(shards) => match self.read_once(order_id, &shards, until).await {
                    Ok(read) => return Ok((read, shards)),
                    Err(failure) if !failure.is_transient() => return Err(failure.into()),
                    Err(failure) => failure.to_string(),
                },
                Err(error) => error.to_string(),
            };
            tracing::debug!(%order_id, failure, "the order could not be read yet");
            let pause = backoff.pause();
            if Instant::now() + pause >= until {
                return Err(CheckoutError::Unavailable);
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn read_once(
        &self,
        order_id: &OrderId,
        shards: &Shards,
        until: Instant,
    ) -> Result<GetOrderResponse, Failure> {
        if let Some(read) = self.read_along(order_id, shards, until).await {
            return Ok(read);
        }
        let router = self.order_router();
        let route = router.route(shard_of(order_id.as_str(), shards.order));
        let route = route.map_err(|error| Failure::from_status(&rpc::status::to_status(&error)))?;
        let mut client = OrderServiceClient::new(route.transport);
        let mut request = tonic::Request::new(GetOrderRequest { order_id: order_id.to_string() });
        let left = until.saturating_duration_since(Instant::now());
        rpc::deadline::set(&mut request, left.min(READ_TIMEOUT));
        match client.get_order(request).await {
            Ok(response) => Ok(response.into_inner()),
            Err(status) => {
                let failure = Failure::from_status(&status);
                router.failed_waiting(&route.endpoint, &failure);
                Err(failure)
            }
        }
    }

    /// Reads the order along with whatever else goes to its shard. None for whatever is no plain answer, a
    /// checkout in flight or a refusal for instance: it is then asked for by itself, which waits, and tells
    /// why not.
    async fn read_along(
        &self,
        order_id: &OrderId,
        shards: &Shards,
        until: Instant,
    ) -> Option<GetOrderResponse> {
        let place = self.services().order_branch(order_id, shards);
        let query = GetOrderRequest { order_id: order_id.to_string() }.encode_to_vec().into();
        let read = Op::Read(ReadRequest { branch: Some((&place).into()), query });
        let answer = self.mail().send(&place, read.into(), false);
        match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(OpResult::Read(response))) => GetOrderResponse::decode(response.answer).ok(),
            Ok(Ok(_) | Err(_)) | Err(_) => None,
        }
    }

    /// How many shards each service has.
    async fn shards(&self) -> Result<Shards, MailError> {
        let [order, stock, payment] = self.routers();
        let mut others = Vec::new();
        for service in self.checkout_participants() {
            others.push((service.clone(), self.mail().shards(service).await?));
        }
        Ok(Shards {
            order: order.shards().await?,
            stock: stock.shards().await?,
            payment: payment.shards().await?,
            others,
        })
    }
}

/// What a refusal means: that the order was not as it was read (then it is read again), or no.
fn judge(refused: Vec<Refused>) -> Result<Tried, CheckoutError> {
    let reread = |refused: &Refused| {
        matches!(
            Reason::parse(&refused.reason),
            Some(Reason::OrderChanged | Reason::AlreadyPaid | Reason::OrderNotFound)
        )
    };
    if refused.iter().any(reread) {
        return Ok(Tried::Again(Vec::new()));
    }
    let Some(first) = refused.into_iter().next() else { return Ok(Tried::Again(Vec::new())) };
    Err(match Reason::parse(&first.reason) {
        Some(reason) => Refusal { reason, metadata: first.metadata }.into(),
        None => CheckoutError::RefusedElsewhere { reason: first.reason, metadata: first.metadata },
    })
}
