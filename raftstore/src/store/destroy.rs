//! Peers end (contracts: C7). A peer that was destroyed is *dying* until its tombstone survives a
//! crash: its region id makes no peer, its range goes to nobody, its log stays. Its data goes with
//! the tombstone, in one state batch, so that a crash takes back both or none.

use flotilla_engine::{LogSpan, SnapshotKey};
use flotilla_proto::metapb::{Peer as PeerMeta, Region};
use flotilla_proto::raft::{Message, MessageKind};
use flotilla_proto::store::{MergedRegion, PeerMessage};

use super::snapshots::Reserved;
use super::{Store, Written};
use crate::effects::{Outbound, RaftEffects, Retired};
use crate::planted::Planted;
use crate::region::{META_REGION, epoch, overlap};
use crate::{PROBE_TARGET, SnapshotTask};

/// A peer on its way out.
#[derive(Debug, Default)]
pub(super) struct Dying {
    /// What it was; `None`: it never knew its range.
    region: Option<Region>,
    /// What a snapshot that may be half in place would have made of it.
    promised: Option<Region>,
    /// The state batch with its tombstone, once that is written.
    cut: Option<u64>,
    /// Its machines that have stopped: raft half, apply half.
    stopped: [bool; 2],
    /// What its log holds.
    span: Option<LogSpan>,
    /// Its log is being cleared.
    clearing: bool,
    /// Of snapshots: an intent in the log may need them until that is cleared.
    files: Vec<SnapshotKey>,
}

impl Dying {
    pub(super) fn overlaps(&self, range: &Region) -> bool {
        let mut own = self.region.iter().chain(&self.promised);
        own.any(|own| overlap(own, range))
    }

    pub(super) fn was(&mut self, region: Region) {
        self.region = Some(region);
    }

    fn may_be_cleared(&self, durable: u64) -> bool {
        !self.clearing && self.stopped == [true, true] && self.cut.is_some_and(|cut| cut <= durable)
    }
}

impl Store {
    pub(super) fn on_dying(&mut self, region: u64) {
        self.blank.remove(&region);
        let promised = self.reserved.remove(&region);
        let live = self.ranges.extract_if(.., |_, live| live.id == region);
        let mut was = live.map(|(_, live)| live).next();
        if region == META_REGION {
            was = self.meta.take();
        }
        let dying = self.dying.entry(region).or_default();
        dying.region = dying.region.take().or(was);
        dying.promised = dying
            .promised
            .take()
            .or(promised.map(Reserved::into_region));
    }

    pub(super) fn on_destroyed(&mut self, region: u64, cut: u64, effects: &mut RaftEffects) {
        self.on_dying(region);
        if let Some(dying) = self.dying.get_mut(&region) {
            dying.cut = Some(cut);
        }
        effects.stop.push(region);
        self.clear_logs(effects);
    }

    /// The range of `source` is a part of `region` now.
    pub(super) fn on_merged(
        &mut self,
        region: Region,
        source: Region,
        cut: u64,
        effects: &mut RaftEffects,
    ) {
        self.on_absorbed(source, cut, effects);
        if let Some(dying) = self.dying.get_mut(&region.id) {
            // It ends, and its tombstone follows in the state.
            return dying.was(region);
        }
        self.ranges.retain(|_, live| live.id != region.id);
        let taken = self.overlapping(&region);
        assert!(
            taken.is_none(),
            "region {} overlaps {taken:?} after a merge",
            region.id
        );
        self.ranges.insert(region.start_key.clone(), region);
    }

    /// The peer of a region that became a part of another has ended, with its tombstone in the state batch
    /// `cut`: as every other one, but for its rows.
    pub(super) fn on_absorbed(&mut self, region: Region, cut: u64, effects: &mut RaftEffects) {
        self.on_destroyed(region.id, cut, effects);
        if let Some(dying) = self.dying.get_mut(&region.id) {
            dying.was(region);
        }
    }

    pub(super) fn on_retired(&mut self, last: Retired, effects: &mut RaftEffects) {
        let (region, half) = match &last {
            Retired::Peer { region, .. } => (*region, 0),
            Retired::Apply { region } => (*region, 1),
        };
        let Some(dying) = self.dying.get_mut(&region) else {
            return self.on_replaced_retired(last, effects);
        };
        dying.stopped[half] = true;
        if let Retired::Peer { span, files, .. } = last {
            dying.span = Some(span);
            dying.files = files;
        }
        self.clear_logs(effects);
    }

    /// State batches up to `cut` survive a crash: tombstones among them are for good, and the logs
    /// behind them may go.
    pub(super) fn on_durable_cut(&mut self, cut: u64, effects: &mut RaftEffects) {
        self.durable_cut = cut;
        self.clear_logs(effects);
    }

    fn clear_logs(&mut self, effects: &mut RaftEffects) {
        let early = self.shared.plants(Planted::LogClearedEarly);
        let cut = if early { u64::MAX } else { self.durable_cut };
        let ready: Vec<u64> = self
            .dying
            .iter_mut()
            .filter(|(_, dying)| dying.may_be_cleared(cut))
            .map(|(region, dying)| {
                dying.clearing = true;
                *region
            })
            .collect();
        for region in ready {
            let span = self.dying.get(&region).and_then(|dying| dying.span);
            let span = span.unwrap_or(LogSpan { first: 0, last: 0 });
            effects.log.0.clear(region, span);
            self.write(Written::Cleared { region }, effects);
        }
    }

