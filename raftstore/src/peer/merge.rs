//! The region becomes a part of its neighbour: the source's side of a merge (contracts: C12).
//!
//! A prepare-merge in the source's log freezes it. From its apply on every peer of the source looks at
//! the target's peer on its own store: the one beside the target's leader asks for the commit-merge; one
//! that sees that the target has moved on tells its leader, who rolls back once a quorum has told. That
//! the target's peer is not there proves nothing.

use std::collections::BTreeSet;

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Region, RegionEpoch};
use flotilla_proto::raft::{Entry, EntryKind};
use flotilla_proto::store::{
    CommitMergeCommand, MergedRegion, Merging, PeerMessage, PrepareMergeCommand,
    RollbackMergeCommand,
};
use flotilla_raft::{FetchFor, LogId, LogView, Lookup, Pace, StepError};

use super::Peer;
use crate::effects::{Answer, Outbound, PeerInput, RaftEffects, RaftInput};
use crate::entry::{
    encode_commit_merge, encode_prepare_merge, encode_rollback_merge, prepares_merge,
};
use crate::merge::{MERGE_LAG_BYTES_MAX, MERGE_LAG_ENTRIES_MAX, is_beyond, may_merge};
use crate::planted::Planted;
use crate::region::epoch;
use crate::runtime::StoreFatal;
use crate::{PROBE_TARGET, RequestError};

/// What this peer has to do with a merge of its region into another.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// In the log and not applied.
    proposed: Option<Proposed>,
    /// Applied, and neither taken in nor rolled back.
    merging: Option<Box<Merging>>,
    /// Rolled back by this entry: until it is durable, nothing goes beyond this index.
    ended: Option<(u64, u64)>,
    /// Peers that have told that the target has moved on.
    told: BTreeSet<u64>,
    /// The rollback that was proposed last.
    rollback: Option<LogId>,
    /// Where the peer stops, for the target or a snapshot of it.
    stop: Option<Stop>,
}

/// A prepare-merge in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proposed {
    pub(crate) index: u64,
    pub(crate) min_index: u64,
}

/// What a peer that stops still does.
#[derive(Clone, Copy, Debug)]
struct Stop {
    /// Applies up to here ...
    commit: u64,
    /// ... and tells this region.
    into: u64,
    owes: bool,
    /// It has told once: nothing is applied any more.
    done: bool,
}

impl Source {
    pub(super) fn opened(merging: Option<Box<Merging>>, proposed: Option<Proposed>) -> Self {
        Self {
            proposed,
            merging,
            ..Self::default()
        }
    }

    /// Nothing else may change the region.
    pub(super) fn is_under_way(&self) -> bool {
        self.proposed.is_some() || self.merging.is_some()
    }

    /// It is frozen: applied, and not decided.
    pub(super) fn is_merging(&self) -> bool {
        self.merging.is_some()
    }

    /// The peer takes nothing more in.
    pub(super) fn stops(&self) -> bool {
        self.stop.is_some()
    }

    /// It has said that it has applied all: nothing is applied any more.
    pub(super) fn has_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.done)
    }

    /// The index beyond which the log stays.
    pub(super) fn kept_behind(&self) -> Option<u64> {
        let proposed = self.proposed.map(|proposed| proposed.min_index);
        let merging = self.merging.as_ref().map(|merging| merging.min_index);
        let ended = self.ended.map(|(_, min_index)| min_index);
        [proposed, merging, ended].into_iter().flatten().min()
    }

    /// A snapshot has taken the place of all that was here.
    pub(super) fn replaced(&mut self, merging: Option<Box<Merging>>) {
        *self = Self::opened(merging, None);
    }
}

impl Peer {
    /// Frozen: whoever asks waits until it is decided where the keys are.
    pub(super) fn check_merging(&self) -> Result<(), RequestError> {
        let region = self.region.id;
        let serves = !self.source.is_merging() || self.shared.plants(Planted::MergingServes);
        serves.then_some(()).ok_or(RequestError::Merging { region })
    }

    // ---- prepare ----

    pub(super) fn on_merge(
        &mut self,
        now: Mono,
        asked: RegionEpoch,
        target: Region,
        answer: Answer<Region>,
    ) {
        if !self.is_leader() {
            return answer.give(Err(self.not_leader()));
        }
        if self.region.region_epoch != Some(asked) {
            return answer.give(Err(self.delegate.serving().epoch_not_match()));
        }
        let min_index = match self.check_merge(now, &target) {
            Ok(min_index) => min_index,
            Err(reason) => return answer.give(Err(RequestError::Merge { reason })),
        };
        let command = PrepareMergeCommand {
            epoch: Some(asked),
            target: Some(target),
            min_index,
        };
        let payload = encode_prepare_merge(&command);
        match self.raft.propose(now, EntryKind::Admin, payload) {
            Ok(id) => {
                let index = id.index;
                self.source.proposed = Some(Proposed { index, min_index });
                self.remember_members(now, id, answer);
            }
            Err(error) => answer.give(Err(self.refusal(&error))),
        }
    }

