//! The key-value state in RocksDB, written without a WAL (contracts: C1, C2).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use flotilla_proto::store::{ApplyRecord, RegionRecord};
use parking_lot::Mutex;
use prost::Message;
use rocksdb::properties as property;
use rocksdb::{
    BottommostLevelCompaction, ColumnFamily, ColumnFamilyDescriptor, CompactOptions, DB,
    FlushOptions, Options, Range, ReadOptions, ReadTier, Snapshot, WriteBatch, WriteBufferManager,
    WriteOptions,
};

use super::files::refuse_logged_writes;
use super::options::StateOptions;
use super::poison::Poison;
use super::stats::{self, DbStats};
use super::{check_identity, failure, open_failure, write};
use crate::codec::{self, Identity, state_key};
use crate::crash::{point, points_of_state};
use crate::durable::DurableCuts;
use crate::state::{orphaned, stored};
use crate::{
    Cf, DATA_CFS, EngineError, FlushReason, KeyRange, Pressure, Result, StateBatch, StateOp,
    StateReader, StateStore, StoredRegion,
};

/// All column families, in the order of their numbers.
const CFS: [Cf; 4] = [Cf::CfDefault, Cf::CfLock, Cf::CfWrite, Cf::CfMeta];

/// [`StateStore`] on RocksDB.
pub struct RocksState {
    pub(super) shared: Arc<Shared>,
    pub(super) writer: Mutex<Writer>,
    cuts: Mutex<DurableCuts>,
    flushes: Mutex<BTreeMap<FlushReason, u64>>,
    /// Flushes that installs needed first.
    install_flushes: AtomicU64,
    pub(super) poison: Poison,
}

pub(super) struct Shared {
    path: PathBuf,
    pub(super) db: DB,
    /// Where installs make their tables; on the same disk, so that the database takes them over by
    /// their names.
    pub(super) install_path: PathBuf,
    /// How those tables are made.
    pub(super) table_options: Options,
    /// Keeps the statistics readable.
    options: Options,
    write_buffers: WriteBufferManager,
    /// WAL off: one write that forgot this would be replayed alone on an older state.
    unlogged: WriteOptions,
}

/// The folders that a state lives in.
pub(crate) struct StatePaths {
    pub(crate) state: PathBuf,
    /// Where installs make their tables.
    pub(crate) install: PathBuf,
}

pub(super) struct Writer {
    /// Number of the last batch given out.
    number: u64,
    /// Reused for keys.
    key: Vec<u8>,
}

impl RocksState {
    /// Creates the state of a new store in an absent or empty folder.
    pub(crate) fn create(
        paths: &StatePaths,
        identity: Identity,
        options: &StateOptions,
    ) -> Result<Self> {
        let shared = Shared::open(paths, options, true)?;
        let meta = shared.cf(Cf::CfMeta);
        shared.write(|| {
            let mut batch = WriteBatch::default();
            batch.put_cf(meta, state_key::IDENTITY, identity.encode());
            batch.put_cf(meta, state_key::CUT, 0u64.to_be_bytes());
            batch
        })?;
        shared.flush()?;
        Ok(Self::new(shared, 0, BTreeMap::new()))
    }

    /// Opens the state of a store.
    pub(crate) fn open(
        paths: &StatePaths,
        identity: Identity,
        options: &StateOptions,
    ) -> Result<Self> {
        let path = &paths.state;
        refuse_logged_writes(path)?;
        let shared = Shared::open(paths, options, false)?;
        check_identity(
            path,
            shared.get(Cf::CfMeta, &state_key::IDENTITY, &ReadOptions::default())?,
            identity,
        )?;
        let cut = shared.cut(&ReadOptions::default())?;
        let mut durable = BTreeMap::new();
        shared.records(state_key::APPLIED, |region, value| {
            durable.insert(region, apply_record(region, value)?.index);
            Ok(())
        })?;
        Ok(Self::new(shared, cut, durable))
    }

    fn new(shared: Shared, cut: u64, durable: BTreeMap<u64, u64>) -> Self {
        Self {
            shared: Arc::new(shared),
            writer: Mutex::new(Writer {
                number: cut,
                key: Vec::new(),
            }),
            cuts: Mutex::new(DurableCuts::opened(cut, durable)),
            flushes: Mutex::default(),
            install_flushes: AtomicU64::new(0),
            poison: Poison::default(),
        }
    }

    /// Flushes that [`StateStore::flush_all`] was asked for, by reason.
    pub fn flushes(&self) -> BTreeMap<FlushReason, u64> {
        self.flushes.lock().clone()
    }

    /// Flushes that [`crate::SnapshotInstall::install`] needed first.
    pub fn install_flushes(&self) -> u64 {
        self.install_flushes.load(Ordering::Relaxed)
    }

