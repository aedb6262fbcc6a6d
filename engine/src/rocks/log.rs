//! The raft log in RocksDB: one write per batch, one sync for everybody.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_proto::raft::Entry;
use flotilla_proto::store::{RaftRecord, SnapshotIntent, TruncationRecord};
use parking_lot::Mutex;
use prost::Message;
use rocksdb::{DB, Options, ReadOptions, WriteBatch, WriteOptions};

use super::options::LogOptions;
use super::poison::Poison;
use super::stats::{self, DbStats};
use super::watermark::Watermark;
use super::{check_identity, failure, open_failure, write};
use crate::codec::log_key::{self, Parsed};
use crate::codec::{self, Identity};
use crate::crash::{point, points_of_log};
use crate::region_log::{RegionLogBuilder, missing_entry};
use crate::{EngineError, LogBatch, RaftLog, RegionLog, RegionWrite, Result};

/// [`RaftLog`] on RocksDB.
///
/// Appending writes to the WAL without syncing it; syncing may go on at the same time on another
/// thread and covers everything that was appended before it began.
pub struct RocksLog {
    path: PathBuf,
    db: DB,
    /// Keeps the statistics readable.
    options: Options,
    appender: Mutex<Appender>,
    /// Number of the last batch whose write returned.
    appended: AtomicU64,
    appended_bytes: AtomicU64,
    syncer: Mutex<Syncer>,
    poison: Poison,
}

struct Appender {
    /// Number of the last batch given out.
    number: u64,
    /// Reused for entry values.
    value: Vec<u8>,
    /// Logged, not synced.
    options: WriteOptions,
}

struct Syncer {
    watermark: Watermark,
    /// Number up to which batches are durable.
    synced: u64,
}

impl RocksLog {
    /// Creates the log of a new store in an absent or empty folder.
    pub(crate) fn create(path: &Path, identity: Identity, options: &LogOptions) -> Result<Self> {
        let options = options.rocks(true);
        let db = DB::open(&options, path).map_err(|error| open_failure(path, &error))?;
        let watermark = Watermark::create(path)?;
        let mut synced = write::options(true);
        synced.set_sync(true);
        write::write(&db, path, &synced, "creating the log", || {
            let mut batch = WriteBatch::default();
            batch.put(log_key::IDENTITY, identity.encode());
            batch.put(log_key::BATCH, 0u64.to_be_bytes());
            batch
        })?;
        Ok(Self::new(path, db, options, watermark, 0))
    }

    /// Opens the log of a store. Refuses one that lost synced batches (contracts: C10).
    pub(crate) fn open(path: &Path, identity: Identity, options: &LogOptions) -> Result<Self> {
        let (mut watermark, synced) = Watermark::open(path)?;
        let options = options.rocks(false);
        let db = DB::open(&options, path).map_err(|error| open_failure(path, &error))?;
        let read = |key: &[u8]| {
            db.get(key)
                .map_err(|error| failure(path, "reading the log", &error))
        };
        let number = read(&log_key::BATCH)?;
        // A log that lost everything does not say whose it is either; the watermark tells why.
        if number.is_some() || synced == 0 {
            check_identity(path, read(&log_key::IDENTITY)?, identity)?;
        }
        let place = || format!("{}, batch number", path.display());
        let number = match number {
            Some(number) => codec::number(place, &number)?,
            None if synced > 0 => 0,
            None => return Err(EngineError::corrupt(place(), "the record is missing")),
        };
        if number < synced {
            let detail = format!(
                "recovered up to batch {number}, but {synced} batches had been synced: \
                 a WAL file is damaged, cut short or missing"
            );
            return Err(EngineError::corrupt(path.display().to_string(), detail));
        }
        // Opening flushed what was recovered, so it is durable.
        watermark.set(number)?;
        Ok(Self::new(path, db, options, watermark, number))
    }

