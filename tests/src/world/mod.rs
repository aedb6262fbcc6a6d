//! The world of a seed: how large, how slow, how full, how broken. Each seed draws its own, so that
//! runs differ in kind and not only in order.

mod limits;
mod plants;
mod seats;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use flotilla_kv::KeyMode;
use flotilla_pd::{
    ADVERTISED_VERSION, FIRST_STORE, Genesis, MAX_PEER_COUNT, Schedule, bootstrap_records, records,
};
use flotilla_proto::clock::Wall;
use flotilla_proto::metapb::{Region, Store};
use flotilla_raftstore::Config;
use flotilla_raftstore::region::META_REGION;
use flotilla_raftstore::runtime::{ApplyLimits, RuntimeLimits};
use flotilla_router::Budget;

use crate::client::Workload;
use crate::faults::Faults;
use crate::net::NetRates;
use crate::rng::Rng;

pub use plants::{Plants, Service};
pub use seats::Seat;

/// How long one kind of step waits before it runs, once there is something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Swift,
    /// Up to a fifth of a millisecond.
    Short,
    /// Up to twenty milliseconds.
    Slow,
    /// Mostly short, and now and then up to half a second.
    Stalling,
}

impl Pace {
    const ALL: [Self; 4] = [Self::Swift, Self::Short, Self::Slow, Self::Stalling];

    /// The next wait.
    pub fn wait(self, rng: &mut Rng) -> Duration {
        match self {
            Self::Swift => Duration::ZERO,
            Self::Short => rng.micros(0..=200),
            Self::Slow => rng.micros(0..=20_000),
            Self::Stalling if rng.chance(20) => rng.micros(0..=500_000),
            Self::Stalling => rng.micros(0..=200),
        }
    }
}

/// The paces of a store's threads.
#[derive(Clone, Copy, Debug)]
pub struct Paces {
    /// The raft poller.
    pub raft: Pace,
    /// The apply poller.
    pub apply: Pace,
    /// Writes of the log.
    pub append: Pace,
    /// Syncs of the log.
    pub sync: Pace,
    /// Reads off the pollers.
    pub fetch: Pace,
    /// Flushes of the state.
    pub flush: Pace,
    /// Work on snapshots.
    pub snapshot: Pace,
    /// A request between its stages.
    pub serve: Pace,
}

/// Everything a seed decides before the run begins.
#[derive(Clone, Debug)]
pub struct World {
    /// The seed.
    pub seed: u64,
    /// Stores.
    pub stores: u64,
    /// Data regions at the start.
    pub regions: usize,
    /// Regions from which on nobody splits by request.
    pub regions_max: usize,
    /// The peers of the first regions, the meta region's before all.
    pub seats: Vec<Vec<Seat>>,
    /// How keys become physical keys.
    pub mode: KeyMode,
    /// The machines' configuration.
    pub config: Config,
    /// Bounds of queues.
    pub limits: RuntimeLimits,
    /// The raft poller's and the apply poller's rounds.
    pub budgets: [Budget; 2],
    /// When apply stops taking entries.
    pub apply_limits: ApplyLimits,
    /// Bytes in the memtables at which the state flushes by itself.
    pub auto_flush_bytes: Option<u64>,
    /// How fast the threads of each store run, from the first store on.
    pub paces: Vec<Paces>,
    /// How the network behaves.
    pub net: NetRates,
    /// Bytes of a chunk of a snapshot, at most.
    pub chunk_bytes: u64,
    /// How far the stores' clocks run apart: per thousand of their rate, at most.
    pub drift: u64,
    /// What clients do.
    pub workload: Workload,
    /// Somebody changes the members of regions.
    pub members: bool,
    /// What PD's own operators may do; in most worlds there are none.
    pub schedule: Schedule,
    /// One of them dies for good, at some time.
    pub loses_a_store: bool,
    /// Somebody splits, moves leaders, and meddles.
    pub operators: bool,
    /// They merge regions, too.
    pub merges: bool,
    /// What goes wrong, and how often.
    pub faults: Faults,
    /// Operations that clients hear the end of before the run settles.
    pub operations: u64,
    /// Attempts that they make at least.
    pub attempts_min: u64,
    /// Another course of the same world: what is drawn on the way differs.
    pub luck: u64,
    /// What was taken out of it, by name.
    pub left_out: Vec<String>,
    /// What was put in.
    pub put_in: Vec<String>,
    /// What is broken on purpose.
    pub plants: Plants,
}

