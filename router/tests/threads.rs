//! The threaded drivers: the same machines, real threads. Nothing here sleeps; what must not happen
//! is made impossible to miss, what must happen is waited for.
#![expect(
    clippy::disallowed_methods,
    reason = "the tests are the other threads of a store"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;

use flotilla_router::{
    Budget, Executor, Fatal, Lane, LogConfig, LogRefused, LogSink, LogWriter, Machine, Merge,
    Outgoing, OutgoingConfig, Pollers, Routed, Router, RouterConfig, SendError, spawn_log_writer,
    spawn_pollers,
};
use parking_lot::{Condvar, Mutex};

// Pollers.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    /// The number `.1` of sender `.0`.
    From(u64, u64),
    Panic,
    Fail,
}

/// Counts what it is given, per sender.
struct Counter {
    addr: u64,
    last: BTreeMap<u64, u64>,
    handled: u64,
    /// Something was handled since the last end of a round.
    had_input: bool,
    /// Set while a thread has the machine.
    running: Arc<AtomicBool>,
    sums: Arc<Sums>,
}

#[derive(Default)]
struct Sums {
    handled: AtomicU64,
    ticks: AtomicU64,
    retired: Mutex<BTreeMap<u64, u64>>,
}

#[derive(Default)]
struct Effects {
    handled: u64,
    fail: bool,
}

impl Machine for Counter {
    type Input = Input;
    type Effects = Effects;
    type Now = u64;

    fn handle(&mut self, _now: u64, input: Input, effects: &mut Effects) {
        assert!(!self.running.swap(true, Ordering::SeqCst), "two owners");
        self.had_input = true;
        match input {
            Input::From(sender, number) => {
                let before = self.last.insert(sender, number).unwrap_or(0);
                assert!(
                    before < number,
                    "machine {}: {number} of {sender} after {before}",
                    self.addr
                );
                self.handled += 1;
                effects.handled += 1;
            }
            Input::Panic => panic!("asked to"),
            Input::Fail => effects.fail = true,
        }
        self.running.store(false, Ordering::SeqCst);
    }

    fn tick(&mut self, _now: u64, _effects: &mut Effects) {
        self.had_input = true;
        self.sums.ticks.fetch_add(1, Ordering::SeqCst);
    }

    fn end_round(&mut self, _now: u64, _effects: &mut Effects) {
        assert!(
            std::mem::take(&mut self.had_input),
            "a round without input was ended"
        );
    }

    fn retire(&mut self, _now: u64, _effects: &mut Effects) {
        let before = self.sums.retired.lock().insert(self.addr, self.handled);
        assert_eq!(before, None, "retired twice");
    }

    fn is_heavy(&self) -> bool {
        self.addr.is_multiple_of(7)
    }
}

#[derive(Clone)]
struct Adder {
    sums: Arc<Sums>,
    may_run: Arc<AtomicBool>,
}

impl Executor<Effects> for Adder {
    type Fatal = String;

    fn may_run(&mut self) -> bool {
        self.may_run.load(Ordering::SeqCst)
    }

    fn execute(&mut self, effects: &mut Effects) -> Result<(), String> {
        let Effects { handled, fail } = std::mem::take(effects);
        self.sums.handled.fetch_add(handled, Ordering::SeqCst);
        if fail { Err("asked to".into()) } else { Ok(()) }
    }
}

struct World {
    router: Router<Counter>,
    pollers: Option<Pollers<Counter>>,
    sums: Arc<Sums>,
    may_run: Arc<AtomicBool>,
    reports: Arc<Mutex<Vec<Fatal<String>>>>,
}

impl World {
    fn new(machines: u64, threads: usize, capacity: usize) -> Self {
        let router = Router::new(RouterConfig::default());
        let sums = Arc::new(Sums::default());
        let may_run = Arc::new(AtomicBool::new(true));
        for addr in 0..machines {
            let (sums, running) = (Arc::clone(&sums), Arc::default());
            let machine = Counter {
                addr,
                last: BTreeMap::new(),
                handled: 0,
                had_input: false,
                running,
                sums,
            };
            assert!(router.register(addr, machine, capacity).is_ok());
        }
        let adder = Adder {
            sums: Arc::clone(&sums),
            may_run: Arc::clone(&may_run),
        };
        let reports = Arc::new(Mutex::new(Vec::new()));
        let reported = Arc::clone(&reports);
        let budget = Budget {
            machines_max: 8,
            heavy_machines_max: 1,
            inputs_per_machine_max: 16,
        };
        let clock = || 0;
        let on_fatal = move |fatal| reported.lock().push(fatal);
        let pollers = spawn_pollers(
            "test",
            threads,
            &router,
            budget,
            |_| adder.clone(),
            clock,
            on_fatal,
        );
        Self {
            router,
            pollers: Some(pollers.expect("threads")),
            sums,
            may_run,
            reports,
        }
    }

