//! A shard's core with what it wrote, and the sequences of calls that it gets.

use std::{collections::BTreeMap, fmt, sync::Arc};

use participant::{
    core::{Answer, Call, Core, Domain, Limits, Offered},
    records::Receipt,
};
use testkit::{ORIGIN, branch, rig::Written};
use types::{
    Branch, BranchState, ClientCall, RequestId, Stamp, Timestamp, TxMeta, UnixMillis, Vote,
};

/// Most calls of a sequence.
const LENGTH: usize = 4;

/// What happens to each batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It is appended.
    Plain,
    /// It is run, undone and run again, then appended.
    Undone,
    /// It is appended, and then the core is loaded anew from what is stored.
    Restarted,
    /// The same, after a checkpoint has brought the records up to the journal.
    Flushed,
}

/// A service under test: its steps, its sequential model, and how its answers are written.
pub(crate) trait Subject: Domain + Clone {
    /// An abstract call.
    type Step: Copy + fmt::Debug;
    /// The sequential model: what one call at a time does.
    type Model: Model<Self::Step>;
    /// All steps.
    const STEPS: &'static [Self::Step];
    /// Beginnings: steps that come before the sequence, each in a batch of its own.
    const BEFORE: &'static [&'static [Self::Step]];

    /// The call of a step; none if it is not possible yet. `tokens` are the stamps that were read
    /// so far.
    fn call(step: Self::Step, tokens: &[Stamp], meta: &dyn Fn(u8) -> TxMeta) -> Option<Call<Self>>;
    /// A reply as text without its stamp, and the stamp.
    fn tell(reply: &Self::Reply) -> (String, Option<Stamp>);
}

/// A sequential model.
pub(crate) trait Model<S>: Default + Clone + fmt::Debug {
    /// Does a step, and returns the answer; none if nobody would make this call.
    fn step(&mut self, step: S) -> Option<String>;
}

/// A shard's core and its store.
struct Rig<D: Subject> {
    domain: Arc<D>,
    core: Core<D>,
    written: Written,
    /// Content by stamp: equal stamps mean equal content (P13).
    contents: BTreeMap<Stamp, String>,
    tokens: Vec<Stamp>,
    now: UnixMillis,
}

impl<D: Subject> Rig<D> {
    fn new(domain: D) -> Self {
        let domain = Arc::new(domain);
        Self {
            core: empty(&domain),
            domain,
            written: Written::default(),
            contents: BTreeMap::new(),
            tokens: Vec::new(),
            now: ORIGIN,
        }
    }

    /// Runs a batch of steps, and returns the answer of each.
    fn batch(&mut self, steps: &[D::Step], mode: Mode) -> Vec<String> {
        if mode == Mode::Undone {
            let (tokens, contents) = (self.tokens.clone(), self.contents.clone());
            self.run(steps);
            self.core.undo();
            (self.tokens, self.contents) = (tokens, contents);
        }
        let answers = self.run(steps);
        self.written.append(&mut self.core);
        if mode == Mode::Flushed {
            self.flush();
        }
        if mode == Mode::Restarted || mode == Mode::Flushed {
            self.core = empty(&self.domain);
            self.written.catch_up(&mut self.core);
        }
        answers
    }

    /// Brings the records up to the journal, in the smallest pieces.
    fn flush(&mut self) {
        self.written.checkpoint(&mut self.core, Timestamp::from_physical(self.now), 1);
    }

    fn run(&mut self, steps: &[D::Step]) -> Vec<String> {
        self.now = self.now.plus_ms(10);
        self.core.begin(Timestamp::from_physical(self.now));
        let branch = self.core.branch().clone();
        let meta = move |tx: u8| meta(&branch, tx);
        let mut answers = Vec::new();
        for (id, step) in (0..).zip(steps) {
            let call = D::call(*step, &self.tokens, &meta).unwrap();
            for row in self.core.missing_for(&call) {
                let value = self.written.records.get(&row).map(|value| &value[..]);
                self.core.load(row, value).unwrap();
            }
            assert_eq!(self.core.offer(id, &call), Offered::Taken);
            let answer = self.core.take_answers().pop().unwrap().1;
            answers.push(self.tell(&answer));
        }
        answers
    }

