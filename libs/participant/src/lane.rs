//! A lane: the writer of a shard in this replica.
//!
//! It takes the queued calls, applies them one by one in memory, appends one entry to the shard's
//! journal, and answers. Meanwhile the next batch gathers. The records follow later, as a
//! checkpoint. Any replica may run a lane on any shard: routing makes it one lane in practice, and
//! the journal keeps several lanes safe.

mod attempt;
mod checkpoint;
mod chores;
mod early;
mod metrics;
mod reads;

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
use telemetry::trace::CallerSpan;

use crate::{
    core::{Answer, Call, CallId, Core, Domain, Limits},
    records::{Records, Row},
};

/// Asks the coordinator role to resolve a transaction. Fire and forget: the result arrives as a
/// Commit or an Abort.
#[async_trait]
pub trait AskResolve: fmt::Debug + Send + Sync + 'static {
    /// Asks once. Failures are ignored, because the lane asks again.
    async fn resolve(&self, meta: TxMeta);
}

/// A lane's access to everything that is not pure.
#[derive(Clone)]
pub struct Seams {
    /// The store.
    pub kv: SharedKv,
    /// The local clock. It only triggers work and decides nothing.
    pub clock: Arc<dyn Clock>,
    /// Randomness for back-off, delays and orders.
    pub entropy: Arc<dyn Entropy>,
    /// Asks the coordinator role.
    pub resolver: Arc<dyn AskResolve>,
    /// Receives the store's timestamps.
    pub store_time: StoreTime,
    /// The schema of the store that the lane was opened on.
    pub schema: Schema,
}

impl fmt::Debug for Seams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seams").field("kv", &self.kv).finish_non_exhaustive()
    }
}

/// How a lane behaves. The times trigger work and decide nothing.
#[derive(Debug, Clone, Copy)]
pub struct LaneOptions {
    /// Limits on memory and batches.
    pub limits: Limits,
    /// Limit on queued calls, including reads that wait for a look. The inbox holds as many again.
    /// Once both are full, callers are refused.
    pub queue: usize,
    /// How long a call whose answer nobody awaits may wait for other calls to join.
    pub linger: Duration,
    /// Interval at which the lane looks for chores.
    pub tick: Duration,
    /// Milliseconds that a transaction may block others before the lane asks about it.
    pub ask_after_ms: u64,
    /// Interval at which the lane looks for what other replicas did to its shard.
    pub refresh: Duration,
    /// How long the records may lag behind the journal before a checkpoint begins.
    pub checkpoint_after: Duration,
    /// How long a shard must be unwritten before a lane other than its last writer writes its
    /// checkpoint and trims its journal, because the last writer seems to be gone. Each lane draws
    /// its own value, up to twice this.
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

/// Why a call got no answer. After `Unavailable` the outcome of a mutation is unknown: repeat it
/// with its request id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LaneError {
    /// The lane is stopping, or the store does not answer. Retry.
    #[error("the shard is temporarily unavailable")]
    Unavailable,
    /// Too many calls are queued. Nothing was begun; retry later.
    #[error("the shard is overloaded")]
    Overloaded,
    /// The call's end has passed, and it did nothing. Only an attempt with a later end helps.
    #[error("the time for this call is over")]
    Expired,
    /// Stored data does not decode. A retry does not help.
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

/// A caller: the sender for its answer, its span, and the time of its call.
struct Caller<D: Domain> {
    reply: Reply<D>,
    span: CallerSpan,
    since: Instant,
}

/// A handle to a lane.
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
    /// Asks the lane. If the future is dropped before the answer, the call goes on, unless it waits
    /// for others.
    ///
    /// # Errors
    /// [`LaneError`].
    pub async fn call(&self, call: Call<D>) -> Result<Answer<D::Reply>, LaneError> {
        self.begin(call)?.answer().await
    }

    /// Hands the call to the lane, and returns without its answer.
    ///
    /// # Errors
    /// [`LaneError`]: the lane did not take the call.
    pub fn begin(&self, call: Call<D>) -> Result<Pending<D>, LaneError> {
        let (reply, answer) = oneshot::channel();
        let caller = Caller { reply, span: CallerSpan::here(), since: Instant::now() };
        self.sender.try_send(Envelope { call, caller }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LaneError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => LaneError::Unavailable,
        })?;
        Ok(Pending { answer })
    }
}

/// A call that its lane has taken. If this is dropped, the call goes on, unless it waits for
/// others.
#[derive(Debug)]
pub struct Pending<D: Domain> {
    answer: oneshot::Receiver<Result<Answer<D::Reply>, LaneError>>,
}

