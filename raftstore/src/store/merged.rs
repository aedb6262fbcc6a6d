//! Which regions have become a part of others, as far as this store knows.

use dashmap::DashMap;
use flotilla_proto::metapb::{Region, RegionEpoch};
use flotilla_proto::store::{Lineage, MergedRegion, RegionRecord};

use super::{Shared, born};
use crate::RequestError;
use crate::merge::is_beyond;
use crate::region::epoch;

/// Known to all machines: what was merged is decided where it is applied, and asked for where a peer of
/// such a region is heard of. A lineage is here before the state batch that speaks of it is written.
#[derive(Debug, Default)]
pub(crate) struct Merged {
    /// By the region that is gone.
    known: DashMap<u64, MergedRegion>,
    /// Of the regions that live here and have one.
    lineages: DashMap<u64, Lineage>,
    /// The epochs that regions had applied whose peers here have ended.
    ended: DashMap<u64, RegionEpoch>,
}

impl Merged {
    /// `region` has taken in what its lineage says.
    pub(crate) fn learn(&self, region: u64, lineage: &Lineage) {
        for entry in &lineage.merged {
            self.known.insert(entry.region_id, entry.clone());
        }
        self.lineages.insert(region, lineage.clone());
    }

    /// The peer of `region` ends here, with this much applied.
    pub(crate) fn ends(&self, region: &Region) {
        if let Some(epoch) = region.region_epoch {
            self.ended.insert(region.id, epoch);
        }
    }

    /// The peer of `region` that ended here last had applied what is beyond `named`, and all its merges
    /// since then are known.
    pub(crate) fn ended_beyond(&self, region: u64, named: RegionEpoch) -> bool {
        let ended = self.ended.get(&region).map(|epoch| *epoch);
        ended.is_some_and(|ended| is_beyond(ended, named))
            && self.forgotten(region) <= named.version
    }

    /// Somebody says that a region has gone into another.
    pub(crate) fn hear(&self, merged: &MergedRegion) {
        self.known.insert(merged.region_id, merged.clone());
    }

    /// Into what `region` has gone, if it has.
    pub(crate) fn fate(&self, region: u64) -> Option<MergedRegion> {
        self.known.get(&region).map(|entry| entry.clone())
    }

    /// What `region` has taken in.
    pub(crate) fn lineage(&self, region: u64) -> Option<Lineage> {
        self.lineages.get(&region).map(|lineage| lineage.clone())
    }

    /// Merges of `region` behind this version are all known, if it lives here.
    pub(crate) fn forgotten(&self, region: u64) -> u64 {
        let lineage = self.lineages.get(&region);
        lineage.map_or(0, |lineage| lineage.forgotten)
    }
}

impl Shared {
    /// The record of a child of a split that begins to live here.
    pub(crate) fn born(&self, child: Region) -> RegionRecord {
        let lineage = self.merged.lineage(child.id).map(Box::new);
        RegionRecord {
            lineage,
            ..born(child, self.store)
        }
    }

    /// `region` is a part of one that lives here, which remembers all merges since `region` had this
    /// version.
    pub(crate) fn is_part_here(&self, region: u64, version: u64) -> bool {
        let mut into = self.merged.fate(region).map(|merged| merged.into);
        // Chains are short, and a region goes away once.
        while let Some(id) = into {
            if self.delegates.serving(id).is_ok() {
                let lineage = self.merged.lineage(id).unwrap_or_default();
                let lists = |merged: &MergedRegion| merged.region_id == region;
                return lineage.merged.iter().any(lists) && lineage.forgotten <= version;
            }
            into = self.merged.fate(id).map(|merged| merged.into);
        }
        false
    }

    /// A peer of the target is here, or will be, that has yet to take the merged region in.
    pub(crate) fn awaits(&self, merged: &MergedRegion) -> bool {
        let MergedRegion {
            into,
            into_version,
            into_peers,
            ..
        } = merged;
        let own = into_peers.iter().find(|peer| peer.store_id == self.store);
        let Some(own) = own.filter(|own| self.seen.allows(*into, own.id)) else {
            return false;
        };
        match self.delegates.serving(*into) {
            Ok(serving) => {
                serving.peer.id <= own.id && epoch(&serving.region).version < *into_version
            }
            // One that is a part of a third region by now will not come any more.
            Err(RequestError::RegionNotFound { .. }) => self.merged.fate(*into).is_none(),
            Err(_) => true,
        }
    }
}
