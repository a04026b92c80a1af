//! Garbage collection by PD's own calls, only one of which the client has.
//!
//! A reader of old versions (a backup, a change feed) announces the oldest version that it needs.
//! PD 8.5 and before return the oldest announcement to a caller that announces as the service
//! `gc_worker`. They raise the safe point to any requested value, so we must ask first. PD 9 has a
//! safe point for transactions, which announcements hold back, and it refuses to raise the one for
//! garbage beyond it.

use std::{error::Error, time::Duration};

use tokio::time::Instant;
use tonic::{Code, Status, transport::Channel};
use types::{Timestamp, error::chain};

use super::{
    TikvConfig,
    members::{
        self, Members,
        wire::{self as pdpb, pd_client::PdClient},
    },
    pace::bounded,
};
use crate::kv::KvError;

/// The service that collects garbage. Its announcement never expires.
const WORKER: &str = "gc_worker";
const FOREVER: i64 = i64::MAX;
/// Time limit of the search for the leader.
const LEADER_WAIT: Duration = Duration::from_secs(10);
/// Time limit of a call to PD.
const CALL_WAIT: Duration = Duration::from_secs(10);

/// A connection to PD's leader for one collection.
#[derive(Debug)]
pub(super) struct Driver {
    pd: PdClient<Channel>,
    cluster_id: u64,
    /// Whether PD has the calls of PD 9.
    has_states: bool,
}

impl Driver {
    /// Connects to the leader.
    pub(super) async fn connect(config: &TikvConfig, deadline: Instant) -> Result<Self, KvError> {
        let leader = bounded(deadline.min(Instant::now() + LEADER_WAIT), async {
            Members::new(config).leader().await
        });
        let leader = leader.await?;
        let connect = async {
            let endpoint = members::endpoint(leader.address(), config.tls.as_ref()).await?;
            Ok::<_, Box<dyn Error + Send + Sync>>(endpoint.timeout(CALL_WAIT).connect().await?)
        };
        let connected = bounded(deadline.min(Instant::now() + CALL_WAIT), connect).await?;
        let channel = connected.map_err(|error| {
            KvError::Unavailable(format!("PD at {}: {}", leader.address(), chain(&*error)))
        })?;
        let pd = PdClient::new(channel);
        Ok(Self { pd, cluster_id: leader.cluster_id, has_states: true })
    }

    /// Announces that nothing below `target` will be read. Returns the timestamp up to which all
    /// announcements allow collection, at most `target`.
    pub(super) async fn announce(&mut self, target: Timestamp) -> Result<Timestamp, KvError> {
        let header = self.header();
        let request = pdpb::AdvanceTxnSafePointRequest { header, target: target.0 };
        match self.pd.advance_txn_safe_point(request).await.map(tonic::Response::into_inner) {
            Ok(answer) => match refused(answer.header) {
                None => {
                    held_back(target, answer.new_txn_safe_point, &answer.blocker_description);
                    return Ok(Timestamp(answer.new_txn_safe_point));
                }
                // Another collector went further.
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

    /// Raises the safe point to where [`Driver::announce`] allowed, once no locks are left below
    /// it. Returns the safe point that applies.
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

/// The reason for which PD refused a request, if it did.
fn refused(header: Option<pdpb::ResponseHeader>) -> Option<String> {
    let error = header?.error?;
    (error.r#type != 0).then_some(error.message)
}

/// Whether the safe point was already further ahead, which PD 9 reports as an error.
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
