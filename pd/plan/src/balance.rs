//! What the balancing planners have in common.

use std::collections::{BTreeMap, BTreeSet};

use rand_xoshiro::rand_core::Rng;

use crate::regions::Regions;
use crate::view::{Cluster, Region};

/// Regions of a store that are looked at before it is left alone, at least.
const TRIES_MIN: usize = 32;
/// Regions that are looked at in one plan before whatever is left is left, roughly: shared out among
/// the stores. A store with fewer is looked at as a whole.
const TRIES: usize = 16_384;

/// What balancing goes by.
#[derive(Clone, Copy, Debug)]
pub struct Balance<'a> {
    /// The stores, and the rules.
    pub cluster: &'a Cluster,
    /// The regions.
    pub regions: &'a Regions,
    /// Stores may differ by so many leaders, or by a twentieth of the average if that is more.
    pub leaders_apart: u64,
    /// Stores may differ by so much weight, or by a twentieth of the average if that is more.
    pub weight_apart: u64,
}

/// How many peers regions should have: one that has fewer or more is not moved but repaired.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    cluster: &'a Cluster,
    /// Of all regions, where one rule holds for all.
    all: Option<usize>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Self {
        let any = Region::default();
        let single = cluster.placement.single();
        let all = single.map(|_| cluster.voters_wanted(&any));
        Self { cluster, all }
    }

    /// `region` has them.
    pub(crate) fn is_right(&self, region: &Region) -> bool {
        let wanted = self.all;
        let wanted = wanted.unwrap_or_else(|| self.cluster.voters_wanted(region));
        region.peers.len() == wanted
    }
}

/// Stores in the order of some number.
#[derive(Debug)]
pub(crate) struct Scores {
    of: BTreeMap<u64, u64>,
    ordered: BTreeSet<(u64, u64)>,
    /// Those that can give; all of them can take.
    gives: BTreeSet<(u64, u64)>,
    mean: u64,
}

impl Scores {
    pub(crate) fn new(all: impl Iterator<Item = (u64, u64)>) -> Self {
        let of: BTreeMap<u64, u64> = all.collect();
        let sum: u128 = of.values().map(|score| u128::from(*score)).sum();
        let ordered: BTreeSet<_> = of.iter().map(|(store, score)| (*score, *store)).collect();
        Self {
            mean: (sum / of.len().max(1) as u128) as u64,
            gives: ordered.clone(),
            ordered,
            of,
        }
    }

    pub(crate) fn mean(&self) -> u64 {
        self.mean
    }

    pub(crate) fn of(&self, store: u64) -> Option<u64> {
        self.of.get(&store).copied()
    }

    /// Of those that give.
    pub(crate) fn highest(&self) -> Option<(u64, u64)> {
        self.gives.last().map(|(score, store)| (*store, *score))
    }

    pub(crate) fn lowest(&self) -> Option<(u64, u64)> {
        self.ordered.first().map(|(score, store)| (*store, *score))
    }

    /// Stores by rising score.
    pub(crate) fn rising(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ordered.iter().map(|(score, store)| (*store, *score))
    }

    pub(crate) fn set(&mut self, store: u64, score: u64) {
        let Some(held) = self.of.get_mut(&store) else {
            return;
        };
        let before = std::mem::replace(held, score);
        self.ordered.remove(&(before, store));
        self.ordered.insert((score, store));
        if self.gives.remove(&(before, store)) {
            self.gives.insert((score, store));
        }
    }

    /// `store` has nothing to give.
    pub(crate) fn drop(&mut self, store: u64) {
        if let Some(score) = self.of.get(&store) {
            self.gives.remove(&(*score, store));
        }
    }
}

/// Some of `all` that one of so many `stores` has, from a random one on; all of them if they are few.
pub(crate) fn pick(all: &[u32], stores: usize, rng: &mut impl Rng) -> impl Iterator<Item = u32> {
    let first = match all.len() {
        0 => 0,
        count => (rng.next_u64() % count as u64) as usize,
    };
    let (before, after) = all.split_at(first);
    let tries = (TRIES / stores.max(1)).max(TRIES_MIN);
    after.iter().chain(before).copied().take(tries)
}
