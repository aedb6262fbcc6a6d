//! What goes wrong, and how often: drawn per seed, each class present in about half of them.

use std::fmt;
use std::time::Duration;

use flotilla_engine::memory::{Fault, FaultKind, FaultPoint};

use crate::rng::Rng;

/// The disk calls that can fail.
pub const POINTS: [FaultPoint; 9] = [
    FaultPoint::Append,
    FaultPoint::Sync,
    FaultPoint::Read,
    FaultPoint::Write,
    FaultPoint::Flush,
    FaultPoint::Ingest,
    FaultPoint::SnapshotWrite,
    FaultPoint::SnapshotRead,
    FaultPoint::View,
];

/// Rates per thousand steps or per thousand occasions, as each field says; 0: never.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Crashes per 10,000 steps of a store.
    pub crash: u64,
    /// Chance per thousand of a crash right after a log write that is not synced.
    pub crash_before_sync: u64,
    /// Chance per thousand that a crash is the machine's and not only the process's: only then the
    /// unsynced log may be lost.
    pub power: u64,
    /// Chance per thousand that a start is cut short by another crash.
    pub crash_in_start: u64,
    /// Chance per thousand that something else happens at a step of a snapshot.
    pub at_snapshots: u64,
    /// Chance per thousand that a rare moment is followed by the worst.
    pub cruelty: u64,
    /// Chance per thousand that a store stays away for long after a crash.
    pub away: u64,
    /// Stops in order per 10,000 steps.
    pub stop: u64,
    /// Failing disk calls, per 10,000 steps, in the order of [`POINTS`].
    pub disk: [u64; POINTS.len()],
    /// Chance per thousand that a failing disk is a full one.
    pub full: u64,
    /// Pauses of the whole process, per 10,000 steps.
    pub pause: u64,
    /// Stalls of the log disk, per 10,000 steps.
    pub stall: u64,
    /// A store may be lost because bytes rot.
    pub rot: bool,
    /// Chance per thousand that the files of an open intent are gone at a start.
    pub cleaned: u64,
    /// Chance per 10,000 that a chunk of a snapshot is damaged on its way, or where it is written.
    pub flip: u64,
    /// Apply is held back as if the state could not keep up, per 10,000 steps.
    pub pressure: u64,
    /// PD: chance per thousand to fail, and to answer late.
    pub pd_fails: u64,
    /// See `pd_fails`.
    pub pd_late: u64,
    /// The time of day jumps, per 10,000 steps.
    pub clock: u64,
    /// Compactions per 10,000 steps.
    pub compaction: u64,
}

/// Starts of a thousand, in a third of the worlds each.
const CLEANED: [u64; 3] = [0, 100, 500];

impl Faults {
    /// The faults of a world.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut rate = |most: u64| {
            if rng.chance(500) {
                rng.log_range(1..=most)
            } else {
                0
            }
        };
        let crash = rate(60);
        let crash_before_sync = rate(60);
        let stop = rate(20);
        let disk = [
            rate(12),
            rate(12),
            rate(100),
            rate(12),
            rate(30),
            rate(60),
            rate(60),
            rate(60),
            0,
        ];
        let mut faults = Self {
            crash,
            crash_before_sync,
            stop,
            disk,
            full: rate(1000),
            pause: rate(30),
            pressure: rate(30),
            pd_fails: rate(300),
            pd_late: rate(300),
            clock: rate(30),
            compaction: rate(30),
            at_snapshots: rate(300),
            away: rate(500),
            flip: rate(300),
            power: *rng.pick(&[0, 500, 1000]),
            crash_in_start: *rng.pick(&[0, 0, 300, 700]),
            cruelty: *rng.pick(&[0, 0, 100, 500]),
            stall: *rng.pick(&[0, 0, 0, 0, 0, 2, 6, 12]),
            rot: true,
            cleaned: *rng.pick(&CLEANED),
        };
        faults.disk[POINTS.len() - 1] = *rng.pick(&[0, 0, 0, 0, 0, 0, 3, 30]);
        faults
    }

    /// Rates for a cluster of so many stores: faults of one store are faults of all.
    #[must_use]
    pub fn among(self, stores: u64) -> Self {
        Self {
            crash: self.crash / stores,
            crash_before_sync: self.crash_before_sync / stores,
            stop: self.stop / stores,
            disk: self.disk.map(|rate| rate / stores),
            pause: self.pause / stores,
            stall: self.stall / stores,
            pressure: self.pressure / stores,
            ..self
        }
    }

    /// A world without faults.
    pub fn none() -> Self {
        Self::default()
    }
}

