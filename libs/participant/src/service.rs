//! The gRPC service `till.participant.v1` over a service's lanes.

use std::sync::Arc;

use proto::{
    InvalidField, convert,
    participant::v1::{
        self as wire, operation::Operation as Op, operation_result::Result as OpResult,
        participant_service_server::ParticipantService,
    },
};
use rpc::status::{invalid_field, to_status};
use tonic::{Request, Response, Status};
use types::{BranchState, Mutation, Reason, Refusal, ShardId, Timestamp, TxMeta, Vote, shard_of};

use crate::{
    core::{Answer, Call, Domain},
    lane::{LaneError, Pending},
    records::{Receipt, Row},
    shards::Shards,
};

/// Limit on the operations in one Apply.
const OPERATIONS_MAX: usize = 4096;

/// `till.participant.v1.ParticipantService` of a service.
#[derive(Debug)]
pub struct Participant<D: Domain> {
    domain: Arc<D>,
    shards: Arc<Shards<D>>,
}

impl<D: Domain> Clone for Participant<D> {
    fn clone(&self) -> Self {
        Self { domain: Arc::clone(&self.domain), shards: Arc::clone(&self.shards) }
    }
}

/// The converted field.
///
/// # Errors
/// INVALID_ARGUMENT, naming the field.
pub fn checked<T>(field: Result<T, InvalidField>) -> Result<T, Status> {
    field.map_err(|error| invalid(&error))
}

/// The status for a field that does not convert.
pub fn invalid(error: &InvalidField) -> Status {
    invalid_field(error.field, &error.problem)
}

impl<D: Domain> Participant<D> {
    /// The gRPC service over these lanes.
    pub const fn new(domain: Arc<D>, shards: Arc<Shards<D>>) -> Self {
        Self { domain, shards }
    }

    /// Hands a call to the lane of its branch.
    fn ask(
        &self,
        branch: Option<&proto::types::v1::Branch>,
        call: Call<D>,
    ) -> Result<Pending<D>, Status> {
        let branch = convert::branch(branch).map_err(|error| invalid(&error))?;
        if branch.service != *self.shards.service() {
            return Err(invalid_field("branch.service", "names another service"));
        }
        let lane = self.shards.lane(branch.shard).map_err(|error| to_status(&error))?;
        if let Call::Prepare { meta, .. }
        | Call::Reject { meta, .. }
        | Call::Commit { meta, .. }
        | Call::Abort { meta, .. }
        | Call::Query { meta, .. } = &call
            && !meta.branches.contains(&branch)
        {
            return Err(invalid_field("branch", "is not one of tx.branches"));
        }
        match lane {
            Some(lane) => lane.begin(call).map_err(|error| to_status(&error)),
            None => answer_of_missing_shard(&call).map(Pending::ready),
        }
    }

    fn begin_prepare(
        &self,
        request: &wire::PrepareRequest,
        may_wait: bool,
    ) -> Result<Pending<D>, Status> {
        let meta = tx(request.tx.as_ref())?;
        let branch = convert::branch(request.branch.as_ref()).map_err(|error| invalid(&error))?;
        // A Prepare that can never get a YES gets a durable NO. After an error, the coordinator
        // would ask again.
        let call = match self.domain.decode_payload(&request.payload) {
            Ok(payload) if self.lies_on(&payload, branch.shard)? => {
                Call::Prepare { meta, payload, may_wait }
            }
            Ok(_) => Call::Reject { meta, refusal: Refusal::new(Reason::WrongShard) },
            Err(InvalidField { field, problem }) => {
                let refusal = Refusal::new(Reason::InvalidArgument).with(field, problem);
                Call::Reject { meta, refusal }
            }
        };
        self.ask(request.branch.as_ref(), call)
    }

    /// Whether all that a Prepare asks for is on this shard.
    fn lies_on(&self, payload: &D::Payload, shard: ShardId) -> Result<bool, Status> {
        let shards = self.shards.count().map_err(|error| to_status(&error))?;
        let lies = |row: &Row| {
            let id = row.get(1..).and_then(|id| std::str::from_utf8(id).ok());
            id.is_some_and(|id| shard_of(id, shards) == shard)
        };
        Ok(self.domain.payload_rows(payload).iter().all(lies))
    }

