//! Who counts, and what a majority is: derived apart from the stores and from raft.

use flotilla_proto::metapb::Region;
use flotilla_proto::raft::ConfState;

use super::members::conf_of;

/// More than half of the voters say yes, in each half of a joint configuration. Nobody decides for a
/// configuration without voters.
pub fn majority(conf: &ConfState, yes: impl Fn(u64) -> bool) -> bool {
    let more_than_half = |voters: &[u64]| {
        let agree = voters.iter().filter(|voter| yes(**voter)).count();
        agree * 2 > voters.len()
    };
    let joint = !conf.voters_outgoing.is_empty();
    more_than_half(&conf.voters) && (!joint || more_than_half(&conf.voters_outgoing))
}

/// The configuration is the one that the region's peers and roles stand for.
pub(super) fn stands_for(conf: &ConfState, region: &Region) -> bool {
    let lists = |conf: ConfState| {
        let mut lists = [
            conf.voters,
            conf.voters_outgoing,
            conf.learners,
            conf.learners_next,
        ];
        lists.iter_mut().for_each(|list| list.sort_unstable());
        lists
    };
    lists(conf.clone()) == lists(conf_of(region))
}

#[cfg(test)]
mod tests {
    use flotilla_proto::metapb::{Peer, PeerRole};

    use super::*;

    #[test]
    fn a_majority_is_more_than_half_of_each_half() {
        let check = |voters: &[u64], outgoing: &[u64], yes: &[u64], wins: bool| {
            let conf = ConfState {
                voters: voters.to_vec(),
                voters_outgoing: outgoing.to_vec(),
                ..ConfState::default()
            };
            let won = majority(&conf, |id| yes.contains(&id));
            assert_eq!(won, wins, "{voters:?} {outgoing:?}: {yes:?}");
        };
        check(&[], &[], &[], false);
        check(&[1], &[], &[1], true);
        check(&[1, 2], &[], &[1], false);
        check(&[1, 2, 3], &[], &[1, 3], true);
        check(&[1, 2, 3], &[], &[1, 4], false);
        check(&[1, 2, 3, 4], &[], &[1, 2], false);
        check(&[1, 2, 3], &[4, 5, 6], &[1, 2, 4], false);
        check(&[1, 2, 3], &[4, 5, 6], &[1, 2, 4, 5], true);
    }

    #[test]
    fn roles_stand_for_one_configuration() {
        let region = |roles: &[PeerRole]| Region {
            peers: (1..)
                .zip(roles)
                .map(|(id, role)| Peer {
                    id,
                    role: (*role).into(),
                    ..Peer::default()
                })
                .collect(),
            ..Region::default()
        };
        let conf = |voters: &[u64], outgoing: &[u64], learners: &[u64], next: &[u64]| ConfState {
            voters: voters.to_vec(),
            voters_outgoing: outgoing.to_vec(),
            learners: learners.to_vec(),
            learners_next: next.to_vec(),
            ..ConfState::default()
        };
        use PeerRole::{DemotingVoter, IncomingVoter, Learner, Voter};
        let simple = region(&[Voter, Voter, Learner]);
        assert!(stands_for(&conf(&[2, 1], &[], &[3], &[]), &simple));
        assert!(!stands_for(&conf(&[1, 2, 4], &[], &[3], &[]), &simple));
        assert!(!stands_for(&conf(&[1], &[], &[2, 3], &[]), &simple));
        assert!(!stands_for(&conf(&[1, 2], &[1, 2], &[3], &[]), &simple));
        let joint = region(&[Voter, IncomingVoter, DemotingVoter]);
        assert!(stands_for(&conf(&[1, 2], &[1, 3], &[], &[3]), &joint));
        assert!(!stands_for(&conf(&[1, 2], &[], &[], &[3]), &joint));
        assert!(!stands_for(&conf(&[1, 2], &[1, 3], &[], &[]), &joint));
    }
}
