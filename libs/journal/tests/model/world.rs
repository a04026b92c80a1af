//! One state of two lanes and their store, and what must be true of it.

use std::rc::Rc;

use journal::{Fate, Head, Look, Piece};

use crate::{
    lane::{Attempt, Beside, Early, Lane, Sent, Writing},
    scope::{Break, Feature, Scope},
    store::{Append, Ops, ROWS, Store, Timestamp, Value, each, effect},
};

/// The state of an operation, as far as its caller can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// It has not arrived.
    New,
    /// It waits at a lane.
    Queued(usize),
    /// It is acknowledged: it has taken effect once.
    Acknowledged,
    /// Its caller was told that it did nothing: it never takes effect.
    Expired,
    /// Its caller was told that its fate is unknown, or was told nothing. It takes effect at most
    /// once.
    Unknown,
}

/// Events that a search must come across to prove anything, one bit each.
pub(crate) mod seen {
    pub(crate) const STANDS: u16 = 1;
    pub(crate) const VOID: u16 = 2;
    pub(crate) const OPEN: u16 = 4;
    pub(crate) const UNKNOWN: u16 = 8;
    pub(crate) const LOST: u16 = 16;
    pub(crate) const PART: u16 = 32;
    pub(crate) const TRIM: u16 = 64;
    pub(crate) const LATE: u16 = 128;
    pub(crate) const ORPHAN: u16 = 256;
    pub(crate) const MOVED: u16 = 512;
    pub(crate) const TRUSTED: u16 = 1024;
    pub(crate) const EARLY: u16 = 2048;
    pub(crate) const BESIDE: u16 = 4096;
    /// Every search of the widest scope comes across these. [`EARLY`] and [`BESIDE`] have scopes of
    /// their own.
    pub(crate) const NAMES: [&str; 11] = [
        "an undetermined append stands",
        "another entry has its place",
        "it may still land",
        "its fate is unknown",
        "a lane is behind the oldest entry",
        "a piece ends within an entry",
        "entries are trimmed",
        "a commit is too late to count",
        "an append lands below the oldest entry",
        "a piece finds another head",
        "a lane appends without a look",
    ];
}

#[derive(Debug, Clone)]
pub(crate) struct World {
    pub(crate) now: u64,
    order: u64,
    pub(crate) store: Rc<Store>,
    pub(crate) lanes: [Rc<Lane>; 2],
    /// Appends that nobody waits for and that may still land.
    pub(crate) stray_appends: Vec<Rc<Append>>,
    /// Pieces that nobody waits for and that may still land.
    pub(crate) stray_pieces: Vec<(Rc<Piece>, Timestamp)>,
    starts: u8,
    pub(crate) crashes: u8,
    /// The true values of the rows: what each entry did when it landed.
    pub(crate) truth: [Value; ROWS],
    /// The number of the last entry that ever stood.
    pub(crate) last: u64,
    /// Operations that have taken effect.
    pub(crate) done: Ops,
    pub(crate) status: [Status; 4],
    pub(crate) is_expired: bool,
    /// A reader from outside that has read head and journal, and the truth at that time.
    pub(crate) reader: Option<(Rc<Store>, [Value; ROWS])>,
    /// What the last step came across.
    pub(crate) seen: u16,
}

impl World {
    pub(crate) fn new(scope: &Scope) -> Self {
        let head = (!scope.has(Feature::Fresh)).then(Head::default);
        Self {
            now: 1_000_000,
            order: 0,
            store: Rc::new(Store::new(head)),
            lanes: [Rc::new(Lane::new(1)), Rc::new(Lane::new(2))],
            stray_appends: Vec::new(),
            stray_pieces: Vec::new(),
            starts: 2,
            crashes: 0,
            truth: [None; ROWS],
            last: 0,
            done: 0,
            status: [Status::New; 4],
            is_expired: false,
            reader: None,
            seen: 0,
        }
    }

    pub(crate) fn lane(&mut self, lane: usize) -> &mut Lane {
        Rc::make_mut(&mut self.lanes[lane])
    }