    pub(super) fn flush_for_install(&self) -> Result<()> {
        self.install_flushes.fetch_add(1, Ordering::Relaxed);
        self.poison.guard(|| self.shared.flush())
    }

    /// Rewrites all files of all data column families, which drops what is deleted or expired.
    /// For tools: it reads and writes everything.
    pub fn compact(&self) -> Result<()> {
        self.flush_all(FlushReason::Manual)?;
        for cf in DATA_CFS {
            let mut options = CompactOptions::default();
            // The lowest level holds most of the rows and would be left out.
            options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
            self.shared.db.compact_range_cf_opt(
                self.shared.cf(cf),
                None::<&[u8]>,
                None::<&[u8]>,
                &options,
            );
        }
        self.poison.guard(|| self.shared.check_background())
    }

    /// What the database has done.
    pub fn stats(&self) -> DbStats {
        let shared = &*self.shared;
        stats::read(&shared.db, &shared.options, &CFS.map(|cf| shared.cf(cf)))
    }
}

impl Shared {
    fn open(paths: &StatePaths, options: &StateOptions, create: bool) -> Result<Self> {
        let path = &paths.state;
        let write_buffers = options.write_buffers();
        let base = options.rocks(create, &write_buffers);
        let descriptors =
            CFS.map(|cf| ColumnFamilyDescriptor::new(name(cf), options.column_family(cf, &base)));
        let db = DB::open_cf_descriptors(&base, path, descriptors);
        let db = db.map_err(|error| open_failure(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            db,
            install_path: paths.install.clone(),
            table_options: options.install_tables(),
            options: base,
            write_buffers,
            unlogged: write::options(false),
        })
    }

    pub(super) fn cf(&self, cf: Cf) -> &ColumnFamily {
        self.db
            .cf_handle(name(cf))
            .expect("opened with all column families")
    }

    pub(super) fn fails(&self, operation: &'static str) -> impl Fn(rocksdb::Error) -> EngineError {
        move |error| failure(&self.path, operation, &error)
    }

    fn write(&self, batch: impl FnMut() -> WriteBatch) -> Result<()> {
        write::write(
            &self.db,
            &self.path,
            &self.unlogged,
            "writing the state",
            batch,
        )
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the one flush door, over all column families"
    )]
    fn flush(&self) -> Result<()> {
        let cfs = CFS.map(|cf| self.cf(cf));
        point("state-flush");
        let flushed = self.db.flush_cfs_opt(&cfs, &FlushOptions::default());
        point("state-flushed");
        flushed.map_err(self.fails("flushing the state"))
    }

    /// Fails if a flush or compaction did.
    fn check_background(&self) -> Result<()> {
        stats::check_background(&self.db, &self.path, &self.unlogged)
    }

    /// Reads by the stored key.
    fn get(&self, cf: Cf, stored: &[u8], options: &ReadOptions) -> Result<Option<Vec<u8>>> {
        let found = self.db.get_cf_opt(self.cf(cf), stored, options);
        found.map_err(self.fails("reading the state"))
    }

    fn get_user(&self, cf: Cf, key: &[u8], options: &ReadOptions) -> Result<Option<Bytes>> {
        let mut stored = Vec::with_capacity(key.len() + 1);
        state_key::write(&mut stored, cf, key);
        let found = self.db.get_pinned_cf_opt(self.cf(cf), &stored, options);
        let found = found.map_err(self.fails("reading the state"))?;
        Ok(found.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(
        &self,
        cf: Cf,
        range: KeyRange<'_>,
        reverse: bool,
        mut options: ReadOptions,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        let (start, end) = state_key::bounds(cf, range);
        options.set_iterate_lower_bound(start);
        options.set_iterate_upper_bound(end);
        let mut rows = self.db.raw_iterator_cf_opt(self.cf(cf), options);
        if reverse {
            rows.seek_to_last();
        } else {
            rows.seek_to_first();
        }
        while let Some((stored, value)) = rows.item() {
            if !row(&stored[1..], value) {
                return Ok(());
            }
            if reverse {
                rows.prev();
            } else {
                rows.next();
            }
        }
        rows.status().map_err(self.fails("scanning the state"))
    }

    /// The number of the last batch that a read with `options` sees.
    fn cut(&self, options: &ReadOptions) -> Result<u64> {
        let place = || format!("{}, batch number", self.path.display());
        let found = self.get(Cf::CfMeta, &state_key::CUT, options)?;
        codec::number(
            place,
            &found.ok_or_else(|| EngineError::corrupt(place(), "the record is missing"))?,
        )
    }

    fn stored_region(&self, region: u64, options: &ReadOptions) -> Result<Option<StoredRegion>> {
        let get = |kind| self.get(Cf::CfMeta, &state_key::record(kind, region), options);
        let record = get(state_key::REGION)?.map(|value| region_record(region, &value));
        let applied = get(state_key::APPLIED)?.map(|value| apply_record(region, &value));
        stored(region, record.transpose()?, applied.transpose()?)
    }

    /// All records of one kind in `meta`, ascending by region.
    fn records(&self, kind: u8, mut record: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound([kind]);
        options.set_iterate_upper_bound([kind + 1]);
        let mut rows = self.db.raw_iterator_cf_opt(self.cf(Cf::CfMeta), options);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            let region = codec::number(
                || format!("{}, key {key:02x?}", self.path.display()),
                &key[1..],
            )?;
            record(region, value)?;
            rows.next();
        }
        rows.status().map_err(self.fails("reading the state"))
    }
}

