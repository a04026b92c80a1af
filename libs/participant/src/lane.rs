//! A lane: the writer of a shard in this replica.
//!
//! It takes everything that is waiting, applies it one by one in memory, appends one entry to the shard's journal,
//! answers, and goes on; the next batch gathers meanwhile. The records follow behind, as a checkpoint. Any replica
//! may run a lane on any shard: routing makes it one, the journal makes it safe.

mod attempt;
mod checkpoint;
mod chores;
mod metrics;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::FutureExt as _;
use journal::{Author, Writer};
use rpc::{retry::Backoff, store_time::StoreTime};
use rustc_hash::FxHashMap;
use storage::{KvError, SharedKv, schema::Schema};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tracing::Instrument as _;
use types::{Branch, Classify, Clock, Entropy, ErrorKind, Timestamp, TxId, TxMeta, UnixMillis};

use metrics::LaneMetrics;
use telemetry::trace::Origin;

use crate::{
    core::{Answer, Call, CallId, Core, Domain, Limits},
    records::{Records, Row},
};

/// Has a transaction resolved by the coordinator role. Fire and forget: what comes of it arrives as
/// Commit or Abort.
#[async_trait]
pub trait AskResolve: fmt::Debug + Send + Sync + 'static {
    /// Asks once; a failure is silently dropped, as the question is asked again.
    async fn resolve(&self, meta: TxMeta);
}

/// Where a lane gets everything that is not pure.
#[derive(Clone)]
pub struct Seams {
    /// The store.
    pub kv: SharedKv,
    /// Triggers questions; decides nothing.
    pub clock: Arc<dyn Clock>,
    /// For back-off and names.
    pub entropy: Arc<dyn Entropy>,
    /// The coordinator role.
    pub resolver: Arc<dyn AskResolve>,
    /// Hears the store's timestamps.
    pub store_time: StoreTime,
    /// The store that the lane was opened on.
    pub schema: Schema,
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seams").field("kv", &self.kv).finish_non_exhaustive()
    }
}

/// How a lane behaves. Times trigger work, they decide nothing.
#[derive(Debug, Clone, Copy)]
pub struct LaneOptions {
    /// Bounds of memory and batches.
    pub limits: Limits,
    /// Calls that may queue before callers are told to come back.
    pub queue: usize,
    /// How long a call that nobody waits for may wait for a batch to ride along with.
    pub linger: Duration,
    /// How often the lane looks for chores.
    pub tick: Duration,
    /// How long a transaction may be in others' way before it is asked about.
    pub ask_after_ms: u64,
    /// How often the lane looks what other replicas did to its shard.
    pub refresh: Duration,
    /// How long the records may lag behind the journal before a checkpoint begins.
    pub checkpoint_after: Duration,
    /// How long a shard must have gone unwritten before a lane other than its last writer writes its checkpoint and
    /// trims its journal: the last writer is gone then, or would have. Drawn anew for each lane, up to twice this.
    pub abandoned: Duration,
}

impl Default for LaneOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            queue: 16_384,
            linger: Duration::from_millis(20),
            tick: Duration::from_millis(200),
            ask_after_ms: 250,
            refresh: Duration::from_secs(5),
            checkpoint_after: Duration::from_secs(1),
            abandoned: Duration::from_secs(30),
        }
    }
}

/// Why a call got no answer. For a mutation the outcome is then unknown: repeat it with its request id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// The lane is stopping, or the store does not answer. Retry.
    #[error("the shard is temporarily unavailable")]
    Unavailable,
    /// Too much is queued; nothing was begun. Retry later.
    #[error("the shard is overloaded")]
    Overloaded,
    /// The time within which the call could take effect is over, and it did nothing. Retrying the same call
    /// does not help.
    #[error("the time for this call is over")]
    Expired,
    /// What stands in the store does not decode. A retry does not help.
    #[error("the stored data is damaged")]
    Damaged(#[source] KvError),
}

impl Classify for LaneError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unavailable => ErrorKind::Unavailable,
            Self::Overloaded => ErrorKind::Overloaded,
            Self::Expired => ErrorKind::Deadline,
            Self::Damaged(_) => ErrorKind::Internal,
        }
    }

    fn reason(&self) -> std::borrow::Cow<'static, str> {
        match self {
            Self::Unavailable => "UNAVAILABLE".into(),
            Self::Overloaded => "OVERLOADED".into(),
            Self::Expired => "EXPIRED".into(),
            Self::Damaged(_) => "INTERNAL".into(),
        }
    }
}

type Reply<D> = oneshot::Sender<Result<Answer<<D as Records>::Reply>, LaneError>>;

