//! A store that runs: its databases, its machines, and the threads that drive them.
//!
//! | thread | what it does |
//! |---|---|
//! | `raft-0` | peers and the store machine; touches no database |
//! | `apply-0` | apply machines; the only writer of the state |
//! | `log-append`, `log-sync` | the raft log: one write and one sync for everybody |
//! | `log-fetch` | raft entries that are in no cache |
//! | `region-size` | how much regions hold, and where to split them |
//! | `observer`, `state-flush` | the durable cut, flushes, free space |
//! | `ticks` | time for the machines |

mod applied;
pub mod clock;
mod disk;
mod fatal;
mod measured;
mod observer;
mod offline;
mod open;
mod watchers;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded, unbounded};
use flotilla_engine::rocks::{BlockCache, DbStats, RocksState, SnapshotFolder};
use flotilla_engine::row::Expiry;
use flotilla_engine::{DataDir, FlushReason, SplitLimits, StateStore, StoreIds};
use flotilla_kv::{KeyMode, TtlClock};
use flotilla_raftstore::effects::{Fetch, MetaRole, PdTask, SizeCheck};
use flotilla_raftstore::events::RegionEvent;
use flotilla_raftstore::runtime::{ApplyLimits, Runtime, World};
use flotilla_raftstore::{DurableWatch, SnapshotTask, boot};
use flotilla_router::{Budget, LogThreads, Pollers, spawn_log_writer, spawn_pollers};
use tokio::sync::mpsc;

pub use applied::{Applied, Held};
pub use disk::DiskWatch;
pub use fatal::{Fatal, FatalSink};
pub use measured::MeasuredLog;
pub use offline::OfflineStore;
pub use open::{OpenError, descriptor};
pub use watchers::{RegionObserver, SnapshotCounts, Underway, Watchers};

use crate::config::{ByteSize, Config, HostPort};
use crate::join::Joined;
use crate::metrics::StoreMetrics;
use measured::{ApplyRounds, RaftRounds};
use observer::Observer;
use worker::Work;

/// A store's machines and databases.
pub type RocksRuntime = Runtime<MeasuredLog, RocksState>;

/// Questions and reports for PD that may wait. Heartbeats beyond it are dropped: they come again.
const PD_TASKS_MAX: usize = 16 << 10;
/// Level-0 files at which apply pauses; RocksDB itself slows down at 20.
const LEVEL0_FILES_MAX: u64 = 16;
/// The state's memtables may hold this many times their budget before apply pauses: a flush of one
/// half goes on while the other is filled, and may be late once.
const MEMTABLES_OVER_BUDGET: u64 = 2;

/// What the rest of the node needs of its store.
pub struct Store {
    /// Whose it is.
    pub ids: StoreIds,
    /// Mailboxes, delegates and databases.
    pub runtime: RocksRuntime,
    /// The raft log.
    pub log: Arc<MeasuredLog>,
    /// Latches.
    pub applied: Arc<Applied>,
    /// Free space.
    pub disk: Arc<DiskWatch>,
    /// The time by which rows expire.
    pub ttl: TtlClock,
    /// What the threads count.
    pub metrics: Arc<StoreMetrics>,
    /// Where to report what ends the store.
    pub fatal: FatalSink,
    /// The block cache, for metrics.
    pub block_cache: BlockCache,
    /// The store was created by this start.
    pub created: bool,
    /// The data folder.
    pub path: PathBuf,
    /// The mode the configuration asks for.
    pub configured_mode: Option<KeyMode>,
    /// The files of region snapshots.
    pub snapshots: Arc<SnapshotFolder>,
    /// Snapshots that are under way.
    pub snapshot_counts: Arc<SnapshotCounts>,
    /// Whoever wants to know what happens to the regions.
    pub watchers: Arc<Watchers>,
    expiry: Arc<Expiry>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("ids", &self.ids)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// The cluster's key mode, once it is known here (contracts: C38).
    pub fn mode(&self) -> Option<KeyMode> {
        self.expiry.mode()
    }

    /// The cluster's key mode is known.
    pub fn set_mode(&self, mode: KeyMode) {
        self.expiry.set_mode(mode);
    }

    /// What the two databases have done: the log, the state.
    pub fn stats(&self) -> (DbStats, DbStats) {
        (self.log.stats(), self.runtime.state.stats())
    }
}

/// What the store wants of PD, for whoever carries it there.
#[derive(Debug)]
pub struct PdQueue {
    /// Questions and reports.
    pub tasks: mpsc::Receiver<PdTask>,
    /// Whether this store is PD.
    pub roles: mpsc::UnboundedReceiver<MetaRole>,
}

/// The threads of a store. Dropping it stops them at once, as a crash would.
pub struct Threads {
    store: Arc<Store>,
    raft: Option<Pollers<flotilla_raftstore::RaftMachine>>,
    apply: Option<Pollers<flotilla_raftstore::apply::Apply>>,
    log: Option<LogThreads>,
    /// Dropped to stop the others.
    stop: Option<Sender<()>>,
    others: Vec<JoinHandle<()>>,
    /// Released last.
    _dir: DataDir,
}

