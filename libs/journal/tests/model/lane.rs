//! A lane: one writer of the shard. It follows the rules by using the crate's types.

use std::rc::Rc;

use journal::{Author, Checkpoint, Fate, Head, Look, Piece, Tail, Writer};

use crate::{
    scope::{Break, Feature, Scope},
    store::{Append, Entry, Ops, ROWS, Store, Timestamp, Value, each, effect, key, value},
};

/// What a lane remembers of an entry until the entry is trimmed.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    pub(crate) seq: u64,
    pub(crate) start_ms: u64,
    pub(crate) says: bool,
}

/// An append whose reply the lane waits for.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) append: Rc<Append>,
    /// When it was committed, in milliseconds; none while it is in flight.
    pub(crate) committed_ms: Option<u64>,
}

/// The state of the piece that the lane is writing.
#[derive(Debug, Clone)]
pub(crate) enum Writing {
    /// Its KV transaction is in flight.
    Sent(Rc<Piece>, Timestamp),
    /// It is durable, but the lane has not heard.
    Landed(Rc<Piece>, Timestamp),
    /// Its KV transaction has found another head, but the lane has not heard.
    Moved(Head),
}

/// A batch whose KV transaction has started, but has not acted yet.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    /// Operations to write; none for a read.
    pub(crate) ops: Ops,
    /// Whether it states the fact again.
    pub(crate) carries: bool,
    pub(crate) start: Timestamp,
    pub(crate) is_early: bool,
    pub(crate) is_trusted: bool,
    /// The store as of its start.
    pub(crate) snapshot: Rc<Store>,
    /// The true values of the rows at its start.
    pub(crate) truth: [Value; ROWS],
}

/// A KV transaction that was begun while an append was under way.
#[derive(Debug, Clone)]
pub(crate) struct Early {
    pub(crate) start: Timestamp,
    /// The store as of its start.
    pub(crate) snapshot: Rc<Store>,
    /// The true values of the rows at its start.
    pub(crate) truth: [Value; ROWS],
}

/// A look beside the batches.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    /// The head that the lane knew when the look began.
    pub(crate) head: Head,
    /// The last entry that the lane knew then.
    pub(crate) known: u64,
    /// The store as of its start.
    pub(crate) snapshot: Rc<Store>,
    /// The true values of the rows at its start, and after each entry since.
    pub(crate) truths: Vec<[Value; ROWS]>,
}

impl Beside {
    /// The last entry as of the look's start.
    pub(crate) fn last(&self) -> u64 {
        self.snapshot.scan(self.known + 1).last().map_or(self.known, |(seq, _)| *seq)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Lane {
    pub(crate) writer: Writer,
    pub(crate) runs: u64,
    pub(crate) tail: Tail,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) is_open: bool,
    pub(crate) marks: Vec<Mark>,
    /// Undetermined appends, and their operations.
    pub(crate) undetermined: Vec<(Author, Ops)>,
    pub(crate) cache: [Option<Value>; ROWS],
    pub(crate) attempt: Option<Attempt>,
    pub(crate) sent: Option<Sent>,
    pub(crate) writing: Option<Writing>,
    /// Start of the last look, in milliseconds. Only a lane that trusts while an append is
    /// undetermined uses it.
    pub(crate) looked_ms: Option<u64>,
    pub(crate) early: Option<Early>,
    pub(crate) beside: Option<Beside>,
    /// Start of the last append that is known to stand, in milliseconds. Only a lane that believes
    /// every early transaction uses it.
    pub(crate) appended_ms: Option<u64>,
}

impl Lane {
    pub(crate) fn new(starts: u8) -> Self {
        Self {
            writer: [starts; 16],
            runs: 0,
            tail: Tail::default(),
            checkpoint: Checkpoint::default(),
            is_open: false,
            marks: Vec::new(),
            undetermined: Vec::new(),
            cache: [None; ROWS],
            attempt: None,
            sent: None,
            writing: None,
            looked_ms: None,
            early: None,
            beside: None,
            appended_ms: None,
        }
    }

    /// Whether no batch is under way.
    pub(crate) fn is_idle(&self) -> bool {
        self.attempt.is_none() && self.sent.is_none()
    }

    /// Whether a batch that starts at `now` may append without a look.
    pub(crate) fn begin(&mut self, now: u64, scope: &Scope) -> bool {
        let appended = self.appended_ms.take();
        if scope.lacks(Break::EarlyBelieved) && self.undetermined.is_empty() {
            let trust = |at| now.saturating_sub(at) <= journal::TRUST_MS;
            return appended.is_some_and(trust) || self.tail.begin(now);
        }
        let looked = self.looked_ms.take();
        if scope.lacks(Break::TrustWhileUndetermined) && !self.undetermined.is_empty() {
            let trust = |at| now.saturating_sub(at) <= journal::TRUST_MS;
            return looked.is_some_and(trust);
        }
        self.tail.begin(now)
    }