    fn begin_commit(&self, request: wire::CommitRequest) -> Result<Pending<D>, Status> {
        let receipts = request.receipts.into_iter().map(|receipt| {
            let branch = convert::branch(receipt.branch.as_ref())?;
            Ok(Receipt { branch, receipt: receipt.receipt.to_vec() })
        });
        let receipts: Vec<_> =
            receipts.collect::<Result<_, InvalidField>>().map_err(|error| invalid(&error))?;
        let meta = tx(request.tx.as_ref())?;
        let branch = convert::branch(request.branch.as_ref()).map_err(|error| invalid(&error))?;
        let proved = meta.branches.iter().eq(receipts.iter().map(|receipt| &receipt.branch));
        if meta.is_primary(&branch) && !proved {
            // P3: COMMITTED needs every vote to be YES, and the receipts prove that.
            return Err(invalid_field("receipts", "must be those of all branches, in their order"));
        }
        self.ask(request.branch.as_ref(), Call::Commit { meta, receipts })
    }

    fn begin_abort(&self, request: &wire::AbortRequest) -> Result<Pending<D>, Status> {
        let meta = tx(request.tx.as_ref())?;
        let evidence = match &request.evidence {
            None => false,
            Some(branch) => {
                let branch = convert::branch(Some(branch)).map_err(|error| invalid(&error))?;
                if !meta.branches.contains(&branch) {
                    return Err(invalid_field("evidence", "is not one of tx.branches"));
                }
                true
            }
        };
        let refusal = request
            .refusal
            .as_ref()
            .map(|no| Vote::No { reason: no.reason.clone(), metadata: no.metadata.clone() });
        self.ask(request.branch.as_ref(), Call::Abort { meta, evidence, refusal })
    }

    fn begin_query(&self, request: &wire::QueryRequest) -> Result<Pending<D>, Status> {
        let call = Call::Query { meta: tx(request.tx.as_ref())?, fence: request.fence };
        self.ask(request.branch.as_ref(), call)
    }

    fn begin_refuse(&self, request: &wire::RefuseRequest) -> Result<Pending<D>, Status> {
        let call = convert::client_call(
            &request.request_id,
            request.request_fingerprint,
            request.not_after_ms,
            &request.call_id,
            request.call_began_ts,
        );
        let call = call.map_err(|error| invalid(&error))?;
        let call =
            call.ok_or_else(|| invalid_field("request_id", "must be there, with its hash"))?;
        let refusal = request.refusal.as_ref().filter(|no| !no.reason.is_empty());
        let refusal = refusal.ok_or_else(|| invalid_field("refusal", "must have a reason"))?;
        let (reason, metadata) = (refusal.reason.clone(), refusal.metadata.clone());
        let refusal = Vote::No { reason, metadata };
        let began = Some(Timestamp(request.began_ts));
        self.ask(request.branch.as_ref(), Call::Refuse { call, began, refusal })
    }

    fn begin_forget(&self, request: &wire::ForgetRequest) -> Result<Pending<D>, Status> {
        let tx_id = convert::tx_id(&request.tx_id).map_err(|error| invalid(&error))?;
        self.ask(request.branch.as_ref(), Call::Forget { tx_id })
    }

    /// Hands one operation of an Apply to its lane.
    fn begin(&self, operation: wire::Operation) -> Result<Begun<D>, Status> {
        Ok(match operation.operation {
            Some(Op::Prepare(request)) => Begun::Prepare(self.begin_prepare(&request, false)?),
            Some(Op::Commit(request)) => Begun::Commit(self.begin_commit(request)?),
            Some(Op::Abort(request)) => Begun::Abort(self.begin_abort(&request)?),
            Some(Op::Query(request)) => Begun::Query(self.begin_query(&request)?),
            Some(Op::Forget(request)) => Begun::Forget(self.begin_forget(&request)?),
            Some(Op::Refuse(request)) => Begun::Refuse(self.begin_refuse(&request)?),
            Some(Op::Read(request)) => {
                let op =
                    self.domain.decode_query(&request.query).map_err(|error| invalid(&error))?;
                let call = Call::Op { op: op.clone(), call: None, may_wait: false };
                Begun::Read(op, self.ask(request.branch.as_ref(), call)?)
            }
            None => return Err(invalid_field("operation", "is missing")),
        })
    }

