//! A shard without a lane or a store, for the tests of a [`Domain`].
//!
//! The helpers panic when the core breaks what every test expects of it.

use std::{collections::BTreeMap, sync::Arc};

use journal::{Author, Head};
use participant::{
    core::{Answer, Call, Core, Domain, Limits, Offered},
    records::Row,
};
use storage::{Value, record::JournalEntry, shard::Found};
use types::{AMOUNT_MAX, BranchState, Timestamp, TxMeta, UnixMillis, Vote};

use crate::{ORIGIN, branch};

/// Checks that the replies of this service decode to what was encoded.
///
/// # Panics
/// When it does not.
pub fn reads_replies_back<D: Domain<Reply: PartialEq>>(
    domain: &D,
    reply: impl Fn(u64) -> D::Reply,
) {
    for number in [0, 1, AMOUNT_MAX] {
        let stored = domain.encode_reply(&reply(number));
        assert_eq!(domain.decode_reply(&stored), Ok(reply(number)));
    }
    assert!(domain.decode_reply(b"\xff").is_err());
}

/// Offers calls to one batch at `at_ms` after the origin, and makes it durable. Returns the
/// answers.
///
/// # Panics
/// When a row is missing.
pub fn batch<D: Domain>(
    core: &mut Core<D>,
    at_ms: u64,
    calls: &[Call<D>],
) -> Vec<Answer<D::Reply>> {
    core.begin(Timestamp::from_physical(ORIGIN.plus_ms(at_ms)));
    for (id, call) in (0..).zip(calls) {
        assert_eq!(core.offer(id, call), Offered::Taken, "{call:?}");
    }
    let answers = core.take_answers().into_iter().map(|(_, answer)| answer).collect();
    settle(core);
    answers
}

/// Ends the current batch and makes it durable. Returns its entry with its number.
///
/// # Panics
/// When the core does not count the batch as committed.
pub fn settle<D: Domain>(core: &mut Core<D>) -> Option<(u64, JournalEntry)> {
    let run = core.tail().seq() + 1;
    let Some(batch) = core.finish(Author { writer: [1; 16], run }) else {
        core.settle_read();
        return None;
    };
    let at = Timestamp(batch.entry.start_ts);
    assert!(core.settle(&batch, at), "committed at its start");
    Some((batch.seq, batch.entry))
}

/// What the replicas of one shard have written, in place of a store.
#[derive(Debug, Default)]
pub struct Written {
    /// How far the records are.
    pub head: Head,
    /// The journal entries that are not trimmed, by number.
    pub entries: BTreeMap<u64, JournalEntry>,
    /// The records as the checkpoints left them.
    pub records: BTreeMap<Row, Value>,
}

impl Written {
    /// Gives a replica the entries that it does not know yet.
    ///
    /// # Panics
    /// When the replica refuses an entry.
    pub fn catch_up<D: Domain>(&self, core: &mut Core<D>) {
        let unknown = self.entries.range(core.tail().seq() + 1..);
        let entries = unknown.map(|(seq, entry)| (*seq, entry.clone())).collect();
        let found = Found { head: self.head, is_current: !self.entries.is_empty() };
        core.look(found, entries).expect("a replica reads what replicas wrote");
    }

    /// Ends the current batch of a replica and makes it durable.
    ///
    /// # Panics
    /// As [`settle`], and when there is an entry of that number.
    pub fn append<D: Domain>(&mut self, core: &mut Core<D>) {
        if let Some((seq, entry)) = settle(core) {
            assert!(self.entries.insert(seq, entry).is_none(), "an entry is inserted");
        }
    }

    /// Writes the records behind the journal, in pieces of about `budget` bytes, as of `start`.
    /// Returns the number of pieces.
    ///
    /// # Panics
    /// When a piece is made for another head than the one that stands.
    pub fn checkpoint<D: Domain>(
        &mut self,
        core: &mut Core<D>,
        start: Timestamp,
        budget: usize,
    ) -> usize {
        let mut pieces = 0;
        while let Some(piece) = core.piece(core.tail().seq(), start, budget) {
            assert_eq!(piece.before, self.head, "a piece is made for the head that stands");
            self.head = piece.after;
            for image in &piece.rows {
                let row = image.row.to_vec();
                match &image.value {
                    Some(value) => drop(self.records.insert(row, value.to_vec())),
                    None => drop(self.records.remove(&row)),
                }
            }
            core.landed(&piece);
            pieces += 1;
        }
        pieces
    }
}

