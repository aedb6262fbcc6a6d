//! What became of the peers of a store: two looks, and what a person would tell of the difference.

use std::collections::BTreeMap;

use flotilla_proto::metapb::Region;
use flotilla_raft::Role;

use super::show;
use super::store::Process;

/// What is told of a peer.
#[derive(Clone, Debug)]
struct Seen {
    peer: u64,
    blank: bool,
    role: Role,
    leader: Option<u64>,
    term: u64,
    region: Region,
}

/// The peers of a store at one moment, by region.
#[derive(Clone, Debug, Default)]
pub(super) struct Look(BTreeMap<u64, Seen>);

impl Look {
    pub(super) fn at(process: &Process) -> Self {
        let look = |region| {
            process.look(region, |peer| {
                let raft = peer.raft();
                Seen {
                    peer: raft.id(),
                    blank: peer.is_blank(),
                    role: raft.role(),
                    leader: raft.leader(),
                    term: raft.term(),
                    region: peer.region().clone(),
                }
            })
        };
        let regions = process.regions().into_iter();
        let seen = regions.filter_map(|region| Some((region, look(region)?)));
        Self(seen.collect())
    }

    /// What happened between `before` and this look.
    pub(super) fn since(&self, before: &Self) -> Vec<String> {
        let mut told = Vec::new();
        for (region, was) in &before.0 {
            if self.0.get(region).is_none_or(|is| is.peer != was.peer) {
                told.push(format!("peer {} of region {region} is gone", was.peer));
            }
        }
        for (region, is) in &self.0 {
            let was = before.0.get(region).filter(|was| was.peer == is.peer);
            match was {
                Some(was) if was.blank && !is.blank => {
                    told.push(born(*region, is));
                    told.extend(changed(*region, is, is));
                }
                Some(was) => told.extend(changed(*region, was, is)),
                None => {
                    told.push(born(*region, is));
                    let unknown = Seen {
                        role: Role::Follower,
                        leader: None,
                        ..is.clone()
                    };
                    told.extend(changed(*region, &unknown, is));
                }
            }
        }
        told
    }
}

fn born(region: u64, is: &Seen) -> String {
    if is.blank {
        return format!("peer {} of region {region} comes to be, blank", is.peer);
    }
    format!(
        "peer {} of region {region} is there: {}",
        is.peer,
        show::region(&is.region)
    )
}

fn changed(region: u64, was: &Seen, is: &Seen) -> Vec<String> {
    let mut told = Vec::new();
    if was.region != is.region {
        let now = show::region(&is.region);
        told.push(format!("region {region} becomes {now}"));
    }
    let Seen { peer, term, .. } = is;
    let news = (was.role, was.leader, was.term) != (is.role, is.leader, is.term);
    if was.role == Role::Leader && is.role != Role::Leader {
        told.push(format!(
            "peer {peer} steps down in region {region}, term {term}"
        ));
    }
    if !news {
        return told;
    }
    match (is.role, is.leader) {
        (Role::Leader, _) => told.push(format!("peer {peer} leads region {region} in term {term}")),
        (Role::Candidate, _) => {
            told.push(format!(
                "peer {peer} campaigns for region {region} in term {term}"
            ));
        }
        (Role::PreCandidate, _) => {
            told.push(format!(
                "peer {peer} asks around in region {region}, term {term}"
            ));
        }
        (Role::Follower, Some(leader)) => {
            told.push(format!(
                "region {region} follows peer {leader} in term {term}"
            ));
        }
        (Role::Follower, None) => {}
    }
    told
}
