//! The run of a seed: one thread, virtual time, one thing per step.
//!
//! A step is an event whose time has come, or one step of a store's threads, or, when there is
//! neither, the clock moving on to whatever comes next. After every step the checkers look.

mod calls;
mod changes;
mod clients;
mod driver;
mod end;
mod events;
mod lives;
mod losses;
mod majority;
mod network;
mod operators;
mod pauses;
mod placement;
mod reporter;
mod snapshots;
mod stop;
mod stores;
mod timestamps;
mod transfers;
mod worst;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use flotilla_engine::SnapshotKey;
use flotilla_proto::clock::Mono;
use flotilla_raftstore::region::META_REGION;
use parking_lot::Mutex;

use crate::checkers::answers::OpId;
use crate::checkers::model::Model;
use crate::checkers::{Oracle, Shared};
use crate::client::Client;
use crate::history::History;
use crate::net::{Net, Place};
use crate::rng::Rng;
use crate::rules::{Rule, Violation};
use crate::run::Counts;
use crate::store::{Clock, Life, LifeId, Node, Surroundings, TransferId};
use crate::trace::Trace;
use crate::world::World;

use calls::PdCall;
use events::{Event, Events};
use operators::Picture;
use transfers::Transfer;

/// Steps that a run may take to come to rest and end: more, and something spins.
const END_STEPS_MAX: u64 = 1_500_000;
/// Steps after which a run settles, however little was done: for each operation that its world asks
/// for, for each attempt, and at least.
const RUN_STEPS: (u64, u64, u64) = (250, 400, 100_000);
/// Virtual time after which a run settles, however little was done: for each attempt, and at least.
const RUN_MAX: (Duration, Duration) = (Duration::from_millis(600), Duration::from_secs(300));
/// The same for a cluster, in ticks: what does not happen in the time of many elections will not.
const RUN_TICKS: (u64, u64, u64) = (5, 5, 1_500);
/// Attempts after which a run settles, for each operation that its world asks for: in a broken world
/// most of them fail.
const ATTEMPTS_PER_OPERATION: u64 = 4;
/// What a world that is too slow for its attempts gets besides, in which nothing fails any more: so many
/// times its own steps and time.
const CALM: u32 = 2;
/// Everything that all stores hold is looked at every so many steps.
const SWEEP_EVERY: u64 = 1 << 14;
/// The longest time that one step of a thread takes, in microseconds.
const STEP_MICROS_MAX: u64 = 20;

/// What a part of a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Clients work, faults strike.
    Run,
    /// Faults are over, no new work: everything must come to rest.
    Settle,
    /// Every region must serve.
    Serve,
}

/// A run under way.
pub struct Sim {
    world: World,
    oracle: Shared,
    /// True time. Nodes have clocks of their own.
    clock: Clock,
    events: Events,
    nodes: BTreeMap<u64, Node>,
    net: Net,
    /// Calls to PD that are under way.
    pd_calls: BTreeMap<u64, PdCall>,
    pd_calls_begun: u64,
    /// Which store somebody believes to be PD.
    pd_guesses: BTreeMap<Place, u64>,
    /// A region id that PD has given, for the bug of an id that is given twice.
    id_before: Option<u64>,
    /// Heartbeat streams so far.
    streams_begun: u64,
    /// What the operator knows of the regions.
    picture: Picture,
    /// The safe point that PD has told last.
    safe_point: u64,
    clients: Vec<Client>,
    next_op: OpId,
    /// Attempts that clients have begun.
    begun: u64,
    /// Attempts of which clients have heard a response, or that the request itself was wrong.
    heard: u64,
    /// Messages that have left a store for another.
    messages: u64,
    /// The last turn did nothing but let time go on.
    idle: bool,
    /// What operators have done so far.
    meddled: u64,
    phase: Phase,
    /// The store that is lost for good.
    gone: Option<u64>,
    /// The store on whose disk bytes have rotten, as long as nobody has met them.
    rotten: Option<(u64, losses::Rot)>,
    /// The peer that is lost with the files of its snapshot.
    stripped: Option<u64>,
    /// Snapshots on their way.
    transfers: BTreeMap<TransferId, Transfer>,
    transfers_begun: TransferId,
    /// Offers that ended before they were answered.
    withdrawn: BTreeMap<TransferId, SnapshotKey>,
    /// Snapshots that have come to a process and have no intent yet, by region.
    received: BTreeSet<(LifeId, u64)>,
    /// What clients asked and heard.
    history: History,
    /// Requests of the last phase, and whether they were served.
    served: BTreeMap<OpId, bool>,
    root: Rng,
    rng: Rng,
    fault_rng: Rng,
    cruel_rng: Rng,
    /// Answers that the worst moment keeps back.
    kept: Vec<worst::Kept>,
}

