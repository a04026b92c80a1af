//! The placement driver's services: membership, timestamps, stores, regions, safe points,
//! keyspaces.

use crate::cluster::{Cluster, GcError};
use crate::engine::{Engine, EngineError};
use crate::faults::Faults;
use crate::gc::{Announced, PdVersion};
use crate::members::Members;
use crate::model::Ts;
use crate::regions::{Region, STORE_ID};
use crate::wire::keyspacepb::keyspace_server::Keyspace;
use crate::wire::pdpb::pd_server::Pd as PdService;
use crate::wire::{keyspacepb, metapb, pdpb};
use bytes::Bytes;
use futures::stream::BoxStream;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

/// Limit on the requests of one timestamp stream that wait for answers. Further ones are not read
/// yet.
const TSO_WAITING: usize = 1_024;

/// PD's services, for one member.
#[derive(Debug, Clone)]
pub(crate) struct Pd {
    pub(crate) engine: Arc<Engine>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) faults: Arc<Faults>,
    /// `host:port` at which clients reach the store.
    pub(crate) advertise: Arc<str>,
    /// All placement drivers; `member` is the id of this one.
    pub(crate) members: Arc<Members>,
    pub(crate) member: u64,
    /// Becomes true when the server stops, which ends timestamp streams.
    pub(crate) stopping: watch::Receiver<bool>,
}

impl Pd {
    #[expect(clippy::unnecessary_wraps, reason = "the field of every answer is optional")]
    fn header(&self) -> Option<pdpb::ResponseHeader> {
        Some(pdpb::ResponseHeader { cluster_id: self.engine.cluster_id(), error: None })
    }

    /// Refuses a request for another cluster, and every request if this member does not lead.
    fn check(&self, header: Option<&pdpb::RequestHeader>) -> Result<(), Status> {
        let asked = header.map_or(0, |header| header.cluster_id);
        let own = self.engine.cluster_id();
        if asked != 0 && asked != own {
            let text = format!("mismatch cluster id, need {own} but got {asked}");
            return Err(Status::failed_precondition(text));
        }
        if !self.members.leads(self.member) {
            return Err(Status::unavailable("not leader"));
        }
        Ok(())
    }

    /// The only store.
    pub(crate) fn store(&self) -> metapb::Store {
        metapb::Store {
            id: STORE_ID,
            address: self.advertise.to_string(),
            state: metapb::StoreState::Up.into(),
            version: self.cluster.version().text().to_owned(),
            start_timestamp: i64::try_from(self.engine.started_at()).unwrap_or(i64::MAX),
        }
    }

    /// Refuses a call that is new in PD 9 if an older PD is emulated.
    fn since_9(&self, call: &str) -> Result<(), Status> {
        match self.cluster.version() {
            PdVersion::V9 => Ok(()),
            PdVersion::V8_5 => {
                Err(Status::unimplemented(format!("unknown method {call} for service pdpb.PD")))
            }
        }
    }

    fn region_response(&self, region: Option<&Region>) -> Response<pdpb::GetRegionResponse> {
        Response::new(pdpb::GetRegionResponse {
            header: self.header(),
            region: region.map(Region::to_wire),
            leader: region.map(Region::peer),
        })
    }

    async fn next_timestamps(
        &self,
        request: &pdpb::TsoRequest,
    ) -> Result<pdpb::TsoResponse, Status> {
        self.members.while_hanging(self.member).await;
        self.check(request.header.as_ref())?;
        if request.count == 0 {
            return Err(Status::invalid_argument("tso count should be positive"));
        }
        if request.count >= 1 << Ts::LOGICAL_BITS {
            return Err(Status::invalid_argument("tso count is too large"));
        }
        self.faults.while_frozen().await;
        let last = self.engine.timestamps(request.count.into()).await.map_err(status)?;
        self.engine.counters().traffic.gave_timestamps(request.count);
        Ok(pdpb::TsoResponse {
            header: self.header(),
            count: request.count,
            timestamp: Some(timestamp(last)),
        })
    }
}

fn timestamp(ts: Ts) -> pdpb::Timestamp {
    let logical = ts.0 & ((1 << Ts::LOGICAL_BITS) - 1);
    // Both fit: 46 and 18 bits.
    pdpb::Timestamp {
        physical: i64::try_from(ts.physical().0).unwrap_or(i64::MAX),
        logical: i64::try_from(logical).unwrap_or(i64::MAX),
        suffix_bits: 0,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "used as a function for map_err")]
fn status(error: EngineError) -> Status {
    Status::unavailable(error.to_string())
}

fn gc_status(error: GcError) -> Status {
    match error {
        GcError::Refused(refused) => Status::unknown(refused.to_string()),
        GcError::Engine(error) => status(error),
    }
}

