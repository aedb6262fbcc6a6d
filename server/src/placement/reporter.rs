//! What the store tells PD and asks of it, and what PD tells the store to do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_engine::StoreIds;
use flotilla_kv::KeyMode;
use flotilla_pd::{CONFIG_KEY_MODE, CONFIG_PATH};
use flotilla_pd_client::{
    ClientConfig, HeartbeatQueue, HeartbeatRoom, PdClient, PdError, RegionHeartbeats, Reopen,
};
use flotilla_proto::metapb::Region;
use flotilla_proto::pdpb::{
    ErrorType, RegionHeartbeatRequest, RegionHeartbeatResponse, SplitReason, StoreStats,
    TimeInterval,
};
use flotilla_raftstore::effects::{NewIds, PdTask, RaftInput};
use flotilla_raftstore::{Answer, Instruction, PeerInput};
use flotilla_tls::Dial;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::config::HostPort;
use crate::peers::twin;
use crate::store::{DiskWatch, Fatal, PdQueue, SnapshotCounts, Store, clock, descriptor};

/// Pause before the store is registered again.
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// Questions for split ids that are under way at once.
const ASKS_MAX: usize = 64;

/// Asks PD on behalf of requests.
#[derive(Clone, Debug)]
pub struct Placement(PdClient);

impl Placement {
    /// The client that asks: one connection for the whole node.
    pub fn client(&self) -> &PdClient {
        &self.0
    }

    /// Decides the cluster's key mode, unless it is decided; returns the one that holds.
    ///
    /// # Errors
    /// PD cannot be asked now.
    pub async fn decide_mode(&self, wanted: KeyMode) -> Result<KeyMode, PdError> {
        // A refusal means that another mode was first; what is recorded then is the answer.
        let stored = self
            .0
            .store_config_item(CONFIG_PATH, CONFIG_KEY_MODE, wanted.name())
            .await;
        match (self.recorded_mode().await?, stored) {
            (Some(mode), _) => Ok(mode),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Err(PdError::Malformed {
                call: "LoadGlobalConfig",
                what: "no key mode, though one was stored",
            }),
        }
    }

    /// The cluster's key mode, if it is decided.
    ///
    /// # Errors
    /// PD cannot be asked now.
    pub async fn recorded_mode(&self) -> Result<Option<KeyMode>, PdError> {
        let name = self
            .0
            .load_config_item(CONFIG_PATH, CONFIG_KEY_MODE)
            .await?;
        Ok(KeyMode::from_name(&name))
    }
}

/// Why the store does not fit its cluster; the node must not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "storage.key-mode = {}: this cluster's keys are {} since its first use; set that, or auto, or use another cluster",
    configured.name(), recorded.name()
)]
pub struct WrongMode {
    configured: KeyMode,
    recorded: KeyMode,
}

/// Why the store must not serve.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// For its cluster's keys.
    #[error(transparent)]
    Mode(#[from] WrongMode),
    /// PD does not take it: another store has its address, for example.
    #[error("PD does not take this store: {0}")]
    Refused(PdError),
    /// Another node has the same identity, and runs.
    #[error(
        "store {store} runs at {address} already, from another data folder: one of them is a copy. Stop the other node \
         if this is the right one, or start this node on an empty data folder with --join"
    )]
    Twin {
        /// The store.
        store: u64,
        /// Where it runs.
        address: String,
    },
    /// It was removed, or another store took its place.
    #[error(
        "store {store} was removed from its cluster, or another one took its place: its id never comes back; to make \
         a new store of this node, start it on an empty data folder with --join"
    )]
    Removed {
        /// The store.
        store: u64,
    },
}

/// Who this node is to PD.
struct Identity {
    ids: StoreIds,
    advertised: String,
    dial: Dial,
}