impl<D: Domain> Pending<D> {
    /// A call that was answered without a lane.
    pub fn ready(answer: Answer<D::Reply>) -> Self {
        let (reply, pending) = oneshot::channel();
        // The receiver is still alive.
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
    /// Callers that await an answer, both of queued calls and of waiters.
    callers: FxHashMap<CallId, Caller<D>>,
    next_id: CallId,
    /// Runs of unknown outcome, with the answers to send if they turn out to stand.
    undetermined: Vec<Undetermined<D>>,
    /// When each transaction was last asked about.
    asked: BTreeMap<TxId, UnixMillis>,
    /// Transactions to ask about next.
    to_ask: VecDeque<TxMeta>,
    /// Questions under way.
    asking: JoinSet<()>,
    /// The latest timestamp that the store is known to have issued.
    heard: Timestamp,
    /// The checkpoint being written.
    checkpoint: checkpoint::Writing,
    refreshed: Option<Instant>,
    /// When the journal was last seen to grow.
    moved: Option<Instant>,
    /// Rows that do not decode. Each is logged once.
    damaged: BTreeSet<Row>,
    /// Number of calls that the last batch took.
    took: usize,
    /// The KV transaction of the next batch, if it was begun early.
    early: Option<early::Early>,
    /// Reads that are answered beside the batches.
    reads: reads::Reads<D>,
    /// Whether the current batch has read rows from the store.
    has_read: bool,
    /// Whether the current batch followed the one before it at once.
    is_rolling: bool,
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
    /// A lane on a shard, and a handle to it. The lane does nothing until it runs.
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
            refreshed: None,
            moved: None,
            damaged: BTreeSet::new(),
            took: 0,
            early: None,
            reads: reads::Reads::default(),
            has_read: false,
            is_rolling: false,
            metrics: LaneMetrics::default(),
        };
        (lane, LaneHandle { sender })
    }

    /// Runs until every handle is dropped and everything queued is answered.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(self.options.tick);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let linger = self.linger_end();
            tokio::select! {
                biased;
                Some(shown) = self.reads.next() => self.answer_reads(shown),
                // Reads stay queued while a look hangs. Beyond the limit, callers are refused.
                envelope = self.inbox.recv(), if self.has_place() => {
                    match envelope {
                        Some(envelope) => self.admit(envelope),
                        None => break,
                    }
                }
                Some(_) = self.asking.join_next() => self.ask_on(),
                Some(written) = self.checkpoint.next() => self.checkpoint_written(written),
                () = sleep_until(linger) => {}
                _ = tick.tick() => self.chores().await,
            }
            self.drain();
            while self.is_due() || self.begin_reads() {
                self.shorten_queue();
                self.catch_up_with_checkpoint().await;
                self.batch().await;
                self.is_rolling = true;
                self.drain();
                // A lane that is always busy would never reach these in the select above.
                while self.asking.try_join_next().is_some() {
                    self.ask_on();
                }
                if let Some(Some(shown)) = self.reads.next().now_or_never() {
                    self.answer_reads(shown);
                }
                self.write_checkpoint();
                if tick.tick().now_or_never().is_some() {
                    self.chores().await;
                }
            }
            self.is_rolling = false;
        }
        self.give_reads_back();
        while !self.queued.is_empty()
            && self.callers.values().any(|caller| !caller.reply.is_closed())
        {
            self.batch().await;
        }
    }

    fn admit(&mut self, Envelope { call, caller }: Envelope<D>) {
        let id = self.next_id;
        self.next_id += 1;
        self.callers.insert(id, caller);
        self.queued.push_back((id, call));
    }

    /// Whether another call may be queued. Reads that wait for a look count, because they may
    /// return to the queue.
    fn has_place(&self) -> bool {
        self.queued.len() + self.reads.count() < self.options.queue
    }

    /// Takes calls from the inbox, up to the limit. The others stay there. Once the inbox is full
    /// too, callers are refused.
    fn drain(&mut self) {
        while self.has_place()
            && let Ok(envelope) = self.inbox.try_recv()
        {
            self.admit(envelope);
        }
    }

    /// Whether a batch should run now: a caller is waiting, patient calls have waited for the
    /// linger time, or they may release holds that block others.
    fn is_due(&self) -> bool {
        // Deadlines are in the store's time. If this clock is ahead, a waiter that seems expired
        // would make the lane due without pause.
        let rested = self.refreshed.is_none_or(|at| at.elapsed() >= self.options.linger);
        let now = if rested { self.seams.clock.now() } else { UnixMillis(0) };
        if self.core.has_due_waiters(now) {
            return true;
        }
        let branch = self.core.branch();
        let is_urgent = |call: &Call<D>| !call.is_patient(branch) && !self.goes_beside(call);
        self.queued.iter().any(|(_, call)| is_urgent(call))
            || self.linger_end().is_some_and(|end| end <= Instant::now() || self.core.has_waiters())
    }

    /// When the oldest patient call in the queue has waited for the linger time. None without one.
    fn linger_end(&self) -> Option<Instant> {
        let branch = self.core.branch();
        let (id, _) = self.queued.iter().find(|(_, call)| call.is_patient(branch))?;
        self.called_at(*id).map(|since| since + self.options.linger)
    }

    /// When a call that is not answered yet was made.
    fn called_at(&self, id: CallId) -> Option<Instant> {
        self.callers.get(&id).map(|caller| caller.since)
    }

    /// Runs one batch until it is durable, or until nobody wants it any more.
    async fn batch(&mut self) {
        let mut backoff = Backoff::new(
            Arc::clone(&self.seams.entropy),
            Duration::from_millis(1),
            Duration::from_millis(500),
        );
        let is_done = loop {
            let span = self.batch_span(self.queued.iter());
            match self.attempt().instrument(span).await {
                Ok(()) => break true,
                Err(error) => {
                    self.report(&error);
                    tokio::time::sleep(backoff.pause()).await;
                    self.drain();
                    self.drop_unwanted();
                    if self.queued.is_empty() && self.undetermined.is_empty() {
                        break false;
                    }
                }
            }
        };
        self.reads.batch_ended(is_done);
    }

    /// Drops calls whose callers are gone, if the queue exceeds one batch. For a shorter queue it
    /// is not worth the time.
    fn shorten_queue(&mut self) {
        if self.queued.len() > self.options.limits.batch_calls {
            self.drop_unwanted();
        }
    }

    /// Drops queued calls whose callers are gone. They were not begun.
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
            // A caller that is gone will ask again, with its request id.
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