    /// Waits for something that the pollers bring about.
    fn until(&self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            assert_eq!(*self.reports.lock(), [], "the pollers ended");
            thread::yield_now();
        }
    }

    fn handled(&self) -> u64 {
        self.sums.handled.load(Ordering::SeqCst)
    }

    /// Until a poller has found the executor under pressure so many times more.
    fn until_paused(&self, times: u64) {
        let before = self.router.counters().pauses;
        self.until(|world| world.router.counters().pauses >= before + times);
    }

    /// Waits until all machines have retired.
    fn end(mut self) -> (Arc<Sums>, Router<Counter>) {
        self.router.shutdown();
        self.pollers.take().expect("running").join();
        assert_eq!(*self.reports.lock(), []);
        assert!(self.router.is_empty());
        (self.sums, self.router)
    }
}

/// Senders, a ticker and a closer at once. Accepted inputs are handled or dropped by a close.
#[test]
fn nothing_is_lost_doubled_or_reordered_under_load() {
    const SENDERS: u64 = 3;
    const MACHINES: u64 = 24;
    const EACH: u64 = 60_000;
    let world = World::new(MACHINES, 2, 64);
    let accepted = AtomicU64::new(0);
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let (router, reports) = (&world.router, &world.reports);
            let accepted = &accepted;
            scope.spawn(move || {
                let handles: Vec<_> = (0..MACHINES).map(|addr| router.handle(addr)).collect();
                for number in 1..=EACH {
                    let addr = (number * (sender + 1)) % MACHINES;
                    let input = Input::From(sender, number);
                    loop {
                        let result = match &handles[addr as usize] {
                            Some(handle) if number % 2 == 0 => handle.send(input),
                            _ => router.send(addr, input),
                        };
                        match result {
                            Ok(()) => {
                                accepted.fetch_add(1, Ordering::SeqCst);
                                break;
                            }
                            Err(SendError::Closed(back)) => {
                                assert_eq!(back, input);
                                break;
                            }
                            Err(SendError::Full(_)) => {
                                assert_eq!(*reports.lock(), [], "the pollers ended");
                                thread::yield_now();
                            }
                        }
                    }
                }
            });
        }
        scope.spawn(|| {
            for _ in 0..300 {
                world.router.tick_all();
                thread::yield_now();
            }
        });
        scope.spawn(|| {
            // Some machines end in the middle of it, those of the low lane too.
            for addr in (0..MACHINES).step_by(3) {
                world.until(|world| world.router.counters().inputs >= addr * EACH / MACHINES);
                world.router.close(addr);
            }
        });
    });
    let (sums, router) = world.end();
    let counters = router.counters();
    let handled = sums.handled.load(Ordering::SeqCst);
    assert_eq!(counters.inputs, handled);
    assert_eq!(
        counters.inputs + counters.dropped,
        accepted.load(Ordering::SeqCst)
    );
    assert_eq!(sums.retired.lock().values().sum::<u64>(), handled);
    assert_eq!(sums.retired.lock().len() as u64, MACHINES);
    assert_eq!(counters.ticks, sums.ticks.load(Ordering::SeqCst));
    assert!(counters.ticks > 0 && counters.refused_closed > 0 && counters.heavy_turns > 0);
    assert_eq!((router.ready(), router.queued_bytes()), (0, 0));
}

/// One input at a time: each finds the poller parked or about to park.
#[test]
fn a_poller_that_parks_is_always_woken() {
    let world = World::new(1, 1, 1);
    for number in 1..=20_000 {
        assert!(world.router.send(0, Input::From(0, number)).is_ok());
        world.until(|world| world.handled() == number);
    }
    assert_eq!(world.end().0.handled.load(Ordering::SeqCst), 20_000);
}

