//! Random runs, one thread, decided by a seed.
//!
//! `FLOTILLA_SEED=7` runs that seed alone, `FLOTILLA_SEEDS=100000` so many from 0 on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use flotilla_router::{
    Actor, Budget, Choice, Executor, LogAppend, LogConfig, LogSink, LogSync, LogWriter, Machine,
    Merge, Pick, Poller, Router, RouterConfig, Seeded, SeededPick, SendError,
};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Seeds that the test command runs.
const SEEDS: u64 = 2_000;

fn seeds() -> Range<u64> {
    let read = |name| {
        let value = std::env::var(name).ok()?;
        Some(
            value
                .parse::<u64>()
                .unwrap_or_else(|_| panic!("{name} is a number")),
        )
    };
    match read("FLOTILLA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..read("FLOTILLA_SEEDS").unwrap_or(SEEDS),
    }
}

/// Says which seed failed, when one does.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("FLOTILLA_SEED={}", self.0);
        }
    }
}

// Router and poller against a model of mailboxes.

#[derive(Clone)]
struct Input {
    id: u64,
    bytes: u64,
    /// Sent on by the executor.
    forward: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
enum Event {
    Handled(u64),
    Tick,
    End,
    Retired,
}

struct Recorder {
    addr: u64,
    heavy: bool,
}

#[derive(Default)]
struct Effects {
    events: Vec<(u64, Event)>,
    forwards: Vec<(u64, Input)>,
}

impl Machine for Recorder {
    type Input = Input;
    type Effects = Effects;
    type Now = ();

    fn handle(&mut self, (): (), input: Input, effects: &mut Effects) {
        effects.events.push((self.addr, Event::Handled(input.id)));
        self.heavy = input.id.is_multiple_of(5);
        if let Some(to) = input.forward {
            // Its own id, so that it is seen as an input of its own.
            let forwarded = Input {
                id: input.id + FORWARDED,
                forward: None,
                ..input
            };
            effects.forwards.push((to, forwarded));
        }
    }

    fn tick(&mut self, (): (), effects: &mut Effects) {
        effects.events.push((self.addr, Event::Tick));
    }

    fn end_round(&mut self, (): (), effects: &mut Effects) {
        effects.events.push((self.addr, Event::End));
    }

    fn retire(&mut self, (): (), effects: &mut Effects) {
        effects.events.push((self.addr, Event::Retired));
    }

    fn is_heavy(&self) -> bool {
        self.heavy
    }

    fn input_bytes(input: &Input) -> u64 {
        input.bytes
    }
}

const FORWARDED: u64 = 1 << 32;

struct Sender {
    router: Router<Recorder>,
    events: Vec<(u64, Event)>,
    sent: Vec<(u64, Input, Answer)>,
}

impl Executor<Effects> for Sender {
    type Fatal = std::convert::Infallible;

