//! Regions: they tile the key space, and nothing that was shown of them is ever taken back.

use std::collections::BTreeMap;

use flotilla_engine::StateStore;
use flotilla_engine::memory::MemoryState;
use flotilla_proto::metapb::Region;
use flotilla_proto::store::PeerState;
use flotilla_raftstore::region::{META_REGION, overlap, peer_on};

use super::Oracle;
use crate::disk::WatchedState;
use crate::rules::Rule;

impl Oracle {
    /// The newest epochs of all regions that stores hold tile the key space.
    pub fn check_tiling<'a>(&mut self, states: impl Iterator<Item = &'a WatchedState>) {
        let mut newest: BTreeMap<u64, Region> = BTreeMap::new();
        for stored in states.flat_map(|state| state.regions().unwrap_or_default()) {
            let lives = stored.record.state() != PeerState::Tombstone;
            let Some(region) = stored
                .record
                .region
                .filter(|it| lives && it.id != META_REGION)
                .filter(|it| self.model.gone(it.id).is_none())
            else {
                continue;
            };
            let known = newest.entry(region.id).or_insert_with(|| region.clone());
            if version(known) < version(&region) {
                *known = region;
            }
        }
        let mut ranges: Vec<&Region> = newest.values().collect();
        ranges.sort_by(|one, other| one.start_key.cmp(&other.start_key));
        let gap = find_gap(ranges.into_iter());
        self.checks
            .check(Rule::RegionsTile, gap.is_none(), || gap.unwrap_or_default());
    }

    /// The regions that a state holds are those of its applied indexes, and they tile the key space: all
    /// of it where all regions have a peer.
    pub fn check_regions(&mut self, store: u64, state: &MemoryState) {
        let seen = &self.stores[&store];
        let expected: BTreeMap<u64, Region> = seen
            .applied
            .iter()
            .filter_map(|(id, index)| Some((*id, self.model.shape(*id, *index)?.clone())))
            .collect();
        let stored = state.regions().unwrap_or_default();
        let mut strangers = Vec::new();
        let mut found = BTreeMap::new();
        for stored in stored {
            let record = stored.record;
            let Some(region) = record
                .region
                .as_ref()
                .filter(|_| record.state() != PeerState::Tombstone)
            else {
                continue;
            };
            if peer_on(region, store).is_none_or(|own| own.id != record.highest_peer_id) {
                strangers.push(record.clone());
            }
            found.insert(region.id, region.clone());
        }
        self.checks
            .check(Rule::OneLivePeer, strangers.is_empty(), || {
                format!("store {store}: no peer of this store, or not its last: {strangers:?}")
            });
        self.checks.check(Rule::StateIsLog, found == expected, || {
            format!("store {store}: the state holds regions {found:?}, the log says {expected:?}")
        });
        let mut ranges: Vec<_> = found
            .values()
            .filter(|region| region.id != META_REGION)
            .collect();
        ranges.sort_by(|one, other| one.start_key.cmp(&other.start_key));
        if ranges.len() > 1 {
            let gap = find_overlap(&ranges);
            self.checks.check(Rule::RegionsTile, gap.is_none(), || {
                format!("store {store}: {}", gap.unwrap_or_default())
            });
        }
    }

    /// What a split has made is there, but for peers that have ended.
    pub fn check_children(&mut self, store: u64) {
        let seen = &self.stores[&store];
        let hole = self.model.hole(&seen.applied, |child, born| {
            seen.may_lack(store, child, born)
        });
        self.checks.check(Rule::StateIsLog, hole.is_none(), || {
            format!("store {store}: {}", hole.unwrap_or_default())
        });
    }

    /// What has become a part of another region is not there beside it.
    pub fn check_merged(&mut self, store: u64) {
        let seen = &self.stores[&store];
        let arrived = |region| seen.arrived.get(&region).copied().unwrap_or(0);
        let twice = self.model.twice(&seen.applied, arrived);
        self.checks.check(Rule::MergedOnce, twice.is_none(), || {
            format!("store {store}: {}", twice.unwrap_or_default())
        });
    }

    /// A peer id is used once, for one region on one store (faults: 16).
    pub fn check_peer_ids(&mut self, region: &Region) {
        for peer in &region.peers {
            let place = (region.id, peer.store_id);
            let first = *self.peers.entry(peer.id).or_insert(place);
            self.checks.check(Rule::PeerIdsUnique, first == place, || {
                format!(
                    "peer {} is of region {} on store {}, and was of region {} on store {}",
                    peer.id, place.0, place.1, first.0, first.1
                )
            });
        }
    }

    /// A descriptor leaves the store: in a report, an answer, a permit.
    pub fn show(&mut self, store: u64, region: &Region) {
        let known = self.model.knows(region);
        self.checks.check(Rule::TopologyStays, known, || {
            format!("store {store} shows {region:?}, which no committed entry has made")
        });
        let shown = &mut self.store(store).shown;
        let newer = shown
            .get(&region.id)
            .is_none_or(|before| version(before) < version(region));
        if newer {
            shown.insert(region.id, region.clone());
        }
    }

    /// After a start: every region that was ever shown is there, and not older, or has ended.
    pub fn check_topology(&mut self, store: u64, regions: &BTreeMap<u64, Region>) {
        let shown = self.stores[&store].shown.clone();
        for (id, before) in shown {
            let now = regions.get(&id);
            let ended = now.is_none() && self.stores[&store].tombstones.contains_key(&id);
            let stays = now.is_some_and(|now| version(now) >= version(&before));
            let stays = stays || ended;
            self.checks.check(Rule::TopologyStays, stays, || {
                format!("store {store} had shown {before:?}, after its start there is {now:?}")
            });
        }
    }

    /// After a start: everything whose commit was durable is applied.
    pub fn check_barrier(&mut self, store: u64) {
        let seen = &self.stores[&store];
        for region in seen.applied.keys() {
            let commit = seen
                .log
                .durable(*region)
                .map_or(0, |held| held.hard_state().commit);
            let applied = seen
                .applied
                .get(region)
                .copied()
                .unwrap_or(flotilla_engine::BIRTH.index);
            self.checks.check(Rule::ReplayBarrier, applied >= commit, || {
                format!("store {store} region {region} starts with {applied} applied, {commit} was durably committed")
            });
        }
    }
}