#[test]
fn pressure_holds_rounds_back_until_it_is_over() {
    let world = World::new(1, 1, 4);
    world.may_run.store(false, Ordering::SeqCst);
    // One that is parked already looks at the pressure only after it is woken.
    assert!(world.router.send(0, Input::From(0, 1)).is_ok());
    world.until_paused(3);
    let handled = world.handled();
    assert!(world.router.send(0, Input::From(0, 2)).is_ok());
    world.until_paused(3);
    assert_eq!(world.handled(), handled, "nothing ran under pressure");
    world.may_run.store(true, Ordering::SeqCst);
    world.router.resume();
    world.until(|world| world.handled() == 2);
    world.end();
}

/// The machines are still there when the shutdown returns.
#[test]
fn the_last_machine_that_retires_ends_all_threads() {
    let world = World::new(20, 2, 4);
    world.may_run.store(false, Ordering::SeqCst);
    for addr in 0..20 {
        assert!(world.router.send(addr, Input::From(0, 1)).is_ok());
    }
    world.until_paused(4);
    world.router.shutdown();
    assert!(!world.router.is_empty());
    world.may_run.store(true, Ordering::SeqCst);
    assert_eq!(world.end().0.retired.lock().len(), 20);
}

/// What ends a group, and what is told.
#[test]
fn a_failure_or_a_panic_is_reported_once_and_ends_all_threads() {
    let panicked = |thread: &str| Fatal::Panicked {
        thread: thread.into(),
        message: "asked to".into(),
    };
    let cases = [
        (
            Input::Fail,
            Fatal::Failed("asked to".to_owned()),
            "asked to",
        ),
        (
            Input::Panic,
            panicked("test-0"),
            "thread test-0 panicked: asked to",
        ),
    ];
    for (input, expected, text) in cases {
        let mut world = World::new(8, if input == Input::Fail { 3 } else { 1 }, 4);
        for addr in 0..8 {
            let _ = world.router.send(addr, input);
        }
        world.pollers.take().expect("not joined yet").join();
        let reports = world.reports.lock();
        let texts: Vec<String> = reports.iter().map(Fatal::to_string).collect();
        assert_eq!(
            (&**reports, texts),
            (&[expected][..], vec![text.to_owned()]),
            "once"
        );
    }
}

#[test]
fn a_stop_ends_threads_that_are_parked_paused_or_busy() {
    for (may_run, busy) in [(true, false), (false, false), (true, true)] {
        let mut world = World::new(4, 2, 4);
        world.may_run.store(may_run, Ordering::SeqCst);
        for addr in 0..if busy { 4 } else { 0 } {
            let _ = world.router.send(addr, Input::From(0, 1));
        }
        let pollers = world.pollers.take().expect("running");
        pollers.stop();
        assert_eq!(*world.reports.lock(), [], "a stop is no failure");
    }
    // Dropping stops too, and a router without machines ends at once.
    drop(World::new(4, 2, 4));
    World::new(0, 2, 4).end();
}

// The outgoing queues.

struct Note {
    store: u64,
    key: Option<u64>,
}

impl Routed for Note {
    fn store(&self) -> u64 {
        self.store
    }

    fn lane(&self) -> Lane {
        Lane::Append
    }

    fn bytes(&self) -> u64 {
        3
    }

    fn coalesce_key(&self) -> Option<u64> {
        self.key
    }
}

/// Each message is sent, given back with its store, replaced or refused; whoever waits for a store is
/// told of it; no byte stays counted.
#[test]
fn outgoing_messages_are_accounted_for_while_stores_come_and_go() {
    const PUSHERS: u64 = 2;
    const EACH: u64 = 60_000;
    let outgoing: Outgoing<Note> = Outgoing::new(OutgoingConfig::default());
    let (taken, pushed) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let pushers = [(); PUSHERS as usize].map(|()| {
            scope.spawn(|| {
                for number in 0..EACH {
                    let key = number.is_multiple_of(3).then_some(number % 7);
                    while outgoing
                        .push(Note {
                            store: number % 2,
                            key,
                        })
                        .is_err()
                    {
                        thread::yield_now();
                    }
                }
            })
        });
        // The sender of store 0: sleeps until it is told.
        let (tell, told) = mpsc::channel();
        let last = tell.clone();
        outgoing.on_ready(
            0,
            Arc::new(move |lane| {
                let _ = tell.send(lane);
            }),
        );
        let (outgoing, taken, pushed) = (&outgoing, &taken, &pushed);
        scope.spawn(move || {
            for lane in told {
                loop {
                    let bulk = outgoing.drain(0, lane, 100);
                    if bulk.is_empty() {
                        break;
                    }
                    taken.fetch_add(bulk.len() as u64, Ordering::SeqCst);
                }
                if lane == Lane::Control {
                    break;
                }
            }
        });
        // Store 1 is forgotten and met again all the time.
        scope.spawn(move || {
            while !pushed.load(Ordering::SeqCst) {
                taken.fetch_add(outgoing.remove(1).len() as u64, Ordering::SeqCst);
            }
            taken.fetch_add(outgoing.remove(1).len() as u64, Ordering::SeqCst);
        });
        for pusher in pushers {
            pusher.join().expect("no panic");
        }
        pushed.store(true, Ordering::SeqCst);
        last.send(Lane::Control).expect("the sender listens");
    });
    let counters = outgoing.counters();
    assert_eq!(counters.messages, PUSHERS * EACH);
    assert_eq!(
        taken.load(Ordering::SeqCst),
        counters.messages - counters.coalesced
    );
    assert_eq!(
        (outgoing.bytes(), outgoing.waiting(0, Lane::Append)),
        (0, 0)
    );
    assert!(counters.coalesced > 0);
}

