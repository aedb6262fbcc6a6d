//! Catching up by state instead of by log: sending snapshots, and being replaced by one.
//!
//! What is received becomes part of the log first: an intent, in one synced batch with the new
//! truncation point (contracts: C6). Then the rows are put in place off the pollers, then the apply
//! half writes the region's records; what was committed meanwhile waits for that.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_engine::{EngineError, SnapshotError, SnapshotKey, StateOp};
use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Region, RegionEpoch};
use flotilla_proto::raft::{MessageKind, Snapshot, SnapshotMeta};
use flotilla_proto::store::{PeerMessage, SnapshotIntent, SnapshotManifest, TruncationRecord};
use prost::Message;

use super::Peer;
use crate::effects::{
    ApplyInput, PeerInput, RaftEffects, RaftInput, RegionSize, Release, StoreInput,
};
use crate::events::Happened;
use crate::planted::Planted;
use crate::region::{conf_state, overlap, peer_on};
use crate::runtime::StoreFatal;
use crate::store::manifest_of;
use crate::{PROBE_TARGET, STORE_ADDRESS, Serving, SnapshotTask};

/// What this peer has to do with snapshots.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    /// Being put in place here.
    install: Option<Install>,
    /// In place, with an intent that a crash may still need: the index, and the files.
    intent: Option<(u64, SnapshotKey)>,
    /// Files that a later intent has replaced, once the Ready of that number is durable.
    replaced: Option<(u64, SnapshotKey)>,
    /// Files whose intent goes: they follow when its removal is durable.
    clearing: Vec<SnapshotKey>,
    /// Received, and not to be taken in before a crash cannot undo the splits of the log that it replaces.
    waiting: Option<Box<PeerMessage>>,
    /// Received and handed to the raft group, which may have no use for it.
    offered: Option<SnapshotKey>,
    /// A build is under way.
    building: bool,
    /// The last build failed: another is tried with the next tick.
    failed: bool,
    /// Built here, to send.
    built: Option<Built>,
    /// Built before it; messages with them may still be on their way.
    outdated: Vec<SnapshotKey>,
    /// Messages with any of these that nobody has reported on.
    sending: u32,
    /// Committed behind the snapshot that is being put in place.
    held: Vec<ApplyInput>,
}

/// A snapshot to send.
#[derive(Debug)]
struct Built {
    key: SnapshotKey,
    /// The region's epoch as the snapshot has it.
    epoch: Option<RegionEpoch>,
    /// When it was asked for last.
    used: Mono,
    /// Sends that have failed in a row.
    failures: u32,
}

/// After so many failed sends in a row another snapshot is built: it may be this one's fault.
const SENDS_FAILED_MAX: u32 = 3;

/// A snapshot between its intent and the end of its install.
#[derive(Debug)]
struct Install {
    manifest: Box<SnapshotManifest>,
    /// The Ready that carries its intent.
    number: u64,
    /// Handed to apply before it.
    after: u64,
    /// Regions that became a part of this one and whose peers here have yet to stop, by their peers ...
    awaits: BTreeMap<u64, u64>,
    /// ... and those that have: they end with the install.
    died: Vec<Region>,
    durable: bool,
    under_way: bool,
    /// The rows are in place, and the apply half has been told: what follows is its next input.
    given: bool,
}

impl Snapshots {
    /// Those of a peer whose start has installed one again.
    pub(super) fn opened(intent: Option<(u64, SnapshotKey)>) -> Self {
        Self {
            intent,
            ..Self::default()
        }
    }

    /// Files that stay behind where the peer ends; not those that are on their way to others.
    pub(super) fn files(&self) -> Vec<SnapshotKey> {
        let install = self.install.as_ref();
        let install = install.map(|install| SnapshotKey::incoming(&install.manifest));
        let held = [&self.intent, &self.replaced].into_iter().flatten();
        let clearing = self.clearing.iter().copied();
        let incoming = held.map(|(_, key)| *key).chain(install).chain(clearing);
        let built = self.built.as_ref().map(|built| built.key);
        let outgoing = built.into_iter().chain(self.outdated.iter().copied());
        incoming
            .chain(outgoing.filter(|_| self.sending == 0))
            .collect()
    }

    /// The region is neither what it was nor what it will be: nothing is read or hashed here.
    pub(super) fn installing(&self) -> bool {
        self.install.is_some()
    }

    /// One was received, and a crash could still undo the splits that it replaces.
    pub(super) fn waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// One to send is being built.
    pub(super) fn building(&self) -> bool {
        self.building
    }

    /// Messages with one are on their way.
    pub(super) fn sending(&self) -> bool {
        self.sending > 0
    }
}

