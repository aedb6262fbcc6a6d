//! Snapshots on their way to this store: checked and given room before the first byte comes, under
//! the one lock on the range map that this machine is (contracts: C35).

use flotilla_engine::{SnapshotKey, snapshot_bytes};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_proto::store::{PeerMessage, SnapshotManifest};
use prost::Message;

use super::Store;
use crate::effects::{Answer, PeerInput, RaftEffects, RaftInput};
use crate::planted::Planted;
use crate::region::{META_REGION, overlap, peer_on};
use crate::{PROBE_TARGET, RequestError, SnapshotTask};

/// Snapshots that are received or installed at once.
pub const SNAPSHOTS_AT_ONCE_MAX: usize = 8;

/// A range that is kept free for a snapshot.
#[derive(Debug)]
pub(super) struct Reserved {
    /// What the region will be.
    region: Region,
    /// The snapshot that was accepted; `None`: the peer has written its intent.
    waits: Option<SnapshotKey>,
}

impl Reserved {
    pub(super) fn into_region(self) -> Region {
        self.region
    }
}

impl Store {
    /// Refuses a snapshot that has no room here, and otherwise keeps the room for it.
    pub(super) fn on_offer(
        &mut self,
        now: Mono,
        message: PeerMessage,
        answer: Answer<()>,
        effects: &mut RaftEffects,
    ) {
        let offered = manifest_of(&message);
        let Some(manifest) = offered else {
            let reason = "a snapshot without a manifest";
            return answer.give(Err(RequestError::Busy { reason }));
        };
        if let Err(reason) = self.check_offer(&message, &manifest) {
            tracing::trace!(target: PROBE_TARGET, "{reason}");
            return answer.give(Err(RequestError::Busy { reason }));
        }
        let reserved = Reserved {
            waits: Some(SnapshotKey::incoming(&manifest)),
            region: manifest.region.unwrap_or_default(),
        };
        self.reserved.insert(message.region_id, reserved);
        if !self.blank.contains_key(&message.region_id) && !self.lives(message.region_id) {
            self.make_blank(now, &message, effects);
        }
        answer.give(Ok(()));
    }

