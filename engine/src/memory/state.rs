//! The state database in memory.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::store::{ApplyRecord, RegionRecord, SnapshotManifest};
use parking_lot::Mutex;

use super::fault::{Fault, FaultKind, FaultPoint, Faults};
use super::planted::{Plant, Planted};
use crate::durable::DurableCuts;
use crate::row::{self, Expiry};
use crate::state::{orphaned, stored};
use crate::{
    Cf, DATA_CFS, EngineError, FlushReason, KeyRange, Pressure, Result, SnapshotFiles,
    SnapshotInstall, SnapshotKey, SnapshotResult, StateBatch, StateOp, StateReader, StateStore,
    StoredRegion, snapshot_cfs, snapshot_range,
};

type Rows = BTreeMap<Bytes, Bytes>;
/// Rows whose bytes have rotten.
type Rotten = BTreeSet<(Cf, Bytes)>;

/// [`StateStore`] in memory. Memtables fill until somebody flushes: [`StateStore::flush_all`], a
/// limit set by [`MemoryState::flush_every`], or [`MemoryState::auto_flush`] at a moment that a
/// simulator chooses. A crash falls back to the last flushed cut.
#[derive(Debug, Default)]
pub struct MemoryState {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    now: Image,
    flushed: Image,
    /// Cuts of flushes under way, oldest first.
    flushing: VecDeque<Image>,
    cuts: DurableCuts,
    /// Bytes written since the cut of the last flush that was begun.
    memtable_bytes: u64,
    flush_every: Option<u64>,
    pressure: Option<Pressure>,
    flushes: BTreeMap<FlushReason, u64>,
    faults: Faults,
    rotten: Arc<Rotten>,
    plant: Plant,
}

/// The whole state at one moment; a clone shares everything until one of the two is written.
#[derive(Clone, Debug, Default)]
struct Image {
    /// By column family, in the order of its numbers; `meta` holds PD's records.
    rows: [Arc<Rows>; 4],
    regions: Arc<BTreeMap<u64, RegionRecord>>,
    applied: Arc<BTreeMap<u64, ApplyRecord>>,
    /// Number of the last batch. Written with every batch, durable with it.
    cut: u64,
}

/// A frozen view of a [`MemoryState`].
#[derive(Clone, Debug)]
pub struct MemorySnapshot {
    image: Image,
    /// Reads of it fail so.
    fails: Option<FaultKind>,
    rotten: Arc<Rotten>,
    plant: Plant,
}

impl MemorySnapshot {
    fn pass(&self) -> Result<()> {
        match self.fails {
            Some(kind) => Err(kind.error("reading the state")),
            None => Ok(()),
        }
    }

    /// What has rotten is an error, or other bytes where that bug is planted; `None`: the row is whole.
    fn rotten(&self, cf: Cf, key: &[u8], value: &[u8]) -> Result<Option<Bytes>> {
        if self.rotten.is_empty() || !self.rotten.contains(&(cf, Bytes::copy_from_slice(key))) {
            return Ok(None);
        }
        if self.plant.breaks(Planted::ChecksumUnchecked) {
            let mut flipped = value.to_vec();
            flipped[0] ^= 1;
            return Ok(Some(flipped.into()));
        }
        let place = format!("a block of the column family {}", cf.as_str_name());
        let detail = "the checksum does not match";
        Err(EngineError::corrupt(place, detail))
    }
}

impl MemoryState {
    /// An empty state.
    pub fn new() -> Self {
        Self::default()
    }

    /// The state as it is found after a crash: what the last finished flush cut off.
    pub fn crash(&self) -> Self {
        let inner = self.inner.lock();
        let image = inner.flushed.clone();
        let durable = image
            .applied
            .iter()
            .map(|(region, record)| (*region, record.index))
            .collect();
        let found = Inner {
            cuts: DurableCuts::opened(image.cut, durable),
            now: image.clone(),
            flushed: image,
            flush_every: inner.flush_every,
            rotten: Arc::clone(&inner.rotten),
            ..Inner::default()
        };
        Self {
            inner: Mutex::new(found),
        }
    }

    /// Plans a fault.
    pub fn inject(&self, fault: Fault) {
        self.inner.lock().faults.plan(fault);
    }