// The log writer.

struct Batch {
    count: u64,
}

impl Merge for Batch {
    fn merge(&mut self, later: Self) {
        self.count += later.count;
    }

    fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn bytes(&self) -> u64 {
        self.count
    }

    fn entries(&self) -> u64 {
        self.count
    }
}

fn one() -> Batch {
    Batch { count: 1 }
}

/// What the next calls of the sink do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Append,
    Sync,
    PanicInAppend,
    PanicInSync,
}

#[derive(Default)]
struct Disk {
    written: AtomicU64,
    fault: Mutex<Option<Fault>>,
    gate: Mutex<Gate>,
    moved: Condvar,
}

#[derive(Default)]
struct Gate {
    /// Syncs wait until it opens.
    closed: bool,
    /// A sync waits at it.
    waiting: bool,
}

impl Disk {
    fn close_gate(&self) {
        self.gate.lock().closed = true;
    }

    fn open_gate(&self) {
        self.gate.lock().closed = false;
        self.moved.notify_all();
    }

    /// Until a sync has begun and is held up.
    fn wait_for_sync(&self) {
        let mut gate = self.gate.lock();
        while !gate.waiting {
            self.moved.wait(&mut gate);
        }
    }

    fn fault(&self, fails: Fault, panics: Fault) -> Result<(), String> {
        let fault = *self.fault.lock();
        match fault {
            Some(fault) if fault == fails => Err(format!("{fault:?}")),
            Some(fault) if fault == panics => panic!("{fault:?}"),
            _ => Ok(()),
        }
    }
}

impl LogSink for Disk {
    type Batch = Batch;
    type Error = String;

    fn append(&self, _batch: &Batch) -> Result<u64, String> {
        self.fault(Fault::Append, Fault::PanicInAppend)?;
        Ok(self.written.fetch_add(1, Ordering::SeqCst) + 1)
    }

    fn sync(&self) -> Result<u64, String> {
        let written = self.written.load(Ordering::SeqCst);
        let mut gate = self.gate.lock();
        while gate.closed {
            gate.waiting = true;
            self.moved.notify_all();
            self.moved.wait(&mut gate);
        }
        gate.waiting = false;
        drop(gate);
        self.fault(Fault::Sync, Fault::PanicInSync)?;
        Ok(written)
    }
}

type Log = LogWriter<Disk, u64>;

struct LogWorld {
    disk: Arc<Disk>,
    log: Log,
    threads: Option<flotilla_router::LogThreads>,
    durable: mpsc::Receiver<Vec<u64>>,
    fatal: mpsc::Receiver<Fatal<String>>,
}

impl LogWorld {
    fn new() -> Self {
        let disk = Arc::new(Disk::default());
        let log: Log = LogWriter::new(Arc::clone(&disk), LogConfig::default());
        let (tell, durable) = mpsc::channel();
        let (report, fatal) = mpsc::channel();
        let on_durable = move |releases| tell.send(releases).expect("the test listens");
        let on_fatal = move |fatal| report.send(fatal).expect("the test listens");
        let threads = spawn_log_writer("log", &log, on_durable, on_fatal).expect("threads");
        Self {
            disk,
            log,
            threads: Some(threads),
            durable,
            fatal,
        }
    }

    fn submit(&self, number: u64) {
        self.log.submit(one(), number).expect("it runs");
    }

    fn wait_written(&self, count: u64) {
        while self.log.counters().entries < count {
            thread::yield_now();
        }
    }
}