/// What strikes after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultPlan {
    /// Nothing.
    Nothing,
    /// The process dies.
    Crash,
    /// The process is told to stop.
    Stop,
    /// The next call of a kind fails.
    Disk(Fault),
    /// The process stands still.
    Pause(Duration),
    /// The log is neither written nor synced for so long.
    Stall(Duration),
    /// Apply may not run for so long.
    Pressure(Duration),
    /// The time of day moves by so many seconds.
    Clock(i64),
    /// Expired rows may be dropped.
    Compaction,
}

impl Faults {
    /// What strikes after a step of a store.
    pub fn after_step(&self, rng: &mut Rng) -> FaultPlan {
        let disk: u64 = self.disk.iter().sum();
        let rates = [
            self.crash,
            self.stop,
            disk,
            self.pause,
            self.pressure,
            self.clock,
            self.compaction,
            self.stall,
        ];
        let mut point = rng.below(10_000);
        for (nth, rate) in rates.into_iter().enumerate() {
            if point < rate {
                return self.strike(nth, rng);
            }
            point -= rate;
        }
        FaultPlan::Nothing
    }

    fn strike(&self, nth: usize, rng: &mut Rng) -> FaultPlan {
        match nth {
            0 => FaultPlan::Crash,
            1 => FaultPlan::Stop,
            2 => FaultPlan::Disk(Fault {
                point: POINTS[rng.weighted(&self.disk)],
                after: rng.log_range(0..=8),
                kind: if rng.chance(self.full) {
                    FaultKind::NoSpace
                } else {
                    FaultKind::Io
                },
            }),
            3 => FaultPlan::Pause(rng.micros(10_000..=5_000_000)),
            4 => FaultPlan::Pressure(rng.micros(1_000..=300_000)),
            // Never back by so much that a row dropped by a compaction could still be alive.
            5 if rng.chance(300) => FaultPlan::Clock(-(rng.range(1..=900) as i64)),
            5 => FaultPlan::Clock(rng.log_range(1..=7_200) as i64),
            6 => FaultPlan::Compaction,
            _ => FaultPlan::Stall(Duration::from_micros(rng.log_range(1_000_000..=60_000_000))),
        }
    }

    /// A crash: how many of so many things that no sync covered it keeps. Only the end of the machine
    /// takes some along.
    pub fn keep<'a>(&self, rng: &'a mut Rng) -> impl FnMut(u64) -> u64 + 'a {
        let power = rng.chance(self.power);
        move |offered| match power {
            true => rng.below(offered + 1),
            false => offered,
        }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [append, sync, read, write, flush, ingest, files, reads, view] = self.disk;
        let named = [
            ("crash", self.crash),
            ("crash before sync", self.crash_before_sync),
            ("power", self.power),
            ("crash in start", self.crash_in_start),
            ("at snapshots", self.at_snapshots),
            ("cruelty", self.cruelty),
            ("away", self.away),
            ("stop", self.stop),
            ("append", append),
            ("sync", sync),
            ("read", read),
            ("state read", view),
            ("write", write),
            ("flush", flush),
            ("ingest", ingest),
            ("snapshot files", files),
            ("snapshot reads", reads),
            ("full", self.full),
            ("pause", self.pause),
            ("stall", self.stall),
            ("cleaned", self.cleaned),
            ("flip", self.flip),
            ("pressure", self.pressure),
            ("pd fails", self.pd_fails),
            ("pd late", self.pd_late),
            ("clock", self.clock),
            ("compaction", self.compaction),
        ];
        let mut first = true;
        for (name, rate) in named.into_iter().filter(|(_, rate)| *rate > 0) {
            let comma = if std::mem::take(&mut first) { "" } else { ", " };
            write!(f, "{comma}{name} {rate}")?;
        }
        if first { f.write_str("none") } else { Ok(()) }
    }
}
