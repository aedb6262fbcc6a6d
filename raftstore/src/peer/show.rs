//! A peer shows itself: to whoever asks, and by what happens to it.

use std::time::Duration;

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer as PeerMeta, Region};
use flotilla_raft::{RoleChange, Status};

use super::Peer;
use crate::effects::RaftEffects;
use crate::events::{Happened, RegionEvent};

/// A peer as it sees itself.
#[derive(Clone, Debug, PartialEq)]
pub struct PeerShown {
    /// The region as of the applied index; without an epoch while the peer waits for a snapshot.
    pub region: Region,
    /// This store's peer.
    pub peer: PeerMeta,
    /// Of the raft group.
    pub status: Status,
    /// When it was looked at.
    pub at: Mono,
    /// Payload bytes of the log, roughly once entries have left the memory.
    pub log_bytes: u64,
    /// For how long reads may still be served without asking anybody; zero: not at all.
    pub lease: Duration,
    /// A snapshot to send is being built.
    pub snapshot_building: bool,
    /// Messages with a snapshot are on their way to other peers.
    pub snapshot_sending: bool,
    /// A snapshot is being put in place here, or waits to be.
    pub snapshot_installing: bool,
}

/// What those who watch were told last.
#[derive(Debug, Default)]
pub(super) struct Told {
    leader: Option<u64>,
    term: u64,
}

impl Peer {
    pub(super) fn show(&self, now: Mono) -> PeerShown {
        let status = self.raft.status();
        let until = self.raft.lease_until().filter(|until| *until > now);
        let until = until.filter(|_| !self.source.is_merging());
        let snapshots = &self.snapshots;
        PeerShown {
            region: self.region.clone(),
            peer: self.meta,
            at: now,
            log_bytes: self.raft.log().bytes_up_to(status.last_index),
            status,
            lease: until.map_or(Duration::ZERO, |until| until - now),
            snapshot_building: snapshots.building(),
            snapshot_sending: snapshots.sending(),
            snapshot_installing: snapshots.installing() || snapshots.waiting(),
        }
    }

    pub(super) fn happened(&self, what: Happened, effects: &mut RaftEffects) {
        let region = self.region.id;
        effects.events.push(RegionEvent { region, what });
    }

    /// Who leads, or the term, is another.
    pub(super) fn tell_role(&mut self, change: &RoleChange, effects: &mut RaftEffects) {
        let term = change.term;
        let before = std::mem::replace(
            &mut self.told,
            Told {
                leader: change.leader,
                term,
            },
        );
        if before.term != term {
            self.happened(Happened::TermChanged { term }, effects);
        }
        if before.leader != change.leader {
            let mut peers = self.region.peers.iter();
            let leader = peers.find(|peer| Some(peer.id) == change.leader).copied();
            self.happened(Happened::LeaderChanged { leader, term }, effects);
        }
    }

    /// The members are other ones than `before`.
    pub(super) fn tell_members(&self, before: &[PeerMeta], effects: &mut RaftEffects) {
        let now = &self.region.peers;
        let among = |peers: &[PeerMeta], id: u64| peers.iter().any(|peer| peer.id == id);
        for peer in now.iter().filter(|peer| !among(before, peer.id)) {
            self.happened(Happened::PeerAdded { peer: *peer }, effects);
        }
        for peer in before.iter().filter(|peer| !among(now, peer.id)) {
            self.happened(Happened::PeerRemoved { peer: *peer }, effects);
        }
    }

    /// `from` leads, and was heard of again.
    pub(super) fn heard_of_leader(
        &mut self,
        now: Mono,
        from: PeerMeta,
        led_before: bool,
        effects: &mut RaftEffects,
    ) {
        let silent = now - std::mem::replace(&mut self.led, now);
        if led_before && silent >= self.shared.config.election_min / 2 {
            let leader = from;
            self.happened(Happened::HeartbeatLate { leader, silent }, effects);
        }
    }
}
