//! The raft log in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flotilla_proto::raft::Entry;
use flotilla_proto::store::{RaftRecord, SnapshotIntent, TruncationRecord};
use parking_lot::Mutex;

use super::fault::{Fault, FaultPoint, Faults};
use super::planted::{Plant, Planted};
use crate::region_log::{RegionLogBuilder, missing_entry};
use crate::{EngineError, LogBatch, RaftLog, RegionLog, RegionWrite, Result};

/// [`RaftLog`] in memory; see the module's text for what a crash keeps.
#[derive(Debug, Default)]
pub struct MemoryLog {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// What a reader in this process sees: `durable` with all of `waiting` applied.
    held: BTreeMap<u64, Held>,
    /// What a crash certainly leaves.
    durable: BTreeMap<u64, Held>,
    /// Appended and not synced, by number, ascending.
    waiting: VecDeque<Waiting>,
    /// Number of the last batch appended.
    appended: u64,
    /// Number of the last batch synced. Invariant: synced + waiting.len() == appended.
    synced: u64,
    appended_bytes: u64,
    faults: Faults,
    /// Indexes whose bytes have rotten.
    rotten: BTreeSet<(u64, u64)>,
    plant: Plant,
}

type Waiting = Vec<(u64, RegionWrite)>;

/// What the log holds of one region.
#[derive(Clone, Debug, Default)]
struct Held {
    record: Option<RaftRecord>,
    truncation: Option<TruncationRecord>,
    entries: BTreeMap<u64, Entry>,
    intent: Option<SnapshotIntent>,
}

impl MemoryLog {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// The log as it is found after a power failure. `keep` is asked how many of the `n` batches
    /// that were appended and not synced survive, and answers at most `n`; a batch that was being
    /// written at that moment is torn and counts as lost.
    ///
    /// # Panics
    /// If `keep` answers more than it was offered.
    pub fn crash(&self, keep: impl FnOnce(u64) -> u64) -> Self {
        // `keep` is called without the lock: it may want to ask this log something.
        let (mut durable, waiting, synced, rotten) = {
            let inner = self.inner.lock();
            (
                inner.durable.clone(),
                inner.waiting.clone(),
                inner.synced,
                inner.rotten.clone(),
            )
        };
        let offered = waiting.len() as u64;
        let kept = keep(offered);
        assert!(
            kept <= offered,
            "{kept} of {offered} unsynced batches cannot survive"
        );
        for batch in waiting.iter().take(kept as usize) {
            apply(&mut durable, batch);
        }
        let number = synced + kept;
        let found = Inner {
            held: durable.clone(),
            durable,
            appended: number,
            synced: number,
            rotten,
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(found),
        }
    }

    /// The log as a killed process leaves it: the operating system still has every write.
    pub fn kill(&self) -> Self {
        self.crash(|offered| offered)
    }

    /// Plans a fault.
    pub fn inject(&self, fault: Fault) {
        self.inner.lock().faults.plan(fault);
    }

    /// Breaks a promise on purpose; see [`Planted`].
    #[cfg(feature = "planted")]
    pub fn plant(&self, rule: Planted) {
        self.inner.lock().plant.rule = Some(rule);
    }

    /// Damages the bytes of one entry: reading it from now on is a named corruption.
    pub fn rot(&self, region: u64, index: u64) {
        self.inner.lock().rotten.insert((region, index));
    }

    /// What has rotten is written anew, as it was.
    pub fn restore(&self) {
        self.inner.lock().rotten.clear();
    }

    /// The end of a sync that began when `number` was the last batch appended: what came later
    /// stays unsynced. For simulators in which a sync takes time; [`RaftLog::sync`] takes none.
    pub fn sync_up_to(&self, number: u64) -> Result<u64> {
        let mut inner = self.inner.lock();
        inner.faults.pass(FaultPoint::Sync, "syncing the log")?;
        assert!(
            number <= inner.appended,
            "batch {number} was never appended"
        );
        if inner.plant.breaks(Planted::SyncSkipped) {
            return Ok(number);
        }
        while inner.synced < number {
            let batch = inner
                .waiting
                .pop_front()
                .expect("synced + waiting == appended");
            apply(&mut inner.durable, &batch);
            inner.synced += 1;
        }
        Ok(inner.synced)
    }

