//! The end of a peer: its tombstone and the removal of its data are one state batch, so that a crash
//! takes back both or none (contracts: C7).

use flotilla_engine::{Cf, DATA_CFS, StateOp};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{ApplyRecord, PeerState, RegionRecord};

use super::Apply;
use crate::effects::{ApplyEffects, ApplyReport, RegionChange};
use crate::planted::Planted;
use crate::region::META_REGION;

impl Apply {
    /// The peer ends though no entry of its log says so.
    pub(crate) fn destroy(&mut self, effects: &mut ApplyEffects) {
        if self.ended {
            return;
        }
        let mut report = self.report.take().unwrap_or_else(|| ApplyReport {
            index: self.applied,
            term: self.term,
            ..ApplyReport::default()
        });
        let known = ApplyRecord {
            index: self.applied,
            term: self.term,
        };
        self.end(known, &mut report, effects);
        self.report = Some(report);
    }

    /// Writes the tombstone. What follows in the log is not for this peer; `known` is the last that is
    /// committed for certain.
    pub(super) fn end(
        &mut self,
        known: ApplyRecord,
        report: &mut ApplyReport,
        effects: &mut ApplyEffects,
    ) {
        let region = self.region.id;
        // Before the batch: a split that is applied meanwhile must not bring it back.
        let peer = self.highest_peer_id;
        self.shared.seen.ends_knowing(region, peer, known);
        self.ended = true;
        self.shared.merged.ends(&self.region);
        // A peer without an epoch never had data.
        if self.region.region_epoch.is_some() {
            effects.batch.ops.extend(deletion_of(&self.region));
        }
        let state = if self.shared.plants(Planted::NoTombstone) {
            PeerState::Normal
        } else {
            PeerState::Tombstone
        };
        effects.batch.ops.push(StateOp::PutRegion {
            record: RegionRecord {
                state: state.into(),
                region: Some(self.region.clone()),
                highest_peer_id: self.highest_peer_id,
                lineage: self.lineage.clone(),
                ..RegionRecord::default()
            },
        });
        // The applied index stays with the tombstone: others may have to be told of it.
        if known.index > self.applied {
            effects.batch.ops.push(StateOp::PutApplied {
                region,
                record: known,
            });
        }
        effects.batch.admin = true;
        report.changes.push(RegionChange::Removed);
    }
}

/// Deletes all rows of a region.
pub(super) fn deletion_of(region: &Region) -> Vec<StateOp> {
    let families = if region.id == META_REGION {
        &[Cf::CfMeta][..]
    } else {
        &DATA_CFS[..]
    };
    let deletion = |cf: &Cf| StateOp::DeleteRange {
        cf: *cf,
        start: region.start_key.clone(),
        end: region.end_key.clone(),
    };
    families.iter().map(deletion).collect()
}