    /// Whether a merge may begin; up to where the logs of all peers are known to be alike.
    fn check_merge(&self, now: Mono, target: &Region) -> Result<u64, String> {
        may_merge(&self.region, target)?;
        let here = self.shared.delegates.serving(target.id);
        if !here.is_ok_and(|serving| serving.region == *target) {
            let id = target.id;
            return Err(format!(
                "region {id} is not, or not yet, here what was asked for"
            ));
        }
        let snapshots = &self.snapshots;
        let busy = !self.unsettled.is_empty()
            || self.source.is_under_way()
            || self.source.ended.is_some()
            || snapshots.installing()
            || snapshots.building()
            || snapshots.sending();
        if busy {
            return Err("another change of the region is under way".to_owned());
        }
        let status = self.raft.status();
        if status.transferring_to.is_some() {
            return Err("the region is being handed over".to_owned());
        }
        let within = self.shared.config.election_max;
        let mut min_index = status.persisted;
        for peer in status.peers.iter().filter(|peer| peer.id != self.meta.id) {
            if peer.pace != Pace::Replicate || now - peer.active >= within {
                return Err(format!("peer {} does not follow", peer.id));
            }
            min_index = min_index.min(peer.matched);
        }
        let log = self.raft.log();
        let behind = status.last_index - min_index;
        let bytes = log.bytes_up_to(status.last_index) - log.bytes_up_to(min_index);
        if behind > MERGE_LAG_ENTRIES_MAX
            || bytes > MERGE_LAG_BYTES_MAX
            || min_index < log.span().first
        {
            return Err(format!("a peer lacks {behind} entries of {bytes} bytes"));
        }
        Ok(min_index)
    }

    /// Entries that go to the log: from here on a prepare-merge among them keeps what its merge may need.
    pub(super) fn note_appended(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first().map(|entry| entry.index) else {
            return;
        };
        self.source.proposed.take_if(|known| known.index >= first);
        let prepares = entries.iter().rev().find_map(prepares_merge);
        if prepares.is_some() {
            self.source.proposed = prepares;
        }
    }

    pub(super) fn on_merge_prepared(
        &mut self,
        now: Mono,
        region: Region,
        merging: Box<Merging>,
        effects: &mut RaftEffects,
    ) {
        tracing::trace!(target: PROBE_TARGET, "merge: prepared");
        let commit = merging.commit;
        self.source = Source::opened(Some(merging), None);
        self.become_region(now, region, effects);
        if let Some(answer) = self.changing.remove(&commit) {
            answer.give(Ok(self.region.clone()));
        }
        self.tick_merge(now, effects);
    }

    pub(super) fn on_merge_refused(&mut self, index: u64) {
        tracing::trace!(target: PROBE_TARGET, "merge: a step is refused at apply");
        self.source
            .proposed
            .take_if(|proposed| proposed.index <= index);
        if let Some(answer) = self.changing.remove(&index) {
            answer.give(Err(self.delegate.serving().epoch_not_match()));
        }
    }

    pub(super) fn on_merge_rolled_back(
        &mut self,
        now: Mono,
        index: u64,
        region: Region,
        effects: &mut RaftEffects,
    ) {
        tracing::trace!(target: PROBE_TARGET, "merge: rolled back");
        let kept = self
            .source
            .merging
            .as_ref()
            .map(|merging| merging.min_index);
        self.source = Source::opened(None, None);
        self.source.ended = kept.map(|kept| (index, kept));
        self.become_region(now, region, effects);
    }

    /// The same keys and peers at another epoch.
    fn become_region(&mut self, now: Mono, region: Region, effects: &mut RaftEffects) {
        self.region = region;
        self.siblings.clear();
        self.publish();
        if self.is_leader() {
            self.report_region(now, effects);
        }
    }

    /// Applied indexes up to the durable one: a rollback among them needs nothing of the log any more.
    pub(super) fn forget_rollback(&mut self) {
        let durable = self.durable_applied;
        self.source.ended.take_if(|(index, _)| *index <= durable);
    }

    // ---- what becomes of it ----

