//! Storage of one store: the raft log that all its regions share, and the key-value state.
//!
//! Both are small traits with two implementations: RocksDB (feature `rocks`) and a deterministic
//! in-memory twin that can crash, tear, fail and fill up. One test-suite runs on both.

mod cache;
#[cfg(feature = "rocks")]
mod codec;
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
#[cfg(feature = "rocks")]
pub use space::free_bytes;
pub use space::{DISK_RESERVE_EXTRA_BYTES, disk_reserve_bytes};
pub use split::{SPLIT_KEYS_MAX, SplitCheck, SplitLimits, split_check};
pub use state::{
    Cf, DATA_CFS, FlushReason, KeyRange, Pressure, StateBatch, StateOp, StateReader, StateStore,
    StoredRegion,
};
