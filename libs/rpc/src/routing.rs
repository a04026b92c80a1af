//! Chooses the replica that serves a shard.
//!
//! Rendezvous hashing (Thaler and Ravishankar, 1998): each replica has a score for each shard, and
//! the best score serves the shard. All callers that know the same replicas agree without
//! communicating, and if a replica leaves, only its own shards move. A wrong or stale route is only
//! slower, because any replica may serve any shard.

use std::{
    collections::BTreeMap,
    fmt,
    str::FromStr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Request, Status, codegen::http::uri::PathAndQuery};
use types::{Classify, ErrorKind, Reason, SHARDS_MAX, ShardId};

use crate::{
    access::{Identity, Party},
    net::{Endpoint, EndpointError, Net, NetError, Transport},
    status::Failure,
};

pub use call::ExpectedWait;

mod call;
#[cfg(test)]
mod tests;

/// How long a replica is passed over after a failed call.
const DOWN_FOR: Duration = Duration::from_secs(1);
/// A replica counts as recovered if none of its calls failed for this long.
const OUTAGE_OVER: Duration = Duration::from_secs(10);
/// How often a name is resolved again.
const RESOLVE_EVERY: Duration = Duration::from_secs(3);
/// Upper limit on one Describe.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);
const DESCRIBE: &str = "/till.participant.v1.ParticipantService/Describe";

/// Where the replicas of a service are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// These endpoints, in any order; at least one.
    Static(Vec<Endpoint>),
    /// Every address of this `host:port`, such as a headless service. It is resolved again every
    /// few seconds.
    Dns(Endpoint),
}

impl FromStr for Target {
    type Err = EndpointError;

    /// Parses `host:port[,host:port...]` or `dns:host:port`.
    fn from_str(text: &str) -> Result<Self, EndpointError> {
        if let Some(name) = text.trim().strip_prefix("dns:") {
            return Ok(Self::Dns(name.parse()?));
        }
        let mut endpoints =
            text.split(',').map(str::parse).collect::<Result<Vec<Endpoint>, _>>()?;
        endpoints.sort();
        endpoints.dedup();
        Ok(Self::Static(endpoints))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static(endpoints) => {
                let texts: Vec<&str> = endpoints.iter().map(Endpoint::as_str).collect();
                f.write_str(&texts.join(","))
            }
            Self::Dns(name) => write!(f, "dns:{name}"),
        }
    }
}

/// Why there is no route. Retry after a pause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The name has not resolved to any address yet.
    #[error("{0} has no address yet")]
    NoReplica(String),
    /// No replica described how its keys are sharded.
    #[error("{target} does not describe itself: {failure}")]
    NotDescribed {
        /// The target of the service.
        target: String,
        /// The last replica's failure.
        failure: Box<Failure>,
    },
}

impl Classify for RouteError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoReplica(_) | Self::NotDescribed { .. } => ErrorKind::Unavailable,
        }
    }

    fn reason(&self) -> std::borrow::Cow<'static, str> {
        Reason::Unavailable.as_str().into()
    }
}

/// A replica and the connection to it.
#[derive(Debug, Clone)]
pub struct Route {
    /// The chosen replica.
    pub endpoint: Endpoint,
    /// The transport for a generated client. [`Route::call`] also reports a replica that is gone.
    pub transport: Transport,
    router: Router,
}

/// A service's description of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The service's name in branches.
    pub service: String,
    /// Number of its shards, 1 to 4096. Fixed for the life of its data.
    pub shards: u16,
}

/// The replicas of one service. Cheap to clone; clones share all state.
#[derive(Debug, Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: Target,
    callee: Option<Identity>,
    net: Arc<dyn Net>,
    replicas: Mutex<BTreeMap<Endpoint, Replica>>,
    turn: AtomicUsize,
    description: RwLock<Option<Description>>,
    /// Held while asking for the description, so that only one task asks.
    describing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Replica {
    transport: Transport,
    /// `None` if no recent call to it failed.
    outage: Option<Outage>,
}

/// A series of failed calls with no long gap between them.
#[derive(Debug)]
struct Outage {
    since: Instant,
    /// The last failed call. The replica is passed over for [`DOWN_FOR`] after it.
    last: Instant,
    calls: u64,
}

impl Router {
    /// A router over these replicas. For a [`Target::Dns`] it starts a task that resolves the name,
    /// so it must be called within a tokio runtime. The task ends with the last clone of the
    /// router.
    pub fn new(target: Target, net: Arc<dyn Net>) -> Self {
        Self::over(None, target, net)
    }

    /// Like [`Router::new`], but the replicas must prove to be this callee, if connections can
    /// prove an identity.
    pub fn to(callee: Identity, target: Target, net: Arc<dyn Net>) -> Self {
        Self::over(Some(callee), target, net)
    }