    /// With a tick: looks what has become of the target, here.
    pub(super) fn tick_merge(&mut self, now: Mono, effects: &mut RaftEffects) {
        if let Some(merged) = self.shared.merged.fate(self.region.id) {
            return self.on_merged_away(&merged, effects);
        }
        let Some(merging) = self.source.merging.clone().filter(|_| !self.source.stops()) else {
            return;
        };
        let target = merging.target.clone().unwrap_or_default();
        let named = epoch(&target);
        let Ok(serving) = self.shared.delegates.serving(target.id) else {
            return self.target_is_gone(now, &target, merging.commit, effects);
        };
        let current = epoch(&serving.region);
        if is_beyond(current, named) {
            // A merge that was forgotten may have been ours.
            if self.shared.merged.forgotten(target.id) <= named.version {
                self.target_has_moved(now, merging.commit, effects);
            }
        } else if current == named && serving.is_leader() {
            self.ask_target(&merging, &target, effects);
        }
    }

    /// The target has no peer here that could be looked at: that proves something only if it has become a
    /// part of another region, or had applied more than the named epoch when it ended.
    fn target_is_gone(
        &mut self,
        now: Mono,
        target: &Region,
        commit: u64,
        effects: &mut RaftEffects,
    ) {
        let merged = &self.shared.merged;
        let proven = self.shared.is_part_here(target.id, epoch(target).version)
            || merged.ended_beyond(target.id, epoch(target));
        if proven || self.shared.plants(Planted::RollbackOnAbsence) {
            tracing::trace!(target: PROBE_TARGET, "merge: the target is a part of another region");
            self.target_has_moved(now, commit, effects);
        }
    }

    /// Here the target is beyond the named epoch, and this region was no part of it: no replica of the
    /// target will ever take it in.
    fn target_has_moved(&mut self, now: Mono, commit: u64, effects: &mut RaftEffects) {
        if self.is_leader() {
            return self.on_target_moved(now, self.meta.id, commit);
        }
        let leader = self.raft.leader();
        let mut peers = self.region.peers.iter();
        if let Some(leader) = peers.find(|peer| Some(peer.id) == leader) {
            let message = PeerMessage {
                target_moved: commit,
                ..self.envelope(*leader)
            };
            effects.send_now.push(Outbound {
                store: leader.store_id,
                message,
            });
        }
    }

    /// `peer` has seen that the target has moved on.
    pub(super) fn on_target_moved(&mut self, now: Mono, peer: u64, commit: u64) {
        let current = |merging: &Merging| merging.commit == commit;
        let merging = self.source.merging.as_deref().is_some_and(current);
        let member = self.region.peers.iter().any(|known| known.id == peer);
        if !merging || !member || !self.is_leader() || self.source.stops() {
            return;
        }
        self.source.told.insert(peer);
        let quorum = self.source.told.len() * 2 > self.region.peers.len();
        let term = self.raft.term();
        let proposed = self.source.rollback.is_some_and(|id| id.term == term);
        if !(quorum || self.shared.plants(Planted::RollbackWithoutQuorum)) || proposed {
            return;
        }
        let payload = encode_rollback_merge(&RollbackMergeCommand { commit });
        if let Ok(id) = self.raft.propose(now, EntryKind::Admin, payload) {
            self.source.rollback = Some(id);
        }
    }

    /// The target leads here, at the named epoch.
    fn ask_target(&mut self, merging: &Merging, target: &Region, effects: &mut RaftEffects) {
        let Some(entries) = self.carried(merging, target, effects) else {
            return;
        };
        let command = Box::new(CommitMergeCommand {
            epoch: target.region_epoch,
            source: Some(self.region.clone()),
            commit: merging.commit,
            entries,
            lineage: self.shared.merged.lineage(self.region.id),
        });
        let input = RaftInput::Peer(PeerInput::TakeIn { command });
        effects.to_raft.push((target.id, input));
    }

    /// What another peer of this region may lack. `None`: not at hand.
    fn carried(
        &self,
        merging: &Merging,
        target: &Region,
        effects: &mut RaftEffects,
    ) -> Option<Vec<Entry>> {
        let (mut low, high) = (merging.min_index + 1, merging.commit + 1);
        if self.shared.plants(Planted::MergeWithoutEntries) {
            low = merging.commit;
        }
        let log = self.raft.log();
        match log.entries(low, high, u64::MAX, FetchFor::Apply) {
            Lookup::Ready(entries) => (entries.len() as u64 == high - low).then_some(entries),
            Lookup::Pending(_) => {
                tracing::trace!(target: PROBE_TARGET, "merge: carried entries are fetched");
                None
            }
            Lookup::Compacted => {
                // Truncated before the merge was thought of. Where it was proposed they are kept.
                tracing::trace!(target: PROBE_TARGET, "merge: carried entries are on another store");
                let input = RaftInput::Peer(PeerInput::HandOver);
                effects.to_raft.push((target.id, input));
                None
            }
        }
    }

