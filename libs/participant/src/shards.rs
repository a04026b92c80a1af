//! The lanes of a service in this replica, one for each shard.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use types::{
    Branch, Classify, ClientCall, ErrorKind, Reason, Refusal, Service, ShardId, Timestamp, shard_of,
};

use crate::{
    core::{Answer, Call, Domain},
    lane::{Lane, LaneError, LaneHandle, LaneOptions, Seams},
};

/// Why an operation has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpError {
    /// The service refused, which is definite.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// There is no answer. The outcome of a mutation is unknown.
    #[error(transparent)]
    Lane(#[from] LaneError),
}

impl Classify for OpError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused(refusal) => refusal.kind(),
            Self::Lane(error) => error.kind(),
        }
    }

    fn reason(&self) -> Cow<'static, str> {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::Lane(error) => error.reason(),
        }
    }

    fn metadata(&self) -> BTreeMap<String, String> {
        match self {
            Self::Refused(refusal) => refusal.metadata(),
            Self::Lane(error) => error.metadata(),
        }
    }
}

/// The lanes of a service. They are closed until the schema is known, and calls are `Unavailable`
/// until then.
#[derive(Debug)]
pub struct Shards<D: Domain> {
    service: Service,
    lanes: OnceLock<Vec<LaneHandle<D>>>,
}

impl<D: Domain> Shards<D> {
    /// Makes the service, without lanes yet.
    pub fn closed(domain: &D) -> Self {
        Self { service: domain.role().into(), lanes: OnceLock::new() }
    }

    /// Opens one lane for each shard. The lanes run until this is dropped. Does nothing if they are
    /// already open.
    pub fn open(&self, domain: &Arc<D>, shards: u16, seams: &Seams, options: LaneOptions) {
        let writer = seams.entropy.next_bytes();
        let options = LaneOptions { limits: options.limits.of_one(shards), ..options };
        let mut running = Vec::new();
        let opened = self.lanes.set(
            (0..shards)
                .map(|shard| {
                    let branch = Branch { service: self.service.clone(), shard: ShardId(shard) };
                    let domain = Arc::clone(domain);
                    let (lane, handle) = Lane::new(domain, branch, seams.clone(), options, writer);
                    running.push(lane);
                    handle
                })
                .collect(),
        );
        if opened.is_ok() {
            for lane in running {
                tokio::spawn(lane.run());
            }
        }
    }

    /// The service's name.
    pub const fn service(&self) -> &Service {
        &self.service
    }

    /// How many shards there are.
    ///
    /// # Errors
    /// [`LaneError::Unavailable`] while closed.
    pub fn count(&self) -> Result<u16, LaneError> {
        let lanes = self.lanes.get().ok_or(LaneError::Unavailable)?;
        u16::try_from(lanes.len()).map_err(|_| LaneError::Unavailable)
    }

    /// The shard of an id.
    ///
    /// # Errors
    /// [`LaneError::Unavailable`] while closed.
    pub fn shard_of(&self, id: &str) -> Result<ShardId, LaneError> {
        Ok(shard_of(id, self.count()?))
    }

    /// The handle to a shard's lane. `None` for a shard that does not exist.
    ///
    /// # Errors
    /// [`LaneError::Unavailable`] while closed.
    pub fn lane(&self, shard: ShardId) -> Result<Option<&LaneHandle<D>>, LaneError> {
        Ok(self.lanes.get().ok_or(LaneError::Unavailable)?.get(usize::from(shard.0)))
    }

    /// Executes an operation on a shard. Returns the reply and the timestamp at which it was true.
    ///
    /// # Errors
    /// [`OpError`].
    pub async fn execute(
        &self,
        shard: ShardId,
        op: D::Op,
        call: Option<ClientCall>,
    ) -> Result<(D::Reply, Timestamp), OpError> {
        self.ask(shard, Call::Op { op, call, may_wait: true }).await
    }

    /// Makes a shard remember that a call is refused. Returns the reply if the call has already
    /// succeeded.
    ///
    /// # Errors
    /// The refusal that stands, or another [`OpError`].
    pub async fn refuse(
        &self,
        shard: ShardId,
        call: ClientCall,
        refusal: Refusal,
    ) -> Result<(D::Reply, Timestamp), OpError> {
        let refusal = (&refusal).into();
        self.ask(shard, Call::Refuse { call, began: None, refusal }).await
    }

    async fn ask(&self, shard: ShardId, call: Call<D>) -> Result<(D::Reply, Timestamp), OpError> {
        let lane = self.lane(shard)?.ok_or(LaneError::Unavailable)?;
        match lane.call(call).await? {
            Answer::Done(reply, at) => Ok((reply, at)),
            Answer::Refused(refusal) => Err(refusal.into()),
            Answer::Overloaded => Err(LaneError::Overloaded.into()),
            Answer::Expired => Err(LaneError::Expired.into()),
            // A transaction has the same request id and hash; no operation ever has them.
            Answer::Committed(_) => Err(Refusal::new(Reason::RequestIdReused).into()),
            // A lane has no other answers to an operation.
            Answer::Vote(_)
            | Answer::Waiting(_)
            | Answer::State(..)
            | Answer::Aborted { .. }
            | Answer::Forgotten => Err(LaneError::Unavailable.into()),
        }
    }
}
