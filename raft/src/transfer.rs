//! Leader transfer (thesis 3.10). The target is told to campaign at once, past the loyalty of those
//! it asks; so the leader's lease is off from the first moment, and a transfer that was given up is
//! void for everybody before the lease is on again.

use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{Message, MessageKind};

use crate::error::TransferError;
use crate::leader::Transfer;
use crate::log_view::LogView;
use crate::planted::Planted;
use crate::progress::Pace;
use crate::raft::{Raft, State};

impl<L: LogView> Raft<L> {
    /// Hands leadership to `to`: proposals are refused until it has caught up and taken over, or
    /// until the shortest election timeout has passed. A follower may ask for itself: it passes the
    /// wish on to the leader, and may hear nothing.
    ///
    /// # Errors
    /// Refused; leadership stays where it is.
    pub fn transfer_leader(&mut self, now: Mono, to: u64) -> Result<(), TransferError> {
        self.advance(now);
        let (own, silent) = (self.config.id, self.config.election_timeout_min);
        let State::Leader(leader) = &mut self.state else {
            if to == own && self.leader != 0 && self.conf.is_voter(own) {
                let wish = self.message(MessageKind::TransferLeader, self.leader);
                self.send_now.push(wish);
                return Ok(());
            }
            return Err(TransferError::NotLeader {
                leader: self.leader(),
            });
        };
        if to == own {
            return Err(TransferError::IsLeader { to });
        }
        if let Some(Transfer { to, .. }) = leader.transfer {
            return Err(TransferError::InProgress { to });
        }
        if !self.conf.is_voter(to) {
            return Err(TransferError::NotVoter { to });
        }
        let Some(target) = leader.peer(to) else {
            return Err(TransferError::NotVoter { to });
        };
        if self.now - target.active >= silent || target.pace != Pace::Replicate {
            return Err(TransferError::Lagging { to });
        }
        leader.transfer = Some(Transfer {
            to,
            deadline: self.now + silent,
            told: false,
        });
        leader.attempts += 1;
        leader.replicate = true;
        self.hand_over_when_caught_up();
        Ok(())
    }

    /// Tells the target to campaign, as soon as its log is complete.
    pub(crate) fn hand_over_when_caught_up(&mut self) {
        let last = self.log.last_index();
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        let transfer_attempt = leader.attempts;
        let Some(Transfer {
            to, told: false, ..
        }) = leader.transfer
        else {
            return;
        };
        if leader.peer(to).is_some_and(|target| target.matched == last) {
            if let Some(transfer) = &mut leader.transfer {
                transfer.told = true;
            }
            let order = Message {
                transfer_attempt,
                ..self.message(MessageKind::TimeoutNow, to)
            };
            self.send_now.push(order);
        }
    }

    pub(crate) fn give_up_transfer_when_due(&mut self) {
        let due = |transfer: Transfer, now: Mono| now >= transfer.deadline;
        if matches!(&self.state, State::Leader(leader) if leader.transfer.is_some_and(|t| due(t, self.now)))
        {
            self.give_up_transfer();
        }
    }

    /// The order to campaign may still be on its way. From now on every heartbeat declares it void,
    /// and only rounds that say so count for the lease.
    pub(crate) fn give_up_transfer(&mut self) {
        if let State::Leader(leader) = &mut self.state
            && leader.transfer.take().is_some()
        {
            if !self.log.plant.breaks(Planted::TransferNotVoided) {
                leader.voided = leader.attempts;
            }
            self.restart_lease();
        }
    }

    /// The leader told this replica to take over.
    pub(crate) fn on_timeout_now(&mut self, message: &Message) {
        let void =
            self.is_void(message.term + 1, message.transfer_attempt) || message.from != self.leader;
        if !void && self.may_campaign() && matches!(self.state, State::Follower) {
            self.become_candidate(message.transfer_attempt);
        }
    }

    pub(crate) fn on_transfer_request(&mut self, message: &Message) {
        // Refusals go unanswered: the asker sees that nothing happens.
        let _ = self.transfer_leader(self.now, message.from);
    }
}
