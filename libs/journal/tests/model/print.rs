//! What tells one state from another. Times count by the bounds that they have crossed, writers and
//! runs count by the order in which they appear, and lanes are interchangeable.

use std::{
    cmp::Ordering,
    hash::{DefaultHasher, Hasher},
};

use journal::{Author, EARLY_MS, Head, LIFE_MAX_MS, Piece, TRIM_AGE_MS, TRUST_MS};

use crate::{
    lane::{Attempt, Lane, Sent, Writing},
    scope::{Break, Scope},
    store::{Append, Entry, ROWS, Store, Timestamp, Value, key, value},
    world::{Status, World},
};

/// Writes the canonical form of a state.
#[derive(Debug)]
struct Print<'a> {
    world: &'a World,
    scope: &'a Scope,
    /// Lanes in the order in which they are written.
    lanes: [usize; 2],
    authors: Vec<Author>,
    out: Vec<u8>,
}

impl World {
    /// A hash that is equal for states that behave the same. Two states that behave differently
    /// collide with a chance of 2^-64.
    pub(crate) fn print(&self, scope: &Scope) -> u64 {
        let print = match self.rank(0).cmp(&self.rank(1)) {
            Ordering::Less => Print::of(self, [0, 1], scope),
            Ordering::Greater => Print::of(self, [1, 0], scope),
            Ordering::Equal => Print::of(self, [0, 1], scope).min(Print::of(self, [1, 0], scope)),
        };
        let mut hasher = DefaultHasher::new();
        hasher.write(&print);
        hasher.finish()
    }

    /// A key that usually tells the two lanes apart, independent of their order.
    fn rank(&self, lane: usize) -> (u64, u8, usize, bool, u8, Head) {
        let Lane { tail, checkpoint, undetermined, sent, writing, .. } = &*self.lanes[lane];
        let writing = match writing {
            None => 0,
            Some(Writing::Sent(..)) => 1,
            Some(Writing::Landed(..)) => 2,
            Some(Writing::Moved(_)) => 3,
        };
        let head = *checkpoint.head();
        (tail.seq(), self.queued(lane), undetermined.len(), sent.is_some(), writing, head)
    }

    /// Whether a lane may ever append again.
    fn may_write(&self, lane: usize, scope: &Scope) -> bool {
        self.queued(lane) != 0
            || (0..scope.ops).any(|op| self.status[usize::from(op)] == Status::New)
    }
}

fn small(number: u64) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn code(value: Value) -> u8 {
    value.map_or(0, |value| value + 1)
}

impl<'a> Print<'a> {
    fn of(world: &'a World, lanes: [usize; 2], scope: &'a Scope) -> Vec<u8> {
        let mut print =
            Self { world, scope, lanes, authors: Vec::new(), out: Vec::with_capacity(256) };
        print.world();
        print.out
    }

    fn put(&mut self, byte: u8) {
        self.out.push(byte);
    }

    fn flag(&mut self, flag: bool) {
        self.put(u8::from(flag));
    }

    fn author(&mut self, author: Option<Author>) {
        let Some(author) = author else { return self.put(0) };
        let at = self.authors.iter().position(|known| *known == author);
        let at = at.unwrap_or_else(|| {
            self.authors.push(author);
            self.authors.len() - 1
        });
        self.put(u8::try_from(at + 1).unwrap_or(u8::MAX));
    }

    /// Writes how many of the bounds the age of a time has reached.
    fn age(&mut self, ms: u64, bounds: &[u64]) {
        let age = self.world.now.saturating_sub(ms);
        let crossed = bounds.iter().filter(|bound| age >= **bound).count();
        self.put(u8::try_from(crossed).unwrap_or(u8::MAX));
    }

    fn head(&mut self, head: &Head) {
        self.put(small(head.flushed));
        self.put(small(head.part.into()));
        self.put(small(head.oldest));
    }

    /// Writes an entry. Its age decides only whether its predecessor may be trimmed, so the age of
    /// the first entry is left out.
    fn entry(&mut self, entry: &Entry, is_first: bool) {
        self.author(Some(entry.author));
        self.author(entry.previous);
        self.put(entry.ops);
        self.flag(entry.says);
        for image in entry.images {
            self.put(image.map_or(0, |value| code(value) + 1));
        }
        if !is_first || self.lacks_trim_rule() {
            self.age(entry.start.ms, &[TRIM_AGE_MS]);
        }
    }

    fn lacks_trim_rule(&self) -> bool {
        self.scope.lacks(Break::TrimByOwnAge) || self.scope.lacks(Break::LastEntryTrimmed)
    }

    fn store(&mut self, store: &Store) {
        self.flag(store.head.is_some());
        self.head(&store.head.unwrap_or_default());
        for value in store.rows {
            self.put(code(value));
        }
        for seq in 1..=store.end() {
            match store.entry(seq) {
                Some(entry) => self.entry(entry, seq <= store.head.unwrap_or_default().oldest),
                None => self.put(0),
            }
        }
        self.put(u8::MAX);
    }

