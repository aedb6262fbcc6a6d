//! What the router costs: sends, rounds, the log writer, the outgoing queues.
//!
//! ```sh
//! cargo run --release -p flotilla-router --features threads --example throughput
//! ```
//!
//! One line per case. "alone" is one thread without a poller; the rest runs with the threads that a
//! store has.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use flotilla_router::{
    Budget, Executor, Fifo, Handle, Lane, LogConfig, LogSink, LogWriter, Machine, Merge, Outgoing,
    OutgoingConfig, Poller, Routed, Router, RouterConfig, SendError, spawn_log_writer,
    spawn_pollers,
};

/// As many regions as a busy store leads.
const REGIONS: u64 = 1_000;
/// The bound of each mailbox.
const CAPACITY: usize = 4_096;

fn main() {
    println!("{:<58} {:>12} {:>10}", "case", "per second", "ns each");
    for (name, per) in [("by address", Per::Address), ("by handle", Per::Handle)] {
        sends_alone(&format!("send {name}, 1,000 mailboxes, alone"), per);
    }
    for (machines, inputs) in [(1, 256), (1_000, 1), (1_000, 16)] {
        rounds_alone(machines, inputs);
    }
    for (senders, machines) in [(1, 1), (1, REGIONS), (2, 1), (2, REGIONS)] {
        sends_to_pollers(senders, machines);
    }
    round_trip();
    ticks();
    for (sync, submitters) in [(0, 1), (100, 1), (1_000, 1), (1_000, 2)] {
        log_writer(Duration::from_micros(sync), submitters);
    }
    outgoing();
}

fn line(name: &str, count: u64, took: Duration) {
    let each = took.as_nanos() as f64 / count as f64;
    println!(
        "{name:<58} {:>12.0} {each:>10.1}",
        count as f64 / took.as_secs_f64()
    );
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn timed(work: impl FnOnce() -> u64) -> (u64, Duration) {
    let start = Instant::now();
    let count = work();
    (count, start.elapsed())
}

/// About as large as a raft message or a proposal.
struct Input([u64; 12]);

struct Summing {
    sum: u64,
}

#[derive(Default)]
struct Effects {
    handled: u64,
}

impl Machine for Summing {
    type Input = Input;
    type Effects = Effects;
    type Now = u64;

    fn handle(&mut self, now: u64, input: Input, effects: &mut Effects) {
        self.sum = self.sum.wrapping_add(input.0[0] ^ now);
        effects.handled += 1;
    }

    fn end_round(&mut self, _now: u64, _effects: &mut Effects) {}

    fn retire(&mut self, _now: u64, _effects: &mut Effects) {
        black_box(self.sum);
    }
}

#[derive(Clone, Default)]
struct Counting(Arc<AtomicU64>);

impl Executor<Effects> for Counting {
    type Fatal = std::convert::Infallible;

    fn execute(&mut self, effects: &mut Effects) -> Result<(), Self::Fatal> {
        self.0
            .fetch_add(std::mem::take(&mut effects.handled), Ordering::Release);
        Ok(())
    }
}

fn router(machines: u64) -> (Router<Summing>, Vec<Handle<Summing>>) {
    let router = Router::new(RouterConfig::default());
    for addr in 0..machines {
        router
            .register(addr, Summing { sum: 0 }, CAPACITY)
            .ok()
            .expect("a free address");
    }
    let handles = (0..machines)
        .map(|addr| router.handle(addr).expect("registered"))
        .collect();
    (router, handles)
}

#[derive(Clone, Copy)]
enum Per {
    Address,
    Handle,
}

fn sends_alone(name: &str, per: Per) {
    let (router, handles) = router(REGIONS);
    let mut poller = Poller::new(router.clone(), Counting::default(), budget());
    let (mut sent, mut took) = (0, Duration::ZERO);
    for _ in 0..20 {
        let (count, time) = timed(|| {
            for _ in 0..100 {
                for addr in 0..REGIONS {
                    let input = Input([addr; 12]);
                    let result = match per {
                        Per::Address => router.send(addr, input),
                        Per::Handle => handles[addr as usize].send(input),
                    };
                    assert!(result.is_ok());
                }
            }
            100 * REGIONS
        });
        sent += count;
        took += time;
        while poller.round(0, &mut Fifo).expect("infallible") > 0 {}
    }
    line(name, sent, took);
}

fn budget() -> Budget {
    Budget {
        machines_max: 1_024,
        ..Budget::default()
    }
}

/// Rounds over machines that all have input, without the sends.
fn rounds_alone(machines: u64, inputs: u64) {
    let (router, handles) = router(machines);
    let mut poller = Poller::new(router, Counting::default(), budget());
    let (mut rounds, mut took) = (0, Duration::ZERO);
    while took < Duration::from_millis(500) {
        for handle in &handles {
            for _ in 0..inputs {
                assert!(handle.send(Input([1; 12])).is_ok());
            }
        }
        let (_, time) = timed(|| poller.round(0, &mut Fifo).expect("infallible") as u64);
        rounds += 1;
        took += time;
    }
    line(
        &format!("round, {machines} machines x {inputs} inputs"),
        rounds,
        took,
    );
    line("  per machine of it", rounds * machines, took);
    line("  per input of it", rounds * machines * inputs, took);
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark drives the router from threads of its own"
)]
fn sends_to_pollers(senders: u64, machines: u64) {
    const EACH: u64 = 2_000_000;
    let (router, handles) = router(machines);
    let executor = Counting::default();
    let handled = Arc::clone(&executor.0);
    let pollers = spawn_pollers(
        "raft",
        1,
        &router,
        budget(),
        |_| executor.clone(),
        || 0,
        |_| (),
    )
    .expect("a thread");
    let (count, took) = timed(|| {
        std::thread::scope(|scope| {
            for _ in 0..senders {
                scope.spawn(|| flood(&handles, EACH));
            }
        });
        while handled.load(Ordering::Acquire) < senders * EACH {
            std::thread::yield_now();
        }
        senders * EACH
    });
    line(
        &format!("send + handle, {senders} senders, {machines} machines, 1 poller"),
        count,
        took,
    );
    let counters = router.counters();
    println!(
        "    inputs per turn {:.1}, turns per round {:.1}, wake-ups {}, refused {}",
        counters.inputs as f64 / counters.turns as f64,
        counters.turns as f64 / counters.rounds as f64,
        counters.wakeups,
        counters.refused_full,
    );
    pollers.stop();
}