impl Identity {
    /// Where another node runs with this store's identity, if PD knows one.
    async fn twin(&self, pd: &PdClient) -> Result<Option<String>, PdError> {
        let registered = match pd.get_store(self.ids.store_id).await {
            Ok((store, _)) => store.address,
            // It is new.
            Err(PdError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let elsewhere = registered != self.advertised;
        let lives = elsewhere && twin::lives_at(&registered, self.ids, &self.dial).await;
        Ok(lives.then_some(registered))
    }
}

/// The task that speaks with PD.
#[derive(Debug)]
pub struct Reporter {
    store: Arc<Store>,
    pd: PdClient,
    dial: Dial,
    advertised: HostPort,
    tasks: mpsc::Receiver<PdTask>,
    asks: Arc<Semaphore>,
    started: Instant,
    last_store_heartbeat: u64,
    stream: Option<RegionHeartbeats>,
    /// The way out of `stream`.
    queue: Option<HeartbeatQueue>,
    /// The last heartbeat of each region this store leads: a new PD knows none of them.
    latest: BTreeMap<u64, RegionHeartbeatRequest>,
    /// Regions whose last heartbeat is not on its way. Leaders tell what changed, and once.
    untold: Untold,
}

impl Reporter {
    /// A reporter for `store` to the PD at `address` (`host:port`), and the handle for requests.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn new(
        store: Arc<Store>,
        address: String,
        dial: Dial,
        advertised: HostPort,
        tasks: mpsc::Receiver<PdTask>,
    ) -> Result<(Self, Placement), PdError> {
        let config = ClientConfig {
            cluster_id: Some(store.ids.cluster_id),
            dial: dial.clone(),
            ..ClientConfig::new(vec![address])
        };
        let pd = PdClient::new(config)?;
        let placement = Placement(pd.clone());
        let reporter = Self {
            store,
            pd,
            dial,
            advertised,
            tasks,
            asks: Arc::new(Semaphore::new(ASKS_MAX)),
            started: Instant::now(),
            last_store_heartbeat: clock::wall().seconds(),
            stream: None,
            queue: None,
            latest: BTreeMap::new(),
            untold: Untold::default(),
        };
        Ok((reporter, placement))
    }

    /// Registers the store and learns the key mode; tries until PD answers.
    ///
    /// # Errors
    /// PD refuses the store, or the configuration asks for another key mode than the cluster has.
    pub async fn register(&self) -> Result<(), Unfit> {
        loop {
            match self.identity().twin(&self.pd).await {
                Ok(None) => {}
                Ok(Some(address)) => {
                    let store = self.store.ids.store_id;
                    return Err(Unfit::Twin { store, address });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot ask PD for the store, trying again");
                    tokio::time::sleep(RETRY_FIRST).await;
                    continue;
                }
            }
            match self.try_register().await {
                Ok(None) => return Ok(()),
                Ok(Some(recorded)) => {
                    self.store.set_mode(recorded);
                    return match self.store.configured_mode {
                        Some(configured) if configured != recorded => Err(Unfit::Mode(WrongMode {
                            configured,
                            recorded,
                        })),
                        _ => Ok(()),
                    };
                }
                Err(error) if error.kind() == Some(ErrorType::StoreTombstone) => {
                    let store = self.store.ids.store_id;
                    return Err(Unfit::Removed { store });
                }
                Err(error @ PdError::Refused { .. }) => return Err(Unfit::Refused(error)),
                // The client has tried for a while by itself.
                Err(error) => tracing::warn!(%error, "cannot register the store, trying again"),
            }
            tokio::time::sleep(RETRY_FIRST).await;
        }
    }

    fn identity(&self) -> Identity {
        Identity {
            ids: self.store.ids,
            advertised: self.advertised.to_string(),
            dial: self.dial.clone(),
        }
    }

    async fn try_register(&self) -> Result<Option<KeyMode>, PdError> {
        self.pd
            .put_store(descriptor(self.store.ids.store_id, &self.advertised))
            .await?;
        let placement = Placement(self.pd.clone());
        match (placement.recorded_mode().await?, self.store.configured_mode) {
            (None, Some(configured)) => placement.decide_mode(configured).await.map(Some),
            (recorded, _) => Ok(recorded),
        }
    }

    /// Carries tasks to PD and instructions back, until the store is gone.
    pub async fn run(mut self) {
        let mut reopen = Reopen::default();
        let mut next_try = Instant::now();
        loop {
            tokio::select! {
                task = self.tasks.recv() => match task {
                    None => return,
                    Some(task) => self.on_task(task),
                },
                instruction = next_instruction(&mut self.stream) => match instruction {
                    Some(Ok(instruction)) => self.on_instruction(instruction),
                    Some(Err(PdError::Refused { message, .. })) => {
                        tracing::warn!(message, "PD refused a region heartbeat");
                    }
                    Some(Err(_)) | None => self.hang_up(),
                },
                room = next_room(&self.queue), if self.stream.is_some() && !self.untold.regions.is_empty() => {
                    match room {
                        Some(room) => self.untold.tell(room, &mut self.latest),
                        None => self.hang_up(),
                    }
                },
                () = tokio::time::sleep_until(next_try), if self.stream.is_none() => {
                    match self.pd.region_heartbeats().await {
                        Ok(opened) => {
                            self.queue = Some(opened.queue());
                            self.stream = Some(opened);
                            self.report_all();
                        }
                        Err(error) => tracing::warn!(%error, "no heartbeat stream to PD, trying again"),
                    }
                    next_try = Instant::now() + reopen.tried(clock::mono());
                }
            }
        }
    }

    /// Both halves end: PD's connection would wait for the other one.
    fn hang_up(&mut self) {
        (self.stream, self.queue) = (None, None);
    }

    /// Reports every region that this store leads.
    fn report_all(&mut self) {
        let delegates = Arc::clone(&self.store.runtime.delegates);
        self.latest.retain(|region, _| {
            delegates
                .serving(*region)
                .is_ok_and(|serving| serving.is_leader())
        });
        self.untold.regions.extend(self.latest.keys());
    }

    fn on_task(&mut self, task: PdTask) {
        match task {
            PdTask::RegionHeartbeat(heartbeat) => {
                let region = heartbeat.region.as_ref().map_or(0, |region| region.id);
                self.latest.insert(region, *heartbeat);
                self.untold.regions.insert(region);
            }
            PdTask::AskSplit {
                region,
                epoch,
                keys,
                answer,
            } => {
                let (pd, store, asks) = (
                    self.pd.clone(),
                    Arc::clone(&self.store),
                    Arc::clone(&self.asks),
                );
                tokio::spawn(async move {
                    let _turn = asks.acquire().await;
                    let id = region.id;
                    let ids = ask_ids(&pd, region, keys.len()).await;
                    store.runtime.to_peer(
                        id,
                        PeerInput::SplitIds {
                            epoch,
                            keys,
                            ids,
                            answer,
                        },
                    );
                });
            }
            PdTask::ReportSplit { regions } => {
                let pd = self.pd.clone();
                tokio::spawn(async move {
                    // Informational: the regions' own heartbeats say the same.
                    let _ = pd.report_batch_split(regions).await;
                });
            }
            PdTask::AskRegion { region } => {
                let (pd, store) = (self.pd.clone(), Arc::clone(&self.store));
                tokio::spawn(async move {
                    // Without an answer the peer asks again.
                    if let Ok(Some(route)) = pd.get_region_by_id(region).await {
                        let current = PeerInput::Current {
                            region: route.region,
                        };
                        store.runtime.to_peer(region, current);
                    }
                });
            }
            PdTask::StoreHeartbeat { regions, .. } => self.store_heartbeat(regions),
        }
    }

    fn store_heartbeat(&mut self, regions: u64) {
        let (pd, store) = (self.pd.clone(), Arc::clone(&self.store));
        let since = std::mem::replace(&mut self.last_store_heartbeat, clock::wall().seconds());
        let start_time = clock::wall()
            .seconds()
            .saturating_sub(self.started.elapsed().as_secs());
        let stats = StoreStats {
            store_id: store.ids.store_id,
            region_count: u32::try_from(regions).unwrap_or(u32::MAX),
            start_time: u32::try_from(start_time).unwrap_or(u32::MAX),
            interval: Some(TimeInterval {
                start_timestamp: since,
                end_timestamp: self.last_store_heartbeat,
            }),
            ..snapshots_under_way(&store.snapshot_counts)
        };
        let identity = self.identity();
        tokio::spawn(async move {
            // Copies that start at the same time see each other only afterwards.
            if let Ok(Some(address)) = identity.twin(&pd).await {
                let store_id = identity.ids.store_id;
                store.fatal.report(Fatal::Twin {
                    store: store_id,
                    address,
                });
                return;
            }
            let for_stats = Arc::clone(&store);
            let Ok(used) = tokio::task::spawn_blocking(move || {
                let (log, state) = for_stats.stats();
                log.file_bytes + state.file_bytes
            })
            .await
            else {
                return;
            };
            let stats = StoreStats {
                used_size: used,
                ..on_disk(&store.disk, stats)
            };
            let id = stats.store_id;
            if let Err(error) = pd.store_heartbeat(stats).await {
                if error.kind() == Some(ErrorType::StoreTombstone) {
                    store.fatal.report(Fatal::Removed { store: id });
                }
                tracing::warn!(%error, "the store's heartbeat was not taken");
            }
        });
    }

    fn on_instruction(&self, instruction: RegionHeartbeatResponse) {
        let region = instruction.region_id;
        let runtime = &self.store.runtime;
        let input = match Instruction::read(&instruction, &runtime.delegates) {
            None => return,
            Some(Instruction::Split { keys }) => PeerInput::Split {
                context: None,
                keys: boundaries(self.store.mode(), keys),
                answer: Answer::new(move |outcome: Result<Vec<Region>, _>| match outcome {
                    Ok(regions) => {
                        tracing::info!(region, parts = regions.len(), "split as PD asked");
                    }
                    Err(error) => tracing::info!(region, %error, "could not split as PD asked"),
                }),
            },
            Some(Instruction::Transfer { to }) => PeerInput::Transfer { to },
            Some(Instruction::Members { epoch, changes }) => PeerInput::ChangeMembers {
                epoch,
                changes,
                answer: Answer::new(move |outcome: Result<Region, _>| match outcome {
                    Ok(changed) => {
                        let peers = changed.peers.len();
                        tracing::info!(region, peers, "members changed as PD asked");
                    }
                    Err(error) => {
                        tracing::info!(region, %error, "could not change members as PD asked");
                    }
                }),
            },
            Some(Instruction::Merge { epoch, target }) => PeerInput::Merge {
                epoch,
                target,
                answer: Answer::new(move |outcome: Result<Region, _>| match outcome {
                    Ok(_) => tracing::info!(region, "merges as PD asked"),
                    Err(error) => tracing::info!(region, %error, "could not merge as PD asked"),
                }),
            },
        };
        // PD asks again if it still wants it.
        let _ = runtime.raft.send(region, RaftInput::Peer(input));
    }
}

/// The keys that PD wants regions to start at, as boundaries that clients can read, ascending
/// (contracts: C38). While the key mode is not known here, PD has seen to it.
fn boundaries(mode: Option<KeyMode>, keys: Vec<Bytes>) -> Vec<Bytes> {
    let mut boundaries = match mode {
        None => keys,
        Some(mode) => keys.iter().filter_map(|key| mode.boundary(key)).collect(),
    };
    boundaries.sort_unstable();
    boundaries.dedup();
    boundaries
}

async fn next_room(queue: &Option<HeartbeatQueue>) -> Option<HeartbeatRoom> {
    match queue {
        None => std::future::pending().await,
        Some(queue) => queue.room().await,
    }
}

/// Regions, in turn.
#[derive(Debug, Default)]
struct Untold {
    regions: BTreeSet<u64>,
    /// The one told last.
    last: u64,
}

impl Untold {
    /// Sends the next heartbeat. What was read and written is told once; the rest may be told again.
    fn tell(&mut self, room: HeartbeatRoom, latest: &mut BTreeMap<u64, RegionHeartbeatRequest>) {
        let later = self.regions.range(self.last + 1..).next();
        let Some(region) = later.or(self.regions.first()).copied() else {
            return;
        };
        self.regions.remove(&region);
        self.last = region;
        let Some(heartbeat) = latest.get_mut(&region) else {
            return;
        };
        room.send(heartbeat.clone());
        (heartbeat.bytes_written, heartbeat.keys_written) = (0, 0);
        (heartbeat.bytes_read, heartbeat.keys_read) = (0, 0);
        (heartbeat.query_stats, heartbeat.interval) = (None, None);
    }
}

async fn next_instruction(
    stream: &mut Option<RegionHeartbeats>,
) -> Option<Result<RegionHeartbeatResponse, PdError>> {
    match stream {
        None => std::future::pending().await,
        Some(stream) => stream.next().await,
    }
}

/// What PD is told of the snapshots.
fn snapshots_under_way(counts: &SnapshotCounts) -> StoreStats {
    StoreStats {
        sending_snap_count: counts.sending.get(),
        receiving_snap_count: counts.receiving.get(),
        applying_snap_count: counts.applying.get(),
        ..StoreStats::default()
    }
}

/// What PD places by: the whole file system and what is free there, whoever fills the rest.
fn on_disk(disk: &DiskWatch, stats: StoreStats) -> StoreStats {
    StoreStats {
        capacity: disk.size(),
        available: disk.free(),
        ..stats
    }
}

async fn ask_ids(pd: &PdClient, region: Region, count: usize) -> Result<Vec<NewIds>, String> {
    let count = u32::try_from(count).map_err(|_| "too many parts".to_owned())?;
    let ids = pd.ask_batch_split(region, count, SplitReason::Admin).await;
    let new = ids.map_err(|error| error.to_string())?.into_iter();
    Ok(new
        .map(|ids| NewIds {
            region: ids.new_region_id,
            peers: ids.new_peer_ids,
        })
        .collect())
}

impl PdQueue {
    /// Takes the queue apart: reports and questions, roles.
    pub fn split(
        self,
    ) -> (
        mpsc::Receiver<PdTask>,
        mpsc::UnboundedReceiver<flotilla_raftstore::effects::MetaRole>,
    ) {
        (self.tasks, self.roles)
    }
}

#[cfg(test)]
mod tests {
    use flotilla_kv::key;

