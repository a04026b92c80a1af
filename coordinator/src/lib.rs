//! The coordinator role: runs two-phase commit across the participants.
//!
//! This crate does not know what a payload means (only [`plan`], which makes them, knows orders,
//! stock and payment), nor which store it uses. No outcome depends on this process: the
//! participants keep all votes and outcomes.
//!
//! Modules, bottom up: [`plan`] turns an order into branches with payloads; [`participant_client`]
//! sends batches of messages to a shard; [`tx_log`] records transactions for operators; [`driver`]
//! drives a `twopc` machine; `state` holds what the other modules share; [`resolve`] finds the
//! outcome of a transaction that another process began; `attempts` retries a call until it has a
//! definite result, and asks for votes within a `vote_window`; [`checkout`] buys one order;
//! `run_plan` runs a plan supplied by a caller; [`operator`] answers operators; `service` and
//! `transactions` are the two gRPC services, over `wire`. Beside them, [`watch`] audits the books
//! periodically, [`participants`] configures services beyond our own, [`error`] has the errors, and
//! `singleflight` shares one answer between concurrent callers.
//!
//! Invariants: a business refusal is answered only after its aborts are durable; a retry is a new
//! TxId with the same priority; a client that disconnects stops nothing.

mod attempts;
pub mod checkout;
pub mod driver;
pub mod error;
pub mod operator;
pub mod participant_client;
pub mod participants;
pub mod plan;
pub mod resolve;
mod run_plan;
mod service;
mod singleflight;
mod state;
mod transactions;
pub mod tx_log;
mod vote_window;
pub mod watch;
mod wire;

use std::{io, sync::Arc, time::Duration};

use clap::value_parser;
use proto::coordinator::v1::{
    coordinator_service_server::{self, CoordinatorServiceServer},
    transaction_service_server::{self, TransactionServiceServer},
};
use rpc::{
    admin::{Admin, Ready},
    endpoints::ServiceEndpoints,
    env::{SystemClock, SystemEntropy},
    listen::Listeners,
    net::{GrpcNet, Net},
    served,
    server::{Readiness, ServeError, ServerArgs, serve},
    store_time::{self, StoreTime},
    tls::{TlsArgs, TlsError},
};
use storage::{KvError, SharedKv, args::StoreArgs, janitor};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use types::{Clock, Entropy, Role};

use crate::{
    participants::{ParticipantArgs, ParticipantError},
    tx_log::LogSettings,
};

pub use crate::{participants::Extras, state::Coordinator};

/// The full names of the services that a replica serves.
const SERVED: [&str; 2] =
    [coordinator_service_server::SERVICE_NAME, transaction_service_server::SERVICE_NAME];

/// Pause between two checks that the store answers.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// Settings of the coordinator.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Certificates.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// The participants of a checkout.
    #[command(flatten)]
    pub services: ServiceEndpoints,

    /// Further participants.
    #[command(flatten)]
    pub participants: ParticipantArgs,

    /// Seconds between two audits of the books, which the replica that holds the lease runs. 0 for
    /// none.
    #[arg(long, env = "TILL_AUDIT_EVERY_S", default_value_t = 0, value_name = "SECONDS",
          value_parser = value_parser!(u64).range(..=86_400))]
    pub audit_every_s: u64,

    /// Approximate number of transactions that the log keeps: those that were retried, resolved,
    /// slow or sampled, among others. 0 for no log.
    #[arg(long, env = "TILL_TX_LOG_MAX", default_value_t = 10_000, value_name = "COUNT",
          value_parser = value_parser!(u64).range(..=1_000_000))]
    pub tx_log_max: u64,

    /// Milliseconds after which an unanswered transaction counts as slow.
    #[arg(long, env = "TILL_TX_LOG_SLOW_MS", default_value_t = 500,
          value_parser = value_parser!(u64).range(1..=600_000))]
    pub tx_log_slow_ms: u64,

    /// One transaction in this many is logged regardless of what happens to it. 0 for none.
    #[arg(long, env = "TILL_TX_LOG_SAMPLE", default_value_t = 1_000, value_name = "COUNT")]
    pub tx_log_sample: u64,

    /// Milliseconds for which a client's request id stays bound to its call.
    #[arg(long, env = "TILL_REQUEST_ID_RETENTION_MS", default_value_t = 600_000,
          value_parser = value_parser!(u64).range(1_000..=86_400_000))]
    pub request_id_retention_ms: u64,

    /// Milliseconds that branches have to vote, by the store's clock. The coordinator allows more
    /// while votes come too late.
    #[arg(long, env = "TILL_VOTE_WINDOW_MS", default_value_t = 2_000,
          value_parser = value_parser!(u64).range(100..=30_000))]
    pub vote_window_ms: u64,

    /// The gRPC server.
    #[command(flatten)]
    pub server: ServerArgs,

    /// Limit on messages sent to a shard at once. 1 turns batching off, to measure what it gains.
    #[arg(long, env = "TILL_BATCH_CALLS_MAX", hide = true, value_name = "COUNT",
          value_parser = value_parser!(u16).range(1..))]
    pub batch_calls_max: Option<u16>,
}

