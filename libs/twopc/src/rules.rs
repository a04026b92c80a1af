//! The machine's rules by name, so that a test can take one out and see what breaks. Outside of tests
//! and simulation all of them are in force.

/// A sentence of docs/protocol.md that the machine obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// P2: act elsewhere only after the outcome is durable at the primary.
    PrimaryFirst,
    /// P2: who loses adopts what stands.
    AdoptWhatStands,
    /// P3: a FENCED vote need not be durable, so it is no evidence.
    FencedVoteIsNoEvidence,
    /// P3: COMMITTED needs all votes.
    AllVotes,
    /// P7: a branch that has not voted is asked; that time has passed says nothing.
    TimeoutDecidesNothing,
    /// P8: a failure is answered only after its aborts are durable.
    AnswerAfterAborts,
    /// P9: a refusal needs the primary's word.
    PrimarysWord,
}

#[cfg(not(test))]
impl Rule {
    /// What takes it out in simulation.
    pub(crate) const fn broken_by(self) -> Option<types::Mutation> {
        use types::Mutation;
        Some(match self {
            Self::PrimaryFirst => Mutation::PrimaryNotFirst,
            Self::AdoptWhatStands => Mutation::PrimaryNotBelieved,
            // It is the participant's deadline that makes such a vote harmless.
            Self::FencedVoteIsNoEvidence => return None,
            Self::AllVotes => Mutation::AnswerBeforeAllVotes,
            Self::TimeoutDecidesNothing => Mutation::TimeoutDecides,
            Self::AnswerAfterAborts => Mutation::AnswerBeforeAborts,
            Self::PrimarysWord => Mutation::RefusalWithoutPrimary,
        })
    }
}
