//! The transaction log: what happened, when and why. It keeps the transactions that were retried,
//! resolved, slow, broken or sampled, and those whose caller asked to keep them.
//!
//! It is off the critical path: a driver notes steps in memory, and a chore writes the notes worth
//! keeping, in batches. Everything is bounded: the steps of one transaction, the notes waiting to
//! be written (surplus ones are dropped and counted), and the records, of which the oldest are
//! removed.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::participant::v1::Waiting;
use storage::{
    Key, Kv, KvError, SharedKv, codec,
    keys::{Kind, Space},
    kv::CommitError,
    record::{TransactionLog, transaction_log::Step},
};
use tokio::time::sleep;
use twopc::message::{Message, Outcome, Reply};
use types::{BranchState, Clock, OrderId, Role, ShardId, TxId, TxMeta, UnixMillis, Vote};

/// Upper limit on the steps kept of one transaction.
const STEPS_MAX: usize = 64;
/// Upper limit on the notes waiting to be written.
const QUEUE_MAX: usize = 4_096;
/// Upper limit on the notes written by one KV transaction.
const BATCH_MAX: usize = 64;
/// Pause between two writes.
const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Records read per page.
const PAGE: u32 = 256;
/// Upper limit on the records removed by one KV transaction.
const REMOVE_MAX: usize = 128;

const SPACE: Space = Space::of(Role::Coordinator, ShardId(0));

/// What the log keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// Approximate number of records in the store, from all replicas; 0 for no log.
    pub records_max: u64,
    /// A transaction is slow if it is unanswered after this many milliseconds.
    pub slow_ms: u64,
    /// One transaction in this many is kept regardless of what happens to it; 0 for none.
    pub sample_one_in: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { records_max: 10_000, slow_ms: 500, sample_one_in: 1_000 }
    }
}

/// Describes an attempt, for its log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttemptInfo {
    /// The order to be bought, if it is a checkout.
    pub order_id: Option<OrderId>,
    /// Number of the attempt of its call, from 1; 0 for a resolution by another process.
    pub attempt: u32,
    /// Trace id of the client's call.
    pub trace_id: Option<String>,
    /// The caller asked to keep the log, so it is kept regardless of what happens.
    pub keep: bool,
}

/// What a driver did or heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogStep {
    /// Sent the message of this name.
    Sent(&'static str),
    /// Heard the state or vote of this name.
    Heard(&'static str),
    /// Heard a NO with this reason.
    HeardNo(String),
    /// Heard CONTENDED: this transaction is in the way.
    HeardContended(TxId),
    /// Sends the message again, because of this problem.
    Again(String),
    /// The branch waits for this transaction, if known.
    Waits(Option<TxId>),
    /// Answered its listener with the outcome of this name.
    Answered(&'static str),
    /// A rule of the protocol was broken, as described.
    Broken(String),
}

impl fmt::Display for LogStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(message) => write!(f, "sent {message}"),
            Self::Heard(answer) => write!(f, "heard {answer}"),
            Self::Again(problem) => write!(f, "sends again: {problem}"),
            Self::HeardNo(reason) => write!(f, "heard NO {reason}"),
            Self::HeardContended(blocker) => write!(f, "heard CONTENDED behind {blocker}"),
            Self::Waits(Some(blocker)) => write!(f, "waits for {blocker}"),
            Self::Waits(None) => f.write_str("waits for another transaction"),
            Self::Answered(outcome) => write!(f, "answered {outcome}"),
            Self::Broken(violation) => write!(f, "broken: {violation}"),
        }
    }
}

impl LogStep {
    /// The step for sending this message.
    pub const fn sent(message: &Message) -> Self {
        Self::Sent(match message {
            Message::Prepare => "Prepare",
            Message::Commit { .. } => "Commit",
            Message::Abort { .. } => "Abort",
            Message::Query { fence: true } => "Query with a fence",
            Message::Query { fence: false } => "Query",
            Message::Forget => "Forget",
        })
    }

