//! How the two databases are tuned, each setting with its reason.

use std::sync::Arc;

use rocksdb::{
    BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, LogLevel, Options,
    WriteBufferManager,
};

use crate::Cf;
use crate::codec::state_key;
use crate::row::{self, Expiry};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Write buffers of the state database, all column families together, in bytes.
pub const STATE_WRITE_BUFFER_BYTES: usize = 128 * MIB;
/// Write buffer of the log database, in bytes: at least twice the replay bound, so that most
/// entries are truncated before they would be flushed (contracts: C26).
pub const LOG_WRITE_BUFFER_BYTES: usize = 128 * MIB;
/// The least a write buffer may have, in bytes.
pub const WRITE_BUFFER_BYTES_MIN: usize = 64 * KIB;

/// Old WAL files that the log keeps to write over: a sync of one writes no metadata.
const WAL_FILES_RECYCLED: usize = 2;
/// Memtables of one column family, the flushing ones included, before writes stop. Above three
/// RocksDB would slow writes down first.
const MEMTABLES_MAX: i32 = 3;
/// Level-0 files at which writes stop. Apply stops taking entries long before (contracts: C25);
/// slowing down is left to it, so RocksDB is told to begin with it no earlier.
const LEVEL0_FILES_STOP: i32 = 36;
/// A memtable grows by at most this; small, so that an idle store stays small.
const ARENA_BLOCK_BYTES: usize = 64 * KIB;
const BLOCK_BYTES: usize = 8 * KIB;
const BLOOM_BITS_PER_KEY: f64 = 10.0;
/// Flush and compaction threads of one store.
const BACKGROUND_JOBS: i32 = 2;
/// RocksDB's own text logs kept.
const INFO_LOG_FILES: usize = 2;
const INFO_LOG_BYTES: usize = 4 * MIB;
/// Written files are handed to the disk in pieces of this size, so that the final sync is short.
const BYTES_PER_SYNC: u64 = MIB as u64;

/// A block cache, shared by all databases of the process (contracts: C40).
#[derive(Clone)]
pub struct BlockCache(pub(super) Cache);

impl BlockCache {
    /// A cache of at most `bytes`. It takes memory only as it fills.
    pub fn new(bytes: usize) -> Self {
        Self(Cache::new_lru_cache(bytes))
    }

    /// Bytes in use.
    pub fn usage(&self) -> u64 {
        self.0.get_usage() as u64
    }

    /// Bytes in use that cannot be evicted at the moment.
    pub fn pinned(&self) -> u64 {
        self.0.get_pinned_usage() as u64
    }
}

impl std::fmt::Debug for BlockCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlockCache")
            .field("usage", &self.usage())
            .finish()
    }
}

/// How the log database is opened.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// See [`LOG_WRITE_BUFFER_BYTES`].
    pub write_buffer_bytes: usize,
    /// Shared with the state database.
    pub block_cache: BlockCache,
}

impl LogOptions {
    /// The defaults of design section 11.
    pub fn new(block_cache: BlockCache) -> Self {
        Self {
            write_buffer_bytes: LOG_WRITE_BUFFER_BYTES,
            block_cache,
        }
    }

    pub(super) fn rocks(&self, create: bool) -> Options {
        // A region's entries are inserted next to each other: starting where the last one went
        // in makes an append three times cheaper. The prefix is region and kind.
        let buffer = self.write_buffer_bytes.max(WRITE_BUFFER_BYTES_MIN);
        let hint = "memtable_insert_with_hint_prefix_extractor=rocksdb.FixedPrefix.9";
        let mut options = base(create, buffer, hint);
        // A recycled file is only trusted up to its first bad record, which is what point-in-time
        // recovery does; the watermark notices what such a cut loses (contracts: C10).
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_recycle_log_file_num(WAL_FILES_RECYCLED);
        options.set_write_buffer_size(buffer);
        options.set_compression_type(DBCompressionType::None);
        options.set_block_based_table_factory(&tables(&self.block_cache));
        options
    }
}

