//! The common part of the roles order, stock and payment: settings, start-up until ready, and
//! shutdown.

use std::{fmt, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use clap::{Args, value_parser};
use proto::{
    coordinator::v1::{ResolveRequest, coordinator_service_client::CoordinatorServiceClient},
    participant::v1::participant_service_server::{
        ParticipantServiceServer, SERVICE_NAME as PARTICIPANT,
    },
};
use rpc::{
    access::Identity,
    admin::{Admin, Ready},
    endpoints::CoordinatorEndpoints,
    env::{SystemClock, SystemEntropy},
    listen::Listeners,
    net::{GrpcNet, Net},
    routing::{ExpectedWait, Router},
    served,
    server::{Readiness, ServeError, ServerArgs, serve},
    status::{invalid_field, to_status},
    store_time::{self, StoreTime},
    tls::{TlsArgs, TlsError},
    unary,
};
use storage::{
    KvError, SharedKv,
    args::StoreArgs,
    schema::{self, Schema, SchemaError},
};
use tonic::{Status, metadata::MetadataMap, service::Routes};
use types::{ClientCall, Clock, Entropy, Reason, Refusal, Role, ShardId, Timestamp, TxMeta};

use crate::{
    core::Domain,
    lane::{AskResolve, LaneOptions, Seams},
    service::Participant,
    shards::{OpError, Shards},
};

/// Interval at which a role checks that the store is still there.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// Time limit of a request to resolve a transaction.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of a service that takes part in transactions.
#[derive(Args, Clone, Debug)]
pub struct RoleArgs {
    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,

    /// Certificates.
    #[command(flatten)]
    pub tls: TlsArgs,

    /// The coordinator.
    #[command(flatten)]
    pub coordinator: CoordinatorEndpoints,

    /// Milliseconds for which the answer to a client's request id is remembered.
    #[arg(long, env = "TILL_REQUEST_ID_RETENTION_MS", default_value_t = 600_000,
          value_parser = value_parser!(u64).range(1_000..=86_400_000))]
    pub request_id_retention_ms: u64,

    /// The gRPC server.
    #[command(flatten)]
    pub server: ServerArgs,

    /// Limit on the calls of one batch of a lane. 1 turns batching off, to measure what it gains.
    #[arg(long, env = "TILL_BATCH_CALLS_MAX", hide = true, value_name = "COUNT",
          value_parser = value_parser!(u16).range(1..))]
    pub batch_calls_max: Option<u16>,
}

/// Why a role stopped. An operator must act.
#[derive(Debug, thiserror::Error)]
pub enum RoleError {
    /// The settings for the store are not usable.
    #[error("cannot use the store")]
    Store(#[from] KvError),
    /// The store's data is not for this program.
    #[error("cannot use the store's data")]
    Schema(#[from] SchemaError),
    /// The store was recreated while the role ran on it. Start the role again.
    #[error("the store is not the one that was opened")]
    AnotherStore,
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

/// The parts of a service, over seams that may be real or simulated.
pub struct Parts<D: Domain> {
    /// The service's decisions.
    pub domain: Arc<D>,
    /// The service's lanes.
    pub shards: Arc<Shards<D>>,
    /// The store's time, as learned from its timestamps.
    pub store_time: StoreTime,
    /// The network to other services.
    pub net: Arc<dyn Net>,
    /// For new ids.
    pub entropy: Arc<dyn Entropy>,
}

impl<D: Domain> Clone for Parts<D> {
    fn clone(&self) -> Self {
        Self {
            domain: Arc::clone(&self.domain),
            shards: Arc::clone(&self.shards),
            store_time: self.store_time.clone(),
            net: Arc::clone(&self.net),
            entropy: Arc::clone(&self.entropy),
        }
    }
}

impl<D: Domain> fmt::Debug for Parts<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts").field("shards", &self.shards).finish_non_exhaustive()
    }
}

impl<D: Domain> Parts<D> {
    /// Makes the parts of a service. Its lanes are not open yet.
    pub fn new(domain: D, net: Arc<dyn Net>, entropy: Arc<dyn Entropy>) -> Self {
        let shards = Arc::new(Shards::closed(&domain));
        let store_time = StoreTime::default();
        Self { domain: Arc::new(domain), shards, store_time, net, entropy }
    }