    fn new(path: &Path, db: DB, options: Options, watermark: Watermark, number: u64) -> Self {
        Self {
            path: path.to_owned(),
            db,
            options,
            appender: Mutex::new(Appender {
                number,
                value: Vec::new(),
                options: write::options(true),
            }),
            appended: AtomicU64::new(number),
            appended_bytes: AtomicU64::new(0),
            syncer: Mutex::new(Syncer {
                watermark,
                synced: number,
            }),
            poison: Poison::default(),
        }
    }

    /// Number of the last batch appended. Right after opening: of the last one recovered.
    pub fn appended(&self) -> u64 {
        self.appended.load(Ordering::Acquire)
    }

    /// Number up to which batches are durable.
    pub fn synced(&self) -> u64 {
        self.syncer.lock().synced
    }

    /// Fails if a flush or compaction failed in the background (contracts: C13).
    pub fn check_background(&self) -> Result<()> {
        self.poison
            .guard(|| stats::check_background(&self.db, &self.path, &write::options(true)))
    }

    /// What the database has done.
    pub fn stats(&self) -> DbStats {
        stats::read(&self.db, &self.options, &[])
    }

    fn iterate(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        mut row: impl FnMut(&[u8], &[u8]) -> Result<bool>,
    ) -> Result<()> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(start);
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        let mut rows = self.db.raw_iterator_opt(options);
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            if !row(key, value)? {
                return Ok(());
            }
            rows.next();
        }
        rows.status()
            .map_err(|error| failure(&self.path, "reading the log", &error))
    }
}

impl RaftLog for RocksLog {
    fn append(&self, batch: &LogBatch) -> Result<u64> {
        let mut appender = self.appender.lock();
        self.poison.guard(|| {
            let Appender {
                number,
                value,
                options,
            } = &mut *appender;
            let next = *number + 1;
            point("log-append");
            points_of_log(batch, "append");
            write::write(
                &self.db,
                &self.path,
                options,
                "appending to the log",
                || encode(batch, next, value),
            )?;
            *number = next;
            point("log-appended");
            points_of_log(batch, "appended");
            self.appended_bytes
                .fetch_add(batch.stored_bytes(), Ordering::Relaxed);
            // After the write: a sync that sees the number covers it.
            self.appended.store(next, Ordering::Release);
            Ok(next)
        })
    }

    fn sync(&self) -> Result<u64> {
        let mut syncer = self.syncer.lock();
        self.poison.guard(|| {
            let number = self.appended.load(Ordering::Acquire);
            if number == syncer.synced {
                return Ok(number);
            }
            point("log-sync");
            let synced = self.db.flush_wal(true);
            synced.map_err(|error| failure(&self.path, "syncing the log", &error))?;
            point("log-synced");
            syncer.watermark.set(number)?;
            point("log-watermark");
            syncer.synced = number;
            Ok(number)
        })
    }

    fn load(&self) -> Result<BTreeMap<u64, RegionLog>> {
        let mut builders: BTreeMap<u64, RegionLogBuilder> = BTreeMap::new();
        self.iterate(&log_key::FIRST, None, |key, value| {
            load_row(&self.path, &mut builders, key, value)?;
            Ok(true)
        })?;
        builders
            .into_iter()
            .map(|(region, builder)| Ok((region, builder.finish()?)))
            .collect()
    }

