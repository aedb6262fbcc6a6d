//! Heartbeats are the leader's confirmation rounds: numbered, dated when they are sent, and counted
//! by quorum. Check-quorum, read index and the lease all rest on them (thesis 6.2, 6.4).

use std::time::Duration;

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{Message, MessageKind};

use crate::error::StepError;
use crate::log_view::LogView;
use crate::planted::Planted;
use crate::progress::Pace;
use crate::raft::{Raft, State};

impl<L: LogView> Raft<L> {
    pub(crate) fn tick_leader(&mut self) {
        self.give_up_transfer_when_due();
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        if self.now < leader.next_heartbeat {
            return;
        }
        let late = self.now - leader.next_heartbeat;
        if late >= self.config.election_timeout_min {
            // The process stood still: answers may be waiting behind this tick, so silence so far
            // proves nothing. The lease is dated by what was sent and needs no such care.
            leader.quorum_since = self.now;
        }
        if self.config.check_quorum && !self.hears_quorum() {
            self.become_follower(self.term, 0);
            return;
        }
        self.begin_round();
        self.leave_joint_when_due();
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        leader.next_heartbeat = self.now + self.config.heartbeat_interval;
        let mut asks = false;
        for peer in &mut leader.peers {
            peer.window.shrink();
            asks |= std::mem::take(&mut peer.snapshot_wanted);
        }
        leader.replicate |= asks;
    }

    /// A quorum was heard of within the longest election timeout.
    fn hears_quorum(&self) -> bool {
        let State::Leader(leader) = &self.state else {
            return false;
        };
        let own = self.config.id;
        let heard = self.conf.reached(|id| match leader.peer(id) {
            _ if id == own => self.now.0,
            Some(peer) => peer.active.0,
            None => 0,
        });
        self.now - Mono(heard).max(leader.quorum_since) < self.config.election_timeout_max
    }

    /// Asks every member to confirm this leader.
    pub(crate) fn begin_round(&mut self) {
        let mut state = std::mem::replace(&mut self.state, State::Follower);
        if let State::Leader(leader) = &mut state {
            let round = leader.rounds.begin(self.now);
            let min_matched = self.min_matched_of(leader);
            let transfer_attempt = leader.voided;
            let trusting = self.plants(Planted::HeartbeatCommitUnmatched);
            for peer in leader
                .peers
                .iter_mut()
                .filter(|peer| peer.id != self.config.id)
            {
                // Beyond `matched` the follower may hold something else.
                let matched = if trusting { u64::MAX } else { peer.matched };
                let commit = self.log.commit().min(matched);
                peer.commit_sent = peer.commit_sent.max(commit);
                let kind = MessageKind::Heartbeat;
                let ask = Message {
                    round,
                    commit,
                    min_matched,
                    transfer_attempt,
                    ..self.message(kind, peer.id)
                };
                self.send_now.push(ask);
            }
        }
        self.state = state;
        self.count_round();
    }

    /// Finds out how far a quorum has answered the rounds.
    fn count_round(&mut self) {
        let own = self.config.id;
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        let last = leader.rounds.last;
        let round = self.conf.reached(|id| match leader.peer(id) {
            _ if id == own => last,
            Some(peer) => peer.round,
            None => 0,
        });
        let late = self.log.plant.breaks(Planted::LeaseFromReceipt);
        if late && round > leader.rounds.confirmed {
            leader.rounds.date_newest(self.now);
        }
        if leader.rounds.confirm(round) {
            self.grant_confirmed();
        }
    }

    pub(crate) fn on_heartbeat(&mut self, message: &Message) -> Result<(), StepError> {
        if message.commit > self.log.last_index() {
            // The leader commits here only what this replica once acknowledged as durable.
            let what = "the leader counts on entries this replica does not have";
            return Err(StepError::Safety {
                from: message.from,
                what,
            });
        }
        self.hear_leader(message.from)?;
        self.log
            .commit_to(message.commit.min(self.log.last_index()));
        if message.round == 0 {
            return Ok(());
        }
        if let Some(contact) = &mut self.contact {
            contact.voided = contact.voided.max(message.transfer_attempt);
        }
        self.min_matched = message.min_matched;
        let kind = MessageKind::HeartbeatResponse;
        let answer = Message {
            round: message.round,
            ..self.message(kind, message.from)
        };
        self.send_once_term_is_durable(answer);
        Ok(())
    }