    fn check_offer(
        &self,
        message: &PeerMessage,
        manifest: &SnapshotManifest,
    ) -> Result<(), &'static str> {
        let id = message.region_id;
        let region = manifest.region.as_ref().filter(|region| region.id == id);
        let Some(region) = region else {
            return Err("snapshot: refused, it is of another region");
        };
        let own = peer_on(region, self.shared.store).map(|peer| peer.id);
        if own.is_none() || own != message.to_peer.map(|to| to.id) {
            return Err("snapshot: refused, it does not name the peer here");
        }
        // Where a blank peer makes room for a child nobody would take what was received.
        let starts = self.replaced.contains_key(&id) || self.inherits(id);
        if starts || (self.refuse_message(message).is_some() && !self.lives(id)) {
            return Err("snapshot: refused, the peer may not be made here");
        }
        if self.reserved.contains_key(&id) {
            return Err("snapshot: refused, another one is on its way");
        }
        if self.reserved.len() >= SNAPSHOTS_AT_ONCE_MAX {
            return Err("snapshot: refused, too many at once");
        }
        let blind = self.shared.plants(Planted::OverlapUnchecked);
        if id != META_REGION && self.taken(region, manifest) && !blind {
            return Err("snapshot: refused, the range is taken");
        }
        tracing::debug!(
            region = id,
            bytes = snapshot_bytes(manifest),
            "a snapshot is accepted"
        );
        Ok(())
    }

    /// Another region lives, dies or is about to be installed in the range: but for those that have become a
    /// part of this one, and end with the snapshot.
    fn taken(&self, region: &Region, manifest: &SnapshotManifest) -> bool {
        let live = self.ranges.values();
        let live = live.filter(|live| live.id != region.id && overlap(live, region));
        let live = live
            .into_iter()
            .any(|live| !self.ends_with(live.id, region.id, manifest));
        let dying = self.dying.values().any(|dying| dying.overlaps(region));
        live || dying || self.reserved_for_other(region)
    }

    /// The region `id` became a part of the one that the snapshot brings, and no peer of a third one is here
    /// that would have to take it in first (contracts: C35).
    fn ends_with(&self, id: u64, installed: u64, manifest: &SnapshotManifest) -> bool {
        if self.shared.plants(Planted::OverlapWithoutLineage) {
            return true;
        }
        let mut merged = manifest.lineage.iter().flat_map(|it| &it.merged);
        let Some(merged) = merged.find(|merged| merged.region_id == id) else {
            return false;
        };
        merged.into == installed
            || !self.shared.awaits(merged)
            || self.ends_with(merged.into, installed, manifest)
    }

    /// A snapshot of another region has the range.
    pub(super) fn reserved_for_other(&self, region: &Region) -> bool {
        self.reserved.iter().any(|(id, reserved)| {
            *id != region.id && *id != META_REGION && overlap(&reserved.region, region)
        })
    }

    /// It is whole: raft decides whether it is still wanted.
    pub(super) fn on_received(&mut self, message: PeerMessage, effects: &mut RaftEffects) {
        let region = message.region_id;
        let key = manifest_of(&message).map(|manifest| SnapshotKey::incoming(&manifest));
        let waits = |reserved: &Reserved| reserved.waits == key;
        if !self.reserved.get(&region).is_some_and(waits) {
            // Its peer has ended meanwhile.
            tracing::trace!(target: PROBE_TARGET, "snapshot: received for a peer that has ended");
            let refuse = |key| SnapshotTask::Refuse { key };
            return effects.snapshots.extend(key.map(refuse));
        }
        let input = PeerInput::Message(Box::new(message));
        effects.to_raft.push((region, RaftInput::Peer(input)));
    }

    /// It will not come, or nobody wants it. Files that are left would be in the way of the next one, so
    /// the range waits for them; the region may have made room for a later one of a later peer.
    pub(super) fn on_unused(&mut self, key: SnapshotKey, gone: bool) {
        if !gone {
            tracing::trace!(target: PROBE_TARGET, "snapshot: files of one that is not wanted stay");
            self.unwanted.push(key);
            return;
        }
        let waits = |reserved: &Reserved| reserved.waits == Some(key);
        if self.reserved.get(&key.region).is_some_and(waits) {
            self.reserved.remove(&key.region);
        }
    }

    /// With a tick: files that could not be removed are tried again.
    pub(super) fn refuse_again(&mut self, effects: &mut RaftEffects) {
        let refuse = |key| SnapshotTask::Refuse { key };
        effects
            .snapshots
            .extend(self.unwanted.drain(..).map(refuse));
    }

    /// From here on the region is what the snapshot says, also after a crash.
    pub(super) fn on_installing(&mut self, region: Region) {
        let id = region.id;
        let waits = None;
        self.reserved.insert(id, Reserved { region, waits });
    }

    /// The old range is free, the new one is the region's.
    pub(super) fn on_installed(
        &mut self,
        region: Region,
        died: Vec<Region>,
        cut: u64,
        effects: &mut RaftEffects,
    ) {
        for died in died {
            self.on_absorbed(died, cut, effects);
        }
        self.reserved.remove(&region.id);
        self.blank.remove(&region.id);
        if region.id == META_REGION {
            self.meta = Some(region);
            return;
        }
        self.ranges.retain(|_, live| live.id != region.id);
        let taken = self.overlapping(&region);
        assert!(
            taken.is_none(),
            "region {} overlaps {taken:?} after a snapshot",
            region.id
        );
        self.ranges.insert(region.start_key.clone(), region);
    }
}

/// The manifest that a snapshot message carries.
pub fn manifest_of(message: &PeerMessage) -> Option<SnapshotManifest> {
    let snapshot = message.message.as_ref()?.snapshot.as_ref()?;
    SnapshotManifest::decode(snapshot.manifest.clone()).ok()
}
