//! The steps that may happen next.

use std::{fmt, rc::Rc};

use journal::Head;

use crate::{
    lane::{Attempt, Sent, Writing},
    scope::{Break, Feature, Scope},
    store::{Ops, each},
    world::{Status, World, seen},
};

/// One step, for the path to a counter-example.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step {
    Write { lane: usize, ops: Ops, carries: bool, is_trusted: bool, is_early: bool, seq: u64 },
    Read { lane: usize },
    Begin { lane: usize, ops: Ops, is_trusted: bool },
    BeginEarly { lane: usize },
    BeginBeside { lane: usize },
    EndBeside { lane: usize },
    Finish { lane: usize },
    Piece { lane: usize, before: Head, after: Head, is_moved: bool },
    Append { lane: Option<usize>, seq: u64, lands: bool },
    Refuse { lane: usize },
    Hear { lane: usize, counts: bool },
    Doubt { lane: usize, stays: bool, landed: bool },
    PieceArrives { lane: Option<usize>, after: Head, lands: bool },
    HearPiece { lane: usize },
    DoubtPiece { lane: usize, stays: bool },
    Expire { lane: usize },
    Crash { lane: usize },
    Pass { ms: u64 },
    FactExpires,
    OutsideBegins,
    OutsideEnds,
}

struct Names(Ops);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = each(self.0).map(|op| op.to_string()).collect();
        f.write_str(&names.join(" and "))
    }
}

fn name(lane: usize) -> &'static str {
    if lane == 0 { "lane A" } else { "lane B" }
}

fn whose(lane: Option<usize>) -> &'static str {
    lane.map_or("a given-up lane run", name)
}

fn show(head: &Head) -> String {
    format!("(flushed {}, part {}, oldest {})", head.flushed, head.part, head.oldest)
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = |trusted: bool| if trusted { "trusts" } else { "looks" };
        match *self {
            Self::Write { lane, ops: 0, .. } => {
                write!(f, "{} looks, and has nothing to write", name(lane))
            }
            Self::Write { lane, ops, carries, is_trusted, is_early, seq } => {
                let also = if carries { ", the fact again," } else { "" };
                let how = if is_early { "began early" } else { how(is_trusted) };
                let (lane, ops) = (name(lane), Names(ops));
                write!(f, "{lane} {how}, and sends entry {seq} with operation {ops}{also}")
            }
            Self::Read { lane } => write!(f, "{} reads", name(lane)),
            Self::Begin { lane, ops: 0, .. } => write!(f, "{} begins to read", name(lane)),
            Self::Begin { lane, ops, is_trusted } => {
                let (lane, how, ops) = (name(lane), how(is_trusted), Names(ops));
                write!(f, "{lane} begins a batch with operation {ops}, and {how}")
            }
            Self::BeginEarly { lane } => {
                write!(f, "{} begins its next KV transaction early", name(lane))
            }
            Self::BeginBeside { lane } => write!(f, "{} begins a look for reads", name(lane)),
            Self::EndBeside { lane } => {
                write!(f, "{} hears of its look, and reads if it may", name(lane))
            }
            Self::Finish { lane } => write!(f, "{} goes on, and sends or answers", name(lane)),
            Self::Piece { lane, before, after, is_moved } => {
                let (lane, before, after) = (name(lane), show(&before), show(&after));
                let found = if is_moved { "finds another head" } else { "is in flight" };
                write!(f, "{lane} begins a piece from {before} to {after}; it {found}")
            }
            Self::Append { lane, seq, lands } => {
                let what = if lands { "lands" } else { "conflicts" };
                write!(f, "entry {seq} of {} {what}", whose(lane))
            }
            Self::Refuse { lane } => write!(f, "the store refuses the append of {}", name(lane)),
            Self::Hear { lane, counts } => {
                let late = if counts { "" } else { ", too late to count" };
                write!(f, "{} hears that its append is committed{late}", name(lane))
            }
            Self::Doubt { lane, stays, landed } => {
                let truth = match (stays, landed) {
                    (_, true) => "it has landed",
                    (true, _) => "it may still land",
                    (false, _) => "it never lands",
                };
                write!(f, "{} gives up waiting for its append: {truth}", name(lane))
            }
            Self::PieceArrives { lane, after, lands } => {
                let what = if lands { "lands" } else { "conflicts" };
                write!(f, "the piece of {} to {} {what}", whose(lane), show(&after))
            }
            Self::HearPiece { lane } => write!(f, "{} hears what came of its piece", name(lane)),
            Self::DoubtPiece { lane, stays } => {
                let truth = if stays { "may still land" } else { "has landed or never does" };
                write!(f, "{} gives up waiting for its piece, which {truth}", name(lane))
            }
            Self::Expire { lane } => {
                write!(f, "{} answers \"expired\" to what is queued", name(lane))
            }
            Self::Crash { lane } => write!(f, "{} crashes and starts anew", name(lane)),
            Self::Pass { ms } => write!(f, "{ms} ms pass"),
            Self::FactExpires => f.write_str("the fact expires"),
            Self::OutsideBegins => f.write_str("a reader from outside reads head and journal"),
            Self::OutsideEnds => f.write_str("the reader from outside reads the records"),
        }
    }
}