    pub(crate) fn on_heartbeat_response(&mut self, message: &Message) -> Result<(), StepError> {
        let last = self.log.last_index();
        let State::Leader(leader) = &mut self.state else {
            return Ok(());
        };
        let from = message.from;
        if message.round > leader.rounds.last {
            return Err(StepError::Malformed {
                from,
                what: "an answer to a round that never began",
            });
        }
        let Some(peer) = leader.peers.iter_mut().find(|peer| peer.id == from) else {
            return Err(StepError::UnknownPeer { from });
        };
        peer.active = self.now;
        let news = message.round > peer.round;
        let any = self.log.plant.breaks(Planted::AckOfAnyRound);
        peer.round = if any {
            leader.rounds.last
        } else {
            peer.round.max(message.round)
        };
        // It lives: an append that got no answer was lost.
        if peer.paused {
            peer.paused = false;
            leader.replicate |= peer.pace == Pace::Probe;
        }
        if peer.pace == Pace::Replicate && peer.matched < last && self.now >= peer.ping_at {
            peer.ping = true;
            peer.ping_at = self.now + self.config.heartbeat_interval;
            leader.replicate = true;
        }
        if news {
            self.count_round();
        }
        Ok(())
    }

    // ---- truncation ----

    /// The smallest index that every recently active member holds durably: no live follower needs
    /// the log up to there (contracts: C11). As the leader knows it, or as it said last.
    pub fn min_matched(&self) -> u64 {
        match &self.state {
            State::Leader(leader) => self.min_matched_of(leader),
            _ => self.min_matched,
        }
    }

    pub(crate) fn min_matched_of(&self, leader: &crate::leader::Leader) -> u64 {
        let own = self.config.id;
        let silent = self.config.election_timeout_max;
        let others = leader
            .peers
            .iter()
            .filter(|peer| peer.id != own && self.now - peer.active < silent);
        others
            .map(|peer| peer.needs_after())
            .fold(self.log.persisted(), u64::min)
    }

    // ---- lease ----

    /// Until when this leader may answer reads from its applied state alone, on its own clock
    /// (thesis 6.4.1; contracts: C16).
    ///
    /// Counted from when the newest round that a quorum answered was sent. `None`: not the leader,
    /// nothing of its own term applied yet, a transfer under way, a split, merge or change of
    /// members between commit and apply, no round confirmed since the last of these, or leases
    /// switched off. The only voter of a group holds it from the last time it was called.
    ///
    /// To be asked after every call, before anything of the next Ready is sent: a copy of an older
    /// answer may outlive a transfer that the Ready begins.
    pub fn lease_until(&self) -> Option<Mono> {
        let State::Leader(leader) = &self.state else {
            return None;
        };
        let config = &self.config;
        if self.plants(Planted::LeaseInTransfer) && leader.transfer.is_some() {
            return leader.rounds.lease_from().map(|sent| sent + config.lease);
        }
        let off = config.lease == Duration::ZERO || !config.check_quorum;
        let open = leader.transfer.is_some()
            || self.log.applied() < leader.first_index
            || self.log.barrier_committed();
        if off || open {
            return None;
        }
        let from = if self.conf.is_single_voter(config.id) {
            Some(self.now)
        } else {
            leader.rounds.lease_from()
        };
        from.map(|sent| sent + config.lease)
    }

    /// Rounds sent so far no longer count for the lease; a new one begins at once.
    pub(crate) fn restart_lease(&mut self) {
        if let State::Leader(leader) = &mut self.state {
            leader.rounds.raise_floor();
            self.begin_round();
        }
    }
}
