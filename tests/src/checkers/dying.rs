//! A peer that has ended is *dying* until its tombstone survives a crash. So long nobody takes its
//! place (contracts: C7).

use flotilla_engine::RegionWrite;
use flotilla_proto::metapb::Region;
use flotilla_proto::store::RegionRecord;
use flotilla_raftstore::region::{META_REGION, overlap};

use super::{Oracle, StoreSeen};
use crate::rules::Rule;

/// A peer whose tombstone a crash would take back.
#[derive(Clone, Debug)]
pub struct Dying {
    /// The highest peer of the region so far.
    peer: u64,
    /// What it was; without an epoch it had no range.
    region: Region,
}

impl StoreSeen {
    /// A tombstone is written.
    pub(super) fn begins_to_die(&mut self, record: &RegionRecord, merged: bool) {
        let Some(mut region) = record.region.clone() else {
            return;
        };
        if merged {
            // Its range has another owner.
            region.region_epoch = None;
        }
        let peer = record.highest_peer_id;
        self.dying.insert(region.id, Dying { peer, region });
    }

    /// Tombstones that survive a crash by now are for good.
    pub(super) fn are_buried(&mut self) {
        let buried = &self.buried;
        let dies = |id: &u64, dying: &mut Dying| buried.get(id).is_none_or(|it| *it < dying.peer);
        self.dying.retain(dies);
    }

    /// The dying peer in whose range `region` lies.
    fn dies_within(&self, region: &Region) -> Option<&Dying> {
        let has_range = |region: &Region| region.region_epoch.is_some() && region.id != META_REGION;
        self.dying.values().find(|dying| {
            has_range(&dying.region)
                && has_range(region)
                && dying.region.id != region.id
                && overlap(&dying.region, region)
        })
    }
}

impl Oracle {
    /// A region lives in the state of `store`: born, changed, or brought by a snapshot.
    pub(super) fn check_lives_apart(&mut self, store: u64, region: &Region) {
        let seen = self.stores.entry(store).or_default();
        if seen.dying.is_empty() {
            return;
        }
        let alone = !seen.dying.contains_key(&region.id) && seen.dies_within(region).is_none();
        self.checks.check(Rule::DyingStaysAlone, alone, || {
            let dying = &seen.dying;
            format!("store {store}: {region:?} lives while these die: {dying:?}")
        });
    }

    /// Something is written to the log of `region`: a later peer of it, or a snapshot.
    pub fn check_log_apart(&mut self, store: u64, region: u64, write: &RegionWrite) {
        let seen = self.stores.entry(store).or_default();
        if seen.dying.is_empty() {
            return;
        }
        let peers = write.record.iter().map(|record| record.peer_id);
        let ended = seen.dying.get(&region);
        // What a slow log still had to write of the dying one is its own.
        let mut alone = peers
            .into_iter()
            .all(|peer| ended.is_none_or(|it| peer <= it.peer));
        if let Some(Some(intent)) = &write.intent {
            let manifest = intent.manifest.as_ref();
            let comes = manifest.and_then(|manifest| manifest.region.as_ref());
            alone &= comes.is_none_or(|region| seen.dies_within(region).is_none());
        }
        self.checks.check(Rule::DyingStaysAlone, alone, || {
            let dying = &seen.dying;
            let record = &write.record;
            format!(
                "store {store} region {region}: {record:?} is written while these die: {dying:?}"
            )
        });
    }
}
