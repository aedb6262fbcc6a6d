//! The last step of a snapshot's install: the region's records, in one state batch with the rows if
//! they are few (contracts: C6).

use flotilla_engine::{DATA_CFS, StateOp};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{PeerState, RegionRecord, SnapshotManifest};

use super::Apply;
use crate::effects::{ApplyEffects, ApplyReport, RegionChange};
use crate::planted::Planted;
use crate::region::{META_REGION, overlap, peer_on};

impl Apply {
    /// The region becomes what the snapshot says. `ops` brings its rows, unless they are there. The
    /// regions that `died` had become a part of it: their peers here end with the same batch.
    pub(crate) fn install(
        &mut self,
        manifest: Box<SnapshotManifest>,
        ops: Vec<StateOp>,
        died: Vec<Region>,
        effects: &mut ApplyEffects,
    ) {
        if self.ended {
            return;
        }
        let region = manifest.region.clone().unwrap_or_default();
        // Nobody else has been given the range that the region leaves behind.
        let left = left_behind(&self.region, &region);
        effects.batch.ops.extend(left);
        for died in &died {
            // What it had beyond the snapshot's range is nobody's here.
            effects.batch.ops.extend(left_behind(died, &region));
            self.end_overlapped(died, effects);
        }
        effects.batch.ops.extend(ops);
        if self.shared.plants(Planted::InstallKeepsOldRows) {
            let clears = |op: &StateOp| matches!(op, StateOp::DeleteRange { .. });
            effects.batch.ops.retain(|op| !clears(op));
        }
        self.become_installed(&manifest, effects);
        let mut report = self.report.take().unwrap_or_default();
        report.index = self.applied;
        report.term = self.term;
        report
            .changes
            .push(RegionChange::Installed { manifest, died });
        self.report = Some(report);
    }

    /// The region's record as the snapshot says; the applied index follows at the end of the round.
    fn become_installed(&mut self, manifest: &SnapshotManifest, effects: &mut ApplyEffects) {
        self.region = manifest.region.clone().unwrap_or_default();
        if let Some(own) = peer_on(&self.region, self.shared.store) {
            self.highest_peer_id = self.highest_peer_id.max(own.id);
        }
        self.applied = manifest.index;
        self.term = manifest.term;
        self.siblings.clear();
        self.merging = manifest.merging.clone();
        self.lineage = manifest.lineage.clone();
        if let Some(lineage) = &self.lineage {
            self.shared.merged.learn(self.region.id, lineage);
        }
        effects.batch.ops.push(StateOp::PutRegion {
            record: self.record(),
        });
        effects.batch.admin = true;
        self.report.get_or_insert_with(ApplyReport::default);
    }
}

impl Apply {
    /// The tombstone of a peer whose region had become a part of this one.
    fn end_overlapped(&self, died: &Region, effects: &mut ApplyEffects) {
        let peer = peer_on(died, self.shared.store).map_or(0, |peer| peer.id);
        self.shared.seen.ends(died.id, peer);
        effects.batch.ops.push(StateOp::PutRegion {
            record: RegionRecord {
                state: PeerState::Tombstone.into(),
                region: Some(died.clone()),
                highest_peer_id: peer,
                ..RegionRecord::default()
            },
        });
    }
}

/// Deletes what `before` had and `after` has not.
fn left_behind(before: &Region, after: &Region) -> Vec<StateOp> {
    if before.region_epoch.is_none() || before.id == META_REGION {
        return Vec::new();
    }
    let mut ranges = Vec::new();
    if !overlap(before, after) {
        ranges.push((before.start_key.clone(), before.end_key.clone()));
    } else {
        if before.start_key < after.start_key {
            ranges.push((before.start_key.clone(), after.start_key.clone()));
        }
        let ends_later = !after.end_key.is_empty()
            && (before.end_key.is_empty() || before.end_key > after.end_key);
        if ends_later {
            ranges.push((after.end_key.clone(), before.end_key.clone()));
        }
    }
    let deletion = |(start, end): (bytes::Bytes, bytes::Bytes)| {
        DATA_CFS.map(|cf| StateOp::DeleteRange {
            cf,
            start: start.clone(),
            end: end.clone(),
        })
    };
    ranges.into_iter().flat_map(deletion).collect()
}

#[cfg(test)]
mod tests {
    use flotilla_proto::metapb::RegionEpoch;

    use super::*;

    #[test]
    fn what_the_snapshot_does_not_cover_goes() {
        let region = |start: &'static str, end: &'static str| Region {
            id: 3,
            start_key: start.into(),
            end_key: end.into(),
            region_epoch: Some(RegionEpoch::default()),
            ..Region::default()
        };
        for (before, after, expected) in [
            (("b", "m"), ("b", "m"), &[][..]),
            (("b", "m"), ("d", "m"), &["b..d"]),
            (("b", "m"), ("b", "k"), &["k..m"]),
            (("", ""), ("d", "k"), &["..d", "k.."]),
            (("d", "k"), ("", ""), &[]),
            (("b", ""), ("b", "m"), &["m.."]),
            (("b", "d"), ("k", "m"), &["b..d"]),
            (("k", ""), ("b", "d"), &["k.."]),
        ] {
            let ops = left_behind(&region(before.0, before.1), &region(after.0, after.1));
            let shown: Vec<String> = ops
                .iter()
                .step_by(DATA_CFS.len())
                .map(|op| match op {
                    StateOp::DeleteRange { start, end, .. } => {
                        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
                        format!("{}..{}", text(start), text(end))
                    }
                    other => format!("{other:?}"),
                })
                .collect();
            assert_eq!(shown, expected, "{before:?} {after:?}");
        }
    }
}
