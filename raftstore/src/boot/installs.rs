//! Snapshots whose install a crash has undone in whole or in part, and what is left of others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use flotilla_engine::{
    Cf, DATA_CFS, FlushReason, KeyRange, LogBatch, RaftLog, RegionLog, SnapshotFiles,
    SnapshotInstall, SnapshotKey, StateBatch, StateOp, StoredRegion, snapshot_cfs,
};
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{ApplyRecord, PeerState, RegionRecord, SnapshotManifest};

use super::{Replay, id_of};
use crate::apply::Apply;
use crate::effects::ApplyEffects;
use crate::region::{META_REGION, overlap};
use crate::snapshot_task::install;
use crate::{PROBE_TARGET, StartError};

/// An intent whose snapshot is not in the state.
pub(super) struct Open {
    pub(super) manifest: SnapshotManifest,
    peer: u64,
    /// What the state holds of the region; `None`: nothing yet.
    pub(super) stored: Option<StoredRegion>,
}

/// The intents that are not done, by region.
pub(super) fn open_intents(
    stored: &[StoredRegion],
    logs: &BTreeMap<u64, RegionLog>,
) -> BTreeMap<u64, Open> {
    let applied: BTreeMap<u64, u64> = stored
        .iter()
        .filter(|stored| stored.record.state() != PeerState::Tombstone)
        .map(|stored| {
            let applied = stored.applied.map_or(0, |applied| applied.index);
            (id_of(stored), applied)
        })
        .collect();
    let open = |(region, found): (&u64, &RegionLog)| {
        let intent = found.intent.as_ref()?;
        let manifest = intent.manifest.clone()?;
        let done = applied
            .get(region)
            .is_some_and(|applied| *applied >= manifest.index);
        let open = Open {
            manifest,
            peer: intent.peer_id,
            stored: None,
        };
        (!done).then_some((*region, open))
    };
    logs.iter().filter_map(open).collect()
}

/// The next one to be put in place: behind those of regions that have become a part of it, otherwise in
/// the order of the ids, so that a parent comes before its children.
pub(super) fn take_next(intents: &mut BTreeMap<u64, Open>) -> Option<(u64, Open)> {
    let waits = |open: &Open| {
        let mut merged = open.manifest.lineage.iter().flat_map(|it| &it.merged);
        merged.any(|merged| intents.contains_key(&merged.region_id))
    };
    let free = intents.iter().find(|(_, open)| !waits(open));
    let next = free.or_else(|| intents.first_key_value());
    let next = next.map(|(region, _)| *region)?;
    intents.remove_entry(&next)
}

impl<L: RaftLog, S: SnapshotInstall> Replay<'_, L, S> {
    /// Installs it again, then goes on with the log behind it; returns the children that this makes.
    /// Without intact files the replica is lost: its peer ends, and never votes again.
    pub(super) fn install(
        &mut self,
        region: u64,
        open: Open,
        logs: &BTreeMap<u64, RegionLog>,
        files: &impl SnapshotFiles,
    ) -> Result<Vec<StoredRegion>, StartError> {
        let Open {
            manifest,
            peer,
            stored,
        } = open;
        let blank = RegionRecord {
            region: Some(Region {
                id: region,
                ..Region::default()
            }),
            highest_peer_id: peer,
            ..RegionRecord::default()
        };
        let record = stored.as_ref().map_or(&blank, |stored| &stored.record);
        let applied = stored.as_ref().and_then(|stored| stored.applied);
        let applied = applied.unwrap_or(ApplyRecord { index: 0, term: 0 });
        let mut apply = Apply::new(Arc::clone(&self.shared), 0, record, applied);
        let mut effects = ApplyEffects::default();
        let key = SnapshotKey::incoming(&manifest);
        if !files.intact(&key, &manifest)? {
            tracing::trace!(target: PROBE_TARGET, "snapshot: the files of an intent are lost");
            tracing::error!(%key, "its files are not intact: this replica is lost, and its peer ends");
            apply.destroy(&mut effects);
            self.finish(&mut apply, effects)?;
            // What is installed next may lie in its range, and is durable at once (contracts: C7).
            self.state.flush_all(FlushReason::Admin)?;
            self.done.insert(region, apply);
            return Ok(Vec::new());
        }
        tracing::trace!(target: PROBE_TARGET, "snapshot: installed again at the start");
        let batch_bytes = self.shared.config.snapshot_batch_bytes;
        let ops = install(self.state, files, &key, &manifest, batch_bytes)?;
        let died = self.overlapped(&manifest);
        apply.install(Box::new(manifest), ops, died, &mut effects);
        self.finish(&mut apply, effects)?;
        let birth = RegionLog::default();
        let found = logs.get(&region).unwrap_or(&birth);
        self.forward(apply, found)
    }

    /// Regions here that had become a part of the one that the snapshot brings, and have its keys: they
    /// end with it.
    fn overlapped(&mut self, manifest: &SnapshotManifest) -> Vec<Region> {
        let region = manifest.region.clone().unwrap_or_default();
        let merged = manifest.lineage.iter().flat_map(|it| &it.merged);
        let mut died = Vec::new();
        for merged in merged {
            let id = merged.region_id;
            let ends = |apply: &Apply| !apply.ended() && overlap(apply.region(), &region);
            if self.done.get(&id).is_some_and(ends) {
                died.extend(self.done.remove(&id).map(|apply| apply.region().clone()));
            }
            died.extend(self.forget_waiting(id, &region));
        }
        self.died.extend(died.iter().cloned());
        died
    }
}