impl Sim {
    /// A world before its first step, which keeps the last `lines` of its transcript.
    pub fn new(world: World, lines: usize) -> Self {
        let root = match world.luck {
            0 => Rng::new(world.seed),
            luck => Rng::new(world.seed).fork(&format!("luck {luck}")),
        };
        let oracle: Shared = Arc::new(Mutex::new(Oracle {
            model: Model::bootstrap(&world.first_regions(), &world.first_meta()),
            now: Mono(1),
            trace: Trace::keeping(lines),
            ..Oracle::default()
        }));
        let clock = Clock::default();
        clock.advance(Mono(1));
        let mut clocks = root.fork("clocks");
        let nodes = (1..=world.stores)
            .map(|id| (id, Node::create(id, &world, &oracle, &mut clocks)))
            .collect();
        let clients = 0..world.workload.clients;
        let clients = clients.map(|id| {
            let rng = root.fork(&format!("client {id}"));
            Client::new(id, &world.first_regions(), rng)
        });
        let clients = clients.collect();
        world
            .first_regions()
            .iter()
            .for_each(|region| oracle.lock().check_peer_ids(region));
        let mut picture = Picture::default();
        picture.told(&world.first_regions()[0]);
        let mut sim = Self {
            oracle,
            clock,
            events: Events::default(),
            nodes,
            net: Net::new(world.net.clone(), root.fork("net")),
            pd_calls: BTreeMap::new(),
            pd_calls_begun: 0,
            pd_guesses: BTreeMap::new(),
            id_before: None,
            streams_begun: 0,
            picture,
            safe_point: 0,
            clients,
            next_op: 1,
            begun: 0,
            heard: 0,
            messages: 0,
            idle: false,
            meddled: 0,
            phase: Phase::Run,
            gone: None,
            rotten: None,
            stripped: None,
            history: History::default(),
            transfers: BTreeMap::new(),
            transfers_begun: 0,
            withdrawn: BTreeMap::new(),
            received: BTreeSet::new(),
            served: BTreeMap::new(),
            rng: root.fork("run"),
            fault_rng: root.fork("faults"),
            cruel_rng: root.fork("cruelty"),
            kept: Vec::new(),
            root,
            world,
        };
        sim.first_events();
        sim
    }

    fn first_events(&mut self) {
        for store in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.events.at(self.now(), Event::Start { store });
        }
        for client in 0..self.world.workload.clients {
            let wait = self.rng.micros(0..=50_000);
            self.events.at(self.now() + wait, Event::Client { client });
        }
        self.first_timestamps();
        self.operator_later();
        self.estrange_later();
        self.unseat_later();
        self.partition_later();
        self.retune_later();
        self.loss_later();
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn run(&mut self) -> Result<(), Violation> {
        while self.phase == Phase::Run {
            self.turn()?;
            let begun = self.begun >= self.world.attempts_min;
            let enough = begun
                && (self.heard >= self.world.operations
                    || self.begun >= self.world.operations * ATTEMPTS_PER_OPERATION);
            let late = self.is_late(1);
            if late && !begun && !self.net.is_calm() {
                self.nothing_fails();
            }
            if enough || (late && begun) || self.is_late(1 + CALM) {
                self.phase = Phase::Settle;
            }
        }
        self.finish()
    }

    /// So many times what a run may take have passed.
    fn is_late(&self, times: u32) -> bool {
        let over = self.now() - Mono::default() >= self.run_max().saturating_mul(times);
        over || self.oracle.lock().step >= self.run_steps() * u64::from(times)
    }

    /// Clients would not get to their attempts: the rest of them they make while nothing fails and nobody
    /// stalls.
    fn nothing_fails(&mut self) {
        self.note(format_args!("nothing fails from now on"));
        self.probe("run: the last attempts are made in calm");
        self.world.without("faults");
        self.calm_down();
    }

    /// The network heals for good, nobody stands still or stalls any more.
    fn calm_down(&mut self) {
        self.net.calm();
        self.resume_all();
        self.nodes.values().for_each(|node| node.calm.calm());
    }