struct Envelope<D: Domain> {
    call: Call<D>,
    caller: Caller<D>,
}

/// Who waits for an answer, and the span in which it was asked for.
struct Caller<D: Domain> {
    reply: Reply<D>,
    origin: Origin,
}

/// The way to a lane.
#[derive(Debug)]
pub struct LaneHandle<D: Domain> {
    sender: mpsc::Sender<Envelope<D>>,
}

impl<D: Domain> Clone for LaneHandle<D> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone() }
    }
}

impl<D: Domain> LaneHandle<D> {
    /// Asks the lane. The call goes on when the future is dropped before its answer, unless it still
    /// waits for others.
    ///
    /// # Errors
    /// [`LaneError`].
    pub async fn call(&self, call: Call<D>) -> Result<Answer<D::Reply>, LaneError> {
        self.begin(call)?.answer().await
    }

    /// Asks the lane, and waits later.
    ///
    /// # Errors
    /// [`LaneError`]: the lane does not have the call.
    pub fn begin(&self, call: Call<D>) -> Result<Pending<D>, LaneError> {
        let (reply, answer) = oneshot::channel();
        let caller = Caller { reply, origin: Origin::here() };
        self.sender.try_send(Envelope { call, caller }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LaneError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => LaneError::Unavailable,
        })?;
        Ok(Pending { answer })
    }
}

/// A call that its lane has. It goes on when this is dropped, unless it still waits for others.
#[derive(Debug)]
pub struct Pending<D: Domain> {
    answer: oneshot::Receiver<Result<Answer<D::Reply>, LaneError>>,
}

impl<D: Domain> Pending<D> {
    /// A call that was answered without a lane.
    pub fn ready(answer: Answer<D::Reply>) -> Self {
        let (reply, pending) = oneshot::channel();
        // The receiver is right here.
        let _heard = reply.send(Ok(answer));
        Self { answer: pending }
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// [`LaneError`].
    pub async fn answer(self) -> Result<Answer<D::Reply>, LaneError> {
        self.answer.await.unwrap_or(Err(LaneError::Unavailable))
    }
}

/// A shard's writer.
pub struct Lane<D: Domain> {
    core: Core<D>,
    seams: Seams,
    options: LaneOptions,
    writer: Writer,
    runs: u64,
    inbox: mpsc::Receiver<Envelope<D>>,
    /// Calls that no batch has taken yet, oldest first.
    queued: VecDeque<(CallId, Call<D>)>,
    /// Who waits for which answer, queued calls and waiters alike.
    callers: FxHashMap<CallId, Caller<D>>,
    next_id: CallId,
    /// Runs that nobody knows the fate of, with the answers that go out if they stand.
    undetermined: Vec<Undetermined<D>>,
    /// When a transaction was last asked about.
    asked: BTreeMap<TxId, UnixMillis>,
    /// Those to ask about next.
    to_ask: VecDeque<TxMeta>,
    /// Questions under way.
    asking: JoinSet<()>,
    /// The latest timestamp that the store is known to have given out.
    heard: Timestamp,
    /// The checkpoint that is being written.
    checkpoint: checkpoint::Writing,
    /// When the oldest patient call was queued.
    patient_since: Option<Instant>,
    refreshed: Option<Instant>,
    /// When the journal was last seen to have grown.
    moved: Option<Instant>,
    /// Rows that do not decode; each is told once.
    damaged: BTreeSet<Row>,
    /// Calls that the last batch took.
    took: usize,
    metrics: LaneMetrics,
}

impl<D: Domain> fmt::Debug for Lane<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("branch", self.core.branch()).finish_non_exhaustive()
    }
}

struct Undetermined<D: Domain> {
    author: Author,
    taken: Vec<CallId>,
    answers: Vec<(CallId, Answer<D::Reply>)>,
}

impl<D: Domain> Lane<D> {
    /// A lane on a shard and the way to it. It does nothing until it is run.
    pub fn new(
        domain: Arc<D>,
        branch: Branch,
        seams: Seams,
        options: LaneOptions,
        writer: Writer,
    ) -> (Self, LaneHandle<D>) {
        let (sender, inbox) = mpsc::channel(options.queue);
        let options =
            LaneOptions { abandoned: chores::spread(&options, &*seams.entropy), ..options };
        let lane = Self {
            core: Core::new(domain, branch, options.limits),
            seams,
            options,
            writer,
            runs: 0,
            inbox,
            queued: VecDeque::new(),
            callers: FxHashMap::default(),
            next_id: 1,
            undetermined: Vec::new(),
            asked: BTreeMap::new(),
            to_ask: VecDeque::new(),
            asking: JoinSet::new(),
            heard: Timestamp::default(),
            checkpoint: checkpoint::Writing::default(),
            patient_since: None,
            refreshed: None,
            moved: None,
            damaged: BTreeSet::new(),
            took: 0,
            metrics: LaneMetrics::default(),
        };
        (lane, LaneHandle { sender })
    }

