//! Configurations and the changes from one to the next (paper section 6, thesis chapter 4).

use bytes::Bytes;
use flotilla_proto::raft::ConfState;

use crate::config::MEMBERS_MAX;
use crate::quorum::{self, VoteOutcome};

/// What one change does to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// Makes the peer a voter: a new one, or a learner that is promoted.
    AddVoter(u64),
    /// Makes the peer a learner: a new one, or a voter that is demoted.
    AddLearner(u64),
    /// The peer leaves.
    Remove(u64),
}

impl MemberChange {
    /// The peer it speaks of.
    pub fn peer(self) -> u64 {
        match self {
            Self::AddVoter(peer) | Self::AddLearner(peer) | Self::Remove(peer) => peer,
        }
    }
}

/// How the group gets from one configuration to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transition {
    /// In one step where at most one voter comes or goes, else through a joint configuration that
    /// the leader leaves by itself.
    Auto,
    /// In one step; refused if more than one voter comes or goes.
    Simple,
    /// Through a joint configuration, left by the leader itself once it is applied (`auto_leave`)
    /// or by [`ConfRequest::leave`].
    Joint {
        /// The leader proposes to leave by itself.
        auto_leave: bool,
    },
}

/// A proposal to change who is a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfRequest {
    /// The changes, each peer at most once. None: leave the joint configuration.
    pub changes: Vec<MemberChange>,
    /// How to get there.
    pub transition: Transition,
    /// What the layer above wants back when the entry is applied.
    pub context: Bytes,
}

impl ConfRequest {
    /// Leaves a joint configuration.
    pub fn leave(context: Bytes) -> Self {
        Self {
            changes: Vec::new(),
            transition: Transition::Auto,
            context,
        }
    }
}

/// Why a change was refused. The caller's to mend; nothing was proposed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfError {
    /// A joint configuration allows nothing but leaving it.
    #[error("the configuration is joint; leave it before the next change")]
    Joint,
    /// Asked to leave a configuration that is not joint.
    #[error("the configuration is not joint, there is nothing to leave")]
    NotJoint,
    /// Asked to change more than one voter in one step.
    #[error("{voters} voters would change in one step; at most one may")]
    NotSimple {
        /// Voters that come or go.
        voters: usize,
    },
    /// No voter would be left.
    #[error("the change would leave no voter")]
    NoVoters,
    /// Peer ids start at 1.
    #[error("peer id 0 is not a peer")]
    ZeroId,
    /// A peer stands in the wrong place, twice, or in two of them.
    #[error("peer {peer} is named twice or in contradicting roles")]
    Duplicate {
        /// The peer.
        peer: u64,
    },
    /// More members than [`MEMBERS_MAX`].
    #[error("{members} members; at most {MEMBERS_MAX} are allowed")]
    TooMany {
        /// How many there would be.
        members: usize,
    },
    /// Nothing would change.
    #[error("the change has no effect")]
    NoEffect,
}

/// Who is in the group.
///
/// Invariant: all lists are sorted and without duplicates; no learner is a voter of either half;
/// `learners_next` are voters of the outgoing half only; there are at most [`MEMBERS_MAX`] members.
/// No voters: the replica does not know its group yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Conf {
    voters: Vec<u64>,
    outgoing: Vec<u64>,
    learners: Vec<u64>,
    learners_next: Vec<u64>,
    auto_leave: bool,
}

impl Conf {
    /// Reads a configuration from outside.
    pub(crate) fn parse(state: &ConfState) -> Result<Self, ConfError> {
        let conf = Self {
            voters: sorted(&state.voters)?,
            outgoing: sorted(&state.voters_outgoing)?,
            learners: sorted(&state.learners)?,
            learners_next: sorted(&state.learners_next)?,
            auto_leave: state.auto_leave,
        };
        conf.check()?;
        Ok(conf)
    }

    fn check(&self) -> Result<(), ConfError> {
        let nobody = self.voters.is_empty();
        if nobody
            && !(self.outgoing.is_empty()
                && self.learners.is_empty()
                && self.learners_next.is_empty())
        {
            return Err(ConfError::NoVoters);
        }
        if let Some(peer) = self.learners.iter().find(|peer| self.is_voter(**peer)) {
            return Err(ConfError::Duplicate { peer: *peer });
        }
        let misplaced = |peer: &&u64| self.voters.contains(peer) || !self.outgoing.contains(peer);
        if let Some(peer) = self.learners_next.iter().find(misplaced) {
            return Err(ConfError::Duplicate { peer: *peer });
        }
        let members = self.members().count();
        if members > MEMBERS_MAX {
            return Err(ConfError::TooMany { members });
        }
        Ok(())
    }

