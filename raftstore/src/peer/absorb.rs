//! A neighbour becomes a part of the region: the target's side of a merge, on every one of its stores.
//!
//! A commit-merge, and all that follows it in the log, waits here until the neighbour's peer on this
//! store has applied its own log to the end and stopped. Nobody waits for a thread.

use std::collections::VecDeque;

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Region;
use flotilla_proto::store::CommitMergeCommand;

use super::Peer;
use crate::apply::takes_in;
use crate::effects::{
    ApplyInput, Committed, PeerInput, RaftEffects, RaftInput, RegionSize, StoreInput,
};
use crate::entry::{Command, commits_merge, decode_command};
use crate::planted::Planted;
use crate::region::peer_on;
use crate::{PROBE_TARGET, STORE_ADDRESS};

/// A commit-merge that waits.
pub(super) struct Absorb {
    index: u64,
    command: CommitMergeCommand,
    /// It and what follows it.
    waiting: VecDeque<Committed>,
    /// The source's peer was told to stop.
    asked: bool,
    /// It has.
    stopped: bool,
}

impl Peer {
    /// To the apply half; a commit-merge and what is behind it when its source has stopped.
    pub(super) fn route(&mut self, mut committed: Vec<Committed>, effects: &mut RaftEffects) {
        if let Some(absorb) = &mut self.absorb {
            return absorb.waiting.extend(committed);
        }
        let first = committed.iter().position(|one| commits_merge(&one.entry));
        let waiting = first.map_or_else(Vec::new, |first| committed.split_off(first));
        if !committed.is_empty() {
            self.give_to_apply(ApplyInput::Committed(committed), effects);
        }
        let Some(entry) = waiting.first().map(|one| &one.entry) else {
            return;
        };
        match decode_command(entry) {
            Ok(Command::CommitMerge(command)) => {
                self.absorb = Some(Absorb {
                    index: entry.index,
                    command,
                    waiting: waiting.into(),
                    asked: false,
                    stopped: false,
                });
                self.advance_absorb(effects);
            }
            // What cannot be read stops the store where it is applied.
            _ => self.give_to_apply(ApplyInput::Committed(waiting), effects),
        }
    }

    /// Goes on with a commit-merge that waits: once all before it is applied it is known whether it will
    /// be accepted.
    pub(super) fn advance_absorb(&mut self, effects: &mut RaftEffects) {
        let Some(absorb) = &mut self.absorb else {
            return;
        };
        let before = self.raft.applied_index() + 1 < absorb.index || self.snapshots.installing();
        if before || self.ending {
            return;
        }
        let blind = self.shared.plants(Planted::MergeOfOldEpoch);
        let unheard = self.shared.plants(Planted::SourceUnheard);
        if absorb.stopped || unheard || takes_in(&self.region, &absorb.command, blind).is_none() {
            return self.release_absorb(effects);
        }
        let source = absorb.command.source.clone().unwrap_or_default();
        let own = peer_on(&source, self.shared.store).map_or(0, |peer| peer.id);
        if !self.shared.seen.allows(source.id, own) {
            // Its rows are lost here, and so is whatever would hold them: PD replaces this peer, too.
            tracing::trace!(target: PROBE_TARGET, "merge: the source is lost on this store");
            tracing::error!(
                region = self.region.id,
                source = source.id,
                "the peer of a region that becomes a part of this one is lost here: this replica is lost, too"
            );
            return self.destroy(effects);
        }
        absorb.asked = true;
        let stop = PeerInput::Stop {
            peer: own,
            into: self.region.id,
            commit: absorb.command.commit,
            entries: absorb.command.entries.clone(),
        };
        effects.to_raft.push((source.id, RaftInput::Peer(stop)));
    }

    /// The local peer of a region has stopped that becomes a part of this one.
    pub(super) fn on_stopped(
        &mut self,
        region: Region,
        size: RegionSize,
        effects: &mut RaftEffects,
    ) {
        if self.install_awaits(&region, effects) {
            return;
        }
        let Some(absorb) = &mut self.absorb else {
            return;
        };
        let of = |source: &Region| source.id == region.id;
        if absorb.stopped || !absorb.command.source.as_ref().is_some_and(of) {
            return;
        }
        absorb.stopped = true;
        self.taken_size = size;
        self.release_absorb(effects);
    }

    fn release_absorb(&mut self, effects: &mut RaftEffects) {
        let Some(absorb) = self.absorb.take() else {
            return;
        };
        let mut waiting = absorb.waiting;
        let first = waiting.pop_front();
        if let Some(first) = first {
            self.give_to_apply(ApplyInput::Committed(vec![first]), effects);
        }
        if !waiting.is_empty() {
            self.route(waiting.into(), effects);
        }
    }

    /// The peer ends, and will take nobody in: whoever has stopped for it ends, too.
    pub(super) fn drop_absorb(&mut self, effects: &mut RaftEffects) {
        let Some(absorb) = self.absorb.take().filter(|absorb| absorb.asked) else {
            return;
        };
        tracing::trace!(target: PROBE_TARGET, "merge: the target ends while its source stops");
        let source = absorb.command.source.map_or(0, |source| source.id);
        effects
            .to_raft
            .push((source, RaftInput::Peer(PeerInput::Doomed)));
    }

    /// The neighbour is a part of the region, here.
    pub(super) fn on_merged(
        &mut self,
        now: Mono,
        (index, region, source): (u64, Region, Region),
        effects: &mut RaftEffects,
    ) {
        tracing::trace!(target: PROBE_TARGET, "merge: done");
        // As a split: a snapshot must not take the place of a log that alone remembers it.
        self.split_at = index;
        let (own, taken) = (self.size_at_most(), std::mem::take(&mut self.taken_size));
        self.size = RegionSize {
            bytes: own.bytes + taken.bytes,
            keys: own.keys + taken.keys,
        };
        self.growth = RegionSize::default();
        self.measure_again = true;
        self.siblings.clear();
        self.region = region.clone();
        self.publish();
        let merged = StoreInput::Merged {
            region,
            source,
            cut: self.applied_cut,
        };
        effects
            .to_raft
            .push((STORE_ADDRESS, RaftInput::Store(merged)));
        if self.is_leader() && !self.ending {
            self.report_region(now, effects);
        }
    }
}
