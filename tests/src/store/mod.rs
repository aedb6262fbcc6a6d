//! A store of the cluster: a disk, and now and then a process that runs on it.
//!
//! The process is the production code as it is: the machines of `raftstore` behind the routers and
//! the log writer of `router`, and the latches and commands of `kv`. What production runs on threads
//! the simulator steps one at a time.

mod actors;
mod outside;
mod placement;
mod service;
mod stopping;
mod time;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use flotilla_engine::RaftLog as _;
use flotilla_engine::memory::MemorySnapshot;
use flotilla_kv::{Latches, TtlClock};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_raftstore::boot::{self, Boot, Replayed};
use flotilla_raftstore::runtime::{Runtime, StoreFatal};
use flotilla_raftstore::{Config, DurableWatch, RaftMachine, SnapshotTask, StartError};
use flotilla_router::{Lane, LogAppend, LogSync, Poller, Seeded};

use crate::checkers::Shared;
use crate::checkers::answers::OpId;
use crate::disk::{Disk, WatchedLog, WatchedState};
use crate::rng::Rng;
use crate::world::{Service, World};

pub use actors::{Calm, Clock, Wake};
pub use outside::{Answered, Asked, Inbox, Outside, TransferId};
pub use placement::{
    CallTry, Inner, Owed, PdAsked, Placement, Reporter, Stream, TimestampTry, outcome,
};
pub use service::{Next, Reply, Running, Surroundings};
pub use stopping::Stopping;
pub use time::NodeClock;

/// Names one life of one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LifeId {
    /// The store.
    pub store: u64,
    /// Counts its starts.
    pub number: u64,
}

/// A store: what lies on its disk, and the process if there is one.
pub struct Node {
    /// Its id.
    pub id: u64,
    /// Its databases.
    pub disk: Disk,
    /// The running process.
    pub life: Option<Life>,
    /// Processes so far.
    pub lives: u64,
    /// Starts in a row that ended before they served.
    pub failed_starts: u64,
    /// Its clocks.
    pub clock: NodeClock,
    /// Whether its threads still stall.
    pub calm: Calm,
    /// It takes no step until then, and whatever comes waits.
    pub paused_until: Option<Mono>,
    /// A fault was planned for its disk that may not have struck yet.
    pub fault_planned: bool,
}

/// A running process.
pub struct Life {
    /// Its name.
    pub id: LifeId,
    /// The machines and queues.
    pub runtime: Runtime<WatchedLog, WatchedState>,
    actors: Seeded<'static, Mono, StoreFatal>,
    wakes: Vec<Wake>,
    /// What it asks of the world.
    pub outside: Outside,
    /// What it answers.
    pub inbox: Inbox,
    /// Latches, woken by operation.
    pub latches: Latches<OpId>,
    /// The clock of expiry.
    pub ttl: TtlClock,
    /// Requests being served.
    pub requests: BTreeMap<OpId, Running>,
    watch: DurableWatch,
    /// A flush that the watch asked for: log bytes appended when it began.
    forced_flush: Option<u64>,
    log: Arc<WatchedLog>,
    /// It is stopping in order, and this far.
    pub stopping: Option<Stopping>,
    /// Work on snapshots, one after the other: the first is under way.
    pub snapshots: VecDeque<SnapshotTask>,
    /// What the build that is under way reads.
    pub view: Option<MemorySnapshot>,
    /// Lanes whose sender will look at them soon.
    pub sending: BTreeSet<(u64, u8)>,
    /// Addresses that the raft poller has served and nobody has looked at yet.
    touched: actors::Touched,
    /// How often peers were looked at.
    looks: u64,
    /// Its PD.
    pub placement: Placement,
    /// What it tells PD.
    pub reporter: Reporter,
}

/// What a look at the durable point led to.
#[derive(Debug, Default)]
pub struct Observed {
    /// A flush has begun; this is its reason.
    pub flush: Option<flotilla_engine::FlushReason>,
}

/// After so many rounds of a store's raft poller all of its peers are looked at, touched or not.
const LOOK_AT_ALL_EVERY: u64 = 64;

/// Something that is not at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrest {
    /// Something is about to happen.
    Events,
    /// Operations wait for an answer.
    Operations,
    /// A store does not run.
    Down(u64),
    /// It is stopping.
    Stopping(u64),
    /// It serves requests.
    Requests(u64),
    /// Its log is not written.
    Log(u64),
    /// A store's peer of a region has no leader, or entries that are not applied.
    Peer(u64, u64),
    /// The members of a region are not of one mind.
    Apart(u64),
}

