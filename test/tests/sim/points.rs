//! A foreign participant, which gives points for purchases. It keeps the protocol's rules by
//! `twopc`'s table, and shares nothing with the shop's lanes or its store. Its answers are durable
//! at once, and survive its processes.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use proto::{
    convert,
    coordinator::v1::{ResolveRequest, coordinator_service_client::CoordinatorServiceClient},
    participant::v1::{
        self as wire,
        operation::Operation as Op,
        operation_result::Result as OpResult,
        participant_service_server::{ParticipantService, ParticipantServiceServer},
    },
    types::v1 as wire_types,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rpc::net::Transport;
use system_test::history::calls::FOREIGN;
use testkit::TokioClock;
use tonic::{Request, Response, Status};
use twopc::participant::{Decision, Event, Gate, TransactionTable};
use types::{Branch, BranchState, Clock, Service, ShardId, Timestamp, TxId, TxMeta, Vote};

use crate::network::Process;

/// Pause between two questions about votes that should be final.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The participant's durable state.
#[derive(Clone)]
pub(crate) struct Points(Arc<Mutex<TransactionTable<()>>>);

impl Points {
    pub(crate) fn new() -> Self {
        let branch = Branch { service: Service::new(FOREIGN).unwrap(), shard: ShardId(0) };
        Self(Arc::new(Mutex::new(TransactionTable::new(branch))))
    }

    fn table(&self) -> MutexGuard<'_, TransactionTable<()>> {
        self.0.lock().unwrap()
    }

    /// Every transaction that it knows, with its state.
    pub(crate) fn known(&self) -> Vec<(TxId, BranchState)> {
        self.table().iter().map(|entry| (entry.meta.tx_id, entry.state)).collect()
    }

    /// Asks the coordinators in turn to resolve votes past their deadline, for as long as the
    /// process lives.
    pub(crate) async fn ask(
        self,
        process: Process,
        clock: TokioClock,
        coordinators: Vec<Transport>,
    ) {
        let mut next = coordinators.iter().cycle();
        while !process.is_dead() {
            tokio::time::sleep(ASK_EVERY).await;
            let now = clock.now();
            let late: Vec<TxMeta> = {
                let table = self.table();
                let open = table.iter().filter(|entry| entry.state == BranchState::Prepared);
                open.map(|entry| entry.meta.clone()).filter(|meta| meta.deadline < now).collect()
            };
            for meta in late {
                let Some(coordinator) = next.next() else { return };
                let mut request = Request::new(ResolveRequest { tx: Some((&meta).into()) });
                rpc::deadline::set(&mut request, ASK_EVERY);
                // The outcome arrives as Commit or Abort; until then it asks again.
                let _asked =
                    CoordinatorServiceClient::new(coordinator.clone()).resolve(request).await;
            }
        }
    }

    /// Starts a process. Until the shop is healed it may die at any operation, with a chance of
    /// `death` per ten thousand operations.
    pub(crate) fn serve(
        &self,
        process: &Process,
        clock: TokioClock,
        seed: u64,
        (death, healed): (u32, &Arc<AtomicBool>),
    ) -> ParticipantServiceServer<Server> {
        ParticipantServiceServer::new(Server {
            points: self.clone(),
            process: process.clone(),
            clock,
            death: Mutex::new((ChaCha8Rng::seed_from_u64(seed), death)),
            healed: Arc::clone(healed),
        })
    }
}

/// A process of the participant.
pub(crate) struct Server {
    points: Points,
    process: Process,
    clock: TokioClock,
    death: Mutex<(ChaCha8Rng, u32)>,
    healed: Arc<AtomicBool>,
}

impl Server {
    async fn may_die(&self) {
        let dies = {
            let mut death = self.death.lock().unwrap();
            let rate = death.1;
            death.0.random_range(0..10_000) < rate && !self.healed.load(Ordering::Relaxed)
        };
        if dies {
            self.process.kill();
            std::future::pending::<()>().await;
        }
    }