    /// Damages the bytes of a row that is there: reading it from a snapshot is an error from now on, also
    /// after a crash. `false`: there is none in `cf` at or behind `from`.
    pub fn rot(&self, cf: Cf, from: &[u8]) -> bool {
        let mut inner = self.inner.lock();
        let bounds = (Bound::Included(from), Bound::Unbounded);
        let mut rows = inner.now.rows(cf).range::<[u8], _>(bounds);
        let Some(key) = rows.next().map(|(key, _)| key.clone()) else {
            return false;
        };
        Arc::make_mut(&mut inner.rotten).insert((cf, key));
        true
    }

    /// What has rotten is written anew, as it was.
    pub fn restore(&self) {
        self.inner.lock().rotten = Arc::default();
    }

    /// A frozen view for those who stand outside: no fault strikes it, and nothing in it has rotten.
    pub fn frozen(&self) -> MemorySnapshot {
        MemorySnapshot {
            image: self.inner.lock().now.clone(),
            fails: None,
            rotten: Arc::default(),
            plant: Plant::default(),
        }
    }

    /// Breaks a promise on purpose; see [`Planted`].
    #[cfg(feature = "planted")]
    pub fn plant(&self, rule: Planted) {
        self.inner.lock().plant.rule = Some(rule);
    }

    /// From now on a flush runs by itself whenever `bytes` have been written since the last.
    pub fn flush_every(&self, bytes: Option<u64>) {
        self.inner.lock().flush_every = bytes;
    }

    /// An automatic flush: everything written before becomes durable at one cut.
    pub fn auto_flush(&self) -> Result<()> {
        self.inner.lock().flush()
    }

    /// Begins a flush: its cut is now, but nothing is durable before [`MemoryState::finish_flush`].
    pub fn begin_flush(&self) {
        self.inner.lock().begin_flush();
    }

    /// Finishes the oldest flush under way; `false` if there is none.
    pub fn finish_flush(&self) -> Result<bool> {
        self.inner.lock().finish_flush()
    }

    /// Number of the last batch that a crash keeps; [`StateStore::durable_cut`] learns of it at the
    /// next look.
    pub fn flushed_cut(&self) -> u64 {
        self.inner.lock().flushed.cut
    }

    /// Overrides what [`StateStore::pressure`] answers; `None` goes back to the truth.
    pub fn force_pressure(&self, pressure: Option<Pressure>) {
        self.inner.lock().pressure = pressure;
    }

    /// Flushes that [`StateStore::flush_all`] was asked for, by reason.
    pub fn flushes(&self) -> BTreeMap<FlushReason, u64> {
        self.inner.lock().flushes.clone()
    }

    /// Drops the rows that a compaction may drop at this time (contracts: C19), everywhere.
    pub fn compact(&self, expiry: &Expiry) {
        let mut inner = self.inner.lock();
        let Inner {
            now,
            flushed,
            flushing,
            ..
        } = &mut *inner;
        for image in [now, flushed].into_iter().chain(flushing) {
            for cf in DATA_CFS {
                let rows = Arc::make_mut(image.rows_mut(cf));
                rows.retain(|key, value| !row::droppable(expiry, cf, key, value));
            }
        }
    }
}

impl Inner {
    fn begin_flush(&mut self) {
        self.flushing.push_back(self.now.clone());
        self.memtable_bytes = 0;
    }

    fn finish_flush(&mut self) -> Result<bool> {
        if self.flushing.is_empty() {
            return Ok(false);
        }
        self.faults.pass(FaultPoint::Flush, "flushing the state")?;
        let mut image = self.flushing.pop_front().expect("not empty");
        if self.plant.breaks(Planted::FlushOfOneFamily) {
            image.rows[1..].clone_from_slice(&self.flushed.rows[1..]);
        }
        assert!(image.cut >= self.flushed.cut, "flushes finish in order");
        self.flushed = image;
        Ok(true)
    }

    fn flush(&mut self) -> Result<()> {
        self.begin_flush();
        while self.finish_flush()? {}
        Ok(())
    }
}

impl Image {
    fn rows(&self, cf: Cf) -> &Rows {
        &self.rows[cf as usize]
    }

