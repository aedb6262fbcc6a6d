//! What RocksDB has done so far, for metrics and figures.

use std::path::Path;

use rocksdb::properties as property;
use rocksdb::statistics::Ticker;
use rocksdb::{ColumnFamily, DB, Options, WriteBatch, WriteOptions};

use super::failure;
use crate::{EngineError, Result};

/// What one database has done since it was opened, and how it stands now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DbStats {
    /// Bytes of keys and values that were handed over to be written.
    pub user_bytes: u64,
    /// Bytes written to the WAL.
    pub wal_bytes: u64,
    /// Writes to the WAL: one per batch.
    pub wal_writes: u64,
    /// Syncs of the WAL.
    pub wal_syncs: u64,
    /// Bytes written by flushes.
    pub flush_bytes: u64,
    /// Bytes read by compactions.
    pub compaction_read_bytes: u64,
    /// Bytes written by compactions.
    pub compaction_write_bytes: u64,
    /// Microseconds that writes were held up.
    pub stall_micros: u64,
    /// Blocks found in the block cache.
    pub cache_hits: u64,
    /// Blocks not found in it.
    pub cache_misses: u64,
    /// Bytes in memtables, flushing ones included.
    pub memtable_bytes: u64,
    /// Bytes of all live files.
    pub file_bytes: u64,
    /// Bytes that compactions are behind by.
    pub compaction_pending_bytes: u64,
    /// Background failures.
    pub background_errors: u64,
}

/// Reads the counters of `db`, which was opened with `options`, over the column families `cfs`;
/// of the only one if there are none named.
pub(super) fn read(db: &DB, options: &Options, cfs: &[&ColumnFamily]) -> DbStats {
    let ticker = |ticker| options.get_ticker_count(ticker);
    let sum = |name: &property::PropName| -> u64 {
        if cfs.is_empty() {
            return number(db.property_int_value(name));
        }
        cfs.iter()
            .map(|cf| number(db.property_int_value_cf(cf, name)))
            .sum()
    };
    DbStats {
        user_bytes: ticker(Ticker::BytesWritten),
        wal_bytes: ticker(Ticker::WalFileBytes),
        wal_writes: ticker(Ticker::WriteWithWal),
        wal_syncs: ticker(Ticker::WalFileSynced),
        flush_bytes: ticker(Ticker::FlushWriteBytes),
        compaction_read_bytes: ticker(Ticker::CompactReadBytes),
        compaction_write_bytes: ticker(Ticker::CompactWriteBytes),
        stall_micros: ticker(Ticker::StallMicros),
        cache_hits: ticker(Ticker::BlockCacheHit),
        cache_misses: ticker(Ticker::BlockCacheMiss),
        memtable_bytes: sum(property::CUR_SIZE_ALL_MEM_TABLES),
        file_bytes: sum(property::LIVE_SST_FILES_SIZE),
        compaction_pending_bytes: sum(property::ESTIMATE_PENDING_COMPACTION_BYTES),
        background_errors: background_errors(db),
    }
}

/// Background failures of `db` so far.
fn background_errors(db: &DB) -> u64 {
    number(db.property_int_value(property::BACKGROUND_ERRORS))
}

/// Fails if a flush or compaction of `db` in the folder `path` failed (contracts: C13). `options`
/// are those that it is written with.
#[expect(
    clippy::disallowed_methods,
    reason = "an empty write: RocksDB answers with what stopped it"
)]
pub(super) fn check_background(db: &DB, path: &Path, options: &WriteOptions) -> Result<()> {
    let errors = background_errors(db);
    if errors == 0 {
        return Ok(());
    }
    let operation = "a flush or compaction in the background";
    match db.write_opt(WriteBatch::default(), options) {
        Err(error) => Err(failure(path, operation, &error)),
        Ok(()) => {
            // RocksDB hides why; most often it is this.
            let free_mib = crate::free_bytes(path)? >> 20;
            let detail = format!(
                "{errors} failures, told in the file LOG there; {free_mib} MiB of the disk are free"
            );
            Err(EngineError::Disk {
                path: path.to_owned(),
                operation,
                detail,
            })
        }
    }
}

/// A property that every database of this RocksDB has; 0 for one it stopped having.
fn number(property: std::result::Result<Option<u64>, rocksdb::Error>) -> u64 {
    property.ok().flatten().unwrap_or(0)
}
