//! One store of a scenario: a disk, and while it runs the production machines on it, stepped by hand.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::memory::{MemoryLog, MemorySnapshots, MemoryState};
use flotilla_engine::{Cf, StateReader, StateStore};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_proto::store::PeerMessage;
use flotilla_raftstore::effects::{Fetch, MetaRole, PdTask, SizeCheck};
use flotilla_raftstore::peer::Peer;
use flotilla_raftstore::runtime::{ApplyLimits, Runtime, StoreFatal, World};
use flotilla_raftstore::{
    Answer, Config, PeerInput, RaftInput, RaftMachine, ReadPermit, RequestError, Serving,
    SnapshotTask, StartError, boot,
};
use flotilla_router::{Actor, Fifo, Lane, LogAppend, LogSync, Pick, Poller};
use parking_lot::Mutex;

const LIMITS: ApplyLimits = ApplyLimits {
    memtable_bytes_max: u64::MAX,
    level0_files_max: u64::MAX,
};

/// The parts of a store that take steps, in the order in which `run` asks them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Raft,
    Append,
    Sync,
    Apply,
    /// What is done off the pollers: reads of the log, work on snapshots.
    Work,
}

impl Part {
    pub(super) const ALL: [(&str, Self); 5] = [
        ("round", Self::Raft),
        ("append", Self::Append),
        ("sync", Self::Sync),
        ("apply", Self::Apply),
        ("work", Self::Work),
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|(_, part)| *part)
    }
}

/// What a store gave back for a request.
#[derive(Debug)]
pub(super) enum Outcome {
    Write(Result<(), RequestError>),
    Read(Result<ReadPermit, RequestError>),
    Split(Result<Vec<Region>, RequestError>),
    Members(Result<Region, RequestError>),
}

/// What one life of a store asked of the world and answered to it. After a crash nobody hears it.
#[derive(Clone, Debug, Default)]
pub(super) struct Outside(Arc<Mutex<Said>>);

#[derive(Debug, Default)]
struct Said {
    dead: bool,
    fetches: Vec<Fetch>,
    snapshots: Vec<SnapshotTask>,
    pd: Vec<PdTask>,
    outcomes: Vec<(u64, Outcome)>,
    /// What was done off the pollers, for the story.
    told: Vec<String>,
}

impl Outside {
    fn kill(&self) {
        self.0.lock().dead = true;
    }

    pub(super) fn take_told(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().told)
    }

    pub(super) fn take_pd(&self) -> Vec<PdTask> {
        std::mem::take(&mut self.0.lock().pd)
    }

    pub(super) fn take_outcomes(&self) -> Vec<(u64, Outcome)> {
        std::mem::take(&mut self.0.lock().outcomes)
    }

    /// An answer to the request of this number.
    pub(super) fn answer<T: 'static>(
        &self,
        number: u64,
        outcome: fn(Result<T, RequestError>) -> Outcome,
    ) -> Answer<T> {
        let outside = self.clone();
        Answer::new(move |result| {
            let mut said = outside.0.lock();
            if !said.dead {
                said.outcomes.push((number, outcome(result)));
            }
        })
    }
}

impl World for Outside {
    fn fetch(&mut self, fetch: Fetch) {
        self.0.lock().fetches.push(fetch);
    }

    fn snapshot(&mut self, task: SnapshotTask) {
        self.0.lock().snapshots.push(task);
    }

    fn size_check(&mut self, _check: SizeCheck) {
        // Nothing is split by its size here.
    }

    fn pd(&mut self, task: PdTask) {
        self.0.lock().pd.push(task);
    }

    fn meta_role(&mut self, role: MetaRole) {
        self.0.lock().told.push(match role {
            MetaRole::Leads { term } => format!("is PD in term {term}"),
            MetaRole::Follows => "is PD no more".to_owned(),
        });
    }
}

/// What production does on threads of their own: reads of the log, work on snapshots.
struct Worker {
    runtime: Runtime<MemoryLog, MemoryState>,
    log: Arc<MemoryLog>,
    files: Arc<MemorySnapshots>,
    outside: Outside,
}

impl Actor<Mono, StoreFatal> for Worker {
    fn is_ready(&mut self) -> bool {
        let said = self.outside.0.lock();
        !said.fetches.is_empty() || !said.snapshots.is_empty()
    }

    /// All reads, or the oldest piece of work on snapshots.
    fn step(&mut self, _now: Mono, _pick: &mut dyn Pick) -> Result<(), StoreFatal> {
        let fetches = std::mem::take(&mut self.outside.0.lock().fetches);
        for fetch in &fetches {
            self.runtime.to_peer(fetch.region, fetch.read(&*self.log));
        }
        if !fetches.is_empty() {
            return Ok(());
        }
        let task = self.outside.0.lock().snapshots.remove(0);
        let told = match &task {
            SnapshotTask::Build { region, .. } => format!("builds a snapshot of region {region}"),
            SnapshotTask::Install { manifest, .. } => {
                let (term, index) = (manifest.term, manifest.index);
                let region = manifest.region.as_ref().map_or(0, |region| region.id);
                format!("puts snapshot {term}/{index} of region {region} in place")
            }
            SnapshotTask::Discard { key } | SnapshotTask::Refuse { key } => {
                format!("throws away {key}")
            }
        };
        self.outside.0.lock().told.push(told);
        let go_on = |_| ControlFlow::Continue(());
        let done = task.run(&*self.runtime.state, &*self.files, go_on);
        if let Some((address, input)) = done {
            self.runtime.tell(address, input);
        }
        Ok(())
    }
}