impl Peer {
    // ---- sending ----

    /// Followers need one that the log view does not have.
    pub(super) fn want_snapshot(&mut self, effects: &mut RaftEffects) {
        if self.snapshots.building {
            return;
        }
        self.snapshots.building = true;
        self.forget_built(effects);
        effects.snapshots.push(SnapshotTask::Build {
            region: self.region.id,
            life: self.life,
        });
    }

    pub(super) fn on_snapshot_built(
        &mut self,
        now: Mono,
        result: Result<(SnapshotKey, SnapshotManifest), Arc<SnapshotError>>,
        effects: &mut RaftEffects,
    ) {
        self.snapshots.building = false;
        let (key, manifest) = match result {
            Ok(built) => built,
            // No other try reads what has rotten, and who cannot show its rows must not lead for long.
            Err(error) if matches!(&*error, SnapshotError::Engine(EngineError::Corrupt { .. })) => {
                effects.fatal = Some(StoreFatal::Snapshot(error));
                return;
            }
            Err(error) => {
                tracing::warn!(
                    region = self.region.id,
                    %error,
                    "a snapshot could not be built"
                );
                self.snapshots.failed = true;
                // Files of an earlier one that could not be thrown away, unless somebody sends them.
                if let SnapshotError::Exists { key } = &*error
                    && !self.snapshots.outdated.contains(key)
                {
                    tracing::trace!(target: PROBE_TARGET, "snapshot: files of an earlier one are in the way");
                    effects.snapshots.push(SnapshotTask::Discard { key: *key });
                }
                return;
            }
        };
        let still_of_use = self.is_leader() && key.index >= self.raft.log().span().first;
        let Some(region) = manifest.region.as_ref().filter(|_| still_of_use) else {
            tracing::trace!(target: PROBE_TARGET, "snapshot: built too late");
            self.snapshots.failed = true;
            return effects.snapshots.push(SnapshotTask::Discard { key });
        };
        self.snapshots.built = Some(Built {
            key,
            epoch: region.region_epoch,
            used: now,
            failures: 0,
        });
        let meta = SnapshotMeta {
            index: manifest.index,
            term: manifest.term,
            conf: Some(conf_state(region)),
        };
        let snapshot = Snapshot {
            meta: Some(meta),
            manifest: manifest.encode_to_vec().into(),
        };
        self.raft.log_mut().set_snapshot(Some(snapshot));
        self.raft.snapshot_ready(now);
    }

    /// The transport is through with one of its messages.
    pub(super) fn on_snapshot_sent(
        &mut self,
        now: Mono,
        peer: u64,
        ok: bool,
        effects: &mut RaftEffects,
    ) {
        self.raft.report_snapshot(peer, ok);
        self.happened(Happened::SnapshotSent { peer, taken: ok }, effects);
        self.snapshots.sending = self.snapshots.sending.saturating_sub(1);
        if let Some(built) = &mut self.snapshots.built {
            built.used = now;
            built.failures = if ok { 0 } else { built.failures + 1 };
            // The receiver may refuse it because of what has changed since.
            let outdated = !ok && built.epoch != self.region.region_epoch;
            if outdated || built.failures >= SENDS_FAILED_MAX {
                return self.forget_built(effects);
            }
        }
        self.discard_outdated(effects);
    }

    /// A message with the snapshot leaves.
    pub(super) fn count_snapshot(&mut self, kind: MessageKind) {
        if kind == MessageKind::Snapshot {
            self.snapshots.sending += 1;
        }
    }

    /// The one at hand is of no more use; its files go when nobody sends them any more.
    pub(super) fn forget_built(&mut self, effects: &mut RaftEffects) {
        self.raft.log_mut().set_snapshot(None);
        let built = self.snapshots.built.take().map(|built| built.key);
        self.snapshots.outdated.extend(built);
        self.discard_outdated(effects);
    }

    fn discard_outdated(&mut self, effects: &mut RaftEffects) {
        if self.snapshots.sending == 0 {
            let outdated = self.snapshots.outdated.drain(..);
            let discard = |key| SnapshotTask::Discard { key };
            effects.snapshots.extend(outdated.map(discard));
        }
    }

    /// With a tick: another build where one failed; what nobody has asked for in long goes.
    pub(super) fn tick_snapshots(&mut self, now: Mono, effects: &mut RaftEffects) {
        let unused = self.shared.config.stale_check;
        let old = |built: &Built| now - built.used >= unused;
        if self.snapshots.sending == 0 && self.snapshots.built.as_ref().is_some_and(old) {
            self.forget_built(effects);
        }
        if std::mem::take(&mut self.snapshots.failed) {
            self.raft.snapshot_ready(now);
        }
        self.stop_overlapped(effects);
        self.start_install(effects);
    }