/// A step, with the state that follows or the rule that it breaks.
pub(crate) type Next = (Step, Result<World, String>);

impl World {
    /// Collects every step that may happen next.
    pub(crate) fn successors(&self, scope: &Scope, out: &mut Vec<Next>) {
        for lane in 0..2 {
            self.batches(lane, scope, out);
            self.answers(lane, scope, out);
            self.checkpoints(lane, scope, out);
            let is_new = self.lanes[lane].runs == 0 && self.lanes[lane].tail.seq() == 0;
            if self.crashes < scope.crashes && !is_new {
                self.go(Step::Crash { lane }, scope, out, |world| world.crash(lane, scope));
            }
        }
        self.strays(scope, out);
        for ms in scope.ticks {
            self.go(Step::Pass { ms: *ms }, scope, out, |world| world.pass(*ms));
        }
        if scope.has(Feature::Facts) && !self.is_expired && self.done & 1 != 0 {
            self.go(Step::FactExpires, scope, out, |world| world.is_expired = true);
        }
        if scope.lacks(Break::OutsideAtTwoTimestamps) {
            self.read_outside(scope, out);
        }
    }

    fn next(&self) -> Self {
        let mut next = self.clone();
        next.seen = 0;
        next
    }

    fn go(&self, step: Step, scope: &Scope, out: &mut Vec<Next>, what: impl FnOnce(&mut Self)) {
        let mut world = self.next();
        what(&mut world);
        let checked = world.check(scope);
        out.push((step, checked.map(|()| world)));
    }

    /// Collects the batches that a lane may begin or continue.
    fn batches(&self, lane: usize, scope: &Scope, out: &mut Vec<Next>) {
        if scope.has(Feature::Beside) && self.lanes[lane].is_idle() {
            if self.lanes[lane].beside.is_none() {
                self.go(Step::BeginBeside { lane }, scope, out, |world| world.begin_beside(lane));
            } else {
                let mut world = self.next();
                let read = world.end_beside(lane, scope);
                out.push((Step::EndBeside { lane }, read.map(|()| world)));
            }
        }
        if let Some(attempt) = &self.lanes[lane].attempt {
            let mut world = self.next();
            world.lane(lane).attempt = None;
            let done = world.run(lane, attempt.clone(), scope);
            if done != Ok(false) {
                out.push((Step::Finish { lane }, done.map(|_| world)));
            }
        }
        if !self.lanes[lane].is_idle() {
            return;
        }
        let queued = self.queued(lane);
        let mut batches = Vec::new();
        let mut first = 0;
        for op in each(queued) {
            first |= 1 << op;
            batches.push(first);
        }
        let new = (0..scope.ops).find(|op| self.status[usize::from(*op)] == Status::New);
        batches.extend(new.map(|op| queued | 1 << op));
        if queued == 0 && scope.has(Feature::Reads) {
            batches.push(0);
        }
        let may_carry = scope.has(Feature::Facts) && !self.is_expired && self.done & 1 != 0;
        for ops in batches {
            self.batch(lane, ops, false, scope, out);
            if may_carry && ops != 0 {
                self.batch(lane, ops, true, scope, out);
            }
        }
        if scope.lacks(Break::ExpiredWhileUndetermined) && queued != 0 {
            self.go(Step::Expire { lane }, scope, out, |world| world.expire(lane));
        }
    }

