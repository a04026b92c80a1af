//! Points in time: the store's timestamps and wall clocks.

use std::{fmt, str::FromStr};

/// How long a client's call may live after its arrival, in milliseconds by the store's clock. It is
/// the upper limit of every setting that bounds a call.
pub const CALL_LIFE_MAX_MS: u64 = 60_000;

/// How far ahead of a KV transaction's start timestamp the end of a call may be, in milliseconds. A
/// later end is refused. It is twice a call's life, because timestamps are old when a store or a
/// process stands still. Attempts of a call cannot contradict each other if its result is
/// remembered for this long.
pub const CALL_AHEAD_MAX_MS: u64 = 2 * CALL_LIFE_MAX_MS;

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The time `milliseconds` later; saturates.
    #[must_use]
    pub const fn plus_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// How many milliseconds `earlier` lies before this time; 0 if it does not.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A timestamp of the KV store: physical milliseconds since the Unix epoch << 18 | logical counter.
/// The store gives each one out once, in increasing order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// Bits of the logical counter.
    pub const LOGICAL_BITS: u32 = 18;

    /// The first timestamp of a millisecond.
    pub const fn from_physical(at: UnixMillis) -> Self {
        Self(at.0 << Self::LOGICAL_BITS)
    }

    /// The physical part.
    pub const fn physical(self) -> UnixMillis {
        UnixMillis(self.0 >> Self::LOGICAL_BITS)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.physical().0, self.0 & ((1 << Self::LOGICAL_BITS) - 1))
    }
}

/// Names one change of one record: the KV transaction that wrote it, and the number of the change
/// within that transaction.
///
/// Invariant (P13): two records of one key with equal stamps have equal content, because a start
/// timestamp is given out once and a call changes a record at most once. A start timestamp alone is
/// not enough: a batch makes many changes in one KV transaction, and calls of the same batch read
/// in between.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp {
    /// Start timestamp of the KV transaction.
    pub start: Timestamp,
    /// Number of the change within it, counted from 1. It is 0 in records of release 0.1, which has
    /// no such numbers and stores only the last change of a record in a KV transaction.
    pub change: u32,
}

impl Stamp {
    /// The stamp with this start timestamp and number.
    pub const fn new(start: u64, change: u32) -> Self {
        Self { start: Timestamp(start), change }
    }
}

/// The text is not a stamp. A retry does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a stamp")]
pub struct StampError;

impl fmt::Display for Stamp {
    /// Writes two hexadecimal numbers with a hyphen between them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}", self.start.0, self.change)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.start, self.change)
    }
}

impl FromStr for Stamp {
    type Err = StampError;

    fn from_str(text: &str) -> Result<Self, StampError> {
        let (start, change) = text.split_once('-').ok_or(StampError)?;
        let start = u64::from_str_radix(start, 16).map_err(|_| StampError)?;
        let change = u32::from_str_radix(change, 16).map_err(|_| StampError)?;
        let stamp = Self::new(start, change);
        // Only the canonical text is accepted, so that one stamp has one text.
        if stamp.to_string() == text { Ok(stamp) } else { Err(StampError) }
    }
}

/// A wall clock that the simulation can control. It may trigger a question, but never decide an
/// answer.
pub trait Clock: Send + Sync + 'static {
    /// The current time.
    fn now(&self) -> UnixMillis;
}

/// A source of random numbers, which the simulation can fix.
pub trait Entropy: Send + Sync + 'static {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;

    /// The next 16 random bytes.
    fn next_bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let (low, high) = bytes.split_at_mut(8);
        low.copy_from_slice(&self.next_u64().to_le_bytes());
        high.copy_from_slice(&self.next_u64().to_le_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_has_one_text() {
        let stamp = Stamp::new(0x6_8800_0000_0001, 17);
        assert_eq!(stamp.to_string(), "6880000000001-11");
        assert_eq!("6880000000001-11".parse(), Ok(stamp));
        for wrong in ["", "-", "1", "1-", "-1", "01-1", "1-01", "+1-1", "1-A", "1-1-1", "*", "x-1"]
        {
            assert_eq!(wrong.parse::<Stamp>(), Err(StampError), "{wrong}");
        }
    }
}
