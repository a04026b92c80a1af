//! The service under test, and transactions that nobody else uses.

use std::time::Duration;

use proto::{
    participant::v1::{
        AbortRequest, ApplyRequest, BranchState, CommitRequest, DescribeRequest, ForgetRequest,
        Operation, OperationResult, PrepareRequest, QueryRequest, QueryResponse, Receipt, Vote,
        participant_service_client::ParticipantServiceClient, vote::Vote as Is,
    },
    types::v1::{Branch, Priority, TxMeta},
};
use rpc::{
    env::{SystemClock, SystemEntropy},
    net::{Endpoint, GrpcNet},
};
use tonic::{Code, Status, transport::Channel};
use types::{Clock as _, Entropy as _, Service, Timestamp};

/// The service name under which the kit stands in for the rest of a transaction. Nobody listens
/// there.
const KIT: &str = "conformance-kit";
/// How long a transaction's branches may vote, in milliseconds: longer than any check takes.
const WINDOW_MS: u64 = 30_000;

/// The service under test.
#[derive(Debug)]
pub(super) struct Participant {
    client: ParticipantServiceClient<Channel>,
    /// Its name in branches.
    pub(super) service: String,
    /// Number of shards that it says it has.
    pub(super) shards: u32,
    shard: u32,
    payload: Option<Vec<u8>>,
    patience: Duration,
}

/// An answer or why there is none, in words.
pub(super) type CheckResult<T> = Result<T, String>;

impl Participant {
    /// Asks the service for its name and shards.
    pub(super) async fn meet(
        net: &GrpcNet,
        address: &Endpoint,
        shard: u32,
        patience: Duration,
    ) -> CheckResult<Self> {
        let client = ParticipantServiceClient::new(net.channel(None, address));
        let mut subject =
            Self { client, service: String::new(), shards: 0, shard, payload: None, patience };
        (subject.service, subject.shards) = subject.describe().await?;
        if shard >= subject.shards {
            return Err(format!("--shard {shard}: there are only {} of them", subject.shards));
        }
        Ok(subject)
    }

    /// Its name and number of shards, both validated.
    pub(super) async fn describe(&self) -> CheckResult<(String, u32)> {
        let answer = self.client().describe(self.request(DescribeRequest {})).await;
        let answer = answer.map_err(|status| no_answer("Describe", &status))?.into_inner();
        Service::new(&answer.service).map_err(|error| format!("Describe.service {error}"))?;
        if !(1..=4096).contains(&answer.shards) {
            return Err(format!("Describe.shards must be 1 to 4096, not {}", answer.shards));
        }
        Ok((answer.service, answer.shards))
    }

    pub(super) const fn has_payload(&self) -> bool {
        self.payload.is_some()
    }