impl Node {
    /// A store that has just been created and does not run yet.
    pub fn create(id: u64, world: &World, oracle: &Shared, rng: &mut Rng) -> Self {
        Self {
            id,
            disk: Disk::create(id, world, oracle),
            life: None,
            lives: 0,
            failed_starts: 0,
            clock: NodeClock::new(world.drift, rng),
            calm: Calm::default(),
            paused_until: None,
            fault_planned: false,
        }
    }

    /// It stands still at `now`.
    pub fn is_paused(&self, now: Mono) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    /// Starts the process: replay, then everything that runs.
    ///
    /// # Errors
    /// The disk failed, or what is on it makes no sense.
    pub fn start(
        &mut self,
        world: &World,
        clock: &Clock,
        rng: &Rng,
    ) -> Result<(Replayed, BTreeMap<u64, Region>), StartError> {
        self.lives += 1;
        self.calm.waits_anew();
        let id = LifeId {
            store: self.id,
            number: self.lives,
        };
        let rng = rng.fork(&format!("store {} life {}", id.store, id.number));
        let config = Config {
            seed: rng.fork("raft").any(),
            ..world.config.clone()
        };
        let now = self.clock.mono(clock.now());
        let boot = boot::open(
            config.clone(),
            self.id,
            &*self.disk.log,
            &*self.disk.state,
            &*self.disk.snapshots,
            now,
        )?;
        let replayed = boot.replayed;
        let watch = DurableWatch::opened(&config, replayed, now);
        let regions = boot
            .regions
            .iter()
            .map(|spawn| (spawn.region, spawn.apply.region().clone()));
        let regions = regions.collect();
        let clocks = (clock.clone(), self.calm.clone());
        self.life = Some(Life::new(id, boot, watch, &self.disk, world, clocks, &rng));
        self.failed_starts = 0;
        Ok((replayed, regions))
    }
}

impl Life {
    fn new(
        id: LifeId,
        boot: Boot,
        watch: DurableWatch,
        disk: &Disk,
        world: &World,
        (clock, calm): (Clock, Calm),
        rng: &Rng,
    ) -> Self {
        let runtime = Runtime::with_limits(
            boot,
            Arc::clone(&disk.log),
            Arc::clone(&disk.state),
            world.limits.clone(),
        );
        let outside = Outside::default();
        let apply = runtime.apply_executor(world.apply_limits);
        let [raft_budget, apply_budget] = world.budgets;
        let raft = Poller::new(
            runtime.raft.clone(),
            runtime.raft_executor(outside.clone()),
            raft_budget,
        );
        let apply = Poller::new(runtime.apply.clone(), apply, apply_budget);
        let release = runtime.clone();
        let sync = LogSync(runtime.log.clone(), move |durable| release.release(durable));
        let paces = world.paces(id.store);
        let mut actors = Seeded::new(rng.fork("scheduler").any());
        let mut wakes = Vec::new();
        let paced = |pace, name: &str| (pace, rng.fork(name), clock.clone(), calm.clone());
        macro_rules! add {
            ($actor:expr, $on:ident, $pace:expr, $name:literal) => {
                let (pace, rng, clock, calm) = paced($pace, $name);
                let actor = ($actor, actors::On::$on);
                let (actor, wake) = actors::Paced::new(actor, pace, rng, clock, calm);
                actors.add(actor);
                wakes.push(wake);
            };
        }
        let (raft, touched) = actors::Rounds::new(raft);
        add!(raft, Memory, paces.raft, "raft");
        add!(apply, Memory, paces.apply, "apply");
        add!(LogAppend(runtime.log.clone()), Log, paces.append, "append");
        add!(sync, Log, paces.sync, "sync");
        Self {
            id,
            runtime,
            actors,
            wakes,
            outside,
            inbox: Inbox::new(world.plants.service == Some(Service::AnsweredTwice)),
            latches: Latches::new(),
            ttl: TtlClock::new(),
            requests: BTreeMap::new(),
            watch,
            forced_flush: None,
            log: Arc::clone(&disk.log),
            stopping: None,
            snapshots: VecDeque::new(),
            view: None,
            sending: BTreeSet::new(),
            touched,
            looks: 0,
            placement: Placement::new(id.store, world.schedule),
            reporter: Reporter::default(),
        }
    }

