//! A store's disk: the in-memory engine, watched by the checkers, with faults.
//!
//! What a process leaves behind is two databases. A crash takes the log back to what was synced and
//! any part of the rest, the state to its last flushed cut.

mod log;
mod state;

use std::sync::Arc;

pub use log::WatchedLog;
pub use state::{FlushDue, WatchedState};

use flotilla_engine::memory::{MemoryLog, MemoryState};
use flotilla_engine::{FlushReason, RaftLog as _, StateStore as _};
use flotilla_raftstore::boot;

use crate::checkers::Shared;
use crate::world::World;

/// The two databases of one store.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The raft log.
    pub log: Arc<WatchedLog>,
    /// The state.
    pub state: Arc<WatchedState>,
}

impl Disk {
    /// A new store, as a cluster is created: its first regions are durable.
    pub fn create(store: u64, world: &World, oracle: &Shared) -> Self {
        let state = MemoryState::new();
        let first = boot::first_state(store, world.first_regions(), world.first_meta());
        let created = state
            .write(&first)
            .and_then(|_| state.flush_all(FlushReason::Manual));
        created.expect("memory without faults takes everything");
        let mut disk = Self::over(store, MemoryLog::new(), state, oracle);
        disk.after_crash(store, world, oracle);
        disk
    }

    fn over(store: u64, log: MemoryLog, state: MemoryState, oracle: &Shared) -> Self {
        Self {
            log: Arc::new(WatchedLog::new(store, log, Arc::clone(oracle))),
            state: Arc::new(WatchedState::new(store, state, Arc::clone(oracle))),
        }
    }

    /// The disk as it is found after a crash. Of the batches that were written and not synced as
    /// many are kept as `keep` says of their number.
    pub fn crash(
        &self,
        store: u64,
        world: &World,
        keep: impl FnOnce(u64) -> u64,
        oracle: &Shared,
    ) -> Self {
        let mut kept = 0;
        let log = self.log.inner.crash(|offered| {
            kept = keep(offered);
            kept
        });
        let state = self.state.inner.crash();
        {
            let mut oracle = oracle.lock();
            oracle.store(store).log.crashed(kept);
            oracle.undurable_crashed(store);
        }
        let mut disk = Self::over(store, log, state, oracle);
        disk.after_crash(store, world, oracle);
        disk
    }

    fn after_crash(&mut self, store: u64, world: &World, oracle: &Shared) {
        let found = self.log.inner.load().expect("nothing is damaged");
        let mut oracle = oracle.lock();
        let oracle = &mut *oracle;
        oracle.store(store).failed = false;
        oracle.stores[&store].log.found(&found, &mut oracle.checks);
        oracle.state_crashed(store, &self.state.inner);
        self.state.auto_flush(world.auto_flush_bytes);
    }
}