    fn over(callee: Option<Identity>, target: Target, net: Arc<dyn Net>) -> Self {
        let shared = Arc::new(Shared {
            target,
            callee,
            net,
            replicas: Mutex::default(),
            turn: AtomicUsize::new(0),
            description: RwLock::default(),
            describing: tokio::sync::Mutex::default(),
        });
        match &shared.target {
            Target::Static(endpoints) => shared.replace(endpoints.clone()),
            Target::Dns(name) => {
                tokio::spawn(keep_resolving(Arc::downgrade(&shared), name.clone()));
            }
        }
        Self { shared }
    }

    /// The endpoints of the replicas known now, in order.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.shared.replicas().keys().cloned().collect()
    }

    /// The configured target.
    pub fn target(&self) -> &Target {
        &self.shared.target
    }

    /// The replica that serves a shard: the best one that is not passed over or, if all are, the
    /// one whose pause ends first.
    ///
    /// # Errors
    /// [`RouteError::NoReplica`]; retry after a pause.
    pub fn route(&self, shard: ShardId) -> Result<Route, RouteError> {
        let now = Instant::now();
        let replicas = self.shared.replicas_at(now);
        let best = replicas
            .iter()
            .filter(|(_, replica)| replica.is_live(now))
            .max_by_key(|(endpoint, _)| score(endpoint, shard));
        self.route_to(best.or_else(|| first_to_recover(&replicas)))
    }

    /// Any replica, in turn, except those that are passed over. For a service whose replicas are
    /// interchangeable.
    ///
    /// # Errors
    /// [`RouteError::NoReplica`]; retry after a pause.
    pub fn any(&self) -> Result<Route, RouteError> {
        let now = Instant::now();
        let replicas = self.shared.replicas_at(now);
        let live: Vec<_> = replicas.iter().filter(|(_, replica)| replica.is_live(now)).collect();
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        let chosen = turn.checked_rem(live.len()).and_then(|index| live.get(index).copied());
        self.route_to(chosen.or_else(|| first_to_recover(&replicas)))
    }

    fn route_to(&self, chosen: Option<(&Endpoint, &Replica)>) -> Result<Route, RouteError> {
        let (endpoint, replica) = chosen.ok_or_else(|| self.no_replica())?;
        let (endpoint, transport) = (endpoint.clone(), replica.transport.clone());
        Ok(Route { endpoint, transport, router: self.clone() })
    }

    /// Passes a replica over for [`DOWN_FOR`], because of this failure.
    fn pass_over(&self, endpoint: &Endpoint, why: &'static str, failure: &Failure) {
        let now = Instant::now();
        let mut replicas = self.shared.replicas();
        let Some(replica) = replicas.get_mut(endpoint) else { return };
        let service = self.shared.service();
        telemetry::metrics().replicas_passed_over.one([service, why]);
        if let Some(outage) = &mut replica.outage {
            outage.last = now;
            outage.calls += 1;
            tracing::debug!(service, replica = %endpoint, %failure, "still passed over");
            return;
        }
        replica.outage = Some(Outage { since: now, last: now, calls: 1 });
        tracing::warn!(
            service, replica = %endpoint, why, %failure,
            "replica passed over, others serve its shards"
        );
    }

    /// The number of shards of the service. Asks until one replica has answered, and remembers the
    /// answer.
    ///
    /// # Errors
    /// [`RouteError`]; retry after a pause.
    pub async fn shards(&self) -> Result<u16, RouteError> {
        if let Some(shards) = self.shared.described(|description| description.shards) {
            return Ok(shards);
        }
        Ok(self.describe().await?.shards)
    }

    /// The service's description. Asks each replica at most once, and remembers the answer.
    ///
    /// # Errors
    /// [`RouteError`]; retry after a pause.
    pub async fn describe(&self) -> Result<Description, RouteError> {
        let _asking = self.shared.describing.lock().await;
        if let Some(description) = self.shared.described(Description::clone) {
            return Ok(description);
        }
        let description = self.ask_all().await?;
        *self.shared.description.write().unwrap_or_else(PoisonError::into_inner) =
            Some(description.clone());
        Ok(description)
    }

    /// Forgets the description, so that it is asked for again. Call this when a replica has other
    /// shards.
    pub fn forget_description(&self) {
        self.shared.description.write().unwrap_or_else(PoisonError::into_inner).take();
    }

    async fn ask_all(&self) -> Result<Description, RouteError> {
        let mut last = self.no_replica();
        for _ in 0..self.endpoints().len() {
            match ask(&self.any()?).await {
                Ok(description) => return Ok(description),
                Err(failure) => {
                    last = RouteError::NotDescribed {
                        target: self.shared.target.to_string(),
                        failure: Box::new(failure),
                    };
                }
            }
        }
        Err(last)
    }

    fn no_replica(&self) -> RouteError {
        RouteError::NoReplica(self.shared.target.to_string())
    }
}

