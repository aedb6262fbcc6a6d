//! The deterministic twin of the RocksDB half: the same traits in memory, with crashes and faults.
//!
//! It keeps through a crash what RocksDB keeps (contracts: C32): of the log everything synced and
//! any prefix of the rest, a torn last batch being cut off; of the state the last flushed cut, with
//! the snapshots that were ingested meanwhile; of snapshots' files what was synced.
//! It draws nothing itself: whoever crashes it decides how much survives.

mod disk;
mod fault;
mod log;
mod planted;
mod state;

pub use disk::{MemoryDisk, MemoryFile, MemorySnapshots};
pub use fault::{Fault, FaultKind, FaultPoint};
pub use log::MemoryLog;
pub use planted::PLANTED;
#[cfg(feature = "planted")]
pub use planted::Planted;
pub use state::{MemorySnapshot, MemoryState};
