//! Storage of one store: the raft log that all its regions share, and the key-value state.
//!
//! Both are small traits with two implementations: RocksDB (feature `rocks`) and a deterministic
//! in-memory twin that can crash, tear, fail and fill up. One test-suite runs on both.

#[cfg(any(feature = "rocks", test))]
mod codec;
#[cfg(feature = "rocks")]
mod data_dir;
mod durable;
mod error;
mod log;
pub mod memory;
mod region_log;
#[cfg(feature = "rocks")]
pub mod rocks;
pub mod row;
mod state;

#[cfg(feature = "rocks")]
pub use data_dir::{DataDir, DataDirError, StoreIds};
pub use error::{EngineError, Result};
pub use log::{BIRTH, ENTRY_OVERHEAD_BYTES, LogBatch, LogSpan, RaftLog, RegionLog, RegionWrite};
pub use region_log::RecordMatch;
pub use state::{
    Cf, DATA_CFS, FlushReason, KeyRange, Pressure, StateBatch, StateOp, StateReader, StateStore,
    StoredRegion,
};