    fn tell(&mut self, answer: &Answer<D::Reply>) -> String {
        match answer {
            Answer::Done(reply, _) => {
                let (text, stamp) = D::tell(reply);
                if let Some(stamp) = stamp {
                    let before = self.contents.insert(stamp, text.clone());
                    let same = before.as_ref().is_none_or(|before| *before == text);
                    assert!(same, "{stamp:?} is the stamp of {before:?} and of {text}");
                    if self.tokens.last() != Some(&stamp) {
                        self.tokens.push(stamp);
                    }
                }
                text
            }
            Answer::Refused(refusal) => refusal.reason.as_str().to_owned(),
            Answer::Vote(Vote::Yes { .. }) => "yes".to_owned(),
            Answer::Vote(Vote::No { reason, .. }) => format!("no, {reason}"),
            Answer::Vote(Vote::Contended { .. }) => "contended".to_owned(),
            Answer::Vote(Vote::Fenced) => "fenced".to_owned(),
            Answer::Waiting(_) => "waiting".to_owned(),
            Answer::State(BranchState::Committed, _)
            | Answer::Aborted { state: BranchState::Committed, .. } => "committed".to_owned(),
            Answer::State(BranchState::Aborted, _)
            | Answer::Aborted { state: BranchState::Aborted, .. } => "aborted".to_owned(),
            other => panic!("{other:?}"),
        }
    }
}

fn empty<D: Subject>(domain: &Arc<D>) -> Core<D> {
    Core::new(Arc::clone(domain), branch(domain.role().name()), Limits::default())
}

/// The metadata of transaction 1, 2, ..., oldest first. Each has this branch alone.
fn meta(branch: &Branch, tx: u8) -> TxMeta {
    testkit::tx(tx, UnixMillis(1_800_000_000_000), [branch.clone()])
}

/// A Prepare that does not wait.
pub(crate) fn prepare<D: Domain>(meta: TxMeta, payload: D::Payload) -> Call<D> {
    Call::Prepare { meta, payload, may_wait: false }
}

/// An Abort by somebody who knows that a branch does not commit.
pub(crate) fn abort<D: Domain>(meta: TxMeta) -> Call<D> {
    Call::Abort { meta, evidence: true, refusal: None }
}

/// The Commit of a transaction that has one branch.
pub(crate) fn commit<D: Domain>(meta: TxMeta) -> Call<D> {
    let receipts = vec![Receipt { branch: meta.branches[0].clone(), receipt: Vec::new() }];
    Call::Commit { meta, receipts }
}

/// An operation, with an id of the client's own ("k"), one that was minted for one call ("~k"), or
/// none.
pub(crate) fn op<D: Domain>(op: D::Op, id: Option<&str>) -> Call<D> {
    let call = id.map(|id| ClientCall {
        id: RequestId::new(id).unwrap(),
        fingerprint: 7,
        not_after: None,
        call_id: None,
        began: None,
    });
    Call::Op { op, call, may_wait: false }
}

/// Runs all sequences, cut in all ways, in all modes. Returns the number of runs.
pub(crate) fn exhaust<D: Subject>(domain: &D) -> u64 {
    let mut runs = 0;
    let mut sequence = vec![0; 1];
    loop {
        let steps: Vec<_> = sequence.iter().map(|at| D::STEPS[*at]).collect();
        for before in D::BEFORE {
            runs += judge(domain, before, &steps);
        }
        // The next sequence counts up like the digits of a number, shorter ones first.
        let Some(at) = sequence.iter().rposition(|at| at + 1 < D::STEPS.len()) else {
            if sequence.len() == LENGTH {
                return runs;
            }
            sequence = vec![0; sequence.len() + 1];
            continue;
        };
        sequence[at] += 1;
        sequence[at + 1..].fill(0);
    }
}

