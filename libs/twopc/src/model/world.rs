//! One state of the small world, and the events that may happen in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    ops::Deref,
    rc::Rc,
};

use types::{Branch, BranchState, Timestamp, TxMeta, UnixMillis, Vote};

use crate::{
    coordinator::{Transaction, tests::meta},
    message::{BranchIndex, Input, Message, MessageId, Outcome, Output, PRIMARY, Reply},
    participant::{Decision, Event, Gate, TransactionTable},
    rules::Rule,
};

/// Who runs a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Actor {
    /// The transaction's coordinator.
    Coordinator,
    /// A resolver, which resolves the transaction once, before or after the deadline.
    Asker,
}

/// A rule that is removed from the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Loose {
    /// P5: a known transaction gets its first answer.
    VotesTwice,
    /// P4: no vote is written at or past the deadline.
    VotesLate,
    /// P4: nothing is dropped before the deadline.
    ForgetsBeforeTheDeadline,
    /// P5: the primary keeps an outcome until every branch has acknowledged.
    PrimaryForgetsUnacknowledged,
    /// P2: a final state never changes.
    AbortsWhatIsCommitted,
    /// P6: an Abort leaves a fence where nothing is known.
    AbortLeavesNoFence,
    /// P1: a NO is durable.
    NoIsNotDurable,
}

impl Loose {
    pub(super) const ALL: [Self; 7] = [
        Self::VotesTwice,
        Self::VotesLate,
        Self::ForgetsBeforeTheDeadline,
        Self::PrimaryForgetsUnacknowledged,
        Self::AbortsWhatIsCommitted,
        Self::AbortLeavesNoFence,
        Self::NoIsNotDurable,
    ];
}

/// What a search explores.
#[derive(Debug, Clone)]
pub(super) struct Scope {
    pub(super) branches: u16,
    /// The transaction and the role of each actor.
    pub(super) actors: Vec<(usize, Actor)>,
    /// If true, branch 0 is one order and branch 1 the last unit of one item. If false, every
    /// verdict is possible.
    pub(super) shop: bool,
    /// How many of the verdicts in [`Cell::verdicts`] a branch may reach, from the first.
    pub(super) verdicts: usize,
    /// Whether tables may forget.
    pub(super) forgetful: bool,
    pub(super) without: Option<Rule>,
    pub(super) loose: Option<Loose>,
    pub(super) states_max: usize,
}

impl Scope {
    fn transactions(&self) -> usize {
        self.actors.iter().map(|(tx, _)| tx.saturating_add(1)).max().unwrap_or(0)
    }

    fn meta(&self, tx: usize) -> TxMeta {
        meta(u8::try_from(tx).unwrap(), self.branches)
    }

    fn is(&self, loose: Loose) -> bool {
        self.loose == Some(loose)
    }
}

/// What happened at a branch, even if its table has forgotten it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Truth {
    Nothing,
    /// Voted NO or CONTENDED.
    Against,
    /// Fenced without a vote.
    Fenced,
    Held,
    Final,
    Returned,
}

#[derive(Debug, Clone)]
struct Cell {
    table: TransactionTable<()>,
    /// Nothing was written since the deadline passed, so a vote that began before it may still
    /// land.
    quiet: bool,
    /// By transaction.
    truth: Vec<Truth>,
    /// By transaction: whether the table has forgotten it, as the rules allow.
    forgot: Vec<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Running {
    machine: Transaction,
    asked: BTreeMap<BranchIndex, (MessageId, Message)>,
    replies: BTreeSet<(BranchIndex, MessageId, Reply)>,
    answer: Option<&'static str>,
    violation: Option<String>,
    /// Whether the order was already paid when this actor began.
    began_paid: bool,
}

/// A 128-bit fingerprint. Among 10^8 states the chance of any collision is below 10^-22.
pub(super) type Print = (u64, u64);

/// Two multiply-and-rotate hashes in one pass, because hashing takes most of the search's time.
struct Mix(u64, u64);

impl Mix {
    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        self.1 = (self.1.rotate_left(23) ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93) ^ self.0;
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.word(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.word(word);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn print(value: &impl Hash) -> Print {
    let mut mix = Mix(1, 2);
    value.hash(&mut mix);
    for _ in 0..3 {
        mix.word(3);
    }
    (mix.0 ^ (mix.0 >> 31), mix.1 ^ (mix.1 >> 29))
}

/// A part of a state and its fingerprint. A state shares its unchanged parts with its successors.
#[derive(Debug)]
struct Part<T>(Rc<T>, Print);

impl<T: Hash> From<T> for Part<T> {
    fn from(value: T) -> Self {
        let print = print(&value);
        Self(Rc::new(value), print)
    }
}

impl<T> Clone for Part<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0), self.1)
    }
}

