//! The machine's rules by name, so that a test can take one out and see what breaks. Outside of this
//! crate's own tests all of them are in force.

/// A sentence of docs/protocol.md that the machine obeys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    /// Rule 2: act elsewhere only after the outcome is durable at the primary.
    PrimaryFirst,
    /// Rule 2: who loses adopts what stands.
    AdoptWhatStands,
    /// Rule 3: a FENCED vote need not be durable, so it is no evidence.
    FencedVoteIsNoEvidence,
    /// Rule 3: COMMITTED needs all votes.
    AllVotes,
    /// Rule 7: a branch that has not voted is asked; that time has passed says nothing.
    TimeoutDecidesNothing,
    /// Rule 8: a failure is answered only after its aborts are durable.
    AnswerAfterAborts,
    /// Rule 9: a refusal needs the primary's word.
    PrimarysWord,
}
