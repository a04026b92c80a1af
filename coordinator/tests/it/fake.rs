//! A participant that keeps the protocol's rules by using `twopc`'s tables, votes as it is told,
//! and records every operation that reaches it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use prost::Message as _;
use proto::{
    convert,
    order::v1 as order,
    participant::v1::{
        self as wire, operation::Operation as Op, operation_result::Result as OpResult,
    },
};
use rpc::status::to_status;
use tokio::{sync::watch, time::sleep};
use tonic::{Code, Status};
use twopc::participant::{Decision, Event, Gate, TransactionTable as Table};
use types::{
    Branch, BranchState, Clock, Reason, Refusal, RequestId, Timestamp, TxId, TxMeta, Vote,
};

mod grpc;

/// How long an operation takes, so that events have a definite order.
const TAKES: Duration = Duration::from_millis(10);

/// How a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The call fails before anything happens.
    Lost,
    /// The call takes effect, and the answer is lost.
    ReplyLost,
}

/// How a Prepare is answered, if nothing is known of the transaction yet.
#[derive(Debug, Clone)]
pub(crate) enum ScriptedVote {
    Vote(Vote),
    /// Another transaction is in the way: an Apply is answered `waiting`, and a Prepare gets YES
    /// after this time.
    Wait(Duration),
    /// The order has changed since it was read: the vote is NO, and the order gets another etag.
    Changed,
}

#[derive(Debug, Default)]
struct State {
    tables: BTreeMap<Branch, Table<()>>,
    verdicts: VecDeque<ScriptedVote>,
    troubles: VecDeque<Trouble>,
    applies: usize,
    operations: usize,
    metas: Vec<TxMeta>,
    /// `None` if the order does not exist.
    order: Option<order::Order>,
    refusals: Vec<Option<String>>,
    /// The transactions committed here as the primary, by the client's call.
    done: BTreeMap<RequestId, TxId>,
    /// If set, no refusal is remembered, and Refuse is answered with this code.
    forgetful: Option<Code>,
    /// The transaction of another attempt that succeeds just before the next refusal arrives.
    overtaken: Option<TxId>,
    /// Each transaction that became COMMITTED, once.
    committed: Vec<TxId>,
    /// The number of shards in its description; one if not set.
    shards: Option<u32>,
    /// How long a Commit is delayed, except at the primary.
    sits: Duration,
    /// How long a checkout in flight keeps the order from being read.
    unreadable: Duration,
}

/// The operations at all participants, in order, as `service kind answer`.
pub(crate) type Log = Arc<Mutex<Vec<String>>>;

/// A service of one shard.
#[derive(Clone)]
pub(crate) struct Fake {
    name: &'static str,
    clock: Arc<dyn Clock>,
    log: Log,
    state: Arc<Mutex<State>>,
    /// While true, nothing is answered.
    frozen: Arc<watch::Sender<bool>>,
}

fn say(vote: &Vote) -> &'static str {
    match vote {
        Vote::Yes { .. } => "yes",
        Vote::No { .. } => "no",
        Vote::Contended { .. } => "contended",
        Vote::Fenced => "fenced",
    }
}

