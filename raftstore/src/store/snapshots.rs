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
    /// When it was accepted.
    since: Mono,
    /// Its files are here, and its peer has been told.
    received: bool,
    /// The peer has written the intent.
    installing: bool,
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
        let region = manifest.region.unwrap_or_default();
        let reserved = Reserved {
            region,
            since: now,
            received: false,
            installing: false,
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
        if self.refuse_message(message).is_some() && !self.lives(id) {
            return Err("snapshot: refused, the peer may not be made here");
        }
        if self.reserved.contains_key(&id) {
            return Err("snapshot: refused, another one is on its way");
        }
        if self.reserved.len() >= SNAPSHOTS_AT_ONCE_MAX {
            return Err("snapshot: refused, too many at once");
        }
        let blind = self.shared.plants(Planted::OverlapUnchecked);
        if id != META_REGION && self.taken(region) && !blind {
            return Err("snapshot: refused, the range is taken");
        }
        tracing::debug!(
            region = id,
            bytes = snapshot_bytes(manifest),
            "a snapshot is accepted"
        );
        Ok(())
    }

    /// Another region lives, dies or is about to be installed in the range.
    fn taken(&self, region: &Region) -> bool {
        let live = self
            .ranges
            .values()
            .any(|live| live.id != region.id && overlap(live, region));
        let dying = self.dying.values().any(|dying| dying.overlaps(region));
        live || dying || self.reserved_for_other(region)
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
        let Some(reserved) = self.reserved.get_mut(&region) else {
            // Its peer has ended meanwhile.
            tracing::trace!(target: PROBE_TARGET, "snapshot: received for a peer that has ended");
            if let Some(manifest) = manifest_of(&message) {
                let key = SnapshotKey::incoming(&manifest);
                effects.snapshots.push(SnapshotTask::Discard { key });
            }
            return;
        };
        reserved.received = true;
        let input = PeerInput::Message(Box::new(message));
        effects.to_raft.push((region, RaftInput::Peer(input)));
    }

    /// It will not come, or nobody wants it.
    pub(super) fn on_unreserved(&mut self, region: u64) {
        let waiting = |reserved: &Reserved| !reserved.installing;
        if self.reserved.get(&region).is_some_and(waiting) {
            self.reserved.remove(&region);
        }
    }

    /// What was accepted and does not come is not waited for: its sender may have ended.
    pub(super) fn expire_reserved(&mut self, now: Mono) {
        let patience = self.shared.config.stale_check;
        self.reserved.retain(|_, reserved| {
            let waits = reserved.received || now - reserved.since < patience;
            if !waits {
                tracing::trace!(target: PROBE_TARGET, "snapshot: accepted and never received");
            }
            waits
        });
    }

    /// From here on the region is what the snapshot says, also after a crash.
    pub(super) fn on_installing(&mut self, now: Mono, region: Region) {
        let id = region.id;
        let reserved = Reserved {
            region,
            since: now,
            received: true,
            installing: true,
        };
        self.reserved.insert(id, reserved);
    }

    /// The old range is free, the new one is the region's.
    pub(super) fn on_installed(&mut self, region: Region) {
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