fn apply_record(region: u64, value: &[u8]) -> Result<ApplyRecord> {
    codec::message(|| format!("region {region} apply record"), value)
}

fn region_record(region: u64, value: &[u8]) -> Result<RegionRecord> {
    let record: RegionRecord = codec::message(|| format!("region {region} record"), value)?;
    let named = record.region.as_ref().map(|region| region.id);
    if named != Some(region) {
        let detail = format!("it describes region {named:?}");
        return Err(EngineError::corrupt(
            format!("region {region} record"),
            detail,
        ));
    }
    Ok(record)
}

/// Name of a column family in RocksDB.
pub(super) fn name(cf: Cf) -> &'static str {
    match cf {
        Cf::CfDefault => "default",
        Cf::CfLock => "lock",
        Cf::CfWrite => "write",
        Cf::CfMeta => "meta",
    }
}

impl StateReader for RocksState {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        self.shared.get_user(cf, key, &ReadOptions::default())
    }

    fn scan(
        &self,
        cf: Cf,
        range: KeyRange<'_>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.shared
            .scan(cf, range, reverse, ReadOptions::default(), row)
    }

    /// Two reads: while it is being written, take it from a frozen view.
    fn stored_region(&self, region: u64) -> Result<Option<StoredRegion>> {
        self.shared.stored_region(region, &ReadOptions::default())
    }
}

impl StateStore for RocksState {
    type Snapshot = RocksSnapshot;

    fn write(&self, batch: &StateBatch) -> Result<u64> {
        let mut writer = self.writer.lock();
        let Writer { number, key } = &mut *writer;
        let shared = &*self.shared;
        let next = *number + 1;
        let cfs = CFS.map(|cf| shared.cf(cf));
        let encoded = || {
            let mut write = WriteBatch::default();
            for op in &batch.ops {
                encode(&mut write, &cfs, op, key);
            }
            write.put_cf(cfs[Cf::CfMeta as usize], state_key::CUT, next.to_be_bytes());
            write
        };
        point("state-write");
        points_of_state(batch, "write");
        self.poison.guard(|| shared.write(encoded))?;
        point("state-written");
        points_of_state(batch, "written");
        *number = next;
        self.cuts.lock().wrote(next, batch);
        Ok(next)
    }

    fn snapshot(&self) -> RocksSnapshot {
        RocksSnapshot::new(Arc::clone(&self.shared), true)
    }

    fn background_snapshot(&self) -> RocksSnapshot {
        RocksSnapshot::new(Arc::clone(&self.shared), false)
    }

    fn regions(&self) -> Result<Vec<StoredRegion>> {
        let mut applied = BTreeMap::new();
        self.shared.records(state_key::APPLIED, |region, value| {
            applied.insert(region, apply_record(region, value)?);
            Ok(())
        })?;
        let mut regions = Vec::new();
        self.shared.records(state_key::REGION, |region, value| {
            let record = region_record(region, value)?;
            regions.push(StoredRegion {
                record,
                applied: applied.remove(&region),
            });
            Ok(())
        })?;
        match applied.first_key_value() {
            Some((region, _)) => Err(orphaned(*region)),
            None => Ok(regions),
        }
    }

    fn durable_applied(&self, region: u64) -> u64 {
        self.cuts.lock().applied(region)
    }

    fn durable_cut(&self) -> u64 {
        self.cuts.lock().cut()
    }

    fn first_undurable_admin(&self) -> Option<u64> {
        self.cuts.lock().first_undurable_admin()
    }

    fn flush_waiting(&self) -> bool {
        let shared = &*self.shared;
        let waiting = |cf| {
            shared
                .db
                .property_int_value_cf(shared.cf(cf), property::NUM_IMMUTABLE_MEM_TABLE)
        };
        CFS.into_iter().any(|cf| {
            waiting(cf)
                .ok()
                .flatten()
                .is_some_and(|memtables| memtables > 0)
        })
    }