    fn vote(&self, tx: Option<&wire_types::TxMeta>) -> Vote {
        let meta = convert::tx_meta(tx).unwrap();
        let mut table = self.points.table();
        let vote = match table.gate(&meta, Timestamp::from_physical(self.clock.now())) {
            Gate::Reject(vote) => vote,
            Gate::Admit => {
                table.apply(Event::Prepared { meta, hold: (), receipt: Vec::new() }, 1);
                Vote::Yes { receipt: Vec::new() }
            }
        };
        table.settle();
        vote
    }

    fn conclude(
        &self,
        tx: Option<&wire_types::TxMeta>,
        decide: impl FnOnce(&TransactionTable<()>, &TxMeta) -> Decision<()>,
    ) -> (i32, Option<wire::Vote>) {
        let meta = convert::tx_meta(tx).unwrap();
        let mut table = self.points.table();
        let decision = decide(&table, &meta);
        if let Some(event) = decision.event {
            table.apply(event, 1);
        }
        table.settle();
        let vote = table.get(meta.tx_id).and_then(|entry| entry.vote.clone());
        (wire::BranchState::from(decision.state).into(), vote.as_ref().map(wire::Vote::from))
    }

    async fn apply_one(&self, operation: wire::Operation) -> OpResult {
        self.may_die().await;
        let result = match operation.operation.unwrap() {
            Op::Prepare(request) => {
                let vote = self.vote(request.tx.as_ref());
                OpResult::Prepare(wire::PrepareResponse { vote: Some((&vote).into()) })
            }
            Op::Commit(request) => {
                let (state, _) = self.conclude(request.tx.as_ref(), TransactionTable::commit);
                OpResult::Commit(wire::CommitResponse { state })
            }
            Op::Abort(request) => {
                let evidence = request.evidence.is_some();
                let abort =
                    |table: &TransactionTable<()>, meta: &TxMeta| table.abort(meta, evidence);
                let (state, _) = self.conclude(request.tx.as_ref(), abort);
                OpResult::Abort(wire::AbortResponse { state, refused: false })
            }
            Op::Query(request) => {
                let query =
                    |table: &TransactionTable<()>, meta: &TxMeta| table.query(meta, request.fence);
                let (state, vote) = self.conclude(request.tx.as_ref(), query);
                OpResult::Query(wire::QueryResponse { state, vote })
            }
            Op::Forget(_) => OpResult::Forget(wire::ForgetResponse {}),
            Op::Read(_) | Op::Refuse(_) => OpResult::Error(wire::OperationError {
                code: 12,
                message: "not offered".to_owned(),
            }),
        };
        self.may_die().await;
        result
    }
}

/// For the single operations: coordinators bundle theirs in Apply.
fn unused<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("only Apply is asked"))
}

#[tonic::async_trait]
impl ParticipantService for Server {
    async fn describe(
        &self,
        _: Request<wire::DescribeRequest>,
    ) -> Result<Response<wire::DescribeResponse>, Status> {
        Ok(Response::new(wire::DescribeResponse { service: FOREIGN.to_owned(), shards: 1 }))
    }

    async fn apply(
        &self,
        request: Request<wire::ApplyRequest>,
    ) -> Result<Response<wire::ApplyResponse>, Status> {
        let operations = request.into_inner().operations.into_iter();
        let results = join_all(operations.map(|operation| self.apply_one(operation))).await;
        let results = results.into_iter().map(|one| wire::OperationResult { result: Some(one) });
        Ok(Response::new(wire::ApplyResponse { results: results.collect() }))
    }

    async fn prepare(
        &self,
        _: Request<wire::PrepareRequest>,
    ) -> Result<Response<wire::PrepareResponse>, Status> {
        unused()
    }

    async fn commit(
        &self,
        _: Request<wire::CommitRequest>,
    ) -> Result<Response<wire::CommitResponse>, Status> {
        unused()
    }

    async fn abort(
        &self,
        _: Request<wire::AbortRequest>,
    ) -> Result<Response<wire::AbortResponse>, Status> {
        unused()
    }

    async fn query(
        &self,
        _: Request<wire::QueryRequest>,
    ) -> Result<Response<wire::QueryResponse>, Status> {
        unused()
    }

    async fn forget(
        &self,
        _: Request<wire::ForgetRequest>,
    ) -> Result<Response<wire::ForgetResponse>, Status> {
        unused()
    }
}
