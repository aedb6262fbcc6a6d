//! Spreading the regions of a group, such as those of a table that is about to be filled.

use std::collections::BTreeMap;

use flotilla_proto::metapb::PeerRole;

use crate::balance::Wanted;
use crate::moves::moves;
use crate::operator::{Kind, Operator, Reason, Step};
use crate::view::{Cluster, Health, Region};

/// How many peers and leaders of a group each store has got so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    peers: BTreeMap<u64, u64>,
    leaders: BTreeMap<u64, u64>,
}

impl Group {
    fn peers(&self, store: u64) -> u64 {
        self.peers.get(&store).copied().unwrap_or(0)
    }

    fn leaders(&self, store: u64) -> u64 {
        self.leaders.get(&store).copied().unwrap_or(0)
    }
}

/// Moves the peers of `region` to stores that have fewer of `group`, and lets the store lead that leads
/// the fewest of it; `group` knows of it afterwards. `None`: it is fine where it is, or cannot be moved
/// now.
pub fn scatter(cluster: &Cluster, region: &Region, group: &mut Group) -> Option<Operator> {
    region.leader?;
    let fine = |peer| cluster.health(region, peer) == Health::Fine;
    let plain = |peer: &&flotilla_proto::metapb::Peer| peer.role() == PeerRole::Voter;
    if region.meta
        || region.fixed
        || !Wanted::new(cluster).is_right(region)
        || !region.peers.iter().all(fine)
        || !region.peers.iter().all(|peer| plain(&peer))
    {
        return None;
    }
    let mut stores: Vec<u64> = region.peers.iter().map(|peer| peer.store_id).collect();
    let mut pairs = Vec::new();
    for nth in 0..stores.len() {
        let from = stores[nth];
        let order = |to: &u64| (group.peers(*to), cluster.stores[to].regions, *to);
        let fit = cluster.stores.keys().copied().filter(|to| {
            group.peers(*to) < group.peers(from)
                && !stores.contains(to)
                && cluster.may_move(region, from, *to)
        });
        if let Some(to) = fit.min_by_key(order) {
            pairs.push((from, to));
            stores[nth] = to;
            // Each move was judged with the others where they were.
            if !cluster.are_apart(region, &pairs) {
                pairs.pop();
                stores[nth] = from;
            }
        }
    }
    let (mut steps, leader) = moves(cluster, region, pairs);
    let may_lead = |store: &&u64| cluster.may_lead(region, **store);
    let order = |store: &&u64| {
        let stays = leader == Some(**store);
        (group.leaders(**store), !stays, **store)
    };
    let leads = stores.iter().filter(may_lead).min_by_key(order).copied();
    if let Some(store) = leads.filter(|store| leader != Some(*store)) {
        steps.push(Step::TransferLeader { store });
    }
    for store in &stores {
        *group.peers.entry(*store).or_default() += 1;
    }
    if let Some(store) = leads.or(leader) {
        *group.leaders.entry(store).or_default() += 1;
    }
    let group_peers = group.peers.values().sum();
    let reason = Reason::Scatter { group_peers };
    (!steps.is_empty()).then(|| region.operator(Kind::Admin, reason, steps))
}
