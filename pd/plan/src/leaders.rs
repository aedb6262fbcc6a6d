//! Moving leaders away.

use rand_xoshiro::rand_core::Rng;

use crate::operator::{Kind, Operator, Reason, Step};
use crate::view::{Cluster, Region};

/// Hands the leadership of `region` over if its leader is on a store that should have none, or where
/// rules do not want it, and another voter can take it.
pub fn check_leader(cluster: &Cluster, region: &Region, rng: &mut impl Rng) -> Option<Operator> {
    let leader = region.leader?;
    let at = cluster.stores.get(&leader)?;
    let wanted = cluster.rules_let_lead(region, at);
    if (wanted && !at.evicted) || region.is_joint() {
        return None;
    }
    let store = cluster.next_leader(region, &[leader], rng)?;
    if !at.evicted && !cluster.may_lead(region, store) {
        return None;
    }
    let steps = vec![Step::TransferLeader { store }];
    let reason = match at.evicted {
        true if at.slow > 0 => Reason::Slow {
            store: leader,
            score: at.slow,
        },
        true => Reason::Evicted { store: leader },
        false => Reason::LeaderRule { store: leader },
    };
    Some(region.operator(Kind::Leader, reason, steps))
}
