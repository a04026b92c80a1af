//! Users as data: converts records, requests and answers from and to bytes.

use participant::{balance::Balance, records::Records};
use prost::Message as _;
use proto::{InvalidField, convert, payment::v1 as wire};
use storage::{
    KvError, Value, codec,
    keys::Kind,
    record::{PaymentRecord, UserRecord},
};
use types::{AmountError, Money, OrderId, Role, Stamp, UserId};

/// A record of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// A user's credit.
    User(Balance<Money>),
    /// A payment made outside of checkouts.
    Payment(OrderPayment),
}

/// A payment made for an order outside of checkouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrderPayment {
    /// The amount paid.
    pub amount: Money,
    /// False once it was given back.
    pub paid: bool,
    /// Incarnation of the user who paid. The payment does not count for any other incarnation.
    pub incarnation: Stamp,
}

/// Money set aside for a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldCredit {
    /// The user whose credit it is.
    pub user_id: UserId,
    /// The amount set aside.
    pub amount: Money,
    /// Incarnation of the user that the money came from.
    pub incarnation: Stamp,
}

/// The payment service's domain.
#[derive(Debug, Clone, Copy, Default)]
pub struct Payment;

/// A call that concerns one shard.
#[derive(Debug, Clone)]
pub enum Op {
    /// Creates a user without credit.
    Create(UserId),
    /// Reads a user's credit.
    Get(UserId),
    /// Raises the credit.
    Add(UserId, Money),
    /// Lowers the credit, and remembers the order if there is one.
    Pay(UserId, Money, Option<OrderId>),
    /// Gives back what was paid for an order.
    Cancel(UserId, OrderId),
    /// Asks whether a payment for an order stands, that is, was not given back.
    Status(UserId, OrderId),
    /// Overwrites the users with these numbers.
    Init {
        /// Numbers of the users; a user's number is its id.
        numbers: Vec<u64>,
        /// Credit of each user.
        credit: Money,
    },
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The credit as it is, or right after a change.
    Credit(u64),
    /// Whether a payment stands.
    Paid(bool),
}

impl Records for Payment {
    type Record = Record;
    type Op = Op;
    type Reply = Reply;
    type Payload = (UserId, Money);
    type Hold = HeldCredit;

    fn role(&self) -> Role {
        Role::Payment
    }

    fn encode_record(&self, record: &Record) -> Value {
        match record {
            Record::User(credit) => codec::encode(&stored_user(credit)),
            Record::Payment(payment) => codec::encode(&stored_payment(payment)),
        }
    }

    fn decode_record(&self, row: &[u8], value: &[u8]) -> Result<Record, KvError> {
        let corrupt = |error: AmountError| codec::corrupt(row, &error);
        if row.first() == Some(&Kind::Payment.byte()) {
            let record: PaymentRecord = codec::decode(row, value)?;
            return Ok(Record::Payment(OrderPayment {
                amount: Money::new(record.amount).map_err(corrupt)?,
                paid: record.paid,
                incarnation: Stamp::new(record.incarnation, record.incarnation_change),
            }));
        }
        let record: UserRecord = codec::decode(row, value)?;
        Ok(Record::User(Balance {
            available: Money::new(record.available).map_err(corrupt)?,
            supplied: record.supplied,
            incarnation: Stamp::new(record.incarnation, record.incarnation_change),
        }))
    }

    fn encode_hold(&self, hold: &HeldCredit) -> Vec<u8> {
        receipt_of(hold).encode_to_vec()
    }

    fn decode_hold(&self, bytes: &[u8]) -> Result<HeldCredit, InvalidField> {
        let hold: wire::HoldCreditReceipt = convert::message("hold", bytes)?;
        Ok(HeldCredit {
            user_id: convert::user_id("hold.user_id", &hold.user_id)?,
            amount: convert::money("hold.amount", hold.amount, 0)?,
            incarnation: Stamp::new(hold.incarnation, hold.incarnation_change),
        })
    }

    fn encode_reply(&self, reply: &Reply) -> Vec<u8> {
        match reply {
            Reply::Credit(credit) => credit.encode_to_vec(),
            // Reads carry no request id, so this is never stored.
            Reply::Paid(_) => Vec::new(),
        }
    }

    fn decode_reply(&self, bytes: &[u8]) -> Result<Reply, InvalidField> {
        let credit = convert::message("reply", bytes)?;
        Ok(Reply::Credit(credit))
    }

    fn decode_payload(&self, bytes: &[u8]) -> Result<(UserId, Money), InvalidField> {
        let payload: wire::HoldCredit = convert::message("payload", bytes)?;
        Ok((
            convert::user_id("payload.user_id", &payload.user_id)?,
            convert::money("payload.amount", payload.amount, 0)?,
        ))
    }
}

const fn stored_user(credit: &Balance<Money>) -> UserRecord {
    UserRecord {
        available: credit.available.get(),
        supplied: credit.supplied,
        incarnation: credit.incarnation.start.0,
        incarnation_change: credit.incarnation.change,
    }
}

const fn stored_payment(payment: &OrderPayment) -> PaymentRecord {
    PaymentRecord {
        amount: payment.amount.get(),
        paid: payment.paid,
        incarnation: payment.incarnation.start.0,
        incarnation_change: payment.incarnation.change,
    }
}

/// A hold as a message: it is stored, and it is the receipt for the primary.
fn receipt_of(hold: &HeldCredit) -> wire::HoldCreditReceipt {
    wire::HoldCreditReceipt {
        user_id: hold.user_id.to_string(),
        amount: hold.amount.get(),
        incarnation: hold.incarnation.start.0,
        incarnation_change: hold.incarnation.change,
    }
}
