//! The offences that an audit may find.

use std::{collections::BTreeMap, fmt};

/// An invariant that an audit checks, with the name that a finding carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// I1. Of each item: initial + added - subtracted = available + held + sold.
    Stock,
    /// I2. Of each user the same, for credit.
    Credit,
    /// I3. No amount is negative, or greater than 2^53 - 1.
    Range,
    /// I4. An order is paid exactly if one committed transaction bought its lines at its cost, and
    /// that one bought nothing else.
    PaidOnce,
    /// I5. No branch is committed where another one aborted (a fence written past the deadline
    /// apart), and none commits or gives back before the primary is final.
    OneOutcome,
    /// I7. No hold stands longer than a grace past its transaction's deadline.
    HoldsEnd,
    /// I8. After quiet no vote is unresolved.
    Quiet,
    /// R. Every record can be read, and no journal has a gap, a wrong predecessor or an end before
    /// what its records show.
    Readable,
}

impl Invariant {
    /// The invariant's short, stable name, as in docs/invariants.md.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Stock => "I1",
            Self::Credit => "I2",
            Self::Range => "I3",
            Self::PaidOnce => "I4",
            Self::OneOutcome => "I5",
            Self::HoldsEnd => "I7",
            Self::Quiet => "I8",
            Self::Readable => "R",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// Something that breaks an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offence {
    /// The invariant that it breaks.
    pub invariant: Invariant,
    /// Who is affected: `item 7`, `order o-1`, `transaction ...`.
    pub subject: String,
    /// What is wrong.
    pub problem: String,
    /// The records that show it, as text.
    pub records: Vec<String>,
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.invariant, self.subject, self.problem)?;
        for record in &self.records {
            write!(f, "\n     {record}")?;
        }
        Ok(())
    }
}

/// The offences found so far. Keeps the first ones, and counts all.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    max: usize,
    kept: Vec<Offence>,
    by_invariant: BTreeMap<Invariant, u64>,
}

impl Findings {
    /// No offences yet. At most `max` will be kept.
    pub fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    /// Adds an offence.
    pub fn add(
        &mut self,
        invariant: Invariant,
        subject: impl fmt::Display,
        problem: impl fmt::Display,
        records: Vec<String>,
    ) {
        let count = self.by_invariant.entry(invariant).or_default();
        *count = count.saturating_add(1);
        if self.kept.len() < self.max {
            let (subject, problem) = (subject.to_string(), problem.to_string());
            self.kept.push(Offence { invariant, subject, problem, records });
        }
    }

    /// The first offences, in the order in which they were found.
    pub fn kept(&self) -> &[Offence] {
        &self.kept
    }

    /// The number of offences by invariant.
    pub fn by_invariant(&self) -> &BTreeMap<Invariant, u64> {
        &self.by_invariant
    }

    /// The number of all offences.
    pub fn total(&self) -> u64 {
        self.by_invariant.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}
