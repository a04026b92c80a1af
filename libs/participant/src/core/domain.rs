//! The decisions of a service.

use types::TxId;

use super::Rows;
use crate::records::{Executed, Judged, Receipt, Records, Row};

/// The decisions of one service. They are pure: not async, no I/O, no clock. Their only time is the
/// start timestamp of the KV transaction ([`Rows::stamp`]).
///
/// A method that does not succeed must leave the rows as they were.
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
    /// Makes a hold final. Only the primary gets receipts.
    fn commit(
        &self,
        tx_id: TxId,
        hold: &Self::Hold,
        receipts: &[Receipt],
        rows: &mut Rows<'_, Self>,
    ) where
        Self: Sized;
    /// Returns what a hold has set aside.
    fn abort(&self, hold: &Self::Hold, rows: &mut Rows<'_, Self>)
    where
        Self: Sized;
}
