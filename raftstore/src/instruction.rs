//! What PD wants of a region, as its peer is told.

use bytes::Bytes;
use flotilla_proto::eraftpb::ConfChangeType;
use flotilla_proto::metapb::{Region, RegionEpoch};
use flotilla_proto::pdpb::{ChangePeer, RegionHeartbeatResponse};

use crate::Delegates;
use crate::effects::PeerChange;

/// What an instruction of PD asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Instruction {
    /// Regions are to start at these keys.
    Split {
        /// As PD has them: no boundaries yet (contracts: C38).
        keys: Vec<Bytes>,
    },
    /// Another peer is to lead.
    Transfer {
        /// Which.
        to: u64,
    },
    /// Other members; no changes leave a joint configuration.
    Members {
        /// The epoch that PD saw.
        epoch: RegionEpoch,
        /// What is to change.
        changes: Vec<PeerChange>,
    },
    /// The region is to become a part of its neighbour.
    Merge {
        /// The epoch that PD saw.
        epoch: RegionEpoch,
        /// The neighbour, as PD saw it.
        target: Box<Region>,
    },
}

impl Instruction {
    /// What `asked` wants of its region, if it wants anything now: `delegates` are those of the store
    /// that leads it.
    pub fn read(asked: &RegionHeartbeatResponse, delegates: &Delegates) -> Option<Self> {
        if let Some(split) = &asked.split_region {
            let keys = split.keys.clone();
            return Some(Self::Split { keys });
        }
        if let Some(to) = asked.transfer_leader.as_ref().and_then(|to| to.peer) {
            // As for changes of members, the region must be the one that PD saw (contracts: C21).
            let serving = delegates.serving(asked.region_id).ok()?;
            let same = serving.region.region_epoch == asked.region_epoch;
            return same.then_some(Self::Transfer { to: to.id });
        }
        if let Some(target) = asked.merge.as_ref().and_then(|merge| merge.target.clone()) {
            return Some(Self::Merge {
                epoch: asked.region_epoch.unwrap_or_default(),
                target: Box::new(target),
            });
        }
        Some(Self::Members {
            epoch: asked.region_epoch.unwrap_or_default(),
            changes: member_changes(asked)?,
        })
    }
}

/// The changes of members that PD wants, if it wants any.
fn member_changes(asked: &RegionHeartbeatResponse) -> Option<Vec<PeerChange>> {
    let changes = match (&asked.change_peer, &asked.change_peer_v2) {
        (Some(one), _) => std::slice::from_ref(one),
        (None, Some(several)) => &several.changes[..],
        (None, None) => return None,
    };
    let change = |asked: &ChangePeer| {
        let peer = asked.peer?;
        Some(match asked.change_type() {
            ConfChangeType::AddNode => PeerChange::Voter(peer),
            ConfChangeType::AddLearnerNode => PeerChange::Learner(peer),
            ConfChangeType::RemoveNode => PeerChange::Remove { peer: peer.id },
        })
    };
    changes.iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use flotilla_proto::metapb::Peer;
    use flotilla_proto::pdpb::ChangePeerV2;

    use super::*;

    #[test]
    fn what_pd_wants_of_the_members_is_what_the_peer_is_told() {
        let peer = |id: u64| Peer {
            id,
            store_id: 10 + id,
            ..Peer::default()
        };
        let change = |kind: ConfChangeType, id: u64| ChangePeer {
            peer: Some(peer(id)),
            change_type: kind as i32,
        };
        let one = |change_peer| RegionHeartbeatResponse {
            change_peer: Some(change_peer),
            ..RegionHeartbeatResponse::default()
        };
        let several = |changes| RegionHeartbeatResponse {
            change_peer_v2: Some(ChangePeerV2 { changes }),
            ..RegionHeartbeatResponse::default()
        };
        #[track_caller]
        fn check(asked: RegionHeartbeatResponse, expected: Option<Vec<PeerChange>>) {
            assert_eq!(member_changes(&asked), expected);
        }
        use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
        let voter = || PeerChange::Voter(peer(1));
        let learner = || PeerChange::Learner(peer(2));
        check(one(change(AddNode, 1)), Some(vec![voter()]));
        check(one(change(AddLearnerNode, 2)), Some(vec![learner()]));
        let gone = PeerChange::Remove { peer: 3 };
        check(one(change(RemoveNode, 3)), Some(vec![gone]));
        let both = vec![change(AddNode, 1), change(AddLearnerNode, 2)];
        check(several(both), Some(vec![voter(), learner()]));
        check(several(Vec::new()), Some(Vec::new()));
        check(one(ChangePeer::default()), None);
        check(RegionHeartbeatResponse::default(), None);
    }
}