    /// Brings the lane's state up to the journal in `store`. Returns what the look showed, and the
    /// fate of undetermined appends.
    pub(crate) fn look(&mut self, store: &Store, scope: &Scope) -> Result<(Look, Fate), String> {
        let mut head = store.head.unwrap_or_default();
        if !head.follows(self.checkpoint.head()) || (self.is_open && store.head.is_none()) {
            return Err("a lane finds an older head than the one that it knows".to_owned());
        }
        let next = self.tail.seq() + 1;
        if scope.lacks(Break::BelowOldestBelieved)
            && let Some(entry) = store.entry(next)
            && self.undetermined.iter().any(|(author, _)| *author == entry.author)
        {
            let author = entry.author;
            let (look, _) = self.tail.look(&head, Some(author));
            self.take_all(look, head, store)?;
            return Ok((look, Fate::Stands(author)));
        }
        if scope.lacks(Break::LookWithoutOldest) {
            head.oldest = head.oldest.min(next);
        }
        let author = store.entry(next).map(|entry| entry.author);
        let (look, fate) = self.tail.look(&head, author);
        self.take_all(look, head, store)?;
        Ok((look, fate))
    }

    fn take_all(&mut self, look: Look, head: Head, store: &Store) -> Result<(), String> {
        let first = match look {
            Look::Lost(oldest) => {
                self.checkpoint.restart(head);
                self.marks.clear();
                self.cache = [None; ROWS];
                oldest
            }
            Look::Behind(next) => {
                self.checkpoint.seen(head);
                next
            }
            Look::Current => {
                self.checkpoint.seen(head);
                store.end() + 1
            }
        };
        self.is_open = store.head.is_some();
        for (seq, entry) in store.scan(first) {
            let taken = self.tail.take(seq, entry.author, entry.previous);
            taken.map_err(|damage| format!("a lane takes the journal for damaged: {damage}"))?;
            for row in (0..ROWS).filter(|row| entry.images[*row].is_some()) {
                self.cache[row] = None;
            }
            self.push(seq, entry);
        }
        let short = self.checkpoint.check(&self.tail);
        short.map_err(|damage| format!("a lane takes the journal for damaged: {damage}"))?;
        self.forget_before(head.oldest);
        Ok(())
    }

    fn push(&mut self, seq: u64, entry: &Entry) {
        self.checkpoint.push(seq, entry.images());
        self.marks.push(Mark { seq, start_ms: entry.start.ms, says: entry.says });
    }

    /// A row as this lane knows it, in a KV transaction that reads `store`.
    pub(crate) fn load(&mut self, row: usize, store: &Store, scope: &Scope) -> Value {
        if let Some(value) = self.cache[row] {
            return value;
        }
        let image = self.checkpoint.image(&key(row));
        let image = image.filter(|_| !scope.lacks(Break::LoadWithoutOverlay));
        let value = image.map_or(store.rows[row], value);
        if scope.has(Feature::Caches) {
            self.cache[row] = Some(value);
        }
        value
    }

    /// Whether a look beside the batches proves that the lane's state has every entry as of its
    /// start.
    pub(crate) fn proves(&self, beside: &Beside, scope: &Scope) -> bool {
        let Some(head) = beside.snapshot.head else { return false };
        let has_all = head.oldest <= self.tail.seq() + 1 && beside.last() <= self.tail.seq();
        let is_sound = self.is_open && !self.tail.is_undetermined() && head.follows(&beside.head);
        is_sound && (has_all || scope.lacks(Break::BesideBelieved))
    }

    /// Whether every row that the operations change is in memory.
    pub(crate) fn has_rows(&self, ops: Ops) -> bool {
        let changes = |row: usize| each(ops).any(|op| effect(op, row, None).is_some());
        (0..ROWS).all(|row| self.cache[row].is_some() || !changes(row))
    }

    /// Applies operations to what this lane knows, and returns the append of the next entry.
    pub(crate) fn apply(&mut self, attempt: &Attempt, scope: &Scope) -> Append {
        let mut images = [None; ROWS];
        for op in each(attempt.ops) {
            for (row, image) in images.iter_mut().enumerate() {
                if effect(op, row, None).is_none() {
                    continue;
                }
                let before = image.unwrap_or_else(|| self.load(row, &attempt.snapshot, scope));
                *image = effect(op, row, before).or(*image);
            }
        }
        self.runs += 1;
        let entry = Entry {
            author: Author { writer: self.writer, run: self.runs },
            previous: self.tail.author(),
            start: attempt.start,
            ops: attempt.ops,
            images,
            says: attempt.carries || (scope.has(Feature::Facts) && attempt.ops & 1 != 0),
        };
        let opens = (!self.is_open).then(|| *self.checkpoint.head());
        Append { seq: self.tail.seq() + 1, entry, opens }
    }

