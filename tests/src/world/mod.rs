//! The world of a seed: how large, how slow, how full, how broken. Each seed draws its own, so that
//! runs differ in kind and not only in order.

mod limits;

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use flotilla_kv::KeyMode;
use flotilla_proto::metapb::{Peer, Region, RegionEpoch};
use flotilla_raftstore::Config;
use flotilla_raftstore::region::META_REGION;
use flotilla_raftstore::runtime::{ApplyLimits, RuntimeLimits};
use flotilla_router::Budget;

use crate::client::Workload;
use crate::faults::Faults;
use crate::rng::Rng;

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
    /// How fast threads run.
    pub paces: Paces,
    /// What clients do.
    pub workload: Workload,
    /// What goes wrong, and how often.
    pub faults: Faults,
    /// Operations that clients begin before the run settles.
    pub operations: u64,
}

/// PD's answer to the time of day at the start of a run: seconds since the epoch.
pub const START_SECONDS: u64 = 1_700_000_000;

impl World {
    /// The world of `seed`.
    pub fn draw(seed: u64) -> Self {
        let root = Rng::new(seed);
        let mut rng = root.fork("world");
        let config = limits::config(&mut rng);
        let mode = if rng.chance(250) {
            KeyMode::Encoded
        } else {
            KeyMode::Plain
        };
        let pace = |rng: &mut Rng| *rng.pick(&Pace::ALL);
        let paces = Paces {
            raft: pace(&mut rng),
            apply: pace(&mut rng),
            append: pace(&mut rng),
            sync: pace(&mut rng),
            fetch: pace(&mut rng),
            flush: pace(&mut rng),
            serve: pace(&mut rng),
        };
        let limits = limits::runtime(&config, &mut rng);
        let memtable_bytes = if rng.chance(300) {
            1 << 30
        } else {
            rng.log_range(1 << 10..=1 << 16)
        };
        Self {
            seed,
            stores: 1,
            regions: rng.range(1..=4) as usize,
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
            workload: Workload::draw(&config, mode, &mut root.fork("workload")),
            faults: Faults::draw(&mut root.fork("fault rates")),
            operations: rng.range(80..=400),
            config,
        }
    }

    /// The regions of a new cluster: the meta region, and data regions over the key space.
    pub fn first_regions(&self) -> Vec<Region> {
        let mut regions = vec![region(META_REGION, b"", b"")];
        let mut start = Bytes::new();
        for nth in 1..=self.regions {
            let end = if nth == self.regions {
                Bytes::new()
            } else {
                let key = self.workload.keys * nth / self.regions;
                self.mode.physical(&self.workload.key(key))
            };
            regions.push(region(2 * nth as u64 + 1, &start, &end));
            start = end;
        }
        regions
    }

    /// PD's first record.
    pub fn first_meta(&self) -> Vec<(Bytes, Bytes)> {
        vec![(
            Bytes::from_static(b"cluster"),
            Bytes::from_static(b"simulated"),
        )]
    }
}

fn region(id: u64, start: &[u8], end: &[u8]) -> Region {
    let peer = Peer {
        id: id + 1,
        store_id: 1,
        ..Peer::default()
    };
    Region {
        id,
        start_key: Bytes::copy_from_slice(start),
        end_key: Bytes::copy_from_slice(end),
        region_epoch: Some(RegionEpoch {
            conf_ver: 1,
            version: 1,
        }),
        peers: vec![peer],
        ..Region::default()
    }
}

/// One line that tells a world from others.
impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config, paces, .. } = self;
        write!(
            f,
            "{} store, {} regions, {} keys of {:?}, {} clients, {} operations, values to {} B; entry {} B, merge {} B, \
             uncommitted {} B, backlog {} B, mailbox {}, cache {} B, split {} B or {} keys, replay {} B in pages of {} B, \
             memtables {} B; raft {:?}, apply {:?}, append {:?}, sync {:?}, flush {:?}; faults: {}",
            self.stores,
            self.regions,
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
            paces.raft,
            paces.apply,
            paces.append,
            paces.sync,
            paces.flush,
            self.faults,
        )
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