    /// The step for hearing this reply.
    pub fn heard(reply: &Reply) -> Self {
        match reply {
            Reply::Vote(Vote::Yes { .. }) => Self::Heard("YES"),
            Reply::Vote(Vote::No { reason, .. }) => Self::HeardNo(reason.clone()),
            Reply::Vote(Vote::Contended { blocker }) => Self::HeardContended(blocker.tx_id),
            Reply::Vote(Vote::Fenced) => Self::Heard("FENCED"),
            Reply::State(state, _) | Reply::Acked(state) => Self::Heard(match state {
                BranchState::Absent => "ABSENT",
                BranchState::Prepared => "PREPARED",
                BranchState::Committed => "COMMITTED",
                BranchState::Aborted => "ABORTED",
            }),
            Reply::Forgotten => Self::Heard("forgotten"),
        }
    }

    /// The step for a participant that must wait.
    pub fn waits(waiting: &Waiting) -> Self {
        let blocker = waiting.blocker.as_ref().and_then(|blocker| blocker.tx.as_ref());
        Self::Waits(blocker.and_then(|tx| TxId::from_slice(&tx.tx_id).ok()))
    }

    /// The step for answering with this outcome.
    pub const fn answered(outcome: &Outcome) -> Self {
        Self::Answered(match outcome {
            Outcome::Committed => "COMMITTED",
            Outcome::Refused(_) => "REFUSED",
            Outcome::Contended(_) => "CONTENDED",
            Outcome::Fenced => "FENCED",
            Outcome::Undecided(_) => "UNDECIDED",
        })
    }
}

/// What is known so far of one transaction.
#[derive(Debug)]
struct Note {
    number: u64,
    meta: TxMeta,
    info: AttemptInfo,
    began: UnixMillis,
    ended: Option<UnixMillis>,
    answered: Option<(u64, &'static str)>,
    resent: bool,
    broken: bool,
    steps: Vec<(u64, usize, LogStep)>,
    left_out: u64,
}

/// The log of one process. Clones share it.
#[derive(Clone)]
pub struct TxLog {
    settings: LogSettings,
    clock: Arc<dyn Clock>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    /// Transactions under way, by number, hence in the order in which they began.
    open: BTreeMap<u64, Arc<Mutex<Note>>>,
    next: u64,
    ended: VecDeque<TransactionLog>,
    keys: VecDeque<Key>,
    dropped: u64,
}

impl fmt::Debug for TxLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TxLog").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// No change under these locks is left half-done, so a panic elsewhere does not matter.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One transaction's entry in the log. Does nothing if there is no log. Clones share it.
#[derive(Clone, Default)]
pub struct LogEntryHandle(Option<Arc<Open>>);

struct Open {
    log: TxLog,
    number: u64,
    note: Arc<Mutex<Note>>,
}

impl fmt::Debug for LogEntryHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogEntryHandle").field("on", &self.0.is_some()).finish()
    }
}

impl LogEntryHandle {
    /// Notes a step that concerns the branch at `index`.
    pub fn step(&self, index: usize, what: impl FnOnce() -> LogStep) {
        let Some(open) = &self.0 else { return };
        let mut note = lock(&open.note);
        let after = open.log.clock.now().since(note.began);
        let what = what();
        match &what {
            LogStep::Again(_) => note.resent = true,
            LogStep::Broken(_) => note.broken = true,
            LogStep::Answered(outcome) => note.answered = Some((after, outcome)),
            LogStep::Sent(_)
            | LogStep::Heard(_)
            | LogStep::HeardNo(_)
            | LogStep::HeardContended(_)
            | LogStep::Waits(_) => {}
        }
        if note.steps.len() < STEPS_MAX {
            note.steps.push((after, index, what));
        } else {
            note.left_out = note.left_out.saturating_add(1);
        }
    }

    /// Ends the transaction. Its note waits to be written if it is worth keeping.
    pub fn end(self) {
        let Some(open) = self.0 else { return };
        let mut shared = lock(&open.log.shared);
        shared.open.remove(&open.number);
        let mut note = lock(&open.note);
        let now = open.log.clock.now();
        note.ended = Some(now);
        let reasons = open.log.settings.reasons(&note, now);
        if reasons.is_empty() {
            return;
        }
        if shared.ended.len() >= QUEUE_MAX {
            shared.dropped = shared.dropped.saturating_add(1);
            return;
        }
        let (key, record) = note.record(reasons);
        shared.keys.push_back(key);
        shared.ended.push_back(record);
    }
}