    /// Takes a new timestamp from the store.
    pub(crate) fn timestamp(&mut self) -> Timestamp {
        self.order += 1;
        Timestamp { order: self.order, ms: self.now }
    }

    /// Operations that wait at a lane.
    pub(crate) fn queued(&self, lane: usize) -> Ops {
        let waits = |op: &u8| self.status[usize::from(*op)] == Status::Queued(lane);
        (0..4).filter(waits).fold(0, |ops, op| ops | 1 << op)
    }

    fn set(&mut self, ops: Ops, status: Status) {
        for op in each(ops) {
            self.status[usize::from(op)] = status;
        }
    }

    pub(crate) fn enqueue(&mut self, lane: usize, ops: Ops) {
        let new = each(ops).filter(|op| self.status[usize::from(*op)] == Status::New);
        let new = new.fold(0, |new, op| new | 1 << op);
        self.set(new, Status::Queued(lane));
    }

    /// A lane begins the KV transaction of a batch.
    pub(crate) fn begin(&mut self, lane: usize, ops: Ops, carries: bool, scope: &Scope) -> Attempt {
        self.enqueue(lane, ops);
        self.lane(lane).early = None;
        let start = self.timestamp();
        let (snapshot, truth) = (Rc::clone(&self.store), self.truth);
        let trusted = self.lane(lane).begin(start.ms, scope);
        let is_trusted = if ops == 0 { scope.lacks(Break::ReadWithoutLook) } else { trusted };
        Attempt { ops, carries, start, is_early: false, is_trusted, snapshot, truth }
    }

    /// A lane uses the KV transaction that it began early. None if it may not.
    pub(crate) fn use_early(
        &mut self,
        lane: usize,
        ops: Ops,
        carries: bool,
        scope: &Scope,
    ) -> Option<Attempt> {
        self.enqueue(lane, ops);
        let Early { start, snapshot, truth } = self.lane(lane).early.take()?;
        let may_read = scope.lacks(Break::EarlyReads);
        let is_ready = ops != 0 && (may_read || self.lanes[lane].has_rows(self.queued(lane) & ops));
        let is_trusted = is_ready && self.lane(lane).begin(start.ms, scope);
        is_trusted.then_some(Attempt {
            ops,
            carries,
            start,
            is_early: true,
            is_trusted,
            snapshot,
            truth,
        })
    }

    /// A lane begins a look beside its batches.
    pub(crate) fn begin_beside(&mut self, lane: usize) {
        let (head, known) = (*self.lanes[lane].checkpoint.head(), self.lanes[lane].tail.seq());
        let (snapshot, truths) = (Rc::clone(&self.store), vec![self.truth]);
        self.lane(lane).beside = Some(Beside { head, known, snapshot, truths });
    }

    /// A lane reads what it has in memory, if its look proves that this is current.
    pub(crate) fn end_beside(&mut self, lane: usize, scope: &Scope) -> Result<(), String> {
        let Some(beside) = self.lane(lane).beside.take() else { return Ok(()) };
        if !self.lanes[lane].proves(&beside, scope) {
            return Ok(());
        }
        self.seen |= seen::BESIDE;
        let cache = self.lanes[lane].cache;
        let has_read = |truth: &[Value; ROWS]| {
            cache.iter().zip(truth).all(|(value, truth)| value.is_none_or(|value| value == *truth))
        };
        if beside.truths.iter().any(has_read) {
            return Ok(());
        }
        Err(format!("a lane reads {cache:?}, the truth was one of {:?}", beside.truths))
    }

    /// A lane begins its next KV transaction while its append is under way.
    pub(crate) fn begin_early(&mut self, lane: usize) {
        let start = self.timestamp();
        let (snapshot, truth) = (Rc::clone(&self.store), self.truth);
        self.lane(lane).early = Some(Early { start, snapshot, truth });
    }

