//! What a coordinator's machine takes in and gives out.

use std::collections::BTreeMap;

use types::{BranchState, TxMeta, Vote};

/// Position of a branch in [`TxMeta::branches`]; 0 is the primary.
pub type BranchIndex = usize;

/// The primary's index.
pub const PRIMARY: BranchIndex = 0;

/// Numbers the messages of one machine. A reply names the message that it answers; only the latest
/// message to an index counts, so what a reply says was true at some moment after that message was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MessageId(pub u32);

/// What a branch is told or asked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Message {
    /// Vote. The payload is the driver's.
    Prepare,
    /// The outcome is COMMITTED.
    Commit {
        /// To the primary: the receipt of every branch, in their order. Empty elsewhere.
        receipts: Vec<Vec<u8>>,
    },
    /// The outcome is ABORTED.
    Abort {
        /// To the primary: a branch at which a NO or a fence was seen; it is durable there.
        evidence: Option<BranchIndex>,
    },
    /// What is known?
    Query {
        /// Leave a fence where nothing is known.
        fence: bool,
    },
    /// Every branch has acknowledged.
    Forget,
}

/// What a branch answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reply {
    /// To Prepare.
    Vote(Vote),
    /// To Query: the state, and the vote that was given, if it is still known.
    State(BranchState, Option<Vote>),
    /// To Commit and Abort: what stands now.
    Acked(BranchState),
    /// To Forget.
    Forgotten,
}

/// What happens to the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A branch answered.
    Reply {
        /// The branch.
        index: BranchIndex,
        /// What message.
        message_id: MessageId,
        /// What it said.
        reply: Reply,
    },
    /// The store's clock has passed the vote deadline.
    DeadlinePassed,
}

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this to a branch until it answers, in place of whatever was being sent to it.
    Send {
        /// To whom.
        index: BranchIndex,
        /// To be named by the reply.
        message_id: MessageId,
        /// The message itself.
        message: Message,
    },
    /// This is the outcome; nothing that happens later contradicts it. Comes once at most.
    Answer(Outcome),
    /// The rules of the protocol were broken somewhere: a person must look. The machine stops.
    Violation(Violation),
    /// Nothing is left to do. Comes last.
    Finished,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All of it happens.
    Committed,
    /// None of it happened, for a business reason that was proved while the primary stood as it was
    /// read: the NO votes that came in, in the order of the branches.
    Refused(Vec<Refused>),
    /// None of it happened, as these transactions are in the way.
    Contended(Vec<TxMeta>),
    /// None of it happened, and nobody gave a reason: a new attempt may succeed.
    Fenced,
    /// Not decided, and not for us to decide before the deadline. These branches have not voted.
    Undecided(Vec<BranchIndex>),
}

/// A NO vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The branch.
    pub index: BranchIndex,
    /// Stable, upper case.
    pub reason: String,
    /// Ids and amounts for people.
    pub metadata: BTreeMap<String, String>,
}

/// What must never be seen. Each names the rule of docs/protocol.md that somebody broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Every branch voted YES, yet the primary is ABORTED (P3).
    #[error("the primary is ABORTED although every branch voted YES")]
    AbortedAfterYes,
    /// A branch refused, yet the primary is COMMITTED (P3).
    #[error("the primary is COMMITTED although branch {0} voted NO")]
    CommittedDespiteNo(BranchIndex),
    /// A branch is COMMITTED, yet the primary is not (P2).
    #[error("branch {0} is COMMITTED although the primary is not")]
    CommittedElsewhere(BranchIndex),
    /// A branch is ABORTED, yet the primary is COMMITTED (P2).
    #[error("branch {0} is ABORTED although the primary is COMMITTED")]
    AbortedElsewhere(BranchIndex),
    /// A reply that no rule allows (P14).
    #[error("branch {0} gave a reply that no rule allows")]
    Nonsense(BranchIndex),
}