#[tonic::async_trait]
impl PdService for Pd {
    type TsoStream = BoxStream<'static, Result<pdpb::TsoResponse, Status>>;

    async fn get_cluster_info(
        &self,
        _: Request<pdpb::GetClusterInfoRequest>,
    ) -> Result<Response<pdpb::GetClusterInfoResponse>, Status> {
        Ok(Response::new(pdpb::GetClusterInfoResponse {
            header: self.header(),
            service_modes: vec![pdpb::ServiceMode::PdSvcMode.into()],
        }))
    }

    async fn get_members(
        &self,
        _: Request<pdpb::GetMembersRequest>,
    ) -> Result<Response<pdpb::GetMembersResponse>, Status> {
        let leader = self.members.leader();
        Ok(Response::new(pdpb::GetMembersResponse {
            header: self.header(),
            members: self.members.to_wire(),
            leader: leader.clone(),
            etcd_leader: leader,
        }))
    }

    async fn tso(
        &self,
        request: Request<Streaming<pdpb::TsoRequest>>,
    ) -> Result<Response<Self::TsoStream>, Status> {
        // Requests are read as they arrive, so that their delays overlap.
        let (arrived, requests) = mpsc::channel(TSO_WAITING);
        let faults = Arc::clone(&self.faults);
        let mut stream = request.into_inner();
        tokio::spawn(async move {
            loop {
                // The stream ends with its answers, so that a stopping server need not wait for it.
                let request = tokio::select! {
                    request = stream.message() => request,
                    () = arrived.closed() => return,
                };
                let Some(request) = request.transpose() else { return };
                // A waiting request keeps only its numbers.
                let request = request
                    .map(|request| pdpb::TsoRequest { dc_location: String::new(), ..request });
                let due = Instant::now() + faults.latency("Tso");
                if arrived.send((request, due)).await.is_err() {
                    return;
                }
            }
        });
        // One answer per request, in order. The headers are sent without waiting for the first one.
        let pd = self.clone();
        let answers =
            futures::stream::try_unfold((pd, requests), |(mut pd, mut requests)| async move {
                let next = async {
                    let (request, due) = requests.recv().await?;
                    if due > Instant::now() {
                        tokio::time::sleep_until(due).await;
                    }
                    Some(request)
                };
                let request = tokio::select! {
                    request = next => request,
                    _ = pd.stopping.wait_for(|stopping| *stopping) => None,
                };
                let Some(request) = request else { return Ok(None) };
                let answer = pd.next_timestamps(&request?).await?;
                Ok(Some((answer, (pd, requests))))
            });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get_store(
        &self,
        request: Request<pdpb::GetStoreRequest>,
    ) -> Result<Response<pdpb::GetStoreResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        if request.store_id != STORE_ID {
            return Err(Status::unknown(format!(
                "invalid store ID {}, not found",
                request.store_id
            )));
        }
        Ok(Response::new(pdpb::GetStoreResponse {
            header: self.header(),
            store: Some(self.store()),
        }))
    }

    async fn get_all_stores(
        &self,
        request: Request<pdpb::GetAllStoresRequest>,
    ) -> Result<Response<pdpb::GetAllStoresResponse>, Status> {
        self.check(request.get_ref().header.as_ref())?;
        Ok(Response::new(pdpb::GetAllStoresResponse {
            header: self.header(),
            stores: vec![self.store()],
        }))
    }

    async fn get_region(
        &self,
        request: Request<pdpb::GetRegionRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        let table = self.cluster.regions().now();
        Ok(self.region_response(table.by_pd_key(&request.region_key)))
    }

    async fn get_prev_region(
        &self,
        request: Request<pdpb::GetRegionRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        let table = self.cluster.regions().now();
        let id = table.by_pd_key(&request.region_key).map(|region| region.id);
        let place = table.all().iter().position(|region| Some(region.id) == id);
        let before = place.and_then(|place| table.all().get(place.checked_sub(1)?));
        Ok(self.region_response(before))
    }

