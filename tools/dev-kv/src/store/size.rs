//! The size of a store.

/// Sizes of a store on disk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreSize {
    /// Bytes on disk, of tables and journals.
    pub(crate) disk_bytes: u64,
    /// Bytes of tables. The rest are journals, which are allocated in advance and reused.
    pub(crate) table_bytes: u64,
    /// Approximate number of displaced records.
    pub(crate) history_rows: usize,
}
