//! What a leader tells PD of its region: on every change of the region or its leader, once a peer has
//! caught up, and every [`crate::Config::region_heartbeat`].

use std::time::Duration;

use flotilla_proto::clock::Mono;
use flotilla_proto::metapb::{Peer as PeerMeta, RegionEpoch};
use flotilla_proto::pdpb::{PeerStats, QueryStats, RegionHeartbeatRequest, TimeInterval};
use flotilla_raft::{Pace, PeerStatus};

use super::Peer;
use crate::effects::{PdTask, RaftEffects, RegionSize};

/// A peer that lacks more committed entries than this is behind.
const BEHIND_ENTRIES: u64 = 1_024;
const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// What PD was told is told again after so many heartbeat intervals, whether it changed or not.
const AGAIN_AFTER: u32 = 60;

/// What PD was told.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// When it was looked at last whether there is anything to tell.
    looked: Option<Mono>,
    told: Option<Told>,
    /// Peers that were behind then.
    behind: Vec<u64>,
}

/// The last report.
#[derive(Clone, Copy, Debug)]
struct Told {
    at: Mono,
    state: State,
    /// Nothing was read or written before it, and all members follow.
    quiet: bool,
}

/// What a report is about, as far as it does not change by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    term: u64,
    epoch: Option<RegionEpoch>,
    size: RegionSize,
}

impl Peer {
    /// It is time, or a peer that PD waits for has caught up.
    pub(super) fn report_due(&self, now: Mono) -> bool {
        let every = self.shared.config.region_heartbeat;
        if self.reports.looked.is_none_or(|at| now - at >= every) {
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

    /// Tells PD what changed since it was told last.
    pub(super) fn report_changes(&mut self, now: Mono, effects: &mut RaftEffects) {
        self.reports.looked = Some(now);
        let again = self.shared.config.region_heartbeat * AGAIN_AFTER;
        let same =
            |told: &Told| told.quiet && told.state == self.report_state() && now - told.at < again;
        let quiet = self.unreported == RegionSize::default() && self.load.unreported_is_none();
        if quiet && self.reports.told.as_ref().is_some_and(same) && self.all_follow(now) {
            return;
        }
        self.report_region(now, effects);
    }

    fn report_state(&self) -> State {
        State {
            term: self.raft.term(),
            epoch: self.region.region_epoch,
            size: self.size_at_most(),
        }
    }

    /// No member is behind or silent.
    fn all_follow(&self, now: Mono) -> bool {
        let status = self.raft.status();
        let mut others = status.peers.iter().filter(|peer| peer.id != self.meta.id);
        others.all(|peer| !is_behind(peer, status.commit) && now - peer.active < self.silence())
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
        let (size, written) = (self.size_at_most(), std::mem::take(&mut self.unreported));
        let (read, writes) = self.load.take_unreported();
        let before = self.reports.told.map_or(now, |told| told.at);
        let flows = written != RegionSize::default() || !read.is_none() || writes > 0;
        self.reports = Reports {
            looked: Some(now),
            told: Some(Told {
                at: now,
                state: self.report_state(),
                quiet: !flows && pending.is_empty() && down.is_empty(),
            }),
            behind: pending.iter().map(|meta: &PeerMeta| meta.id).collect(),
        };
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
            bytes_read: read.bytes,
            keys_read: read.keys,
            query_stats: Some(QueryStats {
                get: read.queries,
                put: writes,
                ..QueryStats::default()
            }),
            // Of a clock of this store: only the difference means something.
            interval: Some(TimeInterval {
                start_timestamp: before.0 / NANOS_PER_SECOND,
                end_timestamp: now.0 / NANOS_PER_SECOND,
            }),
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