/// Whether worlds draw merges at all; `FLOTILLA_SIM_WITH=merges` has them in all.
pub const MERGES: bool = false;

/// PD's answer to the time of day at the start of a run: seconds since the epoch.
pub const START_SECONDS: u64 = 1_700_000_000;

impl Paces {
    /// Elections and writes wait for one of these.
    fn are_slow(&self) -> bool {
        let slow = |pace: &Pace| matches!(pace, Pace::Slow | Pace::Stalling);
        [self.raft, self.append, self.sync].iter().any(slow)
    }

    fn swift() -> Self {
        Self {
            raft: Pace::Swift,
            apply: Pace::Swift,
            append: Pace::Swift,
            sync: Pace::Swift,
            fetch: Pace::Swift,
            flush: Pace::Swift,
            snapshot: Pace::Swift,
            serve: Pace::Swift,
        }
    }

    fn draw(rng: &mut Rng) -> Self {
        let mut pace = || *rng.pick(&Pace::ALL);
        Self {
            raft: pace(),
            apply: pace(),
            append: pace(),
            sync: pace(),
            fetch: pace(),
            flush: pace(),
            snapshot: pace(),
            serve: pace(),
        }
    }
}

impl World {
    /// The world of `seed`.
    pub fn draw(seed: u64) -> Self {
        let root = Rng::new(seed);
        let mut rng = root.fork("world");
        let mut config = limits::config(&mut rng);
        let mode = if rng.chance(250) {
            KeyMode::Encoded
        } else {
            KeyMode::Plain
        };
        let stores = [1, 2, 3, 4, 5, 7][rng.weighted(&[25, 10, 40, 9, 10, 6])];
        let common = Paces::draw(&mut rng);
        let own = |rng: &mut Rng| match rng.chance(250) {
            true => Paces::draw(rng),
            false => common,
        };
        let paces: Vec<Paces> = (0..stores).map(|_| own(&mut rng)).collect();
        // Where threads often take longer than an election, hardly anything else happens.
        let slow = paces.iter().any(Paces::are_slow);
        if stores > 1 && slow && rng.chance(800) {
            limits::slow_down(&mut config);
        }
        let limits = limits::runtime(&config, stores, &mut rng);
        let memtable_bytes = if rng.chance(300) {
            1 << 30
        } else {
            rng.log_range(1 << 10..=1 << 16)
        };
        let regions = rng.range(1..=4) as usize;
        let mut workload = Workload::draw(&config, mode, &mut root.fork("workload"));
        // A region has keys.
        workload.keys = workload.keys.max(regions);
        let members = stores > 1 && root.fork("members").chance(600);
        let schedule = limits::schedule(stores, &config, &mut root.fork("schedule"));
        let faults = Faults::draw(&mut root.fork("fault rates")).among(stores);
        Self {
            seed,
            stores,
            regions,
            regions_max: rng.log_range(4..=32) as usize,
            seats: seats::draw(stores, regions + 1, &mut root.fork("seats")),
            mode,
            limits,
            budgets: [limits::budget(&mut rng), limits::budget(&mut rng)],
            apply_limits: ApplyLimits {
                memtable_bytes_max: memtable_bytes * 2,
                level0_files_max: u64::MAX,
            },
            // Always: a state that never flushes by itself would stop at its limit for ever.
            auto_flush_bytes: Some(memtable_bytes),
            paces,
            net: NetRates::draw(&mut root.fork("net rates")),
            chunk_bytes: root.fork("chunks").log_range(16..=1 << 14),
            drift: *rng.pick(&[0, 10, 100, 100]),
            workload,
            members,
            // With one store less there are enough for the replicas of every region.
            loses_a_store: schedule.operators_max > 0
                && [4, 7].contains(&stores)
                && root.fork("losses").chance(600),
            schedule,
            operators: true,
            merges: MERGES && root.fork("merges").chance(600),
            faults,
            operations: rng.range(80..=400),
            attempts_min: 0,
            luck: 0,
            left_out: Vec::new(),
            put_in: Vec::new(),
            plants: Plants::default(),
            config,
        }
    }