    fn batch(&self, lane: usize, ops: Ops, carries: bool, scope: &Scope, out: &mut Vec<Next>) {
        let mut world = self.next();
        let attempt = world.begin(lane, ops, carries, scope);
        world.go_on(lane, attempt, scope, out);
        let mut world = self.next();
        if let Some(attempt) = world.use_early(lane, ops, carries, scope) {
            world.go_on(lane, attempt, scope, out);
        }
    }

    /// Collects what a batch that has begun may do next.
    fn go_on(mut self, lane: usize, attempt: Attempt, scope: &Scope, out: &mut Vec<Next>) {
        let Attempt { ops, carries, is_trusted, is_early, .. } = attempt;
        if scope.has(Feature::Split) {
            self.lane(lane).attempt = Some(attempt);
            out.push((Step::Begin { lane, ops, is_trusted }, Ok(self)));
            return;
        }
        let done = self.run(lane, attempt, scope);
        if done == Ok(false) {
            return;
        }
        let sent = self.lanes[lane].sent.as_ref().map(|sent| &sent.append);
        let step = match sent {
            None if ops == 0 => Step::Read { lane },
            None => Step::Write { lane, ops: 0, carries, is_trusted, is_early, seq: 0 },
            Some(append) => {
                let (ops, seq) = (append.entry.ops, append.seq);
                Step::Write { lane, ops, carries, is_trusted, is_early, seq }
            }
        };
        out.push((step, done.map(|_| self)));
    }

    /// Collects the possible outcomes of the append that a lane waits for.
    fn answers(&self, lane: usize, scope: &Scope, out: &mut Vec<Next>) {
        let Some(Sent { append, committed_ms }) = &self.lanes[lane].sent else { return };
        if scope.has(Feature::Early) && self.lanes[lane].early.is_none() {
            self.go(Step::BeginEarly { lane }, scope, out, |world| world.begin_early(lane));
        }
        if let Some(committed_ms) = *committed_ms {
            let mut world = self.next();
            world.lane(lane).sent = None;
            let now = self.now;
            let counts = world.lane(lane).hear_append(append, committed_ms, now, scope);
            let heard = if counts { world.acknowledge(lane, append.entry.ops) } else { Ok(()) };
            world.seen |= if counts { 0 } else { seen::LATE };
            out.push((Step::Hear { lane, counts }, heard.map(|()| world)));
            self.doubt(lane, false, true, scope, out);
            return;
        }
        let mut world = self.next();
        let landed = world.land(append, scope);
        let lands = landed != Ok(false);
        let committed_ms = lands.then_some(self.now);
        let clears = !lands && scope.lacks(Break::ConflictSettles);
        let changed = world.lane(lane);
        changed.sent = lands.then(|| Sent { append: Rc::clone(append), committed_ms });
        if !lands {
            changed.early = None;
        }
        if clears {
            changed.clear_undetermined();
        }
        let step = Step::Append { lane: Some(lane), seq: append.seq, lands };
        let checked = landed.and_then(|_| world.check(scope));
        out.push((step, checked.map(|()| world)));
        if lands && scope.has(Feature::Failures) {
            self.go(Step::Refuse { lane }, scope, out, |world| {
                world.lane(lane).sent = None;
                world.lane(lane).early = None;
            });
        }
        self.doubt(lane, false, false, scope, out);
        if self.stray_appends.len() < scope.stray_appends {
            self.doubt(lane, true, false, scope, out);
        }
    }