impl<T> Deref for Part<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// The part that is the same in every state.
#[derive(Debug)]
struct Fixed {
    roles: Vec<(usize, Actor)>,
    metas: Vec<TxMeta>,
    shop: bool,
}

/// One state.
#[derive(Debug, Clone)]
pub(super) struct World {
    actors: Vec<Option<Part<Running>>>,
    cells: Vec<Part<Cell>>,
    /// The kind of every message ever sent, by transaction and branch; see [`World::bit`].
    sent: u64,
    late: bool,
    fixed: Rc<Fixed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Prepare,
    Commit,
    Abort,
    Query,
    Fence,
    Forget,
}

impl Kind {
    pub(super) const ALL: [Self; 6] =
        [Self::Prepare, Self::Commit, Self::Abort, Self::Query, Self::Fence, Self::Forget];

    const fn of(message: &Message) -> Self {
        match message {
            Message::Prepare => Self::Prepare,
            Message::Commit { .. } => Self::Commit,
            Message::Abort { .. } => Self::Abort,
            Message::Query { fence: false } => Self::Query,
            Message::Query { fence: true } => Self::Fence,
            Message::Forget => Self::Forget,
        }
    }
}

/// One event.
#[derive(Debug, Clone)]
pub(super) enum Step {
    Start(usize),
    /// A message takes effect. The reply is lost, or nobody waits for it.
    Effect(usize, BranchIndex, Kind, &'static str),
    /// A message whose reply an actor waits for takes effect. The reply is on its way.
    Deliver(usize, BranchIndex, Kind, &'static str),
    Receive(usize, BranchIndex, Reply),
    Deadline,
    TellDeadline(usize),
    Forget(BranchIndex, usize),
}

impl Step {
    /// The message that takes effect, and its branch.
    pub(super) const fn message(&self) -> Option<(BranchIndex, Kind)> {
        match self {
            Self::Effect(_, branch, kind, _) | Self::Deliver(_, branch, kind, _) => {
                Some((*branch, *kind))
            }
            Self::Start(_)
            | Self::Receive(..)
            | Self::Deadline
            | Self::TellDeadline(_)
            | Self::Forget(..) => None,
        }
    }

    pub(super) fn show(&self, scope: &Scope) -> String {
        let who = |actor: &usize| format!("{actor} ({:?})", scope.actors[*actor].1);
        match self {
            Self::Start(actor) => format!("{} starts", who(actor)),
            Self::Effect(tx, branch, kind, how) => {
                format!("a {kind:?} of transaction {tx} reaches {branch} {how}")
            }
            Self::Deliver(actor, branch, kind, how) => {
                format!("{}'s {kind:?} reaches {branch} {how}", who(actor))
            }
            Self::Receive(actor, branch, reply) => {
                format!("{} hears from {branch}: {reply:?}", who(actor))
            }
            Self::Deadline => "the deadline passes".to_owned(),
            Self::TellDeadline(actor) => format!("{} learns of it", who(actor)),
            Self::Forget(branch, tx) => format!("{branch} forgets transaction {tx}"),
        }
    }
}

impl Hash for Cell {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.quiet.hash(state);
        self.truth.hash(state);
        self.forgot.hash(state);
        for entry in self.table.iter() {
            (entry.meta.tx_id, entry.state, &entry.vote, entry.acknowledged).hash(state);
        }
    }
}

const BEFORE: Timestamp = Timestamp::from_physical(UnixMillis(0));
const AFTER: Timestamp = Timestamp::from_physical(UnixMillis(2));

impl World {
    pub(super) fn new(scope: &Scope) -> Self {
        let metas: Vec<TxMeta> = (0..scope.transactions()).map(|tx| scope.meta(tx)).collect();
        let cell = |branch: &Branch| {
            Part::from(Cell {
                table: TransactionTable::new(branch.clone()),
                quiet: true,
                truth: vec![Truth::Nothing; scope.transactions()],
                forgot: vec![false; scope.transactions()],
            })
        };
        Self {
            actors: vec![None; scope.actors.len()],
            cells: metas[0].branches.iter().map(cell).collect(),
            sent: 0,
            late: false,
            fixed: Rc::new(Fixed { roles: scope.actors.clone(), metas, shop: scope.shop }),
        }
    }