    /// Puts something into the world that worlds do not have by themselves, by name.
    ///
    /// # Panics
    /// If there is nothing of that name.
    pub fn with(&mut self, name: &str) {
        let mut rng = Rng::new(self.seed).fork(name);
        match name {
            "balance" => self.schedule = limits::balance(self.schedule, &mut rng),
            "merges" => self.merges = true,
            other => panic!("nothing is called {other:?}"),
        }
        self.put_in.push(name.to_owned());
    }

    /// Takes something out of the world, by name: to find out what a failure needs.
    ///
    /// # Panics
    /// If there is nothing of that name.
    pub fn without(&mut self, name: &str) {
        let Self { net, faults, .. } = self;
        let perfect = NetRates::perfect();
        match name {
            "network" => *net = perfect,
            "delay" => (net.delay_min, net.delay_max) = (perfect.delay_min, perfect.delay_max),
            "late" => net.late = 0,
            "loss" => (net.loss, net.loss_single) = (0, 0),
            "duplicates" => net.duplicate = 0,
            "overtaking" => net.overtake = 0,
            "call-loss" => net.call_loss = 0,
            "partitions" => net.partition_every_ms = 0,
            "drift" => self.drift = 0,
            "learners" => {
                let seats = self.seats.iter_mut().flatten();
                seats.for_each(|seat| seat.learner = false);
            }
            "faults" => *faults = Faults::none(),
            "crashes" => {
                (faults.crash, faults.crash_before_sync) = (0, 0);
                faults.crash_in_start = 0;
            }
            "stops" => faults.stop = 0,
            "disk" => faults.disk = Default::default(),
            "at-snapshots" => faults.at_snapshots = 0,
            "away" => faults.away = 0,
            "cruelty" => faults.cruelty = 0,
            "pauses" => faults.pause = 0,
            "disk-stalls" => faults.stall = 0,
            "damage" => faults.flip = 0,
            "clean-ups" => faults.cleaned = 0,
            "rot" => faults.rot = false,
            "pressure" => faults.pressure = 0,
            "clock" => faults.clock = 0,
            "compaction" => faults.compaction = 0,
            "pd" => (faults.pd_fails, faults.pd_late) = (0, 0),
            "members" => self.members = false,
            "placement" => {
                self.schedule = self.schedule.repairs_only();
                (self.schedule.operators_max, self.loses_a_store) = (0, false);
            }
            "balance" => self.schedule = self.schedule.repairs_only(),
            "losses" => self.loses_a_store = false,
            "replica-reads" => self.workload.replica = 0,
            "operators" => self.operators = false,
            "merges" => self.merges = false,
            "stalls" => self.paces.fill(Paces::swift()),
            other => panic!("nothing is called {other:?}"),
        }
        self.left_out.push(name.to_owned());
    }

    /// The regions of a new cluster: the meta region, and data regions over the key space.
    pub fn first_regions(&self) -> Vec<Region> {
        let mut regions = vec![seats::region(META_REGION, b"", b"", &self.seats[0])];
        let mut start = Bytes::new();
        for nth in 1..=self.regions {
            let end = if nth == self.regions {
                Bytes::new()
            } else {
                let key = self.workload.keys * nth / self.regions;
                self.mode.physical(&self.workload.key(key))
            };
            let id = 2 * nth as u64 + 1;
            regions.push(seats::region(id, &start, &end, &self.seats[nth]));
            start = end;
        }
        regions
    }