    fn entries(&self, region: u64, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>> {
        let mut found: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let mut full = false;
        if low >= high {
            return Ok(found);
        }
        let (start, end) = (log_key::entry(region, low), log_key::entry(region, high));
        self.iterate(&start, Some(&end), |key, value| {
            let next = low + found.len() as u64;
            if log_key::parse(key) != Some(Parsed::Entry(region, next)) {
                return Err(missing_entry(region, next));
            }
            bytes += (value.len().saturating_sub(codec::ENTRY_HEADER_BYTES)) as u64;
            full = !found.is_empty() && bytes > bytes_max;
            if full {
                return Ok(false);
            }
            found.push(codec::entry(region, next, value)?);
            Ok(true)
        })?;
        let next = low + found.len() as u64;
        if !full && next < high {
            return Err(missing_entry(region, next));
        }
        Ok(found)
    }

    fn appended_bytes(&self) -> u64 {
        self.appended_bytes.load(Ordering::Relaxed)
    }
}

/// One batch as RocksDB writes it; the order within a region is that of [`RegionWrite`].
fn encode(batch: &LogBatch, number: u64, value: &mut Vec<u8>) -> WriteBatch {
    let records = batch.regions().len() as u64;
    let bytes = batch.stored_bytes() + records * 64 + batch.entry_count() * 8;
    let mut write = WriteBatch::with_capacity_bytes(bytes as usize);
    write.put(log_key::BATCH, number.to_be_bytes());
    for (region, changes) in batch.regions() {
        encode_region(&mut write, region, changes, value);
    }
    write
}

fn encode_region(write: &mut WriteBatch, region: u64, changes: &RegionWrite, value: &mut Vec<u8>) {
    if changes.clear.is_some() {
        let (start, end) = log_key::region(region);
        write.delete_range(start, end);
    }
    if let Some((first, last)) = changes.cut() {
        write.delete_range(
            log_key::entry(region, first),
            log_key::entry(region, last + 1),
        );
    }
    for entry in &changes.entries {
        value.clear();
        value.extend_from_slice(&codec::entry_header(entry));
        value.extend_from_slice(&entry.data);
        write.put(log_key::entry(region, entry.index), &value);
    }
    if let Some(record) = &changes.record {
        value.clear();
        record.encode(value).expect("a vector grows");
        write.put(log_key::record(region, log_key::RECORD), &value);
    }
    if let Some(truncation) = &changes.truncation {
        value.clear();
        truncation.encode(value).expect("a vector grows");
        write.put(log_key::record(region, log_key::TRUNCATION), &value);
        if changes.truncated_from <= truncation.index {
            let end = log_key::entry(region, truncation.index + 1);
            write.delete_range(log_key::entry(region, changes.truncated_from), end);
        }
    }
    match &changes.intent {
        None => {}
        Some(None) => write.delete(log_key::record(region, log_key::INTENT)),
        Some(Some(intent)) => {
            value.clear();
            intent.encode(value).expect("a vector grows");
            write.put(log_key::record(region, log_key::INTENT), &value);
        }
    }
}

fn load_row(
    path: &Path,
    builders: &mut BTreeMap<u64, RegionLogBuilder>,
    key: &[u8],
    value: &[u8],
) -> Result<()> {
    let Some(parsed) = log_key::parse(key) else {
        return Err(EngineError::corrupt(
            path.display().to_string(),
            format!("an unknown key {key:02x?}"),
        ));
    };
    let (Parsed::Record(region)
    | Parsed::Truncation(region)
    | Parsed::Entry(region, _)
    | Parsed::Intent(region)) = parsed;
    let builder = builders
        .entry(region)
        .or_insert_with(|| RegionLogBuilder::new(region));
    match parsed {
        Parsed::Record(_) => {
            let record =
                codec::message::<RaftRecord>(|| format!("region {region} hard state"), value)?;
            builder.record = Some(record);
        }
        Parsed::Truncation(_) => {
            let place = || format!("region {region} truncation point");
            builder.truncation = Some(codec::message::<TruncationRecord>(place, value)?);
        }
        Parsed::Intent(_) => {
            let place = || format!("region {region} snapshot intent");
            builder.intent = Some(codec::message::<SnapshotIntent>(place, value)?);
        }
        Parsed::Entry(_, index) => {
            let (term, _, payload) = codec::entry_value(region, index, value)?;
            builder.entry(index, term, payload.len() as u64)?;
        }
    }
    Ok(())
}