/// Runs one sequence, cut in all ways.
fn judge<D: Subject>(domain: &D, before: &[D::Step], steps: &[D::Step]) -> u64 {
    let mut model = D::Model::default();
    for step in before {
        model.step(*step);
    }
    let expected: Option<Vec<_>> = steps.iter().map(|step| model.step(*step)).collect();
    // A call that nobody makes, such as a Commit of a transaction that holds nothing.
    let Some(expected) = expected else { return 0 };
    let mut runs = 0;
    for cuts in 0..1 << (steps.len() - 1) {
        for mode in [Mode::Plain, Mode::Undone, Mode::Restarted, Mode::Flushed] {
            let mut rig = Rig::new(domain.clone());
            for step in before {
                rig.batch(&[*step], Mode::Plain);
            }
            let mut answers = Vec::new();
            let mut begun = 0;
            for end in 1..=steps.len() {
                if end == steps.len() || cuts & (1 << (end - 1)) != 0 {
                    answers.extend(rig.batch(&steps[begun..end], mode));
                    begun = end;
                }
            }
            assert_eq!(answers, expected, "{steps:?} cut at {cuts:b}, {mode:?}");
            runs += 1;
        }
    }
    runs
}

/// The state of a transaction in a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known<H> {
    /// It voted YES and has this hold.
    Holds(H),
    /// It has committed.
    Committed,
    /// It is aborted, and this is its vote.
    Against(String),
}

/// The transactions that a model knows.
#[derive(Debug, Clone)]
pub(crate) struct Book<H>(pub(crate) BTreeMap<u8, Known<H>>);

impl<H> Default for Book<H> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<H: Clone + PartialEq> Book<H> {
    /// Unfinished transactions and their holds, oldest first.
    pub(crate) fn holders(&self) -> impl DoubleEndedIterator<Item = (u8, &H)> {
        self.0.iter().filter_map(|(tx, known)| match known {
            Known::Holds(hold) => Some((*tx, hold)),
            _ => None,
        })
    }

    /// The vote of a repeated prepare: the first one, if there is one.
    pub(crate) fn vote(&self, tx: u8) -> Option<String> {
        self.0.get(&tx).map(|known| match known {
            Known::Holds(_) | Known::Committed => "yes".to_owned(),
            Known::Against(vote) => vote.clone(),
        })
    }

    /// Records a new vote: the hold, or why there is none.
    pub(crate) fn judge(&mut self, tx: u8, judged: Result<H, String>) -> String {
        let (known, vote) = match judged {
            Ok(hold) => (Known::Holds(hold), "yes".to_owned()),
            Err(vote) => (Known::Against(vote.clone()), vote),
        };
        // A transaction that may wait has not voted yet, and may ask again.
        if vote != "waiting" {
            self.0.insert(tx, known);
        }
        vote
    }

    /// The vote of a transaction that needs what others hold. It waits if one of the holders is
    /// younger.
    pub(crate) fn wait_or_die(&self, tx: u8) -> String {
        let may_wait = self.holders().any(|(holder, _)| holder > tx);
        if may_wait { "waiting" } else { "contended" }.to_owned()
    }

    /// Commits a transaction that voted YES; true if it was not committed before. None for any
    /// other one: nobody commits those.
    pub(crate) fn commit(&mut self, tx: u8) -> Option<bool> {
        let known = self.0.get_mut(&tx)?;
        match known {
            Known::Against(_) => None,
            Known::Holds(_) | Known::Committed => {
                let is_new = *known != Known::Committed;
                *known = Known::Committed;
                Some(is_new)
            }
        }
    }

    /// Aborts a transaction unless it is committed. Returns its state, and the hold that it gave
    /// back.
    pub(crate) fn abort(&mut self, tx: u8) -> (&'static str, Option<H>) {
        match self.0.get(&tx) {
            Some(Known::Committed) => ("committed", None),
            Some(Known::Against(_)) => ("aborted", None),
            Some(Known::Holds(hold)) => {
                let hold = hold.clone();
                self.0.insert(tx, Known::Against("fenced".to_owned()));
                ("aborted", Some(hold))
            }
            None => {
                self.0.insert(tx, Known::Against("fenced".to_owned()));
                ("aborted", None)
            }
        }
    }
}