/// A region's epoch: its version, then its conf_ver.
pub(super) fn version(region: &Region) -> (u64, u64) {
    let epoch = region.region_epoch.unwrap_or_default();
    (epoch.version, epoch.conf_ver)
}

/// Two neighbours, of regions in key order, that do not meet.
fn find_gap<'a>(regions: impl Iterator<Item = &'a Region>) -> Option<String> {
    let mut end = Some(bytes::Bytes::new());
    for region in regions {
        if end.as_ref() != Some(&region.start_key) {
            return Some(format!(
                "region {} starts at {:?}, the one before ends at {end:?}",
                region.id, region.start_key
            ));
        }
        end = (!region.end_key.is_empty()).then(|| region.end_key.clone());
    }
    end.map(|end| format!("nothing covers the keys from {end:?} on"))
}

/// Two neighbours, of regions in key order, that share a key.
fn find_overlap(regions: &[&Region]) -> Option<String> {
    let pair = regions.windows(2).find(|pair| overlap(pair[0], pair[1]))?;
    Some(format!("{:?} and {:?} overlap", pair[0], pair[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_and_an_overlap_are_seen() {
        let region = |start: &'static str, end: &'static str| Region {
            start_key: start.into(),
            end_key: end.into(),
            ..Region::default()
        };
        let check = |regions: &[Region], tile: bool, apart: bool| {
            assert_eq!(find_gap(regions.iter()).is_none(), tile, "{regions:?}");
            let regions: Vec<&Region> = regions.iter().collect();
            assert_eq!(find_overlap(&regions).is_none(), apart, "{regions:?}");
        };
        check(&[region("", "")], true, true);
        check(&[region("", "m"), region("m", "")], true, true);
        check(&[region("", "k"), region("m", "")], false, true);
        check(&[region("", "n"), region("m", "")], false, false);
        check(&[region("", "m"), region("m", "z")], false, true);
        check(&[region("a", "")], false, true);
        check(&[], false, true);
    }
}