    async fn get_region_by_id(
        &self,
        request: Request<pdpb::GetRegionByIdRequest>,
    ) -> Result<Response<pdpb::GetRegionResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        let table = self.cluster.regions().now();
        Ok(self.region_response(table.by_id(request.region_id)))
    }

    async fn scan_regions(
        &self,
        request: Request<pdpb::ScanRegionsRequest>,
    ) -> Result<Response<pdpb::ScanRegionsResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        let table = self.cluster.regions().now();
        let limit = match usize::try_from(request.limit) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(limit) => limit,
        };
        let before_end = |start: &Bytes| request.end_key.is_empty() || *start < request.end_key;
        let regions: Vec<pdpb::Region> = table
            .all()
            .iter()
            .map(|region| (region.to_wire(), region.peer()))
            .filter(|(region, _)| {
                (region.end_key.is_empty() || region.end_key > request.start_key)
                    && before_end(&region.start_key)
            })
            .take(limit)
            .map(|(region, leader)| pdpb::Region { region: Some(region), leader: Some(leader) })
            .collect();
        Ok(Response::new(pdpb::ScanRegionsResponse {
            header: self.header(),
            region_metas: regions.iter().filter_map(|region| region.region.clone()).collect(),
            leaders: regions.iter().filter_map(|region| region.leader).collect(),
            regions,
        }))
    }

    async fn get_gc_safe_point(
        &self,
        request: Request<pdpb::GetGcSafePointRequest>,
    ) -> Result<Response<pdpb::GetGcSafePointResponse>, Status> {
        self.check(request.get_ref().header.as_ref())?;
        Ok(Response::new(pdpb::GetGcSafePointResponse {
            header: self.header(),
            safe_point: self.engine.safe_point().0,
        }))
    }

    async fn update_gc_safe_point(
        &self,
        request: Request<pdpb::UpdateGcSafePointRequest>,
    ) -> Result<Response<pdpb::UpdateGcSafePointResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        let target = request.safe_point;
        let allowed =
            |announced: &mut Announced, version, (gc, _)| announced.update_gc(version, target, gc);
        self.cluster.announce(allowed).await.map_err(gc_status)?;
        let holds = self.engine.raise_safe_point(Ts(target)).await.map_err(status)?;
        Ok(Response::new(pdpb::UpdateGcSafePointResponse {
            header: self.header(),
            new_safe_point: holds.0,
        }))
    }

    async fn update_service_gc_safe_point(
        &self,
        request: Request<pdpb::UpdateServiceGcSafePointRequest>,
    ) -> Result<Response<pdpb::UpdateServiceGcSafePointResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        let service = String::from_utf8(request.service_id.to_vec())
            .map_err(|_| Status::invalid_argument("the service's id is not UTF-8"))?;
        let (safe_point, ttl) = (request.safe_point, request.ttl);
        let least = self.cluster.announce(|announced, version, now| {
            announced.announce(version, &service, safe_point, ttl, now)
        });
        let least = least.await.map_err(gc_status)?;
        Ok(Response::new(pdpb::UpdateServiceGcSafePointResponse {
            header: self.header(),
            service_id: least.service.into(),
            ttl: least.ttl,
            min_safe_point: least.safe_point,
        }))
    }

    async fn advance_txn_safe_point(
        &self,
        request: Request<pdpb::AdvanceTxnSafePointRequest>,
    ) -> Result<Response<pdpb::AdvanceTxnSafePointResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        self.since_9("AdvanceTxnSafePoint")?;
        let target = request.target;
        let advanced = self.cluster.announce(|all, _, now| all.advance_txn(target, now));
        let advanced = advanced.await.map_err(gc_status)?;
        Ok(Response::new(pdpb::AdvanceTxnSafePointResponse {
            header: self.header(),
            old_txn_safe_point: advanced.old,
            new_txn_safe_point: advanced.new,
            blocker_description: advanced.blocker,
        }))
    }

    async fn advance_gc_safe_point(
        &self,
        request: Request<pdpb::AdvanceGcSafePointRequest>,
    ) -> Result<Response<pdpb::AdvanceGcSafePointResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        self.since_9("AdvanceGCSafePoint")?;
        let target = request.target;
        let old = self.cluster.announce(|all, _, (gc, _)| all.advance_gc(target, gc).map(|()| gc));
        let old = old.await.map_err(gc_status)?;
        let holds = self.engine.raise_safe_point(Ts(target)).await.map_err(status)?;
        Ok(Response::new(pdpb::AdvanceGcSafePointResponse {
            header: self.header(),
            old_gc_safe_point: old,
            new_gc_safe_point: holds.0,
        }))
    }
}

#[tonic::async_trait]
impl Keyspace for Pd {
    async fn load_keyspace(
        &self,
        request: Request<keyspacepb::LoadKeyspaceRequest>,
    ) -> Result<Response<keyspacepb::LoadKeyspaceResponse>, Status> {
        let request = request.into_inner();
        self.check(request.header.as_ref())?;
        let id = self.cluster.load_keyspace(&request.name).await.map_err(status)?;
        let keyspace = id.map(|id| keyspacepb::KeyspaceMeta {
            id,
            name: request.name,
            state: keyspacepb::KeyspaceState::Enabled.into(),
        });
        Ok(Response::new(keyspacepb::LoadKeyspaceResponse { header: self.header(), keyspace }))
    }
}