    fn execute(&mut self, effects: &mut Effects) -> Result<(), Self::Fatal> {
        self.events.append(&mut effects.events);
        for (to, input) in effects.forwards.drain(..) {
            let answer = Answer::of(&self.router.send(to, input.clone()));
            self.sent.push((to, input, answer));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Taken,
    Full,
    Closed,
}

impl Answer {
    fn of<I>(result: &Result<(), SendError<I>>) -> Self {
        match result {
            Ok(()) => Self::Taken,
            Err(SendError::Full(_)) => Self::Full,
            Err(SendError::Closed(_)) => Self::Closed,
        }
    }
}

/// What the mailboxes must hold.
#[derive(Default)]
struct Model {
    boxes: BTreeMap<u64, ModelBox>,
    bytes: u64,
    bytes_max: u64,
    handled: u64,
    dropped: u64,
}

#[derive(Default)]
struct ModelBox {
    capacity: usize,
    queue: VecDeque<(u64, u64)>,
    tick: bool,
    closing: bool,
}

impl Model {
    fn send(&mut self, addr: u64, input: &Input, forced: bool) -> Answer {
        let left = self.bytes_max.saturating_sub(self.bytes);
        let Some(held) = self.boxes.get_mut(&addr).filter(|held| !held.closing) else {
            return Answer::Closed;
        };
        let own: u64 = held.queue.iter().map(|(_, bytes)| bytes).sum();
        let heavy = input.bytes > 0 && own + input.bytes > left;
        if !forced && (held.queue.len() >= held.capacity || heavy) {
            return Answer::Full;
        }
        held.queue.push_back((input.id, input.bytes));
        self.bytes += input.bytes;
        Answer::Taken
    }

    /// Follows what one machine was given in a round; answers the bytes that left its mailbox.
    fn turn(&mut self, addr: u64, events: &[Event], inputs_max: usize) -> u64 {
        let held = self
            .boxes
            .get_mut(&addr)
            .expect("a machine that the model knows");
        if held.closing {
            assert_eq!(events, [Event::Retired], "closed: nothing but the end");
            self.dropped += held.queue.len() as u64;
            let bytes = held.queue.iter().map(|(_, bytes)| bytes).sum();
            self.boxes.remove(&addr);
            return bytes;
        }
        let (end, rest) = events.split_last().expect("a turn leaves events");
        assert_eq!(*end, Event::End, "once, and last");
        let (tick, inputs) = match rest.split_last() {
            Some((Event::Tick, inputs)) => (true, inputs),
            _ => (false, rest),
        };
        assert_eq!(
            tick,
            std::mem::take(&mut held.tick),
            "a due tick is given in the next turn"
        );
        assert!(inputs.len() <= inputs_max, "more inputs than the budget");
        let mut bytes = 0;
        for event in inputs {
            let (id, weight) = held.queue.pop_front().expect("an input that was sent");
            assert_eq!(*event, Event::Handled(id), "each once, in order");
            bytes += weight;
            self.handled += 1;
        }
        bytes
    }

    fn has_work(&self) -> bool {
        self.boxes
            .values()
            .any(|held| held.tick || held.closing || !held.queue.is_empty())
    }
}

struct Run {
    rng: Xoshiro256PlusPlus,
    pick: SeededPick,
    router: Router<Recorder>,
    poller: Poller<Recorder, Sender>,
    budget: Budget,
    model: Model,
    addrs: u64,
    next_id: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let bytes_max = [40, 200, u64::MAX][rng.random_range(0..3)];
        let budget = Budget {
            machines_max: rng.random_range(1..5),
            heavy_machines_max: rng.random_range(1..3),
            inputs_per_machine_max: rng.random_range(1..6),
        };
        let router = Router::new(RouterConfig {
            queued_bytes_max: bytes_max,
        });
        let sender = Sender {
            router: router.clone(),
            events: Vec::new(),
            sent: Vec::new(),
        };
        Self {
            pick: SeededPick::new(seed),
            poller: Poller::new(router.clone(), sender, budget),
            router,
            budget,
            model: Model {
                bytes_max,
                ..Model::default()
            },
            addrs: rng.random_range(1..8),
            next_id: 0,
            rng,
        }
    }

    fn step(&mut self) {
        let addr = self.rng.random_range(0..self.addrs);
        match self.rng.random_range(0..100) {
            0..12 => self.register(addr),
            12..55 => self.send(addr, false),
            55..60 => self.send(addr, true),
            60..66 => {
                self.router.tick(addr);
                if let Some(held) = self.model.boxes.get_mut(&addr) {
                    held.tick = true;
                }
            }
            66..68 => {
                self.router.tick_all();
                self.model
                    .boxes
                    .values_mut()
                    .for_each(|held| held.tick = true);
            }
            68..71 => {
                self.router.close(addr);
                if let Some(held) = self.model.boxes.get_mut(&addr) {
                    held.closing = true;
                }
            }
            _ => {
                self.round();
            }
        }
        self.check();
    }

    fn register(&mut self, addr: u64) {
        let capacity = self.rng.random_range(1..7);
        let taken = self
            .router
            .register(addr, Recorder { addr, heavy: false }, capacity)
            .is_err();
        assert_eq!(taken, self.model.boxes.contains_key(&addr));
        self.model.boxes.entry(addr).or_insert(ModelBox {
            capacity,
            ..ModelBox::default()
        });
    }

    fn send(&mut self, addr: u64, forced: bool) {
        self.next_id += 1;
        let bytes = if self.rng.random_bool(0.5) {
            0
        } else {
            self.rng.random_range(1..30)
        };
        let forward = self
            .rng
            .random_bool(0.2)
            .then(|| self.rng.random_range(0..self.addrs));
        let input = Input {
            id: self.next_id,
            bytes,
            forward,
        };
        let expected = self.model.send(addr, &input, forced);
        let answer = match (forced, self.router.handle(addr)) {
            (true, _) => {
                let result = self.router.force_send(addr, input);
                if result.is_ok() {
                    Answer::Taken
                } else {
                    Answer::Closed
                }
            }
            (false, Some(handle)) if self.next_id.is_multiple_of(2) => {
                Answer::of(&handle.send(input))
            }
            (false, _) => Answer::of(&self.router.send(addr, input)),
        };
        assert_eq!(answer, expected, "input {} to {addr}", self.next_id);
    }

    fn round(&mut self) -> usize {
        let served = self.poller.round((), &mut self.pick).expect("infallible");
        let events = std::mem::take(&mut self.poller.executor().events);
        let mut bytes = 0;
        let mut turns: Vec<(u64, Vec<Event>)> = Vec::new();
        for (addr, event) in events {
            match turns.last_mut() {
                Some((last, events)) if *last == addr => events.push(event),
                _ => turns.push((addr, vec![event])),
            }
        }
        let addrs: BTreeSet<u64> = turns.iter().map(|(addr, _)| *addr).collect();
        assert_eq!(
            addrs.len(),
            turns.len(),
            "a machine had two turns in one round"
        );
        assert!(served <= self.budget.machines_max + self.budget.heavy_machines_max);
        for (addr, events) in &turns {
            bytes += self
                .model
                .turn(*addr, events, self.budget.inputs_per_machine_max);
        }
        // What was sent on while the effects were carried out: the round's bytes still counted.
        for (to, input, answer) in std::mem::take(&mut self.poller.executor().sent) {
            assert_eq!(
                answer,
                self.model.send(to, &input, false),
                "{} sent on to {to}",
                input.id
            );
        }
        self.model.bytes -= bytes;
        served
    }

    fn check(&self) {
        assert_eq!(self.router.queued_bytes(), self.model.bytes);
        assert!(self.router.addrs().iter().eq(self.model.boxes.keys()));
        assert!(
            self.router.ready() > 0 || !self.model.has_work(),
            "work is left and nobody is ready"
        );
    }

    fn settle(&mut self) {
        while self.round() > 0 {}
        self.check();
        assert!(!self.model.has_work());
        self.router.shutdown();
        self.model
            .boxes
            .values_mut()
            .for_each(|held| held.closing = true);
        while self.round() > 0 {}
        assert!(self.router.is_empty() && self.model.boxes.is_empty());
        let counters = self.router.counters();
        assert_eq!(
            (counters.inputs, counters.dropped),
            (self.model.handled, self.model.dropped)
        );
        assert_eq!(counters.registered, counters.retired);
    }
}

#[test]
fn every_input_is_handled_once_in_order_or_comes_back() {
    let seeds = seeds();
    println!("seeds {seeds:?}");
    let (mut handled, mut dropped, mut refused) = (0, 0, 0);
    for seed in seeds.clone() {
        let _seed = Seed(seed);
        let mut run = Run::new(seed);
        for _ in 0..300 {
            run.step();
        }
        run.settle();
        handled += run.model.handled;
        dropped += run.model.dropped;
        refused += run.router.counters().refused_full;
    }
    let runs = seeds.end - seeds.start;
    assert!(
        runs < 100 || (dropped > runs && refused > runs && handled > 50 * runs),
        "tame seeds"
    );
}

// Pollers and the log writer under the seeded driver.

#[derive(Clone, Debug, PartialEq, Eq)]
enum GroupInput {
    Propose,
    /// So many proposals of the group are durable.
    Persisted(u64),
}

struct Group {
    addr: u64,
    proposed: u64,
    persisted: u64,
    /// Proposals of this round.
    fresh: u64,
}

#[derive(Default)]
struct GroupEffects {
    batch: Batch,
    releases: Vec<(u64, u64)>,
}

/// Per group, the number of its newest proposal.
#[derive(Default)]
struct Batch(BTreeMap<u64, u64>);

impl Merge for Batch {
    fn merge(&mut self, later: Self) {
        for (group, number) in later.0 {
            let before = self.0.insert(group, number).unwrap_or(0);
            assert!(
                before < number,
                "batches of group {group} merged out of order"
            );
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&self) -> u64 {
        16 * self.0.len() as u64
    }

    fn entries(&self) -> u64 {
        self.0.len() as u64
    }
}

impl Machine for Group {
    type Input = GroupInput;
    type Effects = GroupEffects;
    type Now = u64;