/// An empty core of shard 0.
pub fn core<D: Domain>(domain: D) -> Core<D> {
    let branch = branch(domain.role().name());
    Core::new(Arc::new(domain), branch, Limits::default())
}

/// A shard that puts each call into a batch of its own, and answers in words.
#[derive(Debug)]
pub struct Rig<D: Domain> {
    /// The shard.
    pub core: Core<D>,
    say: fn(&D::Reply) -> String,
    at_ms: u64,
}

impl<D: Domain> Rig<D> {
    /// A shard on which these rows are absent. `say` puts a reply into words.
    ///
    /// # Panics
    /// As [`core`].
    pub fn new(
        domain: D,
        absent: impl IntoIterator<Item = Row>,
        say: fn(&D::Reply) -> String,
    ) -> Self {
        let mut core = core(domain);
        for row in absent {
            core.load(row, None).expect("an absent record decodes");
        }
        Self { core, say, at_ms: 0 }
    }

    /// Puts one call into a batch of its own.
    ///
    /// # Panics
    /// When a row is missing, or for an answer that has no words here.
    pub fn call(&mut self, call: Call<D>) -> String {
        self.at_ms += 10;
        let answers = batch(&mut self.core, self.at_ms, &[call]);
        match &answers[..] {
            [Answer::Done(reply, _)] => (self.say)(reply),
            [Answer::Refused(refusal)] => {
                let metadata =
                    refusal.metadata.iter().map(|(name, value)| format!("{name}={value}"));
                [refusal.reason.to_string()]
                    .into_iter()
                    .chain(metadata)
                    .collect::<Vec<_>>()
                    .join(" ")
            }
            [Answer::Vote(Vote::Yes { .. })] => "yes".to_owned(),
            [Answer::Vote(Vote::No { reason, .. })] => format!("no, {reason}"),
            [Answer::Waiting(blocker)] => format!("waits for {}", blocker.tx_id.0[0]),
            [
                Answer::State(BranchState::Committed, _)
                | Answer::Aborted { state: BranchState::Committed, .. },
            ] => "committed".to_owned(),
            [
                Answer::State(BranchState::Aborted, _)
                | Answer::Aborted { state: BranchState::Aborted, .. },
            ] => "aborted".to_owned(),
            other => panic!("{other:?}"),
        }
    }

    /// Executes an operation without an id.
    ///
    /// # Panics
    /// As [`Rig::call`].
    pub fn op(&mut self, op: D::Op) -> String {
        self.call(Call::Op { op, call: None, may_wait: false })
    }

    /// Asks for a vote.
    ///
    /// # Panics
    /// As [`Rig::call`].
    pub fn prepare(&mut self, tx: u8, payload: D::Payload) -> String {
        self.call(Call::Prepare { meta: self.meta(tx), payload, may_wait: false })
    }

    /// Commits.
    ///
    /// # Panics
    /// As [`Rig::call`].
    pub fn commit(&mut self, tx: u8) -> String {
        self.call(Call::Commit { meta: self.meta(tx), receipts: Vec::new() })
    }

    /// Aborts, with evidence that another branch has voted against it.
    ///
    /// # Panics
    /// As [`Rig::call`].
    pub fn abort(&mut self, tx: u8) -> String {
        self.call(Call::Abort { meta: self.meta(tx), evidence: true, refusal: None })
    }

    /// Transaction `tx` of an order and this shard. Lower numbers are older.
    pub fn meta(&self, tx: u8) -> TxMeta {
        let branches = [branch("order"), self.core.branch().clone()];
        crate::tx(tx, UnixMillis(u64::MAX), branches)
    }
}
