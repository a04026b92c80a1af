//! A participant whose answers a test decides.

use proto::participant::v1::{
    AbortRequest, AbortResponse, ApplyRequest, ApplyResponse, CommitRequest, CommitResponse,
    DescribeRequest, DescribeResponse, ForgetRequest, ForgetResponse, Operation, OperationResult,
    PrepareRequest, PrepareResponse, QueryRequest, QueryResponse,
    operation_result::Result as OpResult,
    participant_service_server::{ParticipantService, ParticipantServiceServer},
};
use tonic::{Request, Response, Status, async_trait};

/// The answers of a participant. A coordinator sends everything but some Prepares in Apply.
#[async_trait]
pub trait Participant: Send + Sync + 'static {
    /// Its name, and its number of shards.
    fn describe(&self) -> (String, u32);

    /// The answer to each operation of an Apply, or the failure of the call.
    async fn apply(&self, operations: Vec<Operation>) -> Result<Vec<OpResult>, Status>;

    /// The answer to a Prepare outside of Apply.
    async fn prepare(&self, _: PrepareRequest) -> Result<PrepareResponse, Status> {
        Err(Status::unimplemented("Prepare comes in Apply"))
    }
}

/// Serves a participant's answers.
pub fn serve<P: Participant>(participant: P) -> ParticipantServiceServer<Served<P>> {
    ParticipantServiceServer::new(Served(participant))
}

/// A participant, as gRPC calls it.
#[derive(Debug)]
pub struct Served<P>(P);

macro_rules! calls {
    ($($unused:ident: $request:ident -> $response:ident;)*) => {
        #[async_trait]
        impl<P: Participant> ParticipantService for Served<P> {
            async fn describe(
                &self,
                _: Request<DescribeRequest>,
            ) -> Result<Response<DescribeResponse>, Status> {
                let (service, shards) = self.0.describe();
                Ok(Response::new(DescribeResponse { service, shards }))
            }

            async fn apply(
                &self,
                request: Request<ApplyRequest>,
            ) -> Result<Response<ApplyResponse>, Status> {
                let answers = self.0.apply(request.into_inner().operations).await?.into_iter();
                let results = answers.map(|answer| OperationResult { result: Some(answer) });
                Ok(Response::new(ApplyResponse { results: results.collect() }))
            }

            async fn prepare(
                &self,
                request: Request<PrepareRequest>,
            ) -> Result<Response<PrepareResponse>, Status> {
                self.0.prepare(request.into_inner()).await.map(Response::new)
            }

            $(async fn $unused(
                &self,
                _: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                Err(Status::unimplemented("coordinators send it in Apply"))
            })*
        }
    };
}

calls! {
    commit: CommitRequest -> CommitResponse;
    abort: AbortRequest -> AbortResponse;
    query: QueryRequest -> QueryResponse;
    forget: ForgetRequest -> ForgetResponse;
}
