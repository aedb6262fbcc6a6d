//! Several peers of a region move, one after the other.

use crate::operator::Step;
use crate::view::{Cluster, Health, Region};

/// The voter of each pair's first store makes place for one on its second; `to_lead` says which store
/// leads in the end, if the leader has to go. Never more than one peer is missing its successor.
pub(crate) fn moves(
    cluster: &Cluster,
    region: &Region,
    mut pairs: Vec<(u64, u64)>,
) -> (Vec<Step>, Option<u64>) {
    let mut leader = region.leader;
    // The leader goes last: by then the others are where they stay.
    pairs.sort_by_key(|(from, _)| leader == Some(*from));
    let goes = |store: u64| pairs.iter().any(|(from, _)| *from == store);
    let heir = |store: &u64| {
        let peer = region.on(*store);
        let fine = peer.is_some_and(|peer| cluster.health(region, peer) == Health::Fine);
        fine && !goes(*store) && cluster.may_lead(region, *store)
    };
    let stores = region.peers.iter().map(|peer| peer.store_id);
    let mut heirs: Vec<u64> = stores.filter(heir).collect();
    let mut steps = Vec::new();
    for (from, to) in pairs.iter().copied() {
        steps.push(Step::AddLearner { store: to });
        let next = heirs.first().copied();
        match next {
            None if leader == Some(from) => {
                steps.push(Step::PromoteLearner { store: to });
                steps.push(Step::TransferLeader { store: to });
                leader = Some(to);
            }
            next => {
                if let Some(store) = next.filter(|_| leader == Some(from)) {
                    steps.push(Step::TransferLeader { store });
                    leader = Some(store);
                }
                steps.extend(Step::joint(vec![to], vec![from]));
            }
        }
        steps.push(Step::RemovePeer { store: from });
        if cluster.may_lead(region, to) {
            heirs.push(to);
        }
    }
    (steps, leader)
}