    /// A fingerprint of the state.
    pub(super) fn print(&self) -> Print {
        let actors: Vec<Option<Print>> =
            self.actors.iter().map(|part| part.as_ref().map(|part| part.1)).collect();
        let cells: Vec<Print> = self.cells.iter().map(|part| part.1).collect();
        print(&(actors, cells, self.sent, self.late))
    }

    /// The bit of [`World::sent`] for a kind of message of a transaction to a branch.
    fn bit(&self, tx: usize, branch: BranchIndex, kind: Kind) -> u64 {
        let place = (tx * self.cells.len() + branch) * Kind::ALL.len();
        let kind = Kind::ALL.iter().position(|one| *one == kind).unwrap();
        1 << (place + kind)
    }

    fn was_sent(&self) -> impl Iterator<Item = (usize, BranchIndex, Kind)> {
        let all = (0..self.fixed.metas.len()).flat_map(move |tx| {
            (0..self.cells.len())
                .flat_map(move |branch| Kind::ALL.into_iter().map(move |kind| (tx, branch, kind)))
        });
        all.filter(|(tx, branch, kind)| self.sent & self.bit(*tx, *branch, *kind) != 0)
    }

    /// Every outcome that was answered.
    pub(super) fn answers(&self) -> impl Iterator<Item = &'static str> {
        self.actors.iter().flatten().filter_map(|running| running.answer)
    }

    /// Every event that may happen next, with the state that follows.
    pub(super) fn successors(&self, scope: &Scope) -> Vec<(Step, Self)> {
        let mut next = Vec::new();
        if !self.late {
            next.push((Step::Deadline, Self { late: true, ..self.clone() }));
        }
        for (index, (running, (tx, role))) in self.actors.iter().zip(&scope.actors).enumerate() {
            match running {
                None => self.start(scope, index, *tx, *role, &mut next),
                Some(running) => self.act(scope, index, *tx, running, &mut next),
            }
        }
        for (tx, branch, kind) in self.was_sent() {
            if self.is_waited_for(tx, branch, kind) {
                // An actor delivers it. A reply that is never read is like a lost one.
                continue;
            }
            for (how, cell, _) in self.cells[branch].deliver(self, scope, tx, kind) {
                next.push((Step::Effect(tx, branch, kind, how), self.with(branch, cell)));
            }
        }
        if scope.forgetful {
            for (branch, cell) in self.cells.iter().enumerate() {
                for tx in 0..scope.transactions() {
                    if let Some(cell) = cell.forgetting(scope, branch, tx, self.late) {
                        next.push((Step::Forget(branch, tx), self.with(branch, cell)));
                    }
                }
            }
        }
        next
    }

    fn is_waited_for(&self, tx: usize, branch: BranchIndex, kind: Kind) -> bool {
        self.actors.iter().zip(&self.fixed.roles).any(|(running, (of, _))| {
            let asked = running.as_ref().and_then(|running| running.asked.get(&branch));
            *of == tx && asked.is_some_and(|(_, message)| Kind::of(message) == kind)
        })
    }

    fn with(&self, branch: BranchIndex, cell: Cell) -> Self {
        let mut world = self.clone();
        world.cells[branch] = cell.into();
        world
    }

    fn start(
        &self,
        scope: &Scope,
        index: usize,
        tx: usize,
        role: Actor,
        next: &mut Vec<(Step, Self)>,
    ) {
        let meta = &self.fixed.metas[tx];
        let mut out = Vec::new();
        let mut machine = match role {
            Actor::Coordinator => Transaction::begin(meta, &mut out),
            // Nobody knows of a transaction before it has begun. Equal actors start in order,
            // because other orders lead to equivalent states.
            Actor::Asker if !self.was_sent().any(|(sent, _, _)| sent == tx) => return,
            Actor::Asker
                if index > 0
                    && scope.actors[index.saturating_sub(1)] == (tx, role)
                    && self.actors[index.saturating_sub(1)].is_none() =>
            {
                return;
            }
            Actor::Asker => Transaction::resolve(meta, self.late, &mut out),
        };
        machine.without = scope.without;
        let mut world = self.clone();
        let running = Running {
            machine,
            asked: BTreeMap::new(),
            replies: BTreeSet::new(),
            answer: None,
            violation: None,
            began_paid: self.cells[PRIMARY].truth.contains(&Truth::Final),
        };
        world.take(index, tx, running, out);
        next.push((Step::Start(index), world));
    }

