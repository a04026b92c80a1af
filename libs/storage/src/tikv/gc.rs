//! Garbage collection, by the calls that PD has for whoever drives it; the client has one of them only.
//!
//! Who reads old versions (a backup, a change feed) announces the oldest that it needs. PD 8.5 and before only
//! answer the least that was announced to whoever announces as the service `gc_worker`, and raise the safe
//! point to whatever is asked: to ask first is up to us. PD 9 has a safe point of transactions, which what is
//! announced holds back, and refuses to raise the one of garbage beyond it.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};
use types::Timestamp;

use super::{
    TikvConfig, TikvTls,
    members::wire::{self as pdpb, pd_client::PdClient},
    pace::bounded,
};
use crate::kv::KvError;

/// The service that collects garbage; what it announces does not end.
const WORKER: &str = "gc_worker";
const FOREVER: i64 = i64::MAX;
/// How long one PD may take to say who leads.
const MEMBER_WAIT: Duration = Duration::from_secs(3);
/// How long PD may take for a call.
const CALL_WAIT: Duration = Duration::from_secs(10);

/// PD's leader, for one collection.
#[derive(Debug)]
pub(super) struct Driver {
    pd: PdClient<Channel>,
    cluster_id: u64,
    /// Whether PD has the states of garbage collection.
    has_states: bool,
}

