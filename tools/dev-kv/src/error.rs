//! Errors of the server as a whole.

/// Why the server did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory cannot be used: in use by another process, of another format, not ours,
    /// or unreadable. Retrying helps only in the first case.
    #[error("data directory: {0}")]
    Store(String),
    /// The TLS files cannot be used. Retrying does not help.
    #[error("tls: {0}")]
    Tls(String),
    /// An argument is out of range. Retrying does not help.
    #[error("configuration: {0}")]
    Config(String),
    /// The socket failed.
    #[error("listener")]
    Listener(#[from] std::io::Error),
}
