//! The gRPC face of `till.participant.v1` over a service's lanes.

use std::sync::Arc;

use futures::future::join_all;
use proto::{
    InvalidField, convert,
    participant::v1::{
        self as wire, operation::Operation as Op, operation_result::Result as OpResult,
        participant_service_server::ParticipantService,
    },
};
use rpc::status::{invalid_field, to_status};
use tonic::{Request, Response, Status};
use types::{BranchState, TxMeta, Vote};

use crate::{
    core::{Answer, Call},
    domain::{Domain, Receipt},
    lane::LaneError,
    shards::Shards,
};

/// Operations in one Apply at most.
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

/// Says that a field does not convert.
pub fn invalid(error: &InvalidField) -> Status {
    invalid_field(error.field, &error.problem)
}

impl<D: Domain> Participant<D> {
    /// The face of these lanes.
    pub const fn new(domain: Arc<D>, shards: Arc<Shards<D>>) -> Self {
        Self { domain, shards }
    }

    /// Hands a call to the lane of its branch.
    async fn ask(
        &self,
        branch: Option<&proto::types::v1::Branch>,
        call: Call<D>,
    ) -> Result<Answer<D::Reply>, Status> {
        let branch = convert::branch(branch).map_err(|error| invalid(&error))?;
        if branch.service != *self.shards.service() {
            return Err(invalid_field("branch.service", "names another service"));
        }
        let lane = self.shards.lane(branch.shard).map_err(|error| to_status(&error))?;
        let lane = lane.ok_or_else(|| invalid_field("branch.shard", "does not exist"))?;
        if let Call::Prepare { meta, .. }
        | Call::Commit { meta, .. }
        | Call::Abort { meta, .. }
        | Call::Query { meta, .. } = &call
            && !meta.branches.contains(&branch)
        {
            return Err(invalid_field("branch", "is not one of tx.branches"));
        }
        lane.call(call).await.map_err(|error| to_status(&error))
    }

    async fn vote(
        &self,
        request: &wire::PrepareRequest,
        may_wait: bool,
    ) -> Result<Result<Vote, Box<TxMeta>>, Status> {
        let meta = tx(request.tx.as_ref())?;
        let payload =
            self.domain.decode_payload(&request.payload).map_err(|error| invalid(&error))?;
        let call = Call::Prepare { meta, payload, may_wait };
        match self.ask(request.branch.as_ref(), call).await? {
            Answer::Vote(vote) => Ok(Ok(vote)),
            Answer::Waiting(blocker) => Ok(Err(blocker)),
            Answer::Overloaded => Err(to_status(&LaneError::Overloaded)),
            // A lane answers a Prepare in no other way.
            Answer::Done(..) | Answer::Refused(_) | Answer::State(..) | Answer::Forgotten => {
                Err(to_status(&LaneError::Unavailable))
            }
        }
    }

    async fn state(
        &self,
        branch: Option<&proto::types::v1::Branch>,
        call: Call<D>,
    ) -> Result<(BranchState, Option<Vote>), Status> {
        match self.ask(branch, call).await? {
            Answer::State(state, vote) => Ok((state, vote)),
            // A lane answers a Commit, Abort or Query in no other way.
            Answer::Done(..)
            | Answer::Refused(_)
            | Answer::Vote(_)
            | Answer::Waiting(_)
            | Answer::Forgotten
            | Answer::Overloaded => Err(to_status(&LaneError::Unavailable)),
        }
    }