    fn act(
        &self,
        scope: &Scope,
        index: usize,
        tx: usize,
        running: &Running,
        next: &mut Vec<(Step, Self)>,
    ) {
        for (branch, (message_id, message)) in &running.asked {
            let kind = Kind::of(message);
            for (how, cell, reply) in self.cells[*branch].deliver(self, scope, tx, kind) {
                let mut world = self.with(*branch, cell);
                let mut running = running.clone();
                running.replies.insert((*branch, *message_id, reply));
                world.actors[index] = Some(running.into());
                next.push((Step::Deliver(index, *branch, kind, how), world));
            }
        }
        for (branch, message_id, reply) in &running.replies {
            let input =
                Input::Reply { index: *branch, message_id: *message_id, reply: reply.clone() };
            next.push((
                Step::Receive(index, *branch, reply.clone()),
                self.input(index, tx, running, input),
            ));
        }
        if self.late && running.machine.awaits_votes() {
            next.push((
                Step::TellDeadline(index),
                self.input(index, tx, running, Input::DeadlinePassed),
            ));
        }
    }

    fn input(&self, index: usize, tx: usize, running: &Running, input: Input) -> Self {
        let mut world = self.clone();
        let mut running = running.clone();
        let mut out = Vec::new();
        running.machine.step(input, &mut out);
        world.take(index, tx, running, out);
        world
    }

    /// Carries out a machine's outputs.
    fn take(&mut self, index: usize, tx: usize, mut running: Running, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send { index: branch, message_id, message } => {
                    self.sent |= self.bit(tx, branch, Kind::of(&message));
                    running.asked.insert(branch, (message_id, message));
                }
                Output::Answer(outcome) => {
                    assert_eq!(running.answer, None, "answered twice");
                    running.answer = Some(match outcome {
                        Outcome::Committed => "committed",
                        Outcome::Refused(_) => "refused",
                        Outcome::Contended(_) => "contended",
                        Outcome::Fenced => "fenced",
                        Outcome::Undecided(_) => "undecided",
                    });
                }
                Output::Violation(violation) => running.violation = Some(violation.to_string()),
                Output::Finished => {}
            }
        }
        // Drop messages and replies that no longer count, and give the rest the same message id, so
        // that equal states merge.
        let places = &mut running.machine.places;
        let counts = |branch: &BranchIndex, message_id: &MessageId| {
            places[*branch].pending == Some(*message_id)
        };
        running.asked.retain(|branch, (message_id, _)| counts(branch, message_id));
        running.replies.retain(|(branch, message_id, _)| counts(branch, message_id));
        let number = |message_id: &mut MessageId| *message_id = MessageId::default();
        places.iter_mut().filter_map(|place| place.pending.as_mut()).for_each(number);
        running.asked.values_mut().for_each(|(message_id, _)| number(message_id));
        let replies = std::mem::take(&mut running.replies).into_iter();
        running.replies =
            replies.map(|(branch, _, reply)| (branch, MessageId::default(), reply)).collect();
        running.machine.last_message_id = MessageId::default();
        if running.machine.is_finished() {
            running.machine.places.clear();
        }
        self.actors[index] = Some(running.into());
    }

    /// Checks the rules of docs/invariants.md, by their names.
    pub(super) fn check(&self) -> Result<(), String> {
        let fail = |what: String| Err(what);
        for tx in 0..self.cells[PRIMARY].truth.len() {
            let truth: Vec<Truth> = self.cells.iter().map(|cell| cell.truth[tx]).collect();
            let any = |wanted: &[Truth]| truth.iter().any(|one| wanted.contains(one));
            let ended = [Truth::Returned, Truth::Against, Truth::Fenced];
            if any(&[Truth::Final]) && any(&ended) {
                return fail(format!("P2: two outcomes: {truth:?}"));
            }
            if any(&[Truth::Final]) && truth[PRIMARY] != Truth::Final {
                return fail(format!("P2: not the primary first: {truth:?}"));
            }
            if any(&[Truth::Returned]) && !ended.contains(&truth[PRIMARY]) {
                return fail(format!("P2: not the primary first: {truth:?}"));
            }
            let everybody_forgot = self.cells.iter().all(|cell| cell.forgot[tx]);
            let somebody_forgot = self.cells.iter().any(|cell| cell.forgot[tx]);
            for (running, _) in
                self.actors.iter().zip(&self.fixed.roles).filter(|(_, (of, _))| *of == tx)
            {
                let Some(running) = running else { continue };
                let alive = any(&[Truth::Held, Truth::Final]);
                match running.answer {
                    Some("committed")
                        if !truth.iter().all(|one| matches!(one, Truth::Held | Truth::Final)) =>
                    {
                        return fail(format!("P3: COMMITTED was answered: {truth:?}"));
                    }
                    Some("refused" | "contended") if alive || !any(&[Truth::Against]) => {
                        return fail(format!("P9: a refusal was answered: {truth:?}"));
                    }
                    // When every branch has forgotten, nobody can know. The caller reads the order
                    // again.
                    Some("fenced") if alive && !everybody_forgot => {
                        return fail(format!("P4: FENCED was answered: {truth:?}"));
                    }
                    _ => {}
                }
                if self.fixed.shop && running.began_paid && running.answer == Some("refused") {
                    // Once an order is paid, only its own primary may vote NO.
                    if truth[PRIMARY] != Truth::Against {
                        return fail("P9: a paid order was refused".to_owned());
                    }
                }
                if let Some(violation) = &running.violation
                    && !somebody_forgot
                {
                    return fail(format!("P14: {violation}"));
                }
                if !running.machine.is_finished() && running.asked.is_empty() {
                    return fail("P6: a machine is stuck".to_owned());
                }
            }
        }
        let sold = self
            .cells
            .iter()
            .map(|cell| cell.truth.iter().filter(|one| **one == Truth::Final).count());
        if self.fixed.shop && sold.max() > Some(1) {
            return fail("I4: bought twice".to_owned());
        }
        Ok(())
    }
}

