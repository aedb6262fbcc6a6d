//! Applying a change of members.

use flotilla_engine::StateOp;
use flotilla_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};
use flotilla_proto::raft::{ConfChange, ConfState, Entry};
use flotilla_proto::store::ApplyRecord;
use prost::Message;

use super::Apply;
use crate::EntryError;
use crate::effects::{ApplyEffects, ApplyReport, RegionChange};
use crate::region::epoch;

impl Apply {
    pub(super) fn apply_members(
        &mut self,
        entry: &Entry,
        report: &mut ApplyReport,
        effects: &mut ApplyEffects,
    ) -> Result<(), EntryError> {
        let corrupt = |error: prost::DecodeError| EntryError::Corrupt(error.to_string());
        let change = ConfChange::decode(entry.data.clone()).map_err(corrupt)?;
        let added = Region::decode(change.context).map_err(corrupt)?.peers;
        let resulting = change.resulting.unwrap_or_default();
        self.region = with_members(&self.region, &added, &resulting);
        effects.batch.admin = true;
        report.changes.push(RegionChange::Members {
            index: entry.index,
            region: self.region.clone(),
        });
        let own = self.highest_peer_id;
        if self.region.peers.iter().any(|peer| peer.id == own) {
            effects.batch.ops.push(StateOp::PutRegion {
                record: self.record(),
            });
        } else {
            let known = ApplyRecord {
                index: entry.index,
                term: entry.term,
            };
            self.end(known, report, effects);
        }
        Ok(())
    }
}

/// The region with the members of `resulting`; `added` holds the peers it did not have. The epoch's
/// `conf_ver` grows by the number of peers that changed, at least by one (contracts: C21).
fn with_members(region: &Region, added: &[Peer], resulting: &ConfState) -> Region {
    let role = |id: u64| {
        let joint = !resulting.voters_outgoing.is_empty();
        let incoming = resulting.voters.contains(&id);
        let outgoing = resulting.voters_outgoing.contains(&id);
        match (incoming, outgoing) {
            (true, true) => Some(PeerRole::Voter),
            (true, false) if joint => Some(PeerRole::IncomingVoter),
            (true, false) => Some(PeerRole::Voter),
            (false, true) => Some(PeerRole::DemotingVoter),
            (false, false) => resulting
                .learners
                .contains(&id)
                .then_some(PeerRole::Learner),
        }
    };
    let known = |id: u64| region.peers.iter().any(|peer| peer.id == id);
    let mut changed = 0;
    let mut peers = Vec::new();
    for peer in region
        .peers
        .iter()
        .chain(added.iter().filter(|peer| !known(peer.id)))
    {
        let after = role(peer.id);
        if !known(peer.id) || after != Some(peer.role()) {
            changed += 1;
        }
        if let Some(role) = after {
            peers.push(Peer {
                role: role.into(),
                ..*peer
            });
        }
    }
    let before = epoch(region);
    let conf_ver = before.conf_ver + changed.max(1);
    Region {
        peers,
        region_epoch: Some(RegionEpoch { conf_ver, ..before }),
        ..region.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Peers as `id:role`, and by how much `conf_ver` grew.
    #[track_caller]
    fn check(before: &[(u64, PeerRole)], added: &[u64], conf: ConfState, expected: &str) {
        let peer = |id: u64, role: PeerRole| Peer {
            id,
            store_id: id,
            role: role.into(),
            is_witness: false,
        };
        let region = Region {
            peers: before.iter().map(|(id, role)| peer(*id, *role)).collect(),
            region_epoch: Some(RegionEpoch {
                conf_ver: 1,
                version: 1,
            }),
            ..Region::default()
        };
        let added: Vec<_> = added.iter().map(|id| peer(*id, PeerRole::Voter)).collect();
        let after = with_members(&region, &added, &conf);
        let peers = after
            .peers
            .iter()
            .map(|peer| format!("{}:{:?}", peer.id, peer.role()));
        let grew = epoch(&after).conf_ver - 1;
        assert_eq!(
            format!("{} +{grew}", peers.collect::<Vec<_>>().join(" ")),
            expected
        );
    }

    #[test]
    fn roles_follow_the_configuration() {
        use PeerRole::{DemotingVoter, IncomingVoter, Learner, Voter};
        let simple = |voters: &[u64], learners: &[u64]| ConfState {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
            ..ConfState::default()
        };
        let joint = ConfState {
            voters: vec![1, 3],
            voters_outgoing: vec![1, 2],
            learners_next: vec![2],
            ..ConfState::default()
        };
        check(
            &[(1, Voter)],
            &[2],
            simple(&[1], &[2]),
            "1:Voter 2:Learner +1",
        );
        check(
            &[(1, Voter), (2, Learner)],
            &[],
            simple(&[1, 2], &[]),
            "1:Voter 2:Voter +1",
        );
        check(
            &[(1, Voter), (2, Voter)],
            &[],
            simple(&[1], &[]),
            "1:Voter +1",
        );
        check(
            &[(1, Voter), (2, Voter), (3, Learner)],
            &[],
            joint,
            "1:Voter 2:DemotingVoter 3:IncomingVoter +2",
        );
        check(
            &[(1, Voter), (2, DemotingVoter), (3, IncomingVoter)],
            &[],
            simple(&[1, 3], &[2]),
            "1:Voter 2:Learner 3:Voter +2",
        );
    }
}