impl LogSettings {
    /// Why a transaction is worth keeping; empty if it is not.
    fn reasons(&self, note: &Note, now: UnixMillis) -> Vec<&'static str> {
        let answered = note.answered.map_or_else(|| now.since(note.began), |(after, _)| after);
        let sampled = match self.sample_one_in {
            0 => false,
            one_in => {
                let [.., a, b, c, d] = note.meta.tx_id.0;
                u64::from(u32::from_be_bytes([a, b, c, d])) % one_in == 0
            }
        };
        let undecided = note.answered.is_some_and(|(_, outcome)| outcome == "UNDECIDED");
        let all = [
            ("RETRIED", note.info.attempt > 1 || note.resent),
            ("RESOLVED", note.info.attempt == 0 && !undecided),
            ("SLOW", answered >= self.slow_ms),
            ("BROKEN", note.broken),
            ("SAMPLED", sampled && note.info.attempt > 0),
            ("ASKED", note.info.keep),
        ];
        all.into_iter().filter(|(_, holds)| *holds).map(|(reason, _)| reason).collect()
    }
}

impl Note {
    fn record(&self, reasons: Vec<&'static str>) -> (Key, TransactionLog) {
        // Notes of its coordinator and its resolvers are stored next to each other.
        let id = [self.began.0.to_be_bytes(), self.number.to_be_bytes()].concat();
        let key = SPACE.record(Kind::TransactionLog, &[&self.meta.tx_id.0[..], &id].concat());
        let steps = self.steps.iter().map(|(after_ms, index, what)| {
            let branch = self.meta.branches.get(*index);
            let at = branch.map(|branch| format!("{branch}: ")).unwrap_or_default();
            Step {
                after_ms: *after_ms,
                what: format!("{at}{what}"),
                blocked_by: if let LogStep::Waits(Some(blocker))
                | LogStep::HeardContended(blocker) = what
                {
                    blocker.0.to_vec().into()
                } else {
                    bytes::Bytes::new()
                },
                seat: u32::try_from(*index).unwrap_or(u32::MAX),
            }
        });
        let record = TransactionLog {
            tx: Some((&self.meta).into()),
            order_id: self.info.order_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            attempt: self.info.attempt,
            trace_id: self.info.trace_id.clone().unwrap_or_default(),
            began_ms: self.began.0,
            ended_ms: self.ended.map_or(0, |ended| ended.0),
            outcome: self.answered.map(|(_, outcome)| outcome.to_owned()).unwrap_or_default(),
            reasons: reasons.into_iter().map(str::to_owned).collect(),
            steps: steps.collect(),
            steps_left_out: self.left_out,
        };
        (key, record)
    }
}

impl TxLog {
    /// An empty log.
    pub fn new(settings: LogSettings, clock: Arc<dyn Clock>) -> Self {
        Self { settings, clock, shared: Arc::default() }
    }

    /// Begins the note on a transaction.
    pub fn open(&self, meta: &TxMeta, info: AttemptInfo) -> LogEntryHandle {
        if self.settings.records_max == 0 {
            return LogEntryHandle::default();
        }
        let mut shared = lock(&self.shared);
        shared.next = shared.next.wrapping_add(1);
        let number = shared.next;
        let note = Note {
            number,
            meta: meta.clone(),
            info,
            began: self.clock.now(),
            ended: None,
            answered: None,
            resent: false,
            broken: false,
            steps: Vec::with_capacity(16),
            left_out: 0,
        };
        let note = Arc::new(Mutex::new(note));
        shared.open.insert(number, Arc::clone(&note));
        LogEntryHandle(Some(Arc::new(Open { log: self.clone(), number, note })))
    }

    /// Writes the notes worth keeping, periodically until `shutdown` completes, then once more.
    pub async fn keep(self, kv: SharedKv, shutdown: impl Future<Output = ()>) {
        if self.settings.records_max == 0 {
            return;
        }
        let mut since_trim = 0;
        let mut shutdown = std::pin::pin!(shutdown);
        let mut over = false;
        while !over {
            tokio::select! {
                biased;
                () = &mut shutdown => over = true,
                () = sleep(WRITE_EVERY) => {}
            }
            since_trim += self.write(&*kv).await;
            // Every replica trims after writing an eighth of the maximum, so up to eight replicas
            // keep at most about twice the maximum.
            if since_trim > self.settings.records_max / 8 {
                since_trim = 0;
                if let Err(error) = trim(&*kv, self.settings.records_max).await {
                    tracing::debug!(%error, "the log of transactions was not trimmed");
                }
            }
        }
    }