fn flood(handles: &[Handle<Summing>], count: u64) {
    for number in 0..count {
        let mut input = Input([number; 12]);
        while let Err(SendError::Full(back)) = handles[number as usize % handles.len()].send(input)
        {
            std::thread::yield_now();
            input = back;
        }
    }
}

/// One input at a time: the cost of waking a parked poller.
fn round_trip() {
    let (router, handles) = router(1);
    let executor = Counting::default();
    let handled = Arc::clone(&executor.0);
    let pollers = spawn_pollers(
        "raft",
        1,
        &router,
        budget(),
        |_| executor.clone(),
        || 0,
        |_| (),
    )
    .expect("a thread");
    let (count, took) = timed(|| {
        const TRIPS: u64 = 50_000;
        for number in 1..=TRIPS {
            assert!(handles[0].send(Input([number; 12])).is_ok());
            while handled.load(Ordering::Acquire) < number {
                std::thread::yield_now();
            }
        }
        TRIPS
    });
    line("send to a poller that parks, one at a time", count, took);
    pollers.stop();
}

fn ticks() {
    let (router, _handles) = router(REGIONS);
    let mut poller = Poller::new(router.clone(), Counting::default(), budget());
    let (count, took) = timed(|| {
        for _ in 0..500 {
            router.tick_all();
            while poller.round(0, &mut Fifo).expect("infallible") > 0 {}
        }
        500 * REGIONS
    });
    line("tick + turn, 1,000 machines", count, took);
}

struct Batch {
    entries: u64,
}

impl Merge for Batch {
    fn merge(&mut self, later: Self) {
        self.entries += later.entries;
    }

    fn is_empty(&self) -> bool {
        self.entries == 0
    }

    fn bytes(&self) -> u64 {
        self.entries * 128
    }

    fn entries(&self) -> u64 {
        self.entries
    }
}

/// A disk that syncs in a fixed time and writes in none.
struct FakeDisk {
    written: AtomicU64,
    sync: Duration,
}

impl LogSink for FakeDisk {
    type Batch = Batch;
    type Error = std::convert::Infallible;

    fn append(&self, _batch: &Batch) -> Result<u64, Self::Error> {
        Ok(self.written.fetch_add(1, Ordering::SeqCst) + 1)
    }

    #[expect(clippy::disallowed_methods, reason = "a disk that takes its time")]
    fn sync(&self) -> Result<u64, Self::Error> {
        let written = self.written.load(Ordering::SeqCst);
        if !self.sync.is_zero() {
            std::thread::sleep(self.sync);
        }
        Ok(written)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark drives the writer from threads of its own"
)]
fn log_writer(sync: Duration, submitters: u64) {
    const EACH: u64 = 300_000;
    let disk = Arc::new(FakeDisk {
        written: AtomicU64::new(0),
        sync,
    });
    let writer = LogWriter::new(
        disk,
        LogConfig {
            pending_bytes_max: 4 << 20,
            ..LogConfig::default()
        },
    );
    let threads = spawn_log_writer("log", &writer, |releases: Vec<u64>| drop(releases), |_| ())
        .expect("two threads");
    let (count, took) = timed(|| {
        std::thread::scope(|scope| {
            for _ in 0..submitters {
                scope.spawn(|| {
                    for number in 0..EACH {
                        while writer.is_behind() {
                            std::thread::yield_now();
                        }
                        writer
                            .submit(Batch { entries: 1 }, number)
                            .expect("it runs");
                    }
                });
            }
        });
        threads.stop();
        submitters * EACH
    });
    line(
        &format!("log: {submitters} submitters, a sync takes {sync:?}"),
        count,
        took,
    );
    let counters = writer.counters();
    println!(
        "    writes {}, syncs {}, submissions per write {:.1}, per sync {:.1}",
        counters.batches,
        counters.syncs,
        count as f64 / counters.batches as f64,
        count as f64 / counters.syncs as f64,
    );
}

struct Message {
    store: u64,
    key: Option<u64>,
}

impl Routed for Message {
    fn store(&self) -> u64 {
        self.store
    }

    fn lane(&self) -> Lane {
        Lane::Append
    }

    fn bytes(&self) -> u64 {
        256
    }

    fn coalesce_key(&self) -> Option<u64> {
        self.key
    }
}

fn outgoing() {
    for (name, keyed) in [("append, no key", false), ("heartbeat, coalescing", true)] {
        let outgoing = Outgoing::new(OutgoingConfig::default());
        let (count, took) = timed(|| {
            for _ in 0..2_000 {
                for group in 0..REGIONS {
                    let key = keyed.then_some(group);
                    assert!(
                        outgoing
                            .push(Message {
                                store: 2 + group % 2,
                                key
                            })
                            .is_ok()
                    );
                }
                for store in [2, 3] {
                    while !outgoing.drain(store, Lane::Append, 1 << 20).is_empty() {}
                }
            }
            2_000 * REGIONS
        });
        line(&format!("outgoing: push + drain, {name}"), count, took);
    }
}
