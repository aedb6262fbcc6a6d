//! What a change of the members makes of a region, derived apart from the stores (contracts: C21).

use std::collections::BTreeMap;

use flotilla_proto::metapb::{Peer, PeerRole, Region, RegionEpoch};
use flotilla_proto::raft::{ConfChange, ConfState, Entry};
use prost::Message;

/// The region after the entry; `None`: it does not say.
pub(super) fn after(before: &Region, entry: &Entry) -> Option<Region> {
    let change = ConfChange::decode(entry.data.clone()).ok()?;
    let roles = roles(&change.resulting?);
    let offered = Region::decode(change.context).ok()?.peers;
    let had: BTreeMap<u64, PeerRole> = before
        .peers
        .iter()
        .map(|peer| (peer.id, peer.role()))
        .collect();
    // Who stays keeps its place; who is new comes behind, in the order of the request.
    let new = offered.iter().filter(|peer| !had.contains_key(&peer.id));
    let peers: Vec<Peer> = before
        .peers
        .iter()
        .chain(new)
        .filter_map(|peer| {
            let role = i32::from(*roles.get(&peer.id)?);
            Some(Peer { role, ..*peer })
        })
        .collect();
    let has: BTreeMap<u64, PeerRole> = peers.iter().map(|peer| (peer.id, peer.role())).collect();
    if has != roles {
        return None;
    }
    let gone = had.keys().filter(|id| !has.contains_key(id)).count();
    let moved = has
        .iter()
        .filter(|(id, role)| had.get(id) != Some(role))
        .count();
    let epoch = before.region_epoch?;
    let conf_ver = epoch.conf_ver + (gone + moved).max(1) as u64;
    Some(Region {
        peers,
        region_epoch: Some(RegionEpoch { conf_ver, ..epoch }),
        ..before.clone()
    })
}

/// The configuration that a region's peers stand for.
pub fn conf_of(region: &Region) -> ConfState {
    let is = |roles: &[PeerRole]| -> Vec<u64> {
        let of = region
            .peers
            .iter()
            .filter(|peer| roles.contains(&peer.role()));
        of.map(|peer| peer.id).collect()
    };
    use PeerRole::{DemotingVoter, IncomingVoter, Learner, Voter};
    let joint = !is(&[IncomingVoter, DemotingVoter]).is_empty();
    ConfState {
        voters: is(&[Voter, IncomingVoter]),
        voters_outgoing: match joint {
            true => is(&[Voter, DemotingVoter]),
            false => Vec::new(),
        },
        learners: is(&[Learner]),
        learners_next: is(&[DemotingVoter]),
        auto_leave: joint,
    }
}

/// Each member's role.
fn roles(conf: &ConfState) -> BTreeMap<u64, PeerRole> {
    let joint = !conf.voters_outgoing.is_empty();
    let mut roles: BTreeMap<u64, PeerRole> = conf
        .learners
        .iter()
        .map(|id| (*id, PeerRole::Learner))
        .collect();
    for id in &conf.voters_outgoing {
        roles.insert(*id, PeerRole::DemotingVoter);
    }
    for id in &conf.voters {
        let stays = !joint || conf.voters_outgoing.contains(id);
        let role = match stays {
            true => PeerRole::Voter,
            false => PeerRole::IncomingVoter,
        };
        roles.insert(*id, role);
    }
    roles
}
