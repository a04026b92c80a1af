//! The machine's rules by name, so that a test can remove one and see what breaks. Outside of tests
//! and simulation, all are in force.

/// A rule of docs/protocol.md that the machine obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// P2: the other branches are told only after the outcome is durable at the primary.
    PrimaryFirst,
    /// P2: a machine that loses the race adopts the outcome that stands at the primary.
    AdoptWhatStands,
    /// P3: a FENCED vote need not be durable, so it is not evidence.
    FencedVoteIsNoEvidence,
    /// P3: COMMITTED needs a YES from every branch.
    AllVotes,
    /// P7: a time-out decides nothing; a branch that has not voted is asked.
    TimeoutDecidesNothing,
    /// P8: a failure is answered only after its aborts are durable.
    AnswerAfterAborts,
    /// P9: a refusal elsewhere counts only together with the primary's own vote.
    PrimarysWord,
}

#[cfg(not(test))]
impl Rule {
    /// The mutation that breaks this rule in simulation, if there is one.
    pub(crate) const fn broken_by(self) -> Option<types::Mutation> {
        use types::Mutation;
        Some(match self {
            Self::PrimaryFirst => Mutation::PrimaryNotFirst,
            Self::AdoptWhatStands => Mutation::PrimaryNotBelieved,
            // The participant's deadline makes such a vote harmless.
            Self::FencedVoteIsNoEvidence => return None,
            Self::AllVotes => Mutation::AnswerBeforeAllVotes,
            Self::TimeoutDecidesNothing => Mutation::TimeoutDecides,
            Self::AnswerAfterAborts => Mutation::AnswerBeforeAborts,
            Self::PrimarysWord => Mutation::RefusalWithoutPrimary,
        })
    }
}
