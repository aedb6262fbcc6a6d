//! Spreading load: regions that are read or written much go to stores with less to do.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::PeerRole;
use rand_xoshiro::rand_core::Rng;

use crate::StoreState;
use crate::balance::{Balance, Wanted};
use crate::operator::{Kind, Operator, Reason, Step};
use crate::regions::{Flow, REGION_WEIGHT, Rate, Record};
use crate::replicas::replace;
use crate::view::{Health, Region};

/// A store is looked at whose load is so much above the average.
const ABOVE_MEAN: f64 = 1.2;
/// A store gets something if its load is so much lower, in parts of the average.
const APART: f64 = 0.2;
/// Averages below these are nothing to care about: bytes, keys and queries per second.
const IDLE: [f64; 3] = [64.0 * 1_024.0, 128.0, 128.0];
/// The hottest regions of a store that are looked at.
const REGIONS: usize = 32;
/// The least loaded stores that are asked whether they take a peer.
const TARGETS: usize = 16;

/// Bytes, keys and queries per second.
type Parts = [f64; 3];

/// The load of every store.
struct Loads {
    of: BTreeMap<u64, Parts>,
    /// Of all stores; 0 where too little happens.
    mean: Parts,
}

impl Loads {
    /// How far above the average a load is, where it is the farthest.
    fn score(&self, load: &Parts) -> f64 {
        let part = |nth: usize| match self.mean[nth] > 0.0 {
            true => load[nth] / self.mean[nth],
            false => 0.0,
        };
        (0..3).map(part).fold(0.0, f64::max)
    }

    /// The kind of load that gives a store its score.
    fn kind(&self, load: &Parts) -> usize {
        let part = |nth: &usize| match self.mean[*nth] > 0.0 {
            true => load[*nth] / self.mean[*nth],
            false => 0.0,
        };
        let better = |best: usize, nth: usize| if part(&nth) > part(&best) { nth } else { best };
        (0..3).reduce(better).unwrap_or(0)
    }
}

fn parts(rate: Rate) -> Parts {
    [rate.bytes, rate.keys, rate.queries].map(f64::from)
}

fn sum(a: &Parts, b: &Parts, sign: f64) -> Parts {
    std::array::from_fn(|nth| (a[nth] + sign * b[nth]).max(0.0))
}

/// What a region brings of what is looked at.
fn rate(flow: Flow, writes: bool) -> Rate {
    if writes { flow.written } else { flow.read }
}

/// What the other planners even out, and must find even afterwards: leaders, or weight.
struct Levels {
    of: BTreeMap<u64, u64>,
    apart: u64,
}

impl Levels {
    fn new(balance: &Balance<'_>, weight: bool) -> Self {
        let up = balance.cluster.stores.iter();
        let up = up.filter(|(_, store)| store.state == StoreState::Up);
        let of: BTreeMap<u64, u64> = up
            .map(|(id, store)| (*id, if weight { store.weight } else { store.leads }))
            .collect();
        let mean = of.values().sum::<u64>() / of.len().max(1) as u64;
        let apart = match weight {
            true => balance.weight_apart,
            false => balance.leaders_apart,
        };
        let apart = apart.max(mean / 20);
        Self { of, apart }
    }

    /// `part` may go from one store to another without a reason to bring it back: either all stores
    /// stay within what they may differ by, or the fuller of the two becomes less full, and the other
    /// less full than that one was.
    fn stay(&self, from: u64, to: u64, part: u64) -> bool {
        let (Some(gave), Some(got)) = (self.of.get(&from), self.of.get(&to)) else {
            return false;
        };
        let (less, more) = (gave.saturating_sub(part), got.saturating_add(part));
        let others = self.of.iter();
        let others = others.filter(|(store, _)| ![from, to].contains(*store));
        let others = || others.clone().map(|(_, level)| *level);
        let most = others().chain([less, more]).max().unwrap_or(0);
        let least = others().chain([less, more]).min().unwrap_or(0);
        most - least <= self.apart || more < *gave
    }

