//! A placement driver that only knows what it was told: ids that are never given twice, routes from
//! heartbeats. It may be slow, fail, or answer when nobody needs it any more.

use std::collections::BTreeMap;

use flotilla_pd_client::Route;
use flotilla_proto::metapb::{Peer, Region};
use flotilla_raftstore::effects::NewIds;
use flotilla_raftstore::region::{META_REGION, contains};

/// Ids below this are given to the first regions.
const FIRST_ID: u64 = 1000;
/// The first multiple of this is the id that is given twice, where one is.
const TWICE_EVERY: u64 = 16;

/// The state of PD, outside of every store.
#[derive(Debug)]
pub struct Pd {
    next_id: u64,
    regions: BTreeMap<u64, Region>,
    /// Who leads a region, as the leader of the newest term said, with that term.
    leaders: BTreeMap<u64, (u64, Peer)>,
    /// An id will be given twice: a planted bug.
    twice: bool,
}

impl Default for Pd {
    fn default() -> Self {
        Self {
            next_id: FIRST_ID,
            regions: BTreeMap::new(),
            leaders: BTreeMap::new(),
            twice: false,
        }
    }
}

impl Pd {
    /// From now on an id is given twice, once.
    pub fn give_twice(&mut self) {
        self.twice = true;
    }

    /// An id that was never given.
    pub fn id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += u64::from(!(self.twice && id.is_multiple_of(TWICE_EVERY)));
        self.twice &= !id.is_multiple_of(TWICE_EVERY);
        id
    }

    /// Ids for `count` new regions with a peer on each store of `parent`.
    pub fn new_ids(&mut self, parent: &Region, count: usize) -> Vec<NewIds> {
        let ids = (0..count).map(|_| NewIds {
            region: self.id(),
            peers: parent.peers.iter().map(|_| self.id()).collect(),
        });
        ids.collect()
    }

    /// A store tells of a region; older news than known is dropped.
    pub fn told(&mut self, region: &Region) {
        let version = |region: &Region| {
            region
                .region_epoch
                .map(|epoch| (epoch.version, epoch.conf_ver))
        };
        if self
            .regions
            .get(&region.id)
            .is_none_or(|known| version(known) <= version(region))
        {
            self.regions.insert(region.id, region.clone());
        }
    }

    /// A leader tells of itself; one of an older term is not believed.
    pub fn leads(&mut self, region: u64, leader: Peer, term: u64) {
        let known = self.leaders.entry(region).or_insert((term, leader));
        if known.0 <= term {
            *known = (term, leader);
        }
    }

    /// Where it sends a client that asks for `key`, a physical key: to the newest region that is
    /// known to hold it.
    pub fn locate(&self, key: &[u8]) -> Option<Route> {
        let holders = self
            .regions
            .values()
            .filter(|region| region.id != META_REGION && contains(region, key));
        let newest = holders.max_by_key(|region| region.region_epoch.map(|epoch| epoch.version))?;
        let leader = self.leaders.get(&newest.id).map(|(_, leader)| *leader);
        let leader = leader.or(newest.peers.first().copied());
        Some(Route::new(newest.clone(), leader))
    }

    /// What it knows of regions.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }
}