    /// One of the threads takes a step, if any can. Answers its name.
    ///
    /// # Errors
    /// The store must stop.
    pub fn step(&mut self, now: Mono) -> Result<Option<&'static str>, StoreFatal> {
        const NAMES: [&str; 4] = ["raft", "apply", "append", "sync"];
        Ok(self.actors.step(now)?.map(|actor| NAMES[actor]))
    }

    /// When the next thread wakes that waits for its pace.
    pub fn next_wake(&self) -> Option<Mono> {
        self.wakes.iter().filter_map(Wake::at).min()
    }

    /// What keeps it from being at rest: requests being served, peers without a leader or with entries
    /// that are not applied, a log that waits to be written.
    pub fn unrest(&self) -> Option<Unrest> {
        let (log, store) = (&self.runtime.log, self.id.store);
        if !self.requests.is_empty() {
            return Some(Unrest::Requests(store));
        }
        if log.append_waits() || log.sync_waits() {
            return Some(Unrest::Log(store));
        }
        let mut unsettled = None;
        self.look_at_peers(|peer| {
            let raft = peer.raft();
            let settled = raft.leader().is_some() && raft.applied_index() == raft.last_index();
            if !settled {
                let region = peer.region().id;
                unsettled = Some(Unrest::Peer(store, region));
            }
        });
        unsettled
    }

    /// The regions whose peers to look at after a round of theirs, ascending: those that it has served,
    /// and now and then all.
    pub fn touched(&mut self) -> Vec<u64> {
        let mut touched = std::mem::take(&mut *self.touched.lock());
        self.looks += 1;
        if self.looks.is_multiple_of(LOOK_AT_ALL_EVERY) {
            return self.runtime.raft.addrs();
        }
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    /// Lanes in which something waits, by store.
    pub fn waiting_lanes(&self) -> Vec<(u64, Lane)> {
        let outgoing = &self.runtime.outgoing;
        let mut lanes = Vec::new();
        if outgoing.bytes() > 0 {
            for store in outgoing.stores() {
                let waits = |lane: &Lane| outgoing.waiting(store, *lane) > 0;
                lanes.extend(
                    Lane::ALL
                        .into_iter()
                        .filter(waits)
                        .map(|lane| (store, lane)),
                );
            }
        }
        lanes
    }

    /// Looks at every peer.
    pub fn look_at_peers(&self, mut look: impl FnMut(&flotilla_raftstore::peer::Peer)) {
        for address in self.runtime.raft.addrs() {
            self.runtime.raft.inspect(address, |machine| {
                if let RaftMachine::Peer(peer) = machine {
                    look(peer);
                }
            });
        }
    }

    /// It says that it is PD, and nothing that its driver has yet to hear says otherwise.
    pub fn is_pd(&self) -> bool {
        self.placement.driven.role().is_some() && self.placement.roles.is_empty()
    }

    /// Looks at the peer of one region.
    pub fn look_at(&self, region: u64, look: impl FnOnce(&flotilla_raftstore::peer::Peer)) {
        self.runtime.raft.inspect(region, |machine| {
            if let RaftMachine::Peer(peer) = machine {
                look(peer);
            }
        });
    }

    /// Looks how far the state is durable and whether a flush is due, as the observer does ten times
    /// a second.
    ///
    /// # Errors
    /// The state has failed.
    pub fn observe(&mut self, now: Mono) -> flotilla_engine::Result<Observed> {
        let mut observed = Observed::default();
        let appended = self.log.appended_bytes();
        let may = self.forced_flush.is_none().then_some(appended);
        if let Some(reason) = self.runtime.flush_due(&mut self.watch, now, may) {
            self.forced_flush = Some(appended);
            self.runtime.state.begin_flush();
            observed.flush = Some(reason);
        }
        self.runtime.publish_durable()?;
        Ok(observed)
    }

    /// A flush is done: the one that the watch asked for, with all before it, or the oldest.
    ///
    /// # Errors
    /// It failed.
    pub fn flush_done(&mut self, forced: bool) -> flotilla_engine::Result<()> {
        if !forced {
            self.runtime.state.finish_flush()?;
            return Ok(());
        }
        while self.runtime.state.flushes() > 0 {
            self.runtime.state.finish_flush()?;
        }
        if let Some(appended) = self.forced_flush.take() {
            self.watch.flushed(appended);
        }
        Ok(())
    }
}
