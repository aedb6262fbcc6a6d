//! Changing who is a member (paper section 6, thesis chapter 4): in one step for one voter, through a
//! joint configuration for more.
//!
//! A configuration counts from when its entry is applied. That is safe because there is never more
//! than one change that is not applied at the leader, no leader proposes one before it has applied
//! an entry of its own term, and nobody campaigns with a committed change unapplied: two
//! configurations in use are always neighbours, whose quorums meet.

use bytes::Bytes;
use flotilla_proto::clock::Mono;
use flotilla_proto::raft::{ConfChange, ConfState, EntryKind};
use prost::Message as _;

use crate::conf::{Conf, ConfError, ConfRequest};
use crate::error::ProposeError;
use crate::log_view::LogView;
use crate::planted::Planted;
use crate::progress::Progress;
use crate::raft::{LogId, Raft, State};

impl<L: LogView> Raft<L> {
    /// Proposes a change of the members. The entry is a [`ConfChange`] that names the whole
    /// configuration that results (contracts: C36), so that applying it needs no earlier state.
    ///
    /// # Errors
    /// Refused before anything was appended: definitely not applied.
    pub fn propose_conf_change(
        &mut self,
        now: Mono,
        request: ConfRequest,
    ) -> Result<LogId, ProposeError> {
        self.advance(now);
        let applied = self.log.applied();
        let leader = self.check_proposal()?;
        let again = self.log.plant.breaks(Planted::SecondConfChange);
        if leader.pending_conf > applied && !again {
            return Err(ProposeError::PendingConfChange {
                index: leader.pending_conf,
            });
        }
        let next = self.conf.change(&request)?;
        Ok(self.push_conf(&next, request.context))
    }

    fn push_conf(&mut self, next: &Conf, context: Bytes) -> LogId {
        let change = ConfChange {
            resulting: Some(next.to_state()),
            context,
        };
        let id = self.push(EntryKind::ConfChange, change.encode_to_vec().into());
        if let State::Leader(leader) = &mut self.state {
            leader.pending_conf = id.index;
        }
        id
    }

    /// The configuration that an applied entry of kind `CONF_CHANGE` names, or that a change applied
    /// from elsewhere says. To be called while applying it, before [`Raft::applied`] for its index.
    ///
    /// A leader that is no voter any more steps down. An entry that is applied after a snapshot was taken
    /// in and before its state is there is older than the snapshot's configuration, which stays.
    ///
    /// # Errors
    /// The configuration contradicts itself; nothing changed.
    pub fn apply_conf_change(&mut self, now: Mono, conf: &ConfState) -> Result<(), ConfError> {
        self.advance(now);
        let conf = Conf::parse(conf)?;
        if conf.is_unknown() {
            return Err(ConfError::NoVoters);
        }
        if self.log.installing() {
            return Ok(());
        }
        self.conf = conf;
        if !self.conf.is_voter(self.config.id) && !matches!(self.state, State::Follower) {
            self.become_follower(self.term, 0);
        }
        if !matches!(self.state, State::Leader(_)) {
            return Ok(());
        }
        self.adjust_peers();
        // A smaller quorum may have committed already.
        self.advance_commit();
        Ok(())
    }

    /// Keeps what is known of those that stay.
    fn adjust_peers(&mut self) {
        let (now, next) = (self.now, self.log.last_index() + 1);
        let State::Leader(leader) = &mut self.state else {
            return;
        };
        let mut before = std::mem::take(&mut leader.peers);
        for id in self.conf.members() {
            let known = before.iter().position(|peer| peer.id == id);
            leader.peers.push(match known {
                Some(position) => before.swap_remove(position),
                None => Progress::new(id, next, now),
            });
        }
        leader.replicate = true;
        if leader
            .transfer
            .is_some_and(|transfer| !self.conf.is_voter(transfer.to))
        {
            self.give_up_transfer();
        }
    }

    /// Leaves a joint configuration that is to be left by itself, once it is applied. Proposed like
    /// any other change, so it is proposed once.
    pub(crate) fn leave_joint_when_due(&mut self) {
        if !self.conf.leaves_by_itself() {
            return;
        }
        // Whatever refuses it now (a transfer, an unapplied entry) passes, and the next heartbeat or
        // applied entry tries again.
        let _ = self.propose_conf_change(self.now, ConfRequest::leave(Bytes::new()));
    }
}