    /// Opens the lanes as soon as the store answers, and returns the schema. A new shop gets its
    /// schema here.
    ///
    /// # Errors
    /// [`SchemaError`]; a retry does not help.
    pub async fn open(
        &self,
        kv: SharedKv,
        wanted_shards: Option<u16>,
        clock: Arc<dyn Clock>,
        coordinator: Router,
        options: LaneOptions,
    ) -> Result<Schema, SchemaError> {
        let schema = schema::open_when_there(&*kv, wanted_shards).await?;
        let resolver = Arc::new(ThroughCoordinator { coordinator });
        let entropy = Arc::clone(&self.entropy);
        let store_time = self.store_time.clone();
        let seams = Seams { kv, clock, entropy, resolver, store_time, schema };
        self.shards.open(&self.domain, schema.shards, &seams, options);
        Ok(schema)
    }
}

impl<D: Domain> Parts<D> {
    /// The gRPC services of a replica: its own, and the participant service of its lanes. Every
    /// answer carries the store's time.
    pub fn with_participant(&self, own: Routes) -> Routes {
        let participant = Participant::new(Arc::clone(&self.domain), Arc::clone(&self.shards));
        let participant = served!(ParticipantServiceServer::new(participant));
        store_time::telling(own.add_service(participant), &self.store_time)
    }

    /// The client call that a mutating request belongs to.
    ///
    /// # Errors
    /// As [`rpc::call::client_call`].
    pub fn client_call(
        &self,
        metadata: &MetadataMap,
        request_id: &str,
        what: &str,
    ) -> Result<ClientCall, Status> {
        rpc::call::client_call(metadata, request_id, what, &*self.entropy)
    }

    /// Executes an operation on the shard of this id.
    ///
    /// # Errors
    /// The status for the refusal or the lane's error.
    pub async fn execute(
        &self,
        id: &str,
        op: D::Op,
        call: Option<ClientCall>,
    ) -> Result<(D::Reply, Timestamp), Status> {
        let executed = async {
            let shard = self.shards.shard_of(id).map_err(OpError::from)?;
            self.shards.execute(shard, op, call).await
        };
        executed.await.map_err(|error| to_status(&error))
    }

