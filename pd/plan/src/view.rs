//! What planners see: stores and regions, frozen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer, PeerRole, RegionEpoch};
use rand_xoshiro::rand_core::Rng;

use crate::placement::{Penalty, Placement};
use crate::regions::Flow;
use crate::rule::Rule;

/// The meta region has at most so many voters (design, section 11).
pub const META_VOTERS_MAX: usize = 5;

/// A store needs a fifth of its capacity free for one more peer, or this many bytes if that is less.
const ROOM_BYTES: u64 = 2 << 30;

/// What a store is to planners: what is registered of it, and when it was last heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StoreState {
    /// It reports.
    #[default]
    Up,
    /// It has not reported for a short while, or not to this PD yet: it keeps what it has, and gets
    /// nothing new.
    Disconnected,
    /// It has not reported for so long that its peers are replaced.
    Down,
    /// It is to be emptied.
    Offline,
    /// It is gone for ever.
    Tombstone,
}

impl StoreState {
    /// It counts as a place for replicas, now or when it comes back.
    pub fn stays(self) -> bool {
        matches!(self, Self::Up | Self::Disconnected | Self::Down)
    }
}

impl fmt::Display for StoreState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Disconnected => "disconnected",
            Self::Down => "down",
            Self::Offline => "offline",
            Self::Tombstone => "a tombstone",
        })
    }
}

/// A store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Store {
    /// See [`StoreState`].
    pub state: StoreState,
    /// Bytes its disk has; 0: it has not said.
    pub capacity: u64,
    /// Bytes of them that are free.
    pub available: u64,
    /// Peers it has, and those on their way to it.
    pub regions: u64,
    /// Regions it leads.
    pub leaders: u64,
    /// It takes part in as many moves or snapshots as it may already.
    pub busy: bool,
    /// No leader stays here or comes here.
    pub evicted: bool,
    /// That is because it is slow: its score, from 1 to 100; 0: it is not.
    pub slow: u64,
    /// Data regions it leads, and those that are about to be led there, or no more: what balancing
    /// goes by.
    pub leads: u64,
    /// What its data regions weigh ([`crate::Load::weight`]), and those on their way to it and from it.
    pub weight: u64,
    /// Where it is, and what it is made of.
    pub labels: BTreeMap<String, String>,
}

/// Why a store gets no new peer of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Nobody knows it.
    #[error("there is no such store")]
    Unknown,
    /// Its state forbids it.
    #[error("it is {0}")]
    State(StoreState),
    /// It has a peer already.
    #[error("it has a peer of the region already")]
    HasPeer,
    /// Too little is free on its disk.
    #[error("it is short of space: {available} of {capacity} bytes are free")]
    Space {
        /// Free bytes.
        available: u64,
        /// All bytes.
        capacity: u64,
    },
    /// See [`Store::busy`].
    #[error("it takes part in as many moves as it may; try again later")]
    Busy,
}

/// How many replicas there should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Voters of a data region, where there are stores enough.
    pub max_replicas: usize,
    /// A peer whose store has been silent for so long is replaced.
    pub max_store_down_time: Duration,
}

/// The stores, and the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// By id; tombstones may be left out.
    pub stores: BTreeMap<u64, Store>,
    /// See [`Rules`].
    pub rules: Rules,
    /// Where which peers belong.
    pub placement: Arc<Placement>,
}

/// A region as its leader reported it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Region {
    /// Its id.
    pub id: u64,
    /// It holds PD's own state: other numbers are right for it (contracts: C30).
    pub meta: bool,
    /// Its epoch.
    pub epoch: RegionEpoch,
    /// Its peers, on different stores.
    pub peers: Vec<Peer>,
    /// The store of its leader; without one nothing is planned.
    pub leader: Option<u64>,
    /// Ids of peers that are catching up.
    pub pending: BTreeSet<u64>,
    /// Ids of peers the leader does not hear, and for how long.
    pub down: BTreeMap<u64, Duration>,
    /// Bytes it holds, roughly.
    pub size: u64,
    /// It holds nothing by design: it is repaired, and neither balanced nor merged.
    pub fixed: bool,
    /// Its first key.
    pub start: Bytes,
    /// The key behind its last; empty: no end.
    pub end: Bytes,
    /// Keys it holds, roughly.
    pub keys: u64,
    /// What is read and written, on average.
    pub flow: Flow,
    /// When its range changed last, as far as PD has seen that.
    pub born: Mono,
}

/// How a peer does, from fine to hopeless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    Fine,
    /// Behind the others, and reachable.
    CatchingUp,
    /// Not heard of for a while.
    Silent,
    /// Fine, but its store is to be emptied.
    Leaving,
    /// Not heard of for too long.
    Down,
    /// Its store is gone for ever.
    Gone,
}

impl Health {
    /// It must be replaced.
    pub(crate) fn is_bad(self) -> bool {
        self >= Self::Leaving
    }
}

impl Region {
    /// The peer on `store`.
    pub fn on(&self, store: u64) -> Option<&Peer> {
        self.peers.iter().find(|peer| peer.store_id == store)
    }

    /// A change of its members is under way.
    pub fn is_joint(&self) -> bool {
        self.joint_changes() > 0
    }

    /// By how much `conf_ver` grows when the joint configuration is left.
    pub(crate) fn joint_changes(&self) -> u64 {
        let joint = |peer: &&Peer| {
            matches!(
                peer.role(),
                PeerRole::IncomingVoter | PeerRole::DemotingVoter
            )
        };
        self.peers.iter().filter(joint).count() as u64
    }