    /// Writes the waiting notes, and those of transactions that are slow so far. Returns their
    /// number.
    pub async fn write(&self, kv: &dyn Kv) -> u64 {
        let mut written = 0;
        loop {
            let batch = self.next_batch();
            if batch.is_empty() {
                break;
            }
            let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
            match write_batch(kv, batch).await {
                Ok(()) => written += count,
                // The log must not delay anything, so a failed batch is dropped.
                Err(error) => {
                    tracing::debug!(%error, count, "notes of transactions were not written");
                }
            }
        }
        let slow = self.slow();
        written += u64::try_from(slow.len()).unwrap_or(u64::MAX);
        for batch in slow.chunks(BATCH_MAX) {
            if let Err(error) = write_batch(kv, batch.to_vec()).await {
                tracing::debug!(%error, "notes of slow transactions were not written");
            }
        }
        let dropped = std::mem::take(&mut lock(&self.shared).dropped);
        if dropped > 0 {
            tracing::info!(dropped, "more transactions than the log keeps up with");
        }
        written
    }

    fn next_batch(&self) -> Vec<(Key, TransactionLog)> {
        let mut shared = lock(&self.shared);
        let count = shared.ended.len().min(BATCH_MAX);
        let keys: Vec<_> = shared.keys.drain(..count).collect();
        keys.into_iter().zip(shared.ended.drain(..count)).collect()
    }

    /// Transactions that are slow and still unanswered, as they are now.
    fn slow(&self) -> Vec<(Key, TransactionLog)> {
        let now = self.clock.now();
        let open: Vec<_> = lock(&self.shared).open.values().take(QUEUE_MAX).cloned().collect();
        let slow = open.iter().filter_map(|note| {
            let note = lock(note);
            let late = note.answered.is_none() && now.since(note.began) >= self.settings.slow_ms;
            late.then(|| note.record(vec!["SLOW"]))
        });
        slow.take(BATCH_MAX).collect()
    }
}

async fn write_batch(kv: &dyn Kv, batch: Vec<(Key, TransactionLog)>) -> Result<(), CommitError> {
    let mut txn = kv.begin().await.map_err(CommitError::Failed)?;
    for (key, record) in batch {
        txn.put(key, codec::encode(&record));
    }
    txn.commit().await.map(drop)
}

/// Reads the records of one transaction, or all of them. Records that do not decode are left out.
///
/// # Errors
/// [`KvError`]; retry.
pub async fn read(kv: &dyn Kv, of: Option<TxId>) -> Result<Vec<TransactionLog>, KvError> {
    let mut range = SPACE.range(Kind::TransactionLog);
    if let Some(tx_id) = of {
        let first = SPACE.record(Kind::TransactionLog, &tx_id.0);
        let end = [&first[..], &[0xff; 17]].concat();
        range = first..end;
    }
    let at = kv.timestamp().await?;
    let mut records = Vec::new();
    loop {
        let page = kv.snapshot(at).scan(range.clone(), PAGE).await?;
        let full = u32::try_from(page.len()).is_ok_and(|len| len >= PAGE);
        for (key, value) in page {
            if let Ok(record) = codec::decode(&key, &value) {
                records.push(record);
            }
            range.start = [&key[..], &[0]].concat();
        }
        if !full {
            return Ok(records);
        }
    }
}

/// Removes the oldest records until about `records_max` are left. TxIds sort by time.
async fn trim(kv: &dyn Kv, records_max: u64) -> Result<(), KvError> {
    let at = kv.timestamp().await?;
    let mut range = SPACE.range(Kind::TransactionLog);
    let mut keys: VecDeque<Key> = VecDeque::new();
    loop {
        let page = kv.snapshot(at).scan(range.clone(), PAGE).await?;
        let full = u32::try_from(page.len()).is_ok_and(|len| len >= PAGE);
        for (key, _) in page {
            range.start = [&key[..], &[0]].concat();
            keys.push_back(key);
        }
        if !full {
            break;
        }
    }
    let surplus = keys.len().saturating_sub(usize::try_from(records_max).unwrap_or(usize::MAX));
    let old: Vec<_> = keys.drain(..surplus).collect();
    for batch in old.chunks(REMOVE_MAX) {
        let mut txn = kv.begin().await?;
        for key in batch {
            txn.delete(key.clone());
        }
        // A conflict means that another replica was first; what is left goes next time.
        if let Err(CommitError::Failed(error)) = txn.commit().await {
            return Err(error);
        }
    }
    Ok(())
}