    /// The shards that a BatchInit names, or all of them if it names none. `known` is the number of
    /// shards that its caller knows of, or 0.
    ///
    /// # Errors
    /// A status if the lanes are closed, a shard does not exist, or the number of shards is not
    /// `known`, because the parts of several calls would then not cover everything.
    pub fn wanted_shards(&self, named: &[u32], known: u32) -> Result<Vec<ShardId>, Status> {
        let count = self.shards.count().map_err(|error| to_status(&error))?;
        if known != 0 && known != u32::from(count) {
            let refusal = Refusal::new(Reason::WrongShard);
            return Err(to_status(&refusal.with("shards", count).with("known", known)));
        }
        if named.is_empty() {
            return Ok((0..count).map(ShardId).collect());
        }
        let mut wanted = Vec::with_capacity(named.len());
        for shard in named {
            let shard = u16::try_from(*shard).ok().filter(|shard| *shard < count);
            wanted.push(ShardId(shard.ok_or_else(|| invalid_field("shards", "must exist"))?));
        }
        wanted.sort_unstable();
        wanted.dedup();
        Ok(wanted)
    }
}

/// Asks the coordinator role over the network.
#[derive(Debug)]
pub struct ThroughCoordinator {
    /// Any replica will do.
    pub coordinator: Router,
}

#[async_trait]
impl AskResolve for ThroughCoordinator {
    async fn resolve(&self, meta: TxMeta) {
        // Lanes of several shards may ask about one transaction. They ask the same replica, which
        // resolves it once.
        let bytes = [meta.tx_id.0[14], meta.tx_id.0[15]];
        let shard = ShardId(u16::from_be_bytes(bytes));
        let request = ResolveRequest { tx: Some((&meta).into()) };
        let send = unary!(CoordinatorServiceClient::resolve);
        let wait = ExpectedWait::Answer(RESOLVE_TIMEOUT);
        if let Err(failure) = self.coordinator.call(shard, wait, request, send).await {
            tracing::debug!(%failure, tx = %meta.tx_id, "a transaction could not be resolved yet");
        }
    }
}

/// Serves until `shutdown` is done, then drains. `own` is the full name of the gRPC service that it
/// serves beside the participant service.
///
/// # Errors
/// [`RoleError`]; an operator must act.
pub async fn run<D: Domain>(
    domain: D,
    own: &'static str,
    args: RoleArgs,
    listeners: Listeners,
    routes: impl FnOnce(&Parts<D>) -> Routes,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), RoleError> {
    let tls = args.tls.acting_as(domain.role()).load_to_serve()?;
    let net: Arc<dyn Net> = Arc::new(GrpcNet::with_tls(tls.clone()));
    let entropy: Arc<dyn Entropy> = Arc::new(SystemEntropy);
    let parts = Parts::new(domain, Arc::clone(&net), entropy);
    let kv = args.store.connect().await?;
    let readiness = Readiness::new();
    let options = args.server.options(vec![own, PARTICIPANT], proto::DESCRIPTORS, tls);

    let _admin = admin(&parts, &readiness).serve(listeners.admin).map_err(RoleError::Admin)?;
    let server = serve(routes(&parts), listeners.work, options, readiness.clone(), shutdown);
    let callee = Identity::of(Role::Coordinator);
    let coordinator = Router::to(callee, args.coordinator.coordinator_endpoints, net);
    let stay_ready = async {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let options = lane_options(args.batch_calls_max, args.request_id_retention_ms);
        let store = args.store.shards;
        let schema = parts.open(Arc::clone(&kv), store, clock, coordinator, options).await?;
        tracing::info!(service = %parts.shards.service(), "ready");
        Err(probe(&kv, &readiness, &parts.store_time, schema).await)
    };
    tokio::select! {
        served = server => Ok(served?),
        failed = stay_ready => failed,
    }
}

/// The admin listener, with the role's report for operators.
fn admin<D: Domain>(parts: &Parts<D>, readiness: &Readiness) -> Admin {
    let shards = Arc::clone(&parts.shards);
    let details = move || {
        let (unresolved, overdue_ms) = telemetry::metrics().votes.totals().unwrap_or_default();
        serde_json::Map::from_iter([
            ("service".to_owned(), shards.service().to_string().into()),
            ("shards".to_owned(), shards.count().ok().into()),
            ("unresolved_votes".to_owned(), unresolved.into()),
            ("oldest_overdue_ms".to_owned(), overdue_ms.into()),
        ])
    };
    Admin::new(Ready::new(readiness.clone(), details)).with_metrics(storage::tikv::client_metrics)
}

fn lane_options(batch_calls_max: Option<u16>, retention_ms: u64) -> LaneOptions {
    let mut options = LaneOptions::default();
    options.limits.retention_ms = retention_ms;
    if let Some(calls) = batch_calls_max {
        options.limits.batch_calls = options.limits.batch_calls.min(calls.into());
    }
    options
}

/// Keeps readiness in step with the store. Returns once the store is no longer the one that was
/// opened.
async fn probe(
    kv: &SharedKv,
    readiness: &Readiness,
    store_time: &StoreTime,
    opened: Schema,
) -> RoleError {
    let mut there = true;
    readiness.ready();
    loop {
        tokio::time::sleep(PROBE_EVERY).await;
        let found = async {
            let now = kv.timestamp().await?;
            store_time.hear(now);
            schema::read_from(&mut *kv.snapshot(now)).await
        };
        match found.await {
            Ok(found) if found != Some(opened) => {
                readiness.not_ready();
                return RoleError::AnotherStore;
            }
            Ok(_) if !there => {
                tracing::info!("the store answers again");
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_can_be_made_smaller_and_never_larger() {
        let calls = |max| lane_options(max, 1).limits.batch_calls;
        assert_eq!(calls(Some(1)), 1);
        assert_eq!(calls(Some(u16::MAX)), calls(None));
    }
}
