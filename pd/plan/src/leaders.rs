//! Moving leaders away.

use rand_xoshiro::rand_core::Rng;

use crate::operator::{Kind, Operator, Reason, Step};
use crate::view::{Cluster, Region};

/// Hands the leadership of `region` over if its leader is on a store that should have none, and
/// another voter can take it.
pub fn check_leader(cluster: &Cluster, region: &Region, rng: &mut impl Rng) -> Option<Operator> {
    let leader = region.leader?;
    let evicted = cluster.stores.get(&leader).is_some_and(|at| at.evicted);
    if !evicted || region.is_joint() {
        return None;
    }
    let store = cluster.next_leader(region, &[leader], rng)?;
    let steps = vec![Step::TransferLeader { store }];
    let reason = Reason::Evicted { store: leader };
    Some(region.operator(Kind::Leader, reason, steps))
}
