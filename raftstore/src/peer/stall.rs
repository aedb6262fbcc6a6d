//! A log disk that does not answer (contracts: C14): whoever leads here hands over to a store whose
//! disk does, and serves nothing by its lease meanwhile.

use flotilla_proto::clock::Mono;

use super::Peer;
use crate::effects::{RaftEffects, RaftInput, StoreInput};
use crate::planted::Planted;
use crate::{PROBE_TARGET, STORE_ADDRESS};

/// What a peer knows of the log disk.
#[derive(Debug, Default)]
pub(super) struct LogDisk {
    /// The Ready that was handed to the log writer last, of those that it has to write.
    last: u64,
    /// Since when something of this peer waits for it.
    waits_since: Option<Mono>,
    /// Until then the disk counts as stalled.
    stalled_until: Option<Mono>,
}

impl Peer {
    /// A Ready went to the log writer.
    pub(super) fn note_write(&mut self, now: Mono, number: u64) {
        self.log_disk.last = number;
        self.log_disk.waits_since.get_or_insert(now);
    }

    /// Readys up to `number` are durable: the disk is alive.
    pub(super) fn note_written(&mut self, now: Mono, number: u64) {
        self.log_disk.waits_since = (number < self.log_disk.last).then_some(now);
    }

    /// Since when something that raft has promised or proposed waits for the log disk. That what may go
    /// from the log is still there harms nobody, and does not count.
    pub fn waits_for_log_since(&self) -> Option<Mono> {
        self.log_disk.waits_since
    }

    /// Tells the store when the disk has not answered for the shortest election timeout.
    pub(super) fn check_log_disk(&mut self, now: Mono, effects: &mut RaftEffects) {
        let patience = self.shared.config.election_min;
        let stalled = |since: Mono| now - since >= patience;
        if self.log_disk.waits_since.is_some_and(stalled) {
            let stalls = RaftInput::Store(StoreInput::LogStalls);
            effects.to_raft.push((STORE_ADDRESS, stalls));
        }
    }

    /// The disk has not answered to one of the store's peers.
    pub(super) fn on_log_stalled(&mut self, now: Mono) {
        if self.shared.plants(Planted::StallUnnoticed) {
            return;
        }
        self.log_disk.stalled_until = Some(now + self.shared.config.election_min);
        if !self.is_leader() {
            return;
        }
        tracing::trace!(target: PROBE_TARGET, "stall: a leader gives up its lease");
        self.delegate.revoke();
        if self.hand_over(now) {
            tracing::trace!(target: PROBE_TARGET, "stall: a leader hands over");
        }
    }

    /// Hands leadership to the voter with the longest log. `false`: there is none, or it does not follow.
    pub(super) fn hand_over(&mut self, now: Mono) -> bool {
        let own = self.meta.id;
        let status = self.raft.status();
        let voter = |id: u64| id != own && self.raft.is_voter(id);
        let others = status.peers.iter().filter(|peer| voter(peer.id));
        let best = others.max_by_key(|peer| (peer.matched, peer.active));
        let best = best.map(|peer| peer.id);
        best.is_some_and(|best| self.raft.transfer_leader(now, best).is_ok())
    }

    /// Nothing is served by a lease while the disk counts as stalled.
    pub(super) fn log_is_stalled(&self, now: Mono) -> bool {
        self.log_disk.stalled_until.is_some_and(|until| now < until)
    }
}
