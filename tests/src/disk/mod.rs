//! A store's disk: the in-memory engine, watched by the checkers, with faults.
//!
//! What a process leaves behind is two databases. A crash takes the log back to what was synced and
//! any part of the rest, the state to its last flushed cut.

mod log;
mod state;

use std::sync::Arc;

pub use log::WatchedLog;
pub use state::{FlushDue, WatchedState};

use flotilla_engine::memory::{MemoryLog, MemorySnapshots, MemoryState};
use flotilla_engine::{FlushReason, RaftLog as _, StateStore as _};
use flotilla_proto::metapb::Region;
use flotilla_raftstore::boot;
use flotilla_raftstore::region::{META_REGION, peer_on};

use crate::checkers::Shared;
use crate::world::World;

/// The two databases of one store.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The raft log.
    pub log: Arc<WatchedLog>,
    /// The state.
    pub state: Arc<WatchedState>,
    /// The files of snapshots.
    pub snapshots: Arc<MemorySnapshots>,
}

impl Disk {
    /// A new store, as a cluster is created: its first regions are durable.
    pub fn create(store: u64, world: &World, oracle: &Shared) -> Self {
        let state = MemoryState::new();
        let here = |region: &Region| peer_on(region, store).is_some();
        let regions: Vec<Region> = world.first_regions().into_iter().filter(here).collect();
        let pd = regions.iter().any(|region| region.id == META_REGION);
        let meta = if pd { world.first_meta() } else { Vec::new() };
        let first = boot::first_state(store, regions, meta);
        let created = state
            .write(&first)
            .and_then(|_| state.flush_all(FlushReason::Manual));
        created.expect("memory without faults takes everything");
        let files = MemorySnapshots::new();
        let mut disk = Self::over(store, MemoryLog::new(), state, files, oracle);
        disk.after_crash(store, world, oracle);
        disk
    }

    fn over(
        store: u64,
        log: MemoryLog,
        state: MemoryState,
        snapshots: MemorySnapshots,
        oracle: &Shared,
    ) -> Self {
        Self {
            log: Arc::new(WatchedLog::new(store, log, Arc::clone(oracle))),
            state: Arc::new(WatchedState::new(store, state, Arc::clone(oracle))),
            snapshots: Arc::new(snapshots),
        }
    }

    /// The disk as it is found after a crash. Of the batches that were written and not synced, and of
    /// what no sync covered of the files of snapshots, as many are kept as `keep` says of their number.
    pub fn crash(
        &self,
        store: u64,
        world: &World,
        mut keep: impl FnMut(u64) -> u64,
        oracle: &Shared,
    ) -> Self {
        let (mut kept, mut written) = (0, 0);
        let log = self.log.inner.crash(|offered| {
            (kept, written) = (keep(offered), offered);
            kept
        });
        let state = self.state.inner.crash();
        {
            let mut oracle = oracle.lock();
            oracle.note(format_args!(
                "store {store}: the crash kept {kept} of {written} unsynced batches"
            ));
            oracle
                .probes
                .hit_if(kept < written, "crash: the unsynced log was lost in part");
            oracle.store(store).log.crashed(kept);
            let votes = oracle.store(store).log.take_votes();
            oracle.durable_votes(votes);
            oracle.undurable_crashed(store);
            oracle.leases_end(store);
            let seen = oracle.store(store);
            drop(seen.log.take_intents());
            seen.snapshot_steps.clear();
        }
        let mut lost = false;
        let files = self.snapshots.crash(|offered| {
            let kept = keep(offered);
            lost |= kept < offered;
            kept
        });
        oracle.lock().probes.hit_if(
            lost,
            "crash: unsynced files of a snapshot were lost in part",
        );
        let mut disk = Self::over(store, log, state, files, oracle);
        disk.after_crash(store, world, oracle);
        disk
    }

    /// What has rotten is written anew, from a copy.
    pub fn restore(&self) {
        self.log.inner.restore();
        self.state.inner.restore();
    }

    fn after_crash(&mut self, store: u64, world: &World, oracle: &Shared) {
        let found = self.log.inner.load();
        let mut oracle = oracle.lock();
        let oracle = &mut *oracle;
        oracle.store(store).failed = false;
        // Where bytes have rotten the start will see it.
        if let Ok(found) = &found {
            oracle.stores[&store].log.found(found, &mut oracle.checks);
        }
        oracle.state_crashed(store, &self.state.inner);
        self.state.auto_flush(world.auto_flush_bytes);
        #[cfg(feature = "planted")]
        if let Some(rule) = world.plants.engine {
            self.log.inner.plant(rule);
            self.state.inner.plant(rule);
            self.snapshots.plant(rule);
        }
    }
}