/// Intents that are done go, and then whatever files nobody needs; rows that are no region's, too.
pub(super) fn clean_up<S: SnapshotInstall>(
    log: &impl RaftLog,
    state: &S,
    files: &impl SnapshotFiles,
    logs: &BTreeMap<u64, RegionLog>,
    needed: &BTreeSet<SnapshotKey>,
    live: &[Region],
) -> Result<(), StartError> {
    let mut batch = LogBatch::default();
    for (region, found) in logs {
        let manifest = found
            .intent
            .as_ref()
            .and_then(|intent| intent.manifest.as_ref());
        let done = manifest.map(SnapshotKey::incoming);
        if done.is_some_and(|key| !needed.contains(&key)) {
            batch.clear_intent(*region);
        }
    }
    if !batch.is_empty() {
        log.append(&batch)?;
        log.sync()?;
    }
    for key in files.list()? {
        if !needed.contains(&key) {
            tracing::trace!(target: PROBE_TARGET, "snapshot: an orphan is removed at the start");
            files.discard(&key)?;
        }
    }
    delete_orphans(state, live)
}

/// Rows between the regions, and PD's where its region is not here: of peers that ended while a snapshot
/// was half in place.
fn delete_orphans<S: SnapshotInstall>(state: &S, live: &[Region]) -> Result<(), StartError> {
    let mut ranges: Vec<&Region> = live
        .iter()
        .filter(|region| region.id != META_REGION)
        .collect();
    ranges.sort_by(|one, other| one.start_key.cmp(&other.start_key));
    let mut ops = Vec::new();
    if !live.iter().any(|region| region.id == META_REGION) {
        let all = (Bytes::new(), Bytes::new());
        orphans(state, snapshot_cfs(META_REGION), all, &mut ops)?;
    }
    let mut from = Some(Bytes::new());
    for region in ranges {
        if let Some(start) = from.filter(|start| *start < region.start_key) {
            let range = (start, region.start_key.clone());
            orphans(state, &DATA_CFS, range, &mut ops)?;
        }
        from = (!region.end_key.is_empty()).then(|| region.end_key.clone());
    }
    if let Some(start) = from {
        orphans(state, &DATA_CFS, (start, Bytes::new()), &mut ops)?;
    }
    if !ops.is_empty() {
        tracing::trace!(target: PROBE_TARGET, "destroy: rows of no region are removed at the start");
        state.write(&StateBatch { ops, admin: false })?;
    }
    Ok(())
}

fn orphans<S: SnapshotInstall>(
    state: &S,
    families: &[Cf],
    (start, end): (Bytes, Bytes),
    ops: &mut Vec<StateOp>,
) -> Result<(), StartError> {
    for &cf in families {
        let mut found = false;
        let range = KeyRange {
            start: &start,
            end: &end,
        };
        state.scan(cf, range, false, &mut |_, _| {
            found = true;
            false
        })?;
        if found {
            ops.push(StateOp::DeleteRange {
                cf,
                start: start.clone(),
                end: end.clone(),
            });
        }
    }
    Ok(())
}
