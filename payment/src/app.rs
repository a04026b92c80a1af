//! Users as a lane's domain: operations, holds, and how they are stored.

use participant::{
    balance::{Balance, Taken},
    core::Rows,
    domain::{Domain, Executed, Judged, Receipt, Row, row},
};
use prost::Message;
use proto::{InvalidField, convert, payment::v1 as wire};
use storage::{
    KvError, Value, codec,
    keys::{Kind, Owner},
    record::{PaymentRecord, UserRecord},
};
use types::{AmountError, Money, OrderId, Reason, Refusal, Stamp, TxId, UserId};

use crate::domain::{HeldCredit, Payment as OrderPayment, held};

/// Name in branches.
pub const NAME: &str = "payment";

/// The payment service's domain.
#[derive(Debug, Clone, Copy, Default)]
pub struct Payment;

/// A record of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// A user's credit.
    User(Balance<Money>),
    /// A payment outside of checkouts.
    Payment(OrderPayment),
}

/// A call that concerns one shard.
#[derive(Debug, Clone)]
pub enum Op {
    /// Make a user without credit.
    Create(UserId),
    /// Read a user.
    Get(UserId),
    /// Raise the credit.
    Add(UserId, Money),
    /// Lower the credit, and remember what for.
    Pay(UserId, Money, Option<OrderId>),
    /// Give back what was paid for an order.
    Cancel(UserId, OrderId),
    /// Whether something paid for an order was not given back.
    Status(UserId, OrderId),
    /// Overwrite the users with these numbers.
    Init {
        /// Numbers of the records, which are their ids.
        numbers: Vec<u64>,
        /// Credit of each.
        credit: Money,
    },
}

/// What a call is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Credit as it stands, or right after a change.
    Credit(u64),
    /// Whether a payment stands.
    Paid(bool),
}

fn user_row(id: &UserId) -> Row {
    row(Kind::User, id.as_str())
}

fn payment_row(user_id: &UserId, order_id: &OrderId) -> Row {
    // Ids hold no '/', so this is unambiguous.
    row(Kind::Payment, &format!("{user_id}/{order_id}"))
}

fn user(rows: &mut Rows<'_, Payment>, id: &UserId) -> Option<Balance<Money>> {
    match rows.get(&user_row(id)) {
        Some(Record::User(credit)) => Some(*credit),
        Some(Record::Payment(_)) | None => None,
    }
}

/// What unfinished transactions hold of a user's credit.
fn held_of(rows: &Rows<'_, Payment>, id: &UserId, credit: &Balance<Money>) -> Money {
    held(rows.holders(&user_row(id)).map(|holder| holder.hold), credit.incarnation)
}

fn payment(
    rows: &mut Rows<'_, Payment>,
    user_id: &UserId,
    order_id: &OrderId,
) -> Option<OrderPayment> {
    match rows.get(&payment_row(user_id, order_id)) {
        Some(Record::Payment(payment)) => Some(*payment),
        Some(Record::User(_)) | None => None,
    }
}

fn refuse(reason: Reason, id: &UserId) -> Refusal {
    Refusal::new(reason).with("user_id", id)
}

fn out_of_credit(id: &UserId, wanted: Money, credit: &Balance<Money>, held: Money) -> Refusal {
    refuse(Reason::OutOfCredit, id)
        .with("wanted", wanted)
        .with("available", credit.available)
        .with("held", held)
}

impl Payment {
    fn pay(
        id: &UserId,
        amount: Money,
        order_id: Option<&OrderId>,
        rows: &mut Rows<'_, Self>,
    ) -> Executed<Reply> {
        let Some(credit) = user(rows, id) else {
            return Executed::Refused(refuse(Reason::UserNotFound, id));
        };
        if let Some(order_id) = order_id
            && payment(rows, id, order_id).is_some_and(|payment| payment.stands_for(&credit))
        {
            return Executed::Refused(refuse(Reason::AlreadyPaid, id).with("order_id", order_id));
        }
        let row = user_row(id);
        let held = held_of(rows, id, &credit);
        match credit.take(amount, held) {
            Taken::Done(after) => {
                rows.put(row, Record::User(after));
                if let Some(order_id) = order_id {
                    let payment =
                        OrderPayment { amount, paid: true, incarnation: credit.incarnation };
                    rows.put(payment_row(id, order_id), Record::Payment(payment));
                }
                Executed::Done(Reply::Credit(after.available.get()))
            }
            Taken::Wait => Executed::Wait(row),
            Taken::Short => Executed::Refused(out_of_credit(id, amount, &credit, held)),
        }
    }

