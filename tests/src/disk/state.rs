//! The state database, watched.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flotilla_engine::memory::{Fault, MemorySnapshot, MemoryState};
use flotilla_engine::row::Expiry;
use flotilla_engine::{
    Cf, FlushReason, KeyRange, Pressure, Result, SnapshotFiles, SnapshotInstall, SnapshotKey,
    SnapshotResult, StateBatch, StateOp, StateReader, StateStore, StoredRegion,
};
use flotilla_proto::store::SnapshotManifest;
use parking_lot::Mutex;
use prost::Message as _;

use crate::checkers::Shared;
use crate::checkers::state::Cut;
use crate::trace::digest;

/// Whether a write filled the memtables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushDue {
    /// They have room.
    No,
    /// The database would begin a flush by itself now.
    Yes,
}

/// The in-memory state; the checkers see every batch and every flush.
#[derive(Debug)]
pub struct WatchedState {
    store: u64,
    pub(super) inner: MemoryState,
    oracle: Shared,
    /// Bytes at which the database flushes by itself; 0: never.
    auto_flush_bytes: AtomicU64,
    /// The number of the last batch.
    written: AtomicU64,
    flushing: Mutex<VecDeque<Cut>>,
}

impl WatchedState {
    pub(super) fn new(store: u64, inner: MemoryState, oracle: Shared) -> Self {
        let written = AtomicU64::new(inner.durable_cut());
        Self {
            store,
            inner,
            oracle,
            auto_flush_bytes: AtomicU64::new(0),
            written,
            flushing: Mutex::default(),
        }
    }

    /// From now on a write that fills memtables of `bytes` is flushed before it returns: at a start
    /// nobody else could do it. `None`: [`WatchedState::flush_due`] tells, and the caller flushes.
    pub fn auto_flush(&self, bytes: Option<u64>) {
        self.auto_flush_bytes
            .store(bytes.unwrap_or(0), Ordering::Relaxed);
    }

    /// Whether `bytes` in the memtables are reached and no flush is under way.
    pub fn flush_due(&self, bytes: u64) -> FlushDue {
        let full = self.inner.pressure().memtable_bytes >= bytes && self.flushing.lock().is_empty();
        if full { FlushDue::Yes } else { FlushDue::No }
    }

    /// Plans a fault.
    pub fn inject(&self, fault: Fault) {
        self.inner.inject(fault);
    }

    /// Damages the first data row at or behind `key`. `false`: there is none.
    pub fn rot(&self, key: &[u8]) -> bool {
        self.inner.rot(Cf::CfDefault, key)
    }

    /// Overrides what the database says of its pressure.
    pub fn force_pressure(&self, pressure: Option<Pressure>) {
        self.inner.force_pressure(pressure);
    }

    /// The moment of a flush's cut.
    pub fn begin_flush(&self) {
        let cut = self
            .oracle
            .lock()
            .flush_begins(self.store, self.written.load(Ordering::Relaxed));
        self.inner.begin_flush();
        self.flushing.lock().push_back(cut);
    }

    /// The oldest flush under way is done. Answers whether there was one.
    pub fn finish_flush(&self) -> Result<bool> {
        let finished = self.inner.finish_flush()?;
        if let Some(cut) = self.flushing.lock().pop_front() {
            assert!(finished, "every flush under way has its cut");
            let mut oracle = self.oracle.lock();
            oracle.note(format_args!(
                "store {}: a flush is done: {cut:?}",
                self.store
            ));
            oracle.flush_finished(self.store, cut, &self.inner.crash());
        }
        Ok(finished)
    }

    /// Flushes under way.
    pub fn flushes(&self) -> usize {
        self.flushing.lock().len()
    }

    /// Drops rows that a compaction may drop. Answers how many.
    pub fn compact(&self, expiry: &Expiry, seconds: u64) -> u64 {
        let count = |state: &MemoryState| {
            let mut rows = 0;
            for cf in flotilla_engine::DATA_CFS {
                let everything = KeyRange {
                    start: b"",
                    end: b"",
                };
                let counted = state.frozen().scan(cf, everything, false, &mut |_, _| {
                    rows += 1;
                    true
                });
                counted.expect("a snapshot in memory is always read");
            }
            rows
        };
        let before: u64 = count(&self.inner);
        self.oracle.lock().compacted(self.store, seconds);
        self.inner.compact(expiry);
        before - count(&self.inner)
    }

