//! The run of a seed: one thread, virtual time, one thing per step.
//!
//! A step is an event whose time has come, or one step of a store's threads, or, when there is
//! neither, the clock moving on to whatever comes next. After every step the checkers look.

mod clients;
mod end;
mod events;
mod lives;
mod operators;
mod stop;
mod stores;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::clock::{Mono, Wall};
use parking_lot::Mutex;

use crate::checkers::answers::OpId;
use crate::checkers::model::Model;
use crate::checkers::{Oracle, Shared};
use crate::client::Client;
use crate::pd::Pd;
use crate::rng::Rng;
use crate::rules::Violation;
use crate::store::{Clock, Node, Surroundings};
use crate::world::{START_SECONDS, World};

use events::{Event, Events};

/// Steps after which a run has not ended: something spins.
const STEPS_MAX: u64 = 400_000;
/// Virtual time after which a run settles, however little was done.
const RUN_MAX: Duration = Duration::from_secs(300);
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
    clock: Clock,
    /// Seconds by which the time of day was moved.
    clock_offset: i64,
    /// The latest time of day so far, seconds.
    latest_seconds: u64,
    events: Events,
    nodes: BTreeMap<u64, Node>,
    pd: Pd,
    clients: Vec<Client>,
    next_op: OpId,
    /// Operations that clients have begun.
    begun: u64,
    /// What operators have done so far.
    meddled: u64,
    phase: Phase,
    /// Requests of the last phase, and whether they were served.
    served: BTreeMap<OpId, bool>,
    root: Rng,
    rng: Rng,
    fault_rng: Rng,
}

impl Sim {
    /// A world before its first step.
    pub fn new(world: World) -> Self {
        let root = Rng::new(world.seed);
        let oracle: Shared = Arc::new(Mutex::new(Oracle {
            model: Model::bootstrap(&world.first_regions(), &world.first_meta()),
            now: Mono(1),
            ..Oracle::default()
        }));
        let clock = Clock::default();
        clock.advance(Mono(1));
        let nodes = (1..=world.stores).map(|id| (id, Node::create(id, &world, &oracle)));
        let nodes = nodes.collect();
        let mut pd = Pd::default();
        world
            .first_regions()
            .iter()
            .for_each(|region| pd.told(region));
        let clients = 0..world.workload.clients;
        let clients = clients.map(|id| Client::new(id, root.fork(&format!("client {id}"))));
        let clients = clients.collect();
        let mut sim = Self {
            oracle,
            clock,
            clock_offset: 0,
            latest_seconds: START_SECONDS,
            events: Events::default(),
            nodes,
            pd,
            clients,
            next_op: 1,
            begun: 0,
            meddled: 0,
            phase: Phase::Run,
            served: BTreeMap::new(),
            rng: root.fork("run"),
            fault_rng: root.fork("faults"),
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
        self.operator_later();
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn run(&mut self) -> Result<(), Violation> {
        while self.phase == Phase::Run {
            self.turn()?;
            let late = self.now() >= Mono::default() + RUN_MAX;
            if late || self.begun >= self.world.operations {
                self.phase = Phase::Settle;
            }
        }
        self.finish()
    }

    /// One step, and a look at what it did.
    fn turn(&mut self) -> Result<(), Violation> {
        let step = {
            let mut oracle = self.oracle.lock();
            oracle.step += 1;
            oracle.step
        };
        assert!(step < STEPS_MAX, "no end after {step} steps");
        let due = self.events.next_at().is_some_and(|at| at <= self.now());
        let event_first = due && self.rng.chance(500);
        if event_first || !self.step_stores() {
            if due {
                self.event();
            } else {
                self.advance_time();
            }
        }
        self.verdict()
    }

    fn verdict(&self) -> Result<(), Violation> {
        match self.oracle.lock().violation() {
            None => Ok(()),
            Some(violation) => Err(violation.clone()),
        }
    }

    /// Nothing is to be done now: on to what comes next.
    fn advance_time(&mut self) {
        let wakes = self
            .nodes
            .values()
            .filter_map(|node| node.life.as_ref()?.next_wake());
        let next = wakes.chain(self.events.next_at()).min();
        let next = next.expect("somebody always has something to do later");
        self.pass(next.max(self.now() + Duration::from_micros(1)) - self.now());
    }

    fn pass(&mut self, time: Duration) {
        let now = self.now() + time;
        self.clock.advance(now);
        self.oracle.lock().now = now;
        self.latest_seconds = self.latest_seconds.max(self.wall().seconds());
    }

    fn now(&self) -> Mono {
        self.clock.now()
    }

    fn wall(&self) -> Wall {
        let seconds = START_SECONDS.saturating_add_signed(self.clock_offset);
        Wall(seconds * 1000 + self.now().0 / 1_000_000)
    }

    fn note(&self, event: std::fmt::Arguments<'_>) {
        self.oracle.lock().note(event);
    }

    fn probe(&self, name: &str) {
        self.oracle.lock().probes.hit(name);
    }

    /// What a store's requests see.
    fn around(&self) -> Surroundings {
        Surroundings {
            oracle: Arc::clone(&self.oracle),
            now: self.now(),
            wall: self.wall(),
            mode: self.world.mode,
        }
    }

    fn op(&mut self) -> OpId {
        self.next_op += 1;
        self.next_op - 1
    }

    /// The checkers, with all they have seen.
    pub fn oracle(&self) -> &Shared {
        &self.oracle
    }
}