impl Fake {
    pub(crate) fn new(name: &'static str, clock: Arc<dyn Clock>, log: Log) -> Self {
        Self {
            name,
            clock,
            log,
            state: Arc::default(),
            frozen: Arc::new(watch::Sender::new(false)),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Gives the next Prepares these verdicts. Later ones are answered with YES.
    pub(crate) fn verdicts(&self, verdicts: impl IntoIterator<Item = ScriptedVote>) {
        self.state().verdicts.extend(verdicts);
    }

    /// Makes the next calls of Apply or Prepare fail like this.
    pub(crate) fn troubles(&self, troubles: impl IntoIterator<Item = Trouble>) {
        self.state().troubles.extend(troubles);
    }

    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }

    /// Number of Apply calls, and of the operations in them.
    pub(crate) fn traffic(&self) -> (usize, usize) {
        let state = self.state();
        (state.applies, state.operations)
    }

    /// The transactions that asked for a vote here, in order.
    pub(crate) fn asked(&self) -> Vec<TxMeta> {
        self.state().metas.clone()
    }

    /// Makes it remember no refusals, and answer Refuse with this code.
    pub(crate) fn forget_refusals(&self, answer: Code) {
        self.state().forgetful = Some(answer);
    }

    /// Makes another attempt succeed just before the next refusal of its call arrives.
    pub(crate) fn overtake(&self, by: TxId) {
        self.state().overtaken = Some(by);
    }

    /// The refusals that arrived, by Abort (`None` if it had none) or by Refuse.
    pub(crate) fn refusals(&self) -> Vec<Option<String>> {
        self.state().refusals.clone()
    }

    /// Makes its description tell this number of shards.
    pub(crate) fn reshard(&self, shards: u16) {
        self.state().shards = Some(shards.into());
    }

    /// Delays the acknowledgement of each Commit by this long, except at the primary.
    pub(crate) fn sit_on_commits(&self, time: Duration) {
        self.state().sits = time;
    }

    /// Keeps each read of the order waiting for this long, as a checkout in flight does.
    pub(crate) fn keep_readers_waiting(&self, time: Duration) {
        self.state().unreadable = time;
    }

    pub(crate) fn set_order(&self, order: order::Order) {
        self.state().order = Some(order);
    }

    pub(crate) fn remove_order(&self) {
        self.state().order = None;
    }

    /// Commits and forgets, as if another resolver had found that all voted YES and every branch
    /// had acknowledged.
    pub(crate) fn commit_and_forget(&self, meta: &TxMeta, branch: &Branch) {
        self.conclude("commit", Some(&meta.into()), Some(&branch.into()), Table::commit);
        self.table(branch, |table| table.forget(meta.tx_id, 1));
    }

    /// Ends all trouble.
    pub(crate) fn heal(&self) {
        self.state().troubles.clear();
    }

    /// Transactions that are or were COMMITTED here.
    pub(crate) fn committed(&self) -> Vec<TxId> {
        self.state().committed.clone()
    }

    /// Number of transactions that are PREPARED here.
    pub(crate) fn prepared(&self) -> usize {
        let state = self.state();
        let entries = state.tables.values().flat_map(Table::iter);
        entries.filter(|entry| entry.state == BranchState::Prepared).count()
    }

    /// Makes a transaction PREPARED here, as if its coordinator had asked.
    pub(crate) fn prepare_for(&self, meta: &TxMeta, branch: &Branch) {
        let event = Event::Prepared { meta: meta.clone(), hold: (), receipt: Vec::new() };
        self.table(branch, |table| table.apply(event, 1));
    }

    /// The state of a transaction.
    pub(crate) fn known(&self, meta: &TxMeta, branch: &Branch) -> BranchState {
        self.table(branch, |table| table.query(meta, false).state)
    }

    fn table<T>(&self, branch: &Branch, work: impl FnOnce(&mut Table<()>) -> T) -> T {
        let mut state = self.state();
        let table =
            state.tables.entry(branch.clone()).or_insert_with(|| Table::new(branch.clone()));
        let result = work(table);
        table.settle();
        result
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_physical(self.clock.now())
    }

    fn read(&self, query: order::GetOrderRequest) -> Result<order::GetOrderResponse, Status> {
        let order = self.state().order.clone();
        let mut order = order.ok_or_else(|| to_status(&Refusal::new(Reason::OrderNotFound)))?;
        order.order_id = query.order_id;
        Ok(order::GetOrderResponse { order: Some(order), read_ts: self.now().0 })
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.log.lock().unwrap().push(format!("{} {what}", self.name));
    }

    /// Waits while frozen, and fails if the call is to be lost.
    async fn arrive(&self) -> Result<Option<Trouble>, Status> {
        let mut frozen = self.frozen.subscribe();
        frozen.wait_for(|frozen| !frozen).await.unwrap();
        sleep(TAKES).await;
        let trouble = self.state().troubles.pop_front();
        if trouble == Some(Trouble::Lost) { Err(lost()) } else { Ok(trouble) }
    }

    async fn vote(&self, request: wire::PrepareRequest, may_wait: bool) -> OpResult {
        let meta = convert::tx_meta(request.tx.as_ref()).unwrap();
        let branch = convert::branch(request.branch.as_ref()).unwrap();
        let now = self.now();
        let vote = match self.table(&branch, |table| table.gate(&meta, now)) {
            Gate::Reject(vote) => vote,
            Gate::Admit if self.done(&meta, &branch).is_some() => {
                let refusal = Refusal::new(Reason::AlreadyDone);
                let vote = Vote::from(&refusal.with("tx_id", self.done(&meta, &branch).unwrap()));
                self.write_vote(&meta, &branch, &vote);
                vote
            }
            Gate::Admit => {
                let verdict = self.state().verdicts.pop_front();
                let vote = match verdict {
                    Some(ScriptedVote::Wait(time)) if !may_wait => {
                        self.state().verdicts.push_front(ScriptedVote::Wait(time));
                        let blocker = wire::Blocker { tx: Some((&meta).into()) };
                        return OpResult::Waiting(wire::Waiting { blocker: Some(blocker) });
                    }
                    Some(ScriptedVote::Wait(time)) => {
                        sleep(time).await;
                        Vote::Yes { receipt: Vec::new() }
                    }
                    Some(ScriptedVote::Changed) => {
                        if let Some(order) = &mut self.state().order {
                            order.etag.push('\'');
                        }
                        Vote::No {
                            reason: Reason::OrderChanged.to_string(),
                            metadata: BTreeMap::new(),
                        }
                    }
                    Some(ScriptedVote::Vote(vote)) => vote,
                    None => Vote::Yes { receipt: self.name.into() },
                };
                self.write_vote(&meta, &branch, &vote);
                self.state().metas.push(meta);
                vote
            }
        };
        self.note(format_args!("prepare {}", say(&vote)));
        OpResult::Prepare(wire::PrepareResponse { vote: Some((&vote).into()) })
    }

    /// The transaction by which this call has already succeeded here.
    fn done(&self, meta: &TxMeta, branch: &Branch) -> Option<TxId> {
        let call = meta.call.as_ref().filter(|_| meta.is_primary(branch))?;
        self.state().done.get(&call.id).copied()
    }

    fn write_vote(&self, meta: &TxMeta, branch: &Branch, vote: &Vote) {
        let meta = meta.clone();
        let event = match vote {
            Vote::Yes { receipt } => Event::Prepared { meta, hold: (), receipt: receipt.clone() },
            Vote::Fenced => return,
            Vote::No { .. } | Vote::Contended { .. } => {
                Event::Fenced { meta, vote: Some(vote.clone()) }
            }
        };
        self.table(branch, |table| table.apply(event, 1));
    }

    fn conclude(
        &self,
        kind: &str,
        tx: Option<&proto::types::v1::TxMeta>,
        branch: Option<&proto::types::v1::Branch>,
        decide: impl FnOnce(&Table<()>, &TxMeta) -> Decision<()>,
    ) -> (i32, Option<wire::Vote>) {
        let meta = convert::tx_meta(tx).unwrap();
        let branch = convert::branch(branch).unwrap();
        let mut becomes = false;
        let (state, vote) = self.table(&branch, |table| {
            let decision = decide(table, &meta);
            let decided = matches!(&decision.event, Some(Event::Decided { committed: true, .. }));
            if let Some(event) = decision.event {
                table.apply(event, 1);
            }
            becomes = decided;
            let vote = table.get(meta.tx_id).and_then(|entry| entry.vote.clone());
            (decision.state, vote)
        });
        if becomes {
            self.state().committed.push(meta.tx_id);
        }
        if kind == "commit" && meta.is_primary(&branch) && state == BranchState::Committed {
            // A transaction placed here by `prepare_for` is for another order.
            let mut state = self.state();
            let ours = state.metas.iter().any(|asked| asked.tx_id == meta.tx_id);
            if let Some(order) = &mut state.order {
                order.paid |= ours;
            }
            if let Some(call) = &meta.call {
                state.done.insert(call.id.clone(), meta.tx_id);
            }
        }
        self.note(format_args!("{kind} {}", format!("{state:?}").to_lowercase()));
        (wire::BranchState::from(state).into(), vote.as_ref().map(wire::Vote::from))
    }

    /// Takes the refusal that comes with an Abort. Returns whether it stands.
    fn take_refusal(&self, request: &wire::AbortRequest) -> bool {
        let meta = convert::tx_meta(request.tx.as_ref()).unwrap();
        let mut state = self.state();
        let reason = request.refusal.as_ref().map(|no| no.reason.clone());
        if let (Some(_), Some(call), Some(tx_id)) = (&reason, meta.call, state.overtaken.take()) {
            state.done.insert(call.id, tx_id);
            return false;
        }
        let refused = reason.is_some() && state.forgetful.is_none();
        state.refusals.push(reason);
        refused
    }

    async fn apply_one(&self, operation: wire::Operation) -> OpResult {
        match operation.operation.unwrap() {
            Op::Prepare(request) => self.vote(request, false).await,
            Op::Commit(request) => {
                let (tx, branch) = (request.tx.as_ref(), request.branch.as_ref());
                let here = convert::branch(branch).unwrap();
                if !convert::tx_meta(tx).unwrap().is_primary(&here) {
                    let sits = self.state().sits;
                    sleep(sits).await;
                }
                let (state, _) = self.conclude("commit", tx, branch, Table::commit);
                OpResult::Commit(wire::CommitResponse { state })
            }
            Op::Abort(request) => {
                let (tx, branch) = (request.tx.as_ref(), request.branch.as_ref());
                let refused = self.take_refusal(&request);
                let evidence = request.evidence.is_some();
                let (state, _) =
                    self.conclude("abort", tx, branch, |table, meta| table.abort(meta, evidence));
                OpResult::Abort(wire::AbortResponse { state, refused })
            }
            Op::Query(request) => {
                let (tx, branch) = (request.tx.as_ref(), request.branch.as_ref());
                let kind = if request.fence { "fence" } else { "query" };
                let (state, vote) =
                    self.conclude(kind, tx, branch, |table, meta| table.query(meta, request.fence));
                OpResult::Query(wire::QueryResponse { state, vote })
            }
            Op::Forget(request) => {
                let branch = convert::branch(request.branch.as_ref()).unwrap();
                let tx_id = convert::tx_id(&request.tx_id).unwrap();
                self.table(&branch, |table| {
                    if let Some(event) = table.acknowledge(tx_id) {
                        table.apply(event, 1);
                    }
                });
                self.note("forget");
                OpResult::Forget(wire::ForgetResponse {})
            }
            Op::Read(request) => {
                let query = order::GetOrderRequest::decode(request.query).unwrap();
                if !self.state().unreadable.is_zero() {
                    return OpResult::Waiting(wire::Waiting::default());
                }
                match self.read(query) {
                    Ok(answer) => {
                        let answer = answer.encode_to_vec().into();
                        OpResult::Read(wire::ReadResponse { answer })
                    }
                    Err(status) => OpResult::Error(wire::OperationError {
                        code: status.code().into(),
                        message: status.message().to_owned(),
                    }),
                }
            }
            Op::Refuse(request) => {
                use wire::refuse_response::Outcome;
                let id = RequestId::new(&request.request_id).unwrap();
                let no = request.refusal.unwrap();
                let mut state = self.state();
                if let Some(code) = state.forgetful {
                    let code = code.into();
                    return OpResult::Error(wire::OperationError { code, message: String::new() });
                }
                let outcome = if let Some(tx_id) = state.done.get(&id) {
                    Outcome::Committed(tx_id.0.to_vec().into())
                } else {
                    state.refusals.push(Some(no.reason.clone()));
                    Outcome::Refusal(no)
                };
                OpResult::Refuse(wire::RefuseResponse { outcome: Some(outcome) })
            }
        }
    }
}

fn lost() -> Status {
    to_status(&Refusal::new(Reason::Unavailable))
}
