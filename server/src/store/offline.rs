//! A store that is opened and not run: for tools that look at it, or mend it, while it is stopped.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::rocks::{
    self, BlockCache, LogOptions, RocksLog, RocksState, SnapshotFolder, StateOptions,
};
use flotilla_engine::row::Expiry;
use flotilla_engine::{Cf, DataDir, FlushReason, KeyRange, StateReader, StateStore, StoreIds};
use flotilla_raftstore::boot::{self, Boot};

use super::{OpenError, clock};
use crate::config::ByteSize;

/// A tool looks at each block once.
const BLOCK_CACHE: ByteSize = ByteSize::mib(8);

/// The databases of a stopped store. Its folder is locked for as long as this lives.
pub struct OfflineStore {
    /// The raft log.
    pub log: RocksLog,
    /// The state.
    pub state: RocksState,
    snapshots: SnapshotFolder,
    dir: DataDir,
}

impl std::fmt::Debug for OfflineStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("OfflineStore").field(&self.path()).finish()
    }
}

impl OfflineStore {
    /// Opens the store in `path`.
    ///
    /// # Errors
    /// There is none, a process runs on it, or it is damaged.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let dir = DataDir::open(path)?;
        let cache = BlockCache::new(BLOCK_CACHE.memory());
        let log = rocks::open_log(&dir, &LogOptions::new(cache.clone()))?;
        let expiry = Arc::new(Expiry::default());
        let state = rocks::open_state(&dir, &StateOptions::new(cache, expiry))?;
        let snapshots = rocks::open_snapshots(&dir)?;
        Ok(Self {
            log,
            state,
            snapshots,
            dir,
        })
    }

    /// Whose it is.
    pub fn ids(&self) -> StoreIds {
        self.dir.ids()
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Brings every region up to its durable commit, as a start does, and makes that durable.
    ///
    /// # Errors
    /// Log and state do not belong together, or the storage fails.
    pub fn replay(&self) -> Result<Boot, OpenError> {
        let boot = boot::open(
            flotilla_raftstore::Config::default(),
            self.ids().store_id,
            &self.log,
            &self.state,
            &self.snapshots,
            clock::mono(),
        )?;
        self.state.flush_all(FlushReason::Manual)?;
        Ok(boot)
    }

    /// PD's rows: those of the meta region's replica here, if there is one.
    ///
    /// # Errors
    /// The storage fails.
    pub fn meta_rows(&self) -> Result<Vec<(Bytes, Bytes)>, OpenError> {
        let mut rows = Vec::new();
        let all = KeyRange {
            start: b"",
            end: b"",
        };
        self.state.scan(Cf::CfMeta, all, false, &mut |key, value| {
            rows.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            true
        })?;
        Ok(rows)
    }
}