/// The settings of a coordinator that a simulation also sets: a part of [`Args`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses of the shop's services.
    pub services: ServiceEndpoints,
    /// Milliseconds for which a client's request id stays bound to its call.
    pub request_id_retention_ms: u64,
    /// Milliseconds that branches have to vote.
    pub vote_window_ms: u64,
    /// Upper limit on the messages sent to a shard at once; `None` is the built-in limit.
    pub batch_calls_max: Option<u16>,
}

impl From<&Args> for Settings {
    fn from(args: &Args) -> Self {
        Self {
            services: args.services.clone(),
            request_id_retention_ms: args.request_id_retention_ms,
            vote_window_ms: args.vote_window_ms,
            batch_calls_max: args.batch_calls_max,
        }
    }
}

/// Why the coordinator stopped. An operator must look into it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The settings for the store are not usable.
    #[error("cannot use the store")]
    Store(#[from] KvError),
    /// The settings for other participants contradict each other.
    #[error("cannot use the participants")]
    Participants(#[from] ParticipantError),
    /// The certificates are not usable.
    #[error("cannot use the certificates")]
    Tls(#[from] TlsError),
    /// The server failed.
    #[error("cannot serve")]
    Serve(#[from] ServeError),
    /// The admin listener's sockets cannot be used.
    #[error("cannot use an admin socket")]
    Admin(#[source] io::Error),
}

/// The gRPC services of a replica.
pub fn routes(coordinator: Coordinator) -> Routes {
    let time = coordinator.store_time().clone();
    let routes = Routes::new(served!(CoordinatorServiceServer::new(coordinator.clone())))
        .add_service(served!(TransactionServiceServer::new(coordinator)));
    store_time::telling(routes, &time)
}

/// Serves until `shutdown` completes, then drains requests first and background work second.
///
/// # Errors
/// [`Error`]; an operator must look into it.
pub async fn run(
    args: Args,
    listeners: Listeners,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let tls = args.tls.acting_as(Role::Coordinator).load_to_serve()?;
    let net: Arc<dyn Net> = Arc::new(GrpcNet::with_tls(tls.clone()));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let kv = args.store.connect().await?;
    let extras = Extras {
        log: LogSettings {
            records_max: args.tx_log_max,
            slow_ms: args.tx_log_slow_ms,
            sample_one_in: args.tx_log_sample,
        },
        ..args.participants.extras()?
    };
    let store = Arc::clone(&kv);
    let coordinator =
        Coordinator::new(&(&args).into(), &extras, &net, store, clock, Arc::clone(&entropy));
    let readiness = Readiness::new();
    let options = args.server.options(SERVED.to_vec(), proto::DESCRIPTORS, tls);

    let stop_chores = CancellationToken::new();
    let chores = tokio::spawn(chores(&args, &coordinator, &kv, &entropy, &stop_chores));

    let _admin = admin(&coordinator, &readiness).serve(listeners.admin).map_err(Error::Admin)?;
    let server =
        serve(routes(coordinator.clone()), listeners.work, options, readiness.clone(), shutdown);
    let served = tokio::select! {
        served = server => served,
        () = probe(&kv, &readiness, coordinator.store_time()) => Ok(()),
    };
    let left = coordinator.drain(args.server.stop.drain_timeout()).await;
    if left > 0 {
        tracing::info!(left, "transactions are left to other replicas");
    }
    stop_chores.cancel();
    if let Err(error) = chores.await {
        tracing::error!(%error, "the janitor failed");
    }
    Ok(served?)
}

/// The admin listener, with the last audit in its readiness details.
fn admin(coordinator: &Coordinator, readiness: &Readiness) -> Admin {
    let watch = coordinator.watch().clone();
    let details = move || {
        // `None` while another replica audits, or if none does.
        let audit = watch.last().map(|verdict| {
            serde_json::json!({
                "at_ms": verdict.at.physical().0,
                "clean": verdict.is_clean(),
                "offences": verdict.offences,
                "unresolved": verdict.unresolved,
                "took_ms": verdict.took_ms,
            })
        });
        serde_json::Map::from_iter([("audit".to_owned(), audit.into())])
    };
    Admin::new(Ready::new(readiness.clone(), details)).with_metrics(storage::tikv::client_metrics)
}

/// The background chores, which run until `stop` is cancelled.
fn chores(
    args: &Args,
    coordinator: &Coordinator,
    kv: &SharedKv,
    entropy: &Arc<dyn Entropy>,
    stop: &CancellationToken,
) -> impl Future<Output = ()> + Send + 'static {
    let every = Duration::from_secs(args.audit_every_s);
    let (kv, entropy) = (Arc::clone(kv), Arc::clone(entropy));
    let stopped = || stop.clone().cancelled_owned();
    let log = coordinator.log().clone().keep(Arc::clone(&kv), stopped());
    let (watch, watching) = (coordinator.watch().clone(), stopped());
    let sweeping = stopped();
    async move {
        let watch = async {
            if !every.is_zero() {
                watch.run(Arc::clone(&kv), Arc::clone(&entropy), every, watching).await;
            }
        };
        let config = janitor::JanitorConfig::default();
        let janitor = janitor::run(Arc::clone(&kv), &*entropy, config, sweeping);
        tokio::join!(janitor, log, watch);
    }
}

/// Keeps readiness in step with whether the store answers. Never returns.
async fn probe(kv: &SharedKv, readiness: &Readiness, store_time: &StoreTime) {
    let mut there = false;
    loop {
        let timestamp = kv.timestamp().await;
        if let Ok(now) = &timestamp {
            store_time.hear(*now);
        }
        match timestamp {
            Ok(_) if !there => {
                tracing::info!("ready");
                there = true;
                readiness.ready();
            }
            Err(error) if there => {
                tracing::warn!(%error, "the store does not answer");
                there = false;
                readiness.not_ready();
            }
            Ok(_) | Err(_) => {}
        }
        tokio::time::sleep(if there { PROBE_EVERY } else { Duration::from_millis(100) }).await;
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use storage::keys::{Kind, Space};
    use testkit::{MemKv, SeededEntropy, TokioClock};

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_takes_the_lease_to_sweep_the_store() {
        let args = Cli::parse_from(["coordinator"]).args;
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let store = MemKv::new(Arc::clone(&clock));
        let kv = store.shared();
        let entropy: Arc<dyn Entropy> = Arc::new(SeededEntropy::new(1));
        let net: Arc<dyn Net> = Arc::new(GrpcNet::default());
        let coordinator = Coordinator::new(
            &(&args).into(),
            &Extras::default(),
            &net,
            Arc::clone(&kv),
            clock,
            Arc::clone(&entropy),
        );
        let stop = CancellationToken::new();
        let chores = tokio::spawn(chores(&args, &coordinator, &kv, &entropy, &stop));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let lease = Space::STORE.record(Kind::Lease, b"janitor");
        assert!(store.contents().contains_key(&lease), "nobody sweeps");
        stop.cancel();
        chores.await.unwrap();
    }
}