    fn cancel(id: &UserId, order_id: &OrderId, rows: &mut Rows<'_, Self>) -> Executed<Reply> {
        let Some(credit) = user(rows, id) else {
            return Executed::Refused(refuse(Reason::UserNotFound, id));
        };
        let cancelled = payment(rows, id, order_id)
            .ok_or(Reason::NotPaid)
            .and_then(|payment| payment.cancel(credit, held_of(rows, id, &credit)));
        match cancelled {
            Ok((credit, payment)) => {
                rows.put(user_row(id), Record::User(credit));
                rows.put(payment_row(id, order_id), Record::Payment(payment));
                Executed::Done(Reply::Credit(credit.available.get()))
            }
            Err(reason) => Executed::Refused(refuse(reason, id).with("order_id", order_id)),
        }
    }

    fn create(id: &UserId, rows: &mut Rows<'_, Self>) -> Executed<Reply> {
        if user(rows, id).is_some() {
            // Ids of new users are derived from request ids, and this one's memory is over.
            return Executed::Refused(refuse(Reason::RequestIdReused, id));
        }
        let stamp = rows.stamp();
        rows.put(user_row(id), Record::User(Balance::new(Money::ZERO, stamp)));
        Executed::Done(Reply::Credit(0))
    }
}

impl Domain for Payment {
    type Record = Record;
    type Op = Op;
    type Reply = Reply;
    type Payload = (UserId, Money);
    type Hold = HeldCredit;

