//! The rules of a shard's journal: who may append, who knows the state, and what may be forgotten.
//!
//! The journal is the state of a shard. A batch is one inserted key: entry `n + 1`, with everything
//! that the batch changed. Records are the journal's checkpoint: they are written later, and the
//! head says how far they have come. This crate only decides; its callers read, write and wait.
//!
//! Must not know: a store, a clock, what a record is.
//!
//! Modules: [`tail`] is the end of the journal, where a writer appends. [`checkpoint`] has the
//! images that the records do not show yet. docs/journal.md numbers the rules and proves them.

pub mod checkpoint;
pub mod tail;

pub use checkpoint::{Checkpoint, Image, Piece};
pub use tail::{Damage, Fate, Look, Tail};

/// How long a writer that knew the tail may append without a look, in milliseconds of the store's
/// time. It counts from the start of the KV transaction that showed the tail to the start of the
/// one that appends.
pub const TRUST_MS: u64 = 1_000;

/// How long before the commit of an entry the KV transaction that appends the next one may start,
/// without a look, in milliseconds of the store's time. A busy writer begins the next KV
/// transaction while an append is under way. Together with [`TRUST_MS`] it must stay below
/// [`TRIM_AGE_MS`].
pub const EARLY_MS: u64 = 1_000;

/// A KV transaction may trim an entry only if it starts at least this long after the start of the
/// entry's successor, in milliseconds. Far longer than [`TRUST_MS`].
pub const TRIM_AGE_MS: u64 = 5_000;

/// A commit counts only if it lies at most this long after the start of its KV transaction, in
/// milliseconds. After ten times as long the store may have garbage-collected a removed entry, and
/// with it the conflict that stops the commit.
pub const LIFE_MAX_MS: u64 = 60_000;

/// Identifies one start of one process.
pub type Writer = [u8; 16];

/// Who wrote an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Author {
    /// The start of a process that wrote it.
    pub writer: Writer,
    /// The number of the writer's run, counted from 1. No two runs share a number.
    pub run: u64,
}

/// How far the records show the journal, and where the journal begins. Every write moves the head
/// forward, so equal heads are the same write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Head {
    /// The records show every entry up to this one.
    pub flushed: u64,
    /// The records also show this many images of the next entry, in their order.
    pub part: u32,
    /// The first entry that stands; earlier ones are trimmed.
    pub oldest: u64,
}

impl Default for Head {
    fn default() -> Self {
        Self { flushed: 0, part: 0, oldest: 1 }
    }
}

impl Head {
    /// Whether this head is the same as `other`, or may have been written after it.
    #[must_use]
    pub fn follows(&self, other: &Self) -> bool {
        (self.flushed, self.part) >= (other.flushed, other.part) && self.oldest >= other.oldest
    }
}

/// Whether an entry may be trimmed by age. Its successor began at `successor_ms`, and the KV
/// transaction that trims it begins at `start_ms` or later. The last entry has no successor, so it
/// is never trimmed.
#[must_use]
pub const fn is_old_enough(successor_ms: u64, start_ms: u64) -> bool {
    start_ms.saturating_sub(successor_ms) >= TRIM_AGE_MS
}