impl Cell {
    /// The possible effects of a message here: a description, the cell after it, and the reply.
    fn deliver(
        &self,
        world: &World,
        scope: &Scope,
        tx: usize,
        kind: Kind,
    ) -> Vec<(&'static str, Self, Reply)> {
        let meta = &world.fixed.metas[tx];
        let one = |(cell, state)| vec![("", cell, Reply::Acked(state))];
        match kind {
            Kind::Prepare => self.prepare(world, scope, tx, meta),
            Kind::Commit => one(self.decided(world, tx, self.table.commit(meta))),
            Kind::Abort => {
                let mut decision = self.table.abort(meta, true);
                if scope.is(Loose::AbortsWhatIsCommitted)
                    && decision.state == BranchState::Committed
                {
                    decision = Decision {
                        state: BranchState::Aborted,
                        event: Some(Event::Decided { tx_id: meta.tx_id, committed: false }),
                    };
                }
                if scope.is(Loose::AbortLeavesNoFence) && self.table.get(meta.tx_id).is_none() {
                    decision.event = None;
                }
                one(self.decided(world, tx, decision))
            }
            Kind::Query | Kind::Fence => {
                let decision = self.table.query(meta, kind == Kind::Fence);
                let (cell, state) = self.decided(world, tx, decision);
                let vote = cell.table.get(meta.tx_id).and_then(|entry| entry.vote.clone());
                vec![("", cell, Reply::State(state, vote))]
            }
            Kind::Forget => {
                let mut cell = self.clone();
                if let Some(event) = self.table.acknowledge(meta.tx_id) {
                    cell.write(world, tx, event);
                }
                vec![("", cell, Reply::Forgotten)]
            }
        }
    }

    fn decided(&self, world: &World, tx: usize, decision: Decision<()>) -> (Self, BranchState) {
        let mut cell = self.clone();
        if let Some(event) = decision.event {
            cell.write(world, tx, event);
        }
        (cell, decision.state)
    }