    /// Number of the last batch appended.
    pub fn appended(&self) -> u64 {
        self.inner.lock().appended
    }

    /// Number of the last batch that a crash certainly keeps.
    pub fn synced(&self) -> u64 {
        self.inner.lock().synced
    }
}

impl RaftLog for MemoryLog {
    fn append(&self, batch: &LogBatch) -> Result<u64> {
        let mut inner = self.inner.lock();
        let writes: Waiting = batch
            .regions()
            .map(|(region, write)| (region, write.clone()))
            .collect();
        let bytes = batch.stored_bytes();
        if let Err(error) = inner
            .faults
            .pass(FaultPoint::Append, "appending to the log")
        {
            // The failed write may have reached the disk all the same: a crash decides.
            if !matches!(error, EngineError::Poisoned { .. }) {
                inner.waiting.push_back(writes);
                inner.appended += 1;
            }
            return Err(error);
        }
        apply(&mut inner.held, &writes);
        inner.waiting.push_back(writes);
        inner.appended += 1;
        inner.appended_bytes += bytes;
        Ok(inner.appended)
    }

    fn sync(&self) -> Result<u64> {
        let number = self.inner.lock().appended;
        self.sync_up_to(number)
    }

    fn load(&self) -> Result<BTreeMap<u64, RegionLog>> {
        let inner = self.inner.lock();
        let unchecked = inner.plant.breaks(Planted::ChecksumUnchecked);
        if let Some((region, index)) = inner.rotten.first().filter(|_| !unchecked) {
            return Err(rotten(*region, *index));
        }
        let mut regions = BTreeMap::new();
        for (region, held) in &inner.held {
            let mut log = RegionLogBuilder::new(*region);
            log.record = held.record;
            log.truncation = held.truncation;
            log.intent = held.intent.clone();
            for entry in held.entries.values() {
                log.entry(entry.index, entry.term, entry.data.len() as u64)?;
            }
            regions.insert(*region, log.finish()?);
        }
        Ok(regions)
    }

    fn entries(&self, region: u64, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>> {
        let mut inner = self.inner.lock();
        inner.faults.pass(FaultPoint::Read, "reading the log")?;
        let mut found = Vec::new();
        let mut bytes = 0;
        for index in low..high {
            if inner.rotten.contains(&(region, index)) {
                return Err(rotten(region, index));
            }
            let entry = inner
                .held
                .get(&region)
                .and_then(|held| held.entries.get(&index));
            let entry = entry.ok_or_else(|| missing_entry(region, index))?;
            bytes += entry.data.len() as u64;
            if !found.is_empty() && bytes > bytes_max {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn appended_bytes(&self) -> u64 {
        self.inner.lock().appended_bytes
    }
}

fn rotten(region: u64, index: u64) -> EngineError {
    EngineError::corrupt(
        format!("region {region} index {index}"),
        "the checksum does not match",
    )
}

/// Applies one batch; the order of its parts is that of [`RegionWrite`].
fn apply(regions: &mut BTreeMap<u64, Held>, batch: &Waiting) {
    for (region, write) in batch {
        let held = regions.entry(*region).or_default();
        if write.clear.is_some() {
            *held = Held::default();
        }
        if let Some((first, last)) = write.cut() {
            for index in first..=last {
                held.entries.remove(&index);
            }
        }
        for entry in &write.entries {
            held.entries.insert(entry.index, entry.clone());
        }
        held.record = write.record.or(held.record);
        if let Some(truncation) = write.truncation {
            held.truncation = Some(truncation);
            for index in write.truncated_from..=truncation.index {
                held.entries.remove(&index);
            }
        }
        if let Some(intent) = &write.intent {
            held.intent = intent.clone();
        }
        let gone = held.record.is_none()
            && held.truncation.is_none()
            && held.entries.is_empty()
            && held.intent.is_none();
        if gone {
            regions.remove(region);
        }
    }
}