    fn world(&mut self) {
        let world = self.world;
        self.store(&world.store);
        for value in world.truth {
            self.put(code(value));
        }
        self.put(small(world.last));
        self.put(world.done);
        self.put(world.crashes);
        self.flag(world.is_expired);
        for status in world.status {
            self.put(match status {
                Status::New => 0,
                Status::Queued(lane) => 1 + u8::from(lane != self.lanes[0]),
                Status::Acknowledged | Status::Unknown => 3,
                Status::Expired => 4,
            });
        }
        for lane in self.lanes {
            self.lane(&world.lanes[lane], world.may_write(lane, self.scope));
        }
        self.in_any_order(&world.stray_appends, |print, append| print.append(append, &[]));
        self.in_any_order(&world.stray_pieces, |print, (piece, start)| print.piece(piece, *start));
        if let Some((store, truth)) = &world.reader {
            self.store(store);
            for value in truth {
                self.put(code(*value));
            }
        }
    }

    fn in_any_order<T>(&mut self, all: &[T], write: impl Fn(&mut Self, &T)) {
        let start = self.out.len();
        let mut parts = Vec::new();
        for one in all {
            write(self, one);
            parts.push(self.out.split_off(start));
        }
        parts.sort();
        for part in parts {
            self.out.extend(part);
        }
        self.put(small(u64::try_from(all.len()).unwrap_or(u64::MAX)));
    }

    fn lane(&mut self, lane: &Lane, may_write: bool) {
        self.put(small(lane.tail.seq()));
        self.author(lane.tail.author());
        // How long the tail is still trusted: now, and one tick of 900 ms later.
        for later in [0, 900].iter().filter(|_| may_write) {
            self.flag(lane.tail.clone().begin(self.world.now + later));
        }
        self.flag(lane.is_open);
        self.undetermined(lane);
        self.checkpoint(lane);
        for (index, mark) in lane.marks.iter().enumerate() {
            self.put(small(mark.seq));
            if index > 0 || self.lacks_trim_rule() {
                self.age(mark.start_ms, &[TRIM_AGE_MS]);
            }
            self.flag(mark.says);
        }
        for row in lane.cache {
            self.put(row.map_or(0, |value| code(value) + 1));
        }
        match &lane.attempt {
            Some(attempt) => self.attempt(attempt),
            None => self.put(0),
        }
        self.sent(lane.sent.as_ref(), may_write);
        self.early(lane, may_write);
        self.beside(lane);
        self.writing(lane.writing.as_ref());
    }

    /// Writes only the undetermined appends that stand or may still land. The others make no
    /// difference.
    fn undetermined(&mut self, lane: &Lane) {
        let world = self.world;
        let stands = |author: &Author| {
            let stands = |(_, entry): &(u64, &Entry)| entry.author == *author;
            world.store.scan(1).iter().any(stands)
                || world.stray_appends.iter().any(|append| append.entry.author == *author)
        };
        self.flag(lane.undetermined.is_empty());
        if !lane.undetermined.is_empty()
            && self.scope.lacks(Break::TrustWhileUndetermined)
            && let Some(looked_ms) = lane.looked_ms
        {
            self.age(looked_ms, &[1, TRUST_MS + 1]);
        }
        for (author, ops) in lane.undetermined.iter().filter(|(author, _)| stands(author)) {
            self.author(Some(*author));
            self.put(*ops);
        }
        self.put(u8::MAX);
    }

    /// Writes a checkpoint as its images and what it would write. When others have moved the head
    /// on, no piece made from the old head lands, so it does not matter which head that is.
    fn checkpoint(&mut self, lane: &Lane) {
        let current = self.world.store.head.unwrap_or_default();
        let is_stale =
            *lane.checkpoint.head() != current && !self.scope.lacks(Break::PieceIgnoresHead);
        self.flag(is_stale);
        if !is_stale {
            self.head(lane.checkpoint.head());
        }
        for row in 0..ROWS {
            let image = lane.checkpoint.image(&key(row));
            self.put(image.map_or(0, |image| code(value(image)) + 1));
        }
        if lane.checkpoint.is_empty() {
            return self.put(0);
        }
        match lane.checkpoint.piece(u64::MAX, 0, usize::MAX) {
            Some(piece) if is_stale => self.images(&piece),
            Some(piece) => self.rows(&piece),
            None => self.put(0),
        }
    }

    fn rows(&mut self, piece: &Piece) {
        self.head(&piece.before);
        self.head(&piece.after);
        self.images(piece);
    }