impl Driver {
    /// Finds the leader, by whichever of the addresses answers first in their order.
    pub(super) async fn connect(config: &TikvConfig, deadline: Instant) -> Result<Self, KvError> {
        let tls = match &config.tls {
            Some(tls) => Some(identity(tls).await?),
            None => None,
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut problems = Vec::new();
        for endpoint in &config.pd_endpoints {
            let until = deadline.min(Instant::now() + MEMBER_WAIT);
            let found = leader(format!("{scheme}://{endpoint}"), tls.as_ref());
            match bounded(until, found).await {
                Ok(Ok((url, cluster_id))) => {
                    let channel = connected(url, tls.as_ref()).await?;
                    let pd = PdClient::new(channel);
                    return Ok(Self { pd, cluster_id, has_states: true });
                }
                Ok(Err(error)) => problems.push(format!("{endpoint}: {error}")),
                Err(interrupted) => problems.push(format!("{endpoint}: {interrupted}")),
            }
        }
        Err(KvError::Unavailable(format!("no PD says who leads: {}", problems.join("; "))))
    }

    /// Announces that nothing below `target` will be read, and answers up to where that holds for everybody
    /// who announced something.
    pub(super) async fn announce(&mut self, target: Timestamp) -> Result<Timestamp, KvError> {
        let header = self.header();
        let request = pdpb::AdvanceTxnSafePointRequest { header, target: target.0 };
        match self.pd.advance_txn_safe_point(request).await.map(tonic::Response::into_inner) {
            Ok(answer) => match refused(answer.header) {
                None => {
                    held_back(target, answer.new_txn_safe_point, &answer.blocker_description);
                    return Ok(Timestamp(answer.new_txn_safe_point));
                }
                // Somebody else went further.
                Some(why) if is_decreasing(&why) => return Ok(target),
                Some(why) => return Err(unavailable("AdvanceTxnSafePoint", &why)),
            },
            Err(status) if is_decreasing(status.message()) => return Ok(target),
            Err(status) if status.code() == Code::Unimplemented => self.has_states = false,
            Err(status) => return Err(failed("AdvanceTxnSafePoint", &status)),
        }
        let request = pdpb::UpdateServiceGcSafePointRequest {
            header,
            service_id: WORKER.into(),
            ttl: FOREVER,
            safe_point: target.0,
        };
        let answer = self.pd.update_service_gc_safe_point(request).await;
        let answer = answer.map_err(|status| failed("UpdateServiceGCSafePoint", &status))?;
        let answer = answer.into_inner();
        if let Some(why) = refused(answer.header) {
            return Err(unavailable("UpdateServiceGCSafePoint", &why));
        }
        held_back(target, answer.min_safe_point, &String::from_utf8_lossy(&answer.service_id));
        Ok(target.min(Timestamp(answer.min_safe_point)))
    }

    /// Raises the safe point to where [`Driver::announce`] allowed, once no locks are left below. Answers the
    /// one that holds.
    pub(super) async fn raise(&mut self, target: Timestamp) -> Result<Timestamp, KvError> {
        let header = self.header();
        if !self.has_states {
            let request = pdpb::UpdateGcSafePointRequest { header, safe_point: target.0 };
            let answer = self.pd.update_gc_safe_point(request).await;
            let answer = answer.map_err(|status| failed("UpdateGCSafePoint", &status))?;
            let answer = answer.into_inner();
            return match refused(answer.header) {
                None => Ok(Timestamp(answer.new_safe_point)),
                Some(why) => Err(unavailable("UpdateGCSafePoint", &why)),
            };
        }
        let request = pdpb::AdvanceGcSafePointRequest { header, target: target.0 };
        match self.pd.advance_gc_safe_point(request).await.map(tonic::Response::into_inner) {
            Ok(answer) => match refused(answer.header) {
                None => Ok(Timestamp(answer.new_gc_safe_point)),
                Some(why) if is_decreasing(&why) => Ok(target),
                Some(why) => Err(unavailable("AdvanceGCSafePoint", &why)),
            },
            Err(status) if is_decreasing(status.message()) => Ok(target),
            Err(status) => Err(failed("AdvanceGCSafePoint", &status)),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the field of every request is optional")]
    const fn header(&self) -> Option<pdpb::RequestHeader> {
        Some(pdpb::RequestHeader { cluster_id: self.cluster_id })
    }
}

/// Where the leader is, and which cluster it is of.
async fn leader(url: String, tls: Option<&ClientTlsConfig>) -> Result<(String, u64), KvError> {
    let mut pd = PdClient::new(connected(url, tls).await?);
    let answer = pd.get_members(pdpb::GetMembersRequest { header: None }).await;
    let answer = answer.map_err(|status| failed("GetMembers", &status))?.into_inner();
    let cluster_id = answer.header.as_ref().map_or(0, |header| header.cluster_id);
    let urls = answer.leader.map(|leader| leader.client_urls).unwrap_or_default();
    match urls.into_iter().next() {
        Some(url) => Ok((url, cluster_id)),
        None => Err(KvError::Unavailable("there is no leader".to_owned())),
    }
}

async fn connected(url: String, tls: Option<&ClientTlsConfig>) -> Result<Channel, KvError> {
    let problem = |error: tonic::transport::Error| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
        KvError::Unavailable(format!("PD at {url}: {error}{}", cause.unwrap_or_default()))
    };
    let endpoint = Endpoint::from_shared(url.clone()).map_err(problem)?;
    let endpoint = endpoint.connect_timeout(MEMBER_WAIT).timeout(CALL_WAIT);
    let endpoint = match tls {
        Some(tls) => endpoint.tls_config(tls.clone()).map_err(problem)?,
        None => endpoint,
    };
    endpoint.connect().await.map_err(problem)
}

async fn identity(tls: &TikvTls) -> Result<ClientTlsConfig, KvError> {
    let read = async |path: &std::path::Path| {
        let content = tokio::fs::read(path).await;
        content.map_err(|error| KvError::Unavailable(format!("{}: {error}", path.display())))
    };
    let (cert, key) = (read(&tls.cert).await?, read(&tls.key).await?);
    let ca = Certificate::from_pem(read(&tls.ca).await?);
    Ok(ClientTlsConfig::new().ca_certificate(ca).identity(Identity::from_pem(cert, key)))
}

/// What PD says against a request.
fn refused(header: Option<pdpb::ResponseHeader>) -> Option<String> {
    let error = header?.error?;
    (error.r#type != 0).then_some(error.message)
}

/// Whether a safe point was further already, which PD 9 takes for an error.
fn is_decreasing(problem: &str) -> bool {
    problem.contains("ErrDecreasing")
}

fn failed(call: &str, status: &Status) -> KvError {
    unavailable(call, status.message())
}

fn unavailable(call: &str, why: &str) -> KvError {
    KvError::Unavailable(format!("PD's {call}: {why}"))
}

fn held_back(target: Timestamp, allowed: u64, by: &str) {
    if allowed < target.0 {
        let by_ms = target.physical().since(Timestamp(allowed).physical());
        tracing::info!(by, by_ms, "somebody holds the store's safe point back");
    }
}
