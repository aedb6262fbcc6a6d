//! The raft log, watched.

use std::collections::BTreeMap;

use flotilla_engine::memory::{Fault, MemoryLog};
use flotilla_engine::{EngineError, LogBatch, RaftLog, RegionLog, RegionWrite, Result};
use flotilla_proto::raft::Entry;
use prost::Message as _;

use crate::checkers::log::LogContext;
use crate::checkers::{Shared, SnapshotStep};
use crate::trace::digest;

/// The in-memory log; the checkers see every batch.
#[derive(Debug)]
pub struct WatchedLog {
    store: u64,
    pub(super) inner: MemoryLog,
    oracle: Shared,
}

impl WatchedLog {
    pub(super) fn new(store: u64, inner: MemoryLog, oracle: Shared) -> Self {
        Self {
            store,
            inner,
            oracle,
        }
    }

    /// Plans a fault.
    pub fn inject(&self, fault: Fault) {
        self.inner.inject(fault);
    }

    /// Damages an entry.
    pub fn rot(&self, region: u64, index: u64) {
        self.inner.rot(region, index);
    }

    fn failed(&self, error: EngineError) -> EngineError {
        let mut oracle = self.oracle.lock();
        oracle.note(format_args!("store {}: {error}", self.store));
        oracle.store(self.store).failed = true;
        error
    }
}

impl RaftLog for WatchedLog {
    fn append(&self, batch: &LogBatch) -> Result<u64> {
        let result = self.inner.append(batch);
        if let Err(error) = result {
            let error = self.failed(error);
            if !matches!(error, EngineError::Poisoned { .. }) {
                let mut oracle = self.oracle.lock();
                oracle.log_grew(self.store, batch.stored_bytes());
                oracle.store(self.store).log.append_failed(batch);
            }
            return Err(error);
        }
        let mut oracle = self.oracle.lock();
        let oracle = &mut *oracle;
        let number = *result.as_ref().expect("errors are gone");
        oracle.note(format_args!(
            "store {}: append {number}: {} entries, {} regions",
            self.store,
            batch.entry_count(),
            batch.regions().len()
        ));
        for (region, write) in batch.regions() {
            oracle.trace.mix([self.store, region, number]);
            oracle.trace.mix(numbers_of(write));
            let probes = &mut oracle.probes;
            probes.hit_if(write.truncation.is_some(), "log: truncated");
            let cut = write.cut().is_some() && write.clear.is_none();
            probes.hit_if(cut, "log: a tail is cut off");
        }
        oracle.log_grew(self.store, batch.stored_bytes());
        for (region, write) in batch.regions() {
            oracle.check_log_apart(self.store, region, write);
        }
        let model = &oracle.model;
        let seen = oracle.stores.entry(self.store).or_default();
        let context = LogContext {
            survives: &seen.survives,
            applied: &seen.applied,
            buried: &seen.buried,
            committed: &|region, index| model.committed(region, index),
        };
        let steps = batch.regions().filter_map(|(region, write)| {
            let step = match write.intent.as_ref()? {
                Some(_) => SnapshotStep::IntentWritten,
                None => SnapshotStep::IntentGone,
            };
            Some((region, step))
        });
        seen.snapshot_steps.extend(steps);
        let (consensus, checks) = (&mut oracle.consensus, &mut oracle.checks);
        seen.log
            .appended(number, batch, &context, consensus, checks);
        result
    }

    fn sync(&self) -> Result<u64> {
        let number = self.inner.sync().map_err(|error| self.failed(error))?;
        let mut oracle = self.oracle.lock();
        oracle.note(format_args!("store {}: synced up to {number}", self.store));
        oracle.store(self.store).log.synced(number);
        let votes = oracle.store(self.store).log.take_votes();
        oracle.durable_votes(votes);
        let seen = oracle.store(self.store);
        let intents = seen.log.take_intents().into_iter();
        let steps = intents.map(|region| (region, SnapshotStep::IntentDurable));
        seen.snapshot_steps.extend(steps);
        Ok(number)
    }

    fn load(&self) -> Result<BTreeMap<u64, RegionLog>> {
        self.inner.load()
    }

    fn entries(&self, region: u64, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>> {
        self.inner.entries(region, low, high, bytes_max)
    }

    fn appended_bytes(&self) -> u64 {
        self.inner.appended_bytes()
    }
}
/// All that a batch says of a region, for the trace.
fn numbers_of(write: &RegionWrite) -> impl Iterator<Item = u64> {
    let entries = write.entries.iter();
    let entries = entries.flat_map(|entry| [entry.index, entry.term, digest(&entry.data)]);
    let record = write
        .record
        .map_or(0, |record| digest(&record.encode_to_vec()));
    let truncation = write.truncation.unwrap_or_default();
    let clear = write
        .clear
        .map_or(0, |span| span.first ^ span.last.rotate_left(32));
    let intent = match &write.intent {
        None => 0,
        Some(None) => 1,
        Some(Some(intent)) => digest(&intent.encode_to_vec()),
    };
    let others = [
        record,
        truncation.index,
        truncation.term,
        clear,
        write.cut_to,
        intent,
    ];
    entries.chain(others)
}
