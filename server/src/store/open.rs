//! The first start of a store, and every later one.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_engine::rocks::{
    self, BlockCache, LogOptions, RocksState, SnapshotFolder, StateOptions,
};
use flotilla_engine::row::Expiry;
use flotilla_engine::{DataDir, DataDirError, EngineError, FlushReason, StateStore, StoreIds};
use flotilla_kv::KeyMode;
use flotilla_pd::{ADVERTISED_VERSION, FIRST_STORE, Genesis, GenesisError, MAX_PEER_COUNT};
use flotilla_proto::metapb;
use flotilla_raftstore::StartError;
use flotilla_raftstore::boot;

use super::clock;
use super::measured::MeasuredLog;
use crate::config::{self, ByteSize, Config, HostPort};
use crate::join::Joined;
use crate::metrics::StoreMetrics;
use crate::peers::remembered;

/// The block cache's share of the machine's memory, in percent, and the least it gets.
const BLOCK_CACHE_PERCENT: u64 = 30;
const BLOCK_CACHE_MIN: ByteSize = ByteSize::mib(64);

/// Why a store cannot be opened. Nothing was lost; what is in the folder is as it was.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The databases in it.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The log and the state do not belong together, or an entry cannot be applied.
    #[error(transparent)]
    Boot(#[from] StartError),
    /// The first records of a cluster cannot be made.
    #[error("the cluster cannot be created: {0}")]
    Genesis(#[from] GenesisError),
    /// A first start without room for the reserve.
    #[error(
        "only {} are free where {path} is, and {} are to be kept in reserve: free some space or \
         lower storage.disk-reserve",
        free.rounded(), reserve.rounded()
    )]
    NoRoom {
        /// The data folder.
        path: PathBuf,
        /// Free space.
        free: ByteSize,
        /// The reserve.
        reserve: ByteSize,
    },
    /// Where PD is cannot be written down.
    #[error("cannot write pd.peers into the data folder: {0}")]
    PdPeers(io::Error),
    /// No more threads.
    #[error("cannot start the store's threads: {0}")]
    Threads(io::Error),
}

/// The databases of a store.
pub(super) struct Opened {
    pub(super) dir: DataDir,
    pub(super) log: Arc<MeasuredLog>,
    pub(super) state: Arc<RocksState>,
    pub(super) snapshots: Arc<SnapshotFolder>,
    pub(super) expiry: Arc<Expiry>,
    pub(super) block_cache: BlockCache,
    /// The store was created by this start.
    pub(super) created: bool,
}

/// Opens the store in `path`. If the folder is missing or empty, creates a store there: of the cluster
/// that was `joined`, or of a new one.
pub(super) fn open(
    path: &Path,
    config: &Config,
    advertised: &HostPort,
    joined: Option<&Joined>,
    metrics: &Arc<StoreMetrics>,
) -> Result<Opened, OpenError> {
    let created = !DataDir::holds_store(path)?;
    let mut dir = if created {
        let new = StoreIds {
            cluster_id: new_cluster_id(),
            store_id: FIRST_STORE,
        };
        let ids = joined.map_or(new, |joined| joined.ids);
        DataDir::create(path, ids, clock::wall())?
    } else {
        DataDir::open(path)?
    };
    let expiry = Arc::new(Expiry::default());
    expiry.advance(clock::wall().seconds());
    let block_cache = BlockCache::new(block_cache_bytes(config).memory());
    let log = LogOptions {
        write_buffer_bytes: config.log_write_buffer.memory(),
        ..LogOptions::new(block_cache.clone())
    };
    let log = rocks::open_log(&dir, &log)?;
    let state = StateOptions {
        write_buffer_bytes: config.state_write_buffer.memory(),
        ..StateOptions::new(block_cache.clone(), Arc::clone(&expiry))
    };
    let state = rocks::open_state(&dir, &state)?;
    let snapshots = rocks::open_snapshots(&dir)?;
    match joined {
        Some(joined) if created => create_member(&mut dir, joined)?,
        None if created => create_cluster(&mut dir, &state, config, advertised)?,
        _ => {}
    }
    let log = Arc::new(MeasuredLog::new(log, Arc::clone(metrics)));
    Ok(Opened {
        dir,
        log,
        state: Arc::new(state),
        snapshots: Arc::new(snapshots),
        expiry,
        block_cache,
        created,
    })
}

/// The first records; durable before `store.toml` says that there is a store.
fn create_cluster(
    dir: &mut DataDir,
    state: &RocksState,
    config: &Config,
    advertised: &HostPort,
) -> Result<(), OpenError> {
    let ids = dir.ids();
    let genesis = Genesis {
        cluster_id: ids.cluster_id,
        store: Some(descriptor(ids.store_id, advertised)),
        key_mode: configured_mode(config),
        max_peer_count: MAX_PEER_COUNT,
        created: dir.created(),
    };
    let records = flotilla_pd::bootstrap_records(&genesis)?;
    state.write(&boot::first_state(
        ids.store_id,
        flotilla_pd::first_regions().to_vec(),
        records,
    ))?;
    state.flush_all(FlushReason::Manual)?;
    dir.finish()?;
    Ok(())
}

/// Where PD is, durable before `store.toml` says that there is a store. Its regions come by messages.
fn create_member(dir: &mut DataDir, joined: &Joined) -> Result<(), OpenError> {
    remembered::write(dir.path(), &joined.stores).map_err(OpenError::PdPeers)?;
    Ok(dir.finish()?)
}

/// What PD is told of this store.
pub fn descriptor(id: u64, advertised: &HostPort) -> metapb::Store {
    metapb::Store {
        id,
        address: advertised.to_string(),
        version: ADVERTISED_VERSION.to_owned(),
        start_timestamp: i64::try_from(clock::wall().seconds()).unwrap_or(i64::MAX),
        ..metapb::Store::default()
    }
}

/// The mode that the configuration asks for, if it does.
pub(super) fn configured_mode(config: &Config) -> Option<KeyMode> {
    match config.key_mode {
        config::KeyMode::Auto => None,
        config::KeyMode::Plain => Some(KeyMode::Plain),
        config::KeyMode::Encoded => Some(KeyMode::Encoded),
    }
}

/// Random, never 0, and positive where somebody reads it as a signed number.
fn new_cluster_id() -> u64 {
    let mixed = RandomState::new().hash_one((clock::wall().0, std::process::id()));
    (mixed >> 1).max(1)
}

fn block_cache_bytes(config: &Config) -> ByteSize {
    config.block_cache.unwrap_or_else(|| {
        let share = ByteSize(memory_bytes() / 100 * BLOCK_CACHE_PERCENT);
        share.max(BLOCK_CACHE_MIN)
    })
}

/// Memory that this process may use: the machine's, or less if its control group has a limit.
fn memory_bytes() -> u64 {
    let info = rustix::system::sysinfo();
    let machine = info.totalram.saturating_mul(u64::from(info.mem_unit));
    let limit = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let limit = limit.and_then(|text| text.trim().parse::<u64>().ok());
    limit.map_or(machine, |limit| limit.min(machine))
}