/// How the state database is opened.
#[derive(Clone, Debug)]
pub struct StateOptions {
    /// See [`STATE_WRITE_BUFFER_BYTES`].
    pub write_buffer_bytes: usize,
    /// Shared with the log database.
    pub block_cache: BlockCache,
    /// What compactions need to drop expired rows.
    pub expiry: Arc<Expiry>,
}

impl StateOptions {
    /// The defaults of design section 11.
    pub fn new(block_cache: BlockCache, expiry: Arc<Expiry>) -> Self {
        Self {
            write_buffer_bytes: STATE_WRITE_BUFFER_BYTES,
            block_cache,
            expiry,
        }
    }

    pub(super) fn write_buffers(&self) -> WriteBufferManager {
        // Never stalls by itself: apply looks at the pressure and waits (contracts: C25).
        WriteBufferManager::new_write_buffer_manager(self.budget(), false)
    }

    pub(super) fn rocks(&self, create: bool, write_buffers: &WriteBufferManager) -> Options {
        let mut options = base(create, self.budget() / 2, "");
        options.create_missing_column_families(create);
        // One cut over all column families, whoever starts the flush.
        options.set_atomic_flush(true);
        options.set_write_buffer_manager(write_buffers);
        options.set_bytes_per_sync(BYTES_PER_SYNC);
        options
    }

    pub(super) fn column_family(&self, cf: Cf, base: &Options) -> Options {
        let mut options = base.clone();
        // Half of the budget, so that one half fills while the other is flushed.
        options.set_write_buffer_size(self.budget() / 2);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_compression_per_level(&compression());
        options.set_block_based_table_factory(&tables(&self.block_cache));
        if cf != Cf::CfMeta {
            let expiry = Arc::clone(&self.expiry);
            options.set_compaction_filter("flotilla.expiry", move |_, key, value| match key {
                [state_key::DATA, key @ ..] if row::droppable(&expiry, cf, key, value) => {
                    rocksdb::CompactionDecision::Remove
                }
                _ => rocksdb::CompactionDecision::Keep,
            });
        }
        options
    }

    /// Tables that an install makes: compressed as the level they end up in.
    pub(super) fn install_tables(&self) -> Options {
        let mut options = Options::default();
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_block_based_table_factory(&tables(&self.block_cache));
        options.set_bytes_per_sync(BYTES_PER_SYNC);
        options
    }

    fn budget(&self) -> usize {
        self.write_buffer_bytes.max(WRITE_BUFFER_BYTES_MIN)
    }
}

/// What both databases have in common. `more` is in RocksDB's own notation, for what the crate has
/// no call for.
fn base(create: bool, write_buffer_bytes: usize, more: &str) -> Options {
    // Closing is no flush door: what was not flushed before is replayed from the log.
    let text = format!("avoid_flush_during_shutdown=true;{more}");
    let mut options = Options::default()
        .get_options_from_string(text)
        .expect("options of this RocksDB");
    options.create_if_missing(create);
    options.set_error_if_exists(create);
    options.set_paranoid_checks(true);
    options.set_max_background_jobs(BACKGROUND_JOBS);
    options.set_max_write_buffer_number(MEMTABLES_MAX);
    options.set_level_zero_slowdown_writes_trigger(LEVEL0_FILES_STOP);
    options.set_level_zero_stop_writes_trigger(LEVEL0_FILES_STOP);
    options.set_soft_pending_compaction_bytes_limit(0);
    options.set_arena_block_size(ARENA_BLOCK_BYTES.min(write_buffer_bytes / 8));
    options.enable_statistics();
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_keep_log_file_num(INFO_LOG_FILES);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options
}

fn tables(cache: &BlockCache) -> BlockBasedOptions {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&cache.0);
    tables.set_block_size(BLOCK_BYTES);
    tables.set_bloom_filter(BLOOM_BITS_PER_KEY, false);
    // Index and filters count against the one memory budget.
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_cache_index_and_filter_blocks_with_high_priority(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    tables
}

/// Fresh data is rewritten soon, so the upper levels are not worth compressing.
fn compression() -> [DBCompressionType; 7] {
    use DBCompressionType::{Lz4, None};
    [None, None, Lz4, Lz4, Lz4, Lz4, Lz4]
}
