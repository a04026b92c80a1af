//! The registry of key spaces: owner (1 byte) + shard (2 bytes, big-endian) + kind (1 byte) + id.
//! Append-only: a published byte is never changed or reused. The owner is [`Role::letter`], or `T`.
//!
//! | owner | kinds |
//! |---|---|
//! | `T` store | `s` schema, `l` lease or announced reader |
//! | `c` coordinator | `r` request claim, `t` transaction log |
//! | `o` order | 01 head, 02 journal, `a` answer, `o` order |
//! | `p` payment | 01, 02, `a`, `u` user, `y` payment |
//! | `s` stock | 01, 02, `a`, `i` item |

#[cfg(test)]
mod tests;

use std::ops::Range;

use types::{Role, ShardId};

use crate::kv::Key;

/// The kind of a record: the fourth byte of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A shard's head; no id. Sorts first.
    Head,
    /// A shard's journal; the id is the batch's number, 8 bytes, big-endian.
    Journal,
    /// An item.
    Item,
    /// A user.
    User,
    /// An order.
    Order,
    /// A payment outside of checkouts; the id is user id + '/' + order id.
    Payment,
    /// A client's request id bound to a call.
    RequestClaim,
    /// The schema; no id.
    Schema,
    /// A lease; the id is the chore's name. Also an announced reader; the id is `reader/` and its
    /// name.
    Lease,
    /// A coordinator's note on a transaction. The id is the TxId, then a suffix that distinguishes
    /// the notes on one transaction.
    TransactionLog,
    /// Outcomes of calls under a client's own request id. The id is the request id.
    Answer,
}

impl Kind {
    /// The kind's byte in keys.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Head => 0x01,
            Self::Journal => 0x02,
            Self::Item => b'i',
            Self::User => b'u',
            Self::Order => b'o',
            Self::Payment => b'y',
            Self::RequestClaim => b'r',
            Self::Schema => b's',
            Self::Lease => b'l',
            Self::TransactionLog => b't',
            Self::Answer => b'a',
        }
    }
}

/// The keys of one shard of one owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Space {
    owner: u8,
    shard: ShardId,
}

impl Space {
    /// The keys of the store as a whole: schema, leases, announced readers.
    pub const STORE: Self = Self { owner: b'T', shard: ShardId(0) };

    /// A shard of a role; shard 0 if the role is not sharded.
    pub const fn of(role: Role, shard: ShardId) -> Self {
        Self { owner: role.letter(), shard }
    }

    fn prefix(self) -> [u8; 3] {
        let [high, low] = self.shard.0.to_be_bytes();
        [self.owner, high, low]
    }

    /// Prepends the shard's prefix to a record's own key (kind + id).
    pub fn key(self, record: &[u8]) -> Key {
        let mut key = Key::with_capacity(3 + record.len());
        key.extend_from_slice(&self.prefix());
        key.extend_from_slice(record);
        key
    }

    /// The key of a record of this kind.
    pub fn record(self, kind: Kind, id: &[u8]) -> Key {
        self.key(&record_key(kind, id))
    }

    /// The key of the shard's head.
    pub fn head(self) -> Key {
        self.record(Kind::Head, &[])
    }

    /// The key of a journal entry.
    pub fn journal(self, seq: u64) -> Key {
        self.record(Kind::Journal, &seq.to_be_bytes())
    }

    /// All keys of a kind.
    pub fn range(self, kind: Kind) -> Range<Key> {
        let byte = kind.byte();
        self.key(&[byte])..self.key(&[byte.saturating_add(1)])
    }

    /// Strips the shard's prefix. `None` if the key is not of this shard.
    pub fn strip(self, key: &[u8]) -> Option<&[u8]> {
        key.strip_prefix(self.prefix().as_slice())
    }
}

/// A record's key within its shard: kind + id.
pub fn record_key(kind: Kind, id: &[u8]) -> Key {
    let mut key = Key::with_capacity(1 + id.len());
    key.push(kind.byte());
    key.extend_from_slice(id);
    key
}
