//! What a service decides.

use types::TxId;

use super::Rows;
use crate::records::{Executed, Judged, Receipt, Records, Row};

/// Pure decisions of one service. Nothing here may be async, do I/O, or look at a clock: the only time
/// is the start timestamp of the KV transaction ([`Rows::stamp`]).
///
/// A method that answers anything but success must leave the rows as they were.
pub trait Domain: Records {
    /// Rows that an operation reads.
    fn op_rows(&self, op: &Self::Op) -> Vec<Row>;
    /// Rows that a Prepare reads.
    fn payload_rows(&self, payload: &Self::Payload) -> Vec<Row>;
    /// Rows that a hold lies on.
    fn hold_rows(&self, hold: &Self::Hold) -> Vec<Row>;

    /// Executes an operation.
    fn execute(&self, op: &Self::Op, rows: &mut Rows<'_, Self>) -> Executed<Self::Reply>
    where
        Self: Sized;
    /// Judges a Prepare, and sets aside what it asks for.
    fn prepare(&self, payload: &Self::Payload, rows: &mut Rows<'_, Self>) -> Judged<Self::Hold>
    where
        Self: Sized;
    /// Makes a hold final. Receipts come to the primary only.
    fn commit(
        &self,
        tx_id: TxId,
        hold: &Self::Hold,
        receipts: &[Receipt],
        rows: &mut Rows<'_, Self>,
    ) where
        Self: Sized;
    /// Gives a hold back.
    fn abort(&self, hold: &Self::Hold, rows: &mut Rows<'_, Self>)
    where
        Self: Sized;
}
