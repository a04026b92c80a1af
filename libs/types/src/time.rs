//! Points in time: the store's timestamps and wall clocks.

use std::fmt;

/// Milliseconds since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This much later; saturates.
    #[must_use]
    pub const fn plus_ms(self, milliseconds: u64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// How many milliseconds `earlier` lies before this; 0 when it does not.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// A timestamp of the KV store: physical milliseconds since the Unix epoch << 18 | logical counter. Given
/// out by the store, unique, never back.
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

/// A wall clock that simulation can turn. It may trigger a question, never decide an answer.
pub trait Clock: Send + Sync + 'static {
    /// The present.
    fn now(&self) -> UnixMillis;
}

/// Where random numbers come from, so that simulation can fix them.
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