    /// Takes a payload, unless the service votes NO to it.
    pub(super) async fn take(&mut self, payload: Vec<u8>, as_primary: bool) -> CheckResult<()> {
        self.payload = Some(payload);
        let tx = if as_primary { self.tx_as_primary() } else { self.tx() };
        let vote = self.prepare(&tx).await;
        let evidence = as_primary.then(Self::other);
        // The checks report all other problems of the service.
        drop(self.abort(&tx, evidence).await);
        drop(self.forget(&tx).await);
        match vote {
            Ok(Vote { vote: Some(Is::No(no)) }) => Err(format!(
                "{} votes NO to the payload on shard {}: {} {:?}. The kit needs one that it votes YES to",
                self.service, self.shard, no.reason, no.metadata
            )),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    fn client(&self) -> ParticipantServiceClient<Channel> {
        self.client.clone()
    }

    fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        rpc::deadline::set(&mut request, self.patience);
        request
    }

    /// The branch under test.
    pub(super) fn branch(&self) -> Branch {
        Branch { service: self.service.clone(), shard: self.shard }
    }

    /// The branch that stands in for the rest of every transaction.
    pub(super) fn other() -> Branch {
        Branch { service: KIT.to_owned(), shard: 0 }
    }

    /// A new transaction, with the service's branch in second place.
    pub(super) fn tx(&self) -> TxMeta {
        Self::tx_of(vec![Self::other(), self.branch()])
    }

    /// A new transaction, with the service's branch as the primary.
    pub(super) fn tx_as_primary(&self) -> TxMeta {
        Self::tx_of(vec![self.branch(), Self::other()])
    }

    fn tx_of(branches: Vec<Branch>) -> TxMeta {
        let now = SystemClock.now();
        TxMeta {
            tx_id: SystemEntropy.next_bytes().to_vec().into(),
            priority: Some(Priority {
                begin_ts: Timestamp::from_physical(now).0,
                nonce: SystemEntropy.next_u64(),
            }),
            deadline_ms: now.plus_ms(WINDOW_MS).0,
            branches,
            ..TxMeta::default()
        }
    }

    /// A Prepare with the payload, if there is one.
    pub(super) fn prepare_request(&self, tx: &TxMeta) -> PrepareRequest {
        PrepareRequest {
            tx: Some(tx.clone()),
            branch: Some(self.branch()),
            payload: self.payload.clone().unwrap_or_default().into(),
        }
    }

    pub(super) async fn prepare(&self, tx: &TxMeta) -> CheckResult<Vote> {
        let answer = self.client().prepare(self.request(self.prepare_request(tx))).await;
        let answer = answer.map_err(|status| no_answer("Prepare", &status))?;
        answer.into_inner().vote.ok_or_else(|| "Prepare was answered without a vote".to_owned())
    }

    /// Commits, with these receipts.
    pub(super) async fn commit(
        &self,
        tx: &TxMeta,
        receipts: Vec<Receipt>,
    ) -> CheckResult<BranchState> {
        self.try_commit(tx, receipts).await.map_err(|status| no_answer("Commit", &status))
    }

    pub(super) async fn try_commit(
        &self,
        tx: &TxMeta,
        receipts: Vec<Receipt>,
    ) -> Result<BranchState, Status> {
        let (tx, branch) = (Some(tx.clone()), Some(self.branch()));
        let request = self.request(CommitRequest { tx, branch, receipts });
        Ok(self.client().commit(request).await?.into_inner().state())
    }

    pub(super) async fn abort(
        &self,
        tx: &TxMeta,
        evidence: Option<Branch>,
    ) -> CheckResult<BranchState> {
        let (tx, branch) = (Some(tx.clone()), Some(self.branch()));
        let request = self.request(AbortRequest { tx, branch, evidence, refusal: None });
        let answer = self.client().abort(request).await;
        Ok(answer.map_err(|status| no_answer("Abort", &status))?.into_inner().state())
    }

    pub(super) fn query_request(&self, tx: &TxMeta, fence: bool) -> QueryRequest {
        QueryRequest { tx: Some(tx.clone()), branch: Some(self.branch()), fence }
    }

    pub(super) async fn query(&self, tx: &TxMeta, fence: bool) -> CheckResult<QueryResponse> {
        let answer = self.try_query(self.query_request(tx, fence)).await;
        answer.map_err(|status| no_answer("Query", &status))
    }

    pub(super) async fn try_query(&self, request: QueryRequest) -> Result<QueryResponse, Status> {
        Ok(self.client().query(self.request(request)).await?.into_inner())
    }

    pub(super) async fn forget(&self, tx: &TxMeta) -> CheckResult<()> {
        let (tx_id, branch) = (tx.tx_id.clone(), Some(self.branch()));
        let answer = self.client().forget(self.request(ForgetRequest { tx_id, branch })).await;
        answer.map(|_| ()).map_err(|status| no_answer("Forget", &status))
    }

    pub(super) async fn apply(
        &self,
        operations: Vec<Operation>,
    ) -> CheckResult<Vec<OperationResult>> {
        let answer = self.client().apply(self.request(ApplyRequest { operations })).await;
        Ok(answer.map_err(|status| no_answer("Apply", &status))?.into_inner().results)
    }

    /// Waits until the service answers again.
    pub(super) async fn wait(&self) -> CheckResult<()> {
        let mut last = String::new();
        for _ in 0..100 {
            match self.describe().await {
                Ok(_) => return Ok(()),
                Err(problem) => last = problem,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(last)
    }
}

fn no_answer(call: &str, status: &Status) -> String {
    format!("{call} failed: {} {}", status.code(), status.message())
}

/// Fails unless the call was refused with INVALID_ARGUMENT.
pub(super) fn must_be_invalid<T: std::fmt::Debug>(
    what: &str,
    answer: Result<T, Status>,
) -> CheckResult<()> {
    match answer {
        Err(status) if status.code() == Code::InvalidArgument => Ok(()),
        Err(status) => Err(format!("{what} must be INVALID_ARGUMENT, not {}", status.code())),
        Ok(answer) => Err(format!("{what} must be INVALID_ARGUMENT, not {answer:?}")),
    }
}

/// The receipt of a YES. Fails for any other vote.
pub(super) fn yes(vote: &Vote) -> CheckResult<Vec<u8>> {
    match &vote.vote {
        Some(Is::Yes(yes)) if yes.receipt.len() > 4096 => {
            Err(format!("a receipt of {} bytes, at most 4096 are allowed", yes.receipt.len()))
        }
        Some(Is::Yes(yes)) => Ok(yes.receipt.to_vec()),
        other => Err(format!("a YES was expected, not {other:?}")),
    }
}

/// Fails for a YES.
pub(super) fn not_yes(vote: &Vote) -> CheckResult<()> {
    match &vote.vote {
        Some(Is::Yes(_)) => Err("it voted YES".to_owned()),
        Some(Is::No(_) | Is::Contended(_) | Is::Fenced(_)) => Ok(()),
        None => Err("a vote without content".to_owned()),
    }
}

/// Fails for any state but the expected one.
pub(super) fn must_be(what: &str, state: BranchState, expected: BranchState) -> CheckResult<()> {
    if state == expected {
        return Ok(());
    }
    Err(format!("{what}: {} instead of {}", state.as_str_name(), expected.as_str_name()))
}