    fn handle(&mut self, _now: u64, input: GroupInput, _effects: &mut GroupEffects) {
        match input {
            GroupInput::Propose => self.fresh += 1,
            GroupInput::Persisted(number) => {
                assert!(
                    self.persisted < number && number <= self.proposed,
                    "announced out of order"
                );
                self.persisted = number;
            }
        }
    }

    fn end_round(&mut self, _now: u64, effects: &mut GroupEffects) {
        if self.fresh > 0 {
            self.proposed += std::mem::take(&mut self.fresh);
            effects.batch.0.insert(self.addr, self.proposed);
            effects.releases.push((self.addr, self.proposed));
        }
    }

    fn retire(&mut self, _now: u64, _effects: &mut GroupEffects) {}
}

/// What the disk holds, and the call at which it fails.
struct Disk {
    calls_left: Mutex<Option<u64>>,
    written: Mutex<(u64, Batch)>,
    durable: Mutex<BTreeMap<u64, u64>>,
}

impl Disk {
    fn call(&self) -> Result<(), String> {
        match self.calls_left.lock().as_mut() {
            Some(0) => Err("the disk has failed".into()),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

impl LogSink for Disk {
    type Batch = Batch;
    type Error = String;

    fn append(&self, batch: &Batch) -> Result<u64, String> {
        self.call()?;
        let mut written = self.written.lock();
        written.1.merge(Batch(batch.0.clone()));
        written.0 += 1;
        Ok(written.0)
    }

    fn sync(&self) -> Result<u64, String> {
        self.call()?;
        let written = self.written.lock();
        *self.durable.lock() = written.1.0.clone();
        Ok(written.0)
    }
}

type Log = LogWriter<Disk, Vec<(u64, u64)>>;

struct Submitter {
    log: Log,
}

impl Executor<GroupEffects> for Submitter {
    type Fatal = String;

    fn may_run(&mut self) -> bool {
        !self.log.is_behind()
    }

    fn execute(&mut self, effects: &mut GroupEffects) -> Result<(), String> {
        assert!(!self.log.is_behind(), "a round under pressure");
        let effects = std::mem::take(effects);
        if effects.batch.is_empty() {
            return Ok(());
        }
        self.log
            .submit(effects.batch, effects.releases)
            .map_err(|refused| refused.to_string())
    }
}

/// Proposes to random groups, a number of times.
struct Client {
    router: Router<Group>,
    groups: u64,
    left: u64,
}

impl Actor<u64, String> for Client {
    fn is_ready(&mut self) -> bool {
        self.left > 0
    }

    fn step(&mut self, _now: u64, pick: &mut dyn Pick) -> Result<(), String> {
        let group = pick.pick(Choice::Actor, self.groups as usize) as u64;
        if self.router.send(group, GroupInput::Propose).is_ok() {
            self.left -= 1;
        }
        Ok(())
    }
}

/// What a run came to: decisions, durable proposals by group, how it ended.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    announced: BTreeMap<u64, u64>,
    end: Result<(), String>,
}

fn run_log(seed: u64) -> Outcome {
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let (groups, proposals) = (rng.random_range(1..6), rng.random_range(1..60));
    let router: Router<Group> = Router::new(RouterConfig::default());
    for addr in 0..groups {
        let group = Group {
            addr,
            proposed: 0,
            persisted: 0,
            fresh: 0,
        };
        assert!(router.register(addr, group, 8).is_ok());
    }
    let fails_at = rng.random_bool(0.3).then(|| rng.random_range(0..20));
    let disk = Arc::new(Disk {
        calls_left: Mutex::new(fails_at),
        written: Mutex::default(),
        durable: Mutex::default(),
    });
    let config = LogConfig {
        write_bytes_max: rng.random_range(1..100),
        pending_bytes_max: rng.random_range(16..100),
    };
    let log: Log = LogWriter::new(Arc::clone(&disk), config);
    let announced = Arc::new(Mutex::new(BTreeMap::new()));

    let mut driver: Seeded<'_, u64, String> = Seeded::new(seed);
    // Two pollers of one router, as two threads would share it.
    for _ in 0..2 {
        let budget = Budget {
            machines_max: 2,
            heavy_machines_max: 1,
            inputs_per_machine_max: 3,
        };
        driver.add(Poller::new(
            router.clone(),
            Submitter { log: log.clone() },
            budget,
        ));
    }
    driver.add(LogAppend(log.clone()));
    let (told, disk_seen, group_router) =
        (Arc::clone(&announced), Arc::clone(&disk), router.clone());
    let on_durable = move |releases: Vec<Vec<(u64, u64)>>| {
        for (group, number) in releases.into_iter().flatten() {
            assert!(
                disk_seen.durable.lock()[&group] >= number,
                "announced and not durable"
            );
            let before = told.lock().insert(group, number).unwrap_or(0);
            assert!(before < number, "announced out of order");
            group_router
                .force_send(group, GroupInput::Persisted(number))
                .expect("it listens");
        }
    };
    driver.add(LogSync(log.clone(), on_durable));
    driver.add(Client {
        router: router.clone(),
        groups,
        left: proposals,
    });

    let end = driver.run(0, 10_000).map(drop);
    let announced = announced.lock().clone();
    if end.is_ok() {
        assert_eq!(
            announced.values().sum::<u64>(),
            proposals,
            "all are durable and announced"
        );
        assert_eq!((log.pending_bytes(), router.ready()), (0, 0));
    } else {
        assert!(
            !log.append_waits() && !log.sync_waits(),
            "a failed log goes on"
        );
    }
    Outcome {
        trace: driver.trace(),
        announced,
        end,
    }
}

#[test]
fn what_is_announced_is_durable_and_a_seed_decides_everything() {
    let seeds = seeds();
    println!("seeds {seeds:?}");
    let (mut traces, mut failed) = (BTreeSet::new(), 0);
    for seed in seeds.clone() {
        let _seed = Seed(seed);
        let outcome = run_log(seed);
        assert_eq!(outcome, run_log(seed), "a seed decides everything");
        failed += u64::from(outcome.end.is_err());
        traces.insert(outcome.trace);
    }
    let runs = seeds.end - seeds.start;
    assert!(
        traces.len() as u64 >= runs - runs / 20,
        "seeds differ, but for the shortest runs"
    );
    assert!(
        runs < 100 || (failed > runs / 20 && failed < runs / 2),
        "{failed} of {runs} failed"
    );
}