    /// A lane continues its batch: it looks, answers a read or sends an append. False if the batch
    /// would carry a fact that the lane does not know.
    pub(crate) fn run(
        &mut self,
        lane: usize,
        mut attempt: Attempt,
        scope: &Scope,
    ) -> Result<bool, String> {
        if attempt.is_trusted {
            self.seen |= if attempt.is_early { seen::EARLY } else { seen::TRUSTED };
        } else {
            let (look, fate) = self.lane(lane).look(&attempt.snapshot, scope)?;
            if matches!(look, Look::Lost(_)) {
                self.seen |= seen::LOST;
            }
            self.lane(lane).looked_ms = Some(attempt.start.ms);
            self.settle(lane, fate, scope)?;
        }
        if attempt.carries && !self.lanes[lane].knows_fact() {
            return Ok(false);
        }
        let wanted = attempt.ops;
        attempt.ops &= self.queued(lane);
        if attempt.ops == 0 {
            for row in 0..ROWS {
                let value = self.lane(lane).load(row, &attempt.snapshot, scope);
                if value != attempt.truth[row] {
                    return Err(format!(
                        "a lane reads {value:?} of row {row}, the truth was {:?}",
                        attempt.truth[row]
                    ));
                }
            }
            if wanted == 0 || !attempt.is_trusted {
                self.lane(lane).tail.looked(attempt.start.ms);
            }
            return Ok(true);
        }
        let append = Rc::new(self.lane(lane).apply(&attempt, scope));
        self.lane(lane).sent = Some(Sent { append, committed_ms: None });
        Ok(true)
    }

    /// Answers operations whose fate a look has shown.
    fn settle(&mut self, lane: usize, fate: Fate, scope: &Scope) -> Result<(), String> {
        if matches!(fate, Fate::Open | Fate::Settled) {
            self.seen |= if fate == Fate::Open { seen::OPEN } else { 0 };
            return Ok(());
        }
        let undetermined = std::mem::take(&mut self.lane(lane).undetermined);
        match fate {
            Fate::Stands(author) => {
                self.seen |= seen::STANDS;
                let stands = undetermined.iter().find(|(of, _)| *of == author);
                let Some((_, ops)) = stands.filter(|_| !scope.lacks(Break::UndeterminedForgotten))
                else {
                    return Ok(());
                };
                self.acknowledge(lane, *ops)
            }
            Fate::Unknown => {
                self.seen |= seen::UNKNOWN;
                if !scope.lacks(Break::UnknownRunsAgain) {
                    let ops = undetermined.iter().fold(0, |all, (_, ops)| all | ops);
                    self.set(ops & self.queued(lane), Status::Unknown);
                }
                Ok(())
            }
            Fate::Void | Fate::Open | Fate::Settled => {
                self.seen |= seen::VOID;
                Ok(())
            }
        }
    }

    pub(crate) fn acknowledge(&mut self, lane: usize, ops: Ops) -> Result<(), String> {
        let ops = ops & self.queued(lane);
        self.set(ops, Status::Acknowledged);
        match each(ops & !self.done).next() {
            Some(op) => Err(format!("operation {op} is acknowledged and took no effect")),
            None => Ok(()),
        }
    }

    /// Tells callers that their operations came too late and did nothing.
    pub(crate) fn expire(&mut self, lane: usize) {
        self.set(self.queued(lane), Status::Expired);
    }

    /// An append reaches the store. False if it conflicts.
    pub(crate) fn land(&mut self, append: &Append, scope: &Scope) -> Result<bool, String> {
        if self.store.refuses(append, !scope.lacks(Break::AppendWithoutInsert)) {
            return Ok(false);
        }
        let (seq, ops) = (append.seq, append.entry.ops);
        if self.store.entry(seq).is_some() {
            return Err(format!("entry {seq} is overwritten"));
        }
        let at = self.timestamp();
        Rc::make_mut(&mut self.store).append(append, at);
        let oldest = self.store.head.unwrap_or_default().oldest;
        if seq <= self.last && seq < oldest {
            self.seen |= seen::ORPHAN;
            return Ok(true);
        }
        if seq != self.last + 1 {
            return Err(format!("entry {seq} lands, the last one was {}", self.last));
        }
        self.last = seq;
        for op in each(ops) {
            if self.done & 1 << op != 0 {
                return Err(format!("operation {op} takes effect twice"));
            }
            if self.status[usize::from(op)] == Status::Expired {
                return Err(format!(
                    "operation {op} takes effect, its caller knows that it did nothing"
                ));
            }
            for row in 0..ROWS {
                self.truth[row] = effect(op, row, self.truth[row]).unwrap_or(self.truth[row]);
            }
        }
        self.done |= ops;
        for lane in 0..2 {
            let truth = self.truth;
            if self.lanes[lane].beside.is_some()
                && let Some(beside) = &mut self.lane(lane).beside
            {
                beside.truths.push(truth);
            }
        }
        Ok(true)
    }

