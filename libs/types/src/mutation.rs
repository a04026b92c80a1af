//! Deliberate breaks of the rules, for the simulation alone: it must notice each of them.
//!
//! Without the feature `mutations` no rule is ever broken and the questions compile to nothing; `till`
//! refuses to compile with it. With it a thread may break one rule at a time.

/// A rule that can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// A late Prepare after a Commit is judged anew, and holds a second time.
    LateSecondHold,
    /// A fence is written beside the journal, so it shares no key with a Prepare.
    FenceOutsideJournal,
    /// What a transaction came to is dropped before its deadline.
    FenceDroppedEarly,
    /// The other branches are told the outcome together with the primary.
    PrimaryNotFirst,
    /// A deadline that has passed counts as a fence.
    TimeoutDecides,
    /// A refusal counts what is available and not what is held.
    HoldsNotCounted,
    /// The primary's YES counts for all.
    AnswerBeforeAllVotes,
    /// A refusal is answered before its aborts are durable.
    AnswerBeforeAborts,
    /// What was found out is believed, whatever stands at the primary.
    PrimaryNotBelieved,
    /// A refusal elsewhere is believed without the primary's word.
    RefusalWithoutPrimary,
    /// A KV commit of unknown outcome is rolled back.
    RollbackAfterUndetermined,
    /// A batch of unknown outcome is answered as if it stood, though another one has its place.
    UndeterminedBelieved,
    /// A hold returns to its record and the journal does not say so.
    ReturnNotJournaled,
    /// A request id is not journaled by the KV transaction of its effect.
    RequestIdApart,
    /// A hold of an old generation returns to the new one.
    OldHoldReturns,
    /// A vote is written whatever the deadline.
    DeadlineIgnored,
    /// What was refused is not held against what began before.
    RefusalForgotten,
    /// A batch's calls are answered before it is durable.
    AnswerBeforeCommit,
    /// A read is answered without a look at the journal.
    ReadWithoutLook,
    /// The younger waits for the older.
    YoungerWaits,
    /// The outcome is not journaled by whoever has committed.
    CommitNotJournaled,
    /// All changes of one batch have one stamp.
    StampsShared,
    /// A shard that does not exist is planned with, and says nothing when it is asked.
    ShardsUnchecked,
    /// An attempt takes effect whenever it comes, however long its call has been over.
    EndIgnored,
    /// A transaction's success is not remembered under its request id.
    SuccessForgotten,
    /// Two transactions of one call may hold at once.
    CallsTogether,
    /// An entry takes the place of another one.
    AppendWithoutInsert,
    /// A checkpoint leaves out a row that it says it has written.
    CheckpointSkipsRow,
    /// A record that was written behind is taken for the state.
    LoadWithoutImages,
    /// An entry is trimmed though what it says is needed.
    TrimForgetsFacts,
}

impl Mutation {
    /// All of them.
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

    /// Whether this thread breaks the rule: never.
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

/// From now on this thread breaks this rule, or none.
#[cfg(feature = "mutations")]
pub fn activate(mutation: Option<Mutation>) {
    ACTIVE.set(mutation);
}