    /// Waits for the answer to one operation of an Apply.
    async fn finish(&self, begun: Begun<D>) -> Result<OpResult, Status> {
        Ok(match begun {
            Begun::Prepare(pending) => match vote(pending).await? {
                Ok(vote) => OpResult::Prepare(wire::PrepareResponse { vote: Some((&vote).into()) }),
                Err(blocker) => waiting(&blocker),
            },
            Begun::Commit(pending) => OpResult::Commit(committed(pending).await?),
            Begun::Abort(pending) => OpResult::Abort(aborted(pending).await?),
            Begun::Query(pending) => OpResult::Query(queried(pending).await?),
            Begun::Forget(pending) => {
                settled(pending).await?;
                OpResult::Forget(wire::ForgetResponse {})
            }
            Begun::Refuse(pending) => OpResult::Refuse(refused(pending).await?),
            Begun::Read(op, pending) => match settled(pending).await? {
                Answer::Done(reply, at) => {
                    let answer = self.domain.encode_answer(&op, &reply, at).into();
                    OpResult::Read(wire::ReadResponse { answer })
                }
                Answer::Refused(refusal) => return Err(to_status(&refusal)),
                Answer::Waiting(blocker) => waiting(&blocker),
                Answer::Overloaded => return Err(to_status(&LaneError::Overloaded)),
                // A lane has no other answers to an operation that changes nothing.
                Answer::Vote(_)
                | Answer::State(..)
                | Answer::Aborted { .. }
                | Answer::Forgotten
                | Answer::Expired
                | Answer::Committed(_) => return Err(to_status(&LaneError::Unavailable)),
            },
        })
    }
}

/// The answer for a shard that does not exist. It never votes YES, so a transaction that names it
/// counts as aborted there from the beginning, and can always be resolved.
fn answer_of_missing_shard<D: Domain>(call: &Call<D>) -> Result<Answer<D::Reply>, Status> {
    if Mutation::ShardsUnchecked.is_on() {
        return Err(to_status(&LaneError::Unavailable));
    }
    match call {
        Call::Prepare { .. } | Call::Reject { .. } => {
            Ok(Answer::Vote((&Refusal::new(Reason::WrongShard)).into()))
        }
        Call::Abort { .. } => Ok(Answer::Aborted { state: BranchState::Aborted, refused: false }),
        Call::Query { .. } => Ok(Answer::State(BranchState::Aborted, None)),
        Call::Forget { .. } => Ok(Answer::Forgotten),
        Call::Op { .. } | Call::Commit { .. } | Call::Refuse { .. } => {
            Err(invalid_field("branch.shard", "does not exist"))
        }
    }
}

/// An operation of an Apply that its lane has taken, by the kind of its answer.
enum Begun<D: Domain> {
    Prepare(Pending<D>),
    Commit(Pending<D>),
    Abort(Pending<D>),
    Query(Pending<D>),
    Forget(Pending<D>),
    Refuse(Pending<D>),
    Read(D::Op, Pending<D>),
}

async fn settled<D: Domain>(pending: Pending<D>) -> Result<Answer<D::Reply>, Status> {
    pending.answer().await.map_err(|error| to_status(&error))
}

/// The vote on a Prepare, or the blocker that it would have to wait for.
async fn vote<D: Domain>(pending: Pending<D>) -> Result<Result<Vote, Box<TxMeta>>, Status> {
    match settled(pending).await? {
        Answer::Vote(vote) => Ok(Ok(vote)),
        Answer::Waiting(blocker) => Ok(Err(blocker)),
        Answer::Overloaded => Err(to_status(&LaneError::Overloaded)),
        // A lane has no other answers to a Prepare.
        Answer::Done(..)
        | Answer::Refused(_)
        | Answer::State(..)
        | Answer::Aborted { .. }
        | Answer::Forgotten
        | Answer::Expired
        | Answer::Committed(_) => Err(to_status(&LaneError::Unavailable)),
    }
}

async fn state<D: Domain>(pending: Pending<D>) -> Result<(BranchState, Option<Vote>), Status> {
    match settled(pending).await? {
        Answer::State(state, vote) => Ok((state, vote)),
        // A lane has no other answers to a Commit or a Query.
        Answer::Done(..)
        | Answer::Refused(_)
        | Answer::Vote(_)
        | Answer::Waiting(_)
        | Answer::Aborted { .. }
        | Answer::Forgotten
        | Answer::Expired
        | Answer::Committed(_)
        | Answer::Overloaded => Err(to_status(&LaneError::Unavailable)),
    }
}

async fn refused<D: Domain>(pending: Pending<D>) -> Result<wire::RefuseResponse, Status> {
    use wire::refuse_response::Outcome;
    let outcome = match settled(pending).await? {
        Answer::Refused(refusal) => Outcome::Refusal((&refusal).into()),
        Answer::Vote(Vote::No { reason, metadata }) => {
            Outcome::Refusal(wire::vote::No { reason, metadata })
        }
        Answer::Committed(tx_id) => Outcome::Committed(tx_id.0.to_vec().into()),
        // An operation has the same request id and hash; the coordinator never uses them for an
        // operation.
        Answer::Done(..)
        | Answer::Vote(_)
        | Answer::Waiting(_)
        | Answer::State(..)
        | Answer::Aborted { .. }
        | Answer::Forgotten
        | Answer::Expired
        | Answer::Overloaded => return Err(to_status(&LaneError::Unavailable)),
    };
    Ok(wire::RefuseResponse { outcome: Some(outcome) })
}