    fn owner(&self) -> Owner {
        Owner::Payment
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn encode_record(&self, record: &Record) -> Value {
        match record {
            Record::User(credit) => codec::encode(&UserRecord {
                available: credit.available.get(),
                supplied: credit.supplied,
                incarnation: credit.incarnation.start.0,
                incarnation_change: credit.incarnation.change,
            }),
            Record::Payment(payment) => codec::encode(&PaymentRecord {
                amount: payment.amount.get(),
                paid: payment.paid,
                incarnation: payment.incarnation.start.0,
                incarnation_change: payment.incarnation.change,
            }),
        }
    }

    fn record_bytes(&self, _record: &Record) -> usize {
        // The format, and four numbers with their tags.
        1 + 4 * 11
    }

    fn decode_record(&self, row: &[u8], value: &[u8]) -> Result<Record, KvError> {
        let corrupt = |error: AmountError| KvError::Corrupt {
            key: codec::hex(row),
            problem: error.to_string(),
        };
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
        let hold = wire::HoldCreditReceipt::decode(bytes)
            .map_err(|error| InvalidField::new("hold", error))?;
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
        let credit = u64::decode(bytes).map_err(|error| InvalidField::new("reply", error))?;
        Ok(Reply::Credit(credit))
    }

    fn decode_payload(&self, bytes: &[u8]) -> Result<(UserId, Money), InvalidField> {
        let payload =
            wire::HoldCredit::decode(bytes).map_err(|error| InvalidField::new("payload", error))?;
        Ok((
            convert::user_id("payload.user_id", &payload.user_id)?,
            convert::money("payload.amount", payload.amount, 0)?,
        ))
    }

    fn op_rows(&self, op: &Op) -> Vec<Row> {
        match op {
            Op::Create(id) | Op::Get(id) | Op::Add(id, _) | Op::Pay(id, _, None) => {
                vec![user_row(id)]
            }
            Op::Pay(id, _, Some(order_id))
            | Op::Cancel(id, order_id)
            | Op::Status(id, order_id) => {
                vec![user_row(id), payment_row(id, order_id)]
            }
            // It overwrites without looking.
            Op::Init { .. } => Vec::new(),
        }
    }

    fn payload_rows(&self, (id, _): &(UserId, Money)) -> Vec<Row> {
        vec![user_row(id)]
    }

    fn hold_rows(&self, hold: &HeldCredit) -> Vec<Row> {
        vec![user_row(&hold.user_id)]
    }

    fn execute(&self, op: &Op, rows: &mut Rows<'_, Self>) -> Executed<Reply> {
        match op {
            Op::Create(id) => Self::create(id, rows),
            Op::Get(id) => match user(rows, id) {
                Some(credit) => Executed::Done(Reply::Credit(credit.available.get())),
                None => Executed::Refused(refuse(Reason::UserNotFound, id)),
            },
            Op::Add(id, amount) => {
                let added = user(rows, id)
                    .ok_or(Reason::UserNotFound)
                    .and_then(|credit| credit.supply(*amount, held_of(rows, id, &credit)));
                match added {
                    Ok(credit) => {
                        rows.put(user_row(id), Record::User(credit));
                        Executed::Done(Reply::Credit(credit.available.get()))
                    }
                    Err(reason) => Executed::Refused(refuse(reason, id)),
                }
            }
            Op::Pay(id, amount, order_id) => Self::pay(id, *amount, order_id.as_ref(), rows),
            Op::Cancel(id, order_id) => Self::cancel(id, order_id, rows),
            Op::Status(id, order_id) => match user(rows, id) {
                Some(credit) => {
                    let payment = payment(rows, id, order_id);
                    let paid = payment.is_some_and(|payment| payment.stands_for(&credit));
                    Executed::Done(Reply::Paid(paid))
                }
                None => Executed::Refused(refuse(Reason::UserNotFound, id)),
            },
            Op::Init { numbers, credit } => {
                let user = Balance::new(*credit, rows.stamp());
                for number in numbers {
                    rows.put(user_row(&UserId::numbered(*number)), Record::User(user));
                }
                Executed::Done(Reply::Credit(0))
            }
        }
    }

    fn prepare(
        &self,
        (id, amount): &(UserId, Money),
        rows: &mut Rows<'_, Self>,
    ) -> Judged<HeldCredit> {
        let Some(credit) = user(rows, id) else {
            return Judged::No(refuse(Reason::UnknownUser, id));
        };
        let row = user_row(id);
        let held = held_of(rows, id, &credit);
        match credit.hold(*amount, held) {
            Taken::Done(after) => {
                rows.put(row, Record::User(after));
                let hold = HeldCredit {
                    user_id: id.clone(),
                    amount: *amount,
                    incarnation: credit.incarnation,
                };
                let receipt = receipt_of(&hold).encode_to_vec();
                Judged::Yes { hold, receipt }
            }
            Taken::Wait => Judged::Short(row),
            Taken::Short => Judged::No(out_of_credit(id, *amount, &credit, held)),
        }
    }

    fn commit(&self, _: TxId, _: &HeldCredit, _: &[Receipt], _: &mut Rows<'_, Self>) {
        // The vote took the money already, and the order says what it was spent on.
    }

    fn abort(&self, hold: &HeldCredit, rows: &mut Rows<'_, Self>) {
        if let Some(credit) = user(rows, &hold.user_id) {
            let after = credit.give_back(hold.amount, hold.incarnation);
            if after != credit {
                rows.put(user_row(&hold.user_id), Record::User(after));
            }
        }
    }
}

/// A hold as the primary gets it and as it is stored.
fn receipt_of(hold: &HeldCredit) -> wire::HoldCreditReceipt {
    wire::HoldCreditReceipt {
        user_id: hold.user_id.to_string(),
        amount: hold.amount.get(),
        incarnation: hold.incarnation.start.0,
        incarnation_change: hold.incarnation.change,
    }
}

#[cfg(test)]
mod tests;