    fn prepare(
        &self,
        world: &World,
        scope: &Scope,
        tx: usize,
        meta: &TxMeta,
    ) -> Vec<(&'static str, Self, Reply)> {
        let mut outcomes = Vec::new();
        let mut starts = Vec::new();
        if !world.late || self.quiet || scope.is(Loose::VotesLate) {
            starts.push(BEFORE);
        }
        if world.late {
            starts.push(AFTER);
        }
        for start in starts {
            let mut gate = self.table.gate(meta, start);
            let state = self.table.get(meta.tx_id).map(|entry| entry.state);
            if scope.is(Loose::VotesTwice) && state == Some(BranchState::Aborted) {
                gate = Gate::Admit;
            }
            match gate {
                Gate::Reject(vote) => {
                    outcomes.push(("and is known", self.clone(), Reply::Vote(vote)));
                }
                Gate::Admit => {
                    for vote in self.verdicts(world, scope.verdicts, tx) {
                        outcomes.push(self.voted(world, scope, tx, meta, vote));
                    }
                }
            }
        }
        outcomes
    }

    fn voted(
        &self,
        world: &World,
        scope: &Scope,
        tx: usize,
        meta: &TxMeta,
        vote: Vote,
    ) -> (&'static str, Self, Reply) {
        let mut cell = self.clone();
        let (how, event) = match &vote {
            Vote::Yes { receipt } => {
                let (meta, receipt) = (meta.clone(), receipt.clone());
                ("and gets a YES", Some(Event::Prepared { meta, hold: (), receipt }))
            }
            Vote::No { .. } if scope.is(Loose::NoIsNotDurable) => ("and gets a NO", None),
            Vote::No { .. } => {
                let fenced = Event::Fenced { meta: meta.clone(), vote: Some(vote.clone()) };
                ("and gets a NO", Some(fenced))
            }
            Vote::Contended { .. } => {
                let fenced = Event::Fenced { meta: meta.clone(), vote: Some(vote.clone()) };
                ("and gets a CONTENDED", Some(fenced))
            }
            // Not durable: a lane may answer so when the blocker has just gone.
            Vote::Fenced => ("and gets a FENCED", None),
        };
        if let Some(event) = event {
            cell.write(world, tx, event);
        }
        (how, cell, Reply::Vote(vote))
    }

    fn verdicts(&self, world: &World, verdicts: usize, tx: usize) -> Vec<Vote> {
        let yes = Vote::Yes { receipt: Vec::new() };
        let no = Vote::No { reason: String::new(), metadata: BTreeMap::new() };
        let contended = Vote::Contended { blocker: Box::new(meta(9, 1)) };
        if !world.fixed.shop {
            return [yes, no, Vote::Fenced, contended].into_iter().take(verdicts).collect();
        }
        let others = || self.truth.iter().enumerate().filter(|(other, _)| *other != tx);
        if others().any(|(_, truth)| *truth == Truth::Final) {
            vec![no]
        } else if others().any(|(_, truth)| *truth == Truth::Held) {
            vec![contended]
        } else {
            vec![yes]
        }
    }

    /// Makes a fact durable and updates the truth.
    fn write(&mut self, world: &World, tx: usize, event: Event<()>) {
        let truth = &mut self.truth[tx];
        *truth = match (&event, *truth) {
            (Event::Prepared { .. }, _) => Truth::Held,
            (Event::Fenced { vote: Some(_), .. }, _) => Truth::Against,
            (Event::Fenced { vote: None, .. }, Truth::Nothing) => Truth::Fenced,
            (Event::Decided { committed: true, .. }, _) => Truth::Final,
            (Event::Decided { committed: false, .. }, _) => Truth::Returned,
            (_, truth) => truth,
        };
        self.table.apply(event, 1);
        self.table.settle();
        self.quiet &= !world.late;
    }

    fn forgetting(
        &self,
        scope: &Scope,
        branch: BranchIndex,
        tx: usize,
        late: bool,
    ) -> Option<Self> {
        let meta = scope.meta(tx);
        let entry = self.table.get(meta.tx_id)?;
        let is_final = entry.state != BranchState::Prepared;
        let acknowledged = branch != PRIMARY || entry.acknowledged;
        let allowed = self.table.may_forget(meta.tx_id, if late { AFTER } else { BEFORE });
        assert_eq!(allowed, is_final && acknowledged && late, "the table's own rule");
        let early = scope.is(Loose::ForgetsBeforeTheDeadline) && is_final && acknowledged;
        let unacknowledged = scope.is(Loose::PrimaryForgetsUnacknowledged) && is_final && late;
        if !(allowed || early || unacknowledged) {
            return None;
        }
        let mut cell = self.clone();
        cell.table.forget(meta.tx_id, 1);
        cell.table.settle();
        cell.quiet &= !late;
        cell.forgot[tx] = acknowledged && late;
        Some(cell)
    }
}