    // ---- receiving ----

    /// A snapshot takes the place of a log that may be all that remembers a split: without it a crash that
    /// takes back the state takes back the children, too. So it waits until none is undurable
    /// (contracts: C5), and asks for a flush.
    pub(super) fn hold_snapshot(
        &mut self,
        message: PeerMessage,
        effects: &mut RaftEffects,
    ) -> Option<PeerMessage> {
        let kind = message.message.as_ref().map(|inner| inner.kind());
        if kind != Some(MessageKind::Snapshot) || self.splits_are_durable() {
            return Some(message);
        }
        tracing::trace!(target: PROBE_TARGET, "snapshot: waits until a split is durable");
        self.drop_waiting(effects);
        self.snapshots.waiting = Some(Box::new(message));
        effects.flush = true;
        None
    }

    /// The snapshot that waits, if it need not wait any more.
    pub(super) fn take_waiting(&mut self, effects: &mut RaftEffects) -> Option<PeerMessage> {
        let due = self.splits_are_durable();
        effects.flush |= self.snapshots.waiting.is_some() && !due;
        self.snapshots.waiting.take_if(|_| due).map(|it| *it)
    }

    /// A crash of the state takes back no split, whatever becomes of the log.
    fn splits_are_durable(&self) -> bool {
        let durable = self.unsettled.is_empty() && self.split_at <= self.durable_applied;
        durable || self.shared.plants(Planted::SnapshotOverSplit)
    }

    /// The snapshot that waits will not be taken in.
    pub(super) fn drop_waiting(&mut self, effects: &mut RaftEffects) {
        if let Some(waiting) = self.snapshots.waiting.take() {
            self.drop_snapshot(&waiting, effects);
        }
    }

    /// A message is not looked at: where it brings a snapshot, that is not wanted.
    pub(super) fn drop_snapshot(&mut self, message: &PeerMessage, effects: &mut RaftEffects) {
        if let Some(manifest) = manifest_of(message) {
            self.snapshots.offered = Some(SnapshotKey::incoming(&manifest));
            self.drop_offered(effects);
        }
    }

    /// Whether a snapshot message makes sense for this peer. The raft group takes it in or not; the
    /// end of the round tells.
    pub(super) fn accepts_snapshot(
        &mut self,
        message: &PeerMessage,
        effects: &mut RaftEffects,
    ) -> bool {
        let kind = message.message.as_ref().map(|inner| inner.kind());
        if kind != Some(MessageKind::Snapshot) {
            return true;
        }
        let meta = message
            .message
            .as_ref()
            .and_then(|inner| inner.snapshot.as_ref()?.meta.as_ref());
        let manifest = manifest_of(message);
        let (Some(manifest), Some(meta)) = (manifest, meta) else {
            return false;
        };
        let key = SnapshotKey::incoming(&manifest);
        let fits = (manifest.index, manifest.term) == (meta.index, meta.term)
            && manifest.region.as_ref().is_some_and(|region| {
                region.id == self.region.id
                    && peer_on(region, self.shared.store).is_some_and(|own| own.id == self.meta.id)
                    && meta.conf.as_ref() == Some(&conf_state(region))
            });
        self.snapshots.offered = Some(key);
        if !fits || self.snapshots.installing() {
            self.drop_offered(effects);
            return false;
        }
        true
    }

    /// The raft group had no use for what was received. Its range is free when its files are gone.
    pub(super) fn drop_offered(&mut self, effects: &mut RaftEffects) {
        if let Some(key) = self.snapshots.offered.take() {
            tracing::trace!(target: PROBE_TARGET, "snapshot: received and not wanted any more");
            if !self.shared.plants(Planted::UnwantedFilesStay) {
                effects.snapshots.push(SnapshotTask::Refuse { key });
            }
        }
    }