impl Replica {
    fn is_live(&self, now: Instant) -> bool {
        self.outage.as_ref().is_none_or(|outage| outage.last + DOWN_FOR <= now)
    }
}

impl Shared {
    fn replicas(&self) -> MutexGuard<'_, BTreeMap<Endpoint, Replica>> {
        // No change under this lock is left half-done, so a panic elsewhere does not matter.
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn described<T>(&self, what: impl FnOnce(&Description) -> T) -> Option<T> {
        // No change under this lock is left half-done, so a panic elsewhere does not matter.
        self.description.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(what)
    }

    /// Locks the replicas, after ending the outages that are over.
    fn replicas_at(&self, now: Instant) -> MutexGuard<'_, BTreeMap<Endpoint, Replica>> {
        let mut replicas = self.replicas();
        for (endpoint, replica) in replicas.iter_mut() {
            if let Some(outage) = replica.outage.take_if(|outage| outage.last + OUTAGE_OVER <= now)
            {
                tracing::info!(
                    service = self.service(),
                    replica = %endpoint,
                    failed_calls = outage.calls,
                    for_ms = outage.last.duration_since(outage.since).as_millis(),
                    "replica serves its shards again"
                );
            }
        }
        replicas
    }

    /// The role of these replicas, for operators.
    fn service(&self) -> &'static str {
        self.callee.as_ref().map_or(Party::Participant, Identity::party).as_str()
    }

    /// Replaces the replicas. Connections to those that stay are kept.
    fn replace(&self, endpoints: Vec<Endpoint>) {
        let mut replicas = self.replicas();
        replicas.retain(|endpoint, _| endpoints.contains(endpoint));
        for endpoint in endpoints {
            replicas.entry(endpoint).or_insert_with_key(|new| Replica {
                transport: match &self.callee {
                    Some(callee) => self.net.connect_to(callee, new),
                    None => self.net.connect(new),
                },
                outage: None,
            });
        }
    }
}

fn first_to_recover(replicas: &BTreeMap<Endpoint, Replica>) -> Option<(&Endpoint, &Replica)> {
    replicas.iter().min_by_key(|(_, replica)| replica.outage.as_ref().map(|outage| outage.last))
}

/// FNV-1a over the endpoint and the shard, then the final mix of MurmurHash3, so that neighbouring
/// shards have independent scores.
fn score(endpoint: &Endpoint, shard: ShardId) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for byte in endpoint.as_str().bytes().chain(shard.0.to_be_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

async fn keep_resolving(shared: Weak<Shared>, name: Endpoint) {
    let mut told = false;
    loop {
        let resolved = tokio::net::lookup_host(name.as_str()).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match resolved {
            Ok(addresses) => {
                let mut endpoints: Vec<Endpoint> = addresses.map(Endpoint::from).collect();
                endpoints.sort();
                endpoints.dedup();
                // An empty answer more likely means a failure of the resolver than that every
                // replica is gone.
                if !endpoints.is_empty() {
                    shared.replace(endpoints);
                }
                told = false;
            }
            Err(error) if !told => {
                tracing::warn!(%name, %error, "name does not resolve, keeping the replicas known");
                told = true;
            }
            Err(_) => {}
        }
        drop(shared);
        tokio::time::sleep(RESOLVE_EVERY).await;
    }
}

/// `till.participant.v1.DescribeRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct DescribeRequest {}

/// `till.participant.v1.DescribeResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct DescribeResponse {
    #[prost(string, tag = "1")]
    service: String,
    #[prost(uint32, tag = "2")]
    shards: u32,
}

async fn ask(route: &Route) -> Result<Description, Failure> {
    let send = async |transport, request| {
        let mut client = tonic::client::Grpc::new(transport);
        client.ready().await.map_err(|error: NetError| Status::from_error(error.into()))?;
        let codec = tonic_prost::ProstCodec::<DescribeRequest, DescribeResponse>::default();
        client.unary(request, PathAndQuery::from_static(DESCRIBE), codec).await
    };
    let wait = ExpectedWait::Answer(DESCRIBE_TIMEOUT);
    let answer = route.call(wait, Request::new(DescribeRequest {}), send).await?;
    let DescribeResponse { service, shards } = answer.into_inner();
    match u16::try_from(shards) {
        Ok(shards) if (1..=SHARDS_MAX).contains(&shards) => Ok(Description { service, shards }),
        _ => {
            let text = format!("{shards} shards are impossible");
            Err(Failure::new(Reason::Internal, text))
        }
    }
}