/// Opens the store in `path`, or creates one, replays its log, and starts its threads. Blocks for as
/// long as the replay takes.
///
/// # Errors
/// See [`OpenError`].
pub fn start(
    path: &Path,
    config: &Config,
    advertised: &HostPort,
    joined: Option<&Joined>,
    metrics: &Arc<StoreMetrics>,
    fatal: &FatalSink,
) -> Result<(Arc<Store>, Threads, PdQueue), OpenError> {
    check_room(path, config)?;
    let opened = open::open(path, config, advertised, joined, metrics)?;
    let ids = opened.dir.ids();
    let seed = clock::wall().0 ^ u64::from(std::process::id()).rotate_left(48) ^ ids.cluster_id;
    let raft_config = config.raftstore(seed);
    let boot = boot::open(
        raft_config.clone(),
        ids.store_id,
        &*opened.log,
        &*opened.state,
        &*opened.snapshots,
        clock::mono(),
    )?;
    let replayed = boot.replayed;
    let watch = DurableWatch::opened(&raft_config, replayed, clock::mono());
    tracing::info!(
        cluster = ids.cluster_id,
        store = ids.store_id,
        regions = boot.regions.len(),
        replayed_entries = replayed.entries,
        replayed_bytes = replayed.bytes,
        path = %path.display(),
        "{} the store",
        if opened.created { "created" } else { "opened" }
    );
    let runtime = Runtime::new(boot, Arc::clone(&opened.log), Arc::clone(&opened.state));
    let disk = DiskWatch::new(path, config.disk_reserve().0, Arc::clone(metrics))?;
    let store = Arc::new(Store {
        ids,
        runtime,
        log: opened.log,
        applied: Arc::default(),
        disk: Arc::new(disk),
        ttl: TtlClock::new(),
        metrics: Arc::clone(metrics),
        fatal: fatal.clone(),
        block_cache: opened.block_cache,
        snapshots: opened.snapshots,
        snapshot_counts: Arc::default(),
        watchers: Arc::default(),
        created: opened.created,
        path: path.to_owned(),
        configured_mode: open::configured_mode(config),
        expiry: opened.expiry,
    });
    let (threads, queue) =
        spawn(Arc::clone(&store), opened.dir, config, watch).map_err(OpenError::Threads)?;
    Ok((store, threads, queue))
}

/// A first start needs room for its reserve; a restart must work on a full disk too.
fn check_room(path: &Path, config: &Config) -> Result<(), OpenError> {
    if DataDir::holds_store(path)? {
        return Ok(());
    }
    let existing = path
        .ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("."));
    let (free, reserve) = (
        ByteSize(flotilla_engine::free_bytes(existing)?),
        config.disk_reserve(),
    );
    if free < reserve {
        return Err(OpenError::NoRoom {
            path: path.to_owned(),
            free,
            reserve,
        });
    }
    Ok(())
}

/// What lies outside the store, reached through queues.
struct Outside {
    work: Work,
    tasks: mpsc::Sender<PdTask>,
    roles: mpsc::UnboundedSender<MetaRole>,
    snapshot_counts: Arc<SnapshotCounts>,
    watchers: Arc<Watchers>,
    metrics: Arc<StoreMetrics>,
}

impl World for Outside {
    fn fetch(&mut self, fetch: Fetch) {
        // The worker is gone only when the store is going.
        let _ = self.work.fetches.send(fetch);
    }

    fn snapshot(&mut self, task: SnapshotTask) {
        if matches!(task, SnapshotTask::Install { .. }) {
            self.snapshot_counts.applying.more();
        }
        let _ = self.work.snapshots.send(task);
    }

    fn size_check(&mut self, check: SizeCheck) {
        let _ = self.work.size_checks.send(check);
    }

    fn pd(&mut self, task: PdTask) {
        // Heartbeats come again, and whoever waits for a split is answered by the drop.
        let _ = self.tasks.try_send(task);
    }

    fn meta_role(&mut self, role: MetaRole) {
        let _ = self.roles.send(role);
    }

    fn event(&mut self, event: RegionEvent) {
        self.watchers.tell(&event, &self.metrics);
    }
}

