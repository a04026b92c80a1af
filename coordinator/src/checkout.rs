//! Buys one order: reads it, makes a plan, runs the transaction, and starts over until the result
//! is definite.

use std::time::Duration;

use prost::Message as _;
use proto::{
    order::v1::{
        GetOrderRequest, GetOrderResponse, Order, order_service_client::OrderServiceClient,
    },
    participant::v1::{
        ReadRequest, operation::Operation as Op, operation_result::Result as OpResult,
    },
};
use rpc::{retry::Backoff, routing::ExpectedWait, status::Failure, unary};
use tokio::time::Instant;
use types::{
    Classify as _, ClientCall, ErrorKind, OrderId, Reason, Refusal, Timestamp, TxId, TxMeta,
    UnixMillis, shard_of,
};

use crate::{
    attempts::{AGAIN, Attempted, Attempts, Noted},
    driver::is_outdated,
    error::{CheckoutError, refused},
    participant_client::SendError,
    plan::{self, PlanError, Shards},
    state::Coordinator,
    tx_log::AttemptInfo,
};

/// Upper bound on waiting for the order service before it is asked again, perhaps at another
/// replica.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// A checkout that succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paid {
    /// Paid by this transaction.
    Now(TxId),
    /// Was paid before this call.
    Before,
}

/// Counts the result of a checkout. A participant's own reasons count as OTHER, so that the label's
/// values stay few.
pub(crate) fn count(told: &Result<Paid, CheckoutError>) {
    let (outcome, reason) = match told {
        Ok(Paid::Now(_)) => ("paid", ""),
        Ok(Paid::Before) => ("already_paid", ""),
        Err(CheckoutError::Refused(refusal)) => ("refused", refusal.reason.as_str()),
        Err(CheckoutError::RefusedElsewhere { .. }) => ("refused", "OTHER"),
        Err(CheckoutError::Unavailable | CheckoutError::Outdated) => ("unavailable", ""),
        Err(CheckoutError::OutcomeUnknown) => ("unknown", ""),
        Err(CheckoutError::Broken(_)) => ("failed", "BROKEN"),
        Err(CheckoutError::Failed(failure)) => match Reason::parse(&failure.reason()) {
            Some(reason) => ("refused", reason.as_str()),
            None => ("failed", "OTHER"),
        },
    };
    telemetry::metrics().checkouts.one([outcome, reason]);
}

/// What is stored under an order's id.
enum Read {
    Order(GetOrderResponse),
    NotFound(Refusal),
}

/// A checkout as its caller asks for it.
#[derive(Debug, Clone)]
pub struct Checkout {
    /// The order to buy.
    pub order_id: OrderId,
    /// The client's call.
    pub call: ClientCall,
    /// The order is bought only if its content matches one of these tokens. If empty, any content
    /// matches.
    pub if_match: Vec<String>,
    /// When an earlier attempt of the call ended without an answer, by the store's clock.
    pub unanswered: Option<UnixMillis>,
}

/// The result of one try.
enum Tried {
    Paid(Paid),
    /// Nothing definite. Wait for these transactions, if any, before the next try.
    Again(Vec<TxMeta>),
}