async fn committed<D: Domain>(pending: Pending<D>) -> Result<wire::CommitResponse, Status> {
    let (state, _) = state(pending).await?;
    Ok(wire::CommitResponse { state: wire::BranchState::from(state).into() })
}

async fn aborted<D: Domain>(pending: Pending<D>) -> Result<wire::AbortResponse, Status> {
    match settled(pending).await? {
        Answer::Aborted { state, refused } => {
            Ok(wire::AbortResponse { state: wire::BranchState::from(state).into(), refused })
        }
        // A lane has no other answers to an Abort.
        Answer::Done(..)
        | Answer::Refused(_)
        | Answer::Vote(_)
        | Answer::Waiting(_)
        | Answer::State(..)
        | Answer::Forgotten
        | Answer::Expired
        | Answer::Committed(_)
        | Answer::Overloaded => Err(to_status(&LaneError::Unavailable)),
    }
}

async fn queried<D: Domain>(pending: Pending<D>) -> Result<wire::QueryResponse, Status> {
    let (state, vote) = state(pending).await?;
    Ok(wire::QueryResponse {
        state: wire::BranchState::from(state).into(),
        vote: vote.as_ref().map(wire::Vote::from),
    })
}

/// The result of an operation that got no answer.
fn error(status: &Status) -> OpResult {
    OpResult::Error(wire::OperationError {
        code: status.code().into(),
        message: status.message().to_owned(),
    })
}

fn waiting(blocker: &TxMeta) -> OpResult {
    let blocker = wire::Blocker { tx: Some(blocker.into()) };
    OpResult::Waiting(wire::Waiting { blocker: Some(blocker) })
}

fn tx(meta: Option<&proto::types::v1::TxMeta>) -> Result<TxMeta, Status> {
    convert::tx_meta(meta).map_err(|error| invalid(&error))
}

#[tonic::async_trait]
impl<D: Domain> ParticipantService for Participant<D> {
    async fn describe(
        &self,
        _request: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::DescribeResponse>, Status> {
        let shards = self.shards.count().map_err(|error| to_status(&error))?;
        Ok(Response::new(wire::DescribeResponse {
            service: self.shards.service().to_string(),
            shards: u32::from(shards),
        }))
    }

    async fn prepare(
        &self,
        request: Request<wire::PrepareRequest>,
    ) -> Result<Response<wire::PrepareResponse>, Status> {
        // A Prepare that may wait is never answered `Waiting`.
        let vote = vote(self.begin_prepare(request.get_ref(), true)?).await?;
        let vote = vote.map_err(|_| to_status(&LaneError::Overloaded))?;
        Ok(Response::new(wire::PrepareResponse { vote: Some((&vote).into()) }))
    }

    async fn commit(
        &self,
        request: Request<wire::CommitRequest>,
    ) -> Result<Response<wire::CommitResponse>, Status> {
        committed(self.begin_commit(request.into_inner())?).await.map(Response::new)
    }

    async fn abort(
        &self,
        request: Request<wire::AbortRequest>,
    ) -> Result<Response<wire::AbortResponse>, Status> {
        aborted(self.begin_abort(request.get_ref())?).await.map(Response::new)
    }

    async fn query(
        &self,
        request: Request<wire::QueryRequest>,
    ) -> Result<Response<wire::QueryResponse>, Status> {
        queried(self.begin_query(request.get_ref())?).await.map(Response::new)
    }

    async fn forget(
        &self,
        request: Request<wire::ForgetRequest>,
    ) -> Result<Response<wire::ForgetResponse>, Status> {
        settled(self.begin_forget(request.get_ref())?).await?;
        Ok(Response::new(wire::ForgetResponse {}))
    }

    async fn apply(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<wire::ApplyResponse>, Status> {
        let operations = request.into_inner().operations;
        if operations.len() > OPERATIONS_MAX {
            return Err(invalid_field("operations", "must be at most 4096"));
        }
        // All operations are in their lanes before the first answer is awaited.
        let begun: Vec<_> = operations.into_iter().map(|operation| self.begin(operation)).collect();
        let mut results = Vec::with_capacity(begun.len());
        for begun in begun {
            let result = match begun {
                Ok(begun) => self.finish(begun).await,
                Err(status) => Err(status),
            };
            let result = result.unwrap_or_else(|status| error(&status));
            results.push(wire::OperationResult { result: Some(result) });
        }
        Ok(Response::new(wire::ApplyResponse { results }))
    }
}
