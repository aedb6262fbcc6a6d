//! What can go wrong with the storage, and by whose fault it is.

use std::io;
use std::path::PathBuf;

/// An error of the engine. Nothing here is retried: on the way of the data every one of them ends the
/// store that met it (design, rule 8). The text tells what happened; what follows is the caller's to
/// say. [`EngineError::NoSpace`] is apart only so that the message can say what to do.
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
    #[error("{operation} failed on {path}: {detail}")]
    Disk {
        /// The database folder.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
        /// The cause as the layer below tells it.
        detail: String,
    },
    /// The folder is not there: somebody has moved or removed it, or what was mounted there is gone.
    #[error("{path} is gone: {operation} failed; put the folder back and start the node again")]
    Gone {
        /// The database folder.
        path: PathBuf,
        /// What was being done.
        operation: &'static str,
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

    /// An operating-system error, a full disk and a missing folder told apart by their kind.
    pub fn disk(path: impl Into<PathBuf>, operation: &'static str, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace {
                path: path.into(),
                operation,
            },
            io::ErrorKind::NotFound => Self::Gone {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_what_happened_and_nothing_that_is_the_caller_s_to_say() {
        #[track_caller]
        fn check(error: io::Error, expected: &str) {
            let error = EngineError::disk("/data", "asking for free space", &error);
            assert_eq!(error.to_string(), expected);
        }
        check(
            io::Error::other("the cable is out"),
            "asking for free space failed on /data: the cable is out",
        );
        check(
            io::ErrorKind::NotFound.into(),
            "/data is gone: asking for free space failed; put the folder back and start the node again",
        );
        for full in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            check(
                full.into(),
                "no space left on the device that holds /data: asking for free space failed; free space and restart",
            );
        }
    }
}
