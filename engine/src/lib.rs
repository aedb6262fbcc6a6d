//! Storage of one store: the raft log that all its regions share, and the key-value state.
//!
//! Both are small traits, [`RaftLog`] and [`StateStore`], with two implementations: RocksDB (module
//! `rocks`, behind the feature of that name) and [`memory`], a deterministic twin that can crash,
//! tear, fail and fill up. One test-suite runs on both and compares them.
//!
//! What a caller owes them:
//! - **Log.** Append in the order in which things happened, from one thread; sync from another.
//!   Nothing is durable before [`RaftLog::sync`] returned a number at least as high as
//!   [`RaftLog::append`] did. Truncate nothing beyond [`StateStore::durable_applied`].
//! - **State.** Write from one thread. Nothing is durable before a flush; look at
//!   [`StateStore::refresh_durable`] every 100 ms, and at [`StateStore::pressure`] before writing.
//! - **Snapshots** of regions ([`SnapshotFiles`], [`SnapshotInstall`]). Verified and synced first,
//!   then one synced log batch with a [`LogBatch::set_intent`], then installed; files and intent go
//!   when it is durable in the state, the intent first. They read and write files: never on a poller.
//! - **Errors.** Each [`EngineError`] on the way of the data ends the store that met it; nothing is
//!   retried. A [`SnapshotError`] ends a snapshot.
//!
//! At start: [`RaftLog::load`] refuses a log that is not whole, [`RegionLog::check_applied`] and
//! [`RegionLog::check_peer`] one that does not fit the state. `docs/format.md` draws every record.

mod cache;
#[cfg(feature = "rocks")]
mod codec;
#[cfg(feature = "rocks")]
mod crash;
#[cfg(feature = "rocks")]
mod data_dir;
mod durable;
mod error;
mod flush_watch;
mod log;
pub mod memory;
mod region_log;
#[cfg(feature = "rocks")]
pub mod rocks;
pub mod row;
mod snapshot;
mod space;
mod split;
mod state;

pub use cache::{ByteBudget, ENTRY_CACHE_BYTES, EntryCache};
#[cfg(feature = "rocks")]
pub use data_dir::{DataDir, DataDirError, StoreIds};
pub use error::{EngineError, Result};
pub use flush_watch::{FLUSH_STALL_MAX, FlushProgress, FlushWatch};
pub use log::{BIRTH, ENTRY_OVERHEAD_BYTES, LogBatch, LogSpan, RaftLog, RegionLog, RegionWrite};
pub use region_log::RecordMatch;
pub use snapshot::{
    META_REGION, Pace, RowSink, SNAPSHOT_BATCH_BYTES, SnapshotError, SnapshotFiles,
    SnapshotInstall, SnapshotKey, SnapshotResult, installs_as_batch, snapshot_bytes, snapshot_cfs,
    snapshot_ops, snapshot_range,
};
pub use space::{DISK_RESERVE_EXTRA_BYTES, disk_reserve_bytes};
#[cfg(feature = "rocks")]
pub use space::{disk_bytes, free_bytes};
pub use split::{SPLIT_KEYS_MAX, SplitCheck, SplitLimits, split_check};
pub use state::{
    Cf, DATA_CFS, FlushReason, KeyRange, Pressure, StateBatch, StateOp, StateReader, StateStore,
    StoredRegion,
};