    /// All of the state is what the log makes of it.
    pub fn check_all(&self) {
        let mut oracle = self.oracle.lock();
        oracle.check_all_rows(self.store, &self.inner);
        oracle.check_regions(self.store, &self.inner);
    }

    fn flush(&self) -> Result<()> {
        self.begin_flush();
        while self.finish_flush()? {}
        Ok(())
    }
}

impl StateReader for WatchedState {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        self.inner.get(cf, key)
    }

    fn scan(
        &self,
        cf: Cf,
        range: KeyRange<'_>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.inner.scan(cf, range, reverse, row)
    }

    fn stored_region(&self, region: u64) -> Result<Option<StoredRegion>> {
        self.inner.stored_region(region)
    }
}

impl StateStore for WatchedState {
    type Snapshot = MemorySnapshot;

    fn write(&self, batch: &StateBatch) -> Result<u64> {
        let number = self.inner.write(batch)?;
        self.written.store(number, Ordering::Relaxed);
        {
            let mut oracle = self.oracle.lock();
            oracle.note(format_args!(
                "store {}: state batch {number}: {} changes",
                self.store,
                batch.ops.len()
            ));
            oracle.trace.mix([self.store, number]);
            oracle.trace.mix(batch.ops.iter().flat_map(numbers_of));
            oracle.state_written(self.store, number, batch, &self.inner);
        }
        let limit = self.auto_flush_bytes.load(Ordering::Relaxed);
        if limit > 0 && self.flush_due(limit) == FlushDue::Yes {
            self.oracle.lock().probes.hit("flush: by itself");
            self.flush()?;
        }
        Ok(number)
    }

    fn snapshot(&self) -> MemorySnapshot {
        self.inner.snapshot()
    }

    fn regions(&self) -> Result<Vec<StoredRegion>> {
        self.inner.regions()
    }

    fn durable_applied(&self, region: u64) -> u64 {
        self.inner.durable_applied(region)
    }

    fn durable_cut(&self) -> u64 {
        self.inner.durable_cut()
    }

    fn first_undurable_admin(&self) -> Option<u64> {
        self.inner.first_undurable_admin()
    }

    fn flush_waiting(&self) -> bool {
        self.inner.flush_waiting()
    }

    fn refresh_durable(&self) -> Result<Vec<(u64, u64)>> {
        let risen = self.inner.refresh_durable()?;
        self.oracle.lock().reported_durable(self.store, &risen);
        Ok(risen)
    }

    fn flush_all(&self, _reason: FlushReason) -> Result<()> {
        self.flush()
    }

    fn pressure(&self) -> Pressure {
        self.inner.pressure()
    }

    fn approximate_bytes(&self, range: KeyRange<'_>) -> Result<u64> {
        self.inner.approximate_bytes(range)
    }
}

impl SnapshotInstall for WatchedState {
    fn install(
        &self,
        files: &impl SnapshotFiles,
        key: &SnapshotKey,
        manifest: &SnapshotManifest,
    ) -> SnapshotResult<()> {
        if let Some(region) = &manifest.region {
            let mut oracle = self.oracle.lock();
            oracle.note(format_args!("store {}: the rows of {key} come", self.store));
            oracle.rows_come(self.store, region, manifest.index);
        }
        self.inner.install(files, key, manifest)
    }
}
/// All that a change says, for the trace.
fn numbers_of(op: &StateOp) -> [u64; 4] {
    match op {
        StateOp::Put { cf, key, value } => [1, *cf as u64, digest(key), digest(value)],
        StateOp::Delete { cf, key } => [2, *cf as u64, digest(key), 0],
        StateOp::DeleteRange { cf, start, end } => [3, *cf as u64, digest(start), digest(end)],
        StateOp::PutApplied { region, record } => [4, *region, record.index, record.term],
        StateOp::DeleteApplied { region } => [5, *region, 0, 0],
        StateOp::PutRegion { record } => [6, digest(&record.encode_to_vec()), 0, 0],
    }
}
