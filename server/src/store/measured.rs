//! The raft log and the executors with a stopwatch around them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use flotilla_engine::rocks::RocksLog;
use flotilla_engine::{LogBatch, RaftLog, RegionLog, Result};
use flotilla_proto::raft::Entry;
use flotilla_raftstore::{ApplyEffects, RaftEffects};
use flotilla_router::Executor;

use super::Applied;
use crate::metrics::StoreMetrics;

/// The raft log, measured.
pub struct MeasuredLog {
    log: RocksLog,
    metrics: Arc<StoreMetrics>,
}

impl MeasuredLog {
    pub(super) fn new(log: RocksLog, metrics: Arc<StoreMetrics>) -> Self {
        Self { log, metrics }
    }

    /// What the database has done.
    pub fn stats(&self) -> flotilla_engine::rocks::DbStats {
        self.log.stats()
    }
}

impl RaftLog for MeasuredLog {
    fn append(&self, batch: &LogBatch) -> Result<u64> {
        let start = Instant::now();
        let result = self.log.append(batch);
        self.metrics.log_append_seconds.record(start.elapsed());
        #[expect(clippy::cast_precision_loss, reason = "a histogram")]
        self.metrics
            .log_batch_entries
            .record(batch.entry_count() as f64);
        result
    }

    fn sync(&self) -> Result<u64> {
        let start = Instant::now();
        let result = self.log.sync();
        self.metrics.log_sync_seconds.record(start.elapsed());
        result
    }

    fn load(&self) -> Result<BTreeMap<u64, RegionLog>> {
        self.log.load()
    }

    fn entries(&self, region: u64, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>> {
        self.log.entries(region, low, high, bytes_max)
    }

    fn appended_bytes(&self) -> u64 {
        self.log.appended_bytes()
    }
}

/// Carries out the effects of raft machines, measured; tells `applied` of regions that leave.
pub(super) struct RaftRounds<X> {
    pub(super) inner: X,
    pub(super) metrics: Arc<StoreMetrics>,
    pub(super) applied: Arc<Applied>,
}

impl<X: Executor<RaftEffects>> Executor<RaftEffects> for RaftRounds<X> {
    type Fatal = X::Fatal;

    fn may_run(&mut self) -> bool {
        self.inner.may_run()
    }

    fn execute(&mut self, effects: &mut RaftEffects) -> std::result::Result<(), X::Fatal> {
        let start = Instant::now();
        let gone = effects.stop.clone();
        self.inner.execute(effects)?;
        gone.into_iter()
            .for_each(|region| self.applied.gone(region));
        self.metrics.raft_round_seconds.record(start.elapsed());
        Ok(())
    }
}

/// Carries out the effects of apply machines, measured; tells `applied` how far they came.
pub(super) struct ApplyRounds<X> {
    pub(super) inner: X,
    pub(super) metrics: Arc<StoreMetrics>,
    pub(super) applied: Arc<Applied>,
    /// The term of the last entry applied, by region.
    pub(super) terms: BTreeMap<u64, u64>,
}

impl<X: Executor<ApplyEffects>> Executor<ApplyEffects> for ApplyRounds<X> {
    type Fatal = X::Fatal;

    fn may_run(&mut self) -> bool {
        self.inner.may_run()
    }

    fn execute(&mut self, effects: &mut ApplyEffects) -> std::result::Result<(), X::Fatal> {
        let start = Instant::now();
        #[expect(clippy::cast_precision_loss, reason = "a histogram")]
        self.metrics
            .apply_batch_entries
            .record(effects.batch.ops.len() as f64);
        let mut risen = Vec::new();
        for (region, report) in &effects.reports {
            if self.terms.insert(*region, report.term) != Some(report.term) {
                risen.push((*region, report.term));
            }
        }
        self.inner.execute(effects)?;
        for (region, term) in risen {
            self.applied.reached(region, term);
        }
        self.metrics.apply_round_seconds.record(start.elapsed());
        Ok(())
    }
}