    // ---- the end ----

    pub(super) fn on_stop(
        &mut self,
        now: Mono,
        (peer, into, commit): (u64, u64, u64),
        entries: Vec<Entry>,
        effects: &mut RaftEffects,
    ) {
        if peer != self.meta.id || self.is_blank() {
            return;
        }
        if self.source.stop.is_none() {
            self.drop_waiting(effects);
            self.delegate.outdate();
            self.delegate.suspend();
            self.refuse_waiting();
            self.source.stop = Some(Stop {
                commit,
                into,
                owes: true,
                done: false,
            });
        }
        if self.raft.commit() < commit {
            tracing::trace!(target: PROBE_TARGET, "merge: a source catches up from its target");
            if let Err(StepError::Safety { what, .. }) = self.raft.catch_up(now, entries) {
                let (region, detail) = (self.region.id, what.to_owned());
                effects.fatal = Some(StoreFatal::Safety { region, detail });
            }
        }
        if let Some(stop) = &mut self.source.stop {
            (stop.owes, stop.into) = (true, into);
        }
        self.tell_stopped(effects);
    }

    /// Everything is applied that will be: says so.
    pub(super) fn tell_stopped(&mut self, effects: &mut RaftEffects) {
        let applied = self.raft.applied_index();
        let Some(stop) = &mut self.source.stop else {
            return;
        };
        let all = applied >= stop.commit && applied >= self.handed && !self.snapshots.installing();
        if !stop.owes || !(all || stop.done) || self.ending {
            return;
        }
        (stop.owes, stop.done) = (false, true);
        let into = stop.into;
        self.proposals.none_will_come();
        let stopped = PeerInput::Stopped {
            region: self.region.clone(),
            size: self.size_at_most(),
        };
        effects.to_raft.push((into, RaftInput::Peer(stopped)));
    }

    /// The region is a part of another by now. Where that one's peer has yet to take it in this one waits
    /// for it; where that will never happen it ends, with its rows.
    pub(super) fn on_merged_away(&mut self, merged: &MergedRegion, effects: &mut RaftEffects) {
        let waits = !self.is_blank() && self.shared.awaits(merged);
        if self.source.stops() || waits || self.is_ingesting() {
            return;
        }
        tracing::trace!(target: PROBE_TARGET, "merge: a source that was left behind ends");
        self.destroy(effects);
    }

    /// Whether an input means anything to a peer that stops.
    pub(super) fn is_owed(input: &PeerInput) -> bool {
        match input {
            PeerInput::Persisted { .. }
            | PeerInput::Applied(_)
            | PeerInput::Fetched { .. }
            | PeerInput::FetchFailed { .. }
            | PeerInput::Durable { .. }
            | PeerInput::Show { .. }
            | PeerInput::Doomed
            | PeerInput::SnapshotBuilt { .. }
            | PeerInput::SnapshotSent { .. }
            | PeerInput::Ingested { .. }
            | PeerInput::IngestFailed { .. }
            | PeerInput::IntentCleared { .. }
            | PeerInput::Stop { .. } => true,
            PeerInput::Message(_)
            | PeerInput::Write(_)
            | PeerInput::Read { .. }
            | PeerInput::Split { .. }
            | PeerInput::SplitIds { .. }
            | PeerInput::SizeChecked { .. }
            | PeerInput::Report
            | PeerInput::LogStalled
            | PeerInput::Campaign
            | PeerInput::Transfer { .. }
            | PeerInput::HandOver
            | PeerInput::ChangeMembers { .. }
            | PeerInput::Merge { .. }
            | PeerInput::TakeIn { .. }
            | PeerInput::Stopped { .. }
            | PeerInput::Current { .. }
            | PeerInput::Unreachable { .. } => false,
        }
    }

    // ---- the target's leader ----

    /// A neighbour's peer here asks to be taken in.
    pub(super) fn on_take_in(&mut self, now: Mono, command: &CommitMergeCommand) {
        let fits = self.is_leader()
            && command.epoch == self.region.region_epoch
            && self.unsettled.is_empty()
            && !self.source.is_under_way();
        let known = self.take_in.filter(|id| id.term == self.raft.term());
        let waits = known.is_some_and(|id| id.index > self.raft.applied_index());
        if !fits || waits {
            return;
        }
        let payload = encode_commit_merge(command);
        match self.raft.propose(now, EntryKind::Admin, payload) {
            Ok(id) => self.take_in = Some(id),
            Err(error) => {
                tracing::debug!(region = self.region.id, %error, "no merge now");
            }
        }
    }
}
