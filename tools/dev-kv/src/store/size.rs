//! What a store takes.

/// What a store holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreSize {
    /// Bytes on disk.
    pub(crate) disk_bytes: u64,
    /// Of these, bytes of tables; the rest are journals, which are made large and used again.
    pub(crate) table_bytes: u64,
    /// Displaced records.
    pub(crate) history_rows: usize,
}
