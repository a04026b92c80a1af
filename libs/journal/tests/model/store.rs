//! The store: one shard's head, journal and records, with snapshot isolation.

use journal::{Author, Head, Image, LIFE_MAX_MS, Piece};

use bytes::Bytes;

/// Number of records.
pub(crate) const ROWS: usize = 2;
/// The store forgets a removed key, and the conflict with it, this long after the removal, in
/// milliseconds.
pub(crate) const GC_MS: u64 = 10 * LIFE_MAX_MS;

const KEYS: [&[u8]; ROWS] = [b"a", b"b"];
static VALUES: [u8; 16] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// A record's value: the operations that it shows, one bit each. None where there is no record.
pub(crate) type Value = Option<u8>;

/// A set of operations, one bit each.
pub(crate) type Ops = u8;

/// What an operation makes of a record; none if it leaves the record alone. Operation 0 writes both
/// records, so that a piece may end between them. Operation 2 removes one.
pub(crate) fn effect(op: u8, row: usize, value: Value) -> Option<Value> {
    let set = || Some(Some(value.unwrap_or(0) | 1 << op));
    match (op, row) {
        (0, _) | (1, 0) | (3, 1) => set(),
        (2, 0) => Some(None),
        _ => None,
    }
}

/// The operations of a set, in order.
pub(crate) fn each(ops: Ops) -> impl Iterator<Item = u8> {
    (0..8).filter(move |op| ops & 1 << op != 0)
}

/// A point in the store's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timestamp {
    /// Its place in the order of all timestamps.
    pub(crate) order: u64,
    pub(crate) ms: u64,
}

/// An entry of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) author: Author,
    pub(crate) previous: Option<Author>,
    pub(crate) start: Timestamp,
    pub(crate) ops: Ops,
    pub(crate) images: [Option<Value>; ROWS],
    /// Whether it states the fact.
    pub(crate) says: bool,
}

impl Entry {
    pub(crate) fn images(&self) -> impl Iterator<Item = Image> {
        self.images.iter().zip(0..).filter_map(|(image, row)| {
            let value = (*image)?;
            Some(Image { row: key(row), value: value.map(bytes) })
        })
    }
}

pub(crate) fn key(row: usize) -> Bytes {
    Bytes::from_static(KEYS[row])
}

fn bytes(value: u8) -> Bytes {
    let at = usize::from(value);
    Bytes::from_static(&VALUES[at..=at])
}

pub(crate) fn value(bytes: Option<&Bytes>) -> Value {
    bytes.and_then(|bytes| bytes.first().copied())
}

fn row_of(key: &Bytes) -> usize {
    usize::from(key.as_ref() != KEYS[0])
}

/// An append on its way.
#[derive(Debug, Clone)]
pub(crate) struct Append {
    pub(crate) seq: u64,
    pub(crate) entry: Entry,
    /// The head to write where the shard has none yet.
    pub(crate) opens: Option<Head>,
}

/// The key of an entry.
#[derive(Debug, Clone, Default)]
struct Slot {
    entry: Option<Entry>,
    /// Order of its newest version; 0 if there is none, or if it was forgotten.
    version: u64,
    removed_ms: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Store {
    pub(crate) head: Option<Head>,
    head_version: u64,
    slots: Vec<Slot>,
    pub(crate) rows: [Value; ROWS],
}

impl Store {
    pub(crate) fn new(head: Option<Head>) -> Self {
        Self { head, head_version: 0, slots: Vec::new(), rows: [None; ROWS] }
    }

    fn slot(&mut self, seq: u64) -> &mut Slot {
        let at = usize::try_from(seq - 1).unwrap_or(usize::MAX);
        while self.slots.len() <= at {
            self.slots.push(Slot::default());
        }
        &mut self.slots[at]
    }

    fn peek(&self, seq: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(seq.checked_sub(1)?).ok()?)
    }

    /// The entry with this number, if it stands.
    pub(crate) fn entry(&self, seq: u64) -> Option<&Entry> {
        self.peek(seq)?.entry.as_ref()
    }

    /// The number of the last key.
    pub(crate) fn end(&self) -> u64 {
        u64::try_from(self.slots.len()).unwrap_or(u64::MAX)
    }

    /// All entries from `first` on.
    pub(crate) fn scan(&self, first: u64) -> Vec<(u64, &Entry)> {
        (first..=self.end()).filter_map(|seq| Some((seq, self.entry(seq)?))).collect()
    }

    pub(crate) fn has_newer_entry(&self, seq: u64, start: Timestamp) -> bool {
        self.peek(seq).is_some_and(|slot| slot.version > start.order)
    }

    /// Whether the head was written after `start`. Every writer of a record also writes the head,
    /// so versions of records need not be compared.
    pub(crate) fn has_newer_head(&self, start: Timestamp) -> bool {
        self.head_version > start.order
    }

    pub(crate) fn refuses(&self, append: &Append, inserts: bool) -> bool {
        let Append { seq, entry, opens } = append;
        self.has_newer_entry(*seq, entry.start)
            || (inserts && self.entry(*seq).is_some())
            || (opens.is_some() && self.has_newer_head(entry.start))
    }

    pub(crate) fn append(&mut self, append: &Append, at: Timestamp) {
        let entry = Some(append.entry.clone());
        *self.slot(append.seq) = Slot { entry, version: at.order, removed_ms: 0 };
        if append.opens.is_some() {
            self.head = append.opens;
            self.head_version = at.order;
        }
    }

    pub(crate) fn write(&mut self, piece: &Piece, skipped: usize, at: Timestamp) {
        self.head = Some(piece.after);
        self.head_version = at.order;
        for image in piece.rows.iter().skip(skipped) {
            self.rows[row_of(&image.row)] = value(image.value.as_ref());
        }
        for seq in piece.before.oldest..piece.after.oldest {
            *self.slot(seq) = Slot { entry: None, version: at.order, removed_ms: at.ms };
        }
    }

    /// Forgets keys that were removed at least [`GC_MS`] ago.
    pub(crate) fn collect_garbage(&mut self, now: u64) {
        for slot in &mut self.slots {
            if slot.entry.is_none() && now.saturating_sub(slot.removed_ms) >= GC_MS {
                slot.version = 0;
            }
        }
    }

    /// A row as a reader from outside sees it. It reads the head and the journal here, and the
    /// records from `records`.
    pub(crate) fn read(&self, row: usize, records: &Self) -> Value {
        let head = self.head.unwrap_or_default();
        let mut found = records.rows[row];
        for (_, entry) in self.scan(head.oldest.max(head.flushed + 1)) {
            found = entry.images[row].unwrap_or(found);
        }
        found
    }
}