    /// The paces of a store's threads.
    pub fn paces(&self, store: u64) -> &Paces {
        &self.paces[store as usize - 1]
    }

    /// The cluster's id.
    pub const CLUSTER: u64 = 7;

    /// Where a store can be reached.
    pub fn address(store: u64) -> String {
        format!("store-{store}:20160")
    }

    /// What a store says of itself.
    pub fn descriptor(store: u64) -> Store {
        Store {
            id: store,
            address: Self::address(store),
            version: ADVERTISED_VERSION.to_owned(),
            ..Store::default()
        }
    }

    /// PD's first rows: all stores have made themselves known.
    pub fn first_meta(&self) -> Vec<(Bytes, Bytes)> {
        let genesis = Genesis {
            cluster_id: Self::CLUSTER,
            store: Some(Self::descriptor(FIRST_STORE)),
            key_mode: Some(self.mode),
            max_peer_count: MAX_PEER_COUNT,
            created: Wall(START_SECONDS * 1_000),
        };
        let mut rows = bootstrap_records(&genesis).expect("a legal cluster");
        let others = (1..=self.stores).filter(|store| *store != FIRST_STORE);
        let others = others.map(|store| records::put_store(&Self::descriptor(store)));
        rows.extend(others.filter_map(|(key, row)| Some((key, row?))));
        rows.sort();
        rows
    }
}

/// One line that tells a world from others.
impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, .. } = self;
        let learners = self.seats.iter().flatten().filter(|seat| seat.learner);
        write!(
            f,
            "{} stores, {} regions, {} learners, {} keys of {:?}, {} clients, {} operations, values to {} B; entry {} B, merge {} B, \
             uncommitted {} B, backlog {} B, mailbox {}, cache {} B, split {} B or {} keys, replay {} B in pages of {} B, \
             memtables {} B, tick {:?}, lease {:?}; {} operators of PD{}{}; drift {}; network: {}; faults: {}; paces",
            self.stores,
            self.regions,
            learners.count(),
            self.workload.keys,
            self.mode,
            self.workload.clients,
            self.operations,
            self.workload.value_bytes_max,
            config.entry_bytes_max,
            config.merge_bytes_max,
            config.uncommitted_bytes_max,
            config.apply_backlog_bytes_max,
            self.limits.mailbox_inputs_max,
            config.entry_cache_bytes,
            config.split_bytes,
            config.split_keys,
            config.replay_bytes_max,
            config.replay_page_bytes,
            self.apply_limits.memtable_bytes_max,
            config.tick,
            config.lease,
            self.schedule.operators_max,
            if self.schedule.leader_moves_max > 0 {
                ", it evens out"
            } else {
                ""
            },
            if self.loses_a_store {
                ", a store is lost"
            } else {
                ""
            },
            self.drift,
            self.net,
            self.faults,
        )?;
        for (nth, paces) in self.paces.iter().enumerate() {
            let Paces {
                raft,
                apply,
                append,
                sync,
                ..
            } = paces;
            let comma = if nth == 0 { "" } else { "," };
            write!(f, "{comma} {raft:?}/{apply:?}/{append:?}/{sync:?}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_world_is_a_legal_configuration_and_seeds_differ() {
        let mut lines = Vec::new();
        for seed in 0..500 {
            let world = World::draw(seed);
            assert_eq!(world.config.validate(), Ok(()), "seed {seed}");
            assert_eq!(World::draw(seed).to_string(), world.to_string());
            assert_eq!(world.first_regions().len(), world.regions + 1);
            lines.push(world.to_string());
        }
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), 500);
    }
}