    fn shift(&mut self, from: u64, to: u64, part: u64) {
        if let Some(level) = self.of.get_mut(&from) {
            *level = level.saturating_sub(part);
        }
        if let Some(level) = self.of.get_mut(&to) {
            *level = level.saturating_add(part);
        }
    }
}

/// Up to `limit` operators, none of a region in `besides`, that spread what is written over peers
/// (`writes`) or what is read over leaders. Each lowers the higher of the two loads that it touches, and
/// leaves the store that gave with the higher one still: nothing comes back, and a region that is all
/// the load of its store stays there.
pub fn balance_hot(
    balance: &Balance<'_>,
    writes: bool,
    now: Mono,
    besides: &BTreeSet<u64>,
    limit: usize,
    rng: &mut impl Rng,
) -> Vec<Operator> {
    if limit == 0 {
        return Vec::new();
    }
    let (mut loads, hot) = look(balance, writes, now);
    let mut levels = Levels::new(balance, writes);
    let (mut plans, mut taken) = (Vec::new(), besides.clone());
    let mut stuck = BTreeSet::new();
    while plans.len() < limit {
        let open = loads.of.iter().filter(|(store, _)| !stuck.contains(*store));
        let scored = open.map(|(store, load)| (loads.score(load), *store));
        let highest = scored.reduce(|a, b| if b.0 > a.0 { b } else { a });
        let Some((score, from)) = highest.filter(|(score, _)| *score > ABOVE_MEAN) else {
            break;
        };
        let kind = loads.kind(&loads.of[&from]);
        let mut here: Vec<(u32, Parts)> = hot.get(&from).cloned().unwrap_or_default();
        here.retain(|(at, _)| !taken.contains(&balance.regions.record(*at).id));
        here.sort_by(|a, b| b.1[kind].total_cmp(&a.1[kind]).then(a.0.cmp(&b.0)));
        here.truncate(REGIONS);
        let found = here.iter().find_map(|(at, part)| {
            place(
                balance,
                writes,
                (&loads, &levels),
                (from, score),
                (*at, part),
                rng,
            )
        });
        let Some((region, part, to, steps)) = found else {
            stuck.insert(from);
            continue;
        };
        let reason = Reason::Hot {
            writes,
            from,
            load: loads.of[&from][kind] as u64,
            to,
            less: loads.of[&to][kind] as u64,
            part: part[kind] as u64,
        };
        let moved = match writes {
            true => region.size.saturating_add(REGION_WEIGHT),
            false => 1,
        };
        levels.shift(from, to, moved);
        taken.insert(region.id);
        plans.push(region.operator(Kind::Hot, reason, steps));
        let (less, more) = (
            sum(&loads.of[&from], &part, -1.0),
            sum(&loads.of[&to], &part, 1.0),
        );
        loads.of.insert(from, less);
        loads.of.insert(to, more);
    }
    plans
}

/// The load of each store that is up, and the regions that bring it.
fn look(
    balance: &Balance<'_>,
    writes: bool,
    now: Mono,
) -> (Loads, BTreeMap<u64, Vec<(u32, Parts)>>) {
    let stores = balance.cluster.stores.iter();
    let up = stores.filter(|(_, store)| store.state == StoreState::Up);
    let mut of: BTreeMap<u64, Parts> = up.map(|(id, _)| (*id, [0.0; 3])).collect();
    let mut hot: BTreeMap<u64, Vec<(u32, Parts)>> = BTreeMap::new();
    let regions = balance.regions;
    for (store, held) in regions.held().iter().map(|held| (held.store, held)) {
        let Some(load) = of.get_mut(&store) else {
            continue;
        };
        let list = if writes { &held.peers } else { &held.leaders };
        for at in list {
            let record: &Record = regions.record(*at);
            let part = rate(record.flow, writes);
            if part == Rate::default() {
                continue;
            }
            let part = parts(rate(record.flow(now), writes));
            *load = sum(load, &part, 1.0);
            hot.entry(store).or_default().push((*at, part));
        }
    }
    let count = of.len().max(1) as f64;
    let mean = of.values().fold([0.0; 3], |all, load| sum(&all, load, 1.0));
    let mean = mean.map(|part| part / count);
    let cared = |nth: usize| {
        if mean[nth] < IDLE[nth] {
            0.0
        } else {
            mean[nth]
        }
    };
    let mean = std::array::from_fn(cared);
    (Loads { of, mean }, hot)
}