    pub(crate) fn to_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.clone(),
            voters_outgoing: self.outgoing.clone(),
            learners: self.learners.clone(),
            learners_next: self.learners_next.clone(),
            auto_leave: self.auto_leave,
        }
    }

    /// A voter of either half.
    pub(crate) fn is_voter(&self, peer: u64) -> bool {
        self.voters.contains(&peer) || self.outgoing.contains(&peer)
    }

    pub(crate) fn contains(&self, peer: u64) -> bool {
        self.is_voter(peer) || self.learners.contains(&peer)
    }

    /// Every member once, ascending within voters, outgoing voters, learners.
    pub(crate) fn members(&self) -> impl Iterator<Item = u64> {
        let outgoing = self
            .outgoing
            .iter()
            .filter(|peer| !self.voters.contains(peer));
        self.voters
            .iter()
            .chain(outgoing)
            .chain(&self.learners)
            .copied()
    }

    /// Every voter of either half once.
    pub(crate) fn voters(&self) -> impl Iterator<Item = u64> {
        let outgoing = self
            .outgoing
            .iter()
            .filter(|peer| !self.voters.contains(peer));
        self.voters.iter().chain(outgoing).copied()
    }

    pub(crate) fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    pub(crate) fn leaves_by_itself(&self) -> bool {
        self.is_joint() && self.auto_leave
    }

    /// The replica does not know its group yet.
    pub(crate) fn is_unknown(&self) -> bool {
        self.voters.is_empty()
    }

    /// `peer` alone is a quorum.
    pub(crate) fn is_single_voter(&self, peer: u64) -> bool {
        self.voters == [peer] && (self.outgoing.is_empty() || self.outgoing == [peer])
    }

    /// The highest value a quorum has reached.
    pub(crate) fn reached(&self, value: impl Fn(u64) -> u64) -> u64 {
        quorum::joint_reached(&self.voters, &self.outgoing, value)
    }

    pub(crate) fn vote(&self, answer: impl Fn(u64) -> Option<bool>) -> VoteOutcome {
        quorum::joint_vote(&self.voters, &self.outgoing, answer)
    }

    /// For planted bugs: a configuration that forgets half of a joint one.
    pub(crate) fn incoming(&self) -> Self {
        Self {
            voters: self.voters.clone(),
            ..Self::default()
        }
    }

    /// For planted bugs: a configuration in which everybody votes.
    pub(crate) fn all_voting(&self) -> Self {
        let mut voters: Vec<u64> = self.members().collect();
        voters.sort_unstable();
        Self {
            voters,
            ..Self::default()
        }
    }

    /// The configuration that `request` leads to: the next step, not always the last one.
    pub(crate) fn change(&self, request: &ConfRequest) -> Result<Self, ConfError> {
        if request.changes.is_empty() {
            return self.leave();
        }
        if self.is_joint() {
            return Err(ConfError::Joint);
        }
        let next = self.with(&request.changes)?;
        let voters = next
            .voters
            .iter()
            .filter(|peer| !self.voters.contains(peer))
            .count()
            + self
                .voters
                .iter()
                .filter(|peer| !next.voters.contains(peer))
                .count();
        let joint = match request.transition {
            Transition::Simple if voters > 1 => return Err(ConfError::NotSimple { voters }),
            Transition::Simple => None,
            Transition::Auto => (voters > 1).then_some(true),
            Transition::Joint { auto_leave } => Some(auto_leave),
        };
        let next = match joint {
            None => next,
            Some(auto_leave) => self.enter_joint(next, auto_leave),
        };
        next.check()?;
        if next == *self {
            Err(ConfError::NoEffect)
        } else {
            Ok(next)
        }
    }

    /// The members once all changes are through.
    fn with(&self, changes: &[MemberChange]) -> Result<Self, ConfError> {
        let mut next = self.clone();
        for (position, change) in changes.iter().enumerate() {
            let peer = change.peer();
            if peer == 0 {
                return Err(ConfError::ZeroId);
            }
            if changes[..position]
                .iter()
                .any(|earlier| earlier.peer() == peer)
            {
                return Err(ConfError::Duplicate { peer });
            }
            next.voters.retain(|voter| *voter != peer);
            next.learners.retain(|learner| *learner != peer);
            match change {
                MemberChange::AddVoter(_) => insert(&mut next.voters, peer),
                MemberChange::AddLearner(_) => insert(&mut next.learners, peer),
                MemberChange::Remove(_) => {}
            }
        }
        if next.voters.is_empty() {
            Err(ConfError::NoVoters)
        } else {
            Ok(next)
        }
    }

    /// Both halves at once. A voter that becomes a learner stays a voter of the outgoing half until
    /// the joint configuration is left, so it cannot be a learner yet.
    fn enter_joint(&self, mut next: Self, auto_leave: bool) -> Self {
        next.outgoing.clone_from(&self.voters);
        let (later, learners) = next
            .learners
            .iter()
            .partition(|peer| next.outgoing.contains(peer));
        (next.learners_next, next.learners) = (later, learners);
        next.auto_leave = auto_leave;
        next
    }

    fn leave(&self) -> Result<Self, ConfError> {
        if !self.is_joint() {
            return Err(ConfError::NotJoint);
        }
        let mut next = Self {
            voters: self.voters.clone(),
            learners: self.learners.clone(),
            ..Self::default()
        };
        for peer in &self.learners_next {
            insert(&mut next.learners, *peer);
        }
        Ok(next)
    }
}

fn insert(sorted: &mut Vec<u64>, peer: u64) {
    if let Err(position) = sorted.binary_search(&peer) {
        sorted.insert(position, peer);
    }
}

fn sorted(peers: &[u64]) -> Result<Vec<u64>, ConfError> {
    let mut list = peers.to_vec();
    list.sort_unstable();
    if list.first() == Some(&0) {
        return Err(ConfError::ZeroId);
    }
    match list.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ConfError::Duplicate { peer: pair[0] }),
        None => Ok(list),
    }
}