    fn doubt(&self, lane: usize, stays: bool, landed: bool, scope: &Scope, out: &mut Vec<Next>) {
        if !scope.has(Feature::Doubts) {
            return;
        }
        self.go(Step::Doubt { lane, stays, landed }, scope, out, |world| {
            let Some(Sent { append, .. }) = world.lane(lane).sent.take() else { return };
            world.lane(lane).doubt(&append);
            if stays {
                world.stray_appends.push(append);
            }
        });
    }

    /// Collects what a lane may do about its checkpoint.
    fn checkpoints(&self, lane: usize, scope: &Scope, out: &mut Vec<Next>) {
        let this = &self.lanes[lane];
        let early =
            scope.lacks(Break::PieceIncludesInFlight) || scope.lacks(Break::CarriedBeforeDurable);
        let may_hear = this.is_idle() || scope.lacks(Break::PruneUnderBatch);
        match &this.writing {
            None if this.is_idle() || (early && this.attempt.is_none()) => {
                for piece in this.pieces(self.now, self.is_expired, scope) {
                    let (before, after) = (piece.before, piece.after);
                    let is_moved = self.store.head.unwrap_or_default() != before;
                    let step = Step::Piece { lane, before, after, is_moved };
                    self.go(step, scope, out, |world| world.begin_piece(lane, piece, scope));
                }
            }
            None => {}
            Some(Writing::Sent(piece, start)) => {
                let mut world = self.next();
                let lands = world.land_piece(piece, *start, scope);
                world.lane(lane).writing = lands.then(|| Writing::Landed(Rc::clone(piece), *start));
                let step = Step::PieceArrives { lane: Some(lane), after: piece.after, lands };
                let checked = world.check(scope);
                out.push((step, checked.map(|()| world)));
                self.doubt_piece(lane, false, scope, out);
                if self.stray_pieces.len() < scope.stray_pieces {
                    self.doubt_piece(lane, true, scope, out);
                }
            }
            Some(writing) => {
                if may_hear {
                    self.go(Step::HearPiece { lane }, scope, out, |world| {
                        world.lane(lane).writing = None;
                        world.lane(lane).hear_piece(writing, scope);
                    });
                }
                self.doubt_piece(lane, false, scope, out);
            }
        }
    }

    fn doubt_piece(&self, lane: usize, stays: bool, scope: &Scope, out: &mut Vec<Next>) {
        if !scope.has(Feature::Failures) {
            return;
        }
        self.go(Step::DoubtPiece { lane, stays }, scope, out, |world| {
            if let Some(Writing::Sent(piece, start)) = world.lane(lane).writing.take()
                && stays
            {
                world.stray_pieces.push((piece, start));
            }
        });
    }

    /// Lets appends and pieces that nobody waits for reach the store.
    fn strays(&self, scope: &Scope, out: &mut Vec<Next>) {
        for at in 0..self.stray_appends.len() {
            let mut world = self.next();
            let append = world.stray_appends.remove(at);
            let landed = world.land(&append, scope);
            let lands = landed != Ok(false);
            let step = Step::Append { lane: None, seq: append.seq, lands };
            let checked = landed.and_then(|_| world.check(scope));
            out.push((step, checked.map(|()| world)));
        }
        for at in 0..self.stray_pieces.len() {
            let mut world = self.next();
            let (piece, start) = world.stray_pieces.remove(at);
            let lands = world.land_piece(&piece, start, scope);
            let step = Step::PieceArrives { lane: None, after: piece.after, lands };
            let checked = world.check(scope);
            out.push((step, checked.map(|()| world)));
        }
    }

    fn read_outside(&self, scope: &Scope, out: &mut Vec<Next>) {
        let Some((journal, truth)) = &self.reader else {
            let reader = Some((Rc::clone(&self.store), self.truth));
            return self.go(Step::OutsideBegins, scope, out, |world| world.reader = reader);
        };
        let mut world = self.next();
        world.reader = None;
        let wrong = (0..truth.len()).find(|row| journal.read(*row, &self.store) != truth[*row]);
        let result = match wrong {
            Some(row) => Err(format!("a reader from outside sees a row {row} that never was")),
            None => Ok(world),
        };
        out.push((Step::OutsideEnds, result));
    }
}