    fn refresh_durable(&self) -> Result<Vec<(u64, u64)>> {
        self.poison.guard(|| self.shared.check_background())?;
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::Persisted);
        let cut = self.shared.cut(&options)?;
        Ok(self.cuts.lock().advance(cut))
    }

    fn flush_all(&self, reason: FlushReason) -> Result<()> {
        *self.flushes.lock().entry(reason).or_default() += 1;
        self.poison.guard(|| self.shared.flush())
    }

    fn pressure(&self) -> Pressure {
        let shared = &*self.shared;
        let level0 = |cf| {
            let files = shared
                .db
                .property_value_cf(shared.cf(cf), c"rocksdb.num-files-at-level0");
            files
                .ok()
                .flatten()
                .and_then(|files| files.parse().ok())
                .unwrap_or(0)
        };
        let stopped = shared.db.property_int_value(property::IS_WRITE_STOPPED);
        Pressure {
            memtable_bytes: shared.write_buffers.get_usage() as u64,
            level0_files: CFS.into_iter().map(level0).max().unwrap_or(0),
            stopped: stopped.ok().flatten().is_some_and(|stopped| stopped != 0),
        }
    }

    fn approximate_bytes(&self, range: KeyRange<'_>) -> Result<u64> {
        if range.is_empty() {
            return Ok(0);
        }
        let bytes = DATA_CFS.map(|cf| {
            let (start, end) = state_key::bounds(cf, range);
            self.shared
                .db
                .get_approximate_sizes_cf(self.shared.cf(cf), &[Range::new(&start, &end)])
        });
        Ok(bytes.iter().flatten().sum())
    }
}

fn encode(write: &mut WriteBatch, cfs: &[&ColumnFamily; 4], op: &StateOp, key: &mut Vec<u8>) {
    let meta = cfs[Cf::CfMeta as usize];
    match op {
        StateOp::Put {
            cf,
            key: user,
            value,
        } => {
            state_key::write(key, *cf, user);
            write.put_cf(cfs[*cf as usize], &key, value);
        }
        StateOp::Delete { cf, key: user } => {
            state_key::write(key, *cf, user);
            write.delete_cf(cfs[*cf as usize], &key);
        }
        StateOp::DeleteRange { cf, start, end } => {
            let range = KeyRange { start, end };
            if !range.is_empty() {
                let (start, end) = state_key::bounds(*cf, range);
                write.delete_range_cf(cfs[*cf as usize], start, end);
            }
        }
        StateOp::PutRegion { record } => {
            let region = record
                .region
                .as_ref()
                .expect("a region record names its region");
            write.put_cf(
                meta,
                state_key::record(state_key::REGION, region.id),
                record.encode_to_vec(),
            );
        }
        StateOp::PutApplied { region, record } => {
            write.put_cf(
                meta,
                state_key::record(state_key::APPLIED, *region),
                record.encode_to_vec(),
            );
        }
        StateOp::DeleteApplied { region } => {
            write.delete_cf(meta, state_key::record(state_key::APPLIED, *region));
        }
    }
}

/// A frozen view of a [`RocksState`]. Keeps the database open as long as it lives.
pub struct RocksSnapshot {
    /// Borrows from `shared`. Invariant: dropped before it, by the order of the fields.
    snapshot: Snapshot<'static>,
    shared: Arc<Shared>,
    /// Blocks that are read go into the block cache.
    fill_cache: bool,
}

impl RocksSnapshot {
    fn new(shared: Arc<Shared>, fill_cache: bool) -> Self {
        let snapshot = shared.db.snapshot();
        // SAFETY: the snapshot borrows the `DB` inside `shared`, whose address is fixed by the
        // `Arc` that this struct holds until after the snapshot is dropped, and which nothing
        // borrows mutably. The longer lifetime never leaves this struct.
        #[expect(
            unsafe_code,
            reason = "a snapshot next to the database it borrows from"
        )]
        let snapshot = unsafe { std::mem::transmute::<Snapshot<'_>, Snapshot<'static>>(snapshot) };
        Self {
            snapshot,
            shared,
            fill_cache,
        }
    }

    fn options(&self) -> ReadOptions {
        let mut options = ReadOptions::default();
        options.set_snapshot(&self.snapshot);
        options.fill_cache(self.fill_cache);
        options
    }
}

impl StateReader for RocksSnapshot {
    fn get(&self, cf: Cf, key: &[u8]) -> Result<Option<Bytes>> {
        self.shared.get_user(cf, key, &self.options())
    }

    fn scan(
        &self,
        cf: Cf,
        range: KeyRange<'_>,
        reverse: bool,
        row: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<()> {
        self.shared.scan(cf, range, reverse, self.options(), row)
    }

    fn stored_region(&self, region: u64) -> Result<Option<StoredRegion>> {
        self.shared.stored_region(region, &self.options())
    }
}