impl Coordinator {
    /// Buys an order, within `time`. The order is bought at most once, no matter how often and with
    /// which request ids this is called.
    ///
    /// # Errors
    /// [`CheckoutError`].
    pub async fn checkout(
        &self,
        checkout: &Checkout,
        mut info: AttemptInfo,
        time: Duration,
    ) -> Result<Paid, CheckoutError> {
        info.order_id = Some(checkout.order_id.clone());
        let mut attempts = Attempts::new(self, checkout.call.clone(), info, time);
        loop {
            match self.try_once(checkout, &mut attempts).await {
                Ok(Tried::Paid(paid)) => return Ok(paid),
                Ok(Tried::Again(blockers)) => attempts.pause("checkout", &blockers).await?,
                Err(error) => {
                    if error.is_refusal() {
                        attempts.settle(checkout.unanswered).await;
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn try_once(
        &self,
        checkout: &Checkout,
        attempts: &mut Attempts<'_>,
    ) -> Result<Tried, CheckoutError> {
        let (read, shards) = self.read(&checkout.order_id, attempts.until()).await?;
        let (began, order) = match read {
            Read::Order(read) => (Timestamp(read.read_ts), read.order.unwrap_or_default()),
            Read::NotFound(refusal) => {
                let began = self.timestamp().await?;
                attempts.admit(began)?;
                return self.refuse(checkout, attempts, &shards, began, refusal).await;
            }
        };
        if order.etag.is_empty() {
            return Err(CheckoutError::Outdated);
        }
        if let Err(refusal) = check_match(&order, &checkout.if_match) {
            attempts.admit(began)?;
            return self.refuse(checkout, attempts, &shards, began, refusal).await;
        }
        if order.paid {
            return Ok(Tried::Paid(Paid::Before));
        }
        attempts.admit(began)?;
        let plan = match plan::of(&order, self.services(), &shards) {
            Ok(plan) => plan,
            Err(PlanError::Refused(refusal)) => {
                return self.refuse(checkout, attempts, &shards, began, refusal).await;
            }
            Err(PlanError::Invalid(error)) => {
                let order_id = &checkout.order_id;
                tracing::error!(%error, %order_id, "the order service's answer does not convert");
                return Err(Refusal::new(Reason::Internal).into());
            }
        };
        match attempts.run(began, plan.branches, plan.payloads).await? {
            Attempted::Committed(tx_id) => Ok(Tried::Paid(Paid::Now(tx_id))),
            Attempted::Refused(refusals) => {
                if refusals.votes.iter().any(|no| no.reason == Reason::WrongShard.as_str()) {
                    self.participants().forget_descriptions();
                }
                if refusals.votes.iter().any(|no| is_outdated(&no.reason)) {
                    return Ok(Tried::Again(Vec::new()));
                }
                let place = self.services().order_branch(&checkout.order_id, &shards);
                let tx_id = attempts.refuse(&place, began, refusals).await?;
                Ok(Tried::Paid(Paid::Now(tx_id)))
            }
            Attempted::Again(blockers) => Ok(Tried::Again(blockers)),
        }
    }

    /// Refuses the call for a reason found before any transaction began. The order's shard
    /// remembers the refusal, so that a delayed attempt of the call cannot succeed after the client
    /// was refused.
    async fn refuse(
        &self,
        checkout: &Checkout,
        attempts: &Attempts<'_>,
        shards: &Shards,
        began: Timestamp,
        refusal: Refusal,
    ) -> Result<Tried, CheckoutError> {
        let place = self.services().order_branch(&checkout.order_id, shards);
        match attempts.note_refusal(&place, began, (&refusal).into()).await? {
            Noted::Committed(tx_id) => Ok(Tried::Paid(Paid::Now(tx_id))),
            Noted::Refused(no) => Err(refused(no.reason, no.metadata)),
            Noted::Nothing => Err(refusal.into()),
        }
    }

    /// Reads the order once no checkout of it is in flight.
    async fn read(
        &self,
        order_id: &OrderId,
        until: Instant,
    ) -> Result<(Read, Shards), CheckoutError> {
        let mut backoff = Backoff::new(self.entropy(), AGAIN.0, AGAIN.1);
        loop {
            let failure = match self.shards().await {
                Ok(shards) => match self.read_once(order_id, &shards, until).await {
                    Ok(read) => {
                        self.store_time().hear(Timestamp(read.read_ts));
                        return Ok((Read::Order(read), shards));
                    }
                    Err(failure) if failure.kind == ErrorKind::NotFound => {
                        let refusal = Refusal::new(Reason::OrderNotFound);
                        let refusal = refusal.with("order_id", order_id);
                        return Ok((Read::NotFound(refusal), shards));
                    }
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
        if let Some(read) = self.read_in_batch(order_id, shards, until).await {
            return Ok(read);
        }
        let left = until.saturating_duration_since(Instant::now());
        let shard = shard_of(order_id.as_str(), shards.order);
        let request = GetOrderRequest { order_id: order_id.to_string() };
        let send = unary!(OrderServiceClient::get_order);
        let orders = self.participants().router(&self.services().order);
        let orders = orders.map_err(|none| Failure::new(Reason::Unavailable, none.to_string()))?;
        orders.call(shard, ExpectedWait::Wait(left.min(READ_TIMEOUT)), request, send).await
    }

    /// Reads the order in the same batch as other messages to its shard. Returns `None` for
    /// anything but a plain answer, such as a checkout in flight or a refusal. The caller then
    /// reads the order by a separate call, which waits and returns the reason.
    async fn read_in_batch(
        &self,
        order_id: &OrderId,
        shards: &Shards,
        until: Instant,
    ) -> Option<GetOrderResponse> {
        let place = self.services().order_branch(order_id, shards);
        let query = GetOrderRequest { order_id: order_id.to_string() }.encode_to_vec().into();
        let read = Op::Read(ReadRequest { branch: Some((&place).into()), query });
        let answer = self.participants().send(&place, read.into(), false);
        match tokio::time::timeout_at(until, answer).await {
            Ok(Ok(OpResult::Read(response))) => GetOrderResponse::decode(response.answer).ok(),
            Ok(Ok(_) | Err(_)) | Err(_) => None,
        }
    }

    /// The number of shards of each service.
    async fn shards(&self) -> Result<Shards, SendError> {
        let (participants, planned) = (self.participants(), self.services());
        let mut others = Vec::new();
        for service in self.checkout_participants() {
            others.push((service.clone(), participants.shards(service).await?));
        }
        Ok(Shards {
            order: participants.shards(&planned.order).await?,
            stock: participants.shards(&planned.stock).await?,
            payment: participants.shards(&planned.payment).await?,
            others,
        })
    }
}

/// Checks that an order matches one of the caller's tokens: its current content or, if paid, the
/// content that was sold.
fn check_match(order: &Order, if_match: &[String]) -> Result<(), Refusal> {
    let fits = |token: &String| {
        token == "*" || *token == order.etag || (order.paid && *token == order.sold_etag)
    };
    if if_match.is_empty() || if_match.iter().any(fits) {
        return Ok(());
    }
    Err(Refusal::new(Reason::OrderModified).with("order_id", &order.order_id))
}