    /// The raft group has put the snapshot in the place of its log: so does the batch on the disk.
    pub(super) fn on_restored(
        &mut self,
        number: u64,
        snapshot: &Snapshot,
        effects: &mut RaftEffects,
    ) {
        let manifest = SnapshotManifest::decode(snapshot.manifest.clone());
        let manifest = manifest.expect("checked when it was received");
        let region = manifest.region.clone().unwrap_or_default();
        let id = region.id;
        self.snapshots.offered = None;
        // No read that is under way counts, and none begins.
        self.delegate.outdate();
        self.delegate.publish(Serving::default());
        self.proposals.overtaken(manifest.index);
        let held = self.raft.log_mut().take_restored_over();
        effects.log.0.clear(id, held);
        let point = TruncationRecord {
            index: manifest.index,
            term: manifest.term,
        };
        effects.log.0.truncate(id, point, manifest.index + 1);
        let overlapped = self.overlapped(&manifest);
        let intent = SnapshotIntent {
            peer_id: self.meta.id,
            manifest: Some(manifest.clone()),
            overlapped: overlapped.iter().map(|it| it.region.clone()).collect(),
        };
        effects.log.0.set_intent(id, intent);
        let installing = RaftInput::Store(StoreInput::Installing { region });
        effects.to_raft.push((STORE_ADDRESS, installing));
        if let Some((_, key)) = self.snapshots.intent.take() {
            if self.shared.plants(Planted::FilesGoneBeforeIntent) {
                effects.snapshots.push(SnapshotTask::Discard { key });
            }
            self.snapshots.replaced = Some((number, key));
        }
        let awaits = overlapped.iter().map(|it| (it.region.id, it.peer.id));
        let awaits = awaits.collect();
        self.snapshots.install = Some(Install {
            manifest: Box::new(manifest),
            number,
            after: self.handed,
            awaits,
            died: Vec::new(),
            durable: false,
            under_way: false,
            given: false,
        });
        self.stop_overlapped(effects);
    }

    /// Regions here that became a part of the one that the snapshot brings, and have its keys.
    fn overlapped(&self, manifest: &SnapshotManifest) -> Vec<Arc<Serving>> {
        let region = manifest.region.clone().unwrap_or_default();
        let merged = manifest.lineage.iter().flat_map(|it| &it.merged);
        let here = merged.filter_map(|merged| {
            let serving = self.shared.delegates.serving(merged.region_id).ok()?;
            overlap(&serving.region, &region).then_some(serving)
        });
        here.collect()
    }

    /// Their peers are told to stop, until they have: rows of theirs must not come on top of the
    /// snapshot's.
    fn stop_overlapped(&mut self, effects: &mut RaftEffects) {
        let into = self.region.id;
        let Some(install) = &mut self.snapshots.install else {
            return;
        };
        // One that has ended meanwhile is not waited for.
        let seen = &self.shared.seen;
        install
            .awaits
            .retain(|region, peer| seen.allows(*region, *peer));
        for (region, peer) in &install.awaits {
            tracing::trace!(target: PROBE_TARGET, "merge: a snapshot stops a region that it has taken in");
            let stop = PeerInput::Stop {
                peer: *peer,
                into,
                commit: 0,
                entries: Vec::new(),
            };
            effects.to_raft.push((*region, RaftInput::Peer(stop)));
        }
    }

    /// The peer of such a region has stopped. `false`: nobody waits for it here.
    pub(super) fn install_awaits(&mut self, region: &Region, effects: &mut RaftEffects) -> bool {
        let Some(install) = &mut self.snapshots.install else {
            return false;
        };
        if install.awaits.remove(&region.id).is_none() {
            return false;
        }
        install.died.push(region.clone());
        self.start_install(effects);
        true
    }

    /// The peer ends before its snapshot is in place: whoever has stopped for it ends, too.
    pub(super) fn drop_awaited(&mut self, effects: &mut RaftEffects) {
        let Some(install) = &mut self.snapshots.install else {
            return;
        };
        if install.given {
            return;
        }
        let awaited = std::mem::take(&mut install.awaits).into_keys();
        let died = std::mem::take(&mut install.died).into_iter();
        for region in awaited.chain(died.map(|region| region.id)) {
            let doomed = RaftInput::Peer(PeerInput::Doomed);
            effects.to_raft.push((region, doomed));
        }
    }

    /// Readys up to `number` are durable.
    pub(super) fn on_persisted_install(&mut self, number: u64, effects: &mut RaftEffects) {
        if let Some((_, key)) = self
            .snapshots
            .replaced
            .take_if(|(since, _)| *since <= number)
        {
            effects.snapshots.push(SnapshotTask::Discard { key });
        }
        if let Some(install) = &mut self.snapshots.install {
            install.durable |= install.number <= number;
        }
        self.start_install(effects);
    }

    /// Rows go in place once the intent is durable and all that was handed to apply before is
    /// written: it would come on top of them.
    pub(super) fn start_install(&mut self, effects: &mut RaftEffects) {
        let applied = self.raft.applied_index();
        let (region, life) = (self.region.id, self.life);
        let Some(install) = &mut self.snapshots.install else {
            return;
        };
        let begun = install.under_way || install.given;
        let awaits = !install.awaits.is_empty();
        if !install.durable || begun || awaits || applied < install.after {
            return;
        }
        install.under_way = true;
        effects.snapshots.push(SnapshotTask::Install {
            region,
            life,
            manifest: install.manifest.clone(),
            batch_bytes: self.shared.config.snapshot_batch_bytes,
        });
    }

