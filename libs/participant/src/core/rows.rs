//! Records in memory, and the view of them that a domain gets.

use rustc_hash::FxHashMap;
use storage::Value;
use twopc::{participant::TransactionTable, undo::UndoMap};
use types::{Mutation, Priority, Stamp, TxId};

use super::{Changed, Core, Domain, Run};
use crate::records::{Holder, Row};

/// Bytes that a changed record adds to a batch besides its row and its value.
pub(super) const RECORD_BYTES: usize = 8;

/// A cache of records as of the end of the journal, including absent ones. It has two generations.
/// A read moves a record to the young one; when that is half full, the old one is dropped. The
/// cache is never iterated, so nothing depends on the order of a hash map. Records are boxed
/// because about half of the slots of a hash map are empty.
#[derive(Debug)]
pub(super) struct Cache<R> {
    young: FxHashMap<Row, Option<Box<R>>>,
    old: FxHashMap<Row, Option<Box<R>>>,
    limit: usize,
}

impl<R> Cache<R> {
    pub(super) fn new(limit: usize) -> Self {
        Self { young: FxHashMap::default(), old: FxHashMap::default(), limit }
    }

    pub(super) fn contains(&self, row: &[u8]) -> bool {
        self.young.contains_key(row) || self.old.contains_key(row)
    }

    fn get(&mut self, row: &[u8]) -> Option<&R> {
        if let Some((row, record)) = self.old.remove_entry(row) {
            self.young.entry(row).or_insert(record);
        }
        self.young.get(row)?.as_deref()
    }

    pub(super) fn insert(&mut self, row: Row, record: Option<R>) {
        self.old.remove(&row);
        self.young.insert(row, record.map(Box::new));
    }

    pub(super) fn extend(&mut self, records: impl Iterator<Item = (Row, Option<R>)>) {
        for (row, record) in records {
            self.insert(row, record);
        }
    }

    pub(super) fn remove(&mut self, row: &[u8]) {
        self.old.remove(row);
        self.young.remove(row);
    }

    /// Makes room. Call between batches only: a batch needs its records to stay.
    pub(super) fn rotate(&mut self) {
        if self.young.len() > self.limit / 2 {
            self.old = std::mem::take(&mut self.young);
        }
    }
}

/// The rows of a shard as a domain reads and changes them within one batch.
#[derive(Debug)]
pub struct Rows<'a, D: Domain> {
    domain: &'a D,
    run: &'a mut Run<D>,
    records: &'a mut Cache<D::Record>,
    holders: &'a UndoMap<(Row, Priority, TxId), ()>,
    table: &'a TransactionTable<D::Hold>,
}

impl<D: Domain> Rows<'_, D> {
    /// The stamp of the change that the current call makes.
    pub fn stamp(&self) -> Stamp {
        let change = if Mutation::StampsShared.is_on() { 0 } else { self.run.change };
        Stamp { start: self.run.start, change }
    }

    /// A record, as changed by this batch so far.
    pub fn get(&mut self, row: &[u8]) -> Option<&D::Record> {
        if self.run.dirty.contains_key(row) {
            return self.run.dirty.get(row).and_then(|changed| changed.record.as_ref());
        }
        if !self.records.contains(row) {
            // The batch is void now: the lane loads the row and starts again.
            self.run.missing.insert(row.to_vec());
            return None;
        }
        self.records.get(row)
    }

    /// Sets a record.
    pub fn put(&mut self, row: Row, record: D::Record) {
        self.change(row, Some(record));
    }

    /// Removes a record.
    pub fn delete(&mut self, row: Row) {
        self.change(row, None);
    }

    fn change(&mut self, row: Row, record: Option<D::Record>) {
        let len = |value: &Option<Value>| value.as_ref().map_or(0, Vec::len);
        let value = record.as_ref().map(|record| self.domain.encode_record(record));
        self.run.bytes += len(&value);
        match self.run.dirty.insert(row.clone(), Changed { record, value }) {
            Some(before) => self.run.bytes -= len(&before.value),
            None => self.run.bytes += row.len() + RECORD_BYTES,
        }
        self.run.changed.insert(row);
    }

    /// Holders of something on a row, oldest first.
    pub fn holders(&self, row: &[u8]) -> impl Iterator<Item = Holder<'_, D::Hold>> {
        holders_of(self.holders, row).filter_map(|(priority, tx_id)| {
            let hold = self.table.get(tx_id)?.hold.as_ref()?;
            Some(Holder { tx_id, priority, hold })
        })
    }
}

/// Transactions that hold something on a row, oldest first.
pub(super) fn holders_of(
    holders: &UndoMap<(Row, Priority, TxId), ()>,
    row: &[u8],
) -> impl DoubleEndedIterator<Item = (Priority, TxId)> {
    let least = Priority { begin_ts: 0, nonce: 0 };
    let greatest = Priority { begin_ts: u64::MAX, nonce: u64::MAX };
    let from = (row.to_vec(), least, TxId([0; 16]));
    let to = (row.to_vec(), greatest, TxId([u8::MAX; 16]));
    holders.range(from..=to).map(|((_, priority, tx_id), ())| (*priority, *tx_id))
}

impl<D: Domain> Core<D> {
    pub(super) fn is_loaded(&self, row: &[u8]) -> bool {
        self.run.dirty.contains_key(row)
            || self.records.contains(row)
            || self.loaded_answers.contains_key(row)
    }

    /// The domain, and its view of the rows.
    pub(super) fn rows(&mut self) -> (std::sync::Arc<D>, Rows<'_, D>) {
        let rows = Rows {
            domain: &*self.domain,
            run: &mut self.run,
            records: &mut self.records,
            holders: &self.holders,
            table: &self.table,
        };
        (std::sync::Arc::clone(&self.domain), rows)
    }
}
