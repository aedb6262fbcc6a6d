//! Applying the steps of a merge (contracts: C12, C21). Every replica decides alike: by the epochs.

use flotilla_engine::StateOp;
use flotilla_proto::metapb::Region;
use flotilla_proto::raft::Entry;
use flotilla_proto::store::{
    ApplyRecord, CommitMergeCommand, Merging, PeerState, PrepareMergeCommand, RegionRecord,
    RollbackMergeCommand,
};

use super::Apply;
use crate::effects::{ApplyEffects, ApplyReport, RegionChange};
use crate::merge::{lineage, may_merge, prepared, rolled_back, united};
use crate::planted::Planted;
use crate::region::peer_on;

/// Whether `target` takes in what `command` says; if so, what it is then.
pub(crate) fn takes_in(
    target: &Region,
    command: &CommitMergeCommand,
    blind: bool,
) -> Option<Region> {
    let source = command.source.as_ref()?;
    let named = blind || command.epoch == target.region_epoch;
    let fits = named && may_merge(source, target).is_ok();
    fits.then(|| united(target, source))
}

impl Apply {
    pub(super) fn apply_prepare_merge(
        &mut self,
        entry: &Entry,
        command: PrepareMergeCommand,
        report: &mut ApplyReport,
        effects: &mut ApplyEffects,
    ) {
        let index = entry.index;
        let target = command.target.unwrap_or_default();
        let current = command.epoch == self.region.region_epoch && self.merging.is_none();
        if !current || may_merge(&self.region, &target).is_err() {
            report.changes.push(RegionChange::MergeRefused { index });
            return;
        }
        self.region = prepared(&self.region);
        let merging = Merging {
            target: Some(target),
            min_index: command.min_index,
            commit: index,
        };
        self.merging = Some(Box::new(merging.clone()));
        self.siblings.clear();
        self.put_record(effects);
        report.changes.push(RegionChange::MergePrepared {
            region: self.region.clone(),
            merging: Box::new(merging),
        });
    }

    pub(super) fn apply_rollback_merge(
        &mut self,
        index: u64,
        command: &RollbackMergeCommand,
        report: &mut ApplyReport,
        effects: &mut ApplyEffects,
    ) {
        let ends = |merging: &Merging| merging.commit == command.commit;
        if !self.merging.as_deref().is_some_and(ends) {
            report.changes.push(RegionChange::MergeRefused { index });
            return;
        }
        self.merging = None;
        self.region = rolled_back(&self.region);
        self.put_record(effects);
        report.changes.push(RegionChange::MergeRolledBack {
            index,
            region: self.region.clone(),
        });
    }

    /// The source's peer here has applied all of its log up to the prepare-merge, and has stopped: what it
    /// leaves is what every other one leaves. Its tombstone and the new range are one batch (contracts:
    /// C12), and not a row is touched: they have another owner.
    pub(super) fn apply_commit_merge(
        &mut self,
        entry: &Entry,
        command: CommitMergeCommand,
        report: &mut ApplyReport,
        effects: &mut ApplyEffects,
    ) {
        let index = entry.index;
        let blind = self.shared.plants(Planted::MergeOfOldEpoch);
        let Some(region) = takes_in(&self.region, &command, blind) else {
            report.changes.push(RegionChange::MergeRefused { index });
            return;
        };
        let source = command.source.unwrap_or_default();
        let lineage = lineage(
            self.lineage.as_deref(),
            command.lineage.as_ref(),
            source.id,
            &region,
        );
        let peer = peer_on(&source, self.shared.store).map_or(0, |peer| peer.id);
        let known = command.entries.last();
        let known = known.map_or(ApplyRecord { index: 0, term: 0 }, |last| ApplyRecord {
            index: last.index,
            term: last.term,
        });
        // Before the batch, as every end of a peer.
        self.shared.seen.ends_knowing(source.id, peer, known);
        self.shared.merged.learn(region.id, &lineage);
        self.region = region;
        self.lineage = Some(Box::new(lineage));
        self.siblings.clear();
        if self.shared.plants(Planted::SourceDataDeleted) {
            effects
                .batch
                .ops
                .extend(super::destroy::deletion_of(&source));
        }
        let tombstone = StateOp::PutRegion {
            record: RegionRecord {
                state: PeerState::Tombstone.into(),
                region: Some(source.clone()),
                highest_peer_id: peer,
                ..RegionRecord::default()
            },
        };
        if !self.shared.plants(Planted::SourceStays) {
            effects.batch.ops.push(tombstone);
        }
        self.put_record(effects);
        report.changes.push(RegionChange::Merged {
            index,
            region: self.region.clone(),
            source,
        });
    }

    fn put_record(&self, effects: &mut ApplyEffects) {
        effects.batch.ops.push(StateOp::PutRegion {
            record: self.record(),
        });
        effects.batch.admin = true;
    }
}