/// However long a sync takes: what came meanwhile is one sync, the next one.
#[test]
fn a_batch_is_what_arrived_during_the_last_sync() {
    let world = LogWorld::new();
    world.disk.close_gate();
    world.submit(0);
    world.disk.wait_for_sync();
    for number in 1..=100 {
        world.submit(number);
    }
    // Appending goes on while the sync is under way.
    world.wait_written(101);
    assert_eq!(world.log.counters().syncs, 0);
    assert!(
        world.durable.try_recv().is_err(),
        "announced before its sync"
    );
    world.disk.open_gate();
    assert_eq!(world.durable.recv(), Ok(vec![0]));
    assert_eq!(world.durable.recv(), Ok((1..=100).collect()));
    let counters = world.log.counters();
    assert_eq!((counters.syncs, counters.durable), (2, 101));
    assert!(counters.batches <= 101);
}

#[test]
fn many_submitters_are_announced_in_the_order_of_each() {
    const SUBMITTERS: u64 = 4;
    const EACH: u64 = 20_000;
    let mut world = LogWorld::new();
    thread::scope(|scope| {
        for submitter in 0..SUBMITTERS {
            let log = &world.log;
            scope.spawn(move || {
                for number in 0..EACH {
                    log.submit(one(), number * SUBMITTERS + submitter)
                        .expect("it runs");
                }
            });
        }
    });
    world.threads.take().expect("running").stop();
    let mut next = [0; SUBMITTERS as usize];
    for release in world.durable.try_iter().flatten() {
        let (submitter, number) = (release % SUBMITTERS, release / SUBMITTERS);
        assert_eq!(number, next[submitter as usize], "submitter {submitter}");
        next[submitter as usize] += 1;
    }
    assert_eq!(next, [EACH; SUBMITTERS as usize]);
    let counters = world.log.counters();
    assert_eq!(
        (counters.submissions, counters.durable),
        (SUBMITTERS * EACH, SUBMITTERS * EACH)
    );
    assert_eq!(world.log.submit(one(), 0), Err(LogRefused::Stopped));
}

#[test]
fn after_a_fault_nothing_is_announced_and_it_is_reported_once() {
    let panicked = |thread: &str, message: &str| Fatal::Panicked {
        thread: thread.into(),
        message: message.into(),
    };
    let cases = [
        (Fault::Append, Fatal::Failed("Append".to_owned())),
        (Fault::Sync, Fatal::Failed("Sync".to_owned())),
        (
            Fault::PanicInAppend,
            panicked("log-append", "PanicInAppend"),
        ),
        (Fault::PanicInSync, panicked("log-sync", "PanicInSync")),
    ];
    for (fault, expected) in cases {
        let mut world = LogWorld::new();
        world.submit(0);
        assert_eq!(world.durable.recv(), Ok(vec![0]));
        *world.disk.fault.lock() = Some(fault);
        world.submit(1);
        assert_eq!(world.fatal.recv(), Ok(expected), "{fault:?}");
        let refused = match fault {
            Fault::Append | Fault::Sync => LogRefused::Failed(format!("{fault:?}")),
            _ => LogRefused::Stopped,
        };
        assert_eq!(world.log.submit(one(), 2), Err(refused), "{fault:?}");
        world.threads.take().expect("running").stop();
        assert!(
            world.durable.recv().is_err(),
            "{fault:?}: announced after a fault"
        );
        assert!(world.fatal.recv().is_err(), "{fault:?}: reported twice");
    }
}

/// The append fails while a sync is under way that then succeeds.
#[test]
fn a_sync_that_ends_after_a_failed_append_announces_nothing() {
    let mut world = LogWorld::new();
    world.disk.close_gate();
    world.submit(0);
    world.disk.wait_for_sync();
    *world.disk.fault.lock() = Some(Fault::Append);
    world.submit(1);
    assert_eq!(world.fatal.recv(), Ok(Fatal::Failed("Append".to_owned())));
    world.disk.open_gate();
    world.threads.take().expect("running").stop();
    assert!(world.durable.recv().is_err());
}

#[test]
fn dropping_the_threads_finishes_what_was_taken() {
    let mut world = LogWorld::new();
    for number in 0..10 {
        world.submit(number);
    }
    drop(world.threads.take());
    let durable: Vec<u64> = world.durable.iter().flatten().collect();
    assert_eq!(durable, Vec::from_iter(0..10));
}
