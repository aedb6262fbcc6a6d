//! What a leader tells PD of its region: on every change of the region or its leader, once a peer has
//! caught up, and every [`crate::Config::region_heartbeat`].

use std::time::Duration;

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::Peer as PeerMeta;
use flotilla_proto::pdpb::{PeerStats, RegionHeartbeatRequest};
use flotilla_raft::{Pace, PeerStatus};

use super::Peer;
use crate::effects::{PdTask, RaftEffects};

/// A peer that lacks more committed entries than this is behind.
const BEHIND_ENTRIES: u64 = 1_024;

/// What PD was told.
#[derive(Debug, Default)]
pub(super) struct Reports {
    last: Option<Mono>,
    /// Peers that were behind then.
    behind: Vec<u64>,
}

impl Peer {
    /// It is time, or a peer that PD waits for has caught up.
    pub(super) fn report_due(&self, now: Mono) -> bool {
        let every = self.shared.config.region_heartbeat;
        if self.reports.last.is_none_or(|last| now - last >= every) {
            return true;
        }
        if self.reports.behind.is_empty() {
            return false;
        }
        let status = self.raft.status();
        let caught_up = |id: &u64| {
            let mut peers = status.peers.iter();
            peers.any(|peer| peer.id == *id && !is_behind(peer, status.commit))
        };
        self.reports.behind.iter().any(caught_up)
    }

    pub(super) fn report_region(&mut self, now: Mono, effects: &mut RaftEffects) {
        let status = self.raft.status();
        let others = status.peers.iter().filter(|peer| peer.id != self.meta.id);
        let (mut pending, mut down) = (Vec::new(), Vec::new());
        for peer in others {
            let known = self.region.peers.iter().find(|meta| meta.id == peer.id);
            let Some(meta) = known.copied() else { continue };
            if is_behind(peer, status.commit) {
                pending.push(meta);
            }
            let silent = now - peer.active;
            if silent >= self.silence() {
                down.push(PeerStats {
                    peer: Some(meta),
                    down_seconds: silent.as_secs(),
                });
            }
        }
        self.reports = Reports {
            last: Some(now),
            behind: pending.iter().map(|meta: &PeerMeta| meta.id).collect(),
        };
        let (size, written) = (self.size_at_most(), std::mem::take(&mut self.unreported));
        let heartbeat = RegionHeartbeatRequest {
            region: Some(self.region.clone()),
            leader: Some(self.meta),
            term: self.raft.term(),
            pending_peers: pending,
            down_peers: down,
            approximate_size: size.bytes,
            approximate_kv_size: size.bytes,
            approximate_keys: size.keys,
            bytes_written: written.bytes,
            keys_written: written.keys,
            ..RegionHeartbeatRequest::default()
        };
        let task = PdTask::RegionHeartbeat(Box::new(heartbeat));
        effects.pd.push(task);
    }

    /// A peer that was not heard of for so long is reported as down.
    fn silence(&self) -> Duration {
        let config = &self.shared.config;
        config.region_heartbeat.max(config.election_max)
    }
}

/// It does not follow the log, or is far behind.
fn is_behind(peer: &PeerStatus, commit: u64) -> bool {
    peer.pace != Pace::Replicate || peer.matched.saturating_add(BEHIND_ENTRIES) < commit
}
