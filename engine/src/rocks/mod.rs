//! The RocksDB half: the only place that sees `rocksdb` (contracts: C1).

mod files;
mod folder;
mod install;
mod log;
mod options;
mod poison;
mod state;
mod stats;
mod watermark;
mod write;

use std::path::Path;

pub use folder::{FolderDisk, FolderFile, SnapshotFolder};
pub use log::RocksLog;
pub use options::{
    BlockCache, LOG_WRITE_BUFFER_BYTES, LogOptions, STATE_WRITE_BUFFER_BYTES, StateOptions,
    WRITE_BUFFER_BYTES_MIN,
};
pub use state::{RocksSnapshot, RocksState};
pub use stats::DbStats;

use state::StatePaths;

use crate::codec::{FORMAT, Identity};
use crate::{DataDir, EngineError};

/// What RocksDB says about a full disk, before the colon and its own words.
const NO_SPACE: &str = "IO error: No space left on device";
/// Before the failure in the background that makes RocksDB refuse a write.
const REFUSED: &str = "Result incomplete: ";

/// Sorts a failure of RocksDB by what follows from it.
fn failure(path: &Path, operation: &'static str, error: &rocksdb::Error) -> EngineError {
    let detail = error.to_string();
    let cause = detail.strip_prefix(REFUSED).unwrap_or(&detail);
    match error.kind() {
        rocksdb::ErrorKind::Corruption => EngineError::corrupt(path.display().to_string(), detail),
        _ if cause.starts_with(NO_SPACE) => EngineError::NoSpace {
            path: path.to_owned(),
            operation,
        },
        _ => EngineError::Disk {
            path: path.to_owned(),
            operation,
            detail,
        },
    }
}

/// Sorts a failure to open: what is not there, or not what the manifest says, is damage.
fn open_failure(path: &Path, error: &rocksdb::Error) -> EngineError {
    let detail = error.to_string();
    let missing = detail.starts_with("IO error: No such file or directory");
    match error.kind() {
        rocksdb::ErrorKind::InvalidArgument | rocksdb::ErrorKind::NotFound => {
            EngineError::corrupt(path.display().to_string(), detail)
        }
        _ if missing => EngineError::corrupt(path.display().to_string(), detail),
        _ => failure(path, "opening the database", error),
    }
}

/// Compares the identity found in a database with the one its store expects.
fn check_identity(path: &Path, found: Option<Vec<u8>>, expected: Identity) -> crate::Result<()> {
    let place = || path.display().to_string();
    let found =
        found.ok_or_else(|| EngineError::corrupt(place(), "it does not say whose it is"))?;
    let found = Identity::decode(&found).ok_or_else(|| {
        EngineError::corrupt(place(), format!("an identity of {} bytes", found.len()))
    })?;
    if found.format > FORMAT {
        return Err(EngineError::Newer {
            path: path.to_owned(),
            found: found.format,
            known: FORMAT,
        });
    }
    if (found.cluster_id, found.store_id) != (expected.cluster_id, expected.store_id) {
        return Err(EngineError::Foreign {
            path: path.to_owned(),
            found: (found.cluster_id, found.store_id),
            expected: (expected.cluster_id, expected.store_id),
        });
    }
    Ok(())
}

/// Opens the raft log of a store, or creates it while the store is being created.
pub fn open_log(dir: &DataDir, options: &LogOptions) -> crate::Result<RocksLog> {
    let (path, identity) = (dir.log_path(), identity(dir));
    if dir.is_unfinished() {
        RocksLog::create(&path, identity, options)
    } else {
        RocksLog::open(&path, identity, options)
    }
}

/// Opens the state of a store, or creates it while the store is being created.
pub fn open_state(dir: &DataDir, options: &StateOptions) -> crate::Result<RocksState> {
    let identity = identity(dir);
    let paths = StatePaths {
        state: dir.state_path(),
        install: dir.snapshots_path(),
    };
    if dir.is_unfinished() {
        RocksState::create(&paths, identity, options)
    } else {
        RocksState::open(&paths, identity, options)
    }
}

/// Opens the snapshots of a store. Call it once, before the first install: what an interrupted one
/// left is removed.
pub fn open_snapshots(dir: &DataDir) -> crate::Result<SnapshotFolder> {
    FolderDisk::open(dir.snapshots_path()).map(SnapshotFolder::on)
}

fn identity(dir: &DataDir) -> Identity {
    let ids = dir.ids();
    Identity {
        format: FORMAT,
        cluster_id: ids.cluster_id,
        store_id: ids.store_id,
    }
}
