//! A placement driver that only knows what it was told: ids that are never given twice, routes from
//! heartbeats. It may be slow, fail, or answer when nobody needs it any more.

use std::collections::BTreeMap;

use flotilla_proto::metapb::Region;
use flotilla_raftstore::effects::NewIds;

/// Ids below this are given to the first regions.
const FIRST_ID: u64 = 1000;

/// The state of PD, outside of every store.
#[derive(Debug)]
pub struct Pd {
    next_id: u64,
    regions: BTreeMap<u64, Region>,
}

impl Default for Pd {
    fn default() -> Self {
        Self {
            next_id: FIRST_ID,
            regions: BTreeMap::new(),
        }
    }
}

impl Pd {
    fn id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
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

    /// What it would answer a client that asks for regions.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.values()
    }
}
