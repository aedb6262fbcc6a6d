//! Looking at a replica without touching it.

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::ConfState;

use crate::config::Config;
use crate::log_view::LogView;
use crate::progress::Pace;
use crate::raft::{Raft, Role, State};
use crate::ready::RoleChange;

/// A picture of a replica, for humans and for planners. Not for deciding anything safety hangs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Peer id.
    pub id: u64,
    /// Role, leader and term.
    pub role: RoleChange,
    /// Whom it voted for in this term; 0: nobody.
    pub vote: u64,
    /// Index of the first entry held.
    pub first_index: u64,
    /// Index of the last entry held, durable or not.
    pub last_index: u64,
    /// Commit index.
    pub commit: u64,
    /// Durable up to here.
    pub persisted: u64,
    /// Handed out to be applied up to here.
    pub handed_out: u64,
    /// Applied up to here.
    pub applied: u64,
    /// The configuration as applied.
    pub conf: ConfState,
    /// The target of a transfer under way.
    pub transferring_to: Option<u64>,
    /// What a leader knows of every member, itself included; empty elsewhere.
    pub peers: Vec<PeerStatus>,
}

/// What a leader knows of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Peer id.
    pub id: u64,
    /// Durable there up to here.
    pub matched: u64,
    /// The next index to send.
    pub next: u64,
    /// How it is sent to.
    pub pace: Pace,
    /// Nothing is sent until it answers: a probe is out, or the window is full.
    pub blocked: bool,
    /// Appends that wait for its answer.
    pub inflight: usize,
    /// When it was last heard of.
    pub active: Mono,
}

impl<L: LogView> Raft<L> {
    /// This replica's peer id.
    pub fn id(&self) -> u64 {
        self.config.id
    }

    /// What it was started with; the priority as set since.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What it is to its group.
    pub fn role(&self) -> Role {
        match self.state {
            State::Follower => Role::Follower,
            State::PreCandidate(_) => Role::PreCandidate,
            State::Candidate(_) => Role::Candidate,
            State::Leader(_) => Role::Leader,
        }
    }

    /// Its role is leader.
    pub fn is_leader(&self) -> bool {
        matches!(self.state, State::Leader(_))
    }

    /// Who leads, as far as this replica knows.
    pub fn leader(&self) -> Option<u64> {
        (self.leader != 0).then_some(self.leader)
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Whom it voted for in this term.
    pub fn vote(&self) -> Option<u64> {
        (self.vote != 0).then_some(self.vote)
    }

    /// The commit index.
    pub fn commit(&self) -> u64 {
        self.log.commit()
    }

    /// The log is durable up to here.
    pub fn persisted_index(&self) -> u64 {
        self.log.persisted()
    }

    /// Applied up to here.
    pub fn applied_index(&self) -> u64 {
        self.log.applied()
    }

    /// The last entry, handed out or not.
    pub fn last_index(&self) -> u64 {
        self.log.last_index()
    }

    /// The term of the entry at `index`, or of the truncation point.
    pub fn term_at(&self, index: u64) -> Option<u64> {
        self.log.term(index)
    }

    /// The first entry of the leader's own term: nothing is served before it is applied
    /// (contracts: C17). `None` while not leading.
    pub fn first_index_of_term(&self) -> Option<u64> {
        match &self.state {
            State::Leader(leader) => Some(leader.first_index),
            _ => None,
        }
    }

    /// The configuration as applied.
    pub fn conf(&self) -> ConfState {
        self.conf.to_state()
    }

    /// `peer` is a voter of either half.
    pub fn is_voter(&self, peer: u64) -> bool {
        self.conf.is_voter(peer)
    }

    /// The log view.
    pub fn log(&self) -> &L {
        &self.log.view
    }

    /// The log view, for its owner's purposes (truncation, caches).
    pub fn log_mut(&mut self) -> &mut L {
        &mut self.log.view
    }

    /// The target of a transfer under way.
    pub fn transferring_to(&self) -> Option<u64> {
        match &self.state {
            State::Leader(leader) => leader.transfer.map(|transfer| transfer.to),
            _ => None,
        }
    }

    pub(crate) fn role_now(&self) -> RoleChange {
        RoleChange {
            role: self.role(),
            leader: self.leader(),
            term: self.term,
        }
    }

    /// See [`Status`].
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            role: self.role_now(),
            vote: self.vote,
            first_index: self.log.first_index(),
            last_index: self.log.last_index(),
            commit: self.log.commit(),
            persisted: self.log.persisted(),
            handed_out: self.log.handed(),
            applied: self.log.applied(),
            conf: self.conf(),
            transferring_to: self.transferring_to(),
            peers: self.peer_status(),
        }
    }

    fn peer_status(&self) -> Vec<PeerStatus> {
        let State::Leader(leader) = &self.state else {
            return Vec::new();
        };
        let config = &self.config;
        let status = |peer: &crate::progress::Progress| PeerStatus {
            id: peer.id,
            matched: peer.matched,
            next: peer.next,
            pace: peer.pace,
            blocked: match peer.pace {
                Pace::Probe => peer.paused,
                Pace::Replicate => peer
                    .window
                    .is_full(config.inflight_messages_max, config.inflight_bytes_max),
                Pace::Snapshot { .. } => true,
            },
            inflight: peer.window.len(),
            active: peer.active,
        };
        leader.peers.iter().map(status).collect()
    }
}
