//! The data that a service gives to a lane: its records, calls and answers, their encoding, and the
//! verdicts of its rules.

use std::fmt;

use proto::InvalidField;
use storage::{KvError, Value, keys::Kind};
use types::{Priority, Refusal, Role, Timestamp, TxId};

/// A record's key within its shard: kind byte + id.
pub type Row = Vec<u8>;

/// What a branch handed over with its YES, for the primary's Commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The branch that voted.
    pub branch: types::Branch,
    /// Its receipt.
    pub receipt: Vec<u8>,
}

/// Outcome of executing an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Executed<R> {
    /// Done; this is the reply.
    Done(R),
    /// Definitely refused. Nothing was changed.
    Refused(Refusal),
    /// The holds on this row must be resolved first. Nothing was changed.
    Wait(Row),
}

/// Outcome of judging a Prepare.
#[derive(Debug, Clone, PartialEq)]
pub enum Judged<H> {
    /// YES, and the payload was set aside.
    Yes {
        /// What was set aside, so that it can be given back.
        hold: H,
        /// Passed to the primary.
        receipt: Vec<u8>,
    },
    /// NO, proved on the rows as they are.
    No(Refusal),
    /// Too little is available, but only because of unresolved holds on this row. Nothing was
    /// changed.
    Short(Row),
}

/// The data of one service, and its encoding. Pure.
pub trait Records: fmt::Debug + Send + Sync + 'static {
    /// A record of any kind that the service keeps.
    type Record: Clone + fmt::Debug + Send + Sync;
    /// A call that concerns one shard.
    type Op: Clone + fmt::Debug + Send + Sync;
    /// The answer to an operation.
    type Reply: Clone + fmt::Debug + Send + Sync;
    /// What a Prepare asks for, decoded.
    type Payload: Clone + fmt::Debug + Send + Sync;
    /// What a YES has set aside.
    type Hold: Clone + fmt::Debug + PartialEq + Send + Sync;

    /// The service.
    fn role(&self) -> Role;

    /// The stored form of a record.
    fn encode_record(&self, record: &Self::Record) -> Value;
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
    /// The stored form of a reply, kept under its request id.
    fn encode_reply(&self, reply: &Self::Reply) -> Vec<u8>;
    /// A reply from its stored form.
    ///
    /// # Errors
    /// [`InvalidField`]; a retry does not help.
    fn decode_reply(&self, bytes: &[u8]) -> Result<Self::Reply, InvalidField>;
    /// Decodes what a Prepare asks for.
    ///
    /// # Errors
    /// [`InvalidField`]; a retry does not help.
    fn decode_payload(&self, bytes: &[u8]) -> Result<Self::Payload, InvalidField>;

    /// Decodes a coordinator's question into an operation that changes nothing.
    ///
    /// # Errors
    /// [`InvalidField`]; a retry does not help. Always returned unless the service overrides this.
    fn decode_query(&self, _bytes: &[u8]) -> Result<Self::Op, InvalidField> {
        Err(InvalidField::new("query", "is not offered by this service"))
    }
    /// The answer to a coordinator's question, true as of `at`.
    fn encode_answer(&self, _query: &Self::Op, _reply: &Self::Reply, _at: Timestamp) -> Vec<u8> {
        Vec::new()
    }
}

/// A transaction that holds something on a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Holder<'a, H> {
    /// The transaction.
    pub tx_id: TxId,
    /// Its priority.
    pub priority: Priority,
    /// What it holds.
    pub hold: &'a H,
}

/// The row of the record with this id.
pub fn row(kind: Kind, id: &str) -> Row {
    storage::keys::record_key(kind, id.as_bytes())
}