    /// The time of the run, if its attempts are made: whatever else was done by then is enough.
    fn run_max(&self) -> Duration {
        let (each, attempt, least) = RUN_TICKS;
        let ticks = (each * self.world.operations).max(attempt * self.world.attempts_min);
        let ticks = ticks.max(least);
        let ticks = u32::try_from(ticks).unwrap_or(u32::MAX);
        let attempts = u32::try_from(self.world.attempts_min).unwrap_or(u32::MAX);
        let (each, least) = RUN_MAX;
        let longest = each.saturating_mul(attempts).max(least);
        match self.world.stores {
            1 => longest,
            _ => longest.min(self.world.config.tick.saturating_mul(ticks)),
        }
    }

    fn run_steps(&self) -> u64 {
        let (each, attempt, least) = RUN_STEPS;
        let steps = (each * self.world.operations).max(attempt * self.world.attempts_min);
        steps.max(least)
    }

    /// One step, and a look at what it did.
    fn turn(&mut self) -> Result<(), Violation> {
        let step = {
            let mut oracle = self.oracle.lock();
            oracle.step += 1;
            oracle.step
        };
        let most = self.run_steps() * u64::from(1 + CALM) + END_STEPS_MAX;
        if step >= most {
            let (unrest, checks) = (self.tell_unrest(), &mut self.oracle.lock().checks);
            checks.check(Rule::AnsweredAtAll, false, || {
                format!("no end after {step} steps: {unrest}")
            });
        }
        let due = self.events.next_at().is_some_and(|at| at <= self.now());
        let event_first = due && self.rng.chance(500);
        self.oracle
            .lock()
            .trace
            .mix([step, self.now().0, self.rng.any()]);
        self.idle = false;
        if event_first || !self.step_stores() {
            if due {
                self.event();
            } else {
                self.advance_time();
                self.idle = true;
            }
        }
        if step.is_multiple_of(SWEEP_EVERY) {
            self.sweep();
        }
        self.verdict()
    }

    /// All rows and regions of all stores are what the log makes of them, no store is PD whose peer has ended, and no
    /// call goes on for too long.
    fn sweep(&self) {
        if self.phase == Phase::Run {
            self.check_calls();
        }
        self.check_replicas();
        for node in self.nodes.values() {
            node.disk.state.check_all();
            // The news of its end comes to a slow poller when the tombstone is long durable.
            let knows = |life: &&Life| {
                let mut there = false;
                life.look_at(META_REGION, |_| there = true);
                !there
            };
            if node.life.as_ref().filter(knows).is_some_and(Life::is_pd) {
                self.oracle.lock().check_pd_lives(node.id);
            }
        }
    }

    fn verdict(&self) -> Result<(), Violation> {
        match self.oracle.lock().violation() {
            None => Ok(()),
            Some(violation) => Err(violation.clone()),
        }
    }

    /// Nothing is to be done now: on to what comes next.
    fn advance_time(&mut self) {
        let now = self.now();
        let awake = self.nodes.values().filter(|node| !node.is_paused(now));
        let wakes = awake.filter_map(|node| node.life.as_ref()?.next_wake());
        let next = wakes.chain(self.events.next_at()).min();
        let next = next.expect("somebody always has something to do later");
        self.pass(next.max(self.now() + Duration::from_micros(1)) - self.now());
    }

    fn pass(&mut self, time: Duration) {
        let now = self.now() + time;
        self.clock.advance(now);
        self.oracle.lock().now = now;
    }

    fn now(&self) -> Mono {
        self.clock.now()
    }

    fn note(&self, event: std::fmt::Arguments<'_>) {
        self.oracle.lock().note(event);
    }

    fn probe(&self, name: &str) {
        self.oracle.lock().probes.hit(name);
    }

    /// What a store's requests see.
    fn around(&self, store: u64) -> Surroundings {
        let clock = &self.nodes[&store].clock;
        Surroundings {
            oracle: Arc::clone(&self.oracle),
            now: clock.mono(self.now()),
            wall: clock.wall(self.now()),
            mode: self.world.mode,
            plant: self.world.plants.service,
        }
    }

    /// The process that runs on `store`.
    fn life(&self, store: u64) -> Option<&Life> {
        self.nodes.get(&store)?.life.as_ref()
    }

    fn life_mut(&mut self, store: u64) -> Option<&mut Life> {
        self.nodes.get_mut(&store)?.life.as_mut()
    }

    fn op(&mut self) -> OpId {
        self.next_op += 1;
        self.next_op - 1
    }

    /// How much has happened.
    pub fn counts(&self) -> Counts {
        Counts {
            steps: self.oracle.lock().step,
            operations: self.begun,
            served: self.heard,
            messages: self.messages,
            time: self.now() - Mono::default(),
        }
    }

    /// The checkers, with all they have seen.
    pub fn oracle(&self) -> &Shared {
        &self.oracle
    }
}
