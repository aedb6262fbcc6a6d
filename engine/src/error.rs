//! What can go wrong with the storage, by whose fault it is and what follows.

use std::io;
use std::path::PathBuf;

/// An error of the engine. Every one of them ends the store that met it: nothing here is retried
/// (design, rule 8). [`EngineError::NoSpace`] is apart only so that the message can say what to do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Bytes on disk are not what was written. Names the file or record; never served.
    #[error("corrupt data in {place}: {detail}; restore this store from its replicas or a backup")]
    Corrupt {
        /// File, or `region R index I`.
        place: String,
        /// What was expected and what was found.
        detail: String,
    },
    /// The disk is full.
    #[error(
        "no space left on the device that holds {path}: {operation} failed; free space and restart"
    )]
    NoSpace {
        /// The database folder.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
    },
    /// A read, write or sync failed.
    #[error(
        "{operation} failed on {path}: {detail}; the store stops and will replay its log at the next start"
    )]
    Disk {
        /// The database folder.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
        /// The cause as the layer below tells it.
        detail: String,
    },
    /// A format this build does not know.
    #[error(
        "{path} was written by a newer version (format {found}, this build knows up to {known})"
    )]
    Newer {
        /// The database folder.
        path: PathBuf,
        /// Format version found.
        found: u32,
        /// Newest format version this build reads.
        known: u32,
    },
    /// The database belongs to another store: a copied or mixed-up folder.
    #[error(
        "{path} belongs to store {} of cluster {}, not to store {} of cluster {}; put the folder back where it belongs",
        found.1, found.0, expected.1, expected.0
    )]
    Foreign {
        /// The database folder.
        path: PathBuf,
        /// Cluster id and store id found.
        found: (u64, u64),
        /// Cluster id and store id of the store that was opened.
        expected: (u64, u64),
    },
    /// An earlier write or sync failed, and nothing is accepted after that.
    #[error("the storage refused the call: an earlier write or sync failed ({cause})")]
    Poisoned {
        /// The first failure.
        cause: String,
    },
}

impl EngineError {
    /// A corruption at `place`.
    pub fn corrupt(place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Corrupt {
            place: place.into(),
            detail: detail.into(),
        }
    }

    /// An operating-system error, a full disk told apart by its kind.
    pub fn disk(path: impl Into<PathBuf>, operation: &'static str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace {
                path: path.into(),
                operation,
            },
            _ => Self::Disk {
                path: path.into(),
                operation,
                detail: error.to_string(),
            },
        }
    }
}

/// What the engine's calls return.
pub type Result<T> = std::result::Result<T, EngineError>;
