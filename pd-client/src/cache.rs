//! The region cache of a client: which region holds a key, who leads it, where its store is.
//!
//! Filled by what PD says and corrected by region errors (wire, section 7). Pure: the clients of
//! the simulator use it as well (contracts: C31).

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use flotilla_proto::kvrpcpb::Context;
use flotilla_proto::metapb::{Peer, Region, RegionEpoch, Store};

/// A region with the peer that is believed to lead it.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// As PD or a store described it. Keys are physical keys.
    pub region: Region,
    /// `None`: nobody is known to lead.
    pub leader: Option<Peer>,
}

impl Route {
    /// A route from what PD answers: a leader without an id or store is none.
    pub fn new(region: Region, leader: Option<Peer>) -> Self {
        Self {
            region,
            leader: leader.filter(|leader| leader.id != 0 && leader.store_id != 0),
        }
    }

    /// Its epoch; zero if it has none.
    pub fn epoch(&self) -> RegionEpoch {
        self.region.region_epoch.unwrap_or_default()
    }

    /// Whether `key`, a physical key, lies in the region.
    pub fn holds(&self, key: &[u8]) -> bool {
        self.region.start_key <= key && before_end(key, &self.region.end_key)
    }

    /// The routing fields of a request to `peer`, which is the leader or a replica that may answer.
    pub fn context(&self, peer: Peer) -> Context {
        Context {
            region_id: self.region.id,
            region_epoch: self.region.region_epoch,
            peer: Some(peer),
            ..Context::default()
        }
    }
}

/// What is cached.
///
/// Invariant: no two regions share a key; of two that would, the one with the newer version stays.
#[derive(Clone, Debug, Default)]
pub struct RegionCache {
    regions: BTreeMap<u64, Route>,
    starts: BTreeMap<Bytes, u64>,
    stores: BTreeMap<u64, Store>,
}

impl RegionCache {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// The region that holds `key`, a physical key.
    pub fn locate(&self, key: &[u8]) -> Option<&Route> {
        let range = (Bound::Unbounded, Bound::Included(key));
        let (_, id) = self.starts.range::<[u8], _>(range).next_back()?;
        self.by_id(*id).filter(|route| route.holds(key))
    }

    /// The region that holds the keys just below `end`, for scans downwards; an empty `end` is the
    /// end of the key space.
    pub fn locate_below(&self, end: &[u8]) -> Option<&Route> {
        let upper = if end.is_empty() {
            Bound::Unbounded
        } else {
            Bound::Excluded(end)
        };
        let range = (Bound::Unbounded, upper);
        let (_, id) = self.starts.range::<[u8], _>(range).next_back()?;
        let route = self.by_id(*id)?;
        let region_end = &route.region.end_key;
        let reaches = region_end.is_empty() || (!end.is_empty() && end <= region_end);
        reaches.then_some(route)
    }

    /// A region by id.
    pub fn by_id(&self, id: u64) -> Option<&Route> {
        self.regions.get(&id)
    }

    /// How many regions are cached.
    pub fn len(&self) -> usize {
        self.regions.len()
    }

    /// No region is cached.
    pub fn is_empty(&self) -> bool {
        self.regions.is_empty()
    }

    /// Caches a route, in place of the older ones it overlaps. `false`: it is older than what is
    /// cached of its region or its keys, or its range is empty, and is dropped.
    ///
    /// A route without a leader keeps the cached leader if that is still a member.
    pub fn insert(&mut self, mut route: Route) -> bool {
        let Region {
            id,
            ref start_key,
            ref end_key,
            ..
        } = route.region;
        let epoch = route.epoch();
        if !before_end(start_key, end_key) {
            return false;
        }
        if let Some(cached) = self.by_id(id) {
            let before = cached.epoch();
            if epoch.version < before.version || epoch.conf_ver < before.conf_ver {
                return false;
            }
            if route.leader.is_none() {
                let member = |leader: &Peer| route.region.peers.contains(leader);
                route.leader = cached.leader.filter(member);
            }
        }
        let overlapped = self.overlapping(start_key, end_key);
        let newer = |other: &u64| {
            *other != id
                && self
                    .by_id(*other)
                    .is_some_and(|other| other.epoch().version > epoch.version)
        };
        if overlapped.iter().any(newer) {
            return false;
        }
        for other in overlapped {
            self.invalidate(other);
        }
        self.invalidate(id);
        self.starts.insert(route.region.start_key.clone(), id);
        self.regions.insert(id, route);
        true
    }

    /// Forgets a region.
    pub fn invalidate(&mut self, id: u64) -> Option<Route> {
        let route = self.regions.remove(&id)?;
        self.starts.remove(&route.region.start_key);
        Some(route)
    }

    /// Corrects a region's leader. `false`: the region is not cached, or `leader` is none of its
    /// peers, so the cached region must be an old one.
    pub fn set_leader(&mut self, id: u64, leader: Peer) -> bool {
        let Some(route) = self.regions.get_mut(&id) else {
            return false;
        };
        let same = |peer: &&Peer| peer.id == leader.id && peer.store_id == leader.store_id;
        let Some(member) = route.region.peers.iter().find(same).copied() else {
            return false;
        };
        route.leader = Some(member);
        true
    }

    /// A store by id.
    pub fn store(&self, id: u64) -> Option<&Store> {
        self.stores.get(&id)
    }

    /// Caches a store.
    pub fn insert_store(&mut self, store: Store) {
        self.stores.insert(store.id, store);
    }

    /// Forgets a store.
    pub fn invalidate_store(&mut self, id: u64) -> Option<Store> {
        self.stores.remove(&id)
    }

    fn overlapping(&self, start: &[u8], end: &[u8]) -> Vec<u64> {
        let first = self
            .locate(start)
            .map_or(start, |route| &route.region.start_key);
        self.starts
            .range::<[u8], _>((Bound::Included(first), Bound::Unbounded))
            .take_while(|(region_start, _)| before_end(region_start, end))
            .map(|(_, id)| *id)
            .collect()
    }
}

/// Whether `key` lies before the exclusive end `end`; an empty end is beyond every key.
fn before_end(key: &[u8], end: &[u8]) -> bool {
    end.is_empty() || key < end
}