    /// A peer that ended in the replay of a start. Its tombstone is in a state batch before `cut`,
    /// which is not known to be durable.
    /// Its log and the files of its intent are still there.
    pub(crate) fn bury(
        &mut self,
        region: Region,
        (span, files): (Option<LogSpan>, Option<SnapshotKey>),
        cut: u64,
    ) {
        let id = region.id;
        let dying = Dying {
            region: Some(region),
            cut: Some(cut),
            stopped: [true, true],
            span,
            files: files.into_iter().collect(),
            ..Dying::default()
        };
        self.dying.insert(id, dying);
    }

    /// A peer that has ended votes for nobody. But its vote may be asked for by one that does not know
    /// that its removal is committed, and that cannot find out from anybody else: in a group of two
    /// there is nobody else. The answer says what was committed (thesis 4.2.2).
    pub(super) fn speak_for_the_ended(&self, message: &PeerMessage, effects: &mut RaftEffects) {
        let region = message.region_id;
        let (Some(candidate), Some(ended), Some(asked)) =
            (message.from_peer, message.to_peer, &message.message)
        else {
            return;
        };
        // A question before an election is asked in the term after the asker's.
        let (kind, term) = match asked.kind() {
            MessageKind::PreVote => (MessageKind::PreVoteResponse, asked.term.saturating_sub(1)),
            MessageKind::Vote => (MessageKind::VoteResponse, asked.term),
            _ => return,
        };
        let gone =
            ended.store_id == self.shared.store && !self.shared.seen.allows(region, ended.id);
        let Some(known) = self.shared.seen.known_at_the_end(region).filter(|_| gone) else {
            return;
        };
        let answer = Message {
            kind: kind.into(),
            from: ended.id,
            to: candidate.id,
            term,
            reject: true,
            commit: known.index,
            hint_term: known.term,
            ..Message::default()
        };
        effects.send_now.push(Outbound {
            store: candidate.store_id,
            message: PeerMessage {
                region_id: region,
                from_peer: Some(ended),
                to_peer: Some(candidate),
                message: Some(answer),
                ..PeerMessage::default()
            },
        });
    }

    /// A peer of a region that became a part of another, and does not know: it is told.
    pub(super) fn speak_for_the_merged(
        &self,
        message: &PeerMessage,
        merged: MergedRegion,
        effects: &mut RaftEffects,
    ) {
        let Some(from) = message.from_peer.filter(|_| !message.is_tombstone) else {
            return;
        };
        tracing::trace!(target: PROBE_TARGET, "merge: a peer of a merged region is told");
        effects.send_now.extend(self.target_farewell(from, &merged));
        effects.send_now.push(Outbound {
            store: from.store_id,
            message: PeerMessage {
                region_id: message.region_id,
                from_peer: message.to_peer,
                to_peer: Some(from),
                is_tombstone: true,
                merged: Some(Box::new(merged)),
                ..PeerMessage::default()
            },
        });
    }

    /// On the store of `from` a peer of the target was to take the merged region in. If it is no member any
    /// more, it may never have been there.
    fn target_farewell(&self, from: PeerMeta, merged: &MergedRegion) -> Option<Outbound> {
        let serving = self.shared.delegates.serving(merged.into).ok()?;
        let mut peers = merged.into_peers.iter();
        let gone = peers.find(|peer| peer.store_id == from.store_id)?;
        let region = &serving.region;
        let stays = region.peers.iter().any(|peer| peer.id == gone.id);
        if stays || epoch(region).version < merged.into_version {
            return None;
        }
        Some(Outbound {
            store: from.store_id,
            message: PeerMessage {
                region_id: merged.into,
                from_peer: Some(serving.peer),
                to_peer: Some(*gone),
                region_epoch: region.region_epoch,
                start_key: region.start_key.clone(),
                end_key: region.end_key.clone(),
                is_tombstone: true,
                ..PeerMessage::default()
            },
        })
    }

    /// A peer that is not here is told that it is no member any more: it will not be made.
    pub(super) fn on_tombstone(&self, message: &PeerMessage) {
        let region = message.region_id;
        tracing::trace!(target: PROBE_TARGET, "creation: a message for nobody here");
        if let Some(merged) = &message.merged {
            self.shared.merged.hear(merged);
        }
        let to = message
            .to_peer
            .filter(|to| to.store_id == self.shared.store);
        let here = self.lives(region) || self.blank.contains_key(&region);
        let waits = |live: &Region| {
            let merged = self.shared.merged.fate(live.id);
            merged.is_some_and(|merged| merged.into == region)
        };
        let range = Region {
            id: region,
            start_key: message.start_key.clone(),
            end_key: message.end_key.clone(),
            ..Region::default()
        };
        // Only where somebody waits for it; a split here may still have to make it.
        let waited_for = self.ranges.values().any(waits) && !self.keeps(&range);
        if let Some(to) = to.filter(|_| !here && waited_for) {
            self.shared.seen.ends(region, to.id);
        }
    }

    /// Nothing is left of it but the tombstone.
    pub(super) fn on_cleared(&mut self, region: u64, effects: &mut RaftEffects) {
        tracing::trace!(target: PROBE_TARGET, "destroy: the log is cleared");
        let files = self.dying.remove(&region).map(|dying| dying.files);
        let discard = |key| SnapshotTask::Discard { key };
        let discards = files.into_iter().flatten().map(discard);
        effects.snapshots.extend(discards);
    }
}