    fn rows_mut(&mut self, cf: Cf) -> &mut Arc<Rows> {
        &mut self.rows[cf as usize]
    }

    /// Applies one change and returns about how many bytes it takes in a memtable.
    fn apply(&mut self, op: &StateOp) -> u64 {
        match op {
            StateOp::Put { cf, key, value } => {
                Arc::make_mut(self.rows_mut(*cf)).insert(key.clone(), value.clone());
                (key.len() + value.len()) as u64
            }
            StateOp::Delete { cf, key } => {
                Arc::make_mut(self.rows_mut(*cf)).remove(key);
                key.len() as u64
            }
            StateOp::DeleteRange { cf, start, end } => {
                let range = KeyRange { start, end };
                Arc::make_mut(self.rows_mut(*cf)).retain(|key, _| !range.contains(key));
                (start.len() + end.len()) as u64
            }
            StateOp::PutRegion { record } => {
                let region = record
                    .region
                    .as_ref()
                    .expect("a region record names its region");
                Arc::make_mut(&mut self.regions).insert(region.id, record.clone());
                size_of::<RegionRecord>() as u64
            }
            StateOp::PutApplied { region, record } => {
                Arc::make_mut(&mut self.applied).insert(*region, *record);
                size_of::<ApplyRecord>() as u64
            }
            StateOp::DeleteApplied { region } => {
                Arc::make_mut(&mut self.applied).remove(region);
                size_of::<u64>() as u64
            }
        }
    }

    fn stored_region(&self, region: u64) -> Result<Option<StoredRegion>> {
        let applied = self.applied.get(&region).copied();
        stored(region, self.regions.get(&region).cloned(), applied)
    }

    /// An ingest: all rows of a range go, others take their place.
    fn replace(&mut self, cf: Cf, range: KeyRange<'_>, rows: &Rows) {
        let held = Arc::make_mut(self.rows_mut(cf));
        held.retain(|key, _| !range.contains(key));
        held.extend(rows.iter().map(|(key, value)| (key.clone(), value.clone())));
    }

    fn scan(
        &self,
        cf: Cf,
        range: KeyRange<'_>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) {
        if range.is_empty() {
            return;
        }
        let end = if range.end.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Excluded(range.end)
        };
        let mut rows = self
            .rows(cf)
            .range::<[u8], _>((Bound::Included(range.start), end));
        let mut next = || {
            if reverse {
                rows.next_back()
            } else {
                rows.next()
            }
        };
        while let Some((key, value)) = next() {
            if !row(key, value) {
                break;
            }
        }
    }
}

impl StateReader for MemorySnapshot {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        self.pass()?;
        let Some(value) = self.image.rows(cf).get(key) else {
            return Ok(None);
        };
        let other = self.rotten(cf, key, value)?;
        Ok(Some(other.unwrap_or_else(|| value.clone())))
    }

    fn scan(
        &self,
        cf: Cf,
        range: KeyRange<'_>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.pass()?;
        let mut end = Ok(());
        self.image.scan(
            cf,
            range,
            reverse,
            &mut |key, value| match self.rotten(cf, key, value) {
                Ok(other) => row(key, other.as_deref().unwrap_or(value)),
                Err(error) => {
                    end = Err(error);
                    false
                }
            },
        );
        end
    }

    fn stored_region(&self, region: u64) -> Result<Option<StoredRegion>> {
        self.pass()?;
        self.image.stored_region(region)
    }
}

impl StateReader for MemoryState {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        let mut inner = self.inner.lock();
        inner.faults.pass(FaultPoint::Read, "reading the state")?;
        Ok(inner.now.rows(cf).get(key).cloned())
    }

    fn scan(
        &self,
        cf: Cf,
        range: KeyRange<'_>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.inner
            .lock()
            .faults
            .pass(FaultPoint::Read, "reading the state")?;
        self.frozen().scan(cf, range, reverse, row)
    }

    fn stored_region(&self, region: u64) -> Result<Option<StoredRegion>> {
        let mut inner = self.inner.lock();
        inner.faults.pass(FaultPoint::Read, "reading the state")?;
        inner.now.stored_region(region)
    }
}