    fn images(&mut self, piece: &Piece) {
        for image in &piece.rows {
            self.out.extend_from_slice(&image.row);
            self.put(code(value(image.value.as_ref())));
        }
        self.put(u8::MAX);
    }

    fn piece(&mut self, piece: &Piece, start: Timestamp) {
        let is_doomed = self.world.store.has_newer_head(start);
        self.flag(is_doomed);
        if !is_doomed {
            self.rows(piece);
        }
    }

    fn append(&mut self, append: &Append, bounds: &[u64]) {
        self.put(small(append.seq));
        self.entry(&append.entry, append.seq == 1);
        self.flag(append.opens.is_some());
        self.flag(self.world.store.has_newer_entry(append.seq, append.entry.start));
        self.flag(append.opens.is_some() && self.world.store.has_newer_head(append.entry.start));
        self.age(append.entry.start.ms, bounds);
    }

    fn sent(&mut self, sent: Option<&Sent>, may_write: bool) {
        let Some(Sent { append, committed_ms }) = sent else { return self.put(0) };
        self.put(1);
        let Some(committed_ms) = *committed_ms else {
            let bounds = [1, TRUST_MS + 1, LIFE_MAX_MS + 1];
            self.append(append, if may_write { &bounds } else { &bounds[2..] });
            return self.put(0);
        };
        self.append(append, if may_write { &[1, TRUST_MS + 1] } else { &[] });
        self.put(1);
        if self.scope.lacks(Break::TrustFromCommit) {
            self.age(committed_ms, &[1, TRUST_MS + 1]);
        }
        self.flag(committed_ms - append.entry.start.ms > LIFE_MAX_MS);
    }

    fn early(&mut self, lane: &Lane, may_write: bool) {
        let Some(early) = lane.early.as_ref().filter(|_| may_write) else { return self.put(0) };
        self.put(1);
        self.flag(lane.tail.clone().begin(early.start.ms));
        if let Some(Sent { append, committed_ms, .. }) = &lane.sent {
            // Once the append is answered, these decide whether the tail trusts this transaction.
            self.flag(early.start.ms.saturating_sub(append.entry.start.ms) > TRUST_MS);
            let committed_ms = committed_ms.unwrap_or_default();
            self.flag(committed_ms.saturating_sub(early.start.ms) > EARLY_MS);
        }
        self.age(early.start.ms, &[1, EARLY_MS + 1, TRIM_AGE_MS, LIFE_MAX_MS + 1]);
        for seq in 1..=self.world.store.end() {
            self.flag(self.world.store.has_newer_entry(seq, early.start));
        }
        self.flag(self.world.store.has_newer_head(early.start));
        if self.scope.lacks(Break::EarlyReads) {
            self.store(&early.snapshot);
        }
        if self.scope.lacks(Break::EarlyBelieved)
            && let Some(appended_ms) = lane.appended_ms
        {
            self.age(appended_ms, &[1, TRUST_MS + 1]);
        }
    }

    /// Writes what a look has shown, and what a read may return.
    fn beside(&mut self, lane: &Lane) {
        let Some(beside) = &lane.beside else { return self.put(0) };
        self.put(1);
        self.flag(beside.snapshot.head.is_some_and(|head| head.follows(&beside.head)));
        self.put(small(beside.snapshot.head.unwrap_or_default().oldest));
        self.put(small(beside.last()));
        for truth in &beside.truths {
            for value in truth {
                self.put(code(*value));
            }
        }
        self.put(u8::MAX);
    }

    fn writing(&mut self, writing: Option<&Writing>) {
        match writing {
            None => self.put(0),
            Some(Writing::Sent(piece, start)) => {
                self.put(1);
                self.piece(piece, *start);
                self.trust_by_piece(*start);
            }
            Some(Writing::Landed(piece, start)) => {
                self.put(2);
                self.rows(piece);
                self.trust_by_piece(*start);
            }
            Some(Writing::Moved(head)) => {
                self.put(3);
                self.head(head);
            }
        }
    }

    fn trust_by_piece(&mut self, start: Timestamp) {
        if self.scope.lacks(Break::CheckpointRenewsTrust) {
            self.age(start.ms, &[1, TRUST_MS + 1]);
        }
    }

    fn attempt(&mut self, attempt: &Attempt) {
        self.put(1);
        self.put(attempt.ops);
        self.flag(attempt.carries);
        self.flag(attempt.is_early);
        self.flag(attempt.is_trusted);
        self.store(&attempt.snapshot);
        for value in attempt.truth {
            self.put(code(value));
        }
        self.age(attempt.start.ms, &[1, TRUST_MS + 1, TRIM_AGE_MS, LIFE_MAX_MS + 1]);
        for seq in 1..=self.world.store.end() {
            self.flag(self.world.store.has_newer_entry(seq, attempt.start));
        }
        self.flag(self.world.store.has_newer_head(attempt.start));
    }
}
