//! What a service gives to a lane as data: its records, calls and answers, from and to bytes, and what its rules
//! answer.

use std::fmt;

use proto::InvalidField;
use storage::{
    KvError, Value,
    keys::{Kind, Owner},
};
use types::{Priority, Refusal, Timestamp, TxId};

/// A record's key within its shard: kind byte + id.
pub type Row = Vec<u8>;

/// What a branch handed over with its YES, as the primary's Commit gets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Who voted.
    pub branch: types::Branch,
    /// Its receipt.
    pub receipt: Vec<u8>,
}

/// What executing an operation came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Executed<R> {
    /// Done; this is the reply.
    Done(R),
    /// Refused, definitely; nothing was changed.
    Refused(Refusal),
    /// The holds on this row must be resolved first; nothing was changed.
    Wait(Row),
}

/// What judging a Prepare came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Judged<H> {
    /// YES: set aside.
    Yes {
        /// What, so that it can be given back.
        hold: H,
        /// For the primary.
        receipt: Vec<u8>,
    },
    /// NO, proved on these rows.
    No(Refusal),
    /// Short only because of unresolved holds on this row; nothing was changed.
    Short(Row),
}

/// What one service keeps and says, from and to bytes. Pure.
pub trait Records: fmt::Debug + Send + Sync + 'static {
    /// A record of any kind that the service keeps.
    type Record: Clone + fmt::Debug + Send + Sync;
    /// A call that concerns one shard.
    type Op: Clone + fmt::Debug + Send + Sync;
    /// Its answer.
    type Reply: Clone + fmt::Debug + Send + Sync;
    /// What a Prepare asks for, decoded.
    type Payload: Clone + fmt::Debug + Send + Sync;
    /// What a YES set aside.
    type Hold: Clone + fmt::Debug + PartialEq + Send + Sync;

    /// First byte of the service's keys.
    fn owner(&self) -> Owner;
    /// Its name in branches.
    fn name(&self) -> &'static str;

    /// The stored form of a record.
    fn encode_record(&self, record: &Self::Record) -> Value;
    /// Length of a record's stored form in bytes.
    fn record_bytes(&self, record: &Self::Record) -> usize;
    /// A record from its stored form.
    ///
    /// # Errors
    /// [`KvError::Corrupt`]; a retry does not help.
    fn decode_record(&self, row: &[u8], value: &[u8]) -> Result<Self::Record, KvError>;
    /// The stored form of a hold.
    fn encode_hold(&self, hold: &Self::Hold) -> Vec<u8>;
    /// A hold from its stored form.
    ///
    /// # Errors
    /// [`InvalidField`]; a retry does not help.
    fn decode_hold(&self, bytes: &[u8]) -> Result<Self::Hold, InvalidField>;
    /// The stored form of a reply, for its request id.
    fn encode_reply(&self, reply: &Self::Reply) -> Vec<u8>;
    /// A reply from its stored form.
    ///
    /// # Errors
    /// [`InvalidField`]; a retry does not help.
    fn decode_reply(&self, bytes: &[u8]) -> Result<Self::Reply, InvalidField>;
    /// What a Prepare asks for.
    ///
    /// # Errors
    /// [`InvalidField`]; a retry does not help.
    fn decode_payload(&self, bytes: &[u8]) -> Result<Self::Payload, InvalidField>;

    /// A question of a coordinator as an operation that changes nothing.
    ///
    /// # Errors
    /// [`InvalidField`]; a retry does not help. Always, unless the service lets coordinators see something.
    fn decode_query(&self, _bytes: &[u8]) -> Result<Self::Op, InvalidField> {
        Err(InvalidField::new("query", "is not offered by this service"))
    }
    /// The answer to a coordinator's question, true as of `at`.
    fn encode_answer(&self, _query: &Self::Op, _reply: &Self::Reply, _at: Timestamp) -> Vec<u8> {
        Vec::new()
    }
}

/// Who holds something on a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Holder<'a, H> {
    /// The transaction.
    pub tx_id: TxId,
    /// Its priority.
    pub priority: Priority,
    /// What it holds.
    pub hold: &'a H,
}

/// The row of a record.
pub fn row(kind: Kind, id: &str) -> Row {
    storage::keys::record_key(kind, id.as_bytes())
}