    pub(crate) fn with_role(&self, role: PeerRole) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(move |peer| peer.role() == role)
    }
}

impl Cluster {
    /// How many voters `region` should have. With fewer stores than replicas: the largest odd number
    /// of them, since one more voter would only make the group easier to stop.
    pub fn voters_wanted(&self, region: &Region) -> usize {
        let by_rules = || self.voters_by_rules(region);
        if let Some(wanted) = (!region.meta).then(by_rules).flatten() {
            return wanted;
        }
        let stays = |store: &&Store| store.state.stays();
        let stores = self.stores.values().filter(stays).count();
        self.rules.voters(region.meta, stores)
    }

    /// Whether `store` may get a new peer of `region`.
    ///
    /// # Errors
    /// Why not.
    pub fn takes_peer(&self, store: u64, region: &Region) -> Result<(), Unfit> {
        let Some(view) = self.stores.get(&store) else {
            return Err(Unfit::Unknown);
        };
        let (available, capacity) = (view.available, view.capacity);
        let room = (capacity / 5).min(ROOM_BYTES);
        match () {
            () if region.on(store).is_some() => Err(Unfit::HasPeer),
            () if view.state != StoreState::Up => Err(Unfit::State(view.state)),
            () if available < room.saturating_add(region.size) || capacity == 0 => {
                Err(Unfit::Space {
                    available,
                    capacity,
                })
            }
            () if view.busy => Err(Unfit::Busy),
            () => Ok(()),
        }
    }

    /// The store best fit for a new peer of `region` that stands for `rule`, others than `besides`:
    /// the one that is the farthest from the peers on `with`, and of those the one with the fewest.
    pub(crate) fn target(
        &self,
        region: &Region,
        rule: Option<&Rule>,
        (besides, with): (&[u64], &[u64]),
        rng: &mut impl Rng,
    ) -> Option<u64> {
        let takes = |store: &u64| rule.is_none_or(|rule| rule.takes(&self.stores[store]));
        let fit = |store: &u64| {
            !besides.contains(store) && self.takes_peer(*store, region).is_ok() && takes(store)
        };
        let fit = self.stores.keys().copied().filter(fit);
        let labels = rule.map_or(&[][..], |rule| &rule.location_labels);
        let apart = |store: u64| match labels {
            [] => Penalty::default(),
            labels => self.penalty(labels, &[with, &[store]].concat()),
        };
        least(
            fit,
            |store| (apart(*store), self.stores[store].regions),
            rng,
        )
    }

    /// The voter best fit to lead `region`, if any is; none of `besides`.
    pub(crate) fn next_leader(
        &self,
        region: &Region,
        besides: &[u64],
        rng: &mut impl Rng,
    ) -> Option<u64> {
        let voters = region.with_role(PeerRole::Voter);
        let fit = voters.filter(|peer| {
            let evicted = |store: &Store| store.evicted;
            !besides.contains(&peer.store_id)
                && self.health(region, peer) == Health::Fine
                && !self.stores.get(&peer.store_id).is_none_or(evicted)
        });
        let stores = fit.map(|peer| peer.store_id);
        // One that rules do not want rather than none: it hands over later.
        let unwanted = |store: &Store| !self.rules_let_lead(region, store);
        let order = |store: &u64| (unwanted(&self.stores[store]), self.stores[store].leaders);
        least(stores, order, rng)
    }

    pub(crate) fn health(&self, region: &Region, peer: &Peer) -> Health {
        let silent = region.down.get(&peer.id).copied();
        let lost = silent.is_some_and(|silent| silent >= self.rules.max_store_down_time);
        let state = self.stores.get(&peer.store_id).map(|store| store.state);
        match state {
            None | Some(StoreState::Tombstone) => Health::Gone,
            _ if lost => Health::Down,
            // That PD does not hear it is not enough: the region's leader may.
            Some(StoreState::Down) if silent.is_some() => Health::Down,
            Some(StoreState::Offline) => Health::Leaving,
            Some(StoreState::Down | StoreState::Disconnected) => Health::Silent,
            Some(StoreState::Up) if silent.is_some() => Health::Silent,
            Some(StoreState::Up) if region.pending.contains(&peer.id) => Health::CatchingUp,
            Some(StoreState::Up) => Health::Fine,
        }
    }
}

impl Rules {
    /// How many voters a region should have where `stores` stores stay.
    pub fn voters(&self, meta: bool, stores: usize) -> usize {
        let wanted = if meta {
            META_VOTERS_MAX
        } else {
            self.max_replicas
        };
        if stores >= wanted {
            wanted
        } else {
            largest_odd(stores)
        }
    }
}

/// The largest odd number up to `number`; at least 1.
pub(crate) fn largest_odd(number: usize) -> usize {
    if number % 2 == 1 {
        number
    } else {
        number.saturating_sub(1).max(1)
    }
}

/// One of those with the least weight.
fn least<W: Ord>(
    stores: impl Iterator<Item = u64>,
    weight: impl Fn(&u64) -> W,
    rng: &mut impl Rng,
) -> Option<u64> {
    let all: Vec<(W, u64)> = stores.map(|store| (weight(&store), store)).collect();
    let lightest = all.iter().map(|(weight, _)| weight).min()?;
    let best = all.iter().filter(|(weight, _)| weight == lightest);
    let best: Vec<u64> = best.map(|(_, store)| *store).collect();
    let nth = rng.next_u64() % best.len() as u64;
    best.get(nth as usize).copied()
}