    /// A piece reaches the store. False if it conflicts.
    pub(crate) fn land_piece(&mut self, piece: &Piece, start: Timestamp, scope: &Scope) -> bool {
        if self.store.has_newer_head(start) {
            return false;
        }
        let at = self.timestamp();
        let skipped = usize::from(scope.lacks(Break::PieceSkipsRow));
        self.seen |= if piece.after.part > 0 { seen::PART } else { 0 };
        self.seen |= if piece.after.oldest > piece.before.oldest { seen::TRIM } else { 0 };
        Rc::make_mut(&mut self.store).write(piece, skipped, at);
        true
    }

    /// A lane begins the KV transaction of a piece, which reads the head.
    pub(crate) fn begin_piece(&mut self, lane: usize, piece: Piece, scope: &Scope) {
        let start = self.timestamp();
        let found = self.store.head.unwrap_or_default();
        let moved = found != piece.before && !scope.lacks(Break::PieceIgnoresHead);
        self.seen |= if moved { seen::MOVED } else { 0 };
        let writing =
            if moved { Writing::Moved(found) } else { Writing::Sent(Rc::new(piece), start) };
        self.lane(lane).writing = Some(writing);
    }

    /// A lane stops for good and a new one starts in its place. What is in flight stays in flight,
    /// as far as the scope allows.
    pub(crate) fn crash(&mut self, lane: usize, scope: &Scope) {
        self.crashes += 1;
        self.starts += 1;
        self.set(self.queued(lane), Status::Unknown);
        let old = std::mem::replace(&mut self.lanes[lane], Rc::new(Lane::new(self.starts)));
        if let Some(Sent { append, committed_ms: None }) = &old.sent
            && self.stray_appends.len() < scope.stray_appends
        {
            self.stray_appends.push(Rc::clone(append));
        }
        if let Some(Writing::Sent(piece, start)) = &old.writing
            && self.stray_pieces.len() < scope.stray_pieces
        {
            self.stray_pieces.push((Rc::clone(piece), *start));
        }
    }

    pub(crate) fn pass(&mut self, ms: u64) {
        self.now += ms;
        let now = self.now;
        Rc::make_mut(&mut self.store).collect_garbage(now);
    }

    /// Checks what must be true in every state.
    pub(crate) fn check(&self, scope: &Scope) -> Result<(), String> {
        let store = &self.store;
        for (row, truth) in self.truth.iter().enumerate() {
            let alone = scope.lacks(Break::OutsideWithoutOverlay);
            let value = if alone { store.rows[row] } else { store.read(row, store) };
            if value != *truth {
                return Err(format!(
                    "a reader from outside sees {value:?} of row {row}, the truth is {truth:?}"
                ));
            }
        }
        let oldest = store.head.unwrap_or_default().oldest;
        if let Some(seq) = (oldest..=self.last).find(|seq| store.entry(*seq).is_none()) {
            return Err(format!("entry {seq} is missing"));
        }
        let is_needed = scope.has(Feature::Facts) && self.done & 1 != 0 && !self.is_expired;
        if is_needed && !store.scan(oldest).iter().any(|(_, entry)| entry.says) {
            return Err("a fact is lost that is still needed".to_owned());
        }
        Ok(())
    }
}
