//! The inputs and outputs of a coordinator's machine.

use std::collections::BTreeMap;

use types::{BranchState, TxMeta, Vote};

/// Position of a branch in [`TxMeta::branches`]; 0 is the primary.
pub type BranchIndex = usize;

/// The primary's index.
pub const PRIMARY: BranchIndex = 0;

/// Numbers the messages of one machine. A reply names the message that it answers. Only replies to
/// the latest message to a branch count, so a reply was true at some moment after that message was
/// sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MessageId(pub u32);

/// A message to a branch.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// Asks for a vote. The driver supplies the payload.
    Prepare,
    /// The outcome is COMMITTED.
    Commit {
        /// To the primary: the receipt of every branch, in branch order. Empty to other branches.
        receipts: Vec<Vec<u8>>,
    },
    /// The outcome is ABORTED.
    Abort {
        /// To the primary: a branch at which a NO, a CONTENDED or a fence is durable.
        evidence: Option<BranchIndex>,
    },
    /// Asks what the branch knows.
    Query {
        /// Whether a branch that knows nothing must leave a fence.
        fence: bool,
    },
    /// To the primary: every branch has acknowledged, so it may forget.
    Forget,
}

/// A branch's reply.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reply {
    /// Answers Prepare.
    Vote(Vote),
    /// Answers Query: the state, and the branch's vote if it still knows it.
    State(BranchState, Option<Vote>),
    /// Answers Commit and Abort: the state that now stands.
    Acked(BranchState),
    /// Answers Forget.
    Forgotten,
}

/// An event that the machine handles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A branch replied.
    Reply {
        /// The branch that replied.
        index: BranchIndex,
        /// The message that it answers.
        message_id: MessageId,
        /// The reply itself.
        reply: Reply,
    },
    /// The store's clock has passed the vote deadline.
    DeadlinePassed,
}

/// An action that the machine asks its driver for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this message to a branch until it answers. It replaces the message that was being sent
    /// to that branch.
    Send {
        /// The branch that receives it.
        index: BranchIndex,
        /// The id that the reply must name.
        message_id: MessageId,
        /// The message itself.
        message: Message,
    },
    /// The outcome. Nothing contradicts it later. Comes at most once.
    Answer(Outcome),
    /// A rule of the protocol was broken, and a person must look. The machine stops.
    Violation(Violation),
    /// Nothing is left to do. Comes last.
    Finished,
}

/// The outcome of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of it happens.
    Committed,
    /// None of it happened, for a business reason that was proved while the primary was still as it
    /// had been read. Holds the NO votes that arrived, in branch order.
    Refused(Vec<Refused>),
    /// None of it happened, because these transactions are in the way.
    Contended(Vec<TxMeta>),
    /// None of it happened, and no branch gave a reason that counts. A new attempt may succeed.
    Fenced,
    /// Not decided, and this machine may not decide it before the deadline. Holds the branches
    /// whose votes it does not know.
    Undecided(Vec<BranchIndex>),
}

/// A NO vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The branch that voted NO.
    pub index: BranchIndex,
    /// Stable upper-case code, for programs.
    pub reason: String,
    /// Ids and amounts, for people.
    pub metadata: BTreeMap<String, String>,
}

/// A contradiction that must never occur. Each variant names the rule of docs/protocol.md that was
/// broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Every branch voted YES, but the primary is ABORTED (P3).
    #[error("the primary is ABORTED although every branch voted YES")]
    AbortedAfterYes,
    /// A branch voted NO or CONTENDED, but the primary is COMMITTED (P3).
    #[error("the primary is COMMITTED although branch {0} voted NO")]
    CommittedDespiteNo(BranchIndex),
    /// A branch is COMMITTED, but the primary is not (P2).
    #[error("branch {0} is COMMITTED although the primary is not")]
    CommittedElsewhere(BranchIndex),
    /// A branch is ABORTED, but the primary is COMMITTED (P2).
    #[error("branch {0} is ABORTED although the primary is COMMITTED")]
    AbortedElsewhere(BranchIndex),
    /// A reply that no rule allows (P14).
    #[error("branch {0} gave a reply that no rule allows")]
    Nonsense(BranchIndex),
}
