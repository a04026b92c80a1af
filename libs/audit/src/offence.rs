//! What an audit may find.

use std::{collections::BTreeMap, fmt};

/// What must hold, by the name that a finding carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// Per item: initial + added - subtracted = available + held + sold.
    Stock,
    /// The same per user, for credit.
    Credit,
    /// No amount is negative or beyond the greatest one.
    Range,
    /// An order is paid exactly if one committed transaction bought its lines at its cost.
    PaidOnce,
    /// No branch is committed where another one aborted, and none is final before the primary.
    OneOutcome,
    /// No hold outlives its transaction's deadline by more than the stated time.
    HoldsEnd,
    /// After quiet: no vote is unresolved.
    Quiet,
    /// Every record can be read, and no journal has a gap, a wrong order or an early end.
    Readable,
}

impl Invariant {
    /// A short stable name.
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
    /// Which one it breaks.
    pub invariant: Invariant,
    /// What is wrong with whom: `item 7`, `order o-1`, `transaction ...`.
    pub subject: String,
    /// What the records say.
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

/// Offences found so far. Keeps the first ones and counts them all.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    max: usize,
    kept: Vec<Offence>,
    by_invariant: BTreeMap<Invariant, u64>,
}

impl Findings {
    /// None yet; at most `max` will be kept.
    pub fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    /// Adds one.
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

    /// The first ones, in the order in which they were found.
    pub fn kept(&self) -> &[Offence] {
        &self.kept
    }

    /// How many there are of each kind.
    pub fn by_invariant(&self) -> &BTreeMap<Invariant, u64> {
        &self.by_invariant
    }

    /// How many there are.
    pub fn total(&self) -> u64 {
        self.by_invariant.values().fold(0, |sum, count| sum.saturating_add(*count))
    }
}