type Placed = (Region, Parts, u64, Vec<Step>);

/// Where a region of `from` goes, if that lowers the maximum.
fn place(
    balance: &Balance<'_>,
    writes: bool,
    (loads, levels): (&Loads, &Levels),
    (from, score): (u64, f64),
    (at, part): (u32, &Parts),
    rng: &mut impl Rng,
) -> Option<Placed> {
    let cluster = balance.cluster;
    let record = balance.regions.record(at);
    if record.has_pending() || !record.is_plain() {
        return None;
    }
    let left = loads.score(&sum(&loads.of[&from], part, -1.0));
    if left >= score {
        return None;
    }
    let region = balance.regions.full(record);
    let fine = |peer| cluster.health(&region, peer) == Health::Fine;
    if region.leader.is_none() || !region.peers.iter().all(fine) {
        return None;
    }
    let then = |store: &u64| {
        let load = loads.of.get(store)?;
        Some(loads.score(&sum(load, part, 1.0)))
    };
    let lowers = |store: &u64| {
        let now = loads.of.get(store).map(|load| loads.score(load));
        now.is_some_and(|now| score - now > APART) && then(store).is_some_and(|then| then <= left)
    };
    let coldest = |stores: &mut dyn Iterator<Item = u64>| {
        let mut all: Vec<(f64, u64)> = stores.filter_map(|one| Some((then(&one)?, one))).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all
    };
    if !writes {
        // What is read follows the leader.
        let fit =
            |store: &u64| *store != from && lowers(store) && cluster.may_lead(&region, *store);
        let voters = region.with_role(PeerRole::Voter).map(|peer| peer.store_id);
        let next = coldest(&mut voters.filter(fit));
        let evens = |store: &u64| levels.stay(from, *store, 1);
        let to = next.into_iter().map(|(_, store)| store).find(evens)?;
        let steps = vec![Step::TransferLeader { store: to }];
        return Some((region, *part, to, steps));
    }
    if !Wanted::new(cluster).is_right(&region) {
        return None;
    }
    let others = &mut loads.of.keys().copied().filter(|store| lowers(store));
    let to = coldest(others)
        .into_iter()
        .take(TARGETS)
        .map(|(_, store)| store)
        .find(|to| {
            levels.stay(from, *to, record.weight()) && cluster.may_move(&region, from, *to)
        })?;
    let steps = replace(cluster, &region, (from, to), rng);
    Some((region, *part, to, steps))
}

/// A store's load, and its regions, the busiest first by bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct HotStore {
    /// The store.
    pub store: u64,
    /// All of it.
    pub total: Rate,
    /// By region.
    pub regions: Vec<(u64, Rate)>,
}

/// The load of every store that is up, with up to `most` of its regions.
pub fn hot_stores(balance: &Balance<'_>, writes: bool, now: Mono, most: usize) -> Vec<HotStore> {
    let (loads, mut hot) = look(balance, writes, now);
    let back = |part: Parts| {
        let [bytes, keys, queries] = part.map(|number| number as f32);
        Rate {
            bytes,
            keys,
            queries,
        }
    };
    let store = |(store, load): (&u64, &Parts)| {
        let mut here = hot.remove(store).unwrap_or_default();
        here.sort_by(|a, b| b.1[0].total_cmp(&a.1[0]).then(b.1[1].total_cmp(&a.1[1])));
        here.truncate(most);
        let named = here.into_iter();
        let named = named.map(|(at, part)| (balance.regions.record(at).id, back(part)));
        HotStore {
            store: *store,
            total: back(*load),
            regions: named.collect(),
        }
    };
    loads.of.iter().map(store).collect()
}
