//! The rules of a user's credit: what may happen to it. Pure.

#![deny(clippy::arithmetic_side_effects, clippy::as_conversions)]

use participant::{
    balance::{Balance, Taken},
    core::Domain,
    core::Rows,
    records::{Executed, Judged, Receipt, Records as _, Row, row},
};
use storage::keys::Kind;
use types::{Money, OrderId, Reason, Refusal, Stamp, TxId, UserId};

use crate::records::{HeldCredit, Op, OrderPayment, Payment, Record, Reply};

impl OrderPayment {
    /// True if the payment was not given back and was made by this incarnation of the user.
    pub fn is_in_effect_for(&self, credit: &Balance<Money>) -> bool {
        self.paid && self.incarnation == credit.incarnation
    }

    /// Gives the payment back. Returns the user's credit and the payment afterwards; `held` as for
    /// [`Balance::supply`].
    ///
    /// # Errors
    /// [`Reason::NotPaid`] if the payment is not in effect; [`Reason::Overflow`].
    pub fn cancel(
        self,
        credit: Balance<Money>,
        held: Money,
    ) -> Result<(Balance<Money>, Self), Reason> {
        if !self.is_in_effect_for(&credit) {
            return Err(Reason::NotPaid);
        }
        Ok((credit.supply(self.amount, held)?, Self { paid: false, ..self }))
    }
}

fn user_row(id: &UserId) -> Row {
    row(Kind::User, id.as_str())
}

fn payment_row(user_id: &UserId, order_id: &OrderId) -> Row {
    // Ids never contain '/', so this is unambiguous.
    row(Kind::Payment, &format!("{user_id}/{order_id}"))
}

fn user(rows: &mut Rows<'_, Payment>, id: &UserId) -> Option<Balance<Money>> {
    match rows.get(&user_row(id)) {
        Some(Record::User(credit)) => Some(*credit),
        Some(Record::Payment(_)) | None => None,
    }
}

/// The part of a user's credit that unfinished transactions hold.
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
            && payment(rows, id, order_id).is_some_and(|payment| payment.is_in_effect_for(&credit))
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
            // The id is derived from a request id whose first result is no longer remembered.
            return Executed::Refused(refuse(Reason::RequestIdReused, id));
        }
        let stamp = rows.stamp();
        rows.put(user_row(id), Record::User(Balance::new(Money::ZERO, stamp)));
        Executed::Done(Reply::Credit(0))
    }
}

/// The amount that the given holds have set aside of this incarnation.
pub fn held<'a>(holds: impl Iterator<Item = &'a HeldCredit>, incarnation: Stamp) -> Money {
    let ours = holds.filter(|hold| hold.incarnation == incarnation);
    // Holds of one incarnation never exceed what was supplied, so the sum cannot overflow.
    ours.fold(Money::ZERO, |sum, hold| sum.checked_add(hold.amount).unwrap_or(sum))
}

impl Domain for Payment {
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
            // These overwrite records without reading them.
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
                    let paid = payment.is_some_and(|payment| payment.is_in_effect_for(&credit));
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
                let receipt = self.encode_hold(&hold);
                Judged::Yes { hold, receipt }
            }
            Taken::Wait => Judged::Short(row),
            Taken::Short => Judged::No(out_of_credit(id, *amount, &credit, held)),
        }
    }

    fn commit(&self, _: TxId, _: &HeldCredit, _: &[Receipt], _: &mut Rows<'_, Self>) {
        // The vote has already taken the money, and the order says what it bought.
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

#[cfg(test)]
mod tests;