    /// Hears that its append is committed. Returns whether that counts.
    pub(crate) fn hear_append(
        &mut self,
        append: &Append,
        committed_ms: u64,
        now: u64,
        scope: &Scope,
    ) -> bool {
        let start_ms = append.entry.start.ms;
        let late = !scope.lacks(Break::LateYesBelieved);
        let believed_ms = if late { committed_ms } else { start_ms };
        if !self.tail.appended(append.entry.author, start_ms, believed_ms) {
            self.early = None;
            self.undetermined.push((append.entry.author, append.entry.ops));
            return false;
        }
        if scope.lacks(Break::TrustFromReply) {
            self.tail.looked(now);
        }
        if scope.lacks(Break::TrustFromCommit) {
            self.tail.looked(committed_ms);
        }
        self.undetermined.clear();
        self.appended_ms = Some(start_ms);
        self.is_open = true;
        self.push(append.seq, &append.entry);
        if scope.has(Feature::Caches) {
            for (row, image) in append.entry.images.iter().enumerate() {
                self.cache[row] = image.or(self.cache[row]);
            }
        }
        true
    }

    /// Gives up on its append, whose outcome is unknown.
    pub(crate) fn doubt(&mut self, append: &Append) {
        self.early = None;
        self.tail.undetermined(append.entry.author);
        self.undetermined.push((append.entry.author, append.entry.ops));
    }

    /// Forgets undetermined appends, which breaks the rules.
    pub(crate) fn clear_undetermined(&mut self) {
        let seq = self.tail.seq();
        self.tail.restart(&Head { oldest: seq + 1, ..Head::default() });
        self.undetermined.clear();
    }

    /// Hears the result of its piece.
    pub(crate) fn hear_piece(&mut self, writing: &Writing, scope: &Scope) {
        match writing {
            Writing::Landed(piece, start) => {
                self.checkpoint.landed(piece);
                self.forget_before(piece.after.oldest);
                if scope.lacks(Break::CheckpointRenewsTrust) {
                    self.tail.looked(start.ms);
                }
            }
            Writing::Moved(head) => self.checkpoint.seen(*head),
            Writing::Sent(..) => {}
        }
    }

    fn forget_before(&mut self, oldest: u64) {
        self.marks.retain(|mark| mark.seq >= oldest);
    }

    /// Whether an entry that this lane knows states the fact.
    pub(crate) fn knows_fact(&self) -> bool {
        self.marks.iter().any(|mark| mark.says)
    }

    /// Where the journal may begin for a KV transaction that starts now.
    pub(crate) fn may_begin_at(&self, now: u64, is_expired: bool, scope: &Scope) -> u64 {
        let mut oldest = self.checkpoint.head().oldest;
        let in_flight = self.sent.as_ref().is_some_and(|sent| sent.append.entry.says);
        let early = in_flight && scope.lacks(Break::CarriedBeforeDurable);
        for (index, mark) in self.marks.iter().enumerate() {
            let next = self.marks.get(index + 1);
            let judged = match next {
                Some(next) if !scope.lacks(Break::TrimByOwnAge) => next.start_ms,
                None if !scope.lacks(Break::LastEntryTrimmed) => break,
                Some(_) | None => mark.start_ms,
            };
            let again = self.marks.iter().skip(index + 1).any(|later| later.says) || early;
            let alive = mark.says && !again && !is_expired && !scope.lacks(Break::TrimForgetsFacts);
            if !journal::is_old_enough(judged, now) || alive {
                break;
            }
            oldest = oldest.max(mark.seq + 1);
        }
        oldest
    }

    /// The pieces that this lane may write next, from small to large.
    pub(crate) fn pieces(&self, now: u64, is_expired: bool, scope: &Scope) -> Vec<Piece> {
        let head = *self.checkpoint.head();
        let most = self.may_begin_at(now, is_expired, scope);
        let mut checkpoint = None;
        let mut last = self.tail.seq();
        if scope.lacks(Break::PieceIncludesInFlight)
            && let Some(sent) = &self.sent
        {
            let with_it = checkpoint.insert(self.checkpoint.clone());
            with_it.push(sent.append.seq, sent.append.entry.images());
            last = sent.append.seq;
        }
        let checkpoint = checkpoint.as_ref().unwrap_or(&self.checkpoint);
        let mut pieces: Vec<Piece> = Vec::new();
        for budget in scope.budgets {
            for upto in head.flushed..=last {
                for oldest in [head.oldest, most] {
                    let Some(mut piece) = checkpoint.piece(upto, oldest, *budget) else { continue };
                    if scope.lacks(Break::TrimAboveFlushed) {
                        piece.after.oldest = oldest.max(head.oldest);
                    }
                    if !pieces.contains(&piece) {
                        pieces.push(piece);
                    }
                }
            }
        }
        pieces
    }
}
