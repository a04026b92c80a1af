//! The rules of a shard's journal: who may append, who knows the state, and what may be forgotten.
//!
//! A shard is its journal. A batch is one inserted key: entry `n + 1`, which carries all that the batch changed.
//! Records are the checkpoint of the journal, written behind it, and the head says how far they have come. What
//! stands here decides; reading, writing and waiting is done by who calls it.
//!
//! Must not know: a store, a clock, what a record is.
//!
//! Modules: [`tail`] the end of the journal, where a writer appends; [`checkpoint`] what the records do not show
//! yet. The rules are numbered in docs/journal.md, with their proofs.

pub mod checkpoint;
pub mod tail;

pub use checkpoint::{Checkpoint, Image, Piece};
pub use tail::{Damage, Fate, Look, Tail};

/// How long a writer that knew the tail may append without a look, in milliseconds of the store's time between the
/// start of the KV transaction that showed the tail and the start of the one that appends.
pub const TRUST_MS: u64 = 1_000;

/// An entry may be trimmed by a KV transaction that starts this long after the start of the entry's successor, in
/// milliseconds. Far longer than [`TRUST_MS`].
pub const TRIM_AGE_MS: u64 = 5_000;

/// A commit counts when it lies at most this long after the start of its KV transaction, in milliseconds. After ten times
/// as long the store may have collected a removed entry as garbage, and with it the conflict that stops the commit.
pub const LIFE_MAX_MS: u64 = 60_000;

/// Names one start of one process.
pub type Writer = [u8; 16];

/// Who wrote an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Author {
    /// Which start of which process.
    pub writer: Writer,
    /// Which of its tries, counted from 1: no two tries share a number.
    pub run: u64,
}

/// How far the records show the journal, and where the journal begins. Every write of it moves it on, so that equal
/// heads are one and the same write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Head {
    /// The records show every entry up to this one.
    pub flushed: u64,
    /// They show this many images of the entry after it, too, in their order.
    pub part: u32,
    /// The first entry that stands.
    pub oldest: u64,
}

impl Default for Head {
    fn default() -> Self {
        Self { flushed: 0, part: 0, oldest: 1 }
    }
}

impl Head {
    /// Whether this head may have been written after `other`, or is the same.
    #[must_use]
    pub fn follows(&self, other: &Self) -> bool {
        (self.flushed, self.part) >= (other.flushed, other.part) && self.oldest >= other.oldest
    }
}

/// Whether an entry may be trimmed by age: its successor began at `successor_ms`, the KV transaction that trims
/// begins at `start_ms` or later. The last entry has no successor, and never goes.
#[must_use]
pub const fn is_old_enough(successor_ms: u64, start_ms: u64) -> bool {
    start_ms.saturating_sub(successor_ms) >= TRIM_AGE_MS
}