    use super::*;

    #[test]
    fn a_store_s_capacity_is_the_size_of_its_file_system() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = DiskWatch::new(folder.path(), 1, Arc::default()).expect("a file system");
        let stats = on_disk(&disk, StoreStats::default());
        let size = flotilla_engine::disk_bytes(folder.path()).expect("a file system");
        assert_eq!(stats.capacity, size);
        assert_eq!(stats.available, disk.free());
        assert!(stats.available <= stats.capacity);
    }

    #[test]
    fn pd_splits_at_boundaries_that_clients_can_read() {
        #[track_caller]
        fn check(mode: Option<KeyMode>, keys: &[&[u8]], expected: &[&[u8]]) {
            let keys = keys.iter().map(|key| Bytes::copy_from_slice(key)).collect();
            assert_eq!(boundaries(mode, keys), expected);
        }
        let (one, two) = (key::encode(b"one"), key::encode(b"two"));
        let versioned = [&one[..], &[0xff; 8]].concat();
        check(
            Some(KeyMode::Encoded),
            &[&two, b"plain", &versioned, &one],
            &[&one, &two],
        );
        check(
            Some(KeyMode::Plain),
            &[b"b", &versioned, b"a", b"b"],
            &[b"a", b"b", &versioned],
        );
        check(None, &[b"b", &versioned], &[b"b", &versioned]);
    }
}
