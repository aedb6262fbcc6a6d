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

#[cfg(test)]
mod tests {
    use rand_xoshiro::SplitMix64;
    use rand_xoshiro::rand_core::{Rng, SeedableRng};

    use super::*;

    const SIMPLE: Transition = Transition::Simple;
    const AUTO: Transition = Transition::Auto;
    const BY_HAND: Transition = Transition::Joint { auto_leave: false };

    /// `1,2|2,3 l4 n3 auto`: voters, outgoing voters, learners, learners to be, auto-leave.
    fn show(conf: &Conf) -> String {
        let list = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        let mut text = list(&conf.voters);
        for (mark, ids) in [
            ("|", &conf.outgoing),
            (" l", &conf.learners),
            (" n", &conf.learners_next),
        ] {
            if !ids.is_empty() {
                text += mark;
                text += &list(ids);
            }
        }
        if conf.auto_leave {
            text + " auto"
        } else {
            text
        }
    }

    fn conf(voters: &[u64], learners: &[u64]) -> Conf {
        let state = ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            ..ConfState::default()
        };
        Conf::parse(&state).expect("a sound configuration")
    }

    #[track_caller]
    fn check(
        from: &Conf,
        transition: Transition,
        changes: &[MemberChange],
        expected: Result<&str, ConfError>,
    ) -> Conf {
        let request = ConfRequest {
            changes: changes.to_vec(),
            transition,
            context: Bytes::new(),
        };
        let next = from.change(&request);
        assert_eq!(
            next.clone().map(|next| show(&next)),
            expected.map(str::to_owned)
        );
        next.unwrap_or_else(|_| from.clone())
    }

    #[test]
    fn changes_lead_where_they_say() {
        use MemberChange::{AddLearner, AddVoter, Remove};
        let three = conf(&[1, 2, 3], &[4]);
        check(&three, SIMPLE, &[AddVoter(4)], Ok("1,2,3,4"));
        check(&three, SIMPLE, &[Remove(3)], Ok("1,2 l4"));
        check(&three, SIMPLE, &[AddLearner(3)], Ok("1,2 l3,4"));
        check(
            &three,
            SIMPLE,
            &[AddLearner(5), AddLearner(6), Remove(4)],
            Ok("1,2,3 l5,6"),
        );
        check(
            &three,
            SIMPLE,
            &[AddVoter(4), Remove(1)],
            Err(ConfError::NotSimple { voters: 2 }),
        );
        check(&three, AUTO, &[AddVoter(4)], Ok("1,2,3,4"));
        check(
            &three,
            AUTO,
            &[AddVoter(4), Remove(1)],
            Ok("2,3,4|1,2,3 auto"),
        );
        check(&three, BY_HAND, &[AddVoter(4)], Ok("1,2,3,4|1,2,3"));
        let joint = check(
            &three,
            BY_HAND,
            &[AddLearner(3), AddVoter(5)],
            Ok("1,2,5|1,2,3 l4 n3"),
        );
        check(&joint, SIMPLE, &[AddVoter(6)], Err(ConfError::Joint));
        check(&joint, AUTO, &[], Ok("1,2,5 l3,4"));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        use MemberChange::{AddLearner, AddVoter, Remove};
        let three = conf(&[1, 2, 3], &[4]);
        check(&three, AUTO, &[], Err(ConfError::NotJoint));
        check(&three, AUTO, &[AddVoter(1)], Err(ConfError::NoEffect));
        check(&three, AUTO, &[Remove(9)], Err(ConfError::NoEffect));
        check(&three, AUTO, &[AddVoter(0)], Err(ConfError::ZeroId));
        check(
            &three,
            AUTO,
            &[AddVoter(5), Remove(5)],
            Err(ConfError::Duplicate { peer: 5 }),
        );
        check(
            &three,
            AUTO,
            &[Remove(1), Remove(2), AddLearner(3)],
            Err(ConfError::NoVoters),
        );
        let crowd: Vec<MemberChange> = (5..=MEMBERS_MAX as u64 + 1).map(AddLearner).collect();
        check(
            &three,
            AUTO,
            &crowd,
            Err(ConfError::TooMany {
                members: MEMBERS_MAX + 1,
            }),
        );
    }

    #[test]
    fn a_state_from_outside_is_checked() {
        let state = |voters: &[u64], outgoing: &[u64], learners: &[u64], next: &[u64]| ConfState {
            voters: voters.to_vec(),
            voters_outgoing: outgoing.to_vec(),
            learners: learners.to_vec(),
            learners_next: next.to_vec(),
            auto_leave: false,
        };
        let error = |state| Conf::parse(&state).expect_err("it must be refused");
        assert_eq!(error(state(&[0], &[], &[], &[])), ConfError::ZeroId);
        assert_eq!(
            error(state(&[1, 1], &[], &[], &[])),
            ConfError::Duplicate { peer: 1 }
        );
        assert_eq!(
            error(state(&[1], &[], &[1], &[])),
            ConfError::Duplicate { peer: 1 }
        );
        assert_eq!(
            error(state(&[1], &[2], &[2], &[])),
            ConfError::Duplicate { peer: 2 }
        );
        assert_eq!(
            error(state(&[1], &[1, 2], &[], &[1])),
            ConfError::Duplicate { peer: 1 }
        );
        assert_eq!(error(state(&[], &[1], &[], &[])), ConfError::NoVoters);
        let joint =
            Conf::parse(&state(&[2, 1], &[3, 1], &[4], &[3])).expect("a sound configuration");
        assert_eq!(show(&joint), "1,2|1,3 l4 n3");
        assert_eq!(Conf::parse(&joint.to_state()), Ok(joint));
    }

    /// Thesis 4.1 and paper section 6: whatever is asked for, the next configuration's quorums meet
    /// those of this one.
    #[test]
    fn every_step_keeps_the_quorums_meeting() {
        let mut rng = SplitMix64::seed_from_u64(7);
        let mut now = conf(&[1, 2, 3], &[]);
        let mut steps = 0;
        for _ in 0..20_000 {
            let changes = (0..rng.next_u64() % 4).map(|_| {
                let peer = 1 + rng.next_u64() % 7;
                match rng.next_u64() % 3 {
                    0 => MemberChange::AddVoter(peer),
                    1 => MemberChange::AddLearner(peer),
                    _ => MemberChange::Remove(peer),
                }
            });
            let changes: Vec<MemberChange> = changes.collect();
            let transition = [AUTO, SIMPLE, BY_HAND, AUTO][(rng.next_u64() % 4) as usize];
            let Ok(next) = now.change(&ConfRequest {
                changes,
                transition,
                context: Bytes::new(),
            }) else {
                continue;
            };
            for set in 0..1u64 << 7 {
                let within = |id: u64| (set >> (id - 1) & 1 == 1).then_some(true);
                let without = |id: u64| (set >> (id - 1) & 1 == 0).then_some(true);
                let both =
                    now.vote(within) == VoteOutcome::Won && next.vote(without) == VoteOutcome::Won;
                assert!(
                    !both,
                    "{} and {} have quorums that do not meet",
                    show(&now),
                    show(&next)
                );
            }
            now = next;
            steps += 1;
        }
        assert!(steps > 1000, "only {steps} changes were taken");
    }
}