    async fn commit_one(
        &self,
        request: wire::CommitRequest,
    ) -> Result<wire::CommitResponse, Status> {
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
            // COMMITTED needs every vote to be YES, and their receipts are the proof.
            return Err(invalid_field("receipts", "must be those of all branches, in their order"));
        }
        let call = Call::Commit { meta, receipts };
        let (state, _) = self.state(request.branch.as_ref(), call).await?;
        Ok(wire::CommitResponse { state: wire::BranchState::from(state).into() })
    }

    async fn abort_one(&self, request: &wire::AbortRequest) -> Result<wire::AbortResponse, Status> {
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
        let call = Call::Abort { meta, evidence, refusal };
        let (state, _) = self.state(request.branch.as_ref(), call).await?;
        Ok(wire::AbortResponse { state: wire::BranchState::from(state).into() })
    }

    async fn query_one(&self, request: &wire::QueryRequest) -> Result<wire::QueryResponse, Status> {
        let call = Call::Query { meta: tx(request.tx.as_ref())?, fence: request.fence };
        let (state, vote) = self.state(request.branch.as_ref(), call).await?;
        Ok(wire::QueryResponse {
            state: wire::BranchState::from(state).into(),
            vote: vote.as_ref().map(wire::Vote::from),
        })
    }

    async fn forget_one(
        &self,
        request: &wire::ForgetRequest,
    ) -> Result<wire::ForgetResponse, Status> {
        let tx_id = convert::tx_id(&request.tx_id).map_err(|error| invalid(&error))?;
        self.ask(request.branch.as_ref(), Call::Forget { tx_id }).await?;
        Ok(wire::ForgetResponse {})
    }

    async fn read_one(&self, request: &wire::ReadRequest) -> Result<OpResult, Status> {
        let op = self.domain.decode_query(&request.query).map_err(|error| invalid(&error))?;
        let call = Call::Op { op: op.clone(), request: None, may_wait: false };
        match self.ask(request.branch.as_ref(), call).await? {
            Answer::Done(reply, at) => {
                let answer = self.domain.encode_answer(&op, &reply, at).into();
                Ok(OpResult::Read(wire::ReadResponse { answer }))
            }
            Answer::Refused(refusal) => Err(to_status(&refusal)),
            Answer::Waiting(blocker) => Ok(waiting(&blocker)),
            Answer::Overloaded => Err(to_status(&LaneError::Overloaded)),
            // A lane answers an operation in no other way.
            Answer::Vote(_) | Answer::State(..) | Answer::Forgotten => {
                Err(to_status(&LaneError::Unavailable))
            }
        }
    }

    async fn apply_one(&self, operation: wire::Operation) -> OpResult {
        let result = match operation.operation {
            Some(Op::Prepare(request)) => self.vote(&request, false).await.map(|vote| match vote {
                Ok(vote) => OpResult::Prepare(wire::PrepareResponse { vote: Some((&vote).into()) }),
                Err(blocker) => waiting(&blocker),
            }),
            Some(Op::Commit(request)) => self.commit_one(request).await.map(OpResult::Commit),
            Some(Op::Abort(request)) => self.abort_one(&request).await.map(OpResult::Abort),
            Some(Op::Query(request)) => self.query_one(&request).await.map(OpResult::Query),
            Some(Op::Forget(request)) => self.forget_one(&request).await.map(OpResult::Forget),
            Some(Op::Read(request)) => self.read_one(&request).await,
            None => Err(invalid_field("operation", "is missing")),
        };
        result.unwrap_or_else(|status| {
            OpResult::Error(wire::OperationError {
                code: status.code().into(),
                message: status.message().to_owned(),
            })
        })
    }
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
        // A call that may wait is never answered `Waiting`; a full queue is.
        let vote = self.vote(request.get_ref(), true).await?;
        let vote = vote.map_err(|_| to_status(&LaneError::Overloaded))?;
        Ok(Response::new(wire::PrepareResponse { vote: Some((&vote).into()) }))
    }

    async fn commit(
        &self,
        request: Request<wire::CommitRequest>,
    ) -> Result<Response<wire::CommitResponse>, Status> {
        self.commit_one(request.into_inner()).await.map(Response::new)
    }

    async fn abort(
        &self,
        request: Request<wire::AbortRequest>,
    ) -> Result<Response<wire::AbortResponse>, Status> {
        self.abort_one(request.get_ref()).await.map(Response::new)
    }

    async fn query(
        &self,
        request: Request<wire::QueryRequest>,
    ) -> Result<Response<wire::QueryResponse>, Status> {
        self.query_one(request.get_ref()).await.map(Response::new)
    }

    async fn forget(
        &self,
        request: Request<wire::ForgetRequest>,
    ) -> Result<Response<wire::ForgetResponse>, Status> {
        self.forget_one(request.get_ref()).await.map(Response::new)
    }

    async fn apply(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<wire::ApplyResponse>, Status> {
        let operations = request.into_inner().operations;
        if operations.len() > OPERATIONS_MAX {
            return Err(invalid_field("operations", "must be at most 4096"));
        }
        let results = join_all(operations.into_iter().map(|one| self.apply_one(one))).await;
        let results =
            results.into_iter().map(|result| wire::OperationResult { result: Some(result) });
        Ok(Response::new(wire::ApplyResponse { results: results.collect() }))
    }
}
