//! Deliberate breaks of rules, for the simulation and the short sequences. The simulation must
//! notice all, except those that docs/reliability.md names.
//!
//! Without the feature `mutations` no rule is ever broken, and the checks compile to nothing.
//! `till` refuses to compile with the feature. With it, a thread may break one rule at a time.

/// A broken rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A late Prepare after a Commit is judged anew, and makes a second hold.
    LateSecondHold,
    /// A fence is written beside the journal, so it shares no key with a Prepare.
    FenceOutsideJournal,
    /// A table forgets a transaction before its deadline.
    FenceDroppedEarly,
    /// The other branches are told the outcome together with the primary, not after it.
    PrimaryNotFirst,
    /// A deadline that has passed counts as a fence.
    TimeoutDecides,
    /// A refusal counts only what is available, not what is held.
    HoldsNotCounted,
    /// The primary's YES counts for all branches.
    AnswerBeforeAllVotes,
    /// A refusal is answered before its aborts are durable.
    AnswerBeforeAborts,
    /// A coordinator adopts the outcome that it found, even if another one stands at the primary.
    PrimaryNotBelieved,
    /// A refusal by another branch is believed without the primary's vote.
    RefusalWithoutPrimary,
    /// A KV commit of unknown outcome is rolled back.
    RollbackAfterUndetermined,
    /// A batch of unknown outcome is answered as if it stood, although another one has its place.
    UndeterminedBelieved,
    /// A hold returns to its record, but the journal does not say so.
    ReturnNotJournaled,
    /// A request id is not journaled by the KV transaction of its effect.
    RequestIdApart,
    /// A hold of an old incarnation returns to the new one.
    OldHoldReturns,
    /// A vote is written even at or past its deadline.
    DeadlineIgnored,
    /// A refusal is not remembered, so it does not bind attempts that began before it.
    RefusalForgotten,
    /// A batch's calls are answered before the batch is durable.
    AnswerBeforeCommit,
    /// A read is answered without a look at the journal.
    ReadWithoutLook,
    /// A younger transaction waits for an older one.
    YoungerWaits,
    /// A branch that commits does not journal the outcome.
    CommitNotJournaled,
    /// All changes of one batch share one stamp.
    StampsShared,
    /// A plan may name a shard that does not exist, and nothing answers for that shard.
    ShardsUnchecked,
    /// An attempt takes effect even after the end of its call.
    EndIgnored,
    /// A transaction's success is not remembered under its request id.
    SuccessForgotten,
    /// Two transactions of one call may hold at once.
    CallsTogether,
    /// An append may overwrite another entry.
    AppendWithoutInsert,
    /// A checkpoint leaves out a row that it claims to have written.
    CheckpointSkipsRow,
    /// A record is taken for the state although the journal has a newer image.
    LoadWithoutImages,
    /// An entry is trimmed although the facts in it are needed.
    TrimForgetsFacts,
}

impl Mutation {
    /// All mutations.
    pub const ALL: [Self; 30] = [
        Self::LateSecondHold,
        Self::FenceOutsideJournal,
        Self::FenceDroppedEarly,
        Self::PrimaryNotFirst,
        Self::TimeoutDecides,
        Self::HoldsNotCounted,
        Self::AnswerBeforeAllVotes,
        Self::AnswerBeforeAborts,
        Self::PrimaryNotBelieved,
        Self::RefusalWithoutPrimary,
        Self::RollbackAfterUndetermined,
        Self::UndeterminedBelieved,
        Self::ReturnNotJournaled,
        Self::RequestIdApart,
        Self::OldHoldReturns,
        Self::DeadlineIgnored,
        Self::RefusalForgotten,
        Self::AnswerBeforeCommit,
        Self::ReadWithoutLook,
        Self::YoungerWaits,
        Self::CommitNotJournaled,
        Self::StampsShared,
        Self::ShardsUnchecked,
        Self::EndIgnored,
        Self::SuccessForgotten,
        Self::CallsTogether,
        Self::AppendWithoutInsert,
        Self::CheckpointSkipsRow,
        Self::LoadWithoutImages,
        Self::TrimForgetsFacts,
    ];

    /// Whether this thread breaks the rule.
    #[cfg(feature = "mutations")]
    pub fn is_on(self) -> bool {
        ACTIVE.get() == Some(self)
    }

    /// Whether this thread breaks the rule: never in this build.
    #[cfg(not(feature = "mutations"))]
    pub const fn is_on(self) -> bool {
        false
    }
}

/// Whether rules can be broken at all in this build.
pub const POSSIBLE: bool = cfg!(feature = "mutations");

#[cfg(feature = "mutations")]
thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Makes this thread break this rule from now on, or none.
#[cfg(feature = "mutations")]
pub fn activate(mutation: Option<Mutation>) {
    ACTIVE.set(mutation);
}