fn spawn(
    store: Arc<Store>,
    dir: DataDir,
    config: &Config,
    watch: DurableWatch,
) -> std::io::Result<(Threads, PdQueue)> {
    let (runtime, metrics, fatal) = (store.runtime.clone(), &store.metrics, &store.fatal);
    let (stop, stopped) = bounded(0);
    let (fetches, to_fetch) = unbounded();
    let (size_checks, to_check) = unbounded();
    let (snapshots, to_carry_out) = unbounded();
    let (tasks, pd_tasks) = mpsc::channel(PD_TASKS_MAX);
    let (roles, pd_roles) = mpsc::unbounded_channel();

    let limits = ApplyLimits {
        memtable_bytes_max: config
            .state_write_buffer
            .0
            .saturating_mul(MEMTABLES_OVER_BUDGET),
        level0_files_max: LEVEL0_FILES_MAX,
    };
    let apply = runtime.apply_executor(limits);
    let mut apply = Some(ApplyRounds {
        inner: apply,
        metrics: Arc::clone(metrics),
        applied: Arc::clone(&store.applied),
        terms: Default::default(),
    });
    let outside = Outside {
        work: Work {
            fetches,
            snapshots,
            size_checks,
        },
        tasks,
        roles,
        snapshot_counts: Arc::clone(&store.snapshot_counts),
        watchers: Arc::clone(&store.watchers),
        metrics: Arc::clone(metrics),
    };
    let mut raft = Some(RaftRounds {
        inner: runtime.raft_executor(outside),
        metrics: Arc::clone(metrics),
        applied: Arc::clone(&store.applied),
    });

    let mut threads = Threads {
        store: Arc::clone(&store),
        raft: None,
        apply: None,
        log: None,
        stop: Some(stop),
        others: Vec::new(),
        _dir: dir,
    };
    let release = runtime.clone();
    let on_durable = move |releases| release.release(releases);
    threads.log = Some(spawn_log_writer(
        "log",
        &runtime.log,
        on_durable,
        ends(fatal, "the raft log"),
    )?);
    let once = "one thread, one executor";
    threads.apply = Some(spawn_pollers(
        "apply",
        1,
        &runtime.apply,
        Budget::default(),
        move |_| apply.take().expect(once),
        clock::mono,
        ends(fatal, "applying"),
    )?);
    threads.raft = Some(spawn_pollers(
        "raft",
        1,
        &runtime.raft,
        Budget::default(),
        move |_| raft.take().expect(once),
        clock::mono,
        ends(fatal, "raft"),
    )?);
    let log = Arc::clone(&store.log);
    let others = &mut threads.others;
    others.push(worker::spawn_fetcher(
        runtime.clone(),
        Arc::clone(&log),
        to_fetch,
        Arc::clone(metrics),
    )?);
    others.push(worker::spawn_snapshots(
        runtime.clone(),
        Arc::clone(&store.snapshots),
        to_carry_out,
        Arc::clone(&store.snapshot_counts),
    )?);
    let limits = SplitLimits {
        size_max: config.split_size.0,
        size_split: config.split_size.0.div_ceil(2),
        keys_max: config.split_keys,
    };
    let expiry = Arc::clone(&store.expiry);
    let mode = move || expiry.mode();
    others.push(worker::spawn_measurer(
        runtime.clone(),
        to_check,
        stopped.clone(),
        limits,
        mode,
        Arc::clone(metrics),
        fatal.clone(),
    )?);
    let observer = Observer {
        runtime: runtime.clone(),
        log,
        watch,
        disk: Arc::clone(&store.disk),
        expiry: Arc::clone(&store.expiry),
        flush_timeout: config.flush_timeout,
        fatal: fatal.clone(),
    };
    others.extend(observer.spawn(stopped.clone())?);
    others.push(spawn_ticks(runtime, config.tick, stopped)?);
    Ok((
        threads,
        PdQueue {
            tasks: pd_tasks,
            roles: pd_roles,
        },
    ))
}

/// Reports what ended a group of threads.
fn ends(
    fatal: &FatalSink,
    part: &'static str,
) -> impl FnOnce(flotilla_router::Fatal<flotilla_raftstore::runtime::StoreFatal>) + Send + 'static {
    let fatal = fatal.clone();
    move |cause| fatal.report(Fatal::Store { part, cause })
}

fn spawn_ticks(
    runtime: RocksRuntime,
    tick: Duration,
    stop: Receiver<()>,
) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new()
        .name("ticks".to_owned())
        .spawn(move || {
            while stop.recv_timeout(tick) == Err(RecvTimeoutError::Timeout) {
                runtime.raft.tick_all();
            }
        })
}

impl Threads {
    /// Stops in order: no new work, what was handed to the log becomes durable, the state is
    /// flushed so that the next start replays nothing. Blocks until that is done.
    ///
    /// # Errors
    /// The last flush failed; nothing acknowledged is lost, the next start replays it.
    pub fn stop(mut self) -> Result<(), flotilla_engine::EngineError> {
        let runtime = self.store.runtime.clone();
        runtime.raft.shutdown();
        if let Some(raft) = self.raft.take() {
            raft.join();
        }
        if let Some(log) = self.log.take() {
            log.stop();
        }
        runtime.apply.shutdown();
        if let Some(apply) = self.apply.take() {
            apply.join();
        }
        self.stop_others();
        runtime.state.flush_all(FlushReason::Shutdown)
    }

    fn stop_others(&mut self) {
        self.stop = None;
        for thread in self.others.drain(..) {
            // Its panic, if it had one, has been told by the hook.
            let _ = thread.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        // The pollers hold the queues that the other threads wait on.
        self.raft = None;
        self.apply = None;
        self.log = None;
        self.stop_others();
    }
}