impl SnapshotInstall for MemoryState {
    /// The files outlive a crash, so they reach every image that a crash could leave.
    fn install(
        &self,
        files: &impl SnapshotFiles,
        key: &SnapshotKey,
        manifest: &SnapshotManifest,
    ) -> SnapshotResult<()> {
        let mut rows: [Rows; 4] = Default::default();
        files.rows(key, manifest, &mut |cf, key, value| {
            let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
            rows[cf as usize].insert(key, value);
            Ok(())
        })?;
        let region = manifest.region.as_ref().expect("checked with the rows");
        for cf in snapshot_cfs(region.id) {
            let mut inner = self.inner.lock();
            inner
                .faults
                .pass(FaultPoint::Ingest, "ingesting a snapshot")?;
            let Inner {
                now,
                flushed,
                flushing,
                ..
            } = &mut *inner;
            for image in [now, flushed].into_iter().chain(flushing) {
                image.replace(*cf, snapshot_range(region), &rows[*cf as usize]);
            }
        }
        Ok(())
    }
}

impl StateStore for MemoryState {
    type Snapshot = MemorySnapshot;

    fn write(&self, batch: &StateBatch) -> Result<u64> {
        let mut inner = self.inner.lock();
        inner.faults.pass(FaultPoint::Write, "writing the state")?;
        for op in &batch.ops {
            inner.memtable_bytes += inner.now.apply(op);
        }
        inner.now.cut += 1;
        let number = inner.now.cut;
        inner.cuts.wrote(number, batch);
        if inner
            .flush_every
            .is_some_and(|bytes| inner.memtable_bytes >= bytes)
        {
            inner.flush()?;
        }
        Ok(number)
    }

    fn snapshot(&self) -> MemorySnapshot {
        let mut inner = self.inner.lock();
        let fails = inner.faults.strike(FaultPoint::View);
        MemorySnapshot {
            image: inner.now.clone(),
            fails,
            rotten: Arc::clone(&inner.rotten),
            plant: inner.plant,
        }
    }

    fn regions(&self) -> Result<Vec<StoredRegion>> {
        let mut inner = self.inner.lock();
        inner.faults.pass(FaultPoint::Read, "reading the state")?;
        let image = &inner.now;
        if let Some(region) = image
            .applied
            .keys()
            .find(|region| !image.regions.contains_key(region))
        {
            return Err(orphaned(*region));
        }
        let stored = image.regions.iter().map(|(region, record)| StoredRegion {
            record: record.clone(),
            applied: image.applied.get(region).copied(),
        });
        Ok(stored.collect())
    }

    fn durable_applied(&self, region: u64) -> u64 {
        self.inner.lock().cuts.applied(region)
    }

    fn durable_cut(&self) -> u64 {
        self.inner.lock().cuts.cut()
    }

    fn first_undurable_admin(&self) -> Option<u64> {
        self.inner.lock().cuts.first_undurable_admin()
    }

    fn flush_waiting(&self) -> bool {
        !self.inner.lock().flushing.is_empty()
    }

    fn refresh_durable(&self) -> Result<Vec<(u64, u64)>> {
        let mut inner = self.inner.lock();
        let early = inner.plant.breaks(Planted::DurableTooSoon);
        let cut = if early {
            inner.now.cut
        } else {
            inner.flushed.cut
        };
        Ok(inner.cuts.advance(cut))
    }

    fn flush_all(&self, reason: FlushReason) -> Result<()> {
        let mut inner = self.inner.lock();
        *inner.flushes.entry(reason).or_default() += 1;
        inner.flush()
    }

    fn pressure(&self) -> Pressure {
        let inner = self.inner.lock();
        let truth = Pressure {
            memtable_bytes: inner.memtable_bytes,
            ..Pressure::default()
        };
        inner.pressure.unwrap_or(truth)
    }

    fn approximate_bytes(&self, range: KeyRange<'_>) -> Result<u64> {
        let mut bytes = 0;
        for cf in DATA_CFS {
            self.scan(cf, range, false, &mut |key, value| {
                bytes += (key.len() + value.len()) as u64;
                true
            })?;
        }
        Ok(bytes)
    }
}