    pub(super) fn on_ingested(
        &mut self,
        key: SnapshotKey,
        ops: Vec<StateOp>,
        effects: &mut RaftEffects,
    ) {
        let Some(install) = &mut self.snapshots.install else {
            return;
        };
        assert_eq!(
            key,
            SnapshotKey::incoming(&install.manifest),
            "one at a time"
        );
        install.under_way = false;
        let region = self.region.id;
        if self.ending {
            // It was told to end while the rows were on their way.
            return effects.to_apply.push((region, ApplyInput::Destroy));
        }
        install.given = true;
        let manifest = install.manifest.clone();
        let died = std::mem::take(&mut install.died);
        self.handed = manifest.index;
        let input = ApplyInput::Install {
            manifest,
            ops,
            died,
        };
        effects.to_apply.push((region, input));
        let held = std::mem::take(&mut self.snapshots.held);
        for input in held {
            if let ApplyInput::Committed(committed) = &input
                && let Some(last) = committed.last()
            {
                self.handed = last.entry.index;
            }
            effects.to_apply.push((region, input));
        }
    }

    pub(super) fn on_ingest_failed(
        &mut self,
        error: Arc<SnapshotError>,
        effects: &mut RaftEffects,
    ) {
        effects.fatal = Some(StoreFatal::Snapshot(error));
    }

    /// Whether rows are being put in place at this moment: nothing may take them away meanwhile.
    pub(super) fn is_ingesting(&self) -> bool {
        let install = self.snapshots.install.as_ref();
        install.is_some_and(|install| install.under_way)
    }

    /// To the apply half, behind the snapshot that is being put in place.
    pub(super) fn give_to_apply(&mut self, input: ApplyInput, effects: &mut RaftEffects) {
        match &self.snapshots.install {
            // Handed out before the snapshot took over, or after it.
            Some(install)
                if self.handed > install.manifest.index
                    && !install.given
                    && !self.shared.plants(Planted::InstallBehindCommitted) =>
            {
                tracing::trace!(target: PROBE_TARGET, "snapshot: committed behind it meanwhile");
                self.snapshots.held.push(input);
            }
            _ => effects.to_apply.push((self.region.id, input)),
        }
    }

    /// The region is what the snapshot says.
    pub(super) fn on_installed(
        &mut self,
        now: Mono,
        manifest: &SnapshotManifest,
        died: Vec<Region>,
        effects: &mut RaftEffects,
    ) {
        let region = manifest.region.clone().unwrap_or_default();
        tracing::trace!(target: PROBE_TARGET, "snapshot: installed");
        let index = manifest.index;
        self.happened(Happened::SnapshotApplied { index }, effects);
        self.snapshots.install = None;
        self.snapshots.intent = Some((manifest.index, SnapshotKey::incoming(manifest)));
        if let Some(own) = peer_on(&region, self.shared.store) {
            self.meta = *own;
        }
        self.region = region.clone();
        self.siblings.clear();
        self.size = RegionSize::default();
        self.growth = RegionSize::default();
        self.measure_again = true;
        self.raft.applied(now, manifest.index);
        self.publish();
        self.source.replaced(manifest.merging.clone());
        let cut = self.applied_cut;
        let installed = RaftInput::Store(StoreInput::Installed { region, died, cut });
        effects.to_raft.push((STORE_ADDRESS, installed));
        self.clear_intent(effects);
    }

    /// The removal of an intent is durable.
    pub(super) fn on_intent_cleared(&mut self, key: SnapshotKey, effects: &mut RaftEffects) {
        self.snapshots.clearing.retain(|going| *going != key);
        effects.snapshots.push(SnapshotTask::Discard { key });
    }

    /// The snapshot survives a crash in the state: its intent and then its files may go.
    pub(super) fn clear_intent(&mut self, effects: &mut RaftEffects) {
        let early = self.shared.plants(Planted::IntentRemovedEarly);
        let durable = if early {
            u64::MAX
        } else {
            self.durable_applied
        };
        let over = self
            .snapshots
            .intent
            .take_if(|(index, _)| *index <= durable);
        if let Some((_, key)) = over {
            let region = self.region.id;
            effects.log.0.clear_intent(region);
            self.snapshots.clearing.push(key);
            effects.releases.push(Release {
                region,
                life: self.life,
                number: 0,
                cleared: Some(key),
                messages: Vec::new(),
            });
        }
    }
}