/// A store: its disk, and its process while it runs.
pub(super) struct Store {
    pub(super) id: u64,
    pub(super) log: Arc<MemoryLog>,
    pub(super) state: Arc<MemoryState>,
    /// Files of snapshots.
    pub(super) files: Arc<MemorySnapshots>,
    pub(super) process: Option<Process>,
    /// What lies on the disk is what the last process left, after it was gone.
    settled: bool,
    starts: u64,
}

/// A running store.
pub(super) struct Process {
    pub(super) runtime: Runtime<MemoryLog, MemoryState>,
    pub(super) outside: Outside,
    actors: BTreeMap<Part, Box<dyn Actor<Mono, StoreFatal>>>,
}

impl Store {
    /// A store with its first regions; it does not run yet.
    pub(super) fn create(id: u64, regions: Vec<Region>) -> Self {
        let (log, state) = (MemoryLog::new(), MemoryState::new());
        let first = boot::first_state(id, regions, vec![]);
        state.write(&first).expect("no fault is planned");
        state.auto_flush().expect("no fault is planned");
        Self {
            id,
            log: Arc::new(log),
            state: Arc::new(state),
            files: Arc::default(),
            process: None,
            settled: true,
            starts: 0,
        }
    }

    pub(super) fn start(&mut self, config: &Config, now: Mono) -> Result<(), StartError> {
        if !self.settled {
            // It has ended by itself: the operating system has all that it wrote.
            self.crash(|offered| offered);
        }
        self.settled = false;
        self.starts += 1;
        let config = Config {
            seed: self.id * 1_000 + self.starts,
            ..config.clone()
        };
        let boot = boot::open(config, self.id, &*self.log, &*self.state, &*self.files, now)?;
        let runtime = Runtime::new(boot, Arc::clone(&self.log), Arc::clone(&self.state));
        let (log, files) = (Arc::clone(&self.log), Arc::clone(&self.files));
        self.process = Some(Process::new(runtime, log, files));
        Ok(())
    }

    /// The process is gone. Of the log what was not synced stays where `kept` says so, of the state
    /// what the last flush wrote.
    pub(super) fn crash(&mut self, kept: impl FnOnce(u64) -> u64) {
        if let Some(process) = self.process.take() {
            process.outside.kill();
        }
        self.settled = true;
        self.log = Arc::new(self.log.crash(kept));
        self.state = Arc::new(self.state.crash());
        self.files = Arc::new(self.files.crash(|_| 0));
    }

    pub(super) fn value(&self, key: &[u8]) -> Option<Bytes> {
        let value = self.state.get(Cf::CfDefault, key);
        value.expect("reads do not fail here")
    }
}

impl Process {
    fn new(
        runtime: Runtime<MemoryLog, MemoryState>,
        log: Arc<MemoryLog>,
        files: Arc<MemorySnapshots>,
    ) -> Self {
        let outside = Outside::default();
        let raft = Poller::new(
            runtime.raft.clone(),
            runtime.raft_executor(outside.clone()),
            Default::default(),
        );
        let apply = Poller::new(
            runtime.apply.clone(),
            runtime.apply_executor(LIMITS),
            Default::default(),
        );
        let release = runtime.clone();
        let sync = LogSync(runtime.log.clone(), move |durable| release.release(durable));
        let append = LogAppend(runtime.log.clone());
        let worker = Worker {
            runtime: runtime.clone(),
            log,
            files,
            outside: outside.clone(),
        };
        let actors: [(Part, Box<dyn Actor<Mono, StoreFatal>>); 5] = [
            (Part::Raft, Box::new(raft)),
            (Part::Append, Box::new(append)),
            (Part::Sync, Box::new(sync)),
            (Part::Apply, Box::new(apply)),
            (Part::Work, Box::new(worker)),
        ];
        Self {
            runtime,
            outside,
            actors: actors.into_iter().collect(),
        }
    }

    /// One step of one part. `None`: it has nothing to do.
    pub(super) fn step(&mut self, part: Part, now: Mono) -> Option<Result<(), StoreFatal>> {
        let actor = self.actors.get_mut(&part)?;
        actor.is_ready().then(|| actor.step(now, &mut Fifo))
    }

    /// Messages that want to leave.
    pub(super) fn leaving(&self) -> Vec<(u64, PeerMessage)> {
        let outgoing = &self.runtime.outgoing;
        let mut leaving = Vec::new();
        for store in outgoing.stores() {
            for lane in Lane::ALL {
                let bulk = outgoing.drain(store, lane, u64::MAX);
                leaving.extend(bulk.into_iter().map(|out| (store, out.message)));
            }
        }
        leaving
    }

    pub(super) fn to_peer(&self, region: u64, input: PeerInput) {
        self.runtime.to_peer(region, input);
    }

    /// As a request comes in: where there is no such region its answer is dropped.
    pub(super) fn request(&self, region: u64, input: PeerInput) {
        let _refused = self.runtime.raft.send(region, RaftInput::Peer(input));
    }

    /// Regions that have machines here.
    pub(super) fn regions(&self) -> Vec<u64> {
        let mut regions = self.runtime.raft.addrs();
        regions.retain(|region| *region != flotilla_raftstore::STORE_ADDRESS);
        regions.sort_unstable();
        regions
    }

    pub(super) fn look<T>(&self, region: u64, look: impl FnOnce(&Peer) -> T) -> Option<T> {
        let found = self.runtime.raft.inspect(region, |machine| match machine {
            RaftMachine::Peer(peer) => Some(look(peer)),
            RaftMachine::Store(_) => None,
        });
        found.flatten()
    }

    /// What the peers of this store say to those who do not ask them, by region.
    pub(super) fn serving(&self) -> Vec<Arc<Serving>> {
        let serving = |region| self.runtime.delegates.serving(region).ok();
        self.regions().into_iter().filter_map(serving).collect()
    }
}
