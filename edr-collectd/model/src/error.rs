//! Why a question about hosts has no answer.

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The host does not exist.
    #[error("no host {0:?}; `edr-collectd hosts` lists those there are")]
    UnknownHost(String),
    /// The host has no snapshot at or before this moment.
    #[error("no snapshot of {host} at or before {at}; its first one is {first}")]
    NothingThen {
        /// The host.
        host: String,
        /// The moment.
        at: String,
        /// When the first snapshot was taken: "of TIME", "not before TIME", or "not archived yet".
        first: String,
    },
    /// The frames are archived, and their content cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// The archive could not be read.
    #[error("{0}")]
    Archive(String),
    /// A limit on time was reached.
    #[error("{0}")]
    Budget(String),
}