    /// Runs until every handle is gone and everything queued is answered.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(self.options.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let linger = self.patient_since.map(|since| since + self.options.linger);
            tokio::select! {
                biased;
                envelope = self.inbox.recv() => match envelope {
                    Some(envelope) => self.admit(envelope),
                    None => break,
                },
                Some(_) = self.asking.join_next() => self.ask_on(),
                Some(written) = self.checkpoint.next() => self.checkpoint_written(written),
                () = sleep_until(linger) => {}
                _ = tick.tick() => self.chores().await,
            }
            self.drain();
            while self.is_due() {
                // More than a batch is waiting: only then it matters who has gone meanwhile.
                if self.queued.len() > self.options.limits.batch_calls {
                    self.drop_unwanted();
                }
                self.catch_up_with_checkpoint().await;
                self.batch().await;
                self.drain();
                // A lane that is always busy never waits for these.
                while self.asking.try_join_next().is_some() {
                    self.ask_on();
                }
                self.write_checkpoint();
                if tick.tick().now_or_never().is_some() {
                    self.chores().await;
                }
            }
        }
        while !self.queued.is_empty()
            && self.callers.values().any(|caller| !caller.reply.is_closed())
        {
            self.batch().await;
        }
    }

    fn admit(&mut self, Envelope { call, caller }: Envelope<D>) {
        self.metrics.queued();
        if call.is_patient(self.core.branch()) {
            self.patient_since.get_or_insert_with(Instant::now);
        }
        let id = self.next_id;
        self.next_id += 1;
        self.callers.insert(id, caller);
        self.queued.push_back((id, call));
    }

    /// Takes in what has come; what is beyond the bound stays in the inbox, and when that is full too,
    /// callers are refused.
    fn drain(&mut self) {
        while self.queued.len() < self.options.queue
            && let Ok(envelope) = self.inbox.try_recv()
        {
            self.admit(envelope);
        }
    }

    /// Whether a batch should run now: for somebody who waits, or for patient calls whose time has come
    /// or whose holds are in somebody's way.
    fn is_due(&self) -> bool {
        // Deadlines are the store's; by a clock that is ahead of it nothing would ever stop being due.
        let rested = self.refreshed.is_none_or(|at| at.elapsed() >= self.options.linger);
        let now = if rested { self.seams.clock.now() } else { UnixMillis(0) };
        if self.core.wants_look(now) {
            return true;
        }
        let branch = self.core.branch();
        let urgent = self.queued.iter().any(|(_, call)| !call.is_patient(branch));
        let lingered =
            self.patient_since.is_some_and(|since| since.elapsed() >= self.options.linger);
        urgent || (!self.queued.is_empty() && (lingered || self.core.has_waiters()))
    }

    /// Runs one batch until it is durable, or until nobody wants it any more.
    async fn batch(&mut self) {
        let mut backoff = Backoff::new(
            Arc::clone(&self.seams.entropy),
            Duration::from_millis(1),
            Duration::from_millis(500),
        );
        loop {
            let span = self.batch_span();
            match self.attempt().instrument(span).await {
                Ok(()) => break,
                Err(error) => {
                    self.report(&error);
                    tokio::time::sleep(backoff.pause()).await;
                    self.drain();
                    self.drop_unwanted();
                    if self.queued.is_empty() && self.undetermined.is_empty() {
                        break;
                    }
                }
            }
        }
        self.metrics.batch_ended(self.queued.is_empty());
        if self.queued.is_empty() {
            self.patient_since = None;
        }
    }

    /// Forgets queued calls that nobody waits for any more; they were not begun.
    fn drop_unwanted(&mut self) {
        let callers = &mut self.callers;
        let undetermined = &self.undetermined;
        self.queued.retain(|(id, _)| {
            let wanted = callers.get(id).is_some_and(|caller| !caller.reply.is_closed())
                || undetermined.iter().any(|undetermined| undetermined.taken.contains(id));
            if !wanted {
                callers.remove(id);
            }
            wanted
        });
    }

    fn send(&mut self, id: CallId, answer: Result<Answer<D::Reply>, LaneError>) {
        if let Some(caller) = self.callers.remove(&id) {
            // A caller that is gone asks again, with its request id.
            let _gone = caller.reply.send(answer);
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
